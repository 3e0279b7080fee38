"""Pinhole cameras around a unit box: poses on the upper hemisphere, intrinsics in pixels.

World: y up, the object centred at the origin with its longest side 1. Camera: OpenGL convention, x right, y up,
looking along -z. Image: x right, y down, pixel (i, j) covers [j, j+1) x [i, i+1), so its centre is (j+0.5, i+0.5).
z-depth is the distance along the optical axis, in world units.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Pose = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Camera:
    pose: Pose
    """Camera-to-world, 4 rows of 4."""
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @property
    def matrix(self) -> np.ndarray:
        """Camera-to-world, (4, 4) float64."""
        return np.array(self.pose, dtype=np.float64)

    @property
    def world_to_camera(self) -> np.ndarray:
        """(4, 4) float64; the pose is rigid, so its rotation is inverted by transposing."""
        rotation, position = self.matrix[:3, :3], self.matrix[:3, 3]
        inverse = np.eye(4)
        inverse[:3, :3] = rotation.T
        inverse[:3, 3] = -rotation.T @ position
        return inverse

    @property
    def azimuth_deg(self) -> float:
        """Of the camera's position seen from the origin: 0 on +z, 90 on +x; in [0, 360)."""
        x, _, z = self.matrix[:3, 3]
        return math.degrees(math.atan2(x, z)) % 360.0

    @property
    def elevation_deg(self) -> float:
        """Of the camera's position seen from the origin: 0 at the horizon, 90 above."""
        x, y, z = self.matrix[:3, 3]
        return math.degrees(math.atan2(y, math.hypot(x, z)))

    def placed(self, scale: float, dx: float, dy: float) -> "Camera":
        """The camera whose image is this one's, scaled about its centre and then shifted by (dx, dy) pixels.

        Colour, depth, mask and correspondences of the placed camera are the placed ones: nothing is resampled,
        and z-depth does not change. Raises ValueError unless scale > 0.
        """
        if not scale > 0:
            raise ValueError(f"scale is {scale}; it must be above 0")
        return replace(
            self,
            fx=self.fx * scale,
            fy=self.fy * scale,
            cx=self.width / 2 + (self.cx - self.width / 2) * scale + dx,
            cy=self.height / 2 + (self.cy - self.height / 2) * scale + dy,
        )

    def resized(self, width: int, height: int) -> "Camera":
        """The same view at another resolution; the frame is stretched where the aspect changes."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
            width=width,
            height=height,
        )

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) to pixel coordinates (..., 2) and z-depth (...,).

        Points at or behind the camera plane have z-depth <= 0 and pixel coordinates NaN.
        """
        transform = self.world_to_camera
        local = points @ transform[:3, :3].T + transform[:3, 3]
        depth = -local[..., 2]
        safe = np.where(depth > 0, depth, np.nan)
        pixels = np.stack([self.fx * local[..., 0] / safe + self.cx, self.cy - self.fy * local[..., 1] / safe], axis=-1)
        return pixels, depth

    def unproject(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Pixel coordinates (..., 2) at z-depth (...,) to world points (..., 3); the inverse of `project`."""
        x = (pixels[..., 0] - self.cx) / self.fx * depth
        y = (self.cy - pixels[..., 1]) / self.fy * depth
        local = np.stack([x, y, -depth], axis=-1)
        return local @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `Camera.from_dict` gives back an equal camera."""
        return {
            "pose": [list(row) for row in self.pose],
            "fx": self.fx,
            "fy": self.fy,
            "cx": self.cx,
            "cy": self.cy,
            "width": self.width,
            "height": self.height,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Camera":
        """Raises ValueError for a pose that is not 4 x 4 and KeyError for a missing value."""
        pose = np.asarray(values["pose"], dtype=np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"camera pose has shape {pose.shape}; it must be (4, 4)")
        return Camera(
            pose=_as_pose(pose),
            fx=float(values["fx"]),
            fy=float(values["fy"]),
            cx=float(values["cx"]),
            cy=float(values["cy"]),
            width=int(values["width"]),
            height=int(values["height"]),
        )


def look_at(
    azimuth_deg: float,
    elevation_deg: float,
    distance: float,
    fov_deg: float,
    width: int,
    height: int,
) -> Camera:
    """A camera at that direction and distance from the origin, looking at it, upright, with square pixels.

    `fov_deg` is the full angle of view along the shorter side. Raises ValueError for an elevation outside
    (-90, 90), where upright has no meaning, and for a distance or angle that is not positive.
    """
    if not -90 < elevation_deg < 90:
        raise ValueError(f"elevation is {elevation_deg} degrees; it must lie between -90 and 90, both excluded")
    if not distance > 0 or not 0 < fov_deg < 180:
        raise ValueError(f"distance {distance} and angle of view {fov_deg} must be positive, the angle below 180")
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    back = np.array(
        [
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        ]
    )
    right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(back, right), back
    pose[:3, 3] = back * distance
    focal = min(width, height) / (2 * math.tan(math.radians(fov_deg) / 2))
    return Camera(_as_pose(pose), focal, focal, width / 2, height / 2, width, height)


def sample_hemisphere(
    n: int,
    rng: np.random.Generator,
    max_elevation_deg: float = 70.0,
    *,
    fov_deg: float = 40.0,
    distance: float | None = None,
    width: int = 64,
    height: int = 64,
) -> list[Camera]:
    """`n` cameras uniform on the sphere between the horizon and `max_elevation_deg`.

    Uniform on the surface: the sine of the elevation is uniform. The default distance fits the whole unit cube,
    seen from anywhere, into the frame.
    """
    if not 0 < max_elevation_deg < 90:
        raise ValueError(f"max_elevation_deg is {max_elevation_deg}; it must lie between 0 and 90, both excluded")
    reach = fitting_distance(fov_deg) if distance is None else distance
    azimuths = rng.uniform(0.0, 360.0, size=n)
    sines = rng.uniform(0.0, math.sin(math.radians(max_elevation_deg)), size=n)
    return [
        look_at(float(azimuth), math.degrees(math.asin(sine)), reach, fov_deg, width, height)
        for azimuth, sine in zip(azimuths, sines, strict=True)
    ]


def fitting_distance(fov_deg: float, radius: float = math.sqrt(3) / 2) -> float:
    """Distance from which a sphere of `radius` just fits the angle of view; default: around the unit cube."""
    return radius / math.sin(math.radians(fov_deg) / 2)


def _as_pose(matrix: np.ndarray) -> Pose:
    return tuple(tuple(float(value) for value in row) for row in matrix)  # type: ignore[return-value]
