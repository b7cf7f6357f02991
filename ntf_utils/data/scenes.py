"""Scenes, captions and questions, as every source of them gives them: generated rooms or scans of real ones.

Lengths are metres. A scene stands on the plane z = 0 and z points up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Caption:
    """A description of one thing, as ScanRefer has them.

    Attributes:
        text: in words, without the paper's prefix.
        object: row of the thing in the scene's boxes.
    """

    text: str
    object: int


@dataclass(frozen=True, eq=False)
class Scene:
    """A coloured point cloud and what is known of it.

    Attributes:
        name: unique in its data set.
        points: [n, 3] positions.
        colours: [n, 3] red, green and blue in [0, 1].
        instance: [n] row of the thing that a point belongs to; -1 for floor, walls and what has no label.
        boxes: [k, 6] centre and extent of each thing, along the axes.
        classes: k names.
        kind: type of the room, where it is known.
        views: name -> [s, s, 3] uint8 picture.
        captions: of its things.
    """

    name: str
    points: np.ndarray
    colours: np.ndarray
    instance: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    kind: str | None = None
    views: Mapping[str, np.ndarray] = field(default_factory=dict)
    captions: tuple[Caption, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def drawn(self, points: int, rng: np.random.Generator) -> "Scene":
        """The same scene with so many of its points, drawn without return; with return where it has fewer."""
        rows = rng.choice(len(self), points, replace=len(self) < points)
        return Scene(
            self.name, self.points[rows], self.colours[rows], self.instance[rows], self.boxes, self.classes,
            self.kind, self.views, self.captions,
        )  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes:
        scene: name of the scene.
        text: in words.
        answers: every answer that counts as right.
        objects: rows in the scene's boxes of the things that the answer is about; empty where there is none.
        template: the kind of question.
        situation: where the asker stands, in words, for situated questions.
    """

    scene: str
    text: str
    answers: tuple[str, ...]
    objects: tuple[int, ...] = ()
    template: str = ""
    situation: str | None = None
