"""The world's identities, meshes and captions: stable ids, closed coloured meshes, equal bytes anywhere."""

import hashlib
import io
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import trimesh
from PIL import Image

from models.miniature.meshes import arc, ball, box, cylinder, prism, revolve, signed_volume, tube
from models.miniature.world import (
    CATEGORIES,
    COLOUR_PAIRS,
    COLOURS,
    PATTERNS,
    POSABLE,
    RIGID,
    ObjectSpec,
    all_specs,
    build_roles,
    caption,
    export_glb,
    make_scene,
    parse_id,
    sample_specs,
)

MUG = ObjectSpec("mug", "red", "blue", "striped", 3)


@pytest.mark.parametrize(
    ("piece", "volume"),
    [
        (box((1, 2, 3), (5, 5, 5)), 6.0),
        (ball(1.0, around=64), 4 / 3 * np.pi),
        (cylinder(1.0, 2.0, around=96), 2 * np.pi),
        (cylinder(1.0, 3.0, top=0.0, around=96), np.pi),
        (prism([(0, 0), (2, 0), (2, 1), (0, 1)], 0.5), 1.0),
        (tube([(x, 0.0, 0.0) for x in (0, 1, 2, 3)], 0.5, around=96), 3 * np.pi / 4),
        (revolve([(0, 0), (2, 0), (2, 1), (1, 1), (1, 0.5), (0, 0.5)], around=96), 3.5 * np.pi),
        (ball(1.0, around=64).moved((3, 0, 1), (30, 40, 50), (2, 1, 1)), 8 / 3 * np.pi),
    ],
)
def test_primitives_enclose_their_analytic_volume(piece, volume):
    assert signed_volume(piece) == pytest.approx(volume, rel=0.01)


def test_tube_winds_outward_in_both_directions():
    for start, end in ((0, 180), (180, 0)):
        assert signed_volume(tube(arc((0, 0, 0), (1, 1), start, end), 0.1)) > 0


@pytest.mark.parametrize("category", CATEGORIES)
def test_family_is_closed_small_and_lit_from_outside(category):
    for variant in range(12):
        roles = build_roles(category, variant, pose=variant)
        assert {"body", "part"} <= set(roles) <= {"body", "part", "trim"}
        assert sum(len(piece.faces) for piece in roles.values()) < 5000
        for piece in roles.values():
            corner = piece.vertices[piece.faces]
            facing = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
            assert (np.einsum("ij,ij->i", facing, piece.normals[piece.faces].mean(1)) > 0).all()
            welded = trimesh.Trimesh(np.round(piece.vertices, 6), piece.faces, process=True)
            welded.merge_vertices(merge_tex=True, merge_norm=True)
            assert welded.is_watertight


@pytest.mark.parametrize("category", CATEGORIES)
def test_variants_of_a_family_differ_in_shape(category):
    shapes = set()
    for variant in range(8):
        scene = make_scene(ObjectSpec(category, "red", "blue", "plain", variant))
        points = (scene.geometry["body"].vertices - scene.centroid) / scene.extents.max()
        shapes.add(np.round(points, 3).tobytes())
    assert len(shapes) == 8


@pytest.mark.parametrize("category", POSABLE)
def test_a_creature_moves_and_stays_itself(category):
    spec = ObjectSpec(category, "red", "blue", "dotted", 3)
    poses = [make_scene(spec, pose) for pose in range(6)]
    assert len({np.round(scene.geometry["part"].vertices, 4).tobytes() for scene in poses}) == 6
    for role in ("body", "part", "trim"):
        areas = [scene.geometry[role].area for scene in poses]
        assert max(areas) < 1.35 * min(areas), role
        assert len({len(scene.geometry[role].faces) for scene in poses}) == 1
    assert export_glb(spec) == trimesh.exchange.gltf.export_glb(poses[0], include_normals=True)


def test_glb_bytes_are_equal_in_another_process():
    specs = sample_specs(len(CATEGORIES), seed=4, categories=CATEGORIES)
    here = hashlib.sha256(b"".join(export_glb(spec) for spec in specs)).hexdigest()
    code = (
        "import hashlib; from models.miniature.world import CATEGORIES, export_glb, sample_specs\n"
        "specs = sample_specs(len(CATEGORIES), seed=4, categories=CATEGORIES)\n"
        "print(hashlib.sha256(b''.join(export_glb(s) for s in reversed(specs[::-1]))).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_glb_carries_colours_pattern_and_normals():
    loaded = trimesh.load(io.BytesIO(export_glb(MUG)), file_type="glb")
    body, part = loaded.geometry["body"], loaded.geometry["part"]
    colours = Counter(map(tuple, np.asarray(body.visual.material.baseColorTexture.convert("RGB")).reshape(-1, 3)))
    assert set(colours) == {COLOURS["red"], COLOURS["blue"]}
    assert 0.3 < colours[COLOURS["blue"]] / colours.total() < 0.55
    assert isinstance(part.visual.material.baseColorTexture, Image.Image)
    assert set(part.visual.material.baseColorTexture.convert("RGB").getdata()) == {COLOURS["blue"]}
    assert body.visual.material.metallicFactor == 0.0
    expected = build_roles("mug", 3)["body"].normals
    np.testing.assert_allclose(body.vertex_normals, expected, atol=1e-4)


def test_pattern_repeats_seamlessly_around_a_revolved_body():
    piece = revolve([(0.4, 0.0), (0.5, 1.0)], cell=0.37)
    first = piece.uv[np.isclose(piece.uv[:, 0], 0)]
    last = piece.uv[np.isclose(piece.uv[:, 0], piece.uv[:, 0].max())]
    np.testing.assert_allclose(last[:, 0] - first[:, 0], round(last[0, 0]), atol=1e-9)
    np.testing.assert_allclose(last[:, 1], first[:, 1])


def test_ids_round_trip_and_are_unique_and_sorted():
    specs = all_specs(1)
    ids = [spec.id for spec in specs]
    assert MUG.id == "mug-red-blue-striped-03"
    assert ids == sorted(set(ids))
    assert len(ids) == len(CATEGORIES) * len(COLOUR_PAIRS) * len(PATTERNS)
    assert [parse_id(name) for name in ids[::97]] == specs[::97]


@pytest.mark.parametrize(
    "bad",
    [
        "mug-red-blue-striped",
        "mug-red-blue-striped-3",
        "mug-red-red-striped-03",
        "mug-red-orange-striped-03",
        "cup-red-blue-striped-03",
        "mug-red-blue-zigzag-03",
        "mug-red-blue-striped-x3",
        "mug-red-blue-striped-100",
    ],
)
def test_ids_that_name_no_object_are_refused(bad):
    with pytest.raises(ValueError, match=r"mug|red|cup|zigzag|100"):
        parse_id(bad)


def test_sampling_is_distinct_balanced_and_repeatable():
    specs = sample_specs(100, seed=1)
    counts = Counter(spec.category for spec in specs)
    assert len(set(specs)) == 100
    assert set(counts) == set(RIGID)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert specs == sample_specs(100, seed=1) != sample_specs(100, seed=2)
    assert [spec.id for spec in specs] == sorted(spec.id for spec in specs)


def test_sampling_a_whole_world_returns_all_of_it_and_no_more():
    categories, room = ("hat", "mug"), 2 * len(COLOUR_PAIRS) * len(PATTERNS)
    expected = [spec for spec in all_specs(1) if spec.category in categories]
    assert sample_specs(room, seed=0, variants=1, categories=categories) == expected
    with pytest.raises(ValueError, match=str(room + 1)):
        sample_specs(room + 1, seed=0, variants=1, categories=categories)


def test_colours_of_a_pair_stay_apart():
    for first, second in COLOUR_PAIRS:
        difference = np.subtract(COLOURS[first], COLOURS[second])
        assert np.linalg.norm(difference) > 95, (first, second)


def test_captions_bind_colours_to_parts_or_leave_them_open():
    assert caption(MUG, "full") == "a red mug with blue stripes and a blue handle"
    assert caption(MUG, "open") == "a striped mug"
    assert caption(MUG, "category") == "a mug"
    plain = ObjectSpec("umbrella", "white", "orange", "plain", 0)
    assert caption(plain, "full") == "a white umbrella with an orange pole"
    assert caption(plain, "category") == "an umbrella"
    assert caption(ObjectSpec("chair", "orange", "black", "checked", 0), "full") == (
        "an orange chair with black checks and black legs"
    )
    with pytest.raises(ValueError, match="brief"):
        caption(MUG, "brief")


def test_open_captions_name_no_colour():
    for spec in sample_specs(60, seed=2):
        assert not set(caption(spec, "open").split()) & set(COLOURS)
