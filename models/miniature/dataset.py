"""Training views of the procedural world: rendered, placed on the ground, composited into painted scenes.

Written chunk by chunk, so that a killed run goes on where it stopped.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import trimesh

from data.cameras import fitting_distance, look_at
from data.depth import inverse_depth_condition
from data.ids import seed_for, split_of
from data.placement import draw_placement
from data.rendering import Renderer
from data.surfaces import surfaces_of
from models.miniature.scenes import OTHER_OBJECTS, SCENES, composite, paint_scene
from models.miniature.world import CATEGORIES, POSABLE, ObjectSpec, make_scene, parse_id, sample_specs

SIZE = 64
EVAL_SHARE = 0.2
SPLIT_SEED = 0
"""Objects of the split `eval` under this seed are never trained on."""
OTHER_SHARE = 0.25
MAX_ELEVATION_DEG = 70.0
FOV_DEG = 40.0
FARTHEST = 1.3
"""Cameras stand between 1 and this many times the distance from which the object just fits the frame."""
CHUNK = 200
_TRIES = 20


@dataclass(frozen=True)
class Views:
    """V views of N objects, those of one object next to each other."""

    ids: tuple[str, ...]
    """N object ids."""
    images: np.ndarray
    """(V, 64, 64, 3) uint8 composites."""
    masks: np.ndarray
    """(V, 64, 64) bool."""
    depths: np.ndarray
    """(V, 64, 64) uint8: `inverse_depth_condition` times 255."""
    objects: np.ndarray
    """(V,) place in `ids`."""
    scenes: np.ndarray
    """(V,) place in SCENES."""
    others: np.ndarray
    """(V,) place in OTHER_OBJECTS, -1 for none."""

    def __len__(self) -> int:
        return len(self.images)

    def specs(self) -> list[ObjectSpec]:
        return [parse_id(object_id) for object_id in self.ids]

    def other(self, view: int) -> str | None:
        return None if self.others[view] < 0 else OTHER_OBJECTS[self.others[view]]


def objects_of(split: str, pool: int, seed: int) -> list[ObjectSpec]:
    """About `pool` objects of that split ("train" or "eval"), balanced over categories, in random order."""
    share = EVAL_SHARE if split == "eval" else 1 - EVAL_SHARE
    drawn = sample_specs(round(pool / share), seed, categories=CATEGORIES)
    chosen = [spec for spec in drawn if split_of(spec.id, EVAL_SHARE, SPLIT_SEED) == split]
    Random(0).shuffle(chosen)
    return chosen


def render_views(specs: Sequence[ObjectSpec], per_object: int, seed: int, folder: Path, workers: int) -> Views:
    """`per_object` views of every object, each in its own scene; chunks of these objects in `folder` are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [[spec.id for spec in specs[start : start + CHUNK]] for start in range(0, len(specs), CHUNK)]
    jobs = [(ids, folder / f"{number:05d}.npz") for number, ids in enumerate(chunks)]
    missing = [job for job in jobs if not _holds(*job, per_object)]
    render = partial(_render_chunk, per_object=per_object, seed=seed)
    if workers == 1:
        for job in missing:
            render(job)
    elif missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(render, missing))
    return _read([path for _, path in jobs])


def _holds(ids: list[str], path: Path, per_object: int) -> bool:
    if not path.exists():
        return False
    with np.load(path) as chunk:
        return chunk["ids"].tolist() == ids and len(chunk["objects"]) == len(ids) * per_object


def _render_chunk(job: tuple[list[str], Path], per_object: int, seed: int) -> None:
    ids, path = job
    columns: dict[str, list[np.ndarray | int]] = {}
    with Renderer(SIZE, SIZE) as renderer:
        for number, object_id in enumerate(ids):
            rng = np.random.default_rng(seed_for(seed, "views", object_id))
            for view in _object_views(parse_id(object_id), per_object, renderer, rng):
                for name, value in {**view, "objects": number}.items():
                    columns.setdefault(name, []).append(value)
    partial_path = path.with_suffix(".part.npz")
    np.savez(partial_path, ids=np.array(ids), **{name: np.stack(values) for name, values in columns.items()})
    partial_path.replace(path)


def _object_views(
    spec: ObjectSpec, count: int, renderer: Renderer, rng: np.random.Generator
) -> list[dict[str, np.ndarray | int]]:
    """Views of one object in different scenes, a creature each time in another pose."""
    scenes = rng.permutation(len(SCENES))[:count]
    if spec.category not in POSABLE:
        return _views_of(spec, 0, scenes, renderer, rng)
    poses = rng.integers(2**31, size=count).tolist()
    return [_views_of(spec, pose, [scene], renderer, rng)[0] for pose, scene in zip(poses, scenes, strict=True)]


def _views_of(
    spec: ObjectSpec, pose: int, scenes: Sequence[int], renderer: Renderer, rng: np.random.Generator
) -> list[dict[str, np.ndarray | int]]:
    """A view of one mesh in each of the scenes. Raises RuntimeError when they hardly fill the frame."""
    views: list[dict[str, np.ndarray | int]] = []
    scene_mesh = unit_scene(spec, pose)
    reach = fitting_distance(FOV_DEG, _radius(scene_mesh))
    with renderer.load(surfaces_of(scene_mesh)) as loaded:
        for _ in range(len(scenes) * _TRIES):
            elevation = np.degrees(np.arcsin(rng.uniform(0, np.sin(np.radians(MAX_ELEVATION_DEG)))))
            distance = reach * rng.uniform(1.0, FARTHEST)
            camera = look_at(rng.uniform(0, 360), float(elevation), distance, FOV_DEG, SIZE, SIZE)
            whole = loaded.render(camera).mask
            placement = draw_placement(whole, rng)
            if placement is None:
                continue
            view = loaded.render(camera.placed(placement.scale, placement.dx, placement.dy))
            scene = int(scenes[len(views)])
            other = int(rng.integers(len(OTHER_OBJECTS))) if rng.random() < OTHER_SHARE else -1
            backdrop = paint_scene(SCENES[scene], SIZE, rng, None if other < 0 else OTHER_OBJECTS[other])
            views.append(
                {
                    "images": composite(view.rgb, view.alpha / 255.0, backdrop),
                    "masks": view.mask,
                    "depths": np.rint(inverse_depth_condition(view.depth, view.mask) * 255).astype(np.uint8),
                    "scenes": scene,
                    "others": other,
                }
            )
            if len(views) == len(scenes):
                return views
    tries = len(scenes) * _TRIES
    raise RuntimeError(f"{spec.id}: {len(views)} of {len(scenes)} views fill enough of the frame in {tries} tries")


def unit_scene(spec: ObjectSpec, pose: int = 0) -> trimesh.Scene:
    """The object, in a pose, as `data.meshes.load_mesh` gives it back from its GLB file, without the detour."""
    scene = make_scene(spec, pose)
    low, high = scene.bounds
    scale = 1.0 / float((high - low).max())
    transform = trimesh.transformations.scale_and_translate(scale, -(low + high) / 2 * scale)
    meshes = list(scene.geometry.values())
    for mesh in meshes:
        mesh.apply_transform(transform)
    return trimesh.Scene({f"{number:04d}": mesh for number, mesh in enumerate(meshes)})


def _radius(scene: trimesh.Scene) -> float:
    return max(float(np.linalg.norm(mesh.vertices, axis=1).max()) for mesh in scene.geometry.values())


def _read(paths: Sequence[Path]) -> Views:
    """All chunks as one, objects numbered through."""
    names = ("images", "masks", "depths", "objects", "scenes", "others")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ids: list[str] = []
    for path in paths:
        with np.load(path) as chunk:
            for name in names:
                parts[name].append(chunk[name] + len(ids) if name == "objects" else chunk[name])
            ids += chunk["ids"].tolist()
    return Views(ids=tuple(ids), **{name: np.concatenate(values) for name, values in parts.items()})
