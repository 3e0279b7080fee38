from pathlib import Path

import pytest

from data.assets.base import SourceError
from data.assets.captions import (
    article_for,
    caption_from_name,
    head_noun,
    read_cap3d,
    read_digests,
    read_folder_captions,
    with_article,
)

UID = "0123456789abcdef0123456789abcdef"


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    return path


def test_cap3d_rows_without_header(tmp_path: Path) -> None:
    path = written(tmp_path, b'a1,"A red barrel, with ""rust""."\nb2,a  chair\nc3,\n')
    assert read_cap3d(path) == {"a1": 'A red barrel, with "rust".', "b2": "a chair"}


def test_cap3d_header_byte_order_mark_and_crlf_are_tolerated(tmp_path: Path) -> None:
    assert read_cap3d(written(tmp_path, b"\xef\xbb\xbfuid,caption\r\na1,a barrel\r\n\r\n")) == {"a1": "a barrel"}


def test_cap3d_equal_duplicates_pass_and_differing_ones_do_not(tmp_path: Path) -> None:
    assert read_cap3d(written(tmp_path, b"a1,a barrel\na1,a barrel\n")) == {"a1": "a barrel"}
    with pytest.raises(SourceError, match=r"line 3, column uid: a1 .* line 1"):
        read_cap3d(written(tmp_path, b"a1,a barrel\nb2,a box\na1,a drum\n"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a1,x\na2,a barrel, red\n", "line 2: 3 columns"),
        (b"a1,x\n,a barrel\n", "line 2, column uid: empty"),
        (b'a1,"two\nlines"\na2,"open\n', "line 3: not readable as CSV"),
        (b"a1,x\na2,caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_cap3d_errors_name_the_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_cap3d(written(tmp_path, data))


def test_digests(tmp_path: Path) -> None:
    assert read_digests(written(tmp_path, f"uid,sha256\n{UID},{'AB' * 32}\n".encode())) == {UID: "ab" * 32}
    with pytest.raises(SourceError, match="line 1: header"):
        read_digests(written(tmp_path, f"{UID},{'ab' * 32}\n".encode()))
    with pytest.raises(SourceError, match=r"line 2, column sha256: 'abc'"):
        read_digests(written(tmp_path, f"uid,sha256\n{UID},abc\n".encode()))
    with pytest.raises(SourceError, match="line 3, column uid"):
        read_digests(written(tmp_path, f"uid,sha256\n{UID},{'ab' * 32}\n{UID},{'cd' * 32}\n".encode()))


def test_folder_captions_with_all_columns(tmp_path: Path) -> None:
    path = written(
        tmp_path, b'\xef\xbb\xbfFile,Caption,license,category\r\ntoys\\duck.glb,"a duck, yellow",by,Toy Duck\r\n'
    )
    found = read_folder_captions(path, ["toys/duck.glb", "other.obj"])["toys/duck.glb"]
    assert (found.line, found.caption, found.licence, found.category) == (2, "a duck, yellow", "CC-BY-4.0", "toy duck")


def test_folder_captions_say_whom_to_credit_where_they_know(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        b"file,caption,title,author,page\nduck.glb,a duck,Rubber  Duck,J. Doe,https://example.org/d\nowl.glb,owl,,,\n",
    )
    rows = read_folder_captions(path, ["duck.glb", "owl.glb"])
    assert rows["duck.glb"].credit == {"title": "Rubber Duck", "author": "J. Doe", "page": "https://example.org/d"}
    assert rows["owl.glb"].credit == {}


def test_folder_captions_match_accents_however_they_are_composed(tmp_path: Path) -> None:
    path = written(tmp_path, "file,caption\ncafé.glb,a cup\n".encode())
    decomposed = "cafe\u0301.glb"
    assert list(read_folder_captions(path, [decomposed])) == [decomposed]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty; its first line must name the columns"),
        (b"file;caption\nduck.glb;a duck\n", "line 1: column 'file;caption' is not known"),
        (b"file,text\nduck.glb,a duck\n", "line 1: column 'text' is not known; known: file, caption"),
        (b"file,licence\nduck.glb,by\n", "line 1: column 'caption' is missing; found: file, licence"),
        (b"file,caption,caption\n", "line 1: column 'caption' comes twice"),
        (b"file,caption\nduck.glb,a duck, yellow\n", r"line 2: 3 columns; the header has 2 \(file,caption\)"),
        (b"file,caption\nduck.glb\n", "line 2: 1 columns"),
        (b"file,caption\nduck.glb,a duck\n\nduck.glb,a bird\n", "line 4, column file: 'duck.glb' is already in line 2"),
        (b"file,caption\nduk.glb,a duck\n", "line 2, column file: 'duk.glb' .* did you mean 'duck.glb'"),
        (b"file,caption\n../duck.glb,a duck\n", "line 2, column file: '../duck.glb' is not a mesh of the folder"),
        (b"file,caption\n,a duck\n", "line 2, column file: '' is not a mesh"),
        (b"file,caption,licence\nduck.glb,a duck,mine\n", "line 2, column licence: licence 'mine' is not known"),
        (b"file,caption,page\nduck.glb,a duck,example.org\n", "line 2, column page: 'example.org' is no http or https"),
        (b'file,caption\nduck.glb,"a duck\n', "line 2: not readable as CSV"),
        (b"file,caption\nduck.glb,a d\xfcck\n", "line 2: byte 0xfc is not UTF-8"),
    ],
)
def test_folder_captions_errors_name_line_and_column(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_folder_captions(written(tmp_path, data), ["duck.glb"])
    assert "table.csv" in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing\.csv: cannot be read"):
        read_cap3d(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("stem", "caption"),
    [
        ("Toy_duck", "a toy duck"),
        ("ToyDuck02", "a toy duck"),
        ("duck-02", "a duck"),
        ("old.owl", "an old owl"),
        ("GLBModel", "a glb model"),
        ("3_cups", "3 cups"),
        ("two chairs", "two chairs"),
        ("The_Duck", "the duck"),
        ("__12__", ""),
    ],
)
def test_caption_from_name(stem: str, caption: str) -> None:
    assert caption_from_name(stem) == caption


def test_with_article() -> None:
    assert [with_article(text) for text in ("owl", "mug", "a mug", "3 mugs")] == ["an owl", "a mug", "a mug", "3 mugs"]


def test_article_follows_the_sound() -> None:
    an = "owl umbrella hour honest urn unusual uninteresting upright onion heirloom"
    a = "mug unicorn uniform useful usual euro one utensil ukulele house union"
    assert {article_for(word) for word in an.split()} == {"an"}
    assert {article_for(word) for word in a.split()} == {"a"}


@pytest.mark.parametrize(
    ("caption", "noun"),
    [
        ("a large metal drum with blue and pink stripes", "drum"),
        ("A 3D model of a yellow duck.", "duck"),
        ("a pair of red shoes on a box", "shoes"),
        ("a boy holding a flag", "boy"),
        ("chair and table", "chair"),
        ("a low-poly tree", "tree"),
        ("a wooden box, closed", "box"),
        ("", ""),
    ],
)
def test_head_noun(caption: str, noun: str) -> None:
    assert head_noun(caption) == noun
