"""From a checkpoint or an image down to everything behind it, against plain loops over tars and ledger."""

import io
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import audit_answers as known
import pytest
from forged_stages import change_table
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data.audit.parts import AuditError, parts_of, store_folder
from data.audit.query import Store
from data.shards import load_index, sha256_file
from flows.audit.answers import print_trace
from flows.audit.signed import tell_signatures
from flows.audit.store import open_store
from flows.audit.trace import trace
from tasks.auditing.chain import ChainError
from tasks.auditing.pictures import METADATA_KEY
from tasks.sample import METADATA_KEY as WRITTEN_BY_SAMPLE
from tasks.sample import save_png


@pytest.fixture(scope="module")
def store(finished: Path) -> Store:
    return open_store(finished)


@pytest.fixture(scope="module")
def checkpoint(finished: Path) -> str:
    return sha256_file(finished / "artifacts" / "train" / "pytorch_lora_weights.safetensors")


def test_a_checkpoint_is_traced_to_every_image_with_its_uses(finished: Path, store: Store, checkpoint: str) -> None:
    told = trace(store, str(finished / "artifacts" / "train"), everything=True)
    used, published = known.uses(finished), known.records(finished, "shard")
    assert told["checkpoint"]["checkpoint_sha256"] == checkpoint
    assert told["uses"]["as_target"] == used.target.total() and told["uses"]["as_reference"] == used.reference.total()
    assert told["uses"]["pairs"] == used.pairs.total() > 0
    images = {image["sample_id"]: (key, image) for key, own in published.items() for image in own["samples"]}
    assert [row["sample_id"] for row in told["samples"]] == sorted(images)
    assert any(row["as_target"] + row["as_reference"] == 0 for row in told["samples"])
    for row in told["samples"]:
        key, image = images[row["sample_id"]]
        steps = used.steps.get(row["sample_id"], [None])
        assert (row["set_id"], row["prompt"], row["seed"]) == (key, image["prompt"], image["seed"])
        assert row["as_target"] == used.target[row["sample_id"]]
        assert row["as_reference"] == used.reference[row["sample_id"]]
        assert (row["first_step"], row["last_step"]) == (steps[0], steps[-1])


def test_totals_licences_and_models_are_those_of_the_records(finished: Path, store: Store, checkpoint: str) -> None:
    told = trace(store, checkpoint[:12])
    published, assets = known.records(finished, "shard"), known.records(finished, "assets")
    assert told["dataset"]["sets"] == len(published)
    assert told["dataset"]["samples"] == sum(len(own["samples"]) for own in published.values())
    assert told["dataset"]["shards"] == len(load_index(finished / "artifacts" / "shard").shards)
    licences = Counter(own["asset"]["licence"] for own in published.values())
    assert {row["licence"]: row["sets"] for row in told["licences"]} == licences
    assert {row["role"] for row in told["models"]} == {"generator", "clip", "quality", "identity"}
    (model,) = {own["model"] for own in published.values()}
    (generator,) = (row for row in told["models"] if row["role"] == "generator")
    assert f"{generator['name']}@{generator['revision']}" == model
    images = [image for own in known.records(finished, "select").values() for image in own["images"]]
    reasons = Counter(image["reasons"][0]["code"] for image in images if not image["kept"])
    assert reasons
    assert {
        row["reason"]: row["count"] for row in told["fates"] if row["fate"] == "dropped" and row["what"] == "image"
    } == reasons
    usable = next(row["count"] for row in told["fates"] if row["what"] == "object")
    assert usable == len(assets)


def test_the_chain_names_every_stage_and_holds(finished: Path, store: Store, checkpoint: str) -> None:
    told = trace(store, checkpoint)
    assert told["chain_problems"] == []
    folder = finished / "artifacts" / "provenance"
    assert {row["stage"]: row["statement"] for row in told["chain"]} == {
        path.name.partition(".")[0]: sha256_file(path) for path in folder.glob("*.intoto.json")
    }
    assert told["recipe"]["select"]["configs/recipe.yaml"]["select"]["min_quality"] == 5.0
    assert told["sources"]["dataset"]["artifacts/shard/index.json"] == told["dataset"]["dataset_sha256"]
    assert told["environments"][0]["packages"]["torch"]


def test_an_image_of_the_dataset_is_known_by_its_bytes_and_when_it_was_saved_anew(
    finished: Path, store: Store, tmp_path: Path
) -> None:
    name, data = next(iter(known.pictures(finished).items()))
    for made, by in ((data, "file"), (saved_anew(data), "pixels")):
        (tmp_path / "found.png").write_bytes(made)
        told = trace(store, str(tmp_path / "found.png"))
        (entry,) = told["found"]
        assert told["matched_by"] == by
        assert entry["samples"][0]["sample_id"] == name
        record = known.records(finished, "shard")[entry["set"]["set_id"]]
        assert entry["asset"]["mesh_sha256"] == record["asset"]["mesh_sha256"]
        assert entry["checkpoints"][0]["as_target"] == known.uses(finished).target[name]


def saved_anew(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def test_a_changed_image_is_of_no_dataset(finished: Path, store: Store, tmp_path: Path) -> None:
    image = Image.open(io.BytesIO(next(iter(known.pictures(finished).values()))))
    image.putpixel((3, 3), tuple((value + 1) % 256 for value in image.getpixel((3, 3))))
    image.save(tmp_path / "changed.png")
    with pytest.raises(AuditError, match="neither its bytes nor its pixels"):
        trace(store, str(tmp_path / "changed.png"))


def made_from(checkpoint: str) -> dict[str, Any]:
    """As `syncd sample` says it."""
    told = {"checkpoint_sha256": checkpoint, "checkpoint_step": 3, "base_model": "miniature-flux@1", "prompt": "a mug"}
    return {**told, "seed": 1, "references_sha256": ["0" * 64], "dtype": "float32"}


def test_a_picture_of_syncd_sample_leads_to_its_checkpoint(
    finished: Path, store: Store, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert METADATA_KEY == WRITTEN_BY_SAMPLE
    picture = Image.new("RGB", (8, 8))
    save_png(picture, made_from(checkpoint), tmp_path / "a.png")
    told = trace(store, str(tmp_path / "a.png"))
    assert told["made"]["prompt"] == "a mug" and told["behind"]["checkpoint"]["checkpoint_sha256"] == checkpoint
    tell_signatures(told, finished)
    print_trace(told)
    assert "a.png: says that it was made by syncd sample; not checked" in capsys.readouterr().out
    save_png(picture, made_from("0" * 64), tmp_path / "b.png")
    with pytest.raises(AuditError, match="says that it was made with checkpoint 0000"):
        trace(store, str(tmp_path / "b.png"))


def test_a_published_image_is_that_whatever_it_says_of_itself(
    finished: Path, store: Store, checkpoint: str, tmp_path: Path
) -> None:
    name, data = next(iter(known.pictures(finished).items()))
    save_png(Image.open(io.BytesIO(saved_anew(data))), made_from(checkpoint), tmp_path / "claims.png")
    told = trace(store, str(tmp_path / "claims.png"))
    assert "made" not in told and told["matched_by"] == "pixels"
    assert told["found"][0]["samples"][0]["sample_id"] == name


@pytest.mark.parametrize(
    "changed",
    [
        *({"checkpoint_sha256": wrong} for wrong in (5, ["a"], "", "PREFIX", None)),
        *({"prompt": 5}, {"prompt": None}, {"seed": "1"}, {"seed": True}, {"references_sha256": "x"}),
    ],
)
def test_a_picture_that_says_what_sample_does_not_say_is_an_error(
    store: Store, checkpoint: str, tmp_path: Path, changed: dict[str, Any]
) -> None:
    told = {**made_from(checkpoint), **changed}
    (field,) = changed
    if told[field] is None:
        del told[field]
    elif told[field] == "PREFIX":
        told[field] = checkpoint[:12]
    save_png(Image.new("RGB", (8, 8)), told, tmp_path / "odd.png")
    with pytest.raises(AuditError, match=rf"odd\.png: its syncd metadata are not those of syncd sample \({field}: "):
        trace(store, str(tmp_path / "odd.png"))


@pytest.mark.parametrize("text", ["[" * 100_000, '"checkpoint_sha256"', "[]", "{", "5"])
def test_a_picture_whose_text_is_no_record_is_an_error(store: Store, tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_text(METADATA_KEY, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "odd.png", pnginfo=info)
    with pytest.raises(AuditError, match=r"odd\.png: its syncd metadata "):
        trace(store, str(tmp_path / "odd.png"))


@pytest.mark.parametrize(("mode", "kind"), [("F", "TIFF"), ("CMYK", "JPEG"), ("P", "PNG"), ("LA", "PNG"), ("1", "PNG")])
def test_a_picture_of_another_kind_is_an_error(store: Store, tmp_path: Path, mode: str, kind: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "odd.png", format=kind)
    with pytest.raises(AuditError, match=r"odd\.png: "):
        trace(store, str(tmp_path / "odd.png"))


def test_a_store_with_a_statement_that_is_none_is_an_error(workspace: Path, checkpoint: str) -> None:
    (part,) = parts_of(store_folder(workspace), "checkpoints")
    for body in ("{}", "[" * 100_000):
        change_table(part, "training_statements", "body", lambda values, body=body: [body, *values[1:]])
        with pytest.raises(ChainError, match="the statement of assets is none"):
            trace(open_store(workspace), checkpoint)


def test_a_set_and_a_sample_are_traced_also_if_they_were_dropped(finished: Path, store: Store) -> None:
    decided = known.records(finished, "select")
    dropped = next(key for key, own in decided.items() if not own["kept"])
    (entry,) = trace(store, dropped)["found"]
    assert (entry["set"]["fate"], entry["set"]["reason"]) == ("dropped", decided[dropped]["reasons"][0]["code"])
    assert entry["samples"] == [] and len(entry["decisions"]) == 3
    kept = next(key for key, own in decided.items() if own["kept"])
    (entry,) = trace(store, f"{kept}-0")["found"]
    assert [row["sample_id"] for row in entry["decisions"]] == [f"{kept}-0"]
    held_out = load_index(finished / "artifacts" / "render").summary["held_out_sets"][0]
    assert trace(store, held_out)["found"][0]["set"]["fate"] == "held out"


def test_a_copied_weights_file_is_known_and_a_changed_one_is_not(finished: Path, store: Store, tmp_path: Path) -> None:
    file = Path(shutil.copy(finished / "artifacts" / "train" / "pytorch_lora_weights.safetensors", tmp_path))
    assert trace(store, str(file))["kind"] == "checkpoint"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(AuditError, match="is no checkpoint that was published here; its header claims dataset"):
        trace(store, str(file))


@pytest.mark.parametrize("target", ["nothing", "deadbeefdeadbeef", "x.safetensors", "x.png"])
def test_what_nobody_knows_is_an_error(store: Store, target: str) -> None:
    with pytest.raises(AuditError):
        trace(store, target)
