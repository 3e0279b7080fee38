"""Captions of assets: Cap3D's CSV, a folder's captions.csv, file names; and the noun that a caption is about."""

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.assets.base import SourceError
from data.assets.licences import UnknownLicenceError, normalise

_NAMES_OF_UID = frozenset({"uid", "id", "object_id"})
CREDIT_COLUMNS = ("title", "author", "page")
"""Columns that say whom a licence wants credited."""
_FOLDER_COLUMNS = ("file", "caption", "licence", "category", *CREDIT_COLUMNS)
_REQUIRED_COLUMNS = ("file", "caption")


@dataclass(frozen=True)
class CaptionRow:
    """One row of captions.csv; what the file leaves empty is empty."""

    line: int
    file: str
    caption: str
    licence: str
    category: str
    credit: Mapping[str, str] = field(default_factory=dict)
    """Those of CREDIT_COLUMNS that are given."""


def read_cap3d(path: Path) -> dict[str, str]:
    """uid -> caption, from a CSV of two columns without header, as Cap3D publishes it; a header is skipped.

    Empty captions are left out. Raises SourceError naming file and line for a row that does not have two columns,
    a uid with two different captions, broken quoting and bytes that are not UTF-8.
    """
    captions: dict[str, str] = {}
    first_line: dict[str, int] = {}
    for line, row in _rows(path):
        if len(row) != 2:
            raise SourceError(f"{path}, line {line}: {len(row)} columns; expected two, uid,caption")
        uid, caption = row[0].strip(), " ".join(row[1].split())
        if line == 1 and uid.lower() in _NAMES_OF_UID and caption.lower() in ("caption", "captions"):
            continue
        if not uid:
            raise SourceError(f"{path}, line {line}, column uid: empty")
        if captions.get(uid, caption) != caption:
            raise SourceError(
                f"{path}, line {line}, column uid: {uid} has another caption in line {first_line[uid]}; keep one"
            )
        if caption:
            captions[uid] = caption
            first_line.setdefault(uid, line)
    return captions


def read_digests(path: Path) -> dict[str, str]:
    """uid -> expected sha256, from a CSV with the header uid,sha256. Raises SourceError naming line and column."""
    digests: dict[str, str] = {}
    for line, row in _rows(path):
        if line == 1:
            if [cell.strip().lower() for cell in row] != ["uid", "sha256"]:
                raise SourceError(f"{path}, line 1: header {','.join(row)!r}; expected uid,sha256")
            continue
        if len(row) != 2:
            raise SourceError(f"{path}, line {line}: {len(row)} columns; expected two, uid,sha256")
        uid, sha256 = row[0].strip(), row[1].strip().lower()
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise SourceError(f"{path}, line {line}, column sha256: {row[1]!r} is not 64 hexadecimal digits")
        if digests.get(uid, sha256) != sha256:
            raise SourceError(f"{path}, line {line}, column uid: {uid} has another digest further up; keep one of them")
        digests[uid] = sha256
    return digests


def read_folder_captions(path: Path, files: Collection[str]) -> dict[str, CaptionRow]:
    """file -> row of a captions.csv with the columns file, caption and, if wanted, licence (or license), category,
    title, author and page (the address of the asset's own page).

    `files` are the meshes there are, as paths relative to the folder with forward slashes. Byte order mark and
    CRLF are accepted. Raises SourceError naming file, line and column for a missing, unknown or doubled column, a
    short or long row, a file that is not there or comes twice, a licence that is not known, broken quoting, and
    bytes that are not UTF-8.
    """
    # A name typed on one system may spell its accents differently from the file system of another.
    known = {unicodedata.normalize("NFC", file): file for file in files}
    rows: dict[str, CaptionRow] = {}
    columns: list[str] = []
    for line, cells in _rows(path):
        if not columns:
            columns = _header(path, line, cells)
            continue
        if len(cells) != len(columns):
            raise SourceError(
                f"{path}, line {line}: {len(cells)} columns; the header has {len(columns)} ({','.join(columns)}); "
                f"a value with a comma needs double quotes"
            )
        row = _row(path, line, dict(zip(columns, cells, strict=True)), known)
        if row.file in rows:
            raise SourceError(
                f"{path}, line {line}, column file: {row.file!r} is already in line {rows[row.file].line}; keep one row"
            )
        rows[row.file] = row
    if not columns:
        raise SourceError(f"{path}: empty; its first line must name the columns, for example file,caption,licence")
    return rows


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    columns = [re.sub(r"^license$", "licence", cell.strip().lower()) for cell in cells]
    for column in columns:
        if column not in _FOLDER_COLUMNS:
            known = ", ".join(_FOLDER_COLUMNS)
            raise SourceError(f"{path}, line {line}: column {column!r} is not known; known: {known}")
        if columns.count(column) > 1:
            raise SourceError(f"{path}, line {line}: column {column!r} comes twice")
    for column in _REQUIRED_COLUMNS:
        if column not in columns:
            raise SourceError(f"{path}, line {line}: column {column!r} is missing; found: {', '.join(columns)}")
    return columns


def _row(path: Path, line: int, values: dict[str, str], known: dict[str, str]) -> CaptionRow:
    given = values["file"].strip().replace("\\", "/")
    name = unicodedata.normalize("NFC", str(PurePosixPath(given)) if given else "")
    file = known.get(name)
    if file is None:
        near = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; give its path relative to the folder"
        raise SourceError(f"{path}, line {line}, column file: {values['file']!r} is not a mesh of the folder{hint}")
    licence = values.get("licence", "").strip()
    if licence:
        try:
            licence = normalise(licence)
        except UnknownLicenceError as error:
            raise SourceError(f"{path}, line {line}, column licence: {error}") from error
    caption = " ".join(values["caption"].split())
    credit = {name: text for name in CREDIT_COLUMNS if (text := " ".join(values.get(name, "").split()))}
    if "page" in credit and not re.fullmatch(r"https?://\S+", credit["page"]):
        raise SourceError(f"{path}, line {line}, column page: {credit['page']!r} is no http or https address")
    return CaptionRow(line, file, caption, licence, " ".join(values.get("category", "").lower().split()), credit)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank; SourceError where the file cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8; save the file with UTF-8 encoding"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise SourceError(f"{path}, line {line}: holds a NUL character; save the file as UTF-8 text")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise SourceError(f"{path}, line {start}: not readable as CSV: {error}") from error


def caption_from_name(stem: str) -> str:
    """A caption from a file name without its ending: `Toy_duck` -> "a toy duck"; "" if there is no word in it.

    CamelCase is split, `_`, `-`, `.` and blanks separate words, a number at the end (`duck-02`) is dropped.
    """
    unnumbered = re.sub(r"(?<=[^\W\d_])\d+$", "", stem)
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", unnumbered)
    words = [word.lower() for word in re.split(r"[\W_]+", spaced) if word]
    while words and words[-1].isdecimal():
        words.pop()
    return with_article(" ".join(words)) if words else ""


def with_article(noun_phrase: str) -> str:
    """The phrase with "a" or "an" in front, unless it starts with an article or a number."""
    first = noun_phrase.split()[0].lower()
    if first in _ARTICLES or first[0].isdecimal() or first in _NUMBERS:
        return noun_phrase
    return f"{article_for(first)} {noun_phrase}"


def article_for(word: str) -> str:
    """ "a" or "an" before this word, by its first sound as far as spelling tells it ("a unicorn", "an hour")."""
    spelled = word.lower()
    if re.match(r"eu|one\b|once\b|u(?:ni(?![nm])|s[aeiu]|tensil|k)", spelled):
        return "a"
    return "an" if re.match(r"[aeiou]|hour|honest|heir", spelled) else "a"


def head_noun(caption: str) -> str:
    """The noun that a caption is about, lower case: the last word before the first preposition or comma.

    "a large metal drum with blue stripes" -> "drum"; "a pair of red shoes" -> "shoes"; "" for an empty caption.
    A rule of thumb for noun phrases, not a parser: a participle ("a boy holding a flag") ends the phrase too.
    """
    words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*|[,.;:()]", caption.lower())
    start = 0
    for position, word in enumerate(words[:-1]):
        if word in _MEASURES and words[position + 1] == "of":
            start = position + 2
    phrase: list[str] = []
    for word in words[start:]:
        if phrase and (word in _ENDS_PHRASE or not word[0].isalnum()):
            break
        if word not in _ARTICLES and word[0].isalnum():
            phrase.append(word)
    return phrase[-1] if phrase else ""


_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
_MEASURES = set(re.findall(r"\w+", "pair set group collection bunch stack pile piece model replica rendering version"))
_ENDS_PHRASE = set(
    re.findall(
        r"\w+",
        """with of on in at by and or for from to under over near next beside behind above below inside between against
        made featuring holding wearing having showing sitting standing lying carrying resembling containing including
        that which who is are has surrounded mounted attached""",
    )
)
