"""What furniture is made of: every class as flat, round and spherical patches, on which points can be placed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

NOUNS = ("chair", "table", "sofa", "bed", "lamp", "cabinet", "plant", "bin")


@dataclass(frozen=True)
class Form:
    """A class's surface in its own frame: the front faces -y, the middle of its foot is the origin.

    A patch maps points q of a unit shape to origin + axes @ q.

    Attributes:
        measures: width, depth and height in metres.
        shape: [p] 0 a square (u, v, 0), 1 the side of a cylinder (cos, sin, v), 2 a disc, 3 a sphere.
        origin: [p, 3].
        axes: [p, 3, 3], a column an axis.
        area: [p] square metres.
        shade: [p] what the colour is multiplied with.
    """

    measures: tuple[float, float, float]
    shape: np.ndarray
    origin: np.ndarray
    axes: np.ndarray
    area: np.ndarray
    shade: np.ndarray


@dataclass(frozen=True)
class Patch:
    """One patch of a form, see there; the axes are rows."""

    shape: int
    origin: tuple[float, float, float]
    axes: tuple[tuple[float, float, float], ...]  # a row an axis
    area: float
    shade: float


def _box(x: tuple, y: tuple, z: tuple, shade: float = 1.0) -> list[Patch]:
    """The faces of a box between two values along each axis, but for the one on the floor."""
    low, size = np.array([x[0], y[0], z[0]]), np.array([x[1] - x[0], y[1] - y[0], z[1] - z[0]])
    patches = []
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        for far in (False, True):
            if axis == 2 and not far and z[0] == 0:
                continue
            axes = np.zeros((3, 3))
            # the third axis is the normal: first x second points along `axis`, so the near face swaps them
            axes[0 if far else 1, first], axes[1 if far else 0, second] = size[first], size[second]
            axes[2, axis] = 1.0 if far else -1.0
            origin = low + far * size * (np.arange(3) == axis)
            patches.append(Patch(0, tuple(origin), tuple(map(tuple, axes)), float(size[first] * size[second]), shade))
    return patches


def _cylinder(radius: float, z: tuple, shade: float = 1.0, x: float = 0.0, y: float = 0.0) -> list[Patch]:
    """An upright cylinder's side and its upper end."""
    tall = z[1] - z[0]
    side = ((radius, 0, 0), (0, radius, 0), (0, 0, tall))
    disc = ((radius, 0, 0), (0, radius, 0), (0, 0, 1.0))
    return [
        Patch(1, (x, y, z[0]), side, 2 * np.pi * radius * tall, shade),
        Patch(2, (x, y, z[1]), disc, np.pi * radius**2, shade),
    ]


def _sphere(radius: float, z: float, shade: float = 1.0) -> list[Patch]:
    axes = ((radius, 0, 0), (0, radius, 0), (0, 0, radius))
    return [Patch(3, (0, 0, z), axes, 4 * np.pi * radius**2, shade)]


def _legs(width: float, depth: float, height: float, thick: float) -> list[Patch]:
    return [
        patch
        for x in (-width / 2, width / 2 - thick)
        for y in (-depth / 2, depth / 2 - thick)
        for patch in _box((x, x + thick), (y, y + thick), (0, height), 0.85)
    ]


def _chair() -> list[Patch]:
    seat = _box((-0.25, 0.25), (-0.25, 0.25), (0.42, 0.48))
    return seat + _box((-0.25, 0.25), (0.19, 0.25), (0.48, 0.95)) + _legs(0.5, 0.5, 0.42, 0.06)


def _table() -> list[Patch]:
    legs = [patch for x in (-0.5, 0.5) for y in (-0.3, 0.3) for patch in _cylinder(0.04, (0, 0.70), 0.85, x, y)]
    return _box((-0.6, 0.6), (-0.4, 0.4), (0.70, 0.75)) + legs


def _sofa() -> list[Patch]:
    arms = [patch for x in (-0.75, 0.57) for patch in _box((x, x + 0.18), (-0.4, 0.4), (0, 0.6), 0.92)]
    return _box((-0.57, 0.57), (-0.4, 0.2), (0, 0.42)) + _box((-0.57, 0.57), (0.2, 0.4), (0, 0.85), 0.92) + arms


def _bed() -> list[Patch]:
    return _box((-0.5, 0.5), (-0.85, 0.8), (0, 0.45)) + _box((-0.5, 0.5), (0.8, 0.85), (0, 0.9), 0.85)


def _lamp() -> list[Patch]:
    return _cylinder(0.17, (0, 0.05), 0.85) + _cylinder(0.04, (0.05, 1.2), 0.85) + _sphere(0.22, 1.4)


def _cabinet() -> list[Patch]:
    # two doors, a hand's breadth before the body, tell the front
    doors = [patch for x in (-0.43, 0.02) for patch in _box((x, x + 0.41), (-0.25, -0.2), (0.1, 1.4), 0.85)]
    return _box((-0.45, 0.45), (-0.2, 0.25), (0, 1.5)) + doors


def _plant() -> list[Patch]:
    return _cylinder(0.16, (0, 0.35), 0.8) + _cylinder(0.03, (0.35, 0.6), 0.8) + _sphere(0.28, 0.82)


def _bin() -> list[Patch]:
    return _cylinder(0.22, (0, 0.55))


_FORMS = {
    "chair": ((0.5, 0.5, 0.95), _chair), "table": ((1.2, 0.8, 0.75), _table), "sofa": ((1.5, 0.8, 0.85), _sofa),
    "bed": ((1.0, 1.7, 0.9), _bed), "lamp": ((0.44, 0.44, 1.62), _lamp), "cabinet": ((0.9, 0.5, 1.5), _cabinet),
    "plant": ((0.56, 0.56, 1.1), _plant), "bin": ((0.44, 0.44, 0.55), _bin),
}  # fmt: skip


@cache
def form_of(noun: str) -> Form:
    """The surface of a class, at its own measures."""
    measures, build = _FORMS[noun]
    return as_form(measures, build())


def as_form(measures: tuple[float, float, float], patches: Sequence[Patch]) -> Form:
    """Patches side by side in arrays."""
    return Form(
        measures,
        np.array([patch.shape for patch in patches]),
        np.array([patch.origin for patch in patches], dtype=float),
        np.array([patch.axes for patch in patches], dtype=float).transpose(0, 2, 1),
        np.array([patch.area for patch in patches]),
        np.array([patch.shade for patch in patches]),
    )


def unit_shapes(shape: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n, 3] places and outward directions on the unit shapes of `Form`, for [n, 2] numbers in [0, 1)."""
    u, v = at.T
    round_, zero, one = 2 * np.pi * u, np.zeros(len(u)), np.ones(len(u))
    cos, sin = np.cos(round_), np.sin(round_)
    height = 2 * v - 1
    ring = np.sqrt(1 - height**2)
    places = np.select(
        [(shape == kind)[:, None] for kind in range(4)],
        [
            np.stack([u, v, zero], axis=1), np.stack([cos, sin, v], axis=1),
            np.stack([np.sqrt(v) * cos, np.sqrt(v) * sin, zero], axis=1),
            np.stack([ring * cos, ring * sin, height], axis=1),
        ],
    )  # fmt: skip
    upright, outward = np.stack([zero, zero, one], axis=1), np.stack([cos, sin, zero], axis=1)
    normals = np.select([(shape == kind)[:, None] for kind in range(4)], [upright, outward, upright, places])
    return places, normals
