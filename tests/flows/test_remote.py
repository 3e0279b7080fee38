"""`syncd push` and `syncd pull` through a DVC remote on S3, into a workspace that has only what git would have."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_workspace import RUNTIME, digests, dvc_workspace, subprocess_environment
from s3_server import S3Server, s3_server
from typer.testing import CliRunner, Result

from configs.errors import ConfigError
from configs.load import RUNTIME_VARIABLE
from data.chain import verify_chain
from data.signing import SigningError, make_keys
from flows.cli import app

STAGES = ("assets", "prompts")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = dvc_workspace(tmp_path_factory.mktemp("finished"))
    environment = {**subprocess_environment(), RUNTIME_VARIABLE: RUNTIME.model_dump_json(), "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet"], cwd=folder, env=environment, check=True)
    return folder


def syncd(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def cloned(finished: Path, folder: Path) -> Path:
    """A workspace with the recipe and dvc.lock, as a clone has them; none of the outputs, no cache."""
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("artifacts", "cache", "tmp", "config.local"))
    return folder


def test_outputs_come_back_in_another_workspace(finished: Path, server: S3Server, tmp_path: Path) -> None:
    fresh = cloned(finished, tmp_path / "fresh")
    with pytest.raises(ConfigError, match=r"no remote is set; set one with: syncd push --remote s3://BUCKET/PREFIX"):
        syncd("pull", "--workspace", str(fresh))
    url = f"{server.make_bucket()}/dvc"
    assert "files pushed" in syncd("push", "--workspace", str(finished), "--remote", url).output
    assert "0 files pushed" in syncd("push", "--workspace", str(finished)).output, "the remote is remembered"
    assert "syncd verify" in syncd("pull", "--workspace", str(fresh), "--remote", url).output
    for stage in STAGES:
        assert digests(fresh, stage) == digests(finished, stage)
    assert verify_chain(fresh, STAGES) == []
    assert "config.local" not in (finished / ".dvc" / "config").read_text()
    assert url not in (finished / ".dvc" / "config").read_text(), "the configuration that git tracks is left alone"


def test_signatures_travel_with_what_they_sign(finished: Path, tmp_path: Path) -> None:
    first, fresh = shutil.copytree(finished, tmp_path / "first"), cloned(finished, tmp_path / "fresh")
    url = (tmp_path / "a remote").as_uri()
    keys = [make_keys(tmp_path / name, None) for name in ("ours", "theirs")]
    syncd("sign", "--key", str(keys[0][0]), "--workspace", str(first))
    assert "2 signatures" in syncd("push", "--workspace", str(first), "--remote", url).output
    assert "2 signatures" in syncd("pull", "--workspace", str(fresh), "--remote", url).output
    pinned = ("verify", "--workspace", str(fresh), "--public-key")
    assert "signed by pinned key" in syncd(*pinned, str(keys[0][1])).output
    syncd("sign", "--key", str(keys[1][0]), "--workspace", str(fresh))
    assert "2 signatures" in syncd("push", "--workspace", str(fresh)).output, "those of the second key alone"
    assert "2 signatures" in syncd("pull", "--workspace", str(first)).output
    assert "0 signatures" in syncd("pull", "--workspace", str(first)).output
    for _, public in keys:
        assert syncd("verify", "--workspace", str(first), "--public-key", str(public)).exit_code == 0


def test_a_signature_of_something_else_in_the_remote_is_refused(finished: Path, tmp_path: Path) -> None:
    fresh = shutil.copytree(finished, tmp_path / "fresh")
    syncd("sign", "--key", str(make_keys(tmp_path / "keys", None)[0]), "--workspace", str(fresh))
    remote = tmp_path / "remote"
    syncd("push", "--workspace", str(fresh), "--remote", remote.as_uri())
    one, other = sorted((remote / "signatures").iterdir())
    shutil.copy(one, other)
    with pytest.raises(SigningError, match="not an envelope of the statement it is named after"):
        syncd("pull", "--workspace", str(fresh))
    other.write_text("{}")
    with pytest.raises(SigningError, match=f"{other.name}: not a DSSE envelope"):
        syncd("pull", "--workspace", str(fresh))


def test_what_is_not_in_the_remote_is_told(finished: Path, server: S3Server, tmp_path: Path) -> None:
    fresh = cloned(finished, tmp_path / "fresh")
    with pytest.raises(ConfigError, match=r"check the remote, its rights and AWS_ENDPOINT_URL \(http://127"):
        syncd("pull", "--workspace", str(fresh), "--remote", f"{server.make_bucket()}/empty")


def test_a_workspace_that_never_ran_has_nothing_to_transfer(finished: Path, tmp_path: Path) -> None:
    fresh = cloned(finished, tmp_path / "fresh")
    (fresh / "dvc.lock").unlink()
    with pytest.raises(ConfigError, match=r"dvc\.lock: missing; run the pipeline, or get the file from where it ran"):
        syncd("push", "--workspace", str(fresh))
