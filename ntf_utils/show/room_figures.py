"""Figures of the rooms: what a network is given, what the teacher sees, and what is said and asked about them."""

import textwrap
from collections import defaultdict
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntf_utils.data.proposals import proposals
from ntf_utils.data.renders import eye_cameras, top_camera, views
from ntf_utils.data.room_language import captions, possible_questions
from ntf_utils.data.rooms import Room, room_scene
from ntf_utils.show.room_picture import camera, corners, on_picture
from ntf_utils.show.style import GREY

SIDE = 400  # pixels, in which a cloud is placed
ASKED = "#8a4b00"  # of questions; captions are black


def rooms_and_words(rooms: Sequence[Room], picture: int = 48, told: int = 3) -> Figure:
    """A room a row: its points with the proposals found in them, two pictures, some captions and questions.

    Args:
        picture: side of a picture in pixels, as the teacher is shown it.
        told: captions and questions of each room that are printed; questions are of different kinds.
    """
    figure, panels = plt.subplots(
        len(rooms), 4, figsize=(8.8, 1.85 * len(rooms) + 0.3), squeeze=False, width_ratios=(1.25, 1, 1, 2.0)
    )
    for row, (room, axes) in enumerate(zip(rooms, panels, strict=True)):
        _cloud(axes[0], room)
        above, door = views(room, [top_camera(), eye_cameras(room)[0]], picture)
        for place, (shown, title) in enumerate(((above, "from above"), (door, "from the door")), start=1):
            axes[place].imshow(shown, interpolation="nearest")
            axes[place].set_xlabel(f"{picture} pixels" if row == len(rooms) - 1 else "")
            axes[place].set_title(title if row == 0 else "", fontsize=9.5)
        _words(axes[3], room, told)
        axes[0].set_ylabel(f"{room.kind},\n{room.floor[0]:.1f} x {room.floor[1]:.1f} m", fontsize=9)
        for each in axes:
            each.set_xticks([])
            each.set_yticks([])
            each.grid(False)
            for spine in each.spines.values():
                spine.set_visible(False)
    panels[0, 0].set_title("points and proposals", fontsize=9.5)
    panels[0, 3].set_title("captions, and questions with answers", fontsize=9.5)
    return figure


def described(rooms: Sequence[Room]) -> str:
    """The same figure in words, for those who do not see it."""
    return " ".join(
        f"Row {row}: a room of type {room.kind} with {len(room.things)} things: "
        f"{'; '.join(caption.text for caption in captions(room))}."
        for row, room in enumerate(rooms, start=1)
    )


def _cloud(axes: Axes, room: Room) -> None:
    """The points as a scan gives them, seen from above the door, and the boxes of the proposals."""
    scene, eye = room_scene(room), camera(15)
    depth = (scene.points - np.asarray(eye.position)) @ eye.axes[2]
    order = np.argsort(-depth)  # far ones first
    places = on_picture(eye, scene.points[order], SIDE)
    axes.scatter(*places.T, s=3.2, c=scene.colours[order], linewidths=0, rasterized=True)
    for box in proposals(scene)[1]:
        edge = on_picture(eye, corners(box), SIDE)
        for one in range(8):
            for other in (one | bit for bit in (1, 2, 4) if not one & bit):
                axes.plot(*edge[[one, other]].T, color=GREY, linewidth=0.7)
    axes.set_xlim(places[:, 0].min() - 8, places[:, 0].max() + 8)
    axes.set_ylim(places[:, 1].max() + 8, places[:, 1].min() - 8)
    axes.set_aspect("equal")


def _words(axes: Axes, room: Room, told: int) -> None:
    lines = [f"“{caption.text}”" for caption in captions(room)[:told]]
    asked = defaultdict(list)
    for question in possible_questions(room):
        asked[question.template].append(question)
    rng = np.random.default_rng(room.seed)  # each room shows other kinds
    kinds = rng.permutation(sorted(asked))[:told]
    questions = [asked[kind][rng.integers(len(asked[kind]))] for kind in kinds]
    lines += [f"Q: {question.text.replace(' ?', '?')} → {question.answers[0]}" for question in questions]
    wrapped = [textwrap.fill(line, 44, subsequent_indent="    ") for line in lines]
    count = 1 + sum(text.count("\n") + 1 for text in wrapped)
    at = 0.98
    for number, text in enumerate(wrapped):
        at -= 0.04 if number == told else 0
        axes.text(0, at, text, fontsize=7.6, va="top", color="black" if number < told else ASKED,
                  transform=axes.transAxes)  # fmt: skip
        at -= (text.count("\n") + 1) * min(0.105, 0.95 / count)
