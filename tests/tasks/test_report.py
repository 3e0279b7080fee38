"""The report: what is on the page, that nothing on it can be markup, and that equal inputs give equal bytes."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_artifacts
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from report_artifacts import DROPPED, OBJECTS, recipe_of, report_context, write_run

from data.images import encode_png
from data.records import DecisionRecord, ImageDecision
from data.shards import ShardError
from data.signing import keyid_of, sign_statement
from flows.graph import load_graph, tracked_recipe
from tasks import report
from tasks.reporting import charts, evaluation, pictures, pipeline, sets, statements


class Page(HTMLParser):
    """Tags, texts by the section they are in, and every picture of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.images, self.texts, self.links = [], [], [], {}, []
        self.section = "header"
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "section":
            self.section = attributes["id"]
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        if tag in ("td", "th", "div", "figcaption"):
            self.handle_data(" ")

    def handle_data(self, data):
        self.texts[self.section] = self.texts.get(self.section, "") + data


def build(tmp_path, recipe=None, inputs=report_artifacts.ALL, **run):
    recipe = recipe or recipe_of()
    workspace = tmp_path / "run"
    workspace.mkdir()
    write_run(workspace, recipe, **run)
    return report_context(workspace, recipe, inputs)


def written(ctx, out_dir):
    out_dir.mkdir(exist_ok=True)
    summary = report.finalize(ctx, None, out_dir)
    return Page((out_dir / report.PAGE).read_text(encoding="utf-8")), summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return build(tmp_path_factory.mktemp("finished"), failed={"prompts": [("teapot", "too_long", "61 words")]})


def test_page_has_every_section_and_its_links_lead_somewhere(finished, tmp_path):
    page, summary = written(finished, tmp_path)
    assert [anchor for anchor, _ in report.CONTENTS] == [key for key in page.texts if key != "header"]
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert summary == {"sets_shown": len(OBJECTS), "failed_keys": 1, "broken_links": 0}


def test_page_needs_no_more_of_the_recipe_than_dvc_tracks_for_it(finished, tmp_path):
    graph = load_graph(Path(__file__).resolve().parents[2])
    recipe = tracked_recipe(graph, "report", finished.recipe)
    written(report_context(finished.workspace, recipe, graph.node("report").inputs), tmp_path / "tracked")
    written(finished, tmp_path / "whole")
    assert (tmp_path / "tracked" / report.PAGE).read_bytes() == (tmp_path / "whole" / report.PAGE).read_bytes()


def test_the_coverage_of_the_prompts_is_shown(finished, tmp_path):
    said = " ".join(written(finished, tmp_path)[0].texts["prompts"].split())
    assert f"scene {len(OBJECTS)} {len(OBJECTS)} 1 - 1.0 - 1" in said
    assert f"0 of {len(OBJECTS)} captions stand for more than one object" in said


def test_every_set_is_shown_with_its_pictures_and_its_verdict(finished, tmp_path):
    page, _ = written(finished, tmp_path)
    said = page.texts["sets"]
    assert f"Kept: {len(OBJECTS) - len(DROPPED)} of {len(OBJECTS) - len(DROPPED)}" in said
    assert f"Dropped: {len(DROPPED)} of {len(DROPPED)}" in said
    assert {f"set-{name}-s0" for name in OBJECTS} <= set(page.ids)
    shown = [image for image in page.images if image["alt"].endswith("of cup-s0")]
    assert [image["alt"].partition(",")[0] for image in shown] == [
        "depth condition",
        "object mask",
        "generated image",
    ] * 3
    stored = report_artifacts.generated_set("cup", 16, "")[2]["1.png"]
    assert base64.b64decode(shown[5]["src"].partition("base64,")[2]) == stored
    assert said.count("low quality: 4.5, threshold 6") == len(DROPPED)
    assert said.count("set too small: 1, threshold 2") == 2 * len(DROPPED)


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</section>{{ 7*7 }}"]
)
def test_text_from_outside_is_never_markup(tmp_path, attack):
    ctx = build(
        tmp_path,
        objects=("cup", "mug"),
        dropped=(),
        prompt="a {name} " + attack.replace("{", "{{").replace("}", "}}"),
        failed={"render": [("kettle", "corrupt", attack)]},
        rejected=[{"id": "pot", "reason": "licence_unknown", "detail": attack, "uri": attack}],
    )
    page, _ = written(ctx, tmp_path / "out")
    assert "script" not in page.tags
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert page.texts["sets"].count(attack) == 6
    assert page.texts["evaluation"].count(attack) == 2
    assert page.texts["failures"].count(attack) == 2


def test_page_names_nothing_outside_itself(finished, tmp_path):
    written(finished, tmp_path)
    text = (tmp_path / report.PAGE).read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert re.findall(r"url\(|@import|<script|<iframe", text) == []


def test_equal_runs_in_different_places_give_equal_bytes(finished, tmp_path):
    again = build(tmp_path, failed={"prompts": [("teapot", "too_long", "61 words")]})
    for name, ctx in (("one", finished), ("two", again)):
        written(ctx, tmp_path / name)
    for file in (report.PAGE, report.SHEET):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_pipeline_table_counts_and_names_failures(finished, tmp_path):
    page, _ = written(finished, tmp_path)
    rows = page.texts["pipeline"]
    for stage in finished.inputs:
        assert stage in rows
    assert "failed: too long 1" in rows
    assert rows.count("3 min 20 s") == len(finished.inputs)
    assert "61 words" in page.texts["failures"]
    assert "teapot" in page.texts["failures"]


def test_long_failure_lists_are_cut_but_counted(tmp_path):
    many = [(f"mesh{number:04d}", "corrupt", "x" * 1000) for number in range(pipeline.MAX_FAILURES + 7)]
    ctx = build(tmp_path, objects=("cup",), dropped=(), failed={"assets": many})
    page, summary = written(ctx, tmp_path / "out")
    assert summary["failed_keys"] == pipeline.MAX_FAILURES + 7
    assert f"first {pipeline.MAX_FAILURES} of {pipeline.MAX_FAILURES + 7}" in page.texts["failures"]
    assert "x" * (pipeline.MAX_DETAIL + 1) not in page.texts["failures"]


def test_no_set_kept_still_gives_a_page_that_says_so(tmp_path):
    ctx = build(tmp_path, dropped=OBJECTS)
    page, summary = written(ctx, tmp_path / "out")
    assert "Not finished: shard, train, evaluate" in page.texts["header"]
    assert "Kept" not in page.texts["sets"]
    assert f"Dropped: {len(OBJECTS)} of {len(OBJECTS)}" in page.texts["sets"]
    assert summary["sets_shown"] == len(OBJECTS)
    assert "No training step" in page.texts["training"]


def test_run_that_has_not_generated_anything_yet(tmp_path):
    ctx = build(tmp_path, until="render")
    page, _ = written(ctx, tmp_path / "out")
    assert "No set has been scored" in page.texts["sets"]
    assert page.images == []
    assert not (tmp_path / "out" / report.SHEET).exists()


def test_only_as_many_sets_as_the_recipe_asks_for(tmp_path):
    ctx = build(tmp_path, recipe_of("report.max_sets=4"))
    page, summary = written(ctx, tmp_path / "out")
    assert summary["sets_shown"] == 4
    assert "Kept: 2 of 5" in page.texts["sets"]
    assert "Dropped: 2 of 3" in page.texts["sets"]


def test_sets_without_a_depth_condition_are_shown_without_one(tmp_path):
    ctx = build(tmp_path, objects=("cup",), dropped=(), depth=False)
    page, _ = written(ctx, tmp_path / "out")
    assert [image["alt"].partition(",")[0] for image in page.images[:2]] == ["object mask", "generated image"]


def test_miniature_is_named_as_such_and_nothing_else_is(finished, tmp_path):
    page, _ = written(finished, tmp_path / "miniature")
    assert "All figures on this page are from the miniature" in " ".join(page.texts["header"].split())
    recipe = finished.recipe
    entry = recipe.models.generator.model_copy(update={"source": "hub:someone/flux", "name": "flux"})
    models = recipe.models.model_copy(update={role: entry for role in type(recipe.models).model_fields})
    page, _ = written(
        report_context(finished.workspace, recipe.model_copy(update={"models": models})), tmp_path / "real"
    )
    assert "miniature: small networks" not in page.texts["header"]


def test_changed_input_is_an_error_not_a_picture(tmp_path):
    ctx = build(tmp_path, objects=("cup", "mug"), dropped=())
    path = ctx.output_dir("select") / "histograms.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ShardError, match=r"histograms\.json"):
        written(ctx, tmp_path / "out")


def test_broken_link_between_statements_is_shown(tmp_path):
    ctx = build(tmp_path, objects=("cup", "mug"), dropped=())
    path = statements.statement_path(ctx.workspace, "render")
    statement = json.loads(path.read_text())
    statement["predicate"]["runDetails"]["metadata"]["invocationId"] = "another"
    path.write_text(json.dumps(statement))
    page, summary = written(ctx, tmp_path / "out")
    assert summary["broken_links"] == 2  # generate and evaluate name render's statement
    assert "2 of 28 links are broken" in " ".join(page.texts["provenance"].split())
    assert page.texts["provenance"].count("does not match") == 4  # in the table and in the details


def test_every_statement_is_unsigned_or_names_the_key_that_the_page_did_not_check(tmp_path):
    ctx = build(tmp_path, objects=("cup", "mug"), dropped=())
    key = Ed25519PrivateKey.generate()
    sign_statement(ctx.workspace, "render", key)
    page, _ = written(ctx, tmp_path / "out")
    words = page.texts["provenance"]
    assert words.count(f"signed, key not checked (keyid {keyid_of(key.public_key())[:16]})") == 1
    assert words.count("unsigned") == len(ctx.inputs) - 1


def test_evaluation_table_and_pictures(finished, tmp_path):
    page, _ = written(finished, tmp_path)
    said = " ".join(page.texts["evaluation"].split())
    assert "Background-change prompts" in said
    assert "Property-change prompts" in said
    assert said.startswith("Evaluation on held-out objects (miniature) 2 held-out objects, 8 images a row")
    assert "ours, 3 references 0.605 [0.605, 0.605] (0.007)" in said
    assert "ours, 1 reference, less base model, no references +0.100" in said
    named = [said.index(f" {row} 0.") for row in ("plain guidance, 3 references", "IP-Adapter")]
    assert named == sorted(named), "rows come in the order of the recipe"
    assert f"Images are made by tiny-flux@{'b' * 12} (base model, no references; ours, 1 reference; " in said
    assert said.count("identity: tiny-dino@" + "a" * 12 + " ") == 3, "beside the numbers of each kind of prompt"
    shown = [image["alt"] for image in page.images if image["alt"].endswith("kettle")]
    methods = ["base model, no references", "ours, 1 reference", "ours, 3 references"]
    methods += ["plain guidance, 1 reference", "plain guidance, 3 references"]
    methods += ["IP-Adapter", "ours without mask, 3 references"]
    assert shown == [f"reference {n} of kettle" for n in (1, 2, 3)] + [f"{method}: kettle" for method in methods]
    assert said.count("no object found") == 2  # the base row of both examples


def test_guidance_norms_are_drawn_for_ours_and_plain_with_most_references(finished, tmp_path):
    """The others of the table would not be told apart in one chart."""
    data = (finished.output_dir("evaluate") / "guidance.csv").read_bytes()
    drawn = evaluation.guidance_charts(data)
    titles = [chart.partition('aria-label="')[2].partition('"')[0] for chart in drawn]
    assert titles == [
        f"{row}: {kind} prompts" for kind in ("background", "property") for row in ("ours", "plain guidance")
    ]
    lines = [line for line in csv.DictReader(io.StringIO(data.decode())) if line["row"] == "ours-3"]
    assert [float(line["image_norm"]) for line in lines[:8]] == [11.0 - at for at in range(8)]
    page, _ = written(finished, tmp_path)
    assert "how far\nthe references, and then the text, pull" in page.texts["evaluation"]
    assert evaluation.guidance_charts(data.splitlines()[0]) == [], "no row had references"


def test_example_pictures_of_a_row_share_prompt_and_seed_and_kinds_take_turns(finished):
    samples = list(finished.read("evaluate", report_artifacts.HELD_OUT))
    first, second = (evaluation.example(sample, number) for number, sample in enumerate(samples))
    assert (first.kind, second.kind) == ("background prompt", "property prompt")
    wanted = base64.b64encode(samples[1].files["ours-3.p1.s0.png"]).decode()
    assert second.images[2].picture.src.endswith(wanted)


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ({}, "No object of this recipe is held out"),
        ({"evaluate": [("kettle", "no_prompts", "none")]}, "All 1 objects"),
    ],
)
def test_nothing_to_evaluate_is_said(tmp_path, failed, said):
    ctx = build(tmp_path, objects=("cup", "mug"), dropped=(), held_out=(), failed=failed)
    page, _ = written(ctx, tmp_path / "out")
    assert said in page.texts["evaluation"]


def decision(name, kept):
    return DecisionRecord(set_id=name, object_id=name, kept=kept, images=[ImageDecision(kept=kept)] * 2)


@pytest.mark.parametrize(
    ("kept", "dropped", "count", "shown_kept", "shown_dropped"),
    [(40, 40, 24, 12, 12), (40, 3, 24, 21, 3), (2, 40, 24, 2, 22), (5, 5, 24, 5, 5), (0, 9, 4, 0, 4), (3, 3, 1, 1, 0)],
)
def test_half_of_the_sets_shown_are_dropped_ones_where_there_are_enough(
    kept, dropped, count, shown_kept, shown_dropped
):
    decisions = [decision(f"k{n:02d}", True) for n in range(kept)] + [
        decision(f"d{n:02d}", False) for n in range(dropped)
    ]
    chosen = sets.choose(decisions, count)
    assert [sum(key[0] == letter for key in chosen) for letter in "kd"] == [shown_kept, shown_dropped]
    assert chosen == sorted(set(chosen))


def test_spaced_choice_covers_the_whole_range():
    assert sets.spaced(range(100), 4) == [0, 25, 50, 75]
    assert sets.spaced(range(3), 10) == [0, 1, 2]
    assert sets.spaced([], 10) == []


def test_small_pictures_keep_every_pixel_and_large_ones_are_reduced():
    rng = np.random.default_rng(0)
    small = encode_png(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    shown = pictures.picture(small, "x")
    assert (shown.width, shown.height, shown.pixelated) == (48, 64, True)
    assert base64.b64decode(shown.src.partition("base64,")[2]) == small
    large = np.full((600, 1200, 3), (200, 40, 90), np.uint8)
    shown = pictures.picture(encode_png(large), "x")
    assert (shown.width, shown.height, shown.pixelated) == (224, 112, False)
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.src.partition("base64,")[2]))))
    assert np.abs(decoded.astype(int) - large[:112, :224]).max() < 8


def test_24_sets_of_noise_at_1024_px_would_stay_below_10_mb():
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    depth = np.linspace(0, 255, 1024).astype(np.uint8)[None].repeat(1024, 0)
    parts = [len(pictures.picture(encode_png(item), "x").src) for item in (noise, depth, depth > 128)]
    assert 24 * 3 * sum(parts) < 8e6


def test_histogram_bars_and_thresholds_stand_where_the_numbers_say():
    svg = charts.histogram("quality", [4.0, 5.0, 6.0, 7.0], [2, 0, 8], [0, 0, 4], {"min": 9.0})
    bars = re.findall(r'<rect class="(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)">', svg)
    width = charts.WIDTH - charts.LEFT - charts.RIGHT
    height = charts.HEIGHT - charts.TOP - charts.BOTTOM
    assert [bar[0] for bar in bars] == ["all", "all", "kept"]
    unit = width / (9.0 - 4.0)
    for (_, x, _, wide, high), (low, count) in zip(bars, [(4, 2), (6, 8), (6, 4)], strict=True):
        assert float(x) == pytest.approx(charts.LEFT + (low - 4) * unit, abs=0.06)
        assert float(wide) == pytest.approx(unit - 0.5, abs=0.11)
        assert float(high) == pytest.approx(count / (8 * charts.HEADROOM) * height, abs=0.11)
    (threshold,) = re.findall(r'<line class="threshold" x1="([\d.]+)"', svg)
    assert float(threshold) == pytest.approx(charts.LEFT + width, abs=0.06)
    assert "min 9" in svg


def test_histogram_without_any_score_is_an_empty_frame():
    svg = charts.histogram("quality", [0.0, 0.5, 1.0], [0, 0], [0, 0], {"min": 6.0})
    assert "<rect" not in svg
    with pytest.raises(ValueError, match="2 edges"):
        charts.histogram("quality", [0.0, 1.0], [0, 0], [0, 0], {})


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (0.00091, 0.0011), (6, 6.5), (0, 123456)])
def test_ticks_are_round_evenly_spaced_and_inside(low, high):
    found = charts.ticks(low, high)
    steps = np.diff(found)
    assert 2 <= len(found) <= 8
    assert np.allclose(steps, steps[0])
    assert low <= found[0] <= found[-1] <= high
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - allowed) for allowed in (1, 2, 2.5, 5)) < 1e-6


def test_curves_are_thinned_by_means_and_smoothed_without_a_start_from_zero():
    points = [(float(x), float(x % 2)) for x in range(1000)]
    thinned = charts.thin(points)
    assert len(thinned) <= charts.MAX_POINTS
    assert thinned[0] == (1.0, pytest.approx(1 / 3))
    weights = [0.9**age * 0.1 for age in range(5)]
    expected = sum(w * y for w, (_, y) in zip(weights, points[4::-1], strict=True)) / sum(weights)
    assert charts.smooth(points[:5])[4] == (4.0, pytest.approx(expected))
    assert charts.smooth([(0.0, 7.0)]) == [(0.0, pytest.approx(7.0))]
    assert "nan" not in charts.line_chart("loss", {"each step": [(3.0, 0.0)]}, "step")


def test_contact_sheet_is_a_grid_of_the_pictures_themselves(finished, tmp_path):
    written(finished, tmp_path)
    sheet = np.asarray(Image.open(tmp_path / report.SHEET))
    shown = sets.load_sets(finished, [f"{name}-s0" for name in OBJECTS])
    image = np.asarray(Image.open(io.BytesIO(shown[2].files["1.png"])))
    enlarged = image.repeat(6, 0).repeat(6, 1)  # 16 px to 96 px tiles
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:, :, 0], (96, 96))
    rows, columns = np.nonzero((windows[:, :, ::48, ::48] == enlarged[::48, ::48, 0]).all((2, 3)))
    places = [(r, c) for r, c in zip(rows, columns, strict=True) if (sheet[r : r + 96, c : c + 96] == enlarged).all()]
    assert len(places) == 1
    assert sheet.shape[0] > len(OBJECTS) * 96
    with pytest.raises(ValueError, match="no set"):
        report.contact_sheet([], "nothing")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59, "59 s"), (200, "3 min 20 s"), (18120, "5 h 02 min"), (59.7, "1 min 00 s")],
)
def test_durations_are_told_in_words(seconds, text):
    assert pipeline.duration_text(seconds) == text


def test_summaries_are_told_in_one_line():
    told = pipeline.told({"set_yield": 0.62512, "dropped": {"low_quality": 3}, "ids": list(range(9)), "of": "a" * 64})
    assert told == "set yield 0.6251, dropped: (low quality 3), ids (9), of " + "a" * 12
