"""Furnished rooms from a seed: a stand-in for scanned ones, exact enough that every question has a known answer.

Our own invention, for the papers of Parelli et al. (2023) and Delitzas et al. (2023), which use ScanNet.

A room has a floor of 4 to 6 m a side, a back wall and a left wall, and a door in the middle of the front, where y is
smallest. Who stands in the door looks along y: left is where x is smaller, behind is where y is larger. The origin
is the middle of the floor.

There are five to nine things of 8 classes, 8 colours and 2 sizes, built of boxes, cylinders and spheres, turned by a
quarter and up to 10 degrees more, at least 0.25 m apart. Four types of room are four distributions over the
classes. One class of each room, its *focus*, stands there 0 to 4 times, evenly and whatever the type of room and
the number of things are, so that no count can be guessed. 12 of the 64 pairs of class and colour can be held out: a
room asked for with `pairs="seen"` has none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ntf_utils.data.furniture import NOUNS, Form, Patch, as_form, form_of, unit_shapes
from ntf_utils.data.scenes import Scene
from ntf_utils.refusal import Refusal

COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.96, 0.90, 0.20),
    "green": (0.15, 0.62, 0.22),
    "blue": (0.15, 0.30, 0.85),
    "purple": (0.55, 0.20, 0.68),
    "pink": (0.98, 0.62, 0.78),
    "black": (0.12, 0.12, 0.12),
}
SIZES = {"small": 0.8, "large": 1.2}  # of a class's own measures
KINDS = {  # weights of the classes, in the order of NOUNS
    "bedroom": (0.5, 0.3, 0.3, 4.0, 3.0, 3.0, 0.5, 0.3),
    "living room": (0.5, 1.5, 4.0, 0.1, 2.0, 0.5, 3.0, 0.3),
    "office": (3.0, 3.0, 0.2, 0.1, 0.5, 2.0, 0.5, 3.0),
    "dining room": (4.0, 3.5, 0.2, 0.1, 1.0, 1.5, 1.5, 0.3),
}
MOST = 4  # of the focus class
GAP = 0.25  # metres between two things, and between a thing and a wall
WALL = 2.2  # metres, the height of the walls
PLACES = 60, 600  # that are tried for each thing on a floor before it is given up: on any floor, on the largest
# Two colours for every other class and one for the rest; no colour is held out more than twice.
HELD_OUT = tuple(
    (noun, tuple(COLOURS)[(step * row + shift) % 8])
    for shift, step, rows in ((1, 3, range(8)), (4, 3, range(0, 8, 2)))
    for row, noun in enumerate(NOUNS)
    if row in rows
)

Pairs = Literal["all", "seen", "held-out"]


@dataclass(frozen=True)
class Thing:
    """A piece of furniture.

    Attributes:
        noun: its class.
        colour: a name of COLOURS.
        size: "small" or "large".
        x, y: metres, of its middle.
        yaw: radians; at 0 its front faces the door.
    """

    noun: str
    colour: str
    size: str
    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0

    @property
    def pair(self) -> tuple[str, str]:
        return self.noun, self.colour

    @property
    def measures(self) -> tuple[float, float, float]:
        """Width, depth and height in metres, before it is turned."""
        return tuple(SIZES[self.size] * side for side in form_of(self.noun).measures)

    @property
    def footprint(self) -> np.ndarray:
        """[4, 2] corners on the floor, in order around it."""
        width, depth, _ = self.measures
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, depth / 2)
        return corners @ _turn(self.yaw)[:2, :2].T + (self.x, self.y)

    @property
    def box(self) -> np.ndarray:
        """[6] centre and extent of the smallest box along the axes around its footprint and its height."""
        corners, height = self.footprint, self.measures[2]
        low, high = corners.min(axis=0), corners.max(axis=0)
        return np.array([*(low + high) / 2, height / 2, *(high - low), height])


@dataclass(frozen=True)
class Room:
    """A furnished room.

    Attributes:
        name: unique in its set.
        seed: what it was drawn from.
        kind: the type of room.
        floor: metres along x and y.
        shade: grey of floor and walls, in [0, 1].
        focus: the class whose count is drawn evenly.
        things: without order that would tell anything.
    """

    name: str
    seed: tuple[int, ...]
    kind: str
    floor: tuple[float, float]
    shade: float
    focus: str
    things: tuple[Thing, ...]

    @property
    def door(self) -> tuple[float, float]:
        """Metres, where the visitor stands."""
        return 0.0, -self.floor[1] / 2


def make_room(
    seed: int | Sequence[int],
    pairs: Pairs = "seen",
    *,
    name: str | None = None,
    kind: str | None = None,
    focus: tuple[str, int] | None = None,
    things: tuple[int, int] = (5, 9),
    floor: tuple[float, float] = (4.0, 6.0),
    tries: int = 90,
) -> Room:
    """A room from a seed.

    Args:
        seed: one or several numbers.
        pairs: of class and colour: "seen" has none of HELD_OUT, "all" draws evenly from all 64, "held-out" gives
            every other thing one of HELD_OUT.
        kind: the type of room; drawn evenly where not given.
        focus: its class and how often that stands there; likewise.
        things: fewest and most of them, both drawn.
        floor: shortest and longest side in metres.
        tries: floors that are drawn before it gives up. The things stay what they are, else full rooms would be rare;
            only their sizes are drawn anew in the last third.

    Raises:
        Refusal: an unknown name, or furniture that does not fit.
    """
    seed = (seed,) if isinstance(seed, int) else tuple(seed)
    if kind is not None and kind not in KINDS:
        raise Refusal(f"no such type of room: {kind!r} (known are {', '.join(KINDS)})")
    if pairs not in ("all", "seen", "held-out"):
        raise Refusal(f"pairs must be all, seen or held-out (got {pairs!r})")
    if focus is not None and (focus[0] not in NOUNS or not 0 <= focus[1] <= MOST):
        raise Refusal(f"a focus is one of {', '.join(NOUNS)}, 0 to {MOST} times (got {focus})")
    if not MOST < things[0] <= things[1]:
        raise Refusal(f"a room needs more than {MOST} things, and not fewer than its fewest (got {things})")
    if not 0 < floor[0] <= floor[1]:
        raise Refusal(f"a floor needs a shortest and a longest side above 0 m (got {floor})")
    rng = np.random.default_rng(seed)
    kind = kind or _pick(rng, tuple(KINDS))
    count = int(rng.integers(things[0], things[1] + 1))
    central, often = focus or (_pick(rng, NOUNS), int(rng.integers(MOST + 1)))
    nouns = [central] * often + _others(rng, kind, central, count - often)
    loose = [Thing(noun, _colour(rng, noun, pairs), _pick(rng, tuple(SIZES))) for noun in nouns]
    for attempt in range(tries):
        # the later floors are the largest there are, and each thing has ten times the tries
        last = attempt >= tries // 3
        if attempt >= 2 * tries // 3:  # seven large beds, say: their number has to stay, their sizes do not
            loose = [replace(thing, size=_pick(rng, tuple(SIZES))) for thing in loose]
        sides = floor[1:] * 2 if last else tuple(float(side) for side in rng.uniform(*floor, size=2))
        placed = _placed(rng, loose, sides, PLACES[last])
        if placed is not None:
            order = rng.permutation(len(placed))
            shade = float(rng.uniform(0.6, 0.85))
            name = name or f"room-{'-'.join(map(str, seed))}"
            return Room(name, seed, kind, sides, shade, central, tuple(placed[row] for row in order))
    raise Refusal(
        f"room {'-'.join(map(str, seed))} is too small: {count} things ({', '.join(nouns)}) found no place on a floor "
        f"of up to {floor[1]:g} x {floor[1]:g} m in {tries} tries; fewer things or a larger floor will do"
    )


def _others(rng: np.random.Generator, kind: str, focus: str, count: int) -> list[str]:
    """Classes drawn from the room's own distribution, without the focus."""
    weights = np.array([0.0 if noun == focus else weight for noun, weight in zip(NOUNS, KINDS[kind], strict=True)])
    return [NOUNS[row] for row in rng.choice(len(NOUNS), size=count, p=weights / weights.sum())]


def _colour(rng: np.random.Generator, noun: str, pairs: Pairs) -> str:
    held_out = [colour for each, colour in HELD_OUT if each == noun]
    if pairs == "all":
        return _pick(rng, tuple(COLOURS))
    if pairs == "held-out" and rng.random() < 0.5:
        return _pick(rng, held_out)
    return _pick(rng, [colour for colour in COLOURS if colour not in held_out])


def _placed(
    rng: np.random.Generator, loose: Sequence[Thing], floor: tuple[float, float], tries: int
) -> list[Thing] | None:
    """The things on the floor, the largest first; None where one finds no place."""
    inside = np.array(floor) / 2 - GAP
    placed: list[Thing] = []
    footprints = np.empty((0, 4, 2))
    for thing in sorted(loose, key=lambda each: -each.measures[0] * each.measures[1]):
        places = rng.uniform(-0.5, 0.5, size=(tries, 2)) * floor
        turns = rng.integers(4, size=tries) * np.pi / 2 + np.radians(rng.uniform(-10, 10, size=tries))
        corners = thing.footprint @ _turn(turns)[:, :2, :2].swapaxes(1, 2) + places[:, None]  # [tries, 4, 2]
        free = (np.abs(corners) <= inside).all(axis=(1, 2))
        free[free] = (apart(corners[free], footprints) >= GAP).all(axis=1)
        if not free.any():
            return None
        first = int(free.argmax())
        (x, y), yaw = places[first], turns[first]
        placed.append(Thing(thing.noun, thing.colour, thing.size, float(x), float(y), float(yaw)))
        footprints = np.concatenate([footprints, corners[first : first + 1]])
    return placed


def apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Widest gap along the sides' directions between rectangles: at most their distance, and above 0 exactly where
    they do not touch (the theorem of separating axes).

    Args:
        some: [m, 4, 2] corners in order.
        others: [n, 4, 2].

    Returns:
        [m, n] metres; negative where they overlap.
    """
    m, n = len(some), len(others)
    shape = m, n, 2, 2
    axes = np.concatenate(
        [np.broadcast_to(_sides(some)[:, None], shape), np.broadcast_to(_sides(others)[None], shape)], axis=2
    )  # [m, n, 4, 2]
    mine = axes @ some[:, None].swapaxes(-1, -2)  # [m, n, 4 axes, 4 corners]
    theirs = axes @ others[None].swapaxes(-1, -2)
    gaps = np.maximum(theirs.min(-1) - mine.max(-1), mine.min(-1) - theirs.max(-1))
    return gaps.max(axis=2)


def _sides(corners: np.ndarray) -> np.ndarray:
    """[..., 2, 2] directions of two neighbouring sides of rectangles [..., 4, 2]."""
    sides = np.stack([corners[..., 1, :] - corners[..., 0, :], corners[..., 3, :] - corners[..., 0, :]], axis=-2)
    return sides / np.linalg.norm(sides, axis=-1, keepdims=True)


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _turn(yaw: float | np.ndarray) -> np.ndarray:
    """[..., 3, 3] rotations about the upright axis."""
    yaw = np.asarray(yaw)
    turn = np.zeros((*yaw.shape, 3, 3))
    turn[..., 0, 0] = turn[..., 1, 1] = np.cos(yaw)
    turn[..., 1, 0] = np.sin(yaw)
    turn[..., 0, 1] = -turn[..., 1, 0]
    turn[..., 2, 2] = 1
    return turn


# Splits


SPLITS: dict[str, Pairs] = {
    "teacher": "all", "pretrain": "all", "train": "seen", "val_iid": "seen", "val_comp": "held-out",
    "pretrain_seen": "seen",
}  # fmt: skip


def split(name: str, count: int, seed: int = 0) -> list[Room]:
    """Rooms of one split; no two splits and no two seeds share a room, for each room's seed names all three.

    Types of room, classes in focus and their counts come evenly, and independently of one another.

    teacher and pretrain have all pairs of class and colour, train and val_iid none of HELD_OUT, val_comp many of them.
    pretrain_seen is the control: pre-training that has not met HELD_OUT either.

    Raises:
        Refusal: an unknown split.
    """
    if name not in SPLITS:
        raise Refusal(f"no such split of rooms: {name!r} (known are {', '.join(SPLITS)})")
    number = list(SPLITS).index(name)
    rooms = []
    for row in range(count):
        turn, noun = divmod(row, len(NOUNS))
        # every type of room, class and count of it once in 160 rooms
        kind, focus = tuple(KINDS)[(turn + noun) % len(KINDS)], (NOUNS[noun], turn % (MOST + 1))
        label = f"{name}-{seed}-{row:04d}"
        rooms.append(make_room((seed, number, row), SPLITS[name], name=label, kind=kind, focus=focus))
    return rooms


# Points


@dataclass(frozen=True)
class Cloud:
    """Points on the surfaces of a room.

    Attributes:
        points: [n, 3] metres.
        colours: [n, 3] in [0, 1], without the light.
        instance: [n] thing, -1 for floor and walls.
        normals: [n, 3] unit vectors outwards.
    """

    points: np.ndarray
    colours: np.ndarray
    instance: np.ndarray
    normals: np.ndarray


def sample(room: Room, points: int, rng: np.random.Generator, shell: float = 0.25, least: int = 32) -> Cloud:
    """Exact points on a room's surfaces, evenly spread by area.

    Args:
        shell: share of the points that lies on floor and walls, which would else take most of them.
        least: points that each thing gets about at least, whatever its area, where `points` allows it.

    Raises:
        Refusal: no points.
    """
    if points < 1:
        raise Refusal(f"a scene needs at least one point (got {points})")
    forms = [form_of(thing.noun) for thing in room.things] + [_walls(room)]
    sizes = [SIZES[thing.size] for thing in room.things] + [1.0]
    turns = [size * _turn(thing.yaw) for size, thing in zip(sizes, room.things, strict=False)] + [np.eye(3)]
    feet = [(thing.x, thing.y, 0.0) for thing in room.things] + [(0.0, 0.0, 0.0)]
    colours = [COLOURS[thing.colour] for thing in room.things] + [(room.shade,) * 3]

    areas = np.array([size**2 * form.area.sum() for size, form in zip(sizes, forms, strict=True)])
    wanted = np.maximum((1 - shell) * points * areas / areas[:-1].sum(), least)
    wanted[:-1] *= (1 - shell) * points / wanted[:-1].sum()
    wanted[-1] = shell * points
    owner = np.repeat(np.arange(len(forms)), [len(form.area) for form in forms])  # of each patch
    share = np.concatenate([many * form.area / form.area.sum() for many, form in zip(wanted, forms, strict=True)])
    # a point each time that the summed shares pass a whole number: every patch gets its share to within one
    ends = np.floor(np.cumsum(share) / share.sum() * points + rng.random()).astype(int)
    ends[-1] = points
    counts = np.diff(ends, prepend=0)
    patch = np.repeat(np.arange(len(share)), counts)

    shape = np.concatenate([form.shape for form in forms])[patch]
    origins = [form.origin @ turn.T + foot for form, turn, foot in zip(forms, turns, feet, strict=True)]
    axes = np.concatenate([turn @ form.axes for form, turn in zip(forms, turns, strict=True)])[patch]
    shade = np.concatenate([form.shade for form in forms])[patch]
    on, normal = unit_shapes(shape, _even(patch, rng))
    normals = np.einsum("nij,nj->ni", axes, normal)
    owner = owner[patch]
    return Cloud(
        np.concatenate(origins)[patch] + np.einsum("nij,nj->ni", axes, on),
        np.array(colours)[owner] * shade[:, None],
        np.where(owner == len(room.things), -1, owner),
        normals / np.linalg.norm(normals, axis=1, keepdims=True),
    )


def _walls(room: Room) -> Form:
    """Floor, back wall and left wall."""
    width, depth = room.floor
    left, front = -width / 2, -depth / 2
    across, along, up = (width, 0.0, 0.0), (0.0, depth, 0.0), (0.0, 0.0, WALL)
    return as_form((width, depth, WALL), [
        Patch(0, (left, front, 0.0), (across, along, (0, 0, 1.0)), width * depth, 1.0),
        Patch(0, (left, -front, 0.0), (across, up, (0, -1.0, 0)), width * WALL, 0.92),
        Patch(0, (left, front, 0.0), (along, up, (1.0, 0, 0)), depth * WALL, 0.96),
    ])  # fmt: skip


def _even(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n, 2] in [0, 1): a low-discrepancy sequence (R2, Roberts 2018) that starts anew, somewhere, on each patch."""
    first = np.searchsorted(patch, np.arange(patch[-1] + 1))
    step = np.arange(len(patch)) - first[patch]
    start = rng.random((patch[-1] + 1, 2))
    return (start[patch] + step[:, None] * (0.7548776662466927, 0.5698402909980532)) % 1


def room_scene(room: Room, points: int = 2048, noise: float = 0.01, colour_noise: float = 0.03) -> Scene:
    """The room as a scanner would give it: noisy points without normals. The same room gives the same scene.

    Args:
        noise: metres, of each coordinate.
        colour_noise: of each channel.

    Raises:
        Refusal: no points.
    """
    rng = np.random.default_rng((*room.seed, 1))
    cloud = sample(room, points, rng)
    at = cloud.points + noise * rng.standard_normal(cloud.points.shape)
    colours = (cloud.colours + colour_noise * rng.standard_normal(cloud.colours.shape)).clip(0, 1)
    boxes = np.stack([thing.box for thing in room.things])
    return Scene(
        room.name, at.astype(np.float32), colours.astype(np.float32), cloud.instance, boxes.astype(np.float32),
        tuple(thing.noun for thing in room.things), room.kind,
    )  # fmt: skip
