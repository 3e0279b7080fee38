"""Text from outside on its way to people and programs: as JSON, in CSV, on a terminal."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed; those that turn the direction of what follows them count too."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet compute a cell instead of showing it."""


def parse_json(text: str | bytes) -> Any:
    """`json.loads` that raises ValueError for nesting that is too deep as for anything else that is wrong."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV. Text that a spreadsheet would run gets an apostrophe in front; numbers stay numbers."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    # A carriage return alone would end the row for some readers, and is not quoted.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    if not value.startswith(_FORMULA):
        return text
    try:
        float(value)
    except ValueError:
        return f"'{text}"
    return text


def on_one_line(text: str) -> str:
    """The same with everything written out that is not printed as it is, line feeds too: a file's name must not look
    like a line of its own, and one that is not UTF-8 must not end the program."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def on_terminal(text: str) -> str:
    """The text with control characters written out: a caption must not move the cursor or hide what stands above."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
