"""Progress where people look: a Prometheus text file, OpenLineage events, Prefect's artifacts."""

import functools
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fake_workspace import RUNTIME, activate, bare_workspace, digests, make_trouble, no_trouble
from PIL import Image
from prefect_machines import free_port, webhook
from prometheus_client.parser import text_string_to_metric_families

from configs.errors import ConfigError
from data.shards import ShardError, sha256_file
from flows import engine
from flows.stage import run_stage_flow, run_stage_serially
from flows.watching import lineage, prometheus
from flows.watching.artifacts import WIDEST_PIXELS, picture_address
from flows.worker import RUN_ID_VARIABLE, StageError

RUN = "01890000-0000-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def fake_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "run_stage", functools.partial(engine.run_stage, package="fake_tasks"))
    monkeypatch.setattr(engine, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv(RUN_ID_VARIABLE, RUN)


@pytest.fixture(autouse=True)
def no_lineage() -> Iterator[None]:
    """OpenLineage's client writes what it finds in the environment back into it under other names."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        if name.startswith(lineage.PREFIX):
            del os.environ[name]


def samples(folder: Path) -> dict[str, float]:
    """Value of every sample of the one file there, by name and reason."""
    (path,) = folder.iterdir()
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            assert sample.labels["stage"] == "assets"
            found[" ".join(filter(None, (sample.name, sample.labels.get("reason"))))] = sample.value
    return found


def test_the_metrics_file_counts_shards_keys_failures_and_crashes_by_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "SECONDS_BETWEEN_FILES", 0.0)
    folder, out = bare_workspace(tmp_path / "new"), tmp_path / "metrics"
    runtime = RUNTIME.model_copy(update={"metrics_folder": str(out)})
    make_trouble(folder, fail=["object-004"], crash={"index": 2, "error": "bug"})
    with pytest.raises(StageError):
        run_stage_serially("assets", folder, runtime)
    found = samples(out)
    assert (found["syncd_shards_done"], found["syncd_shards"], found["syncd_keys_done"]) == (2, 4, 6)
    assert (found["syncd_running"], found["syncd_succeeded"]) == (0, 0)
    assert found["syncd_keys_failed corrupt"] == found["syncd_crashes unexpected"] == 1
    assert found["syncd_seconds_per_shard"] > 0

    make_trouble(folder, fail=["object-004"])
    run_stage_serially("assets", folder, runtime)
    found = samples(out)
    assert (found["syncd_shards_done"], found["syncd_succeeded"], found["syncd_run_info"]) == (4, 1, 1)


def test_metrics_that_cannot_be_written_end_no_stage_and_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prometheus, "SECONDS_BETWEEN_FILES", 0.0)
    folder, out = bare_workspace(tmp_path / "new"), tmp_path / "metrics"
    out.write_text("a file where the folder should be")
    run_stage_serially("assets", folder, RUNTIME.model_copy(update={"metrics_folder": str(out)}))
    assert (folder / "artifacts/assets/index.json").exists()
    assert capsys.readouterr().err.count(f"WARNING: assets: no metrics in {out}/") == 1


def test_a_watcher_that_fails_at_the_end_hides_no_error_and_ends_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: prometheus.MetricsFile, running: bool, succeeded: bool) -> None:
        if not running:
            raise OSError(30, "Read-only file system")

    monkeypatch.setattr(prometheus.MetricsFile, "_write", fails)
    runtime = RUNTIME.model_copy(update={"metrics_folder": str(tmp_path / "metrics")})
    folder = bare_workspace(tmp_path / "new")
    make_trouble(folder, crash={"index": 2, "error": "bug"})
    with pytest.raises(StageError, match="a bug"):
        run_stage_serially("assets", folder, runtime)
    no_trouble(folder)
    run_stage_serially("assets", folder, runtime)
    assert capsys.readouterr().err.count("its end was not told everywhere: OSError") == 2


def lineage_file(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(path))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")


def test_events_name_inputs_and_output_by_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lineage_file(monkeypatch, tmp_path / "events.jsonl")
    folder = bare_workspace(tmp_path / "new")
    for stage in ("assets", "prompts"):
        run_stage_serially(stage, folder, RUNTIME)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("assets", "START"),
        ("assets", "COMPLETE"),
        ("prompts", "START"),
        ("prompts", "COMPLETE"),
    ]
    (made,), (read,) = events[1]["outputs"], events[3]["inputs"]
    index = folder / "artifacts/assets/index.json"
    assert made["name"] == read["name"] == str(index.parent)
    assert (
        made["facets"]["version"]["datasetVersion"] == read["facets"]["version"]["datasetVersion"] == sha256_file(index)
    )
    assert events[0]["run"]["runId"] == events[1]["run"]["runId"] != events[2]["run"]["runId"]
    assert events[0]["run"]["facets"]["parent"]["run"]["runId"] == RUN


def test_a_failure_is_an_event_and_a_backend_that_is_away_ends_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bare_workspace(tmp_path / "new")
    with webhook() as (address, posted):
        monkeypatch.setenv("OPENLINEAGE_URL", address.removesuffix("/hook"))
        make_trouble(folder, crash={"index": 2, "error": "bug"})
        with pytest.raises(StageError):
            run_stage_serially("assets", folder, RUNTIME)
    assert [event["eventType"] for event in posted] == ["START", "FAIL"]
    assert "a bug" in posted[1]["run"]["facets"]["errorMessage"]["message"]

    no_trouble(folder)
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY", '{"total": 0}')
    logging.disable()
    run_stage_serially("assets", folder, RUNTIME)
    logging.disable(logging.NOTSET)
    assert "WARNING: assets: the START event of OpenLineage was not taken" in capsys.readouterr().err


def test_an_input_that_is_missing_is_the_error_and_has_no_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage_file(monkeypatch, tmp_path / "events.jsonl")
    with pytest.raises(ShardError, match="run the stage first: syncd run --until assets"):
        run_stage_serially("prompts", bare_workspace(tmp_path / "new"), RUNTIME)
    (failed,) = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert failed["eventType"] == "FAIL" and "run the stage first" in failed["run"]["facets"]["errorMessage"]["message"]
    (read,) = failed["inputs"]
    assert read["name"].endswith("artifacts/assets") and "version" not in read.get("facets", {})


def test_events_are_sent_only_where_openlineage_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not lineage.is_configured()
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "ours")
    assert not lineage.is_configured()
    monkeypatch.setenv("OPENLINEAGE_CONFIG", "openlineage.yml")
    assert lineage.is_configured()


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    with pytest.raises(ConfigError, match=r"pip install 'syncd\[lineage\]'"):
        run_stage_serially("assets", bare_workspace(tmp_path), RUNTIME)


def test_prefect_shows_progress_a_table_and_the_contact_sheet(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.watching import artifacts

    monkeypatch.setattr(artifacts, "CONTACT_SHEET", "sheet.png")
    monkeypatch.setattr("fake_tasks.assets.finalize", with_sheet)
    folder = bare_workspace(tmp_path / "new")
    make_trouble(folder, fail=["object-004"])
    run_stage_flow("assets", folder, RUNTIME.model_copy(update={"runner": "thread"}))
    answer = httpx.post(f"{prefect_server.rstrip('/')}/artifacts/filter", json={"sort": "CREATED_DESC", "limit": 3})
    found = {item["key"]: item for item in answer.json()}
    assert found["assets-progress"]["data"] == 100.0
    assert found["assets-progress"]["description"] == "10 of 10 keys, 1 failed"
    assert "| failed | 1 corrupt |" in found["assets-result"]["data"]
    assert found["contact-sheet"]["data"].startswith("data:image/jpeg;base64,")


def with_sheet(ctx: object, index: object, out_dir: Path) -> dict[str, int]:
    Image.new("RGB", (3000, 1500)).save(out_dir / "sheet.png")
    return {}


def test_the_contact_sheet_is_small_enough_for_a_database(tmp_path: Path) -> None:
    Image.effect_noise((4000, 2000), 60).save(tmp_path / "noise.png")
    assert len(picture_address(tmp_path / "noise.png")) < 800_000
    assert WIDEST_PIXELS == 1024


def test_what_follows_a_stage_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = bare_workspace(tmp_path / "alone")
    run_stage_serially("assets", alone, RUNTIME)
    lineage_file(monkeypatch, tmp_path / "events.jsonl")
    watched = activate(bare_workspace(tmp_path / "watched"))
    run_stage_serially("assets", watched, RUNTIME.model_copy(update={"metrics_folder": str(tmp_path / "metrics")}))
    assert digests(alone, "assets") == digests(watched, "assets")
