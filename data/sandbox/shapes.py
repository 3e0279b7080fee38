"""Shapes as bytes, and back with every number checked: the process that packs them has parsed a mesh from outside."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from data.surfaces import MAX_TEXTURE, Shape, Surface

_TEXTURES = ("base_texture", "emissive_texture")


class ShapeError(Exception):
    """Bytes that no shape has."""


def pack(shape: Shape) -> bytes:
    """safetensors: vertices and indices of every surface, every texture once, and the rest as JSON in `parts`."""
    arrays: dict[str, np.ndarray] = {}
    textures: dict[int, int] = {}
    parts = []
    for number, surface in enumerate(shape.surfaces):
        arrays[f"vertices.{number}"], arrays[f"indices.{number}"] = surface.vertices, surface.indices
        part: dict[str, Any] = {
            "base_factor": surface.base_factor,
            "emissive_factor": surface.emissive_factor,
            "alpha_cutoff": surface.alpha_cutoff,
        }
        for name in _TEXTURES:
            pixels = getattr(surface, name)
            if pixels is not None:
                part[name] = textures.setdefault(id(pixels), len(textures))
                arrays[f"texture.{part[name]}"] = pixels
        parts.append(part)
    text = json.dumps({"radius": shape.radius, "parts": parts}).encode()
    return safetensors.numpy.save({**arrays, "parts": np.frombuffer(text, np.uint8)})


def unpack(data: bytes) -> Shape:
    """The shape that `pack` was given, bit for bit. ShapeError for what it would not have written."""
    try:
        arrays = safetensors.numpy.load(data)
        head = json.loads(arrays["parts"].tobytes())
        radius = _numbers(head["radius"], 1)[0]
        surfaces = tuple(_surface(arrays, number, part) for number, part in enumerate(head["parts"]))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ShapeError(f"{type(error).__name__}: {error}") from error
    if not surfaces or not 0 < radius < 10:
        raise ShapeError(f"{len(surfaces)} surfaces in a radius of {radius}")
    return Shape(surfaces, radius)


def _surface(arrays: Mapping[str, np.ndarray], number: int, part: dict[str, Any]) -> Surface:
    vertices, indices = arrays[f"vertices.{number}"], arrays[f"indices.{number}"]
    _demand(vertices.dtype == np.float32 and vertices.ndim == 2 and vertices.shape[1] == 12, "vertices")
    _demand(indices.dtype == np.uint32 and indices.ndim == 1 and len(indices) % 3 == 0 and len(indices) > 0, "indices")
    # What draws them does not look where an index leads.
    _demand(int(indices.max()) < len(vertices), "an index beyond the vertices")
    _demand(bool(np.isfinite(vertices[:, :3]).all()), "a vertex that is not finite")
    textures = {name: _texture(arrays, part.get(name)) for name in _TEXTURES}
    return Surface(
        vertices=vertices,
        indices=indices,
        base_factor=_numbers(part["base_factor"], 4),
        emissive_factor=_numbers(part["emissive_factor"], 3),
        alpha_cutoff=_numbers(part["alpha_cutoff"], 1)[0],
        **textures,
    )


def _texture(arrays: Mapping[str, np.ndarray], number: object) -> np.ndarray | None:
    if number is None:
        return None
    pixels = arrays[f"texture.{number}"]
    _demand(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 4, "a texture")
    _demand(all(1 <= side <= MAX_TEXTURE for side in pixels.shape[:2]), "the size of a texture")
    return pixels


def _numbers(value: object, count: int) -> tuple[Any, ...]:
    values = value if isinstance(value, list) else [value]
    _demand(len(values) == count and all(isinstance(number, int | float) for number in values), "a factor")
    _demand(all(math.isfinite(number) for number in values), "a factor that is not finite")
    return tuple(map(float, values))


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ShapeError(f"{what} is not as it must be")
