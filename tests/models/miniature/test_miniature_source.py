import hashlib

import pytest

from data.assets.base import AssetCandidate, AssetError, SourceError
from data.assets.glb import check_glb
from data.ids import check_object_id
from models.miniature.assets import MiniatureSource


def test_lists_the_asked_number_of_objects_sorted_and_repeatable() -> None:
    first = MiniatureSource(9, 0, "open", ["CC0-1.0"]).candidates()
    assert first == MiniatureSource(9, 0, "open", ["cc0"]).candidates()
    ids = [asset.id for asset in first]
    assert len(set(ids)) == 9 and ids == sorted(ids)
    assert [check_object_id(name) for name in ids] == ids
    assert ids != [asset.id for asset in MiniatureSource(9, 1, "open", ["CC0-1.0"]).candidates()]


def test_open_captions_leave_out_the_colours_that_the_attributes_keep() -> None:
    for asset in MiniatureSource(12, 3, "open", ["CC0-1.0"]).candidates():
        assert asset.attributes["primary"] not in asset.caption
        assert asset.attributes["primary"] in asset.attributes["full_caption"]
        assert asset.category in asset.caption


def test_fetched_mesh_is_glb_and_equal_on_every_call() -> None:
    source = MiniatureSource(1, 0, "open", ["CC0-1.0"])
    (asset,) = source.candidates()
    mesh = source.fetch(asset)
    assert check_glb(mesh.data, asset.id) is mesh.data
    assert mesh.sha256 == hashlib.sha256(mesh.data).hexdigest() == source.fetch(asset).sha256
    assert (mesh.outcome, mesh.original_format) == ("generated", "glb")


def test_rejects_everything_when_its_licence_is_not_allowed() -> None:
    source = MiniatureSource(3, 0, "open", ["CC-BY-4.0"])
    assert source.candidates() == []
    assert [(asset.reason, asset.detail) for asset in source.rejected()] == [("licence_not_allowed", "CC0-1.0")] * 3


def test_errors_name_the_value() -> None:
    with pytest.raises(SourceError, match=r"assets\.count is 0"):
        MiniatureSource(0, 0, "open", ["CC0-1.0"])
    with pytest.raises(AssetError, match="missing"):
        MiniatureSource(1, 0, "open", ["CC0-1.0"]).fetch(
            AssetCandidate("no-such-thing", "", "", "CC0-1.0", "miniature:no-such-thing")
        )
