"""The shards of a finished stage, wherever they are: in a folder, at a URL, or in a folder that has yet to fetch them.

From a store, the shards that are read next are fetched while one is being used. What is read, and in which order, is
the same from everywhere: every shard is checked against the digest that the index has for it.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path
from typing import Self

from data.origin import fetch_shard, origin_of
from data.shards import (
    Sample,
    ShardEntry,
    ShardError,
    ShardIndex,
    load_index,
    parse_index,
    read_shard,
    read_tar,
    sha256_file,
)
from data.store import MissingError, Store, is_url

AHEAD = 4
"""Shards that are fetched before they are asked for; at a URL they are held in memory until they are."""


class ShardSource:
    """`index` and its sha256 `digest`, read when they are asked for (ShardError if there is no finished index), and
    `name` for errors. To be used by one thread.

    A folder with an origin keeps what it has fetched, so that it is fetched once. From a URL nothing is kept: at most
    `ahead` shards are in memory or on their way, beside the one that is read.
    """

    def __init__(self, place: Path | str, ahead: int = AHEAD) -> None:
        """`place` is a folder, or a file:// or s3:// URL of one."""
        self._folder = None if is_url(place) else Path(place)
        url = str(place) if self._folder is None else origin_of(self._folder)
        self._store = None if url is None else Store(url)
        self.name = str(place)
        self.ahead = 0 if self._store is None else ahead
        self._coming: dict[str, Future[bytes | None]] = {}

    @property
    def index(self) -> ShardIndex:
        return self._read_index[0]

    @property
    def digest(self) -> str:
        return self._read_index[1]

    @cached_property
    def _read_index(self) -> tuple[ShardIndex, str]:
        if self._folder is None:
            return _index_of(self._store)
        return load_index(self._folder), sha256_file(self._folder / "index.json")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was fetched ahead."""
        self._coming.clear()

    def read(self, entry: ShardEntry, upcoming: Sequence[ShardEntry] = ()) -> Iterator[Sample]:
        """Samples of one shard, verified (ShardError names it); `upcoming` are those that will be read next, in order.

        StoreError if the store cannot be reached, MissingError if the shard is not there.
        """
        coming = self._coming.pop(entry.name, None)
        # The next epoch may begin with this very shard, which a folder keeps.
        self._fetch_ahead([item for item in upcoming[: self.ahead] if self._folder is None or item != entry])
        data = self._bring(entry) if coming is None else coming.result()
        return read_shard(self._folder, entry) if data is None else read_tar(data)

    def _fetch_ahead(self, upcoming: Sequence[ShardEntry]) -> None:
        for name in self._coming.keys() - {entry.name for entry in upcoming}:
            del self._coming[name]
        for entry in upcoming:
            if entry.name not in self._coming:
                self._coming[entry.name] = future = Future()
                # Python waits at its exit for an executor, and would for shards that nobody reads from a store that is
                # away.
                threading.Thread(target=self._fill, args=(future, entry), daemon=True).start()

    def _fill(self, future: Future[bytes | None], entry: ShardEntry) -> None:
        try:
            future.set_result(self._bring(entry))
        except Exception as error:
            future.set_exception(error)

    def _bring(self, entry: ShardEntry) -> bytes | None:
        """The bytes of a shard at a URL; one of a folder is in the folder afterwards."""
        if self._folder is None:
            return self._store.read_verified(entry.name, entry.bytes, entry.sha256)
        fetch_shard(self._folder, entry)
        return None


def _index_of(store: Store) -> tuple[ShardIndex, str]:
    try:
        data = store.read("index.json")
    except MissingError as error:
        raise ShardError(f"{error}; name the folder of a published stage: STORE/STAGE/SIGNATURE") from error
    return parse_index(data, store.url_of("index.json")), hashlib.sha256(data).hexdigest()
