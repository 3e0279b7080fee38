"""The models of a workspace: every checkpoint that was judged, which one is current, and the history of that.

    artifacts/models/
      history.jsonl       promotions, refusals and roll-backs, one a line: what was decided, why, when and by whom
      current.json        the current model, for whoever serves it; follows from the history
      <sha256, 16 characters>/
        pytorch_lora_weights.safetensors, provenance/*.intoto.json and their envelopes, model.json
        evaluations/<yardstick, 16 characters>/images.parquet, table.md, metrics.json

The folder is neither an output of DVC nor in git: DVC keeps one state of the pipeline and deletes what belongs to
another, and this is what several of them left behind. Models are copies, whole before they appear, and never change.
"""

import getpass
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from configs.errors import ConfigError
from data.ids import canonical_json
from data.provenance import statement_path
from data.revocation import load_revocations
from data.shards import ShardError, sha256_file, write_atomic
from data.signing import envelope_path
from flows.graph import load_graph
from flows.worker import RUN_ID_VARIABLE
from models.evaluation.tables import Scores
from models.header import FILE_NAME, read_metadata
from models.training.record import CheckpointRecord

SHORT = 16
EVALUATE = "evaluate"
SCORES = "images.parquet"
BESIDE = ("table.md", "metrics.json")
Event = Literal["promoted", "refused", "rolled_back"]


class Decision(BaseModel):
    """One line of the history."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    time: str
    event: Event
    digest: str
    """sha256 of the weights file."""
    before: str | None
    """The model that was current when this was decided."""
    anchor: str | None = None
    """Of a promotion: the anchor from here on (models/evaluation/promotion.py), if not this model."""
    reason: str
    by: str
    run_id: str
    comparison: dict[str, Any] | None = None


@dataclass(frozen=True)
class Model:
    digest: str
    folder: Path
    record: CheckpointRecord

    @property
    def short(self) -> str:
        return self.digest[:SHORT]

    @property
    def file(self) -> Path:
        return self.folder / FILE_NAME


class Store:
    """Of one workspace. What changes it must hold the workspace (flows/workspace.locked)."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.folder = workspace / "artifacts" / "models"

    def models(self) -> list[Model]:
        """In the order of their digests."""
        return [self._model(path.parent) for path in sorted(self.folder.glob("[0-9a-f]*/model.json"))]

    def find(self, digest: str) -> Model:
        """The one whose digest begins so; ConfigError if none or several do."""
        found = [model for model in self.models() if model.digest.startswith(digest)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(model.short for model in found or self.models()) or "none"
        raise ConfigError(f"model {digest!r} is {'ambiguous' if found else 'not known'}; known: {known}")

    def current(self) -> Model | None:
        line = self._line()
        return self.find(line[-1].digest) if line else None

    def anchor(self) -> Model | None:
        """What a candidate must not fall behind, beside the current model; often that one."""
        line = self._line()
        return self.find(line[-1].anchor or line[-1].digest) if line else None

    def earlier(self) -> str | None:
        """Digest of the model that was current before the current one was promoted."""
        line = self._line()
        return line[-2].digest if len(line) > 1 else None

    def _line(self) -> list[Decision]:
        """The decisions that led to the current model, no model twice in a row; a roll-back takes back those after
        the last time that its target was made current."""
        line: list[Decision] = []
        for decision in self.history():
            places = [place for place, made in enumerate(line) if made.digest == decision.digest]
            if decision.event == "rolled_back" and places:
                del line[places[-1] + 1 :]
            elif decision.event != "refused" and (not line or line[-1].digest != decision.digest):
                line.append(decision)
        return line

    def history(self) -> list[Decision]:
        """Oldest first. A last line without its end, from a write that was killed, does not count."""
        path = self.folder / "history.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [Decision.model_validate_json(line) for line in lines if line.endswith(b"\n")]

    def last_word(self, digest: str) -> Decision | None:
        """The latest decision about a model, or the roll-back that took it out of its place."""
        for decision in reversed(self.history()):
            if digest == decision.digest or (decision.event == "rolled_back" and digest == decision.before):
                return decision
        return None

    def register(self, yardstick: str) -> Model:
        """Keep the checkpoint of the train stage, its evaluation, made under `yardstick`, and the statements of all
        that led to both."""
        artifacts = self.workspace / "artifacts"
        source = artifacts / "train" / FILE_NAME
        digest, record = sha256_file(source), record_of(source)
        folder = self.folder / digest[:SHORT]
        if not folder.exists():
            with _appearing(folder) as building:
                shutil.copyfile(source, building / FILE_NAME)
                (building / "provenance").mkdir()
                for stage in load_graph(self.workspace).until(EVALUATE):
                    path = statement_path(self.workspace, stage)
                    shutil.copyfile(path, building / "provenance" / path.name)
                    envelope = envelope_path(self.workspace, stage)
                    if envelope.exists():
                        shutil.copyfile(envelope, building / "provenance" / envelope.name)
                about = {"sha256": digest, "registered": _now(), "record": record.model_dump(mode="json")}
                write_atomic(building / "model.json", canonical_json(about))
        model = Model(digest, folder, record)
        evaluated = artifacts / EVALUATE
        if not self.evaluation(model, yardstick).exists():
            with _appearing(self.evaluation(model, yardstick)) as building:
                for name in (SCORES, *BESIDE):
                    if (evaluated / name).exists():
                        shutil.copyfile(evaluated / name, building / name)
        return model

    def evaluation(self, model: Model, yardstick: str) -> Path:
        """Folder of the model's evaluation under a yardstick, there or not."""
        return model.folder / "evaluations" / yardstick[:SHORT]

    def add_scores(self, model: Model, yardstick: str, scores: bytes) -> None:
        """Keep a later evaluation of a model: `scores` is the Parquet file of every image."""
        with _appearing(self.evaluation(model, yardstick)) as building:
            (building / SCORES).write_bytes(scores)

    def scores(self, model: Model, yardstick: str) -> Scores | None:
        path = self.evaluation(model, yardstick) / SCORES
        return pq.read_table(path).to_pylist() if path.exists() else None

    def decide(
        self,
        event: Event,
        model: Model,
        reason: str,
        comparison: Mapping[str, Any] | None = None,
        anchor: str | None = None,
    ) -> Decision:
        """Write a decision down and act on it; a promoted model leaves the `anchor` in place, or is it.

        ShardError if the weights to be made current are not the registered ones, ConfigError if they were trained on
        an object that has been revoked since.
        """
        if event != "refused":
            self._check_usable(model)
        now = self.current()
        decision = Decision(
            time=_now(),
            event=event,
            digest=model.digest,
            before=now.digest if now else None,
            anchor=anchor if event == "promoted" else None,
            reason=reason,
            by=f"{getpass.getuser()}@{socket.gethostname()}",
            run_id=os.environ.get(RUN_ID_VARIABLE, ""),
            comparison=None if comparison is None else dict(comparison),
        )
        self._append(decision)
        self.point()
        return decision

    def _check_usable(self, model: Model) -> None:
        if (found := sha256_file(model.file)) != model.digest:
            raise ShardError(f"{model.file}: sha256 {found}, registered as {model.digest}; it was changed")
        stones = load_revocations(self.workspace).tombstones
        revoked = [own.object_id for own in stones if model.digest in own.checkpoints]
        if revoked:
            raise ConfigError(
                f"model {model.short} was trained on revoked objects ({', '.join(revoked[:5])}; configs/revoked.yaml "
                "says why); train again with: syncd run --until shard, then syncd retrain"
            )

    def point(self) -> None:
        """Make current.json say what the history says: a run may have been killed between the two."""
        pointer, path = self.pointer(), self.folder / "current.json"
        if pointer is not None and (not path.exists() or path.read_bytes() != pointer):
            write_atomic(path, pointer)

    def pointer(self) -> bytes | None:
        """What current.json has to be by the history; None without a current model."""
        current = self.current()
        if current is None:
            return None
        said = {"sha256": current.digest, "file": f"{current.folder.name}/{FILE_NAME}"}
        return canonical_json(said | {"dataset_sha256": current.record.dataset_sha256}) + b"\n"

    def _append(self, decision: Decision) -> None:
        path = self.folder / "history.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.write(canonical_json(decision.model_dump(mode="json")) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _model(self, folder: Path) -> Model:
        about = json.loads((folder / "model.json").read_bytes())
        return Model(about["sha256"], folder, CheckpointRecord.model_validate(about["record"]))


def record_of(file: Path) -> CheckpointRecord:
    """What the header of a weights file says."""
    return CheckpointRecord.from_header(read_metadata(file))


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into that takes the name `folder` when it is whole."""
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    yield building
    os.replace(building, folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
