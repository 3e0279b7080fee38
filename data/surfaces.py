"""A trimesh geometry as the arrays and material values that the renderer uploads."""

from dataclasses import dataclass

import numpy as np
import trimesh
from PIL import Image

from data.mesh_errors import MeshError

MAX_TEXTURE = 2048
"""Larger textures are reduced; at most 2048 px images are rendered."""
_BLEND_CUTOFF = 0.1
"""Blended surfaces are drawn opaque where their alpha reaches this, so that colour, depth and mask agree."""


@dataclass(frozen=True)
class Surface:
    vertices: np.ndarray
    """(V, 12) float32: position, normal, uv (origin bottom left), linear RGBA."""
    indices: np.ndarray
    """(3 F,) uint32."""
    base_factor: tuple[float, float, float, float]
    """Linear RGBA, multiplied with texture and vertex colour."""
    emissive_factor: tuple[float, float, float]
    base_texture: np.ndarray | None
    """(H, W, 4) uint8 sRGB, rows from the bottom, a side at most MAX_TEXTURE. Surfaces may share one."""
    emissive_texture: np.ndarray | None
    alpha_cutoff: float
    """Fragments below are not drawn; 0 draws all."""


@dataclass(frozen=True)
class Shape:
    """All that is drawn of a mesh."""

    surfaces: tuple[Surface, ...]
    radius: float
    """Of the sphere about the origin that holds it, see `data.meshes.bounding_radius`."""


def surfaces_of(scene: trimesh.Scene) -> tuple[Surface, ...]:
    """A scene that `load_mesh` returned, geometry by geometry. MeshError bad_texture: an image does not decode."""
    decoded: dict[int, np.ndarray] = {}
    return tuple(_surface_of(mesh, decoded) for mesh in scene.geometry.values())


def _surface_of(mesh: trimesh.Trimesh, decoded: dict[int, np.ndarray]) -> Surface:
    """Metals and gloss are drawn matt: there are no surroundings to reflect, and colours stay those of the asset."""
    if mesh.visual.kind == "face":
        colours = np.repeat(mesh.visual.face_colors, 3, axis=0)
        normals = np.repeat(mesh.face_normals, 3, axis=0)
        positions = mesh.triangles.reshape(-1, 3)
        indices = np.arange(len(positions))
        return _assemble(positions, normals, indices, None, colours, _PLAIN, decoded)
    positions, normals, indices = mesh.vertices, mesh.vertex_normals, mesh.faces.reshape(-1)
    if mesh.visual.kind == "vertex":
        return _assemble(positions, normals, indices, None, mesh.visual.vertex_colors, _PLAIN, decoded)
    if mesh.visual.kind == "texture":
        colours = mesh.visual.vertex_attributes.get("color")
        return _assemble(positions, normals, indices, mesh.visual.uv, colours, _material(mesh.visual.material), decoded)
    return _assemble(positions, normals, indices, None, None, _UNDEFINED, decoded)


def _texture(image: Image.Image | None, decoded: dict[int, np.ndarray]) -> np.ndarray | None:
    """Decoded once for all surfaces that share it."""
    if image is None:
        return None
    if id(image) not in decoded:
        decoded[id(image)] = _pixels(image)
    return decoded[id(image)]


def _pixels(image: Image.Image) -> np.ndarray:
    try:
        pixels = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MeshError("bad_texture", f"a texture does not decode: {error}") from error
    factor = -(-max(pixels.size) // MAX_TEXTURE)
    if factor > 1:
        pixels = pixels.reduce(factor)
    return np.ascontiguousarray(np.asarray(pixels)[::-1])


@dataclass(frozen=True)
class _Material:
    base: tuple[float, float, float, float]
    emissive: tuple[float, float, float] = (0.0, 0.0, 0.0)
    base_texture: Image.Image | None = None
    emissive_texture: Image.Image | None = None
    cutoff: float = 0.0


_PLAIN = _Material((1.0, 1.0, 1.0, 1.0))
_UNDEFINED = _Material((0.5, 0.5, 0.5, 1.0))


def _material(material: trimesh.visual.material.Material) -> _Material:
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        base = (1.0, 1.0, 1.0, 1.0) if material.baseColorFactor is None else _unit(material.baseColorFactor)
        emissive = (0.0, 0.0, 0.0) if material.emissiveFactor is None else tuple(map(float, material.emissiveFactor))
        cutoff = {
            "MASK": 0.5 if material.alphaCutoff is None else float(material.alphaCutoff),
            "BLEND": _BLEND_CUTOFF,
        }.get(material.alphaMode or "OPAQUE", 0.0)
        return _Material(
            base,
            emissive[:3],  # type: ignore[arg-type]
            material.baseColorTexture,
            material.emissiveTexture,
            cutoff,
        )
    # OBJ: the diffuse colour is used as it is, as trimesh does when it writes glTF.
    texture, diffuse = getattr(material, "image", None), getattr(material, "diffuse", None)
    if texture is not None or diffuse is None:
        return _Material((1.0, 1.0, 1.0, 1.0), base_texture=texture)
    return _Material((*_unit(diffuse)[:3], 1.0))


def _unit(colour: np.ndarray) -> tuple[float, float, float, float]:
    """RGBA in [0, 1] from uint8 or float values with 3 or 4 channels."""
    values = np.asarray(colour)
    scaled = values / 255.0 if np.issubdtype(values.dtype, np.integer) else values.astype(np.float64)
    full = np.append(scaled, 1.0)[:4] if len(scaled) == 3 else scaled[:4]
    return tuple(np.clip(full, 0.0, 1.0).tolist())


def _assemble(
    positions: np.ndarray,
    normals: np.ndarray,
    indices: np.ndarray,
    uv: np.ndarray | None,
    colours: np.ndarray | None,
    material: _Material,
    decoded: dict[int, np.ndarray],
) -> Surface:
    vertices = np.zeros((len(positions), 12), np.float32)
    vertices[:, 0:3] = positions
    vertices[:, 3:6] = normals
    # A normal of length 0, as degenerate faces have, would be NaN once normalised.
    lost = ~(np.abs(vertices[:, 3:6]).sum(axis=1) > 1e-12)
    vertices[lost, 3:6] = (0.0, 1.0, 0.0)
    if uv is not None:
        vertices[:, 6:8] = np.nan_to_num(uv[:, :2])
    vertices[:, 8:12] = 1.0
    if colours is not None:
        channels = np.asarray(colours)
        scale = np.iinfo(channels.dtype).max if np.issubdtype(channels.dtype, np.integer) else 1.0
        vertices[:, 8 : 8 + channels.shape[1]] = np.clip(np.nan_to_num(channels / scale), 0.0, 1.0)
    has_uv = uv is not None
    return Surface(
        vertices=vertices,
        indices=np.ascontiguousarray(indices, dtype=np.uint32),
        base_factor=material.base,
        emissive_factor=material.emissive,
        base_texture=_texture(material.base_texture if has_uv else None, decoded),
        emissive_texture=_texture(material.emissive_texture if has_uv else None, decoded),
        alpha_cutoff=material.cutoff,
    )
