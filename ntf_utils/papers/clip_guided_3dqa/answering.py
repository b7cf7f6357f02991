"""One run of the chapter: an arm's scene encoder learns to answer questions, and is scored on rooms it has not seen.

The network is the paper's: words of the question, scene token and proposals attend to each other, and three heads tell
the answer, the class of the thing asked for, and which proposal it is. Loss, after the published code:

    L = answer (softmax over all answers) + place (softmax over proposals) + class + v * L_det

The published code trains the answer by a binary cross-entropy for each answer it knows. In trial runs that learned more
slowly; `answer_loss="bce"` does it.

The unit of repetition is the seed: rooms, questions, start and order follow from it, in every arm alike.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ntf_utils.data.room_language import answer
from ntf_utils.measures.answers import answer_scores
from ntf_utils.measures.boxes import localised
from ntf_utils.measures.retrieval import flat_map
from ntf_utils.models.loading import load_weights
from ntf_utils.models.scene_encoder import Answered, SceneEncoder, SceneQA, detection_loss, place_loss
from ntf_utils.papers.clip_guided_3dqa.pretraining import (
    CHOICES,
    PretrainConfig,
    fresh_encoder,
    pretrain,
    scene_vectors,
    vector_knowledge,
)
from ntf_utils.papers.clip_guided_3dqa.teacher import the_teacher
from ntf_utils.papers.clip_guided_3dqa.worlds import Asked, Proposals, Rooms, World, asked
from ntf_utils.runs import Outcome, experiment
from ntf_utils.training.checkpoint import Checkpoints
from ntf_utils.training.device import default_device
from ntf_utils.training.members import BatchOrder, generator

AT_ONCE = 512  # questions answered at a time in evaluation
KEPT = 3  # answers of each question that are kept, best first


class AnswerConfig(PretrainConfig):
    """One arm of one seed, from the pre-training to the scores.

    Attributes:
        answer_steps, answer_batch, answer_rate: AdamW; a batch is `answer_batch` rooms with `each` questions of each.
        detection: v, the weight of the detection losses while answering.
        fusion_layers, answer_dropout: of the network. answer_loss: over answers; the published code's is "bce".
        frozen: the encoder stays as the pre-training left it.
    """

    answer_steps: int = Field(400, ge=1)
    answer_batch: int = Field(32, ge=1)
    each: int = Field(4, ge=1)
    answer_rate: float = Field(2e-3, gt=0)
    detection: float = Field(1.0, ge=0)
    fusion_layers: int = Field(2, ge=1)
    answer_dropout: float = Field(0.1, ge=0, lt=1)
    answer_loss: Literal["softmax", "bce"] = "softmax"
    frozen: bool = False


@experiment(version=1, tolerance=1.5, resumable=True)
def answer_questions(config: AnswerConfig) -> Outcome:
    """Pre-trains, trains on questions, and scores.

    Row: for each report (iid, comp), in percent: em1, em3; majority: what the question alone tells, see `majority`;
    swapped: em1 when each question is put to another room; acc25, acc50: localisation; kind: the class of the
    thing; bleu4, rouge_l (0 to 1) and cider (0 to 10); oracle: what reads the attributes. Of the scene vectors
    after pre-training, on the iid rooms: see `vector_knowledge`; after answering: the same with "tuned_". loaded,
    of: tensors that the network took over from the pre-trained encoder. Curves: "templates": em1, majority and
    swapped of each template; "map": the scene vectors after pre-training drawn flat, and the types of the rooms;
    "learning"; "pretraining".
    """
    job = Job(config, default_device())
    network, notes = job.network()
    row = {"loaded": notes.loaded, "of": notes.of, **notes.known}
    learning = job.train(network)
    lines = []
    for name in job.world.val:
        scores, by_template = job.score(network, name)
        row |= {f"{key}_{name}": value for key, value in scores.items()}
        lines += by_template
    if config.arm != "blind":
        row |= vector_knowledge(network.encoder, job.world.val["iid"], job.teacher, "tuned_")
    curves = {"templates": columns(lines), "learning": learning}
    curves |= {"map": notes.map} if notes.map else {}
    if notes.learning["step"]:
        curves["pretraining"] = notes.learning
    return Outcome([row], curves)


@dataclass(frozen=True)
class Notes:
    """Of the pre-training: what it loaded, what its vectors knew and how they lie, and its losses."""

    loaded: int
    of: int
    known: dict[str, float]
    map: dict[str, list]
    learning: dict[str, list]


class Job:
    """The rooms, questions and networks of one run."""

    def __init__(self, config: AnswerConfig, device: torch.device):
        self.config, self.device = config, device
        self.world, self.teacher = World(config.world_only), the_teacher(config.teacher)
        self.questions = {"train": self._asked(self.world.train_questions, self.world.train)}
        for name, rooms in self.world.val.items():
            self.questions[name] = self._asked(self.world.val_questions[name], rooms)

    def _asked(self, questions: Sequence, rooms: Rooms) -> Asked:
        found = asked(questions, rooms, self.world.answers, self.teacher.encode_words).to(self.device)
        if self.config.arm == "blind":  # nothing is shown, so there is no place to point at
            found = replace(found, place=torch.full_like(found.place, -1))
        return found

    def seen(self, rooms: Rooms) -> Proposals:
        """What the network is shown of rooms: nothing, where it must answer from the question alone."""
        shown = rooms.proposals.to(self.device)
        return shown.blank if self.config.arm == "blind" else shown

    def fresh(self) -> SceneQA:
        """The network at its start, the same in every arm of a seed."""
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = SceneQA(config.shape(
                answers=len(self.world.answers), text_width=self.teacher.word_width, fusion_layers=config.fusion_layers,
                answer_dropout=config.answer_dropout, longest=self.questions["train"].words.shape[1] + 8,
            ))  # fmt: skip
        network.encoder.load_state_dict(fresh_encoder(config).state_dict())
        return network.to(self.device)

    def network(self) -> tuple[SceneQA, Notes]:
        """With the arm's pre-trained encoder."""
        config, network = self.config, self.fresh()
        encoder = fresh_encoder(config).to(self.device)
        learning = pretrain(config, self.world, encoder, self.teacher)
        known, drawn = {}, {}
        if config.arm != "blind":
            known = vector_knowledge(encoder, self.world.val["iid"], self.teacher)
            drawn = self.map(encoder)
        if config.targets is None:
            return network, Notes(0, len(encoder.state_dict()), known, drawn, learning)
        loaded = load_weights(network.encoder, encoder.state_dict(), released=config.targets.released)
        return network, Notes(loaded.tensors, loaded.of, known, drawn, learning)

    def map(self, encoder: SceneEncoder) -> dict[str, list]:
        """Scene vectors of the iid rooms, drawn flat: x, y and the type of each room."""
        rooms = self.world.val["iid"]
        x, y = flat_map(scene_vectors(encoder, rooms)[0]).T.tolist()
        points = ([round(value, 3) for value in values] for values in (x, y))
        return dict(zip(("x", "y"), points, strict=True)) | {"kind": [room.kind for room in rooms.rooms]}

    def train(self, network: SceneQA) -> dict[str, list]:
        """Trains in place; the losses on the way."""
        config, questions = self.config, self.questions["train"]
        shown = self.seen(self.world.train)
        draw = Draw(questions.rooms.cpu(), config.answer_batch, config.each, config.seed)
        learning: dict[str, list] = {"step": [], "answer": [], "place": [], "kind": [], "detection": []}
        if config.frozen:
            network.encoder.requires_grad_(False)
        weights = [value for value in network.parameters() if value.requires_grad]
        optimiser = torch.optim.AdamW(weights, config.answer_rate, weight_decay=1e-5)
        rate = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, config.answer_rate, total_steps=config.answer_steps, pct_start=0.1
        )
        checkpoints = Checkpoints(
            {"network": network.train(), "optimiser": optimiser, "rate": rate, "learning": learning}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # of dropout
            for step in range(checkpoints.resume(), config.answer_steps):
                rooms, which, rows = (part.to(self.device) for part in draw.at(step))
                some = shown.at(rooms)
                encoded = network.encoder(*some.seen)
                said = network.fusion(encoded.at(which), *questions.said(rows))
                parts = losses(said, questions, rows, config.answer_loss)
                parts["detection"] = detection_loss(encoded, some.classes, some.offsets)
                weight = 0.0 if config.arm == "blind" else config.detection
                loss = parts["answer"] + parts["place"] + parts["kind"] + weight * parts["detection"]
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimiser.step()
                rate.step()
                if (step + 1) % max(1, config.answer_steps // 15) == 0:
                    learning["step"].append(step + 1)
                    for name, value in parts.items():
                        learning[name].append(value.item())
                checkpoints.after(step + 1)
            checkpoints.end(config.answer_steps)
        return learning

    def score(self, network: SceneQA, name: str) -> tuple[dict[str, float], list[dict]]:
        """Percentages of a report, in all and for each template."""
        questions, rooms = self.questions[name], self.world.val[name]
        shown = self.seen(rooms)
        said = self.answers(network, shown, questions)
        ranked = [[self.world.answers[number] for number in best] for best in said.best.tolist()]
        truth = [question.answers for question in questions.questions]
        scores = answer_scores(ranked, truth, ks=(1, KEPT))
        right = hits(ranked, truth)
        away = torch.randperm(len(shown), generator=generator(self.config.seed, CHOICES))
        elsewhere = torch.empty_like(away)
        elsewhere[away] = away.roll(1)  # nobody keeps the own room
        swapped = self.answers(network, shown, questions, elsewhere.to(self.device))
        fooled = hits([[self.world.answers[best[0]]] for best in swapped.best.tolist()], truth)
        fixed = majority(self.questions["train"].questions, questions.questions)
        oracle = [
            set(answer(rooms.rooms[rooms.row_of[q.scene]], q)) == set(q.answers) for q in questions.questions
        ]
        found = {
            "em1": 100 * scores["em_1"], f"em{KEPT}": 100 * scores[f"em_{KEPT}"], "majority": 100 * fixed.mean(),
            "swapped": 100 * fooled.mean(), "oracle": 100 * np.mean(oracle), "bleu4": scores["bleu_4"],
            "rouge_l": scores["rouge_l"], "cider": scores["cider"], "questions": len(questions),
        }  # fmt: skip
        found |= self.located(said, questions, rooms)
        kinds = np.array(questions.templates)
        lines = [
            {
                "split": name, "template": kind, "n": int((kinds == kind).sum()),
                "em1": 100 * right[kinds == kind].mean(), "majority": 100 * fixed[kinds == kind].mean(),
                "swapped": 100 * fooled[kinds == kind].mean(),
            }
            for kind in dict.fromkeys(sorted(kinds))
        ]  # fmt: skip
        return {key: float(value) for key, value in found.items()}, lines

    def located(self, said: "Said", questions: Asked, rooms: Rooms) -> dict[str, float]:
        """Localisation and class of the thing asked for, in percent of the questions that have one."""
        if self.config.arm == "blind":
            return {}
        most = max(len(question.objects) for question in questions.questions)
        truth = torch.zeros(len(questions), most, 6)
        there = torch.zeros(len(questions), most, dtype=torch.bool)
        for place, question in enumerate(questions.questions):
            things = rooms.rooms[rooms.row_of[question.scene]].things
            for column, thing in enumerate(question.objects):
                truth[place, column] = torch.from_numpy(things[thing].box)
                there[place, column] = True
        some = there.any(dim=1)
        named = (said.kind.cpu() == questions.kind.cpu())[some]
        near, well = (localised(said.box.cpu(), truth, there, least)[some] for least in (0.25, 0.5))
        found = {"acc25": near, "acc50": well, "kind": named}
        return {name: 100 * values.float().mean() for name, values in found.items()}

    @torch.no_grad()
    def answers(self, network: SceneQA, shown: Proposals, questions: Asked, elsewhere: Tensor | None = None) -> "Said":
        """What a network says; with `elsewhere` [rooms], each question is put to another room."""
        training = network.training
        network.eval()
        encoded = network.encoder(*shown.seen)
        rooms = questions.rooms if elsewhere is None else elsewhere[questions.rooms]
        parts: list[Answered] = []
        for rows in torch.arange(len(questions), device=self.device).split(AT_ONCE):
            parts.append(network.fusion(encoded.at(rooms[rows]), *questions.said(rows)))
        network.train(training)
        best = torch.cat([part.answers.topk(min(KEPT, part.answers.shape[1])).indices for part in parts])
        place = torch.cat([part.places.argmax(dim=1) for part in parts])
        box = shown.boxes[rooms, place] + encoded.offsets[rooms, place]
        box = torch.cat([box[:, :3], box[:, 3:].clamp_min(1e-3)], dim=1)
        return Said(best, torch.cat([part.objects.argmax(dim=1) for part in parts]), place, box)


@dataclass(frozen=True)
class Said:
    """best: [q, 3] numbers of the likeliest answers. kind: [q] class. place: [q] proposal. box: [q, 6], refined."""

    best: Tensor
    kind: Tensor
    place: Tensor
    box: Tensor


class Draw:
    """Which rooms and questions are in a batch: a function of seed and step. Rooms without questions are left out."""

    def __init__(self, rooms: Tensor, batch: int, each: int, seed: int):
        self.asked = rooms.unique()
        self.each, self.seed = each, seed
        by_room = rooms.argsort(stable=True)
        self.many = torch.bincount(rooms)[self.asked]
        self.first = self.many.cumsum(0) - self.many
        self.by_room = by_room
        self.order = BatchOrder(len(self.asked), min(batch, len(self.asked)), [seed])

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """[b] rooms; [q] which of these, and [q] which question."""
        rows = self.order.rows(step)[0]
        drawn = torch.rand(len(rows), self.each, generator=generator(self.seed, step))
        picks = self.first[rows, None] + (drawn * self.many[rows, None]).long()
        return self.asked[rows], torch.arange(len(rows)).repeat_interleave(self.each), self.by_room[picks].flatten()


def losses(said: Answered, questions: Asked, rows: Tensor, kind_of_loss: str = "softmax") -> dict[str, Tensor]:
    """Three losses of a batch of questions: answer, place and class of the thing asked for; each a mean, in nats."""
    kind, wanted = questions.kind[rows], questions.answers[rows]
    named = kind >= 0
    if kind_of_loss == "bce":
        answered = F.binary_cross_entropy_with_logits(said.answers, wanted, reduction="sum") / len(rows)
    else:  # all answers that count as right share the target
        share = wanted / wanted.sum(dim=1, keepdim=True).clamp_min(1)
        answered = -(share * said.answers.log_softmax(dim=1)).sum(dim=1).mean()
    return {
        "answer": answered,
        "place": place_loss(said.places, questions.place[rows]),
        "kind": F.cross_entropy(said.objects[named], kind[named]) if named.any() else said.objects.sum() * 0,
    }


def hits(ranked: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> np.ndarray:
    """[q] whether the best answer is right."""
    return np.array([best[0] in right for best, right in zip(ranked, truth, strict=True)])


def majority(train: Sequence, asked: Sequence) -> np.ndarray:
    """[q] chance that the most frequent answer of the training questions with the same text is right, of those of its
    template where the text is new: what can be known without a look at a room. Of equally frequent ones each is as good
    as another."""
    counts: dict[str, Counter] = {}
    for question in train:
        for group in (question.text, question.template):
            counts.setdefault(group, Counter()).update(question.answers)
    fixed = {group: [each for each, n in of.items() if n == max(of.values())] for group, of in counts.items()}
    return np.array([
        np.mean([each in question.answers for each in fixed.get(question.text, fixed.get(question.template, [""]))])
        for question in asked
    ])  # fmt: skip


def columns(rows: list[dict]) -> dict[str, list]:
    """Rows as a curve of an `Outcome`."""
    return {name: [row[name] for row in rows] for name in rows[0]}
