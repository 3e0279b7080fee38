"""Tiny stages for tests of the engine: real shards, and trouble on request.

`trouble.json` in the workspace says what goes wrong: {"fail": [keys], "crash": {"index": i, "error": name, "times": n,
"after": keys that the shard gets first}, "sleep": seconds}. Every attempt at a shard adds a line to `attempts.log`.
"""

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from data.shards import ShardWriter
from data.stage import ShardSpec, StageContext


class FlakyError(Exception):
    transient = True


ERRORS = {
    "memory": lambda: MemoryError("out of memory"),
    "bug": lambda: ValueError("a bug"),
    "flaky": lambda: FlakyError("the back end did not answer"),
    "timeout": lambda: TimeoutError("no answer within 5 s"),
    "disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
}


def trouble_of(workspace: Path) -> dict[str, Any]:
    path = workspace / "trouble.json"
    return json.loads(path.read_text()) if path.exists() else {}


def attempts(workspace: Path) -> list[str]:
    path = workspace / "attempts.log"
    return path.read_text().split() if path.exists() else []


def make_samples(
    ctx: StageContext, spec: ShardSpec, out: ShardWriter, records: dict[str, dict[str, Any]], data: bytes | None = None
) -> None:
    trouble = trouble_of(ctx.workspace)
    with (ctx.workspace / "attempts.log").open("a") as stream:
        stream.write(f"{ctx.stage}-{spec.index}\n")
    mine = sum(line == f"{ctx.stage}-{spec.index}" for line in attempts(ctx.workspace))
    crash = trouble.get("crash", {})
    for key in spec.keys:
        time.sleep(trouble.get("sleep", 0))
        due = len(out.keys) + len(out.failed) >= crash.get("after", 0)
        if crash.get("index") == spec.index and mine <= crash.get("times", 1000) and due:
            if crash["error"] == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ERRORS[crash["error"]]()
        if key in trouble.get("fail", []):
            out.fail(key, "corrupt", f"{key} cannot be read")
        else:
            out.add(key, records[key], {"bin": key.encode() * 50 if data is None else data})
