"""Shards: byte-deterministic WebDataset tars, written atomically, with a receipt as proof and an index per stage."""

import hashlib
import io
import json
import os
import re
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.ids import canonical_json, digest_of

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

MEMBER_MODE = 0o444


class ShardError(Exception):
    """A shard that is missing, truncated or not the bytes its digest says."""


class Failure(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    key: str
    reason: str = Field(description="short code to group by, for example corrupt")
    detail: str = ""


class Receipt(BaseModel):
    """Proof of one finished shard. `run` holds what may differ between equal runs (time, host, memory).

    `checksum` covers all the other fields, so that a receipt with a changed byte is none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    signature: str
    index: int
    name: str
    bytes: int
    sha256: str
    keys: list[str]
    failed: list[Failure]
    run: dict[str, Any] = {}
    checksum: str = Field("", description="sha256 of the canonical JSON of all other fields; empty: filled in")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        found = digest_of(self.model_dump(mode="json", exclude={"checksum"}))
        if not self.checksum:
            object.__setattr__(self, "checksum", found)
        elif self.checksum != found:
            raise ValueError(f"checksum {self.checksum}, its fields give {found}; it was changed after it was written")
        return self


class ShardEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    bytes: int
    sha256: str
    keys: list[str]


class FileEntry(BaseModel):
    """A file beside the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    bytes: int
    sha256: str


class ShardIndex(BaseModel):
    """`index.json` of a finished stage: all that the next stage reads to find its input."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    signature: str
    shards: list[ShardEntry]
    failed: list[Failure]
    summary: dict[str, Any] = {}
    files: list[FileEntry] = Field(default=[], description="everything else in the folder, so that this file vouches")

    @property
    def keys(self) -> list[str]:
        return [key for shard in self.shards for key in shard.keys]


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its record and its other members by extension."""

    key: str
    record: dict[str, Any]
    files: dict[str, bytes]


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is at any moment either absent, old or complete."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class ShardWriter:
    """Writes one tar under a temporary name; `finish` makes it and its receipt appear, in that order.

    The bytes are those of webdataset.TarWriter with its mtime at 0, whose import takes seconds in every process.
    Keys must come in ascending order, so that equal samples give equal bytes.
    """

    def __init__(self, directory: Path, stage: str, signature: str, index: int) -> None:
        self.directory = directory
        self.stage, self.signature, self.index = stage, signature, index
        self.name = shard_name(index)
        self.keys: list[str] = []
        self.failed: list[Failure] = []
        directory.mkdir(parents=True, exist_ok=True)
        self._temporary = directory / f".{self.name}.{uuid.uuid4().hex}.tmp"
        self._stream = self._temporary.open("wb")
        self._tar = tarfile.open(fileobj=self._stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError, ValueError):  # an unfinished tar still wants to write its end, perhaps to a full disk
            self._tar.close()
        with suppress(OSError):
            self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, key: str, record: BaseModel | dict[str, Any], files: dict[str, bytes] | None = None) -> None:
        """Append one sample; `files` maps an extension such as `0.mask.png` to its bytes."""
        if "." in key or "/" in key:
            raise ValueError(f"key {key!r}: a shard key must hold no dot and no slash")
        if self.keys and key <= self.keys[-1]:
            raise ValueError(f"key {key!r} after {self.keys[-1]!r}: keys of a shard must ascend")
        plain = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
        members = {"json": canonical_json(plain), **(files or {})}
        for extension, data in sorted(members.items()):
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size, header.mode, header.mtime = len(data), MEMBER_MODE, 0
            self._tar.addfile(header, io.BytesIO(data))
        self.keys.append(key)

    def fail(self, key: str, reason: str, detail: str = "") -> None:
        """Record that `key` could not be made, and why; the shard goes on.

        Memory addresses, as other libraries put them into their messages, are left out: equal runs record equal bytes.
        """
        plain = _ADDRESS.sub("", detail)
        self.failed.append(Failure(key=key, reason=reason, detail=plain[:2000]))

    def finish(self, run: dict[str, Any] | None = None) -> Receipt:
        self._tar.close()
        if not self._stream.closed:
            self._stream.close()
        if not self._temporary.exists():
            raise ShardError(
                f"{self._temporary}: gone while it was written: another run published {self.stage} and tidied up; "
                "its shards are there, nothing is left to do"
            )
        with self._temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        receipt = Receipt(
            stage=self.stage,
            signature=self.signature,
            index=self.index,
            name=self.name,
            bytes=self._temporary.stat().st_size,
            sha256=sha256_file(self._temporary),
            keys=self.keys,
            failed=sorted(self.failed, key=lambda failure: failure.key),
            run=run or {},
        )
        os.replace(self._temporary, self.directory / self.name)
        write_atomic(receipt_path(self.directory, self.index), receipt.model_dump_json(indent=1).encode())
        return receipt


def receipt_path(directory: Path, index: int) -> Path:
    return directory / f"{index:06d}.json"


def shard_name(index: int) -> str:
    return f"{index:06d}.tar"


def load_receipt(directory: Path, index: int, signature: str) -> Receipt | None:
    """The receipt of a finished shard, or None if the shard has still to run.

    Raises ShardError if a receipt is there but its tar is not the bytes it vouches for.
    """
    receipt = read_receipt(directory, index, signature)
    if receipt is not None:
        verify_file(directory / receipt.name, receipt.bytes, receipt.sha256)
    return receipt


def read_receipt(directory: Path, index: int, signature: str) -> Receipt | None:
    """The same without a look at the bytes of the tar: ShardError if it is missing or of another size."""
    path = receipt_path(directory, index)
    if not path.exists():
        return None
    receipt = parse_receipt(path)
    if receipt.signature != signature or receipt.index != index:
        raise ShardError(
            f"{path}: made for signature {receipt.signature}, not {signature}; delete it to redo this shard"
        )
    verify_size(directory / receipt.name, receipt.bytes)
    return receipt


def verify_size(path: Path, size: int) -> None:
    """Raise ShardError unless `path` is there and has this size."""
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing") from error
    if found != size:
        raise ShardError(f"{path}: {found} bytes, expected {size}; the file was changed or truncated")


def parse_receipt(path: Path) -> Receipt:
    """The receipt in a file; ShardError unless it is, to the byte, one that was written here."""
    data = path.read_bytes()
    try:
        receipt = Receipt.model_validate_json(data)
        if receipt.model_dump_json(indent=1).encode() != data or receipt.name != shard_name(receipt.index):
            raise ValueError("not in the form in which receipts are written")
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ShardError(f"{path}: not a receipt ({reason[:300]}); delete it to redo this shard") from error
    return receipt


def verify_file(path: Path, size: int, sha256: str) -> None:
    """Raise ShardError unless `path` holds exactly the bytes with this size and digest."""
    verify_size(path, size)
    found = sha256_file(path)
    if found != sha256:
        raise ShardError(f"{path}: sha256 {found}, expected {sha256}; the file was changed after it was finished")


def read_tar(data: bytes) -> Iterator[Sample]:
    """Samples of a tar held in memory, in order."""
    key, members = None, {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            name, _, extension = member.name.partition(".")
            if name != key and key is not None:
                yield _sample(key, members)
                members = {}
            key = name
            members[extension] = tar.extractfile(member).read()
    if key is not None:
        yield _sample(key, members)


def _sample(key: str, members: dict[str, bytes]) -> Sample:
    return Sample(key, json.loads(members.pop("json")), members)


def load_index(directory: Path) -> ShardIndex:
    """`index.json` of a stage's output folder; ShardError if the stage has not finished, or the file is none."""
    path = directory / "index.json"
    if not path.exists():
        raise ShardError(f"{path}: missing; run the stage first: syncd run --until {directory.name}")
    return parse_index(path.read_bytes(), str(path))


def parse_index(data: bytes, where: str) -> ShardIndex:
    """ShardError, naming `where` it is from, if `data` is not the index of a stage."""
    try:
        return ShardIndex.model_validate_json(data)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ShardError(
            f"{where}: not the index of a stage ({reason[:300]}); delete it and run the stage again"
        ) from error


def read_shard(directory: Path, entry: ShardEntry) -> Iterator[Sample]:
    """Samples of one shard, after checking its size and digest (ShardError names the file).

    A shard that is not here comes from the origin of the folder, if it has one.
    """
    path = directory / entry.name
    if not path.exists():
        from data.origin import fetch_shard

        fetch_shard(directory, entry)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise ShardError(f"{path}: sha256 {found}, expected {entry.sha256}; the file was changed after it was finished")
    yield from read_tar(data)


def read_all(directory: Path, index: ShardIndex) -> Iterator[Sample]:
    """Every sample of a finished stage, shard by shard, each verified."""
    for entry in index.shards:
        yield from read_shard(directory, entry)


def read_records(directory: Path, index: ShardIndex) -> Iterator[Sample]:
    """Every sample of a stage without its files, which are passed over on the disk.

    So no digest is checked: this is for finalize(), which the engine calls with shards that it has made or verified.
    """
    for entry in index.shards:
        with tarfile.open(directory / entry.name) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "json":
                    yield Sample(key, json.loads(tar.extractfile(member).read()), {})
