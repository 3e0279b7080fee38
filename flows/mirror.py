"""A stage's shards in a store too (runtime `store`), for machines that share no disk.

    STORE/STAGE/SIGNATURE/000000.tar, 000000.json    a shard, then the receipt that vouches for it
    STORE/STAGE/SIGNATURE/000000.DIGEST.retried      a receipt that was withdrawn: its shard is made again
    STORE/STAGE/SIGNATURE/work/...                   checkpoints of a training until the stage is published
    STORE/STAGE/SIGNATURE/...                        the other files of the finished stage, its statement
    STORE/STAGE/SIGNATURE/index.json                 last: the folder is then the published stage
    STORE/signatures/...                             of the statements, if they are signed (flows/envelopes.py)

A name is written once: the first writer of a receipt wins, and a second one must have made the same bytes. Receipts of
others are honoured as one's own; their tars are fetched when the stage is published. Without `store` in the runtime
nothing here does anything.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TypeVar

from data.ids import digest_of
from data.origin import clear_origin
from data.provenance import claims_of, parse_statement, statement_path
from data.shards import (
    Receipt,
    ShardError,
    load_index,
    receipt_path,
    sha256_file,
    shard_name,
    write_atomic,
)
from data.stage import WORK, ShardSpec, StageContext
from data.store import ConflictError, MissingError, Store, stage_url
from flows.envelopes import bring_signatures, send_signatures
from flows.errors import warn

INDEX, STATEMENT = "index.json", "statement.intoto.json"
KEPT_STATEMENT = "statement.json"
"""Of the work folder: the statement that the engine keeps when it publishes the same bytes again."""
OF_A_RUN = {"run", "checksum"}
"""Fields of a receipt in which equal shards may differ."""
TRANSFERS = 8
"""Files on their way at a time."""
Item, Result = TypeVar("Item"), TypeVar("Result")


def stage_store(url: str | None, stage: str, signature: str) -> Store | None:
    """The folder of a stage in the store at `url`; None for None."""
    return None if url is None else Store(stage_url(url, stage, signature))


def join(
    ctx: StageContext, specs: Sequence[ShardSpec], mine: dict[int, Receipt]
) -> tuple[dict[int, Receipt], dict[int, Receipt]]:
    """Store the finished shards that the store lacks; returns those of `mine` that still hold, and the receipts that
    only the store has.

    A receipt of a shard that was withdrawn is deleted here too. ShardError if a receipt in the store is none of this
    plan, or if one name would have two contents.
    """
    store = _store_of(ctx)
    if store is None:
        return mine, {}
    there = store.list()
    stored = [spec for spec in specs if _name(spec.index) in there]
    theirs = {receipt.index: receipt for receipt in at_once(lambda spec: _receipt(store, ctx, spec), stored)}
    marks = {name for name in there if _is_mark(name)}
    old = [own for own in mine.values() if marks and _mark(own) in marks and not _agree_on(own, theirs.get(own.index))]
    for own in old:
        _drop(ctx, own)
    mine = {receipt.index: receipt for receipt in mine.values() if receipt not in old}
    at_once(lambda receipt: share(ctx, receipt), [own for own in mine.values() if own.index not in theirs])
    for index in theirs.keys() & mine.keys():
        _check_agreement(ctx, mine[index], theirs[index], store)
    return mine, {index: receipt for index, receipt in theirs.items() if index not in mine}


def still_holds(ctx: StageContext, receipt: Receipt) -> bool:
    """False, and the receipt here is deleted, if its shard was withdrawn from the store to be made again."""
    store = _store_of(ctx)
    if store is None or not _is_there(store, _mark(receipt)):
        return True
    if _is_there(store, _name(receipt.index)) and _agree_on(receipt, _read_receipt(store, receipt.index)):
        return True
    _drop(ctx, receipt)
    return False


def _drop(ctx: StageContext, receipt: Receipt) -> None:
    path = receipt_path(ctx.work_dir, receipt.index)
    warn(f"{ctx.stage}: shard {receipt.index} was queued again on another machine (retry-failed); {path} is deleted")
    path.unlink(missing_ok=True)


def in_own_order(ctx: StageContext, specs: Sequence[ShardSpec]) -> list[ShardSpec]:
    """The order in which this process begins shards: with a store one of its own, so that drivers on several machines
    seldom begin the same one; each looks into the store before it begins one (`shared`)."""
    ordered = list(specs)
    if ctx.options.get("store") is not None:
        Random(f"{socket.gethostname()} {os.getpid()}").shuffle(ordered)
    return ordered


def shared(ctx: StageContext, spec: ShardSpec) -> Receipt | None:
    """The receipt that the store has for a shard, None if it has none."""
    store = _store_of(ctx)
    try:
        return None if store is None else _receipt(store, ctx, spec)
    except MissingError:
        return None


def share(ctx: StageContext, receipt: Receipt) -> Receipt:
    """Store a finished shard, its receipt last; returns the receipt. ShardError if others made other bytes."""
    store = _store_of(ctx)
    if store is None:
        return receipt
    name = _name(receipt.index)
    try:
        store.add(receipt.name, ctx.work_dir / receipt.name, receipt.sha256)
    except ConflictError as error:
        if name in store.list():
            _check_agreement(ctx, receipt, _read_receipt(store, receipt.index), store)
        raise ShardError(
            f"{ctx.stage}: {error}, and no receipt vouches for what is there; delete {store.url_of(receipt.name)}, "
            "unless another machine is storing it at this moment, and run the same command again"
        ) from error
    if store.create(name, receipt.model_dump_json(indent=1).encode()):
        return receipt
    theirs = _read_receipt(store, receipt.index)
    _check_agreement(ctx, receipt, theirs, store)
    if theirs.checksum != receipt.checksum:
        warn(f"{ctx.stage}: shard {receipt.index}: another machine has made it too; the bytes are equal")
    return receipt


def fetch(ctx: StageContext, receipts: Sequence[Receipt]) -> None:
    """Bring what others have made into the work folder: tars, their receipts, and the statement of this stage."""
    store = _store_of(ctx)
    if store is None:
        return
    at_once(
        lambda receipt: _fetch_shard(store, ctx, receipt),
        [receipt for receipt in receipts if not receipt_path(ctx.work_dir, receipt.index).exists()],
    )
    kept = ctx.work_dir / KEPT_STATEMENT
    if not kept.exists():
        try:
            write_atomic(kept, store.read(STATEMENT))
        except MissingError:
            return


def settle(ctx: StageContext) -> None:
    """Store the files of the published stage and its statement, or take over the statement that the store has.

    So machines that publish one stage end with one statement, which later stages quote: sign it after this, and call
    `publish` then. ShardError if the store has other bytes under this signature.
    """
    folder = ctx.output_dir(ctx.stage)
    clear_origin(folder)
    store = _store_of(ctx)
    if store is None:
        return
    with _told_conflicts(ctx, store):
        if INDEX in store.list():
            _add_index(store, folder)
        else:
            at_once(lambda file: store.add(file.name, folder / file.name, file.sha256), load_index(folder).files)
    path = statement_path(ctx.workspace, ctx.stage)
    if path.exists() and not store.create(STATEMENT, path.read_bytes()):
        _agree(ctx, store, path)


def publish(ctx: StageContext) -> None:
    """Store the index of the stage, last of its files, and exchange the signatures of its statement.

    ShardError if the store has other bytes under this signature.
    """
    store = _store_of(ctx)
    if store is None:
        return
    with _told_conflicts(ctx, store):
        _add_index(store, ctx.output_dir(ctx.stage))
    at_once(store.delete, [name for name in store.list() if name.startswith(f"{WORK}/")])
    send_signatures(ctx.workspace, [ctx.stage], ctx.options["store"])
    bring_signatures(ctx.workspace, [ctx.stage], ctx.options["store"])


def _add_index(store: Store, folder: Path) -> None:
    store.add(INDEX, folder / INDEX, sha256_file(folder / INDEX))


def _agree(ctx: StageContext, store: Store, path: Path) -> None:
    """Take over the store's statement if it claims the same as the one at `path`; else put this one in its place.

    The latter happens where a value changed that is no part of the signature, such as max_failed_fraction.
    """
    mine, theirs = path.read_bytes(), store.read(STATEMENT)
    if mine == theirs:
        return
    where = store.url_of(STATEMENT)
    if claims_of(parse_statement(theirs, where)) == claims_of(parse_statement(mine, str(path))):
        write_atomic(ctx.work_dir / KEPT_STATEMENT, theirs)
        write_atomic(path, theirs)
        return
    store.delete(STATEMENT)
    store.create(STATEMENT, mine)
    warn(f"{ctx.stage}: {where} named other parameters, inputs or files than {path}, which has replaced it")


@contextmanager
def _told_conflicts(ctx: StageContext, store: Store) -> Iterator[None]:
    try:
        yield
    except ConflictError as error:
        raise ShardError(
            f"{ctx.stage}: {error}; two machines have made different files under one signature (another kind of "
            f"hardware, other packages, or a shard that was tried again); to take theirs delete {ctx.work_dir} and run "
            f"the stage again, to take these delete {store.url}"
        ) from error


def receipts_there(store: Store) -> list[Receipt]:
    """All receipts of a stage's folder in the store; ShardError for a file that is none."""
    numbers = [int(name[:6]) for name in store.list() if _is_of_shard(name) and name.endswith(".json")]
    return at_once(lambda number: _read_receipt(store, number), numbers)


def withdraw(store: Store, receipts: Sequence[Receipt]) -> None:
    """Take shards out of the store, so that they are made again, and with them what is published of the stage.

    A mark of each receipt stays, for the machines that hold it too. Receipts go after their tars, so that the same call
    after one that was killed finds what is left.
    """
    at_once(lambda receipt: store.create(_mark(receipt), receipt.model_dump_json(indent=1).encode()), receipts)
    store.delete(INDEX)
    there = store.list()
    shards = sorted({receipt.index for receipt in receipts if _name(receipt.index) in there})
    for name_of in (shard_name, _name):
        at_once(store.delete, [name_of(index) for index in shards])
    at_once(store.delete, [name for name in there if not _is_of_shard(name) and not _is_mark(name)])


def _is_of_shard(name: str) -> bool:
    return re.fullmatch(r"\d{6}\.(tar|json)", name) is not None


def _mark(receipt: Receipt) -> str:
    """Named after what the receipt vouches for, so that those of other machines that made the same bear it too."""
    return f"{receipt.index:06d}.{digest_of(receipt.model_dump(mode='json', exclude=OF_A_RUN))[:16]}.retried"


def _is_mark(name: str) -> bool:
    return re.fullmatch(r"\d{6}\.[0-9a-f]{16}\.retried", name) is not None


def _is_there(store: Store, name: str) -> bool:
    try:
        store.read(name)
    except MissingError:
        return False
    return True


def _store_of(ctx: StageContext) -> Store | None:
    return stage_store(ctx.options.get("store"), ctx.stage, ctx.signature)


def _name(index: int) -> str:
    return receipt_path(Path(), index).name


def _agree_on(mine: Receipt, theirs: Receipt | None) -> bool:
    """Whether both vouch for the same, whatever their runs."""
    return theirs is not None and mine.model_dump(exclude=OF_A_RUN) == theirs.model_dump(exclude=OF_A_RUN)


def _check_agreement(ctx: StageContext, mine: Receipt, theirs: Receipt, store: Store) -> None:
    """ShardError unless both vouch for the same."""
    if not _agree_on(mine, theirs):
        name, here = _name(mine.index), receipt_path(ctx.work_dir, mine.index)
        raise ShardError(
            f"{ctx.stage}: shard {mine.index}: {here} vouches for sha256 {mine.sha256}, failed {len(mine.failed)}, but "
            f"{store.url_of(name)} for {theirs.sha256}, failed {len(theirs.failed)}, under one signature: another kind "
            f"of hardware, other packages, or a shard that was tried again; to take theirs delete {here}, to take this "
            f"one delete {store.url_of(name)} and {store.url_of(mine.name)}"
        )


def _read_receipt(store: Store, index: int) -> Receipt:
    name = _name(index)
    try:
        receipt = Receipt.model_validate_json(store.read(name))
    except ValueError as error:
        raise ShardError(f"{store.url_of(name)}: not a receipt; delete it to make the shard again") from error
    if (receipt.index, receipt.name) != (index, shard_name(index)):
        raise ShardError(f"{store.url_of(name)}: not the receipt of shard {index}; delete it to make the shard again")
    return receipt


def _receipt(store: Store, ctx: StageContext, spec: ShardSpec) -> Receipt:
    """Of a shard of this plan; ShardError for another one, MissingError if there is none."""
    name, receipt = _name(spec.index), _read_receipt(store, spec.index)
    accounted = sorted([*receipt.keys, *(failure.key for failure in receipt.failed)]) == sorted(spec.keys)
    named = (receipt.stage, receipt.signature, receipt.index) == (ctx.stage, ctx.signature, spec.index)
    if not named or not accounted:
        raise ShardError(
            f"{store.url_of(name)}: not the receipt of shard {spec.index} of {ctx.stage} under signature "
            f"{ctx.signature}; delete it to make the shard again"
        )
    return receipt


def _fetch_shard(store: Store, ctx: StageContext, receipt: Receipt) -> None:
    try:
        store.fetch(receipt.name, ctx.work_dir / receipt.name, receipt.bytes, receipt.sha256)
    except (ShardError, MissingError) as error:
        raise ShardError(
            f"{ctx.stage}: {error}; delete {store.url_of(_name(receipt.index))} and the tar to make the shard again"
        ) from error
    write_atomic(receipt_path(ctx.work_dir, receipt.index), receipt.model_dump_json(indent=1).encode())


def at_once(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results in order; the first error, after all have ended."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return list(pool.map(function, items))
