"""Decisions: the rule of thesis 5.3.3, its order, its reasons, and what a changed threshold touches."""

import json

import numpy as np
import pytest
from generated_sets import image_scores, score_record
from stage_runs import context, run_stage, write_input

from configs.load import load_recipe
from configs.schema import Select
from data.records import DecisionRecord
from data.shards import ShardError, load_index, read_all, sha256_file
from tasks import select

LIMITS = Select(min_quality=6.0, min_identity=0.7, max_identity=0.98, min_images=2)


def scored(quality, pairs, key="cup-s0"):
    """`pairs` is the upper triangle row by row: 01, 02, 12 for three images."""
    count = len(quality)
    upper = np.zeros((count, count))
    upper[np.triu_indices(count, 1)] = pairs
    matrix = np.eye(count) + upper + upper.T
    means = (matrix.sum(axis=1) - 1) / (count - 1)
    images = [image_scores(value, identity=mean) for value, mean in zip(quality, means.tolist(), strict=True)]
    return score_record(key, images, matrix.tolist())


def outcome(decision):
    return [image.reasons[0].code if image.reasons else "kept" for image in decision.images]


KEPT = "kept"
LOW_QUALITY, LOW_IDENTITY, DUPLICATE, SMALL = "low_quality", "low_identity", "near_duplicate", "set_too_small"


@pytest.mark.parametrize(
    ("quality", "pairs", "expected"),
    [
        ([7, 7, 7], [0.8, 0.8, 0.8], [KEPT, KEPT, KEPT]),
        # A value equal to its threshold is kept.
        ([6, 6, 6], [0.7, 0.7, 0.7], [KEPT, KEPT, KEPT]),
        ([7, 7, 7], [0.98, 0.98, 0.98], [KEPT, KEPT, KEPT]),
        ([7, 7, 5.9], [0.8, 0.8, 0.8], [KEPT, KEPT, LOW_QUALITY]),
        ([7, 5, 5], [0.8, 0.8, 0.8], [SMALL, LOW_QUALITY, LOW_QUALITY]),
        ([7, 7, 7], [0.9, 0.5, 0.5], [KEPT, KEPT, LOW_IDENTITY]),
        ([7, 7, 7], [0.6, 0.6, 0.6], [LOW_IDENTITY, LOW_IDENTITY, LOW_IDENTITY]),
        # A is like B and B is like C, but A is not like C: only B is like the rest of the set.
        ([7, 7, 7], [0.9, 0.3, 0.9], [LOW_IDENTITY, SMALL, LOW_IDENTITY]),
        # A spoilt image neither drags the others below the threshold ...
        ([7, 7, 5], [0.8, 0.1, 0.1], [KEPT, KEPT, LOW_QUALITY]),
        # ... nor holds two together that are not alike.
        ([7, 7, 5], [0.5, 0.95, 0.95], [LOW_IDENTITY, LOW_IDENTITY, LOW_QUALITY]),
        # Of near-duplicates the one of lower quality goes; at equal quality the later.
        ([7, 8, 7.5], [0.99, 0.8, 0.8], [DUPLICATE, KEPT, KEPT]),
        ([7, 7, 7], [0.99, 0.8, 0.8], [KEPT, DUPLICATE, KEPT]),
        # A near B near C, A not near C: with B the best both others go, with B the worst only B.
        ([7, 8, 7], [0.99, 0.9, 0.99], [DUPLICATE, SMALL, DUPLICATE]),
        ([8, 7, 8], [0.99, 0.9, 0.99], [KEPT, DUPLICATE, KEPT]),
        ([7, 7, 7], [1.0, 1.0, 1.0], [SMALL, DUPLICATE, DUPLICATE]),
        ([7, 7], [0.8], [KEPT, KEPT]),
        ([7, 5], [0.8], [SMALL, LOW_QUALITY]),
        ([7, 7], [-0.5], [LOW_IDENTITY, LOW_IDENTITY]),
        ([5, 5, 5], [0.1, 0.1, 0.1], [LOW_QUALITY, LOW_QUALITY, LOW_QUALITY]),
    ],
)
def test_truth_table(quality, pairs, expected):
    decision = select.decide(scored(quality, pairs), LIMITS)
    assert outcome(decision) == expected
    assert decision.kept == (expected.count(KEPT) >= 2)
    assert [image.kept for image in decision.images] == [item == KEPT for item in expected]
    assert [reason.code for reason in decision.reasons] == ([] if decision.kept else [SMALL])


def test_every_reason_carries_the_value_and_the_threshold_it_missed():
    decision = select.decide(scored([7, 7, 8, 5, 7], [0.99, 0.9, 0.1, 0.2, 0.9, 0.1, 0.2, 0.1, 0.2, 0.1]), LIMITS)
    found = [[(reason.code, reason.value, reason.threshold) for reason in image.reasons] for image in decision.images]
    mean = round((0.2 + 0.2 + 0.2) / 3, 6)
    assert found == [
        [("low_identity", round((0.99 + 0.9 + 0.2) / 3, 6), 0.7)],
        [("low_identity", round((0.99 + 0.9 + 0.2) / 3, 6), 0.7)],
        [("low_identity", round((0.9 + 0.9 + 0.2) / 3, 6), 0.7)],
        [("low_quality", 5.0, 6.0)],
        [("low_identity", mean, 0.7)],
    ]
    assert [(r.code, r.value, r.threshold) for r in decision.reasons] == [("set_too_small", 0, 2)]


def test_a_near_duplicate_names_its_cosine():
    decision = select.decide(scored([7, 8, 7.5], [0.991, 0.8, 0.8]), LIMITS)
    reason = decision.images[0].reasons[0]
    assert (reason.code, reason.value, reason.threshold) == ("near_duplicate", 0.991, 0.98)


def test_a_larger_min_images_drops_the_set_and_all_of_it():
    decision = select.decide(scored([7, 7, 5], [0.8, 0.8, 0.8]), LIMITS.model_copy(update={"min_images": 3}))
    assert outcome(decision) == [SMALL, SMALL, LOW_QUALITY]
    assert not any(image.kept for image in decision.images)


def test_near_duplicates_never_survive_together_and_dropping_was_needed():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(2, 6))
        record = scored(rng.uniform(5, 8, count).round(1).tolist(), rng.uniform(0.6, 1.0, count * (count - 1) // 2))
        decision = select.decide(record, LIMITS)
        pairs = np.array(record.identity_pairs)
        duplicates = [i for i, code in enumerate(outcome(decision)) if code == DUPLICATE]
        left = [i for i, code in enumerate(outcome(decision)) if code in (KEPT, SMALL)]
        assert all(pairs[i, j] <= 0.98 for i in left for j in left if i != j)
        assert all(any(pairs[i, j] > 0.98 for j in left) for i in duplicates)


@pytest.mark.parametrize(
    ("scores", "limit", "code", "threshold"),
    [
        ({"clipped": 0.3}, {"max_clipped": 0.25}, "clipped", 0.25),
        ({"saturation": 0.9}, {"max_saturation": 0.8}, "saturated", 0.8),
        ({"area": 0.05}, {"min_area": 0.1}, "small_object", 0.1),
        ({"cut_off": 0.5}, {"max_cut_off": 0.2}, "cut_off", 0.2),
        ({"clip_text": 0.1}, {"min_text": 0.2}, "off_prompt", 0.2),
    ],
)
def test_checks_of_an_image_by_itself_are_off_until_the_recipe_sets_them(scores, limit, code, threshold):
    images = [image_scores(7), image_scores(7), image_scores(7, **scores)]
    record = score_record("cup-s0", images, np.full((3, 3), 0.8).tolist())
    assert outcome(select.decide(record, LIMITS)) == [KEPT, KEPT, KEPT]
    decision = select.decide(record, LIMITS.model_copy(update=limit))
    assert outcome(decision) == [KEPT, KEPT, code]
    (reason,) = decision.images[2].reasons
    assert (reason.value, reason.threshold) == (next(iter(scores.values())), threshold)
    worse = [image_scores(5, **scores), *images[:2]]
    first = select.decide(score_record("cup-s0", worse, np.full((3, 3), 0.8).tolist()), LIMITS.model_copy(update=limit))
    assert outcome(first) == [LOW_QUALITY, KEPT, KEPT], "the reason is the one at which it fell first"


def test_an_image_without_its_object_is_dropped_whatever_else_it_scores():
    images = [image_scores(9, area=0.0), image_scores(7), image_scores(7)]
    decision = select.decide(score_record("cup-s0", images, np.full((3, 3), 0.9).tolist()), LIMITS)
    assert outcome(decision) == ["no_object", KEPT, KEPT]


def test_of_two_images_in_the_same_context_the_better_stays():
    record = scored([7, 8, 7.5], [0.8, 0.8, 0.8])
    context = [[1.0, 0.95, 0.2], [0.95, 1.0, 0.3], [0.2, 0.3, 1.0]]
    record = record.model_copy(update={"background_pairs": context})
    assert outcome(select.decide(record, LIMITS)) == [KEPT, KEPT, KEPT]
    decision = select.decide(record, LIMITS.model_copy(update={"max_background": 0.9}))
    assert outcome(decision) == ["same_context", KEPT, KEPT]
    assert (decision.images[0].reasons[0].value, decision.images[0].reasons[0].threshold) == (0.95, 0.9)


def test_a_set_that_repeats_an_earlier_kept_one_is_dropped_by_name(tmp_path):
    recipe = load_recipe("miniature", ("select.shard_size=1", "select.min_quality=6", "select.max_hash_distance=2"))
    alike = ["00000000000000ff", "ffff000000000000", "0f0f0f0f0f0f0f0f"]
    near = ["00000000000000fe", "ffff000000000003", "123456789abcdef0"]
    full = np.full((3, 3), 0.8).tolist()
    good, bad = [image_scores(7)] * 3, [image_scores(5)] * 3
    records = [
        score_record("a-s0", bad, full, hashes=alike),  # not kept, so it takes nobody's place
        score_record("a-s1", good, full, hashes=alike, licence="CC-BY-NC-4.0"),  # nor is this one
        score_record("b-s0", good, full, hashes=alike),
        score_record("c-s0", good, full),
        score_record("d-s0", good, full, hashes=near),
        score_record("e-s0", [image_scores(7), image_scores(5), image_scores(7)], full, hashes=near),  # one match left
    ]
    write_input(tmp_path, "score", [(record.set_id, record, {}) for record in records], recipe)
    ctx = context("select", recipe, tmp_path, ("score",))
    run_stage(select, ctx)
    found = {
        sample.key: DecisionRecord.model_validate(sample.record)
        for sample in read_all(ctx.output_dir("select"), load_index(ctx.output_dir("select")))
    }
    assert {key: decision.kept for key, decision in found.items()} == {
        "a-s0": False,
        "a-s1": False,
        "b-s0": True,
        "c-s0": True,
        "d-s0": False,
        "e-s0": True,
    }
    assert found["d-s0"].duplicate_of == "b-s0"
    assert [(r.code, r.value, r.threshold) for r in found["d-s0"].reasons] == [("duplicate_set", 1.0, 2.0)]
    assert outcome(found["d-s0"]) == ["duplicate_set"] * 3
    index = load_index(ctx.output_dir("select"))
    assert index.summary["duplicate_sets"] == 1 and len(index.shards) == 6
    assert json.loads((ctx.work_dir / "duplicates.json").read_bytes()) == {"d-s0": {"other": "b-s0", "distance": 1}}


def test_another_worker_takes_the_duplicates_that_were_found(tmp_path, monkeypatch):
    (tmp_path / "duplicates.json").write_text('{"d-s0": {"other": "b-s0", "distance": 1}}')
    monkeypatch.setattr(select, "_find_duplicates", None)
    assert select._duplicates(tmp_path / "score", tmp_path, LIMITS, frozenset())["d-s0"].other == "b-s0"


@pytest.fixture
def workspace(tmp_path):
    recipe = load_recipe("miniature", ("select.shard_size=2",))
    records = [
        scored([7, 7, 7], [0.8, 0.8, 0.8], "ball-s0"),
        scored([7, 7, 5], [0.8, 0.8, 0.8], "cup-s0"),
        scored([7, 5, 5], [0.8, 0.8, 0.8], "jug-s0"),
    ]
    write_input(tmp_path, "score", [(record.set_id, record, {}) for record in records], recipe)
    return tmp_path, recipe


def run(workspace, *overrides):
    root, _ = workspace
    recipe = load_recipe("miniature", ("select.shard_size=2", "select.min_quality=6", *overrides))
    return run_stage(select, context("select", recipe, root, ("score",)))


def test_summary_counts_what_was_kept_and_dropped_by_reason(workspace):
    summary = run(workspace).summary
    assert summary["sets"] == 3 and summary["kept_sets"] == 2 and summary["set_yield"] == 0.6667
    assert summary["images"] == 9 and summary["kept_images"] == 5 and summary["image_yield"] == 0.5556
    assert summary["dropped_images"] == {"low_quality": 3, "set_too_small": 1}
    thresholds = summary["thresholds"]
    assert {
        "min_quality": 6.0,
        "min_identity": 0.7,
        "max_identity": 0.98,
        "min_images": 2,
    }.items() <= thresholds.items()
    assert select.OFF.items() <= thresholds.items() and thresholds["max_hash_distance"] == -1
    assert "max_failed_fraction" not in thresholds


def test_a_set_under_a_licence_that_is_not_allowed_is_dropped_whatever_its_scores(tmp_path):
    good = [image_scores(7)] * 3
    pairs = np.full((3, 3), 0.8).tolist()
    licences = {"ball-s0": "CC-BY-4.0", "cup-s0": "CC-BY-NC-4.0", "jug-s0": "CC0-1.0", "pan-s0": "LicenseRef-unknown"}
    records = [score_record(key, good, pairs, licence=licence) for key, licence in licences.items()]
    write_input(tmp_path, "score", [(record.set_id, record, {}) for record in records], load_recipe("miniature"))

    def kept(*overrides):
        index = run((tmp_path, None), *overrides)
        out = tmp_path / "artifacts" / "select"
        found = {s.key: DecisionRecord.model_validate(s.record) for s in read_all(out, index)}
        return {key for key, decision in found.items() if decision.kept}, found, index.summary

    wide = "assets.licences=[CC0-1.0, by, by-nc]"
    assert kept(wide)[0] == {"ball-s0", "cup-s0", "jug-s0"}
    assert kept(wide, "select.licences=[by, CC0-1.0]")[0] == {"ball-s0", "jug-s0"}, "narrower, and nothing made anew"
    left, found, summary = kept()
    assert left == {"jug-s0"}
    assert [(r.code, r.licence) for r in found["cup-s0"].reasons] == [("licence", "CC-BY-NC-4.0")]
    assert outcome(found["cup-s0"]) == ["licence"] * 3 and not any(image.kept for image in found["cup-s0"].images)
    assert summary["sets_by_refused_licence"] == {"CC-BY-4.0": 1, "CC-BY-NC-4.0": 1, "LicenseRef-unknown": 1}
    assert summary["dropped_images"] == {"licence": 9}


def test_decisions_are_also_one_json_line_each(workspace):
    index = run(workspace)
    out_dir = workspace[0] / "artifacts" / "select"
    lines = [json.loads(line) for line in (out_dir / "decisions.jsonl").read_text().splitlines()]
    assert lines == [sample.record for sample in read_all(out_dir, index)]
    assert [DecisionRecord.model_validate(line).kept for line in lines] == [True, True, False]


def test_a_changed_threshold_changes_decisions_and_leaves_scores_alone(workspace):
    score_dir = workspace[0] / "artifacts" / "score"
    before = {path.name: (sha256_file(path), path.stat().st_mtime_ns) for path in score_dir.iterdir()}
    strict, loose = run(workspace), run(workspace, "select.min_quality=5")
    assert [entry.sha256 for entry in strict.shards] != [entry.sha256 for entry in loose.shards]
    assert (strict.summary["kept_sets"], loose.summary["kept_sets"]) == (2, 3)
    after = {path.name: (sha256_file(path), path.stat().st_mtime_ns) for path in score_dir.iterdir()}
    assert after == before


def test_histograms_hold_every_image_and_pair_once(workspace):
    run(workspace)
    graphs = json.loads((workspace[0] / "artifacts" / "select" / "histograms.json").read_text())
    assert {name: (sum(graph["all"]), sum(graph["kept"])) for name, graph in graphs.items()} == {
        "quality": (9, 5),
        "identity": (5, 5),
        "identity_pair": (9, 4),
        "identity_masked": (9, 5),
        "clip_image": (9, 5),
        "clip_text": (9, 5),
        "background_pair": (9, 4),
        "area": (9, 5),
        "cut_off": (9, 5),
        "saturation": (9, 5),
        "clipped": (9, 5),
    }
    assert graphs["area"]["thresholds"] == {}, "a threshold that lets all pass is no line in the picture"
    assert graphs["quality"]["thresholds"] == {"min_quality": 6.0}
    assert graphs["identity_pair"]["thresholds"] == {"max_identity": 0.98}
    edges, counts = graphs["quality"]["edges"], graphs["quality"]["all"]
    assert len(edges) == len(counts) + 1
    assert [count for count in counts if count] == [3, 6] and (edges[0], edges[-1]) == (5.0, 7.0)


def test_a_tampered_score_shard_stops_selection(workspace):
    shard = workspace[0] / "artifacts" / "score" / "000000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"000000\.tar: sha256"):
        run(workspace)
