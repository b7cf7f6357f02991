"""What the page's room explorer shows: some rooms of each report, some questions about each, and what the arms answer.

Rooms and questions are not picked by their answers: they are the first rooms of a report in which enough kinds of
question can be asked, and of each kind one question, drawn by the run's seed.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from ntf_utils.data.cached import cached_arrays, cached_file
from ntf_utils.data.room_language import TEMPLATES, asks_held_out, possible_questions
from ntf_utils.data.rooms import Room
from ntf_utils.data.scenes import Question
from ntf_utils.models.scene_encoder import SceneQA
from ntf_utils.papers.clip_guided_3dqa.answering import AnswerConfig, Job
from ntf_utils.papers.clip_guided_3dqa.worlds import CODE, SPLITS, asked
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.device import default_device

TITLES = {
    "S": "from scratch", "D": "detection only", "T": "text", "I": "image", "TI": "text and image",
    "Sh": "wrong rooms' targets", "R": "as released", "RT": "untrained teacher", "TIx": "TI, no held-out pairs",
}  # fmt: skip
NOTES = {"iid": "pairs known from training", "comp": "pairs never asked about"}
LEAST = 6  # kinds of question that a shown room answers


class RoomExplorerConfig(Config):
    """The arms of one seed, and what is shown of them.

    Attributes:
        network: of every arm; its own arm counts for nothing.
        arms: whose answers are shown, in this order.
        shown: rooms of each report. asked: questions about each, each of another kind.
    """

    network: AnswerConfig = AnswerConfig()
    arms: tuple[Literal[tuple(TITLES)], ...] = ("S", "D", "TI")
    shown: int = Field(3, ge=1)
    asked: int = Field(8, ge=1, le=len(TEMPLATES))

    @field_validator("arms")
    @classmethod
    def _some_arms(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        if not arms or len(set(arms)) < len(arms):
            raise ValueError(f"arms must be one or more, each once (got {', '.join(arms) or 'none'})")
        return arms

    def of(self, arm: str) -> AnswerConfig:
        """The config of one arm's network."""
        return self.network.but(arm=arm)


def is_trained(config: RoomExplorerConfig) -> bool:
    """Whether the networks of all arms lie in the cache."""
    return all(cached_file("room_networks", _about(config.of(arm)), "npz").exists() for arm in config.arms)


@experiment(version=1, tolerance=0.2, at_hand=is_trained)
def write_room_explorer(config: RoomExplorerConfig) -> Outcome:
    """Row: a room, question and arm: text, the right answers joined by " | ", the proposal of the thing asked for (-1:
    none), the arm's answer, whether it is right, its confidence, the proposal that it looks at
    and that one's share.

    Curves: "rooms": where each comes from; "boxes": its proposals in metres; "arms": their titles.
    """
    rows: list[dict[str, Any]] = []
    for arm in config.arms:
        job = Job(config.of(arm), default_device())
        network = trained(job)
        for report, places in chosen(job, config).items():
            for place, questions in places.items():
                rows += _lines(job, network, report, place, questions, arm)
    rows.sort(key=lambda row: (row["room"], row["question"]))  # a question's answers side by side; the arms keep theirs
    places = chosen(job, config)
    return Outcome(rows, {
        "rooms": _columns([
            {"room": job.world.val[report].rooms[place].name, "split": SPLITS[report], "seed": config.network.seed,
             "row": place, "note": NOTES[report]}
            for report, found in places.items() for place in found
        ]),
        "boxes": _columns([
            {"room": rooms.rooms[place].name, **dict(zip(("cx", "cy", "cz", "dx", "dy", "dz"), box, strict=True))}
            for report, found in places.items() for rooms in [job.world.val[report]] for place in found
            for box in rooms.proposals.boxes[place][rooms.proposals.present[place]].tolist()
        ]),
        "arms": _columns([{"arm": arm, "title": TITLES[arm]} for arm in config.arms]),
    })  # fmt: skip


def trained(job: Job) -> SceneQA:
    """The network of an arm after all its training, from the cache or trained now."""

    def make() -> dict[str, np.ndarray]:
        network, _ = job.network()
        job.train(network)
        return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}

    kept = cached_arrays("room_networks", _about(job.config), make)
    network = job.fresh()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})
    return network.eval()


def _about(config: AnswerConfig) -> dict[str, Any]:
    """All that decides a network."""
    device = default_device().type
    return {"config": config.model_dump(mode="json"), "torch": torch.__version__, "device": device, "code": CODE}


def chosen(job: Job, config: RoomExplorerConfig) -> dict[str, dict[int, list[Question]]]:
    """Report -> row of a room -> its questions, one of a kind."""
    found: dict[str, dict[int, list[Question]]] = {}
    for report, rooms in job.world.val.items():
        found[report] = {}
        for place, room in enumerate(rooms.rooms):
            questions = _questions(room, report, config)
            if len(questions) >= min(LEAST, config.asked):
                found[report][place] = questions
            if len(found[report]) == config.shown:
                break
    return found


def _questions(room: Room, report: str, config: RoomExplorerConfig) -> list[Question]:
    """In rooms of held-out pairs, questions about those come first."""
    by_kind = defaultdict(list)
    for question in possible_questions(room):
        by_kind[question.template].append(question)
    rng = np.random.default_rng((*room.seed, 4))
    picked = []
    for kind in TEMPLATES:
        some = by_kind[kind]
        if report == "comp":
            some = [question for question in some if asks_held_out(room, question)] or some
        if kind == "existence":  # as many of either answer
            wanted = ("yes",) if rng.random() < 0.5 else ("no",)
            some = [question for question in some if question.answers == wanted] or some
        if some:
            picked.append(some[rng.integers(len(some))])
    rows = sorted(rng.permutation(len(picked))[: config.asked])
    return [picked[row] for row in rows]


def _lines(
    job: Job, network: SceneQA, report: str, place: int, questions: Sequence[Question], arm: str
) -> list[dict[str, Any]]:
    rooms = job.world.val[report]
    put = asked(questions, rooms, job.world.answers, job.teacher.encode_words).to(job.device)
    shown = job.seen(rooms).at(put.rooms[:1])
    said = answered(network, shown.seen, put.said(torch.arange(len(put), device=job.device)), job.config.answer_loss)
    return [
        {
            "room": rooms.rooms[place].name, "question": number, "text": question.text,
            "answers": " | ".join(question.answers), "template": question.template,
            "held_out": asks_held_out(rooms.rooms[place], question), "object": int(put.place[number]), "arm": arm,
            "answer": job.world.answers[one["number"]],
            "right": job.world.answers[one["number"]] in question.answers,
            "sure": one["sure"], "looks": one["looks"], "share": one["share"],
        }
        for number, (question, one) in enumerate(zip(questions, said, strict=True))
    ]  # fmt: skip


@torch.no_grad()
def answered(
    network: SceneQA, scene: tuple[Tensor, Tensor, Tensor], words: tuple[Tensor, Tensor], answer_loss: str
) -> list[dict[str, Any]]:
    """What a network says to each of q questions about one scene.

    Args:
        scene: crops [1, p, m, 6], boxes [1, p, 6] and which are real. It is encoded alone: an arm that attends across
            the batch answers otherwise in other company.
        words: features [q, w, k] and which are real.
        answer_loss: that it was trained with, see `AnswerConfig`.

    Returns:
        number: of the likeliest answer; sure: its softmax, or its sigmoid where each answer had a loss of its own;
        looks: the proposal with the highest localisation logit; share: that one's softmax.
    """
    alone = torch.zeros(len(words[0]), dtype=torch.long, device=words[0].device)
    said = network.fusion(network.encoder(*scene).at(alone), *words)
    sure = said.answers.sigmoid() if answer_loss == "bce" else said.answers.softmax(dim=1)
    best, places = sure.max(dim=1), said.places.softmax(dim=1).max(dim=1)
    return [
        {"number": int(number), "sure": float(sure), "looks": int(looks), "share": float(share)}
        for number, sure, looks, share in zip(best.indices, best.values, places.indices, places.values, strict=True)
    ]


def _columns(lines: Sequence[dict[str, Any]]) -> dict[str, list]:
    return {name: [line[name] for line in lines] for name in lines[0]}
