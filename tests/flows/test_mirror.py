"""Machines that share no disk, only a store: they share work, end in the digests of a lone run, and lose nothing."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_tasks import attempts
from fake_workspace import (
    RUNTIME,
    activate,
    bare_workspace,
    digests,
    make_trouble,
    no_trouble,
    subprocess_environment,
)
from s3_server import SLOW_DOWN, S3Server, s3_server

from configs.errors import ConfigError
from configs.load import RUNTIME_VARIABLE, validated
from configs.schema import Runtime
from data import store as store_module
from data.chain import verify_chain
from data.origin import origin_of
from data.provenance import statement_path
from data.shards import Receipt, ShardError, load_index
from data.signing import make_keys, pinned_keys, signature_state
from data.stage import WORK, StageContext
from data.store import Store
from flows import engine
from flows.batch import run_share
from flows.engine import StageResult, run_stage
from flows.graph import Graph
from flows.requeue import requeue_failed
from flows.runners import serial
from flows.worker import RUN_ID_VARIABLE, StageError
from flows.workspace import queued_mark

STAGES = ("assets", "prompts")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(store_module, "PAUSES_SECONDS", (0.0, 0.0))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def url(server: S3Server) -> str:
    server.fault = None
    return f"{server.make_bucket()}/syncd"


def run(folder: Path, url: str | None, stage: str = "assets") -> StageResult:
    return run_stage(stage, folder, runtime(url), serial, package="fake_tasks")


def one(folder: Path, url: str, stage: str, index: int) -> Receipt:
    return next(run_share(stage, index, None, folder, runtime(url), package="fake_tasks"))


def runtime(url: str | None) -> Runtime:
    return RUNTIME.model_copy(update={"store": url})


def folder_of(url: str, workspace: Path, stage: str = "assets") -> Store:
    signature = load_index(workspace / "artifacts" / stage).signature
    return Store(f"{url}/{stage}/{signature[:16]}")


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of a run without a store."""
    folder = bare_workspace(tmp_path_factory.mktemp("lone"))
    for stage in STAGES:
        run(folder, None, stage)
    return {stage: digests(folder, stage) for stage in STAGES}


def test_two_machines_share_the_shards_and_end_as_a_lone_run(tmp_path: Path, url: str, lone: dict) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    for index in (0, 2):
        one(first, url, "assets", index)
    for index in (1, 2, 3):
        one(second, url, "assets", index)
    assert attempts(second) == ["assets-1", "assets-3"], "shard 2 was made by the other machine"
    assert run(first, url).reused == 4
    one(second, url, "prompts", 1)
    one(first, url, "prompts", 0)
    assert run(first, url, "prompts").reused == 2
    assert folder_of(url, first).create(f"{WORK}/step-1", b"of a maker that another one overtook")
    for stage in STAGES:
        assert run(second, url, stage).shards == 4
    made = sorted(attempts(first) + attempts(second))
    assert made == sorted(f"{stage}-{index}" for stage in STAGES for index in range(4)), (
        "each shard once, on one of them"
    )
    for folder in (first, second):
        assert {stage: digests(folder, stage) for stage in STAGES} == lone
        assert verify_chain(folder, STAGES) == []
    for stage in STAGES:
        assert statement_path(first, stage).read_bytes() == statement_path(second, stage).read_bytes()
        stored = folder_of(url, first, stage)
        assert not [name for name in stored.list() if name.startswith(WORK)]
        for name, digest in lone[stage].items():
            stored.fetch(name, tmp_path / "copy", (first / "artifacts" / stage / name).stat().st_size, digest)


DRIVER = """
import sys
from pathlib import Path
from configs.load import load_runtime
from flows.engine import run_stage
from flows.runners import serial

run_stage("assets", Path(sys.argv[1]), load_runtime(), serial, package="fake_tasks")
"""


def test_drivers_without_a_shared_disk_divide_the_shards(tmp_path: Path) -> None:
    folders = [bare_workspace(tmp_path / name, "assets.shard_size=1", "assets.count=60") for name in ("a", "b")]
    environment = {
        **subprocess_environment(),
        RUNTIME_VARIABLE: runtime(f"file://{tmp_path}/store").model_dump_json(),
    }
    for folder in folders:
        make_trouble(folder, sleep=0.05)
    drivers = [subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)], env=environment) for folder in folders]
    assert [driver.wait() for driver in drivers] == [0, 0]
    made = [line for folder in folders for line in attempts(folder)]
    assert len(set(made)) == 60
    assert len(made) < 90, "each of them made what the other made"
    assert digests(folders[0], "assets") == digests(folders[1], "assets")


def test_a_shard_that_two_machines_made_is_told(tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    one(first, url, "assets", 0)
    one(first, url, "assets", 0)
    assert capfd.readouterr().err == ""
    make_trouble(second, sleep=0.01)
    one(second, None, "assets", 0)
    one(second, url, "assets", 0)
    assert "assets: shard 0: another machine has made it too; the bytes are equal" in capfd.readouterr().err


def test_a_machine_with_nothing_makes_a_shard_of_a_later_stage_and_fetches_what_it_reads(
    tmp_path: Path, url: str, lone: dict
) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    with pytest.raises(
        ShardError, match=r"prompts needs assets, which is neither in .* nor in the store: .*--until assets"
    ):
        one(second, url, "prompts", 2)
    run(first, url)
    receipt = one(second, url, "prompts", 2)
    assert receipt.sha256 == lone["prompts"]["000002.tar"]
    assets = second / "artifacts" / "assets"
    assert {path.name for path in assets.glob("*.tar")} == {"000002.tar"}
    assert origin_of(assets) == folder_of(url, first).url
    assert run(second, url).reused == 4
    assert origin_of(assets) is None
    assert digests(second, "assets") == lone["assets"]
    assert attempts(second) == ["prompts-2"]


def test_tasks_of_one_machine_bring_an_input_once_and_together(
    tmp_path: Path, url: str, server: S3Server, lone: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    run(first, url)
    monkeypatch.setattr(server, "latency", 0.02)
    before = len(server.requests)
    with ThreadPoolExecutor(4) as tasks:
        receipts = list(tasks.map(lambda index: one(second, url, "prompts", index), range(4)))
    assert [receipt.sha256 for receipt in receipts] == [lone["prompts"][receipt.name] for receipt in receipts]
    fetched = [path for method, path in server.requests[before:] if method == "GET" and path.endswith("/notes.txt")]
    assert len(fetched) == 1
    assert not list((second / "artifacts").glob(".assets.*"))


def test_an_input_is_brought_again_when_its_failed_keys_were_tried_again(tmp_path: Path, url: str, lone: dict) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    make_trouble(first, fail=["object-004"])
    run(first, url)
    no_trouble(first)
    one(second, url, "prompts", 0)
    kept = (second / "artifacts" / "assets" / "000000.tar").stat().st_ino
    requeue_failed(first, "assets", runtime=runtime(url))
    with pytest.raises(
        ShardError, match=r"prompts needs assets, which was brought to .* and left the store: .*--until"
    ):
        one(second, url, "prompts", 1)
    run(first, url)
    assert one(second, url, "prompts", 1).sha256 == lone["prompts"]["000001.tar"]
    assert (second / "artifacts" / "assets" / "index.json").read_bytes() == (
        first / "artifacts" / "assets" / "index.json"
    ).read_bytes()
    assert (second / "artifacts" / "assets" / "000000.tar").stat().st_ino == kept, "the same shard is not fetched again"
    assert run(first, url, "prompts").reused == 1


def test_signatures_are_in_the_store_and_come_with_what_they_sign(tmp_path: Path, url: str) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    private, public = make_keys(tmp_path / "keys", None)
    signing = runtime(url).model_copy(update={"signing_key": str(private)})
    run_stage("assets", first, signing, serial, package="fake_tasks")
    one(second, url, "prompts", 2)
    assert "signed by pinned key" in signature_state(second, "assets", pinned_keys([public])).text
    run(second, url, "prompts")
    assert signature_state(second, "prompts", {}).text == "unsigned"
    run_stage("prompts", first, signing, serial, package="fake_tasks")
    run(second, url, "prompts")
    assert "signed by pinned key" in signature_state(second, "prompts", pinned_keys([public])).text


def test_machines_that_publish_a_stage_at_once_end_with_one_statement(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (bare_workspace(tmp_path / name) for name in ("first", "second", "third"))
    private, public = make_keys(tmp_path / "keys", None)
    signing = runtime(url).model_copy(update={"signing_key": str(private)})
    state = engine.state

    def overtaken(graph: Graph, ctx: StageContext, *others: Any) -> dict[str, Any]:
        monkeypatch.setattr(engine, "state", state)
        run(first, url)
        monkeypatch.setenv(RUN_ID_VARIABLE, "another")
        return state(graph, ctx, *others)

    monkeypatch.setattr(engine, "state", overtaken)
    run_stage("assets", second, signing, serial, package="fake_tasks")
    stored = folder_of(url, first).read("statement.intoto.json")
    for folder in (first, second):
        assert statement_path(folder, "assets").read_bytes() == stored
    assert "signed by pinned key" in signature_state(second, "assets", pinned_keys([public])).text
    run(second, url, "prompts")
    run(first, url, "prompts")
    run(third, url)
    run(third, url, "prompts")
    for folder in (first, second, third):
        assert verify_chain(folder, STAGES) == []
    assert "signed by pinned key" in signature_state(third, "assets", pinned_keys([public])).text


def test_a_statement_that_names_other_parameters_replaces_the_one_before(
    tmp_path: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = bare_workspace(tmp_path)
    run(folder, url)
    run(activate(folder, "assets.max_failed_fraction=0.5"), url)
    assert folder_of(url, folder).read("statement.intoto.json") == statement_path(folder, "assets").read_bytes()
    assert "WARNING: assets: " in capfd.readouterr().err


def test_inputs_that_were_brought_follow_the_recipe_and_own_ones_are_left_alone(tmp_path: Path, url: str) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    run(first, url)
    run(activate(first, "seed=1"), url)
    one(second, url, "prompts", 0)
    before = load_index(second / "artifacts" / "assets").signature
    one(activate(second, "seed=1"), url, "prompts", 0)
    after = load_index(second / "artifacts" / "assets").signature
    assert before != after == load_index(first / "artifacts" / "assets").signature
    one(activate(first), url, "prompts", 1)
    assert load_index(first / "artifacts" / "assets").signature == after, "published here: for syncd run to replace"


def test_shards_made_before_there_was_a_store_are_stored(tmp_path: Path, url: str, lone: dict) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    run(first, None)
    assert run(first, url).reused == 4
    assert run(second, url).reused == 4
    assert digests(second, "assets") == lone["assets"]


KILLED = """
import os, sys
from pathlib import Path
from configs.load import load_runtime
from data.signing import make_keys, signature_state
from data.store import Store
from flows.batch import run_share

Store.create = lambda self, name, data: os._exit(9)
next(run_share("assets", 1, None, Path(sys.argv[1]), load_runtime(), package="fake_tasks"))
"""


def test_a_machine_that_dies_between_tar_and_receipt_loses_nothing(tmp_path: Path, url: str, lone: dict) -> None:
    dead, other = bare_workspace(tmp_path / "dead"), bare_workspace(tmp_path / "other")
    environment = {**subprocess_environment(), RUNTIME_VARIABLE: runtime(url).model_dump_json()}
    done = subprocess.run([sys.executable, "-c", KILLED, str(dead)], env=environment, check=False)
    assert done.returncode == 9
    run(other, None)
    there = folder_of(url, other).list()
    assert list(there) == ["000001.tar"], "no receipt: the shard does not count as made"
    (other / "attempts.log").unlink()
    fresh = bare_workspace(tmp_path / "fresh")
    assert run(fresh, url).reused == 0
    assert digests(fresh, "assets") == lone["assets"]
    run(dead, url)
    assert attempts(dead) == ["assets-1"], "its own shard was finished, and the rest was there"
    assert digests(dead, "assets") == lone["assets"]


def test_a_corrupt_object_is_refused_by_name_with_the_way_out(tmp_path: Path, url: str, lone: dict) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    run(first, url)
    store = folder_of(url, first)
    data = store.read("000002.tar")
    store.delete("000002.tar")
    store.create("000002.tar", data[:700] + b"?" + data[701:])
    with pytest.raises(
        ShardError, match=rf"assets: {store.url}/000002\.tar: sha256 .*delete {store.url}/000002\.json and"
    ):
        run(second, url)
    assert not (second / "artifacts" / "assets").exists()
    store.delete("000002.json")
    store.delete("000002.tar")
    assert run(second, url).reused == 3
    assert attempts(second) == ["assets-2"]
    assert digests(second, "assets") == lone["assets"]


@pytest.mark.parametrize("content", [b"{}", b"not JSON", None])
def test_a_receipt_that_is_none_is_refused(tmp_path: Path, url: str, content: bytes | None) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    run(first, url)
    store = folder_of(url, first)
    other = store.read("000001.json")
    store.delete("000000.json")
    store.create("000000.json", other if content is None else content)
    with pytest.raises(ShardError, match=r"000000\.json: not (a|the) receipt.*; delete it to make the shard again"):
        run(second, url)


def test_a_damaged_receipt_or_index_in_the_store_is_told_in_a_line(tmp_path: Path, url: str) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    make_trouble(first, fail=["object-004"])
    run(first, url)
    store = folder_of(url, first)
    for name in ("000002.json", "index.json"):
        data = store.read(name)
        store.delete(name)
        store.create(name, data[:100])
    with pytest.raises(ShardError, match=r"000002\.json: not a receipt; delete it to make the shard again"):
        requeue_failed(second, "assets", runtime=runtime(url))
    with pytest.raises(ShardError, match=rf"{store.url}/index\.json: not the index of a stage"):
        one(second, url, "prompts", 0)


def test_machines_that_make_other_bytes_under_one_signature_are_told_so(tmp_path: Path, url: str) -> None:
    """Here one of them fails a key: the tars and the receipts differ."""
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    make_trouble(second, fail=["object-001"])
    made = one(first, url, "assets", 0)
    differing = one(second, None, "assets", 0)
    assert made.sha256 != differing.sha256
    told = (
        rf"vouches for sha256 {differing.sha256}, failed 1, but {url}/.*000000\.json for {made.sha256}, failed 0, under"
    )
    with pytest.raises(ShardError, match=told):
        one(second, url, "assets", 0)
    with pytest.raises(ShardError, match=told):
        run(second, url)
    (receipt,) = (second / "artifacts" / ".work" / "assets").glob("*/000000.json")
    receipt.unlink()
    assert one(second, url, "assets", 0) == made
    stored = Store(f"{url}/assets/{made.signature[:16]}")
    stored.delete("000000.json")
    receipt.write_text(differing.model_dump_json(indent=1))
    with pytest.raises(ShardError, match=rf"no receipt vouches for what is there; delete {stored.url}/000000\.tar"):
        run(second, url)


def test_failed_keys_are_tried_again_on_every_machine(tmp_path: Path, url: str, lone: dict) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    make_trouble(first, fail=["object-001"])
    run(first, url)
    no_trouble(first)
    assert run(second, url).failed == {"corrupt": 1}
    (queued,) = requeue_failed(second, "assets", runtime=runtime(url))
    assert (queued.keys, queued.shards) == (["object-001"], [0])
    assert run(second, url).reused == 3
    assert digests(second, "assets") == lone["assets"]
    third = bare_workspace(tmp_path / "third")
    assert run(third, url).reused == 4
    assert digests(third, "assets") == lone["assets"]
    assert run(first, url).reused == 4, "it takes what came of the retry, in place of what it had made"
    assert digests(first, "assets") == lone["assets"]


def test_a_machine_does_not_bring_back_a_shard_that_was_queued_again(tmp_path: Path, url: str, lone: dict) -> None:
    """It holds the receipt, and the retry was asked for on another machine."""
    driver, maker, other = (bare_workspace(tmp_path / name) for name in ("driver", "maker", "other"))
    for folder in (maker, other):
        make_trouble(folder, fail=["object-004", "object-009"])
    for index in range(4):
        one(maker, url, "assets", index)
    one(other, None, "assets", 1)
    for folder in (maker, other):
        no_trouble(folder)
    make_trouble(other, fail=["object-009"])
    run(driver, url)
    requeue_failed(driver, "assets", runtime=runtime(url))
    assert run(other, url).failed == {"corrupt": 1}
    assert sorted(attempts(other)) == ["assets-1", "assets-3"], "object-009 fails again, as before"
    one(maker, url, "assets", 1)
    one(maker, url, "assets", 3)
    assert attempts(maker) == [], "what the other one made"
    requeue_failed(driver, "assets", runtime=runtime(url))
    assert one(maker, url, "assets", 3).failed == []
    assert run(driver, url).reused == 4
    assert digests(driver, "assets") == lone["assets"]
    fresh = bare_workspace(tmp_path / "fresh")
    assert run(fresh, url).reused == 4
    assert verify_chain(fresh, ["assets"]) == []


@pytest.mark.parametrize("calls", range(12))
def test_a_retry_that_was_killed_can_be_repeated(
    tmp_path: Path, lone: dict, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Killed at each change that it makes to the store and to the receipts here."""
    url, folder, left = f"file://{tmp_path}/store", bare_workspace(tmp_path / "folder"), [calls]
    make_trouble(folder, fail=["object-004"])
    run(folder, url)
    no_trouble(folder)

    def counted(function: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise SystemExit(143)
            return function(*arguments, **options)

        return step

    with monkeypatch.context() as patch:
        for kind, name in ((Store, "create"), (Store, "delete"), (Path, "unlink"), (Path, "touch")):
            patch.setattr(kind, name, counted(getattr(kind, name)))
        with suppress(SystemExit):
            requeue_failed(folder, "assets", runtime=runtime(url))
    requeue_failed(folder, "assets", runtime=runtime(url))
    assert queued_mark(folder, "assets").exists()
    assert run(folder, url).reused == 3
    assert digests(folder, "assets") == lone["assets"]
    assert run(bare_workspace(tmp_path / "fresh"), url).reused == 4


def test_stages_that_come_out_differently_are_not_published_over_each_other(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    run(first, url)
    import fake_tasks.assets

    monkeypatch.setattr(fake_tasks.assets, "finalize", lambda ctx, index, out_dir: {"objects": -1})
    with pytest.raises(ShardError, match=r"index\.json: .* different files under one signature"):
        run(second, url)
    folder_of(url, first).delete("index.json")
    with pytest.raises(ShardError, match=r"metrics\.json: .* different files under one signature .*\.work/assets"):
        run(second, url)


def test_receipts_of_others_alone_can_be_queued_again(tmp_path: Path, url: str, lone: dict) -> None:
    """The stage was not published, here or there: too much has failed."""
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    make_trouble(first, fail=["object-001", "object-002", "object-004"])
    for folder in (first, second):
        with pytest.raises(StageError, match="3 of 10 keys failed"):
            run(folder, url)
    assert attempts(second) == []
    (queued,) = requeue_failed(second, "assets", runtime=runtime(url))
    assert (queued.keys, queued.shards) == (["object-001", "object-002", "object-004"], [0, 1])
    assert run(second, url).reused == 2
    assert digests(second, "assets") == lone["assets"]


def test_a_store_that_cannot_be_reached_stops_the_stage_and_keeps_its_shards(
    tmp_path: Path, url: str, server: S3Server, lone: dict
) -> None:
    folder = bare_workspace(tmp_path)
    server.fault = lambda request: SLOW_DOWN if request[0] == "PUT" and request[1].endswith("2.tar") else None
    with pytest.raises(StageError, match=r"assets: shard 2: StoreError: .*000002\.tar: .*tried 3 times"):
        run(folder, url)
    server.fault = None
    assert run(folder, url).reused >= 1, "shard 2, and those that this driver began before it"
    assert sorted(attempts(folder)) == [f"assets-{index}" for index in range(4)]
    assert digests(folder, "assets") == lone["assets"]


def test_a_store_on_a_disk_does_the_same(tmp_path: Path, lone: dict) -> None:
    first, second = bare_workspace(tmp_path / "first"), bare_workspace(tmp_path / "second")
    url = f"file://{tmp_path}/mounted/store"
    one(first, url, "assets", 3)
    assert run(second, url).reused == 1
    assert run(first, url).reused == 4
    assert digests(first, "assets") == digests(second, "assets") == lone["assets"]
    assert not list((tmp_path / "mounted").rglob("*.tmp"))


def test_a_runtime_with_another_kind_of_store_is_refused() -> None:
    with pytest.raises(ConfigError, match="store is 'https://host/a'"):
        validated(Runtime, {"store": "https://host/a"}, "runtime")
