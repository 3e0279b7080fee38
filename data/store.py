"""Files below a URL, `file://` or `s3://`, through fsspec. A name is written once, and what is read is verified.

Where S3 is, who asks and how patiently are the standard AWS settings: AWS_ENDPOINT_URL, AWS_PROFILE or
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_MAX_ATTEMPTS. Writing if absent is a conditional PUT (`If-None-Match:
*`), which AWS answers and other servers may not (`syncd doctor` tries it out); on a disk it is a hard link.
"""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from data.shards import ShardError, sha256_file

SCHEMES = ("file", "s3")
BLOCK_BYTES = 32 * 2**20
"""Read at a time, so that memory stays flat whatever the size of a file."""
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Between tries of what failed for a passing reason, beside what botocore and s3fs try again by themselves."""
PASSING_ERRNOS = frozenset(
    {errno.EBUSY, errno.EIO, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EAGAIN, errno.ESTALE, errno.ECONNRESET}
)
"""s3fs gives HTTP 409, 500, 503 and codes that it does not know as the first three."""
PASSING_TYPES = frozenset(
    {
        *("ConnectionError", "TimeoutError"),
        *("HTTPClientError", "IncompleteRead", "ResponseParserError"),
        *("ClientConnectionError", "ClientPayloadError"),
    }
)
"""Of Python; of botocore and urllib3; of aiohttp. By name, since a store on a disk needs only the first."""
EXISTS_CODES = ("PreconditionFailed", "412")
"""What a conditional PUT is answered with; s3fs knows only the one of AWS for what it is."""


class StoreError(Exception):
    """A store that cannot be used; the message names the URL and the fix. `transient`: later it may be."""

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class MissingError(StoreError):
    """Nothing is stored under this name."""


class ConflictError(StoreError):
    """Other bytes are stored under this name."""


class ChangedError(ShardError):
    """A stored file that is not the bytes that it should be; `found` says what it is instead."""

    def __init__(self, url: str, found: str) -> None:
        super().__init__(f"{url}: {found}; it was changed after it was finished")
        self.found = found


@dataclass(frozen=True)
class Stored:
    """A file as a listing has it. `version` changes with its bytes: ETag of S3, time of change on a disk."""

    bytes: int
    version: str


def is_url(text: str | os.PathLike[str]) -> bool:
    return "://" in str(text)


def local_path(text: str) -> Path:
    """A path, or the one that a file:// URL names; StoreError for another URL."""
    return Path(_local_root(text) if is_url(text) else text)


def _local_root(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or parts.query or parts.fragment:
        raise StoreError(f"{url}: not the URL of a store; allowed: file:///FOLDER and s3://BUCKET/PREFIX")
    if parts.scheme != "file" or parts.netloc or not parts.path:
        raise StoreError(f"{url}: names no folder of this machine; write it with three slashes: file:///FOLDER")
    return unquote(parts.path)


def _bucket_root(url: str) -> str:
    root = url.removeprefix("s3://")
    if not root.partition("/")[0] or "?" in root or "#" in root:
        raise StoreError(f"{url}: names no folder of a bucket; write s3://BUCKET/PREFIX")
    return root


def stage_url(url: str, stage: str, signature: str) -> str:
    """The folder of a stage, under one signature, in the store at `url`."""
    return f"{url.rstrip('/')}/{stage}/{signature[:16]}"


class Store:
    """All files below `url`; names are relative to it, with forward slashes. Of one thread or of many."""

    def __init__(self, url: str) -> None:
        """StoreError for a URL of another form, or if the packages for it are not installed."""
        self.url = url.rstrip("/")
        self._local = not self.url.startswith("s3://")
        self._root = _local_root(self.url) if self._local else _bucket_root(self.url)
        self._fs, self._errors = _local_files() if self._local else _s3(_aws_environment())

    def below(self, name: str) -> Self:
        return type(self)(self.url_of(name))

    def url_of(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def list(self) -> dict[str, Stored]:
        """Every file by name, in order, but hidden ones, as those are that are being written; none if nothing is there.

        MissingError if there is no such bucket.
        """
        found = self._call("", self._fs.find, detail=True)
        named = {path.removeprefix(self._root).lstrip("/"): info for path, info in found.items()}
        return {
            name: Stored(info["size"], _version(info))
            for name, info in sorted(named.items())
            if name and info["type"] == "file" and not any(part.startswith(".") for part in name.split("/"))
        }

    def read(self, name: str) -> bytes:
        """A small file whole; MissingError if it is not there. Nothing vouches for its bytes."""
        return self._call(name, self._fs.cat_file, **({} if self._local else {"max_concurrency": 1}))

    def read_verified(self, name: str, size: int, sha256: str) -> bytes:
        """A file whole; ShardError if it is not these bytes, MissingError if it is not there."""
        return b"".join(self._verified(name, size, sha256))

    def fetch(self, name: str, target: Path, size: int, sha256: str) -> Path:
        """Copy a file to `target`, which appears whole or not at all; errors as `read_verified`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as stream:
                for block in self._verified(name, size, sha256):
                    stream.write(block)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file if there is none of that name; whether it was written. Of two writers one does."""
        if self._local:
            return self._create(name, lambda path: _link_new(Path(path), data))
        return self._create(name, self._fs.pipe_file, data, mode="create")

    def add(self, name: str, path: Path, sha256: str) -> bool:
        """Store the file `path`; False if it is there already. What is stored is read again and checked.

        ConflictError if other bytes are there, ShardError if `path` is not these bytes itself.
        """
        size = path.stat().st_size
        if self._local:
            written = self._create(name, lambda place: _link_new(Path(place), path))
        else:
            written = self._create(name, lambda place: self._fs.put_file(str(path), place, mode="create"))
        try:
            for _ in self._verified(name, size, sha256):
                pass
        except ChangedError as error:
            if sha256_file(path) != sha256:
                raise ShardError(f"{path}: changed after it was finished; it is not what {sha256} says") from error
            if written:
                raise
            raise ConflictError(f"{self.url_of(name)}: {error.found}, as {path} has") from error
        return written

    def delete(self, name: str) -> None:
        """Nothing happens if it is not there."""
        try:
            self._call(name, self._fs.rm_file)
        except MissingError:
            return

    def _create(self, name: str, write: Callable[..., Any], *arguments: Any, **options: Any) -> bool:
        try:
            self._call(name, write, *arguments, **options)
        except FileExistsError:
            return False
        return True

    def _verified(self, name: str, size: int, sha256: str) -> Iterator[bytes]:
        digest, found = hashlib.sha256(), 0
        for block in self._blocks(name, size):
            digest.update(block)
            found += len(block)
            yield block
        if found != size:
            raise ChangedError(self.url_of(name), f"{'more' if found > size else found} bytes, expected {size}")
        if digest.hexdigest() != sha256:
            raise ChangedError(self.url_of(name), f"sha256 {digest.hexdigest()}, expected {sha256}")

    def _blocks(self, name: str, size: int) -> Iterator[bytes]:
        """The first `size` bytes and one more, so that a longer file is noticed; ends early for a shorter one."""
        if size == 0:
            yield self.read(name)
            return
        for start in range(0, size, BLOCK_BYTES):
            end = start + BLOCK_BYTES if start + BLOCK_BYTES < size else size + 1
            try:
                block = self._call(name, self._fs.cat_file, start=start, end=end)
            except StoreError as error:
                if getattr(error.__cause__, "errno", None) == errno.EINVAL:  # HTTP 416: it ends before `start`
                    return
                raise
            yield block
            if len(block) < min(end, size) - start:
                return

    def _path(self, name: str) -> str:
        if name and any(part in ("", ".", "..") for part in name.split("/")):
            raise StoreError(f"{name!r}: no name of a file in {self.url}; it must be a plain relative path")
        return f"{self._root}/{name}" if name else self._root

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """`function(path, ...)`, tried again where that may help; StoreError, or FileExistsError as it is."""
        path = self._path(name)
        for pause in (*PAUSES_SECONDS, None):
            try:
                return function(path, *arguments, **options)
            except FileExistsError:
                raise
            except self._errors as error:
                if _code(error) in EXISTS_CODES:
                    raise FileExistsError(path) from error
                if pause is None or not _is_passing(error):
                    raise self._told(name, error) from error
            time.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    def _told(self, name: str, error: Exception) -> StoreError:
        url, reason = self.url_of(name), " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            if _code(error) == "NoSuchBucket":
                return MissingError(f"{url}: there is no such bucket; make it, or correct the URL")
            return MissingError(f"{url}: no such file")
        if _is_passing(error):
            where = (
                "" if self._local else f" Is AWS_ENDPOINT_URL right ({os.environ.get('AWS_ENDPOINT_URL', 'unset')})?"
            )
            tries = len(PAUSES_SECONDS) + 1
            return StoreError(f"{url}: {reason}; tried {tries} times, the same command goes on.{where}", transient=True)
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            whose = "the rights of the folder" if self._local else "AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
            return StoreError(f"{url}: not allowed ({reason}); check {whose}")
        return StoreError(f"{url}: {type(error).__name__}: {reason}")


@lru_cache(maxsize=1)
def _local_files() -> tuple[Any, tuple[type[Exception], ...]]:
    import fsspec

    return fsspec.filesystem("file"), (OSError,)


def _aws_environment() -> frozenset[tuple[str, str]]:
    return frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))


@lru_cache(maxsize=8)
def _s3(_environment: frozenset[tuple[str, str]]) -> tuple[Any, tuple[type[Exception], ...]]:
    """The client, which reads the AWS variables once, and the errors that it raises."""
    try:
        from aiohttp import ClientError as HttpError
        from botocore.exceptions import BotoCoreError, ClientError
        from s3fs import S3FileSystem
    except ImportError as error:
        raise StoreError("s3:// needs the package s3fs: pip install 'syncd[s3]'") from error
    files = S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    return files, (OSError, BotoCoreError, ClientError, HttpError)


def _link_new(path: Path, content: bytes | Path) -> None:
    """Write a file that appears whole; FileExistsError if there is one. Hard links are what no two writers can make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _version(info: dict[str, Any]) -> str:
    return str(info["ETag"]).strip('"') if "ETag" in info else str(info["mtime"])


def _code(error: BaseException) -> str | None:
    """The code of S3 behind an error that s3fs has translated."""
    response = getattr(error.__cause__ or error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None


def _is_passing(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in PASSING_ERRNOS:
        return True
    return any(kind.__name__ in PASSING_TYPES for kind in type(error).__mro__)
