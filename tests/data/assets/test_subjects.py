import pytest

from data.assets.base import SourceError
from data.assets.subjects import SubjectsSource


def test_every_kind_gives_its_objects_in_series() -> None:
    source = SubjectsSource({"cat": ("Maine Coon", "siamese"), "bee": ()}, per_kind=2)
    found = source.candidates()
    assert [asset.id for asset in found] == [
        "bee-000",
        "bee-001",
        "cat-maine-coon-000",
        "cat-maine-coon-001",
        "cat-siamese-000",
        "cat-siamese-001",
    ]
    assert {(asset.category, asset.caption) for asset in found} == {("cat", "a cat"), ("bee", "a bee")}
    assert found[3].attributes == {"kind": "Maine Coon", "number": 1, "of": 2}
    assert source.fetch(found[0]) is None and source.rejected() == []


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ({}, "assets.subjects is empty"),
        ({"cat": ("--",)}, "categories and kinds must be words"),
        ({"cat": ("red-tabby", "red tabby")}, "give the same id 'cat-red-tabby-000'"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(subjects: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        SubjectsSource(subjects, 1)
