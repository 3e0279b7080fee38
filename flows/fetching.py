"""Checkpoints by URL: fetched for as long as a command runs, and checked against the index beside them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ConfigError
from data.shards import parse_index, write_atomic
from data.store import MissingError, Store, is_url, local_path
from models.header import FILE_NAME


@contextmanager
def checkpoint_at(given: str | None) -> Iterator[Path | None]:
    """A path as it is, or what an s3:// URL names: a LoRA file, or the folder of a published train stage.

    ShardError if it is not the file that the index of its folder vouches for, or if that index is none; a file without
    an index is taken as it is, and its digest is recorded by whoever uses it.
    """
    if given is None or not is_url(given) or given.startswith("file://"):
        yield None if given is None else local_path(given)
        return
    with tempfile.TemporaryDirectory(prefix="syncd-checkpoint-") as folder:
        yield _fetch(given.rstrip("/"), Path(folder))


def _fetch(url: str, folder: Path) -> Path:
    is_file = url.endswith(".safetensors")
    where, _, name = url.rpartition("/") if is_file else (url, "", FILE_NAME)
    store, target = Store(where), folder / name
    try:
        index = parse_index(store.read("index.json"), store.url_of("index.json"))
    except MissingError as error:
        if not is_file:
            raise ConfigError(f"{error}; --checkpoint names a .safetensors, or STORE/train/SIGNATURE") from error
        write_atomic(target, store.read(name))
        return target
    for file in index.files:
        if file.name == name:
            return store.fetch(name, target, file.bytes, file.sha256)
    raise ConfigError(f"{store.url_of('index.json')} lists no {name}; --checkpoint names the folder of a train stage")
