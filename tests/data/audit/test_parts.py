"""Parts of the audit store: whole or not there, and every changed file is found."""

from pathlib import Path

import pytest

from data.audit.parts import AuditError, building, check_part, is_current, part_folder, parts_of, read_manifest

SHA256 = "a" * 64


@pytest.fixture
def part(tmp_path: Path) -> Path:
    with building(tmp_path, "datasets", SHA256) as writer:
        writer.add("samples", ({"sample_id": f"{number:06d}"} for number in range(20_001)))
        writer.finish({"artifacts/shard/index.json": SHA256})
    return part_folder(tmp_path, "datasets", SHA256)


def test_a_part_counts_its_rows_and_checks(part: Path, tmp_path: Path) -> None:
    assert parts_of(tmp_path, "datasets") == [part]
    assert read_manifest(part).files["samples.parquet"].rows == 20_001
    assert check_part(part) == []


def test_equal_rows_give_equal_bytes(part: Path, tmp_path: Path) -> None:
    with building(tmp_path / "again", "datasets", SHA256) as writer:
        writer.add("samples", [{"sample_id": f"{number:06d}"} for number in range(20_001)])
        writer.finish({})
    assert read_manifest(part).files == read_manifest(part_folder(tmp_path / "again", "datasets", SHA256)).files


def test_a_part_that_fails_leaves_the_earlier_one(part: Path, tmp_path: Path) -> None:
    before = read_manifest(part)
    wrong = pytest.raises(ValueError, match=r"table samples has no column \['colour'\]")
    with wrong, building(tmp_path, "datasets", SHA256) as writer:
        writer.add("samples", [{"colour": "red"}])
    assert read_manifest(part) == before and check_part(part) == []
    assert sorted(path.name for path in part.parent.iterdir()) == [part.name]


@pytest.mark.parametrize("row", [{"sample_id": 5}, {"seed": "x"}, {"seed": 2**70}, {"prompt": "\ud800"}])
def test_a_value_of_another_type_is_told(tmp_path: Path, row: dict[str, object]) -> None:
    with building(tmp_path, "datasets", SHA256) as writer:
        writer.add("samples", [row])
        with pytest.raises(ValueError, match=r"table samples: |surrogates not allowed"):
            writer.finish({})


def test_a_part_is_current_only_for_what_it_was_read_from(part: Path) -> None:
    assert is_current(part, {"artifacts/shard/index.json": SHA256})
    assert not is_current(part, {"artifacts/shard/index.json": "b" * 64})
    (part / "manifest.json").write_text("{}")
    assert not is_current(part, {"artifacts/shard/index.json": SHA256})
    with pytest.raises(AuditError, match="not the manifest of a part"):
        read_manifest(part)


@pytest.mark.parametrize("what", ["changed", "missing", "added", "moved", "unnamed"])
def test_a_changed_part_is_found(part: Path, what: str) -> None:
    file = part / "samples.parquet"
    if what == "changed":
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
    elif what == "missing":
        file.unlink()
    elif what == "added":
        (part / "more.parquet").write_bytes(b"")
    elif what == "moved":
        part = part.rename(part.with_name("b" * 16))
    else:
        manifest = part / "manifest.json"
        data = read_manifest(part)
        files = {name: own for name, own in data.files.items() if name != "samples.parquet"}
        manifest.write_text(data.model_copy(update={"files": files}).model_dump_json())
    (problem,) = check_part(part)
    assert str(part) in problem
