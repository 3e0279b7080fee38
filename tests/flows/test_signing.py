"""Signing as users meet it: the engine signs, runs without keys say so, and verify trusts pinned keys alone."""

import os
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_tasks import attempts
from fake_workspace import RUNTIME, activate, bare_workspace, digests
from typer.testing import CliRunner

from configs.errors import ConfigError
from configs.schema import Runtime
from data.provenance import statement_path
from data.signing import SigningError, envelope_path, keyid_of, make_keys, pinned_keys, read_public_key
from flows.cli import app
from flows.engine import run_stage
from flows.results import print_results
from flows.runners import serial
from flows.signing import sign_workspace, signature_states, signature_summary, signer_of
from flows.status import status, status_json
from flows.verify import verify
from flows.workspace import SIGNING_KEY_VARIABLE, run_environment, signing_key

STAGES = ("assets", "prompts")


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (SIGNING_KEY_VARIABLE, RUNTIME.signing_passphrase_variable):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path / "keys", None)


def signing(private: Path) -> Runtime:
    return RUNTIME.model_copy(update={"signing_key": str(private)})


def made(folder: Path, runtime: Runtime = RUNTIME) -> Path:
    if not folder.exists():
        (bare_workspace(folder) / ".dvc").mkdir()
    for stage in STAGES:
        run_stage(stage, folder, runtime, serial, package="fake_tasks")
    return folder


def syncd(*arguments: str) -> Result:
    """The command in this process: torch, which verify needs for the models, takes seconds to import."""
    return CliRunner().invoke(app, list(arguments))


def texts(workspace: Path) -> dict[str, str]:
    return {state.stage: state.text for state in signature_states(workspace, {})}


def test_the_engine_signs_what_it_publishes_and_no_byte_of_the_result_changes(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    unsigned, workspace = made(tmp_path / "unsigned"), made(tmp_path / "signed", signing(keys[0]))
    pinned = pinned_keys([keys[1]])
    assert verify(workspace, pinned) == ([], list(STAGES))
    (keyid,) = pinned
    assert signature_summary(signature_states(workspace, pinned)) == f"signed by pinned key {keyid[:16]}"
    assert [digests(unsigned, stage) for stage in STAGES] == [digests(workspace, stage) for stage in STAGES]
    assert not list(workspace.glob("artifacts/provenance/*.dsse.json"))


def test_a_run_without_keys_says_unsigned_everywhere(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = made(tmp_path / "work")
    assert not (workspace / "artifacts/signatures").exists()
    print_results(workspace)
    assert "signatures  unsigned" in capsys.readouterr().out
    assert [row["signature"] for row in status_json(status(workspace), workspace)] == ["unsigned", "unsigned"]
    shown = syncd("verify", "-w", str(workspace))
    assert shown.exit_code == 0 and "signatures: unsigned" in shown.stdout
    pinned = syncd("verify", "-w", str(workspace), "--public-key", str(keys[1]))
    assert pinned.exit_code == 1
    for stage in STAGES:
        assert f"{envelope_path(workspace, stage)}: missing" in pinned.stderr


def test_a_signature_whose_key_nobody_pinned_is_said_to_be_unchecked(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    workspace = made(tmp_path / "work", signing(keys[0]))
    keyid = keyid_of(read_public_key(keys[1]))
    shown = syncd("verify", "-w", str(workspace))
    assert shown.exit_code == 0
    assert f"signatures: signed, key not checked (keyid {keyid[:16]})" in shown.stdout


def test_keys_are_made_and_a_workspace_is_signed_afterwards_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    workspace = str(made(tmp_path / "work"))
    assert syncd("keys", "new", "--out", str(tmp_path / "keys")).exit_code == 0
    again = syncd("keys", "new", "--out", str(tmp_path / "keys"))
    assert isinstance(again.exception, SigningError) and "never overwritten" in str(again.exception)
    nothing = syncd("sign", "-w", workspace)
    assert isinstance(nothing.exception, ConfigError) and "no key to sign with: give --key" in str(nothing.exception)
    private, public = (str(tmp_path / "keys" / name) for name in ("signing.key.pem", "signing.pub.pem"))
    done = syncd("sign", "--key", private, "-w", workspace)
    assert done.exit_code == 0 and done.stdout.strip().endswith("assets, prompts")
    assert syncd("verify", "--public-key", public, "-w", workspace).exit_code == 0


def test_signing_again_signs_only_what_is_not_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    workspace, signer = made(tmp_path / "work"), signer_of(signing(keys[0]))
    assert sign_workspace(workspace, signer) == (["assets", "prompts"], [])
    envelope_path(workspace, "prompts").unlink()
    before = envelope_path(workspace, "assets").stat().st_mtime_ns
    assert sign_workspace(workspace, signer) == (["prompts"], ["assets"])
    assert envelope_path(workspace, "assets").stat().st_mtime_ns == before


def test_nothing_is_signed_that_does_not_verify(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    workspace = made(tmp_path / "work")
    (workspace / "artifacts/assets/notes.txt").write_text("other")
    with pytest.raises(ConfigError, match=r"1 problems, so nothing was signed; first: .*notes\.txt"):
        sign_workspace(workspace, signer_of(signing(keys[0])))
    assert texts(workspace) == {"assets": "unsigned", "prompts": "unsigned"}


def test_keys_are_rotated_by_pinning_both(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    second = make_keys(tmp_path / "second", None)
    workspace = made(tmp_path / "work", signing(keys[0]))
    envelope_path(workspace, "prompts").unlink()
    made(workspace, signing(second[0]))
    envelope_path(workspace, "assets").unlink()
    made(workspace, signing(keys[0]))
    assert verify(workspace, pinned_keys([keys[1], second[1]]))[0] == []
    assert [state.problem is None for state in signature_states(workspace, pinned_keys([second[1]]))] == [False, True]


def test_a_key_that_cannot_be_used_stops_a_stage_before_its_work(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    with pytest.raises(SigningError, match=r"gone\.pem: No such file"):
        made(workspace, signing(tmp_path / "gone.pem"))
    encrypted, _ = make_keys(tmp_path / "encrypted", "secret")
    with pytest.raises(SigningError, match="environment variable SYNCD_SIGNING_PASSPHRASE"):
        made(workspace, signing(encrypted))
    assert attempts(workspace) == []


def test_an_encrypted_key_signs_with_its_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_keys(tmp_path / "keys", "secret")
    monkeypatch.setenv("WORD", "secret")
    workspace = made(tmp_path / "work", signing(private).model_copy(update={"signing_passphrase_variable": "WORD"}))
    assert verify(workspace, pinned_keys([public]))[0] == []


def test_the_environment_wins_over_the_runtime_and_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert signing_key(RUNTIME) is None
    assert signing_key(signing(Path("a.pem"))) == tmp_path / "a.pem"
    assert run_environment(tmp_path, signing(Path("a.pem")), "1")[SIGNING_KEY_VARIABLE] == str(tmp_path / "a.pem")
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, "b.pem")
    assert signing_key(signing(Path("a.pem"))) == tmp_path / "b.pem"


def test_a_new_statement_without_a_key_takes_the_old_signature_away_and_says_so(
    tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = made(tmp_path / "work", signing(keys[0]))
    made(workspace)
    assert capsys.readouterr().err == "" and "unsigned" not in texts(workspace).values()
    made(activate(workspace, "seed=7"))
    assert "assets: its statement is new and this run has no signing key" in capsys.readouterr().err
    assert texts(workspace) == {"assets": "unsigned", "prompts": "unsigned"}
    assert verify(workspace)[0] == []


def test_an_envelope_left_behind_without_its_statement_is_a_problem(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    workspace = made(tmp_path / "work", signing(keys[0]))
    statement_path(workspace, "prompts").unlink()
    problems, _ = verify(workspace)
    assert any(str(envelope_path(workspace, "prompts")) in problem for problem in problems)


def test_a_signature_is_made_by_the_key_alone_so_that_signing_again_gives_the_same_bytes(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    workspace = made(tmp_path / "work", signing(keys[0]))
    first = envelope_path(workspace, "assets").read_bytes()
    os.unlink(envelope_path(workspace, "assets"))
    signer = signer_of(signing(keys[0]))
    assert isinstance(signer, Ed25519PrivateKey)
    sign_workspace(workspace, signer)
    assert envelope_path(workspace, "assets").read_bytes() == first
