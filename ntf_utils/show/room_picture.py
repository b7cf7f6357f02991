"""The picture of the room explorer: a cloud that turns, and what each arm says. HTML and pixels from plain values."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from ntf_utils.data.renders import Camera, render
from ntf_utils.data.room_language import captions, named
from ntf_utils.data.rooms import Cloud, Room, Thing, room_scene

REACH, TALL = 3.2, 2.4  # metres, that a page's points reach from the middle and upwards
DISTANCE, ANGLE, MIDDLE = 11.0, 44.0, 0.6  # of the camera: metres, degrees, metres above the floor
STOPS, FIRST_STOP, TILT = 72, 4, 38  # of a turn; where the page begins; degrees downwards
LETTERS = "ABCDEFGH"
POINTS = 2600  # of a room on a page
NEAR = 0.5  # metres in plan, between the middles of a thing and of its proposal
_DASHES = ((9, 5), (2, 4), (12, 4, 2, 4), (5, 2), (1, 6), (14, 6))  # of an arm's box; the script has the same
_INKS = ("#0072b2", "#b3400a", "#00704f", "#8a4f7d", "#5c6670", "#7a5c00")


def shown_room(room: Room, boxes: Sequence[Sequence[float]], title: str, note: str = "") -> dict:
    """A room of the explorer's states, but for its questions.

    Args:
        boxes: [p, 6] proposals, as the networks see them.
    """
    scene = room_scene(room, POINTS)
    return {
        "title": title, "note": note, "floor": list(room.floor), "points": scene.points, "colours": scene.colours,
        "things": [caption.text for caption in captions(room)], "boxes": [list(map(float, box)) for box in boxes],
        "names": [_name(room, box) for box in boxes], "questions": [],
    }  # fmt: skip


def _name(room: Room, box: Sequence[float]) -> str:
    """What a proposal truly is: the nearest thing, if that is near enough."""
    far = [float(np.hypot(thing.x - box[0], thing.y - box[1])) for thing in room.things]
    nearest = int(np.argmin(far))
    return named(room.things[nearest]) if far[nearest] < NEAR else "no thing"


def box_of(thing: Thing, boxes: Sequence[Sequence[float]]) -> int:
    """The proposal of a thing, -1 where none is near enough."""
    far = [float(np.hypot(thing.x - box[0], thing.y - box[1])) for box in boxes]
    return int(np.argmin(far)) if far and min(far) < NEAR else -1


# Words


def turned(stop: int) -> str:
    """Where the slider is."""
    return f"{360 * stop // STOPS}°"


def alt_text(room: dict) -> str:
    return f"Point cloud of a room, {room['title']}: {len(room['things'])} things; boxes mark what is looked at"


def truth(question: dict) -> str:
    """The right answers, or that there is none."""
    return " or ".join(question["answers"]) or "it has none"


def told(room: dict, said: dict) -> list:
    """What one arm says, in the words of its card: answer, whether it is right (None: unknown), confidence, object."""
    looks = "nothing" if said["looks"] < 0 else room["names"][said["looks"]]
    return [said["answer"], said["right"], f"{100 * said['sure']:.0f} %", f"{looks} ({100 * said['share']:.0f} %)"]


def verdict(right: bool | None) -> str:
    return {True: "✓ right", False: "✗ wrong", None: "not judged"}[right]


def sentence(arms: Sequence[dict], room: dict, question: dict) -> str:
    """The picture in words."""
    parts = []
    for arm, said in zip(arms, question["said"], strict=True):
        answer, right, sure, _ = told(room, said)
        parts.append(f"{arm['title']}: {answer}, {verdict(right)[2:] if right is not None else 'not judged'} ({sure})")
    return f"{room['title']}, {question['text'].strip(' ?')}? Right answer: {truth(question)}. {'; '.join(parts)}."


def answers(arms: Sequence[dict], room: dict, question: dict) -> str:
    """The right answer and a card of each arm."""
    cards = []
    for place, (arm, said) in enumerate(zip(arms, question["said"], strict=True)):
        answer, right, sure, looks = told(room, said)
        kind = {True: "right", False: "wrong", None: "open"}[right]
        cards.append(
            f'<li class="arm {kind}" data-arm="{place}" style="--a:{_INKS[place % len(_INKS)]}">'
            f'<span class="key" aria-hidden="true">{LETTERS[place % len(LETTERS)]}</span>'
            f'<span class="who">{escape(arm["title"])}</span><b class="said">{escape(answer)}</b>'
            f'<span class="mark">{verdict(right)}</span><span class="sure">{sure}</span>'
            f'<span class="looks">looks at: <i>{escape(looks)}</i></span></li>'
        )
    return (
        f'<div class="answers"><p class="truth">Right answer: <b>{escape(truth(question))}</b></p>'
        f'<ul class="arms" aria-label="Answers">{"".join(cards)}</ul></div>'
    )


def inventory(room: dict) -> str:
    """Everything in the room, in words."""
    things = "".join(f"<li>{escape(thing)}</li>" for thing in room["things"])
    return f'<details class="inventory"><summary>What is in the room, in words</summary><ul>{things}</ul></details>'


# Points


def packed(room: dict) -> str:
    """Points and colours as base64: six bytes a point, x, y, z, r, g, b."""
    at = np.asarray(room["points"], dtype=float)
    scaled = np.column_stack([(at[:, :2] + REACH) / (2 * REACH), at[:, 2] / TALL, np.asarray(room["colours"])])
    return base64.b64encode((255 * scaled.clip(0, 1)).round().astype(np.uint8).tobytes()).decode()


def camera(turn: float, tilt: float = TILT, distance: float = DISTANCE) -> Camera:
    """Around the room: at 0 degrees above the door, counter-clockwise seen from above; `tilt` degrees downwards."""
    yaw, down = np.radians(turn), np.radians(min(max(tilt, 1.0), 89.0))
    step = np.array([np.sin(yaw) * np.cos(down), -np.cos(yaw) * np.cos(down), np.sin(down)])
    position = (0.0, 0.0, MIDDLE) + distance * step
    return Camera(tuple(float(value) for value in position), (0.0, 0.0, MIDDLE), angle=ANGLE)


def image(cloud: Cloud, room: dict, question: dict, turn: float, tilt: float, size: int = 420) -> bytes:
    """PNG of a room and of the boxes that are looked at, as the page's script draws them.

    Args:
        room, question: as in the explorer's states.
    """
    eye, boxes = camera(turn, tilt), room["boxes"]
    drawn = Image.fromarray(render(cloud, [eye], size)[0])
    pen = ImageDraw.Draw(drawn)
    (door,) = on_picture(eye, np.array([[0.0, -room["floor"][1] / 2 - 0.3, 0.0]]), size)
    pen.text(tuple(map(float, door)), "door", fill="#5c5c58", anchor="mm")
    if question["object"] >= 0:
        _draw_box(pen, eye, boxes[question["object"]], size, "#222222", None, "")
    for place, said in enumerate(question["said"]):
        if said["looks"] >= 0:
            box = np.array(boxes[said["looks"]], dtype=float)
            box[3:] += 0.08 * (place + 1)  # so that two networks that look at the same thing are both seen
            ink, dash = _INKS[place % len(_INKS)], _DASHES[place % len(_DASHES)]
            _draw_box(pen, eye, box, size, ink, dash, LETTERS[place % len(LETTERS)])
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG")
    return buffer.getvalue()


def corners(box: Sequence[float]) -> np.ndarray:
    """[8, 3] corners of a box; number i has the high side of axis k where bit k of i is set."""
    signs = np.array([[(place >> axis & 1) - 0.5 for axis in range(3)] for place in range(8)])
    return np.asarray(box[:3]) + signs * np.asarray(box[3:])


def on_picture(eye: Camera, points: np.ndarray, size: int) -> np.ndarray:
    """[n, 2] column and row in pixels of [n, 3] points."""
    across, down, depth = eye.axes @ (points - np.asarray(eye.position)).T
    focal = size / 2 / np.tan(np.radians(eye.angle) / 2)
    return size / 2 + focal * np.stack([across, down], axis=1) / depth[:, None]


def _draw_box(pen, eye: Camera, box, size: int, ink: str, dash: tuple[int, ...] | None, letter: str) -> None:
    places = on_picture(eye, corners(box), size)
    for one in range(8):
        for axis in range(3):
            other = one | 1 << axis
            if other != one:
                _line(pen, places[one], places[other], ink, dash)
    if letter:
        top = places[places[:, 1].argmin()]
        pen.text((float(top[0]), float(top[1]) - 12), letter, fill=ink)


def _line(pen, start: np.ndarray, end: np.ndarray, ink: str, dash: tuple[int, ...] | None) -> None:
    if dash is None:
        pen.line([*start, *end], fill=ink, width=2)
        return
    length, at, place = float(np.hypot(*(end - start))), 0.0, 0
    step = (end - start) / max(length, 1e-9)
    while at < length:
        stop = min(at + dash[place % len(dash)], length)
        if place % 2 == 0:
            pen.line([*(start + at * step), *(start + stop * step)], fill=ink, width=2)
        at, place = stop, place + 1
