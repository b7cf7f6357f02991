"""Pictures of rooms: every point a small square, the nearer one in front (z-buffered splats)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntf_utils.data.rooms import Cloud, Room, sample

POINTS = 6000  # of a room that is rendered
BACKGROUND = 1.0
EYE = 1.5  # metres above the floor
LIGHT = np.array([0.35, -0.55, 0.76])  # where it comes from; over the visitor's right shoulder
AMBIENT = 0.72
WIDEST = 0.125  # of the picture's side, a splat's side


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position, target: [3] metres.
        up: [3] what is upwards in the picture.
        angle: degrees of view across the picture.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    angle: float = 70.0

    @property
    def axes(self) -> np.ndarray:
        """[3, 3] rows: to the right, downwards, and into the picture."""
        into = np.subtract(self.target, self.position)
        into = into / np.linalg.norm(into)
        right = np.cross(into, self.up)
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(into, right), into])


def top_camera() -> Camera:
    """From high above the middle of the floor, the door below: one frame for rooms of every size."""
    return Camera((0.0, 0.0, 9.0), (0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0), angle=42.0)


def eye_cameras(room: Room, count: int = 5) -> list[Camera]:
    """At eye level in a ring along the walls, looking at the middle; the first stands in the door."""
    turns = -np.pi / 2 + 2 * np.pi * np.arange(count) / count
    width, depth = room.floor
    return [Camera((0.47 * width * np.cos(turn), 0.47 * depth * np.sin(turn), EYE), (0.0, 0.0, 0.5)) for turn in turns]


def views(room: Room, cameras: Sequence[Camera], size: int = 48, points: int = POINTS) -> np.ndarray:
    """[cameras, size, size, 3] uint8 pictures of a room; the same arguments give the same pictures."""
    cloud = sample(room, points, np.random.default_rng((*room.seed, 2)), shell=0.4)
    return render(cloud, cameras, size)


def top_views(rooms: Sequence[Room], size: int = 48, points: int = POINTS) -> np.ndarray:
    """[rooms, size, size, 3] uint8: each room from above."""
    camera = [top_camera()]
    return np.concatenate([views(room, camera, size, points) for room in rooms])


def render(cloud: Cloud, cameras: Sequence[Camera], size: int = 48, widest: float = WIDEST) -> np.ndarray:
    """Pictures of a cloud.

    A point's square is as wide as the cloud's points are apart, seen from where the camera stands; light falls from
    one side, and more weakly from everywhere. Surfaces that face away from the camera are not drawn.

    Args:
        cameras: one a picture.
        size: pixels a side.
        widest: side of a splat, as a share of the picture's; at least a pixel.

    Returns:
        [cameras, size, size, 3] uint8, on white.
    """
    light = LIGHT / np.linalg.norm(LIGHT)
    lit = AMBIENT + (1 - AMBIENT) * (cloud.normals @ light).clip(min=0)
    colours = (255 * (cloud.colours * lit[:, None]).clip(0, 1)).astype(np.uint8)
    spacing = 1.5 * np.sqrt(_surface(cloud) / len(cloud.points))
    canvas = np.full((len(cameras) * size * size, 3), round(255 * BACKGROUND), dtype=np.uint8)
    for number, camera in enumerate(cameras):
        seen = cloud.points - camera.position
        facing = np.einsum("ni,ni->n", cloud.normals, seen) < 0
        across, down, depth = camera.axes @ seen[facing].T
        ahead = depth > 0.1
        across, down, depth, shown = across[ahead], down[ahead], depth[ahead], colours[facing][ahead]
        focal = size / 2 / np.tan(np.radians(camera.angle) / 2)  # pixels
        wide = np.ceil(focal * spacing / depth).clip(1, max(1, round(widest * size))).astype(int)
        column = np.floor(size / 2 + focal * across / depth - (wide - 1) / 2).astype(int)
        row = np.floor(size / 2 + focal * down / depth - (wide - 1) / 2).astype(int)
        # far ones first: of two values for one pixel, numpy keeps the later one
        order = np.argsort(-depth, kind="stable")
        each = np.repeat(order, wide[order] ** 2)
        place = np.arange(len(each)) - np.repeat(np.cumsum(wide[order] ** 2) - wide[order] ** 2, wide[order] ** 2)
        x, y = column[each] + place % wide[each], row[each] + place // wide[each]
        inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        canvas[(number * size + y[inside]) * size + x[inside]] = shown[each[inside]]
    return canvas.reshape(len(cameras), size, size, 3)


def _surface(cloud: Cloud) -> float:
    """Square metres, roughly: what the points' own bounds tell, floor, two walls and as much again of furniture."""
    x, y, z = np.ptp(cloud.points, axis=0)
    return 2 * (x * y + x * z + y * z) / 2 * 1.2
