"""Colour, depth and mask of a mesh without a display: OpenGL through EGL, on a GPU or on Mesa's CPU rasteriser.

The context comes from pyrender's EGL platform. Drawing is done here and not by pyrender's own renderer, whose depth is
taken off the pixel centre (sample 0 of 4), which lights back faces from the wrong side and ignores alpha cut-outs.
"""

import ctypes
import math
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh

from data.cameras import Camera
from data.meshes import MeshError, load_mesh
from data.shaders import RESOLVE_FRAGMENT, RESOLVE_VERTEX, SCENE_FRAGMENT, SCENE_VERTEX
from data.surfaces import Surface, surface_of

__all__ = ["MeshError", "RenderBackendError", "Renderer", "View", "load_mesh", "probe_backend"]

os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
if not hasattr(np, "infty"):
    # pyrender 0.1.45 uses the name that numpy 2 dropped.
    np.infty = np.inf  # type: ignore[attr-defined]

INSTALL_HINT = "apt-get install -y libegl1 libgl1-mesa-dri"
SAMPLES = 3
"""Samples per pixel and axis for colour; odd, so that one of them is the pixel centre, where depth is taken."""
KEY_DIRECTION = (0.45, 0.80, 0.40)
FILL_DIRECTION = (-0.70, 0.30, -0.65)
LIGHT_STRENGTH = (0.42, 0.58, 0.30)
"""Ambient, key and fill, fixed in the world. No surface receives more than 1: colours are never blown out."""


class RenderBackendError(Exception):
    """OpenGL through EGL is not to be had; the message ends with what to do."""


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
        self._context = _open_context()
        self._loaded: set[LoadedScene] = set()
        self._open = True
        gl = _gl()
        try:
            self._scene_program = _program(SCENE_VERTEX, SCENE_FRAGMENT)
            self._resolve_program = _program(RESOLVE_VERTEX, RESOLVE_FRAGMENT)
            self._samples = _Target(width * SAMPLES, height * SAMPLES, gl.GL_RGBA16F, with_depth=True)
            self._result = _Target(width, height, gl.GL_RGBA8, with_depth=False)
            self._white = _texture(np.full((1, 1, 4), 255, np.uint8))
            self._empty_array = gl.glGenVertexArrays(1)
        except Exception as error:
            self._context.delete_context()
            raise RenderBackendError(f"OpenGL refused the renderer's set-up: {error}; fix: {INSTALL_HINT}") from error

    def __enter__(self) -> "Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, scene: trimesh.Scene) -> "LoadedScene":
        """Upload a scene that `load_mesh` returned; close the handle, or use it as a context manager."""
        self._activate()
        loaded = LoadedScene(self, scene)
        self._loaded.add(loaded)
        return loaded

    def render(self, scene: trimesh.Scene, camera: Camera) -> View:
        """One view. Raises ValueError if the camera's size is not the renderer's."""
        with self.load(scene) as loaded:
            return loaded.render(camera)

    def render_views(self, scene: trimesh.Scene, cameras: Iterable[Camera]) -> Iterator[View]:
        """Many views of one scene, uploaded once."""
        with self.load(scene) as loaded:
            for camera in cameras:
                yield loaded.render(camera)

    def close(self) -> None:
        """Free everything on the graphics side; further use raises RuntimeError. A second call does nothing."""
        if not self._open:
            return
        self._activate()
        for loaded in list(self._loaded):
            loaded.close()
        gl = _gl()
        self._samples.delete()
        self._result.delete()
        gl.glDeleteTextures([self._white])
        gl.glDeleteVertexArrays(1, [self._empty_array])
        gl.glDeleteProgram(self._scene_program)
        gl.glDeleteProgram(self._resolve_program)
        self._open = False
        self._context.delete_context()

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
        gl = _gl()
        self._samples.begin()
        gl.glEnable(gl.GL_DEPTH_TEST)
        gl.glDisable(gl.GL_CULL_FACE)
        gl.glDisable(gl.GL_BLEND)
        program = self._scene_program
        gl.glUseProgram(program)
        position = camera.matrix[:3, 3]
        _set(program, "view", camera.world_to_camera)
        _set(program, "projection", _projection(camera, loaded.radius))
        _set(program, "camera_position", position)
        _set(program, "key_direction", _unit(KEY_DIRECTION))
        _set(program, "fill_direction", _unit(FILL_DIRECTION))
        _set(program, "light_strength", LIGHT_STRENGTH)
        gl.glUniform1i(gl.glGetUniformLocation(program, "base_texture"), 0)
        gl.glUniform1i(gl.glGetUniformLocation(program, "emissive_texture"), 1)
        for part in loaded.parts:
            part.draw(program, self._white)
        gl.glDisable(gl.GL_DEPTH_TEST)
        self._result.begin()
        program = self._resolve_program
        gl.glUseProgram(program)
        gl.glUniform1i(gl.glGetUniformLocation(program, "color_samples"), 0)
        gl.glUniform1i(gl.glGetUniformLocation(program, "depth_samples"), 1)
        gl.glUniform1i(gl.glGetUniformLocation(program, "samples"), SAMPLES)
        for unit, texture in enumerate((self._samples.color, self._samples.depth)):
            gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
            gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
        gl.glBindVertexArray(self._empty_array)
        gl.glDrawArrays(gl.GL_TRIANGLES, 0, 3)
        gl.glBindVertexArray(0)
        rgba, depth = self._result.read()
        rgba[rgba[..., 3] == 0] = 0
        return View(rgba[..., :3].copy(), depth, depth > 0, camera, rgba[..., 3].copy())


class LoadedScene:
    """A scene on the graphics side; frees its memory on `close` or at the end of a with block."""

    def __init__(self, renderer: Renderer, scene: trimesh.Scene) -> None:
        self._renderer = renderer
        surfaces = [surface_of(mesh) for mesh in scene.geometry.values()]
        self.radius = max(float(np.linalg.norm(part.vertices[:, :3], axis=1).max()) for part in surfaces)
        """Of the sphere about the origin that holds the scene: what the clipping planes are set by."""
        self.parts = [_Part(surface) for surface in surfaces]

    def __enter__(self) -> "LoadedScene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, camera: Camera) -> View:
        return self._renderer._draw(self, camera)

    def close(self) -> None:
        if not self.parts:
            return
        self._renderer._activate()
        for part in self.parts:
            part.delete()
        self.parts = []
        self._renderer._loaded.discard(self)


class _Part:
    """Buffers and textures of one surface."""

    def __init__(self, surface: Surface) -> None:
        gl = _gl()
        self.surface = surface
        self.count = len(surface.indices)
        self.array = gl.glGenVertexArrays(1)
        self.buffers = gl.glGenBuffers(2)
        gl.glBindVertexArray(self.array)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self.buffers[0])
        gl.glBufferData(gl.GL_ARRAY_BUFFER, surface.vertices.nbytes, surface.vertices, gl.GL_STATIC_DRAW)
        gl.glBindBuffer(gl.GL_ELEMENT_ARRAY_BUFFER, self.buffers[1])
        gl.glBufferData(gl.GL_ELEMENT_ARRAY_BUFFER, surface.indices.nbytes, surface.indices, gl.GL_STATIC_DRAW)
        offset = 0
        for location, size in enumerate((3, 3, 2, 4)):
            gl.glEnableVertexAttribArray(location)
            gl.glVertexAttribPointer(location, size, gl.GL_FLOAT, False, 48, ctypes.c_void_p(4 * offset))
            offset += size
        gl.glBindVertexArray(0)
        images = (surface.base_texture, surface.emissive_texture)
        self.textures = [None if image is None else _texture(image) for image in images]

    def draw(self, program: int, white: int) -> None:
        gl = _gl()
        surface = self.surface
        gl.glUniform4f(gl.glGetUniformLocation(program, "base_factor"), *surface.base_factor)
        gl.glUniform3f(gl.glGetUniformLocation(program, "emissive_factor"), *surface.emissive_factor)
        gl.glUniform1f(gl.glGetUniformLocation(program, "alpha_cutoff"), surface.alpha_cutoff)
        gl.glUniform1f(gl.glGetUniformLocation(program, "unlit"), float(surface.unlit))
        for unit, texture in enumerate(self.textures):
            gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
            gl.glBindTexture(gl.GL_TEXTURE_2D, white if texture is None else texture)
        gl.glBindVertexArray(self.array)
        gl.glDrawElements(gl.GL_TRIANGLES, self.count, gl.GL_UNSIGNED_INT, ctypes.c_void_p(0))
        gl.glBindVertexArray(0)

    def delete(self) -> None:
        gl = _gl()
        gl.glDeleteVertexArrays(1, [self.array])
        gl.glDeleteBuffers(2, self.buffers)
        kept = [texture for texture in self.textures if texture is not None]
        if kept:
            gl.glDeleteTextures(kept)


class _Target:
    """A framebuffer with a colour and a z-depth texture; row 0 is the top of the image."""

    def __init__(self, width: int, height: int, color_format: int, with_depth: bool) -> None:
        gl = _gl()
        self.width, self.height = width, height
        self.framebuffer = gl.glGenFramebuffers(1)
        self.color, self.depth = gl.glGenTextures(2)
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.framebuffer)
        formats = ((self.color, color_format, gl.GL_RGBA), (self.depth, gl.GL_R32F, gl.GL_RED))
        for index, (texture, stored, layout) in enumerate(formats):
            gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
            gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, stored, width, height, 0, layout, gl.GL_FLOAT, None)
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_NEAREST)
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MAG_FILTER, gl.GL_NEAREST)
            attachment = gl.GL_COLOR_ATTACHMENT0 + index
            gl.glFramebufferTexture2D(gl.GL_FRAMEBUFFER, attachment, gl.GL_TEXTURE_2D, texture, 0)
        self.z_buffer = None
        if with_depth:
            self.z_buffer = gl.glGenRenderbuffers(1)
            gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, self.z_buffer)
            gl.glRenderbufferStorage(gl.GL_RENDERBUFFER, gl.GL_DEPTH_COMPONENT32F, width, height)
            gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, gl.GL_DEPTH_ATTACHMENT, gl.GL_RENDERBUFFER, self.z_buffer)
        gl.glDrawBuffers(2, [gl.GL_COLOR_ATTACHMENT0, gl.GL_COLOR_ATTACHMENT1])
        status = gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER)
        if status != gl.GL_FRAMEBUFFER_COMPLETE:
            raise RuntimeError(f"framebuffer of {width} x {height} is incomplete, status {status:#x}")

    def begin(self) -> None:
        gl = _gl()
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self.framebuffer)
        gl.glViewport(0, 0, self.width, self.height)
        for index in range(2):
            gl.glClearBufferfv(gl.GL_COLOR, index, np.zeros(4, np.float32))
        if self.z_buffer is not None:
            gl.glClearBufferfv(gl.GL_DEPTH, 0, np.ones(1, np.float32))

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 4) uint8 and (H, W) float32."""
        gl = _gl()
        rgba = np.empty((self.height, self.width, 4), np.uint8)
        depth = np.empty((self.height, self.width), np.float32)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        gl.glReadBuffer(gl.GL_COLOR_ATTACHMENT0)
        gl.glReadPixels(0, 0, self.width, self.height, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, rgba)
        gl.glReadBuffer(gl.GL_COLOR_ATTACHMENT1)
        gl.glReadPixels(0, 0, self.width, self.height, gl.GL_RED, gl.GL_FLOAT, depth)
        return rgba, depth

    def delete(self) -> None:
        gl = _gl()
        gl.glDeleteFramebuffers(1, [self.framebuffer])
        gl.glDeleteTextures([self.color, self.depth])
        if self.z_buffer is not None:
            gl.glDeleteRenderbuffers(1, [self.z_buffer])


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


def _set(program: int, name: str, value: Any) -> None:
    gl = _gl()
    location = gl.glGetUniformLocation(program, name)
    array = np.ascontiguousarray(value, dtype=np.float32)
    if array.shape == (4, 4):
        gl.glUniformMatrix4fv(location, 1, True, array)
    else:
        gl.glUniform3fv(location, 1, array)


def _texture(pixels: np.ndarray) -> int:
    gl = _gl()
    texture = gl.glGenTextures(1)
    gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
    gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
    height, width = pixels.shape[:2]
    gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, gl.GL_SRGB8_ALPHA8, width, height, 0, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, pixels)
    gl.glGenerateMipmap(gl.GL_TEXTURE_2D)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR_MIPMAP_LINEAR)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MAG_FILTER, gl.GL_LINEAR)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_WRAP_S, gl.GL_REPEAT)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_WRAP_T, gl.GL_REPEAT)
    return int(texture)


def _program(vertex: str, fragment: str) -> int:
    from OpenGL.GL import shaders

    gl = _gl()
    # Mesa validates against the bound state; an array must be bound in a core profile.
    array = gl.glGenVertexArrays(1)
    gl.glBindVertexArray(array)
    program = shaders.compileProgram(
        shaders.compileShader(vertex.strip(), gl.GL_VERTEX_SHADER),
        shaders.compileShader(fragment.strip(), gl.GL_FRAGMENT_SHADER),
        validate=False,
    )
    gl.glBindVertexArray(0)
    gl.glDeleteVertexArrays(1, [array])
    return int(program)


def _gl() -> Any:
    """OpenGL.GL, imported late: its import fails where no OpenGL library is, and that is a RenderBackendError."""
    from OpenGL import GL

    return GL


def _open_context() -> Any:
    """A current OpenGL 4.1 context of its own, without a display."""
    try:
        from pyrender.platforms.egl import EGLPlatform, get_device_by_index

        class Context(EGLPlatform):
            def delete_context(self) -> None:
                # pyrender also terminates the EGL display, which all contexts of the process share.
                from OpenGL.EGL import EGL_NO_CONTEXT, EGL_NO_SURFACE, eglDestroyContext, eglMakeCurrent

                if self._egl_context is not None:
                    eglMakeCurrent(self._egl_display, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT)
                    eglDestroyContext(self._egl_display, self._egl_context)
                    self._egl_context = None

        context = Context(1, 1, device=get_device_by_index(int(os.environ.get("EGL_DEVICE_ID", "0"))))
        context.init_context()
        return context
    except Exception as error:
        # A missing library shows as ImportError, AttributeError, AssertionError or an EGL error, by driver.
        raise RenderBackendError(
            f"no OpenGL context through EGL (PYOPENGL_PLATFORM={os.environ.get('PYOPENGL_PLATFORM')}): "
            f"{type(error).__name__}: {error}; fix: {INSTALL_HINT}"
        ) from error


def probe_backend() -> dict[str, str]:
    """`vendor`, `renderer`, `version` of the OpenGL that would draw. Raises RenderBackendError."""
    context = _open_context()
    try:
        gl = _gl()
        names = {"vendor": gl.GL_VENDOR, "renderer": gl.GL_RENDERER, "version": gl.GL_VERSION}
        return {key: gl.glGetString(name).decode() for key, name in names.items()}
    finally:
        context.delete_context()
