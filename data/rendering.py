"""Colour, depth and mask of a mesh without a display: OpenGL through EGL, on a GPU or on Mesa's CPU rasteriser.

The context comes from pyrender's EGL platform. Drawing is done here and not by pyrender's own renderer, whose depth is
taken off the pixel centre (sample 0 of 4), which lights back faces from the wrong side and ignores alpha cut-outs.
"""

import ctypes
import gc
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.cameras import Camera
from data.opengl import (
    INSTALL_HINT,
    Buffers,
    Program,
    RenderBackendError,
    Target,
    bind_textures,
    make_texture,
    open_context,
    opengl,
)
from data.shaders import RESOLVE_FRAGMENT, RESOLVE_VERTEX, SCENE_FRAGMENT, SCENE_VERTEX
from data.surfaces import Surface

SAMPLES = 3
"""Samples per pixel and axis for colour; odd, so that one of them is the pixel centre, where depth is taken."""
KEY_DIRECTION = (0.45, 0.80, 0.40)
FILL_DIRECTION = (-0.70, 0.30, -0.65)
LIGHT_STRENGTH = (0.42, 0.58, 0.30)
"""Ambient, key and fill, fixed in the world. No surface receives more than 1: colours are never blown out."""

_TRIM_EVERY = 32
"""Scenes after which freed memory goes back to the system, see `_trim`."""


@dataclass(frozen=True)
class View:
    rgb: np.ndarray
    """(H, W, 3) uint8 sRGB: the object's own colour, not mixed with a background; 0 where there is no object."""
    depth: np.ndarray
    """(H, W) float32 z-depth at pixel centres, in units of the unit box; 0 is no surface."""
    mask: np.ndarray
    """(H, W) bool: depth > 0."""
    camera: Camera
    alpha: np.ndarray
    """(H, W) uint8: covered share of the pixel, for compositing; 0 is a transparent background."""


class Renderer:
    """Draws views of one size; a context manager, used in the thread that made it.

    `load` uploads a scene once for many views. Equal input gives equal bytes on the same OpenGL driver.
    """

    def __init__(self, width: int, height: int) -> None:
        """Raises RenderBackendError, and ValueError for a size outside 1 to 4096."""
        if not (1 <= width <= 4096 and 1 <= height <= 4096):
            raise ValueError(f"size is {width} x {height}; allowed: 1 to 4096")
        self.width, self.height = width, height
        self._thread = threading.get_ident()
        self._loaded: set[LoadedScene] = set()
        self._closed_scenes = 0
        self._context = open_context()
        try:
            gl = opengl()
            # A core profile draws nothing without a vertex array, not even triangles made up by the shader.
            self._no_vertices = gl.glGenVertexArrays(1)
            self._scene_program = Program(SCENE_VERTEX, SCENE_FRAGMENT)
            self._resolve_program = Program(RESOLVE_VERTEX, RESOLVE_FRAGMENT)
            self._samples = Target(width * SAMPLES, height * SAMPLES, gl.GL_RGBA16F, hidden_surfaces=True)
            self._result = Target(width, height, gl.GL_RGBA8, hidden_surfaces=False)
            self._white = make_texture(np.full((1, 1, 4), 255, np.uint8))
        except Exception as error:
            self._context.delete_context()
            raise RenderBackendError(f"OpenGL refused the renderer's set-up: {error}; fix: {INSTALL_HINT}") from error
        self._open = True

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, surfaces: Sequence[Surface]) -> "LoadedScene":
        """Upload the surfaces of one mesh; close the handle, or use it as a context manager."""
        self._activate()
        loaded = LoadedScene(self, surfaces)
        self._loaded.add(loaded)
        return loaded

    def render(self, surfaces: Sequence[Surface], camera: Camera) -> View:
        """One view. Raises ValueError if the camera's size is not the renderer's."""
        with self.load(surfaces) as loaded:
            return loaded.render(camera)

    def render_views(self, surfaces: Sequence[Surface], cameras: Iterable[Camera]) -> Iterator[View]:
        """Many views of one mesh, uploaded once."""
        with self.load(surfaces) as loaded:
            for camera in cameras:
                yield loaded.render(camera)

    def close(self) -> None:
        """Free everything on the graphics side; further use raises RuntimeError. A second call does nothing."""
        if not self._open:
            return
        self._activate()
        for loaded in list(self._loaded):
            loaded.close()
        self._open = False
        # Objects of a context that no other shares go with it.
        self._context.delete_context()

    def _forget(self, loaded: "LoadedScene") -> None:
        self._loaded.discard(loaded)
        self._closed_scenes += 1
        if self._closed_scenes % _TRIM_EVERY == 0:
            _trim()

    def _activate(self) -> None:
        if not self._open:
            raise RuntimeError("the renderer is closed")
        if threading.get_ident() != self._thread:
            raise RuntimeError("a Renderer works only in the thread that made it; make one per thread")
        self._context.make_current()

    def _draw(self, loaded: "LoadedScene", camera: Camera) -> View:
        if (camera.width, camera.height) != (self.width, self.height):
            raise ValueError(
                f"camera is {camera.width} x {camera.height}, renderer {self.width} x {self.height}; use "
                "Camera.resized or another Renderer"
            )
        self._activate()
        self._samples.begin()
        program = self._scene_program
        program.use()
        program.set("view", camera.world_to_camera)
        program.set("projection", _projection(camera, loaded.radius))
        program.set("camera_position", camera.matrix[:3, 3])
        program.set("key_direction", _unit(KEY_DIRECTION))
        program.set("fill_direction", _unit(FILL_DIRECTION))
        program.set("light_strength", LIGHT_STRENGTH)
        program.set("base_texture", 0)
        program.set("emissive_texture", 1)
        for part in loaded.parts:
            program.set("base_factor", part.surface.base_factor)
            program.set("emissive_factor", part.surface.emissive_factor)
            program.set("alpha_cutoff", part.surface.alpha_cutoff)
            bind_textures(part.base_texture, part.emissive_texture)
            part.buffers.draw()
        self._resolve()
        rgba, depth = self._result.read()
        rgba[rgba[..., 3] == 0] = 0
        return View(rgba[..., :3].copy(), depth, depth > 0, camera, rgba[..., 3].copy())

    def _resolve(self) -> None:
        """Average the samples of each pixel, in linear colour, and take depth from the one at its centre."""
        gl = opengl()
        self._result.begin()
        self._resolve_program.use()
        self._resolve_program.set("color_samples", 0)
        self._resolve_program.set("depth_samples", 1)
        self._resolve_program.set("samples", SAMPLES)
        bind_textures(self._samples.color, self._samples.depth)
        gl.glBindVertexArray(self._no_vertices)
        gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)
        gl.glBindVertexArray(0)


@dataclass(frozen=True)
class _Part:
    surface: Surface
    buffers: Buffers
    base_texture: int
    emissive_texture: int


class LoadedScene:
    """A scene on the graphics side; frees its memory on `close` or at the end of a with block."""

    def __init__(self, renderer: Renderer, surfaces: Sequence[Surface]) -> None:
        self._renderer = renderer
        self.parts: list[_Part] = []
        self._textures: dict[int, int] = {}
        try:
            for surface in surfaces:
                base, emissive = self._texture(surface.base_texture), self._texture(surface.emissive_texture)
                self.parts.append(_Part(surface, Buffers(surface.vertices, surface.indices), base, emissive))
        except Exception:
            self._free()
            raise
        corners = (part.surface.vertices[:, :3] for part in self.parts)
        self.radius = max(float(np.linalg.norm(points, axis=1).max()) for points in corners)
        """Of the sphere about the origin that holds the scene: what the clipping planes are set by."""

    def __enter__(self) -> "LoadedScene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, camera: Camera) -> View:
        """Raises ValueError if the camera's size is not the renderer's, RuntimeError once closed."""
        if not self.parts:
            raise RuntimeError("the loaded scene is closed; load it again")
        return self._renderer._draw(self, camera)

    def close(self) -> None:
        """Free what was uploaded; a second call does nothing."""
        if self.parts:
            self._renderer._activate()
            self._free()
            self._renderer._forget(self)

    def _texture(self, pixels: np.ndarray | None) -> int:
        """Surfaces that share pixels share the texture; plain white stands for none."""
        if pixels is None:
            return self._renderer._white
        if id(pixels) not in self._textures:
            self._textures[id(pixels)] = make_texture(pixels)
        return self._textures[id(pixels)]

    def _free(self) -> None:
        for part in self.parts:
            part.buffers.delete()
        if self._textures:
            opengl().glDeleteTextures(list(self._textures.values()))
        self.parts, self._textures = [], {}


def _projection(camera: Camera, radius: float) -> np.ndarray:
    """(4, 4): clip coordinates with y down, so that row 0 of the framebuffer is the top of the image."""
    distance = float(np.linalg.norm(camera.matrix[:3, 3]))
    far = distance + 1.01 * radius
    near = max(distance - 1.01 * radius, 1e-3 * far)
    matrix = np.zeros((4, 4))
    matrix[0, 0] = 2 * camera.fx / camera.width
    matrix[0, 2] = 1 - 2 * camera.cx / camera.width
    matrix[1, 1] = -2 * camera.fy / camera.height
    matrix[1, 2] = 1 - 2 * camera.cy / camera.height
    matrix[2, 2] = (far + near) / (near - far)
    matrix[2, 3] = 2 * far * near / (near - far)
    matrix[3, 2] = -1
    return matrix


def _unit(vector: tuple[float, float, float]) -> tuple[float, float, float]:
    length = math.sqrt(sum(value * value for value in vector))
    x, y, z = vector
    return x / length, y / length, z / length


def _trim() -> None:
    """Give memory back: trimesh's objects lie in reference cycles, and glibc keeps the holes that textures leave.

    Without it a worker grows by 0.1 to 0.2 MiB a mesh over 1,000 meshes; either half alone is not enough.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def probe_backend() -> dict[str, str]:
    """`vendor`, `renderer` and `version` of the OpenGL that would draw. Raises RenderBackendError."""
    context = open_context()
    try:
        gl = opengl()
        names = {"vendor": gl.GL_VENDOR, "renderer": gl.GL_RENDERER, "version": gl.GL_VERSION}
        return {key: gl.glGetString(name).decode() for key, name in names.items()}
    finally:
        context.delete_context()
