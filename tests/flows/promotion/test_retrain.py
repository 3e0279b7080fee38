"""Retraining on fake stages: when it does nothing, what it promotes, what it refuses, and the way back."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_tasks import attempts
from fake_workspace import RETRAINING, RUNTIME, activate, bare_workspace, tombstone
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.load import load_recipe
from data.revocation import Revocations, write_revocations
from data.shards import ShardError, sha256_file
from data.signing import make_keys, pinned_keys
from flows import retrain
from flows.engine import run_stage
from flows.promotion.checks import kept_model_problems
from flows.promotion.measure import measure
from flows.promotion.store import Store
from flows.runners import serial
from flows.verify import verify
from flows.workspace import SIGNING_KEY_VARIABLE

GOOD, BETTER, BAD = ("train.learning_rate=0.05",), ("train.learning_rate=0.08",), ("train.learning_rate=0.02",)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine alone: no DVC, no Prefect."""

    def walk(folder: Path, stages: Sequence[str], runtime: str | None, retries: int) -> None:
        for stage in stages:
            run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")

    monkeypatch.setattr(retrain, "walk", walk)
    monkeypatch.setattr(retrain, "dvc_status", lambda folder: {})
    monkeypatch.setattr(
        retrain, "measure_by_flow", lambda store, model, how: measure(store, model, how, serial, package="fake_tasks")
    )


def workspace(folder: Path, *overrides: str) -> Path:
    """With a dataset, and no model yet."""
    (folder / ".dvc").mkdir(parents=True)
    bare_workspace(folder, *overrides, stages=RETRAINING)
    return with_dataset(folder)


def with_dataset(folder: Path) -> Path:
    for stage in ("assets", "prompts", "shard"):
        run_stage(stage, folder, RUNTIME, serial, package="fake_tasks")
    (folder / "attempts.log").unlink(missing_ok=True)
    return folder


def run(folder: Path) -> tuple[str, str]:
    outcome = retrain._retrain(folder, None, 0)
    return outcome.ended, outcome.reason


def current(folder: Path) -> dict[str, str]:
    return json.loads((folder / "artifacts/models/current.json").read_bytes())


def test_the_first_model_is_promoted_and_the_second_run_starts_no_stage(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    assert run(folder)[0] == "promoted"
    assert attempts(folder)
    dataset = sha256_file(folder / "artifacts/shard/index.json")
    weights = folder / "artifacts/models" / current(folder)["file"]
    assert current(folder)["dataset_sha256"] == dataset
    assert weights.read_bytes() == (folder / "artifacts/train" / weights.name).read_bytes()
    assert {path.name for path in weights.parent.glob("provenance/*")} == {f"{name}.intoto.json" for name in RETRAINING}

    (folder / "attempts.log").unlink()
    ended, reason = run(folder)
    assert ended == "nothing to do" and "is of this dataset and recipe and is current" in reason
    assert attempts(folder) == []


def test_a_changed_dataset_is_trained_on_and_both_models_are_measured_alike(tmp_path: Path) -> None:
    """Its held-out objects have changed with it: the current model is measured on the new ones too."""
    folder = workspace(tmp_path, *GOOD)
    run(folder)
    first = current(folder)
    with_dataset(activate(folder, *BETTER, "seed=1"))
    evaluation = sha256_file(folder / "artifacts/evaluate/index.json")
    ended, reason = run(folder)
    assert ended == "promoted" and "does not regress" in reason and "10 objects" in reason
    assert current(folder)["dataset_sha256"] == sha256_file(folder / "artifacts/shard/index.json") != first
    measured = folder / "artifacts/models" / first["file"]
    assert len(list(measured.parent.glob("evaluations/*/images.parquet"))) == 2
    assert sha256_file(folder / "artifacts/evaluate/index.json") != evaluation


def test_a_model_that_regresses_is_refused_once_and_kept_for_whoever_decides_otherwise(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    run(folder)
    before = current(folder)
    activate(folder, *BAD)
    ended, reason = run(folder)
    assert ended == "refused" and "is not ruled out" in reason
    assert current(folder) == before
    (folder / "attempts.log").unlink()
    assert run(folder)[0] == "nothing to do"
    assert attempts(folder) == []

    (refused,) = (model for model in Store(folder).models() if model.digest != before["sha256"])
    done = syncd(folder, "promote", refused.short)
    assert done[0] == 1 and "refused: a loss of 0.02" in done[1]
    done = syncd(folder, "promote", refused.short, "--reason", "the metric is wrong")
    assert done[0] == 0 and current(folder)["sha256"] == refused.digest


def test_the_way_back_leads_through_the_models_before_and_is_not_undone_by_the_next_run(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    digests = []
    for recipe in (GOOD, BETTER, ("train.learning_rate=0.09",)):
        activate(folder, *recipe)
        assert run(folder)[0] == "promoted"
        digests.append(current(folder)["sha256"])
    for wanted in (digests[1], digests[0]):
        assert syncd(folder, "rollback", "--reason", "complaints")[0] == 0
        assert current(folder)["sha256"] == wanted
    with pytest.raises(ConfigError, match="no model was current before"):
        syncd(folder, "rollback")
    ended, reason = run(folder)
    assert ended == "nothing to do" and "is not current; rolled_back" in reason and "complaints" in reason
    events = [decision.event for decision in Store(folder).history()]
    assert events == ["promoted"] * 3 + ["rolled_back"] * 2
    assert all(decision.by and decision.time for decision in Store(folder).history())

    assert syncd(folder, "rollback", "--to", digests[2][:8])[0] == 0
    assert current(folder)["sha256"] == digests[2]
    listed = syncd(folder, "list")[1]
    assert listed.index(digests[2][:16]) < listed.index(digests[0][:16])


def rates(folder: Path, *rates: float) -> list[str]:
    """What became of one retraining after the other; ten times the rate is how good its model is."""
    ended = []
    for rate in rates:
        activate(folder, f"train.learning_rate={rate}")
        ended.append(run(folder)[0])
    return ended


def test_small_losses_do_not_add_up(tmp_path: Path) -> None:
    """Each of them within the margin of the model before."""
    folder = workspace(tmp_path, "train.learning_rate=0.05")
    assert rates(folder, 0.05, 0.049) == ["promoted"] * 2
    first, second = Store(folder).history()
    assert second.anchor == first.digest and Store(folder).anchor().digest == first.digest
    activate(folder, "train.learning_rate=0.0475")
    ended, reason = run(folder)
    assert ended == "refused" and f"candidate - anchor {first.digest[:16]}: geometric -0.0" in reason
    refused = Store(folder).history()[-1]
    assert Store(folder).current().digest == second.digest
    done = syncd(folder, "promote", refused.digest)
    assert done[0] == 1 and "candidate - anchor" in done[1]

    assert syncd(folder, "promote", refused.digest, "--reason", "good enough")[0] == 0
    assert Store(folder).anchor().digest == refused.digest
    assert rates(folder, 0.0465) == ["promoted"]
    assert syncd(folder, "rollback", "--to", second.digest)[0] == 0
    assert Store(folder).anchor().digest == first.digest


def test_a_better_model_raises_the_anchor_and_one_between_does_not_lower_it(tmp_path: Path) -> None:
    folder = workspace(tmp_path, "train.learning_rate=0.05")
    assert rates(folder, 0.05, 0.06, 0.059, 0.0595, 0.0582) == ["promoted"] * 4 + ["refused"]
    history = Store(folder).history()
    best = history[1].digest
    assert [decision.anchor for decision in history] == [None, None, best, best, None]
    assert "does not regress; candidate - anchor" in history[3].reason


def test_the_anchor_is_measured_as_the_candidate_was(tmp_path: Path) -> None:
    folder = workspace(tmp_path, "train.learning_rate=0.05")
    assert rates(folder, 0.05, 0.049) == ["promoted"] * 2
    with_dataset(activate(folder, "train.learning_rate=0.0495", "seed=1"))
    assert run(folder)[0] == "promoted"
    anchor = Store(folder).anchor()
    assert anchor.digest == Store(folder).history()[0].digest
    assert len(list(anchor.folder.glob("evaluations/*/images.parquet"))) == 2


def test_a_roll_back_keeps_the_line_before_its_target_was_last_current(tmp_path: Path) -> None:
    folder = workspace(tmp_path, "train.learning_rate=0.05")
    assert rates(folder, 0.05, 0.06) == ["promoted"] * 2
    first, second = (decision.digest for decision in Store(folder).history())
    assert syncd(folder, "promote", first, "--reason", "complaints")[0] == 0
    assert rates(folder, 0.07) == ["promoted"]
    for wanted in (first, second, first):
        assert syncd(folder, "rollback")[0] == 0
        assert current(folder)["sha256"] == wanted


def test_a_run_killed_between_history_and_pointer_is_made_good(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    run(folder)
    said = current(folder)
    (folder / "artifacts/models/current.json").unlink()
    with (folder / "artifacts/models/history.jsonl").open("ab") as stream:
        stream.write(b'{"half a li')
    assert run(folder)[0] == "nothing to do"
    assert current(folder) == said
    activate(folder, *BETTER)
    assert run(folder)[0] == "promoted"
    assert len(Store(folder).history()) == 2


def test_changed_weights_are_not_made_current(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    run(folder)
    activate(folder, *BETTER)
    run(folder)
    for model in Store(folder).models():
        model.file.write_bytes(model.file.read_bytes() + b" ")
    with pytest.raises(ShardError, match="it was changed"):
        syncd(folder, "rollback")
    assert len(Store(folder).history()) == 2


def test_kept_models_are_verified_with_their_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_keys(tmp_path / "keys", None)
    unsigned, pinned = workspace(tmp_path / "unsigned", *GOOD), pinned_keys([public])
    run(unsigned)
    assert kept_model_problems(unsigned, {}) == []
    assert any("train.dsse.json" in problem for problem in kept_model_problems(unsigned, pinned))
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(private))
    folder = workspace(tmp_path / "signed", *GOOD)
    run(folder)
    assert kept_model_problems(folder, pinned) == []
    (model,) = Store(folder).models()
    for path in (model.file, model.folder / "model.json", folder / "artifacts/models/current.json"):
        data = path.read_bytes()
        path.write_bytes(data[:-9] + b"}" + data[-8:])
        assert any(str(path.parent) in problem for problem in verify(folder, pinned)[0]), path
        path.write_bytes(data)
    assert not [problem for problem in verify(folder, pinned)[0] if "artifacts/models" in problem]
    statement = model.folder / "provenance" / "train.intoto.json"
    statement.write_bytes(statement.read_bytes().replace(b'"dirty":', b'"dirtY":'))
    assert any("no signature of" in problem for problem in kept_model_problems(folder, pinned))


def test_a_model_of_revoked_data_does_not_come_back(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    run(folder)
    first = current(folder)["sha256"]
    activate(folder, *BETTER)
    run(folder)
    write_revocations(folder, Revocations().adding([tombstone("object-004", checkpoints=(first,))]))
    with pytest.raises(ConfigError, match=r"was trained on revoked objects \(object-004; configs/revoked.yaml"):
        syncd(folder, "rollback")
    assert current(folder)["sha256"] != first and len(Store(folder).history()) == 2


def test_another_base_model_is_not_compared(tmp_path: Path) -> None:
    folder = workspace(tmp_path, *GOOD)
    run(folder)
    other = load_recipe("miniature").models.customizer.model_copy(update={"name": "larger-flux"})
    activate(folder, *BETTER, f"models.customizer={other.model_dump_json()}")
    ended, reason = run(folder)
    assert ended == "refused" and "cannot be compared: it is of larger-flux@" in reason


def test_without_a_dataset_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(ShardError, match="syncd run --until shard"):
        run(bare_workspace(tmp_path, stages=RETRAINING))


def syncd(folder: Path, *words: str) -> tuple[int, str]:
    from flows.promotion.commands import models

    done = CliRunner().invoke(models, [*words, "--workspace", str(folder)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output
