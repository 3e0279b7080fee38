"""The prompts stage with a language model: in this process, behind a real server, and behind one that misbehaves."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from chat_model import save_chat_model
from chat_server import GOOD, serving

from configs.schema import Runtime
from data.records import PromptRecord
from data.shards import load_index, read_all
from flows import engine
from flows.engine import run_stage
from flows.runners import serial
from flows.worker import StageError
from flows.workspace import choose_recipe, prepare_workspace
from models import registry
from models.miniature.world import export_glb, sample_specs

CAPTIONS = ["A red mug on a beach.", "A red mug in a forest."]
SERVED = "models.writer={name: small, architecture: chat_server, source: 'server:small', revision: v7, licence: MIT}"


@pytest.fixture(autouse=True)
def key_and_no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_TEST_KEY", "secret")
    monkeypatch.setattr(engine, "PAUSE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_model(tmp_path_factory.mktemp("chat") / "small", GOOD)


def recipe_of(*overrides: str, writer: str = SERVED, kind: str = "openai") -> tuple[str, ...]:
    return (
        "models.licences=[Apache-2.0, MIT]",
        writer,
        f"prompts.writer={kind}",
        "prompts.scenes=2",
        "prompts.other_object=0",
        "prompts.eval_background=2",
        "prompts.eval_property=0",
        "prompts.max_new_tokens=80",
        "prompts.temperature=0",
        "render.views_per_set=2",
        "render.max_sets=1",
        "evaluate.references=[1]",
        *overrides,
    )


def workspace_of(folder: Path, *overrides: str) -> Path:
    """Three red mugs, assets done."""
    meshes = folder / "meshes"
    meshes.mkdir(parents=True)
    (spec, *_) = sample_specs(1, 0)
    rows = ["file,caption,licence,category"]
    for number in range(3):
        (meshes / f"mug-{number}.glb").write_bytes(export_glb(spec))
        rows.append(f"mug-{number}.glb,a red mug,CC0-1.0,mug")
    (meshes / "captions.csv").write_text("\n".join(rows))
    workspace = folder / "run"
    activate(workspace, f"assets.folder={meshes}", *overrides)
    run_stage("assets", workspace, runtime(None), serial)
    return workspace


def activate(workspace: Path, *overrides: str) -> None:
    prepare_workspace(workspace, choose_recipe(workspace, "folder", overrides))


def runtime(url: str | None, **changes: object) -> Runtime:
    settings = {"llm_retries": 2, "llm_timeout_s": 20.0, "llm_key_variable": "SYNCD_TEST_KEY", "min_free_disk_gb": 0}
    return Runtime(runner="thread", workers=1, device="cpu", llm_base_url=url, **(settings | changes))


def records(workspace: Path) -> list[PromptRecord]:
    folder = workspace / "artifacts" / "prompts"
    return [PromptRecord.model_validate(sample.record) for sample in read_all(folder, load_index(folder))]


def test_a_model_of_this_process_writes_the_prompts(tmp_path: Path, chat_folder: Path) -> None:
    digest = registry.folder_digest(chat_folder)
    writer = (
        f"models.writer={{name: small, architecture: causal_lm, source: 'folder:{chat_folder}', revision: {digest}, "
        "licence: MIT}"
    )
    workspace = workspace_of(tmp_path, *recipe_of("prompts.dtype=float32", writer=writer, kind="transformers"))
    run_stage("prompts", workspace, runtime(None), serial)
    assert [[prompt.text for prompt in record.prompts] for record in records(workspace)] == [CAPTIONS] * 3
    assert {record.writer for record in records(workspace)} == {f"small@{digest}"}


def test_a_real_server_writes_them_and_a_second_run_asks_nothing(tmp_path: Path, chat_folder: Path) -> None:
    served = SERVED.replace("server:small", f"server:{chat_folder}")
    workspace = workspace_of(tmp_path, *recipe_of(writer=served))
    with transformers_serve(chat_folder) as url:
        run_stage("prompts", workspace, runtime(url), serial)
        assert [[prompt.text for prompt in record.prompts] for record in records(workspace)] == [CAPTIONS] * 3
    activate(workspace, f"assets.folder={tmp_path / 'meshes'}", *recipe_of("prompts.min_words=3", writer=served))
    run_stage("prompts", workspace, runtime(url), serial)  # the server is gone
    assert [[prompt.text for prompt in record.prompts] for record in records(workspace)] == [CAPTIONS] * 3


def test_a_server_that_misbehaves_gives_the_same_prompts(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, *recipe_of())
    trouble = ("429", "500", "timeout", "truncated", "chatty", "503", "400", "cut")
    with serving(*trouble, slow=0.6) as server:
        run_stage("prompts", workspace, runtime(server.url, llm_timeout_s=0.4, llm_concurrency=2), serial)
    assert set(trouble) <= set(server.counted)
    made = records(workspace)
    assert [sorted(prompt.text for prompt in record.prompts) for record in made] == [sorted(CAPTIONS)] * 3
    reasons = {item.reason for record in made for item in record.rejected}
    assert {"truncated", "chatter", "refused"} <= reasons


def test_an_object_without_usable_captions_fails_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, *recipe_of("prompts.max_rounds=2", "prompts.max_failed_fraction=0.5"))
    with serving("filtered", "good", "good", "400") as server:
        run_stage("prompts", workspace, runtime(server.url, llm_concurrency=1), serial)
    index = load_index(workspace / "artifacts" / "prompts")
    (failure,) = index.failed
    assert (len(index.keys), failure.reason) == (2, "too_few_prompts")
    assert "0 of 2 " in failure.detail and "refused 2" in failure.detail and "this is error 400" in failure.detail


def test_a_dead_server_stops_the_stage_with_the_fix_and_answers_are_kept(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, *recipe_of("prompts.shard_size=1"))
    with (
        serving("good", *["503"] * 99) as server,
        pytest.raises(StageError, match=r"said 503 .* lower llm_concurrency"),
    ):
        run_stage("prompts", workspace, runtime(server.url, llm_retries=1, retries=1), serial)
    with serving() as healthy:
        run_stage("prompts", workspace, runtime(healthy.url), serial)
    assert len(healthy.requests) == 2


@pytest.mark.parametrize(
    ("missing", "words"),
    [("url", "llm_base_url is not set"), ("key", "the environment variable SYNCD_TEST_KEY is not set")],
)
def test_a_server_that_cannot_be_asked_is_an_error_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, words: str
) -> None:
    workspace = workspace_of(tmp_path, *recipe_of())
    if missing == "key":
        monkeypatch.delenv("SYNCD_TEST_KEY")
    with serving() as server, pytest.raises(StageError, match=words):
        run_stage("prompts", workspace, runtime(None if missing == "url" else server.url), serial)
    assert server.requests == []


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--device", "cpu"]
    log = folder.parent / "serve.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*command, "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")
