"""Closed surface pieces with normals and texture coordinates, the bricks of the mesh families.

Units are free (a finished object is normalised by whoever loads it); y is up. Texture coordinates count
pattern cells: a piece made with `cell` c repeats its pattern every c units of surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import trimesh

Point = tuple[float, float, float]
ORIGIN: Point = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Piece:
    """Triangles wound counter-clockwise seen from outside: vertices, normals (N, 3), uv (N, 2), faces (M, 3)."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray

    def moved(self, by: Point = ORIGIN, turn: Point = ORIGIN, scale: Point = (1.0, 1.0, 1.0)) -> "Piece":
        """Scale, then rotate by `turn` (degrees about x, then y, then z), then move; scales must be positive."""
        rotation = trimesh.transformations.euler_matrix(*np.radians(turn))[:3, :3]
        normals = (self.normals / scale) @ rotation.T
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return Piece((self.vertices * scale) @ rotation.T + by, normals, self.uv, self.faces)


def join(pieces: Sequence[Piece]) -> Piece:
    """One piece holding all triangles of `pieces`, in order."""
    starts = np.cumsum([0] + [len(p.vertices) for p in pieces[:-1]])
    return Piece(
        np.concatenate([p.vertices for p in pieces]),
        np.concatenate([p.normals for p in pieces]),
        np.concatenate([p.uv for p in pieces]),
        np.concatenate([p.faces + start for p, start in zip(pieces, starts, strict=True)]),
    )


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Two triangles per cell of a (rows, columns) vertex grid."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    right, up, across = corner + 1, corner + columns, corner + columns + 1
    return np.concatenate([np.stack([corner, up, right], 1), np.stack([right, up, across], 1)])


def revolve(profile: Sequence[tuple[float, float]], cell: float = 1.0, around: int = 28) -> Piece:
    """Surface of revolution about y.

    `profile` holds (radius, height) points that keep the inside on their left (up the outside, down the
    inside). A bend above 35 degrees becomes a crease; the pattern repeats a whole number of times around.
    """
    points = np.asarray(profile, float)
    steps = np.diff(points, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    outward = np.stack([steps[:, 1], -steps[:, 0]], 1) / lengths[:, None]
    along = np.concatenate([[0.0], np.cumsum(lengths)]) / cell
    radius = points[:, 0].max()
    repeats = max(2, round(2 * np.pi * radius / cell))
    angle = np.linspace(0.0, 2 * np.pi, around + 1)
    ring = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], 1)
    smooth = [bool(a @ b > np.cos(np.radians(35))) for a, b in pairwise(outward)]
    runs, first = [], 0
    for index in range(1, len(points)):
        if index == len(points) - 1 or not smooth[index - 1]:
            runs.append((first, index))
            first = index
    pieces = []
    for low, high in runs:
        rows = np.arange(low, high + 1)
        before = outward[np.maximum(rows - 1, low)]
        after = outward[np.minimum(rows, high - 1)]
        slope = before + after
        slope /= np.linalg.norm(slope, axis=1, keepdims=True)
        vertices = points[rows, 0, None, None] * ring + points[rows, 1, None, None] * np.array([0.0, 1.0, 0.0])
        normals = slope[:, 0, None, None] * ring + slope[:, 1, None, None] * np.array([0.0, 1.0, 0.0])
        u, v = np.meshgrid(angle / (2 * np.pi) * repeats, along[rows])
        grid = _grid_faces(len(rows), around + 1)
        area = np.linalg.norm(
            np.cross(
                vertices.reshape(-1, 3)[grid[:, 1]] - vertices.reshape(-1, 3)[grid[:, 0]],
                vertices.reshape(-1, 3)[grid[:, 2]] - vertices.reshape(-1, 3)[grid[:, 0]],
            ),
            axis=1,
        )
        pieces.append(
            Piece(
                vertices.reshape(-1, 3),
                normals.reshape(-1, 3),
                np.stack([u, v], -1).reshape(-1, 2),
                grid[area > 1e-12],
            )
        )
    return join(pieces)


def cylinder(radius: float, height: float, cell: float = 1.0, top: float | None = None, around: int = 20) -> Piece:
    """Capped cylinder standing on y = 0; with `top`, a cone frustum of that upper radius (0 for a cone)."""
    upper = radius if top is None else top
    profile = [(0.0, 0.0), (radius, 0.0), (upper, height)]
    return revolve(profile if upper == 0 else [*profile, (0.0, height)], cell, around)


def ball(radius: float, cell: float = 1.0, around: int = 24) -> Piece:
    """Sphere about the origin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, around // 2 + 1)
    profile = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    profile[[0, -1], 0] = 0.0
    return revolve([tuple(p) for p in profile.tolist()], cell, around)


def box(size: Point, centre: Point = ORIGIN, cell: float = 1.0) -> Piece:
    """Axis-aligned box; on its sides the pattern's second coordinate is the height."""
    half = np.asarray(size) / 2
    vertices, normals, uv, faces = [], [], [], []
    for axis in range(3):
        first, second = ((2, 1), (0, 2), (0, 1))[axis]
        for sign in (-1.0, 1.0):
            corners = np.zeros((4, 3))
            corners[:, axis] = sign * half[axis]
            corners[:, first] = np.array([-1, 1, 1, -1]) * half[first]
            corners[:, second] = np.array([-1, -1, 1, 1]) * half[second]
            normal = np.zeros(3)
            normal[axis] = sign
            turn = np.cross(corners[1] - corners[0], corners[2] - corners[0]) @ normal
            order = [[0, 1, 2], [0, 2, 3]] if turn > 0 else [[0, 2, 1], [0, 3, 2]]
            faces.append(np.array(order) + 4 * len(vertices))
            uv.append((corners[:, [first, second]] + half[[first, second]]) / cell)
            vertices.append(corners)
            normals.append(np.tile(normal, (4, 1)))
    return Piece(np.concatenate(vertices) + centre, np.concatenate(normals), np.concatenate(uv), np.concatenate(faces))


def prism(outline: Sequence[tuple[float, float]], depth: float, cell: float = 1.0) -> Piece:
    """Extrude a counter-clockwise outline in the x-y plane by `depth` along z, centred at z = 0.

    The outline must be star-shaped about the mean of its points.
    """
    points = np.asarray(outline, float)
    count = len(points)
    rolled = np.roll(points, -1, axis=0)
    edge = rolled - points
    out = np.stack([edge[:, 1], -edge[:, 0]], 1) / np.linalg.norm(edge, axis=1)[:, None]
    centre = points.mean(0)
    caps = []
    for sign in (1.0, -1.0):
        flat = np.concatenate([points, centre[None]])
        vertices = np.column_stack([flat, np.full(count + 1, sign * depth / 2)])
        index = np.arange(count)
        after = np.roll(index, -1)
        order = (index, after) if sign > 0 else (after, index)
        triangles = np.stack([np.full(count, count), *order], 1)
        normals = np.tile([0.0, 0.0, sign], (count + 1, 1))
        caps.append(Piece(vertices, normals, (flat - points.min(0)) / cell, triangles))
    near = np.column_stack([points, np.full(count, depth / 2)])
    far = np.column_stack([points, np.full(count, -depth / 2)])
    corners = np.stack([near, far, np.roll(far, -1, 0), np.roll(near, -1, 0)], 1)
    normals = np.repeat(np.column_stack([out, np.zeros(count)])[:, None], 4, axis=1)
    side_uv = np.stack([corners[..., 2] / cell, (corners[..., 1] - points[:, 1].min()) / cell], -1)
    base = 4 * np.arange(count)[:, None]
    faces = np.concatenate([base + np.array(corner) for corner in ([0, 1, 2], [0, 2, 3])])
    side = Piece(corners.reshape(-1, 3), normals.reshape(-1, 3), side_uv.reshape(-1, 2), faces)
    return join([*caps, side])


def tube(path: Sequence[Point], radius: float, around: int = 10) -> Piece:
    """Round tube along a polyline that lies in a plane of constant z, with flat ends."""
    points = np.asarray(path, float)
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    across = np.tile([0.0, 0.0, 1.0], (len(points), 1))
    binormal = np.cross(across, tangent)
    angle = np.linspace(0.0, 2 * np.pi, around + 1)
    normals = np.cos(angle)[None, :, None] * across[:, None] + np.sin(angle)[None, :, None] * binormal[:, None]
    vertices = points[:, None] + radius * normals
    wall = Piece(
        vertices.reshape(-1, 3),
        normals.reshape(-1, 3),
        np.zeros((vertices.shape[0] * vertices.shape[1], 2)),
        _grid_faces(len(points), around + 1),
    )
    ends = []
    for ring, normal, reverse in ((vertices[0], -tangent[0], False), (vertices[-1], tangent[-1], True)):
        corner = np.arange(1, around - 1)
        fan = np.stack([np.zeros_like(corner), corner, corner + 1], 1)
        ends.append(
            Piece(ring, np.tile(normal, (around + 1, 1)), np.zeros((around + 1, 2)), fan[:, ::-1] if reverse else fan)
        )
    return join([wall, *ends])


def arc(centre: Point, radii: tuple[float, float], start: float, end: float, count: int = 12) -> list[Point]:
    """Points of an ellipse arc in the x-y plane, angles in degrees, counter-clockwise from +x."""
    x, y, z = centre
    angles = np.radians(np.linspace(start, end, count))
    return [(x + radii[0] * np.cos(a), y + radii[1] * np.sin(a), z) for a in angles.tolist()]


def signed_volume(piece: Piece) -> float:
    """Enclosed volume of a closed piece; negative when it is wound inside out."""
    a, b, c = (piece.vertices[piece.faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)
