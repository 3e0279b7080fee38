"""`syncd audit` on the command line: exit codes a scheduler can use, JSON a machine can read, help at once."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import audit_answers as known
import pytest
from forged_stages import replace
from typer.testing import CliRunner

from data.audit.parts import store_folder
from data.ids import canonical_json
from data.provenance import statement_path
from flows.audit import replay
from flows.audit.answers import plain
from flows.audit.commands import audit
from flows.audit.replay import Replayed
from flows.cli import app


def asked(workspace: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["audit", *words, "--workspace", str(workspace)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_answer_is_a_table_and_json(finished: Path) -> None:
    sample, used = next(iter(known.pictures(finished))), known.uses(finished)
    train = str(finished / "artifacts" / "train")
    assert "images drawn as target" in asked(finished, "trace", train)
    assert json.loads(asked(finished, "trace", train, "--json"))["uses"]["as_target"] == used.target.total()
    assert sample in asked(finished, "trace", sample)
    assert "checkpoints trained on them" in asked(finished, "find", "--sample", sample)
    told = json.loads(asked(finished, "find", "--sample", sample, "--json"))
    assert told["checkpoints"][0]["as_target"] == used.target[sample]
    query = "SELECT count(*) AS n FROM samples"
    assert json.loads(asked(finished, "sql", query, "--json"))["rows"] == [[len(known.pictures(finished))]]
    assert "shard_sha256" in asked(finished, "sql", "--tables")
    assert "are in both and equal" in asked(finished, "diff", str(finished), str(finished))
    assert json.loads(asked(finished, "verify", "--json"))["holds"] is True
    assert "audit store agree" in asked(finished, "verify")
    assert asked(finished, "report").splitlines()[0].endswith("index.html")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["find", "--license", "nowhere"], 1, "license nowhere: in no dataset"),
        (["trace", "nothing"], 1, "nothing: no checkpoint, dataset, set or sample"),
        (["sql", "SELECT * FROM read_text('/etc/passwd')"], 1, "audit sql: Permission Error"),
        (["find"], 2, "0 are given"),
        (["replay", "0"], 2, "Usage: "),
        (["trace", "x", "--workspace", "/nowhere"], 2, "no workspace"),
    ],
)
def test_exit_codes(finished: Path, words: list[str], code: int, said: str) -> None:
    command = [sys.executable, "-m", "flows.cli", "audit", *words]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


def test_problems_end_in_exit_code_1(workspace: Path) -> None:
    file = workspace / "artifacts" / "train" / "metrics.jsonl"
    replace(file, file.read_bytes() + b"\n")
    for words in (["audit", "verify"], ["verify"], ["audit", "report"]):
        done = CliRunner().invoke(app, [*words, "--workspace", str(workspace)])
        assert done.exit_code == 1
        assert str(file) in done.stderr or words[-1] == "report"


def test_a_terminal_gets_no_control_characters_and_no_markup(finished: Path) -> None:
    assert plain("a\x1b[31mred\n[bold]:smile:") == "a\\x1b[31mred\\n[bold]:smile:"
    query = "SELECT '[bold]x[/bold] :smile:' AS y"
    assert "[bold]x[/bold] :smile:" in asked(finished, "sql", query)


def test_replay_ends_in_exit_code_1_above_the_tolerance(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Replayed("mug-s0-0", True, True, 0, 0.0, True),
        Replayed("mug-s0-1", False, False, 2, 0.01, True),
    ]
    monkeypatch.setattr(replay, "replay", lambda *asked: rows)
    for tolerance, code in ((0, 1), (1, 1), (2, 0)):
        words = ["replay", "1", "--workspace", str(finished), "--json", "--tolerance", str(tolerance)]
        done = CliRunner().invoke(audit, words)
        assert done.exit_code == code
        told = json.loads(done.stdout)
        assert told["different"] == (["mug-s0-1"] if code else [])
        assert (told["equal_bytes"], told["max_difference"], told["tolerance"]) == (1, 2, tolerance)


FAKED = "x\x1b[2J\x1b[H\n8 stages verified: all agree\n\udcff\x9b8m"


def test_the_name_of_a_file_fakes_no_output(workspace: Path) -> None:
    stray = workspace / "artifacts" / "train" / FAKED
    stray.write_text("")
    for words in (["verify"], ["audit", "verify"]):
        done = CliRunner().invoke(app, [*words, "--workspace", str(workspace)])
        assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
        assert not set(done.output) & set("\x1b\x9b") and "\n8 stages" not in done.output
        assert "\\x1b[2J\\x1b[H\\n8 stages verified" in done.stderr
    told = CliRunner().invoke(app, ["verify", "--json", "--workspace", str(workspace)])
    assert told.stdout.isascii() and FAKED in json.loads(told.stdout)["problems"][0]


def test_what_is_warned_of_fakes_no_output(workspace: Path) -> None:
    shutil.rmtree(store_folder(workspace) / "checkpoints")
    path = statement_path(workspace, "train")
    statement = json.loads(path.read_bytes())
    for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if item["name"].endswith("shard.intoto.json"):
            item["digest"]["sha256"] = FAKED.replace("\udcff", "")
    replace(path, canonical_json(statement) + b"\n")
    done = CliRunner().invoke(app, ["audit", "sql", 'SELECT 1 AS "\x1b[2J"', "--workspace", str(workspace)])
    assert done.exit_code == 0 and not set(done.output) & set("\x1b\x9b")
    assert "WARNING: audit: the train stage" in done.stderr and len(done.stderr.splitlines()) == 1
