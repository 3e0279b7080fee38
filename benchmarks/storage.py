"""Reading a dataset from S3 against reading it from disk: samples per second, without and with prefetch.

    python -m benchmarks.storage [--shards 16] [--samples 32] [--latency 0 20 100] [--work 5 1]

moto's S3 in a process of its own, over HTTP on this machine, each request held back by `--latency` milliseconds. Every
sample costs `--work` milliseconds of waiting, as a step on a GPU does for the process that feeds it. A reader goes
through the shuffled dataset once; what it read is checked to be the same from everywhere. Medians of `--repeats`.
"""

import argparse
import hashlib
import multiprocessing
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from data.reader import ShardReader
from data.shards import ShardEntry, ShardIndex, ShardWriter, sha256_file
from data.store import Store

AHEAD = (0, 1, 4, 8)


def main() -> None:
    from benchmarks.common import markdown  # with torch, which the server's process would import too

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--samples", type=int, default=32, help="per shard")
    parser.add_argument("--kilobytes", type=int, default=128, help="per sample")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 20.0, 100.0], help="ms per request")
    parser.add_argument("--work", type=float, nargs="+", default=[5.0, 1.0], help="ms per sample")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    size = options.samples * options.kilobytes / 1024
    print(f"{options.shards} shards of {options.samples} samples, {size:.0f} MB each; {os.cpu_count()} cores\n")
    head = ["from", "latency, ms", "shards ahead"]
    head += [word for work in options.work for word in (f"samples/s, {work:g} ms of work each", "of disk")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shard"
        write_dataset(folder, options.shards, options.samples, options.kilobytes * 1024)
        print(markdown(head, rows(folder, options.latency, [work / 1e3 for work in options.work], options.repeats)))


def rows(folder: Path, latencies: Iterable[float], works: list[float], repeats: int) -> list[list[str]]:
    """Of the disk, then of S3 at every latency and number of shards ahead; rates by seconds of work."""
    expected = read_once(folder, 0, 0.0)[1]

    def rates(place: Path | str, ahead: int) -> list[float]:
        found = []
        for work in works:
            read = [read_once(place, ahead, work) for _ in range(repeats)]
            if {digest for _, digest in read} != {expected}:
                raise AssertionError(f"{place}: other samples than {folder}, or in another order")
            found.append(statistics.median(rate for rate, _ in read))
        return found

    disk = rates(folder, 0)

    def shown(own: list[float]) -> list[str]:
        return [word for rate, most in zip(own, disk, strict=True) for word in (f"{rate:.0f}", f"{rate / most:.2f}")]

    table = [["disk", "-", "-", *shown(disk)]]
    for latency in latencies:
        with serving(latency / 1e3) as address:
            url = upload(folder, address)
            table += [["S3", f"{latency:g}", str(ahead), *shown(rates(url, ahead))] for ahead in AHEAD]
    return table


def read_once(place: Path | str, ahead: int, work: float) -> tuple[float, str]:
    """Samples per second of one epoch, and the digest of all that was read in its order."""
    reader, digest = ShardReader(place, seed=0, buffer=0, ahead=ahead), hashlib.sha256()
    started, count = time.perf_counter(), len(reader)
    for sample in reader:
        digest.update(sample.key.encode() + sample.files["0.png"])
        time.sleep(work)
    seconds = time.perf_counter() - started
    reader.source.close()
    return count / seconds, digest.hexdigest()


def write_dataset(folder: Path, shards: int, samples: int, size: int) -> None:
    rng, entries = np.random.default_rng(0), []
    for number in range(shards):
        with ShardWriter(folder, "shard", "0" * 64, number) as out:
            for place in range(samples):
                out.add(f"object-{number:04d}{place:04d}-s0", {}, {"0.png": rng.bytes(size)})
            receipt = out.finish()
        entries.append(ShardEntry(**receipt.model_dump(include={"name", "bytes", "sha256", "keys"})))
    index = ShardIndex(stage="shard", signature="0" * 64, shards=entries, failed=[])
    (folder / "index.json").write_text(index.model_dump_json())


def upload(folder: Path, address: str) -> str:
    """URL of a copy of the dataset in a new bucket."""
    os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/benchmark", method="PUT")).close()
    store = Store("s3://benchmark/shard")
    for path in [*sorted(folder.glob("*.tar")), folder / "index.json"]:
        store.add(path.name, path, sha256_file(path))
    return store.url


@contextmanager
def serving(latency: float) -> Iterator[str]:
    """An S3 server in another process while the context lasts; gives its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(latency, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(latency: float, parent: Connection) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *arguments: Any) -> None:
            pass

    application = DomainDispatcherApplication(create_backend_app)

    def held_back(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(latency)
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, held_back, threaded=True, request_handler=Quiet)
    parent.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


if __name__ == "__main__":
    main()
