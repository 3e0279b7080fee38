"""The little of OpenGL that the renderer needs: a context without a display, programs, buffers, textures, targets."""

import ctypes
import os
from typing import Any

import numpy as np

os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
if not hasattr(np, "infty"):
    # pyrender 0.1.45 uses the name that numpy 2 dropped.
    np.infty = np.inf  # type: ignore[attr-defined]

INSTALL_HINT = "apt-get install -y libegl1 libgl1-mesa-dri"
VERTEX_SIZES = (3, 3, 2, 4)
"""Floats per vertex: position, normal, uv, colour, interleaved."""


class RenderBackendError(Exception):
    """OpenGL through EGL is not to be had; the message ends with what to do.

    `transient` says whether the driver refused, as it may for a moment when many contexts are made at once.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message, transient)
        self.message, self.transient = message, transient

    def __str__(self) -> str:
        return self.message


def opengl() -> Any:
    """OpenGL.GL, imported late: its import fails where no OpenGL library is, and that is a RenderBackendError."""
    from OpenGL import GL

    return GL


def open_context() -> Any:
    """A current OpenGL 4.1 context of its own; `make_current` and `delete_context` are its methods.

    The device is the one that EGL_DEVICE_ID names, by default the first. Raises RenderBackendError.
    """
    platform = os.environ.get("PYOPENGL_PLATFORM")
    if platform != "egl":
        raise RenderBackendError(f"PYOPENGL_PLATFORM is {platform!r}; fix: unset it, or set it to egl")
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
        missing = isinstance(error, ImportError | AttributeError | AssertionError)
        raise RenderBackendError(
            f"no OpenGL context through EGL: {type(error).__name__}: {error}; fix: {INSTALL_HINT}", not missing
        ) from error


class Program:
    """A linked shader program that knows where its uniforms are."""

    def __init__(self, vertex: str, fragment: str) -> None:
        from OpenGL.GL import shaders

        gl = opengl()
        self.id = shaders.compileProgram(
            shaders.compileShader(vertex.strip(), gl.GL_VERTEX_SHADER),
            shaders.compileShader(fragment.strip(), gl.GL_FRAGMENT_SHADER),
            validate=False,
        )
        self._locations: dict[str, int] = {}

    def use(self) -> None:
        opengl().glUseProgram(self.id)

    def set(self, name: str, value: Any) -> None:
        """An int (also for samplers), a float, a vector of 3 or 4 or a row-major 4 x 4 matrix."""
        gl = opengl()
        if name not in self._locations:
            self._locations[name] = gl.glGetUniformLocation(self.id, name)
        location = self._locations[name]
        if isinstance(value, int):
            gl.glUniform1i(location, value)
            return
        array = np.ascontiguousarray(value, dtype=np.float32)
        if array.shape == (4, 4):
            gl.glUniformMatrix4fv(location, 1, True, array)
        else:
            {1: gl.glUniform1fv, 3: gl.glUniform3fv, 4: gl.glUniform4fv}[array.size](location, 1, array)

    def delete(self) -> None:
        opengl().glDeleteProgram(self.id)


class Buffers:
    """Triangles on the graphics side."""

    def __init__(self, vertices: np.ndarray, indices: np.ndarray) -> None:
        """`vertices` (V, 12) float32 in the order of VERTEX_SIZES, `indices` (3 F,) uint32."""
        gl = opengl()
        self.count = len(indices)
        self._array = gl.glGenVertexArrays(1)
        self._buffers = gl.glGenBuffers(2)
        gl.glBindVertexArray(self._array)
        gl.glBindBuffer(gl.GL_ARRAY_BUFFER, self._buffers[0])
        gl.glBufferData(gl.GL_ARRAY_BUFFER, vertices.nbytes, vertices, gl.GL_STATIC_DRAW)
        gl.glBindBuffer(gl.GL_ELEMENT_ARRAY_BUFFER, self._buffers[1])
        gl.glBufferData(gl.GL_ELEMENT_ARRAY_BUFFER, indices.nbytes, indices, gl.GL_STATIC_DRAW)
        stride, offset = 4 * sum(VERTEX_SIZES), 0
        for location, size in enumerate(VERTEX_SIZES):
            gl.glEnableVertexAttribArray(location)
            gl.glVertexAttribPointer(location, size, gl.GL_FLOAT, False, stride, ctypes.c_void_p(offset))
            offset += 4 * size
        gl.glBindVertexArray(0)

    def draw(self) -> None:
        gl = opengl()
        gl.glBindVertexArray(self._array)
        gl.glDrawElements(gl.GL_TRIANGLES, self.count, gl.GL_UNSIGNED_INT, ctypes.c_void_p(0))
        gl.glBindVertexArray(0)

    def delete(self) -> None:
        gl = opengl()
        gl.glDeleteVertexArrays(1, [self._array])
        gl.glDeleteBuffers(2, self._buffers)


def make_texture(pixels: np.ndarray) -> int:
    """A repeating sRGB texture with mipmaps from (H, W, 4) uint8, rows from the bottom."""
    gl = opengl()
    texture = int(gl.glGenTextures(1))
    gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
    gl.glPixelStorei(gl.GL_UNPACK_ALIGNMENT, 1)
    height, width = pixels.shape[:2]
    gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, gl.GL_SRGB8_ALPHA8, width, height, 0, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, pixels)
    gl.glGenerateMipmap(gl.GL_TEXTURE_2D)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_LINEAR_MIPMAP_LINEAR)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MAG_FILTER, gl.GL_LINEAR)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_WRAP_S, gl.GL_REPEAT)
    gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_WRAP_T, gl.GL_REPEAT)
    return texture


def bind_textures(*textures: int) -> None:
    """To the texture units 0, 1 ..."""
    gl = opengl()
    for unit, texture in enumerate(textures):
        gl.glActiveTexture(gl.GL_TEXTURE0 + unit)
        gl.glBindTexture(gl.GL_TEXTURE_2D, texture)


class Target:
    """A framebuffer of a colour texture (attachment 0) and a float32 z-depth texture (attachment 1)."""

    def __init__(self, width: int, height: int, color_format: int, hidden_surfaces: bool) -> None:
        """`hidden_surfaces`: with a depth buffer, so that near surfaces hide far ones."""
        gl = opengl()
        self.width, self.height = width, height
        self._framebuffer = gl.glGenFramebuffers(1)
        self.color, self.depth = (int(texture) for texture in gl.glGenTextures(2))
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._framebuffer)
        formats = ((self.color, color_format, gl.GL_RGBA), (self.depth, gl.GL_R32F, gl.GL_RED))
        for index, (texture, stored, layout) in enumerate(formats):
            gl.glBindTexture(gl.GL_TEXTURE_2D, texture)
            gl.glTexImage2D(gl.GL_TEXTURE_2D, 0, stored, width, height, 0, layout, gl.GL_FLOAT, None)
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MIN_FILTER, gl.GL_NEAREST)
            gl.glTexParameteri(gl.GL_TEXTURE_2D, gl.GL_TEXTURE_MAG_FILTER, gl.GL_NEAREST)
            attachment = gl.GL_COLOR_ATTACHMENT0 + index
            gl.glFramebufferTexture2D(gl.GL_FRAMEBUFFER, attachment, gl.GL_TEXTURE_2D, texture, 0)
        self._z_buffer = None
        if hidden_surfaces:
            self._z_buffer = gl.glGenRenderbuffers(1)
            gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, self._z_buffer)
            gl.glRenderbufferStorage(gl.GL_RENDERBUFFER, gl.GL_DEPTH_COMPONENT32F, width, height)
            gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, gl.GL_DEPTH_ATTACHMENT, gl.GL_RENDERBUFFER, self._z_buffer)
        gl.glDrawBuffers(2, [gl.GL_COLOR_ATTACHMENT0, gl.GL_COLOR_ATTACHMENT1])
        status = gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER)
        if status != gl.GL_FRAMEBUFFER_COMPLETE:
            raise RenderBackendError(f"a framebuffer of {width} x {height} is incomplete, status {int(status):#x}")

    def begin(self) -> None:
        """Clear to 0 and draw here from now on."""
        gl = opengl()
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._framebuffer)
        gl.glViewport(0, 0, self.width, self.height)
        gl.glDisable(gl.GL_CULL_FACE)
        gl.glDisable(gl.GL_BLEND)
        for index in range(2):
            gl.glClearBufferfv(gl.GL_COLOR, index, np.zeros(4, np.float32))
        if self._z_buffer is None:
            gl.glDisable(gl.GL_DEPTH_TEST)
        else:
            gl.glEnable(gl.GL_DEPTH_TEST)
            gl.glClearBufferfv(gl.GL_DEPTH, 0, np.ones(1, np.float32))

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 4) uint8 and (H, W) float32; call it after drawing here."""
        gl = opengl()
        rgba = np.empty((self.height, self.width, 4), np.uint8)
        depth = np.empty((self.height, self.width), np.float32)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        gl.glReadBuffer(gl.GL_COLOR_ATTACHMENT0)
        gl.glReadPixels(0, 0, self.width, self.height, gl.GL_RGBA, gl.GL_UNSIGNED_BYTE, rgba)
        gl.glReadBuffer(gl.GL_COLOR_ATTACHMENT1)
        gl.glReadPixels(0, 0, self.width, self.height, gl.GL_RED, gl.GL_FLOAT, depth)
        return rgba, depth

    def delete(self) -> None:
        gl = opengl()
        gl.glDeleteFramebuffers(1, [self._framebuffer])
        gl.glDeleteTextures([self.color, self.depth])
        if self._z_buffer is not None:
            gl.glDeleteRenderbuffers(1, [self._z_buffer])
