"""The rooms of one seed as the networks see them: proposals, what each of them truly is, pictures, captions, questions.

A seed has rooms of its own: for pre-training (all pairs of class and colour, captions and pictures, no questions), for
questions (12 of the 64 pairs never come), and for two reports: *iid*, drawn as the rooms with questions are, and
*comp*, asked about the pairs that those never had. No room is in two of them.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ntf_utils.data import furniture as furniture_module
from ntf_utils.data import proposals as proposals_module
from ntf_utils.data import renders as renders_module
from ntf_utils.data import room_language as language_module
from ntf_utils.data import rooms as rooms_module
from ntf_utils.data.cached import cached_arrays
from ntf_utils.data.proposals import proposals
from ntf_utils.data.renders import top_views
from ntf_utils.data.room_language import PREFIX, answers_of, ask, captions
from ntf_utils.data.rooms import KINDS, NOUNS, Room, Thing, room_scene, split
from ntf_utils.data.scenes import Question, Scene
from ntf_utils.measures.boxes import iou
from ntf_utils.runs import Config

MATCHED = 0.25  # overlap from which a proposal counts as a thing, the lower threshold of ScanRefer and ScanQA
SPLITS = {"iid": "val_iid", "comp": "val_comp"}  # what is reported -> the rooms
Split = Literal["iid", "comp"]


class WorldConfig(Config):
    """One seed's rooms and questions.

    Attributes:
        pretrain_rooms: with captions and pictures, without questions. qa_rooms: with questions. val_rooms: of each
            report.
        per_template, val_per_template: most questions of each kind, in training and in each report.
        points: of a room's cloud. crop: points of a proposal. picture: side of a render, in pixels.
    """

    seed: int = Field(0, ge=0)
    pretrain_rooms: int = Field(512, ge=2)
    qa_rooms: int = Field(320, ge=2)
    val_rooms: int = Field(128, ge=8)
    per_template: int = Field(480, ge=2)
    val_per_template: int = Field(200, ge=2)
    points: int = Field(2048, ge=64)
    crop: int = Field(32, ge=2)
    picture: int = Field(48, ge=16, multiple_of=16)

    @property
    def world_only(self) -> "WorldConfig":
        """The part of a larger config that decides the rooms."""
        return WorldConfig(**{name: getattr(self, name) for name in WorldConfig.model_fields})


FIELDS = ("crops", "boxes", "present", "classes", "offsets", "things")


@dataclass(frozen=True)
class Proposals:
    """Scenes as the networks see them, padded to the same number of proposals.

    Attributes:
        crops: [n, p, m, 6] points of each proposal, metres in the room and colours. boxes: [n, p, 6].
        present: [n, p] which are real.
        classes: [n, p] the true class of each, the number of classes where it is no thing.
        offsets: [n, p, 6] true box minus the proposal's; 0 where it is no thing.
        things: [n, p] which of the scene's things it is, -1 where none.
    """

    crops: Tensor
    boxes: Tensor
    present: Tensor
    classes: Tensor
    offsets: Tensor
    things: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def seen(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a network is given."""
        return self.crops, self.boxes, self.present

    def at(self, rows: Tensor) -> "Proposals":
        """Some of the scenes."""
        return Proposals(*(getattr(self, name)[rows] for name in FIELDS))

    def to(self, device: torch.device) -> "Proposals":
        return Proposals(*(getattr(self, name).to(device) for name in FIELDS))

    @property
    def blank(self) -> "Proposals":
        """The same scenes with everything in them taken away: one proposal each, all of them alike."""
        n = len(self)
        nothing = torch.zeros(n, 1, self.crops.shape[2], 6, device=self.crops.device)
        return Proposals(
            nothing, nothing[:, :, 0], torch.ones_like(self.present[:, :1]), self.classes.max().expand(n, 1),
            nothing[:, :, 0], torch.full_like(self.things[:, :1], -1),
        )  # fmt: skip


def propose(scenes: Sequence[Scene], classes: Sequence[str], points: int = 32) -> Proposals:
    """Finds proposals without labels, and looks up afterwards what each of them truly is.

    Args:
        classes: names in the order of their numbers. points: of each crop.
    """
    found = [proposals(scene, points) for scene in scenes]
    most = max(1, *(len(boxes) for _, boxes in found))
    crops = torch.zeros(len(scenes), most, points, 6)
    boxes, offsets = torch.zeros(len(scenes), most, 6), torch.zeros(len(scenes), most, 6)
    present = torch.zeros(len(scenes), most, dtype=torch.bool)
    named, things = (torch.full((len(scenes), most), value) for value in (len(classes), -1))
    for row, (scene, (crop, box)) in enumerate(zip(scenes, found, strict=True)):
        count = len(box)
        crops[row, :count], boxes[row, :count] = torch.from_numpy(crop), torch.from_numpy(box)
        present[row, :count] = True
        present[row, 0] = True  # an empty scene shows one proposal of nothing: attention needs somebody to attend to
        if not count or not len(scene.boxes):
            continue
        truth = torch.as_tensor(scene.boxes, dtype=torch.float32)
        overlap, thing = iou(boxes[row, :count], truth).max(dim=1)
        real = overlap >= MATCHED
        numbers = torch.tensor([classes.index(name) if name in classes else len(classes) for name in scene.classes])
        named[row, :count] = torch.where(real, numbers[thing], len(classes))
        offsets[row, :count] = torch.where(real[:, None], truth[thing] - boxes[row, :count], 0)
        things[row, :count] = torch.where(real, thing, -1)
    return Proposals(crops, boxes, present, named, offsets, things)


@dataclass(frozen=True)
class Rooms:
    """Rooms of one split.

    Attributes:
        rooms: as generated. points: of a scan.
        proposals: of their scans. kinds: [n] number of the type of room.
        pictures: [n, s, s, 3] uint8, each from above.
    """

    rooms: Sequence[Room]
    points: int
    proposals: Proposals
    pictures: np.ndarray

    @cached_property
    def kinds(self) -> Tensor:
        """[n] number of the type of room."""
        return torch.tensor([list(KINDS).index(room.kind) for room in self.rooms])

    @cached_property
    def captions(self) -> list[list[str]]:
        """One for each thing of each room, behind the paper's prefix."""
        return [[f"{PREFIX} there is {caption.text}" for caption in captions(room)] for room in self.rooms]

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {room.name: row for row, room in enumerate(self.rooms)}

    def scene(self, row: int) -> Scene:
        """As a scanner gives it."""
        return room_scene(self.rooms[row], self.points)


def furnish(name: str, count: int, config: WorldConfig) -> Rooms:
    """The rooms of a split; all that is dear to make comes from the disk where it was made before."""

    def make() -> dict[str, np.ndarray]:
        rooms = split(name, count, config.seed)
        made = propose([room_scene(room, config.points) for room in rooms], NOUNS, config.crop)
        fields = {field: getattr(made, field).numpy() for field in FIELDS}
        written = np.array(json.dumps([asdict(room) for room in rooms]))
        return fields | {"pictures": top_views(rooms, config.picture), "rooms": written}

    about = {
        "split": name, "count": count, "seed": config.seed, "points": config.points, "crop": config.crop,
        "picture": config.picture, "code": CODE,
    }  # fmt: skip
    kept = cached_arrays("rooms", about, make)
    rooms = [_room(**values) for values in json.loads(str(kept["rooms"]))]
    return Rooms(
        rooms, config.points, Proposals(**{field: torch.from_numpy(kept[field]) for field in FIELDS}), kept["pictures"]
    )


def _room(seed: list, floor: list, things: list, **rest) -> Room:
    return Room(seed=tuple(seed), floor=tuple(floor), things=tuple(Thing(**thing) for thing in things), **rest)


def _fingerprint() -> str:
    modules = (furniture_module, rooms_module, proposals_module, renders_module, language_module)
    return hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()


CODE = _fingerprint()  # of the code that makes rooms, their words and pictures: other code, other rooms


@dataclass(frozen=True)
class Asked:
    """Questions about some rooms, as a network is given them and scored.

    Attributes:
        questions: in words.
        rooms: [q] row of the room that each is about.
        words: [texts, w, k] features of the words of each different text. mask: [texts, w] which are real.
        text: [q] which of the texts.
        answers: [q, a] 1 for every answer that counts as right, of those that the training questions know.
        place: [q] the proposal of the first thing that the answer is about; -1 where none was found or asked for.
        kind: [q] class of that thing; -1 where there is none.
    """

    questions: Sequence[Question]
    rooms: Tensor
    words: Tensor
    mask: Tensor
    text: Tensor
    answers: Tensor
    place: Tensor
    kind: Tensor

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def templates(self) -> list[str]:
        return [question.template for question in self.questions]

    def said(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Words [n, w, k] of some questions, and which of them are real."""
        return self.words[self.text[rows]], self.mask[self.text[rows]]

    def to(self, device: torch.device) -> "Asked":
        names = ("rooms", "words", "mask", "text", "answers", "place", "kind")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def asked(questions: Sequence[Question], rooms: Rooms, known: Sequence[str], encode: Callable) -> Asked:
    """Questions with their targets.

    Args:
        known: the answers that a network chooses from. encode: texts -> features [n, w, k] and mask [n, w].
    """
    row = torch.tensor([rooms.row_of[question.scene] for question in questions])
    texts = list(dict.fromkeys(question.text for question in questions))
    words, mask = encode(texts)
    number = {answer: place for place, answer in enumerate(known)}
    answers = torch.zeros(len(questions), len(known))
    first = torch.full((len(questions),), -1)
    for place, question in enumerate(questions):
        for answer in question.answers:
            if answer in number:
                answers[place, number[answer]] = 1
        if question.objects:
            first[place] = question.objects[0]
    there = (rooms.proposals.things[row] == first[:, None]) & (first >= 0)[:, None]  # [q, p]
    kind = [
        NOUNS.index(rooms.rooms[int(r)].things[int(thing)].noun) if thing >= 0 else -1
        for r, thing in zip(row, first, strict=True)
    ]  # fmt: skip
    where = {text: place for place, text in enumerate(texts)}
    text = torch.tensor([where[question.text] for question in questions])
    return Asked(
        questions, row, words.cpu(), mask.cpu(), text, answers,
        torch.where(there.any(dim=1), there.float().argmax(dim=1), -1), torch.tensor(kind),
    )  # fmt: skip


class World:
    """Everything of one seed, made when it is first asked for."""

    def __init__(self, config: WorldConfig):
        self.config = config

    @cached_property
    def pretrain(self) -> Rooms:
        return furnish("pretrain", self.config.pretrain_rooms, self.config)

    @cached_property
    def pretrain_seen(self) -> Rooms:
        """The control: rooms without the held-out pairs."""
        return furnish("pretrain_seen", self.config.pretrain_rooms, self.config)

    @cached_property
    def train(self) -> Rooms:
        return furnish("train", self.config.qa_rooms, self.config)

    @cached_property
    def val(self) -> dict[str, Rooms]:
        """Rooms of each report."""
        return {name: furnish(rooms, self.config.val_rooms, self.config) for name, rooms in SPLITS.items()}

    @cached_property
    def train_questions(self) -> list[Question]:
        return ask(self.train.rooms, self.config.seed, per_template=self.config.per_template)

    @cached_property
    def val_questions(self) -> dict[str, list[Question]]:
        most = self.config.val_per_template
        return {
            name: ask(rooms.rooms, self.config.seed, per_template=most, about="held-out" if name == "comp" else "all")
            for name, rooms in self.val.items()
        }  # fmt: skip

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Those of the training questions, the most frequent first: what a network chooses from."""
        return answers_of(self.train_questions)
