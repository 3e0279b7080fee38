"""The published dataset: kept images only, the whole record with them, held-out objects never, and a card."""

import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import webdataset
from generated_sets import image_scores, random_set, score_record
from stage_runs import context, run_stage, write_input

from configs.load import load_recipe
from data.ids import split_of
from data.images import decode_png
from data.published import PublishedRecord
from data.reader import ShardReader, decode_set
from data.records import AssetRecord
from data.release.marking import TRAINED_ALGORITHMIC_MEDIA, source_type, unmarked
from data.shards import ShardError, read_all
from tasks import select, shard

NAMES = ("bowl", "cup", "dish", "jug", "mug", "pan", "pot", "urn", "vase")


def asset(name, split, licence="CC0-1.0"):
    return AssetRecord(
        object_id=name,
        split=split,
        category=f"{len(name)} letters",
        caption="a red mug",
        licence=licence,
        source="miniature",
        uri=f"miniature:{name}",
        source_sha256="1" * 64,
        source_format="glb",
        outcome="generated",
        mesh_sha256="0" * 64,
        attributes={"title": "Cup_01 (final)", "author": "A. Potter", "page": "https://example.org/cup"}
        if name == "cup"
        else {},
    )


def scores(set_id, quality):
    pairs = [[1.0 if i == j else 0.8 for j in range(3)] for i in range(3)]
    return score_record(set_id, [image_scores(value) for value in quality], pairs, licence=licence_of(set_id[:-3]))


def licence_of(name):
    return "CC-BY-4.0" if name == "cup" else "CC0-1.0"


WRITTEN = (*("DATASET_CARD.md", "card.json", "ATTRIBUTION.md", "attribution.csv", "images.parquet", "croissant.json"),)
RELEASE = "shard.release={version: 1.2.0, date: 2026-11-26, creator: Example Lab, limitations: [Only vessels.]}"
QUALITY = {"cup": (7, 5, 8), "jug": (5, 5, 8), "vase": (7, 7, 5)}


def build(workspace, *overrides, mesh="0" * 64, split=None, held_out=None, asset_licences=None):
    allowed = "assets.licences=[CC0-1.0, CC-BY-4.0]"
    recipe = load_recipe("miniature", ("shard.shard_size=2", "select.min_quality=6", allowed, *overrides))
    section = recipe.assets
    splits = {name: split or split_of(name, section.eval_share, section.split_seed) for name in NAMES}
    licences = {name: licence_of(name) for name in NAMES} | (asset_licences or {})
    assets = [(name, asset(name, splits[name], licences[name]), {"glb": b""}) for name in NAMES]
    sets = [
        random_set(name, seed, size=16, split=splits[name], mesh_sha256=mesh, licence=licence_of(name))
        for seed, name in enumerate(NAMES)
    ]
    write_input(workspace, "assets", assets, recipe)
    path = workspace / "artifacts" / "assets" / "index.json"
    if held_out is None:
        held_out = sorted(name for name in NAMES if splits[name] == "eval")
    path.write_text(json.dumps({**json.loads(path.read_text()), "summary": {"held_out_objects": held_out}}))
    write_input(workspace, "generate", sets, recipe)
    write_input(
        workspace, "score", [(key, scores(key, QUALITY.get(key[:-3], (7, 7, 7))), {}) for key, _, _ in sets], recipe
    )
    path = workspace / "artifacts" / "score" / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "summary": {"models": {"clip": "tiny-clip@1", "identity": "tiny-dino@2"}}}))
    run_stage(select, context("select", recipe, workspace, ("score",)))
    ctx = context("shard", recipe, workspace, ("assets", "generate", "score", "select"))
    return ctx, {key: files for key, _, files in sets}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    ctx, files = build(tmp_path_factory.mktemp("workspace"), RELEASE)
    return ctx.output_dir("shard"), run_stage(shard, ctx), files


def test_kept_images_only_with_their_pixels_and_masks(dataset):
    folder, index, generated = dataset
    published = {sample.key: sample for sample in read_all(folder, index)}
    assert "jug-s0" not in published
    cup = published["cup-s0"]
    assert sorted(cup.files) == ["0.mask.png", "0.png", "2.mask.png", "2.png"]
    made = generated["cup-s0"]
    for name, data in cup.files.items():
        assert np.array_equal(decode_png(data), decode_png(made[name]))
        assert unmarked(data) == made[name], "but for the mark, the file that was generated"
        assert (data == made[name]) == name.endswith("mask.png")
    record = PublishedRecord.model_validate(cup.record)
    assert [image.index for image in record.samples] == [0, 2]
    assert [(image.index, image.reasons[0].code) for image in record.dropped] == [(1, "low_quality")]


def test_held_out_objects_are_not_published(dataset):
    folder, index, _ = dataset
    section = load_recipe("miniature").assets
    held_out = {name for name in NAMES if split_of(name, section.eval_share, section.split_seed) == "eval"}
    assert held_out
    assert not held_out & {sample.record["object_id"] for sample in read_all(folder, index)}
    assert index.keys == sorted(f"{name}-s0" for name in NAMES if name not in held_out | {"jug"})


def test_the_record_says_where_everything_came_from(dataset):
    folder, index, _ = dataset
    record = next(s.record for s in read_all(folder, index) if s.key == "cup-s0")
    assert record["asset"] == {
        "source": "miniature",
        "uri": "miniature:cup",
        "licence": "CC-BY-4.0",
        "source_sha256": "1" * 64,
        "mesh_sha256": "0" * 64,
        "title": "Cup_01 (final)",
        "author": "A. Potter",
        "page": "https://example.org/cup",
    }
    assert record["model"] == "tiny-flux@1234" and record["settings"] == {"steps": 2}
    assert record["samples"][1]["seed"] == 2 and record["samples"][1]["prompt"] == "a red mug next to a blue ball"
    assert record["samples"][1]["scores"]["quality"] == 8 and record["dropped"][0]["scores"]["quality"] == 5
    assert record["thresholds"]["min_quality"] == 6.0 and record["identity_pairs"][0][1] == 0.8


def test_the_training_reader_takes_it(dataset):
    folder, index, _ = dataset
    sets = [decode_set(sample) for sample in ShardReader(folder, seed=0)]
    assert sorted(item.set_id for item in sets) == index.keys
    cup = next(item for item in sets if item.object_id == "cup")
    assert [image.sample_id for image in cup.images] == ["cup-s0-0", "cup-s0-2"]
    assert cup.images[0].image.shape == (16, 16, 3) and cup.images[0].mask.any()


def test_plain_webdataset_reads_and_decodes_it(dataset):
    folder, index, _ = dataset
    urls = [str(folder / entry.name) for entry in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == index.keys
    for sample in samples:
        assert [entry["index"] for entry in sample["json"]["samples"]] == sorted(
            int(name[0]) for name in sample if re.fullmatch(r"\d\.png", name)
        )
        first = sample["json"]["samples"][0]["index"]
        assert sample[f"{first}.png"].size == sample[f"{first}.mask.png"].size == (16, 16)


def test_the_snippet_of_the_card_runs(dataset, monkeypatch):
    folder, index, _ = dataset
    snippet = re.search(r"```python\n(.*?)```", (folder / "DATASET_CARD.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(snippet, {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == index.summary["images"]
    assert lines[0].startswith(index.keys[0]) and "(16, 16) (16, 16)" in lines[0]


def test_the_croissant_snippet_of_the_card_runs_without_a_warning(dataset):
    """In a process of its own: the snippet sets the cache of mlcroissant, which is read when that is imported."""
    folder, index, _ = dataset
    snippet = re.findall(r"```python\n(.*?)```", (folder / "DATASET_CARD.md").read_text(), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", snippet], cwd=folder, capture_output=True, text=True, check=True)
    assert "warning" not in done.stderr.lower() and "error" not in done.stderr.lower(), done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == index.summary["images"]
    assert "cup-s0 a red mug next to a blue ball (16, 16)" in lines


def test_mlcroissant_reads_the_images_masks_and_records_of_the_shards(dataset, tmp_path, monkeypatch):
    import mlcroissant
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path))
    folder, index, generated = dataset
    described = mlcroissant.Dataset(folder / "croissant.json")
    assert not described.metadata.ctx.issues.errors and not described.metadata.ctx.issues.warnings
    samples = {sample.key: sample for sample in read_all(folder, index)}
    records = {row["sets/set_id"].decode(): json.loads(row["sets/record"]) for row in described.records("sets")}
    assert records == {key: sample.record for key, sample in samples.items()}
    rows = {row["images/file"].decode(): row for row in described.records("images")}
    masks = {row["masks/file"].decode(): row["masks/content"] for row in described.records("masks")}
    assert len(rows) == len(masks) == index.summary["images"]
    for key, sample in samples.items():
        for image in sample.record["samples"]:
            row = rows[f"{key}.{image['index']}.png"]
            made = generated[key]
            assert np.array_equal(np.asarray(row["images/content"]), decode_png(made[f"{image['index']}.png"]))
            mask = masks[row["images/mask"].decode()]
            assert np.array_equal(np.asarray(mask), decode_png(made[f"{image['index']}.mask.png"]))
            assert (row["images/prompt"].decode(), row["images/seed"]) == (image["prompt"], image["seed"])
            assert row["images/asset_licence"].decode() == sample.record["asset"]["licence"]
            assert (
                row["images/image_sha256"].decode() == hashlib.sha256(sample.files[f"{image['index']}.png"]).hexdigest()
            )


def test_croissant_states_version_licence_and_what_the_recipe_says(dataset):
    folder, index, _ = dataset
    told = json.loads((folder / "croissant.json").read_text())
    assert told["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert told["version"] == f"1.2.0+{index.signature[:16]}" and told["datePublished"] == "2026-11-26"
    assert told["license"] == ["https://creativecommons.org/licenses/by/4.0/"]
    assert told["creator"]["name"] == "Example Lab" and "url" not in told, "nobody said where it will be"
    assert "Only vessels." in told["rai:dataLimitations"] and "miniature" in told["description"]
    files = {item["@id"]: item for item in told["distribution"] if item["@type"] == "cr:FileObject"}
    assert {entry.name: entry.sha256 for entry in index.shards}.items() <= {
        name: item["sha256"] for name, item in files.items()
    }.items()
    used = [item["prov:label"] for item in told["prov:wasGeneratedBy"]["prov:used"]]
    assert "generator: tiny-flux@1234" in used and "identity: tiny-dino@2" in used


def test_images_say_that_they_are_synthetic_and_one_that_does_not_stops_publication(dataset, tmp_path, monkeypatch):
    folder, index, _ = dataset
    for sample in read_all(folder, index):
        for name, data in sample.files.items():
            assert source_type(data) == (None if name.endswith("mask.png") else TRAINED_ALGORITHMIC_MEDIA)
    ctx, _ = build(tmp_path)
    monkeypatch.setattr(shard, "mark_png", lambda data: data)
    with pytest.raises(ShardError, match=r"000000\.tar: .*\.png states the digital source type None"):
        run_stage(shard, ctx)


def test_an_asset_record_whose_licence_is_not_allowed_stops_publication(tmp_path):
    """Selection kept the set: somebody changed the asset's record after it."""
    ctx, _ = build(tmp_path, asset_licences={"urn": "CC-BY-NC-4.0"})
    allowed = "CC-BY-4.0, CC0-1.0"
    with pytest.raises(
        ValueError, match=rf"set urn-s0: asset urn is under CC-BY-NC-4.0, which .* hold: {allowed}; run"
    ):
        run_stage(shard, ctx)


def test_an_asset_that_changed_its_licence_since_generation_stops_publication(tmp_path):
    ctx, _ = build(tmp_path, asset_licences={"cup": "CC0-1.0"})
    with pytest.raises(
        ValueError, match=r"cup is under CC0-1\.0, and the set was generated when it was under CC-BY-4\.0"
    ):
        run_stage(shard, ctx)


def test_a_narrower_list_of_selection_leaves_the_sets_out(tmp_path):
    ctx, _ = build(tmp_path, "select.licences=[CC0-1.0]")
    index = run_stage(shard, ctx)
    assert "cup-s0" not in index.keys
    text = (ctx.output_dir("shard") / "DATASET_CARD.md").read_text()
    assert "sets dropped for their licence: CC-BY-4.0: 1." in " ".join(text.split()) and "**CC0-1.0**" in text
    assert (ctx.output_dir("shard") / "ATTRIBUTION.md").read_text().endswith("asks for credit.\n")


def test_the_credits_name_the_author_of_an_asset_that_asks_for_it(dataset):
    text = (dataset[0] / "ATTRIBUTION.md").read_text()
    assert '"Cup\\_01 \\(final\\)" by A. Potter, <https://example.org/cup>, CC-BY-4.0.' in text
    assert [line.split(",")[0] for line in (dataset[0] / "attribution.csv").read_text().splitlines()] == [
        "object_id",
        "cup",
    ]


def test_the_card_counts_what_is_in_the_shards(dataset):
    folder, index, _ = dataset
    card = json.loads((folder / "card.json").read_text())
    records = [PublishedRecord.model_validate(sample.record) for sample in read_all(folder, index)]
    images = sum(len(record.samples) for record in records)
    assert (card["objects"], card["sets"], card["images"]) == (len(records), len(records), images)
    assert card["licences"] == {"CC-BY-4.0": 1, "CC0-1.0": len(records) - 1}
    assert card["images_per_set"] == {"2": sum(len(r.samples) == 2 for r in records), "3": images - 2 * len(records)}
    assert card["thresholds"]["min_identity"] == 0.7
    assert card["generators"] == {"tiny-flux@1234": len(records)}
    assert card["scorers"] == {"clip": "tiny-clip@1", "identity": "tiny-dino@2"}
    # The yield is over all that was generated: 9 sets, of which jug is dropped.
    assert card["set_yield"] == round(8 / 9, 4) and card["dropped_images"] == {"low_quality": 4, "set_too_small": 1}
    assert index.summary["images"] == images


def test_the_card_names_licences_models_thresholds_and_the_miniature(dataset):
    text = (dataset[0] / "DATASET_CARD.md").read_text()
    for expected in (
        "made by the miniature",
        "| CC-BY-4.0 | 1 |",
        "| tiny-flux@1234 |",
        "| identity | tiny-dino@2 |",
        "| min_quality | 6.0 |",
        "recipe | miniature, seed 0",
        "Apache-2.0",
        "**CC-BY-4.0** (https://creativecommons.org/licenses/by/4.0/)",
        "| credit or a notice required | yes | assets under CC-BY-4.0 (1) |",
        "low_quality: 4",
        "license: cc-by-4.0",
        "1.2.0, 2026-11-26",
        "| creator | Example Lab |",
        "| contact | not stated |",
        "- Only vessels.",
        "All images are synthetic",
    ):
        assert expected in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_the_same_input_gives_the_same_bytes(dataset, tmp_path):
    ctx, _ = build(tmp_path, RELEASE)
    again = run_stage(shard, ctx)
    assert [entry.sha256 for entry in again.shards] == [entry.sha256 for entry in dataset[1].shards]
    for name in WRITTEN:
        assert (ctx.output_dir("shard") / name).read_bytes() == (dataset[0] / name).read_bytes()


def test_nothing_kept_is_an_error_that_names_the_thresholds(tmp_path):
    ctx, _ = build(tmp_path, "select.min_quality=9")
    with pytest.raises(ValueError, match=r"none of 9 sets was kept.*'low_quality': 27.*lower select\.min_quality"):
        shard.plan(ctx)


def test_a_mesh_that_is_not_the_one_rendered_is_refused(tmp_path):
    ctx, _ = build(tmp_path, mesh="2" * 64)
    with pytest.raises(ValueError, match="made from mesh 2222"):
        run_stage(shard, ctx)


def test_a_held_out_record_is_refused_even_if_the_recipe_calls_it_training(tmp_path):
    ctx, _ = build(tmp_path, split="eval", held_out=[])
    with pytest.raises(ValueError, match="is of the eval split"):
        run_stage(shard, ctx)


def test_a_choice_of_sets_is_seeded_and_nested(tmp_path):
    chosen = {}
    for count in (2, 3, 0):
        ctx, _ = build(tmp_path / str(count), f"shard.sets={count}")
        chosen[count] = {key for spec in shard.plan(ctx) for key in spec.keys}
    assert chosen[2] < chosen[3] < chosen[0] and [len(own) for own in chosen.values()][:2] == [2, 3]
    ctx, _ = build(tmp_path / "other", "shard.sets=2", "seed=5")
    assert {key for spec in shard.plan(ctx) for key in spec.keys} != chosen[2]


def test_sets_can_be_of_the_largest_categories(tmp_path):
    def planned(name, *overrides):
        return {key for spec in shard.plan(build(tmp_path / name, *overrides)[0]) for key in spec.keys}

    everything = planned("all")
    of_three_letters = {key for key in everything if len(key[:-3]) == 3}
    assert len(everything) - len(of_three_letters) < len(of_three_letters) < len(everything)
    assert planned("largest", "shard.categories=1") == of_three_letters
    assert planned("both", "shard.categories=2") == everything
    assert planned("one", "shard.categories=1", "shard.sets=1") < of_three_letters


@pytest.mark.parametrize("key", ["sets", "categories"])
def test_a_choice_that_is_not_there_is_an_error(tmp_path, key):
    ctx, _ = build(tmp_path, f"shard.{key}=50")
    with pytest.raises(ValueError, match=rf"shard.{key} is 50; there are \d+ {key} among the \d+ kept; ask for fewer"):
        shard.plan(ctx)
