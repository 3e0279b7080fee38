"""The ledger of a training in both of its forms: ledger.jsonl, and the rows of the audit store."""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from json.encoder import encode_basestring
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.audit.parts import Row

if TYPE_CHECKING:
    from pyarrow import ChunkedArray

TEXTS = ("use", "sample_id", "set_id", "shard_sha256", "pair")
NUMBERS = ("step", "place", "slot", "crop", "text", "flipped")
NONE = -1
"""In the columns that follow: a value that is NULL."""


def ledger_rows(step: dict[str, Any], shard_of: Mapping[str, str]) -> Iterator[Row]:
    """One step of the ledger, use by use. What was dropped was not shown and is no use."""
    for place, example in enumerate(step["samples"]):
        where = {"step": step["step"], "place": place}
        if "pair" in example:
            yield {
                **where,
                "use": "pair",
                "shard_sha256": example["tar"],
                "pair": example["pair"],
                "text": example["text"],
            }
            continue
        where |= {"set_id": example["set"], "shard_sha256": shard_of.get(example["set"])}
        yield {**where, "use": "target", "sample_id": example["target"], "text": example["text"]}
        crops = example.get("crops") or [None] * len(example["references"])
        shown = zip(example["references"], example["flipped"], crops, strict=True)
        for slot, (reference, flipped, crop) in enumerate(shown):
            yield {
                **where,
                "use": "reference",
                "slot": slot,
                "sample_id": reference,
                "flipped": flipped,
                "crop": crop,
            }


def ledger_digest(file: Path) -> str:
    """sha256 of the ledger.jsonl that the rows of this Parquet file were read from.

    The table holds all that the file does, so that the file's digest, which the statement of the training names, can
    be recomputed after the file itself is gone. ValueError for rows that `ledger_rows` does not give: what a question
    counts must be what the digest was taken of. Everything is done by columns: a million rows take a second or two.
    """
    texts, numbers = _columns(file)
    first = np.flatnonzero(~texts["use"].are("reference"))
    _check_uses(texts, numbers, first)
    digest = hashlib.sha256()
    for line in _lines(texts, numbers, first):
        digest.update(line)
    return digest.hexdigest()


class _Texts:
    """A column of texts: the number of each row's value among the different ones, NONE for NULL."""

    def __init__(self, column: "ChunkedArray") -> None:
        coded = column.combine_chunks()
        self.values: list[str] = coded.dictionary.to_pylist()
        self.codes: np.ndarray = coded.indices.fill_null(NONE).to_numpy()

    def are(self, value: str) -> np.ndarray:
        """bool (rows,): where the column holds this value."""
        return self.codes == self.values.index(value) if value in self.values else np.zeros(len(self.codes), bool)

    def written(self, rows: np.ndarray | slice = slice(None)) -> list[str]:
        """The values of these rows as JSON."""
        quoted = [*map(encode_basestring, self.values), "null"]  # NONE is the last
        return [quoted[code] for code in self.codes[rows].tolist()]


def _columns(file: Path) -> tuple[dict[str, _Texts], dict[str, np.ndarray]]:
    """Columns of the table; of numbers and truth values as int64 (rows,)."""
    import pyarrow as pa
    from pyarrow import parquet

    read = parquet.read_table(file, columns=[*TEXTS, *NUMBERS], read_dictionary=list(TEXTS)).unify_dictionaries()
    numbers = {name: read[name].cast(pa.int64()).fill_null(NONE).to_numpy() for name in NUMBERS}
    return {name: _Texts(read[name]) for name in TEXTS}, numbers


def _check_uses(texts: Mapping[str, _Texts], numbers: Mapping[str, np.ndarray], first: np.ndarray) -> None:
    """ValueError unless every example is one pair, or one target and its references, and all of them are counted up.

    `first`: rows at which examples begin, ascending.
    """
    rows = np.arange(len(numbers["step"]))
    if len(rows) and (not len(first) or first[0]):
        raise ValueError("row 0: reference without a target")
    sizes = np.diff(np.append(first, len(rows)))
    head = np.repeat(first, sizes)  # row at which the example of each row begins
    reference, target, pair = (texts["use"].are(name) for name in ("reference", "target", "pair"))
    begun = _changes(numbers["step"][first])
    place = np.arange(len(first)) - np.repeat(begun, np.diff(np.append(begun, len(first))))
    columns = {**{name: own.codes for name, own in texts.items()}, **numbers}
    wrong = {
        "use is none of target, reference, pair": ~(reference | target | pair),
        "reference without a target": reference & ~target[head],
        "image without id": ~pair & (columns["sample_id"] == NONE),
        "slots do not count up": columns["slot"] != np.where(reference, rows - head - 1, NONE),
        "places do not count up": columns["place"] != np.repeat(place, sizes),
        **{
            f"{name} is not that of its target": columns[name] != columns[name][head]
            for name in ("step", "set_id", "shard_sha256")
        },
    }
    for what, odd in wrong.items():
        if odd.any():
            raise ValueError(f"row {odd.argmax()}: {what}")


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value is not the one before it, the first included."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])


def _lines(texts: Mapping[str, _Texts], numbers: Mapping[str, np.ndarray], first: np.ndarray) -> Iterator[bytes]:
    """Lines of ledger.jsonl, each the canonical JSON of a step."""
    shards, of_pair = texts["shard_sha256"].written(first), texts["use"].are("pair")[first]
    shards = ["" if pair else shard for pair, shard in zip(of_pair.tolist(), shards, strict=True)]
    examples, steps = list(_examples(texts, numbers, first)), numbers["step"][first]
    for start, end in _spans(_changes(steps), len(first)):
        listed = ",".join(dict.fromkeys(shard for shard in shards[start:end] if shard))
        yield f'{{"samples":[{",".join(examples[start:end])}],"shards":[{listed}],"step":{steps[start]}}}\n'.encode()


def _examples(texts: Mapping[str, _Texts], numbers: Mapping[str, np.ndarray], first: np.ndarray) -> Iterator[str]:
    """Canonical JSON of every example."""
    truth = ("false", "true", "null")
    sample, flipped = texts["sample_id"].written(), [truth[value] for value in numbers["flipped"].tolist()]
    crop, any_crop = numbers["crop"].tolist(), bool((numbers["crop"] != NONE).any())
    text = [truth[value] for value in numbers["text"][first].tolist()]
    sets, tars, pairs = (texts[name].written(first) for name in ("set_id", "shard_sha256", "pair"))
    is_pair = texts["use"].are("pair")[first].tolist()
    for place, (start, end) in enumerate(_spans(first, len(sample))):
        if is_pair[place]:
            yield f'{{"pair":{pairs[place]},"tar":{tars[place]},"text":{text[place]}}}'
            continue
        crops = [str(value) for value in crop[start + 1 : end] if value != NONE] if any_crop else []
        cut = f'"crops":[{",".join(crops)}],' if crops else ""
        yield (
            f'{{{cut}"flipped":[{",".join(flipped[start + 1 : end])}],'
            f'"references":[{",".join(sample[start + 1 : end])}],'
            f'"set":{sets[place]},"target":{sample[start]},"text":{text[place]}}}'
        )


def _spans(starts: np.ndarray, end: int) -> Iterator[tuple[int, int]]:
    return pairwise([*starts.tolist(), end])
