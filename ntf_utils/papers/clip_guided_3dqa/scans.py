"""The paper's own experiment on the paper's own data: ScanNet's scans, ScanRefer's descriptions, ScanQA's questions.

For those who have the three licences and a folder with CLIP. VoteNet reads the points, one Transformer layer makes the
scene vector, pre-training pulls it to CLIP's vectors of description and picture, and the whole is then trained on
questions. Sizes and schedules are those of the published code (AlexDelitzas/3D-VQA at 774f5a9, scripts/pretrain.py and
train.py) with its defects mended; the arm R keeps them. What we left out on purpose: its mirrored scans, since the
questions still say "left" and "right"; its crops and small turns; and the factor 10 before its losses, which Adam
takes back.

Nothing of this has been run by us on the real data, which we do not have: the tests run it on invented scans.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.data.scannet import ScanNetFolder
from ntf_utils.data.scenes import Question, Scene
from ntf_utils.measures.answers import answer_scores, exact_match
from ntf_utils.measures.boxes import iou, localised
from ntf_utils.measures.retrieval import NEIGHBOURS, purity
from ntf_utils.models.causal import fingerprint
from ntf_utils.models.clip import load_teacher
from ntf_utils.models.detector import PAPER as PAPER_DETECTOR
from ntf_utils.models.detector import Detected, DetectorShape, PointSceneEncoder, Truth, detector_loss
from ntf_utils.models.dual_encoder import Teacher
from ntf_utils.models.loading import load_weights
from ntf_utils.models.scene_encoder import PAPER as PAPER_SCENE
from ntf_utils.models.scene_encoder import Answered, Encoded, Fusion, SceneShape, alignment_loss, place_loss
from ntf_utils.papers.clip_guided_3dqa.detection import Clouds
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.checkpoint import Checkpoints
from ntf_utils.training.device import default_device
from ntf_utils.training.members import BatchOrder

# ScanRefer's 18 classes of objects; what is none of the 17 is the last
CLASSES = ("cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter", "desk",
           "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "other")  # fmt: skip
PREFIX = "Point cloud of a scene where "  # lib/pretrain_dataset.py
KNOWN = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}  # target of an answer by how often training gives it; 1 from four times on
LANGUAGE = 0.1  # weight of answer, class and place beside the detection losses
FEWEST = 4  # things of a class from which a mean size is taken
KEPT = 10  # answers of each question, best first

Arm = Literal["S", "D", "T", "I", "TI", "R", "blind"]
TEXT = {"D": None, "T": 1.0, "I": 0.0, "TI": 0.5, "R": 0.5}  # the text's share of the cosines; the picture has the rest


class ScansConfig(Config):
    """One arm and seed on ScanNet; the defaults are the published code's.

    Attributes:
        root: the folder of scans, descriptions and questions, see `ntf_utils.data.scannet`. counted: whether its files
            must have as many rows as the published ones.
        clip: folder of CLIP ViT-B/32. dimension: of its vectors.
        arm: S from scratch, D detection losses only, T, I, TI: and the cosine to text, picture, both; R: TI as
            released, with attention across the batch and weights that are not loaded; blind: the question alone.
        size: of the networks; "laptop" tries the code.
        pretrain_epochs, pretrain_rate, pretrain_points: Adam, over ScanRefer's descriptions.
        answer_epochs, answer_rate, answer_points: Adam, over ScanQA's questions. drops: epochs after which the rate
            falls to a fifth.
        batch: descriptions, or questions.
        norm_momentum: of batch norm at first, halved every `norm_epochs` epochs.
        alignment: weight of the cosines. clip_at: largest value of a gradient while answering.
    """

    root: str
    clip: str
    arm: Arm = "TI"
    seed: int = Field(0, ge=0)
    counted: bool = True
    size: Literal["paper", "laptop"] = "paper"
    dimension: int = Field(512, ge=1)
    pretrain_epochs: int = Field(50, ge=1)
    pretrain_rate: float = Field(1e-4, gt=0)
    pretrain_points: int = Field(40_000, ge=1)
    answer_epochs: int = Field(50, ge=1)
    answer_rate: float = Field(5e-4, gt=0)
    answer_points: int = Field(30_000, ge=1)
    drops: tuple[int, ...] = (15, 23)
    batch: int = Field(16, ge=2)
    weight_decay: float = Field(1e-5, ge=0)
    norm_momentum: float = Field(0.5, gt=0, le=1)
    norm_epochs: int = Field(20, ge=1)
    alignment: float = Field(0.1, ge=0)
    clip_at: float = Field(1.0, gt=0)

    def data_fingerprint(self) -> str:
        """Of the scans and texts, and of CLIP."""
        return f"{ScanNetFolder(self.root, self.counted).fingerprint('train', 'val')}; {fingerprint(self.clip)}"

    @property
    def shapes(self) -> tuple[DetectorShape, SceneShape]:
        """Of the networks, but for the number of answers and the width of words, which the data tell."""
        released = self.arm == "R"
        if self.size == "paper":
            return PAPER_DETECTOR, PAPER_SCENE.but(embedding=self.dimension, across_batch=released)
        detector = DetectorShape(features=1, classes=len(CLASSES), sizes=len(CLASSES))
        return detector, SceneShape(
            classes=len(CLASSES), embedding=self.dimension, longest=PAPER_SCENE.longest, across_batch=released
        )


@experiment(version=1, tolerance=2.0, resumable=True)
def answer_in_scans(config: ScansConfig) -> Outcome:
    """Pre-trains on ScanRefer's scans, trains on ScanQA's questions, and scores on its validation part.

    Row, in percent where not said: em1, em10 on all questions; em1_answerable on those with an answer that training
    knows, as the published code reports while it trains; swapped: em1 when each question is put to another scan; acc25,
    acc50; kind: class of the first object; bleu_1 to bleu_4, rouge_l (0 to 1), cider (0 to 10); purity and purity_95 of
    the types of rooms, where the scans tell them; loaded, of: tensors taken over from pre-training; questions,
    answerable. Curves: "kinds": em1 by kind of question; "pretraining", "learning": the losses.
    """
    job = ScanJob(config, default_device())
    network, loaded, before = job.network()
    learning = job.learn(network)
    row, kinds = job.score(network)
    curves = {"kinds": kinds, "learning": learning} | ({"pretraining": before} if before else {})
    return Outcome([row | {"loaded": loaded[0], "of": loaded[1]}], curves)


class ScanQA(nn.Module):
    """Points and words to answers: the detector with its scene layer, then the fusion of scene and question."""

    def __init__(self, detector: DetectorShape, scene: SceneShape, mean_sizes: Tensor):
        super().__init__()
        self.encoder = PointSceneEncoder(detector, scene, mean_sizes)
        self.fusion = Fusion(scene)


@dataclass(frozen=True)
class Said:
    """What a network says: its likeliest answers, best first; the object's class; [6] the box that it points at."""

    best: list[str]
    kind: int
    box: Tensor


class ScanJob:
    """Scans, texts and networks of one run."""

    def __init__(self, config: ScansConfig, device: torch.device):
        self.config, self.device = config, device
        self.folder = ScanNetFolder(config.root, config.counted)
        self.teacher: Teacher = load_teacher(config.clip, config.dimension, device)
        self.questions = {part: self.folder.questions(part) for part in ("train", "val")}
        self.scenes: dict[str, Scene] = {}

    def scene(self, name: str, read: Scene | None = None) -> Scene:
        """A scan, read once and kept: all of them take about a gigabyte."""
        if name not in self.scenes:
            scene = read or self.folder.scene(name)
            known = tuple(one if one in CLASSES else CLASSES[-1] for one in scene.classes)
            self.scenes[name] = replace(scene, classes=known, views={}, captions=())
        return self.scenes[name]

    @cached_property
    def counts(self) -> Counter:
        """How often each answer stands in the training questions."""
        return Counter(answer for question in self.questions["train"] for answer in question.answers)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """What the network chooses from: all answers of the training questions, as the published code does."""
        return tuple(sorted(self.counts))

    @cached_property
    def number_of(self) -> dict[str, int]:
        return {answer: number for number, answer in enumerate(self.answers)}

    @cached_property
    def descriptions(self) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
        """Of the training part: for each description its scan and its words, and the scans' pictures from above."""
        names, texts, pictures = [], [], {}
        for scene in self.folder.scenes("train"):
            self.scene(scene.name, scene)
            names += [scene.name] * len(scene.captions)
            texts += [PREFIX + caption.text for caption in scene.captions]
            if "top" in scene.views:
                pictures[scene.name] = scene.views["top"]
        return names, texts, pictures

    @cached_property
    def mean_sizes(self) -> Tensor:
        """[18, 3] mean extent of each class over the training scans, metres; of all things where a class is rare."""
        scenes = [self.scene(name) for name in dict.fromkeys(q.scene for q in self.questions["train"])]
        extents = torch.from_numpy(np.concatenate([scene.boxes[:, 3:] for scene in scenes])).float()
        classes = np.array([name for scene in scenes for name in scene.classes])
        if not len(extents):
            raise Refusal("the training scans hold no boxes of objects")
        means = [extents[torch.from_numpy(classes == name)] for name in CLASSES]
        return torch.stack([(one if len(one) >= FEWEST else extents).mean(dim=0) for one in means]).clamp_min(0.01)

    # networks

    def fresh(self) -> ScanQA:
        """At its start, the same in every arm of a seed."""
        detector, scene = self.config.shapes
        shape = scene.but(answers=len(self.answers), text_width=self.teacher.word_width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return ScanQA(detector, shape, self.mean_sizes).to(self.device)

    def network(self) -> tuple[ScanQA, tuple[int, int], dict[str, list]]:
        """With the arm's pre-trained encoder; tensors loaded, of how many; the losses of the pre-training."""
        network = self.fresh()
        if self.config.arm in ("S", "blind"):
            return network, (0, len(network.encoder.state_dict())), {}
        encoder = self.fresh().encoder
        learning = self.pretrain(encoder)
        loaded = load_weights(network.encoder, encoder.state_dict(), released=self.config.arm == "R")
        return network, (loaded.tensors, loaded.of), learning

    def pretrain(self, encoder: PointSceneEncoder) -> dict[str, list]:
        """Trains in place: detection losses, and the cosines to CLIP's vectors of a description and of the picture."""
        config, share = self.config, TEXT[self.config.arm]
        names, texts, pictures = self.descriptions
        text = self.teacher.encode_texts(texts) if share else None
        image = self._pictured(names, pictures) if share is not None and share < 1 else None
        optimiser = torch.optim.Adam(encoder.parameters(), config.pretrain_rate, weight_decay=config.weight_decay)
        order = self._order(len(names), "descriptions")
        steps = config.pretrain_epochs * order.steps_an_epoch
        learning: dict[str, list] = {"step": [], "detection": [], "cosine": []}
        checkpoints = Checkpoints({"encoder": encoder.train(), "optimiser": optimiser, "learning": learning})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            for step in range(checkpoints.resume(), steps):
                self._relax(encoder, step // order.steps_an_epoch)
                rows = order.rows(step)[0]
                some = [names[row] for row in rows.tolist()]
                encoded, _, _, detection = self._detect(encoder, some, config.pretrain_points, (0, step))
                aligned = torch.zeros_like(detection)
                if text is not None:
                    aligned = aligned + share * alignment_loss(encoded.scene, text[rows.to(text.device)])
                if image is not None:
                    seen = torch.stack([image[name] for name in some])
                    aligned = aligned + (1 - share) * alignment_loss(encoded.scene, seen)
                optimiser.zero_grad(set_to_none=True)
                (detection + config.alignment * aligned).backward()
                optimiser.step()
                _note(learning, step, steps, {"detection": detection, "cosine": aligned})
                checkpoints.after(step + 1)
            checkpoints.end(steps)
        return learning

    def learn(self, network: ScanQA) -> dict[str, list]:
        """Trains on questions, in place."""
        config, questions = self.config, self.questions["train"]
        optimiser = torch.optim.Adam(network.parameters(), config.answer_rate, weight_decay=config.weight_decay)
        order = self._order(len(questions), "questions")
        steps = config.answer_epochs * order.steps_an_epoch
        learning: dict[str, list] = {"step": [], "detection": [], "answer": [], "place": [], "kind": []}
        checkpoints = Checkpoints({"network": network.train(), "optimiser": optimiser, "learning": learning})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            for step in range(checkpoints.resume(), steps):
                epoch = step // order.steps_an_epoch
                self._relax(network, epoch)
                for group in optimiser.param_groups:
                    group["lr"] = config.answer_rate * 0.2 ** sum(epoch >= drop for drop in config.drops)
                some = [questions[row] for row in order.rows(step)[0].tolist()]
                parts = self._losses(network, some, step)
                language = parts["answer"] + parts["place"] + parts["kind"]
                optimiser.zero_grad(set_to_none=True)
                (parts["detection"] + LANGUAGE * language).backward()
                nn.utils.clip_grad_value_(network.parameters(), config.clip_at)
                optimiser.step()
                _note(learning, step, steps, parts)
                checkpoints.after(step + 1)
            checkpoints.end(steps)
        return learning

    def _losses(self, network: ScanQA, some: Sequence[Question], step: int) -> dict[str, Tensor]:
        """Of a batch of questions, each with its scan."""
        names = [question.scene for question in some]
        boxes = None
        if self.config.arm == "blind":
            encoded, truth = self._nothing(len(some)), self._clouds(names, 1, (1, step)).truth
            detection = encoded.scene.new_zeros(())
        else:
            encoded, detected, truth, detection = self._detect(
                network.encoder, names, self.config.answer_points, (1, step)
            )
            boxes = network.encoder.detector.boxes(detected).detach()
        words, mask = self.teacher.encode_words([question.text for question in some])
        said = network.fusion(encoded, words.to(self.device), mask.to(self.device))
        wanted = torch.zeros(len(some), len(self.answers), device=self.device)
        place = torch.full((len(some),), -1, device=self.device)
        kind = torch.full((len(some),), -1, device=self.device)
        for row, question in enumerate(some):
            for answer in question.answers:
                if answer in self.number_of:
                    wanted[row, self.number_of[answer]] = KNOWN.get(self.counts[answer], 1.0)
            if question.objects:  # the published code looks at the first object alone
                first = question.objects[0]
                kind[row] = truth.classes[row, first]
                if boxes is not None:
                    place[row] = iou(boxes[row], truth.boxes[row, first][None])[:, 0].argmax()
        named = kind >= 0
        return {
            "detection": detection,
            "answer": F.binary_cross_entropy_with_logits(said.answers, wanted, reduction="sum") / len(some),
            "place": place_loss(said.places, place),
            "kind": F.cross_entropy(said.objects[named], kind[named]) if named.any() else said.objects.sum() * 0,
        }

    # scores

    @torch.no_grad()
    def score(self, network: ScanQA) -> tuple[dict[str, float], dict[str, list]]:
        """On ScanQA's validation part; see `answer_in_scans`."""
        network.eval()
        questions = sorted(self.questions["val"], key=lambda question: question.scene)
        names = list(dict.fromkeys(question.scene for question in questions))
        scenes = self._scenes(network, names)
        said = [said for name in names for said in self._ask(network, scenes[name], questions, name)]
        others = zip(names, [*names[1:], names[0]], strict=True)
        fooled = [said for name, other in others for said in self._ask(network, scenes[other], questions, name)]
        truth = [question.answers for question in questions]
        ranked = [one.best for one in said]
        right = exact_match(ranked, truth)
        answerable = np.array([any(answer in self.number_of for answer in known) for known in truth])
        scores = answer_scores(ranked, truth, ks=(1, KEPT))
        row = {
            "em1": 100 * scores.pop("em_1"), "em10": 100 * scores.pop(f"em_{KEPT}"), **scores,
            "em1_answerable": 100 * right[answerable].mean() if answerable.any() else 0.0,
            "swapped": 100 * exact_match([one.best for one in fooled], truth).mean(),
            **self._located(questions, said), **self._purity(scenes),
        }  # fmt: skip
        kinds = np.array([question.template for question in questions])
        by_kind = sorted(set(kinds))
        lines = {"kind": by_kind, "n": [int((kinds == one).sum()) for one in by_kind],
                 "em1": [float(100 * right[kinds == one].mean()) for one in by_kind]}  # fmt: skip
        counts = {"questions": len(questions), "answerable": int(answerable.sum())}
        return {key: float(value) for key, value in row.items()} | counts, lines

    def _scenes(self, network: ScanQA, names: Sequence[str]) -> dict[str, tuple[Encoded, Tensor]]:
        """Each scan encoded once, in batches, with the boxes of its proposals."""
        found = {}
        size = self.config.batch
        for start in range(0, len(names), size):
            some = names[start : start + size]
            if self.config.arm == "blind":
                encoded, boxes = self._nothing(len(some)), torch.zeros(len(some), 1, 6, device=self.device)
            else:
                clouds = self._clouds(some, self.config.answer_points, (2, start))
                encoded, detected = network.encoder(clouds.points, clouds.features)
                boxes = network.encoder.detector.boxes(detected)
            for row, name in enumerate(some):
                found[name] = encoded.at(torch.tensor([row], device=self.device)), boxes[row]
        return found

    def _ask(
        self, network: ScanQA, scene: tuple[Encoded, Tensor], questions: Sequence[Question], name: str
    ) -> list["Said"]:
        """What a network that is shown a scan says to the questions about the scan of that name."""
        encoded, boxes = scene
        texts = [question.text for question in questions if question.scene == name]
        words, mask = self.teacher.encode_words(texts)
        same = torch.zeros(len(texts), dtype=torch.long, device=self.device)
        said: Answered = network.fusion(encoded.at(same), words.to(self.device), mask.to(self.device))
        best = said.answers.topk(min(KEPT, len(self.answers))).indices.tolist()
        kinds, places = said.objects.argmax(dim=1).tolist(), said.places.argmax(dim=1)
        answers = [[self.answers[number] for number in one] for one in best]
        return [Said(*one) for one in zip(answers, kinds, boxes[places].cpu(), strict=True)]

    def _located(self, questions: Sequence[Question], said: Sequence["Said"]) -> dict[str, float]:
        """Of the questions with objects: whether the box overlaps one of them, and the class is the first one's."""
        pairs = [(question, one) for question, one in zip(questions, said, strict=True) if question.objects]
        if not pairs or self.config.arm == "blind":
            return {}
        near, well, named = [], [], []
        for question, one in pairs:
            scene = self.scene(question.scene)
            truth = torch.from_numpy(scene.boxes[list(question.objects)])[None]
            near.append(bool(localised(one.box[None], truth, threshold=0.25)))
            well.append(bool(localised(one.box[None], truth, threshold=0.5)))
            named.append(CLASSES[one.kind] == scene.classes[question.objects[0]])
        return {"acc25": 100 * np.mean(near), "acc50": 100 * np.mean(well), "kind": 100 * np.mean(named)}

    def _purity(self, found: Mapping[str, tuple[Encoded, Tensor]]) -> dict[str, float]:
        told = [name for name in found if self.scene(name).kind]
        if len(told) <= NEIGHBOURS or self.config.arm == "blind":
            return {}
        kinds = sorted({self.scene(name).kind for name in told})
        labels = torch.tensor([kinds.index(self.scene(name).kind) for name in told])
        known = purity(torch.cat([found[name][0].scene for name in told]).cpu(), labels)
        return {"purity": 100 * known.value, "purity_95": 100 * known.chance_95}

    # parts

    def _order(self, count: int, what: str) -> BatchOrder:
        if count < self.config.batch:
            raise Refusal(f"a batch of {self.config.batch} cannot be drawn from {count} {what}")
        return BatchOrder(count, self.config.batch, [self.config.seed])

    def _clouds(self, names: Sequence[str], points: int, moment: tuple[int, int]) -> Clouds:
        """Some scans with points drawn for this moment, their height the one feature, as with the README's flags."""
        rng = np.random.default_rng((self.config.seed, *moment))
        clouds = Clouds.of([self.scene(name).drawn(points, rng) for name in names], CLASSES).to(self.device)
        return replace(clouds, features=clouds.features[..., -1:])

    def _detect(
        self, encoder: PointSceneEncoder, names: Sequence[str], points: int, moment: tuple[int, int]
    ) -> tuple[Encoded, Detected, Truth, Tensor]:
        """Scans through the encoder, what they hold, and the detection losses."""
        clouds = self._clouds(names, points, moment)
        encoded, detected = encoder(clouds.points, clouds.features)
        losses = detector_loss(detected, clouds.truth, encoder.detector.mean_sizes)
        return encoded, detected, clouds.truth, losses["total"]

    def _nothing(self, count: int) -> Encoded:
        """What a network sees of scans when it must answer from the question alone."""
        _, scene = self.config.shapes
        blank = torch.zeros(count, 2, scene.width, device=self.device)
        present = torch.ones(count, 1, dtype=torch.bool, device=self.device)
        return Encoded(blank[:, 0], blank, present, blank[:, 1:], torch.zeros(count, 1, 6, device=self.device))

    def _pictured(self, names: Sequence[str], pictures: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """CLIP's vector of each scan's picture.

        Raises:
            Refusal: a scan has none.
        """
        missing = [name for name in dict.fromkeys(names) if name not in pictures]
        if missing:
            raise Refusal(
                f"{len(missing)} of the described scans have no picture from above (first {missing[0]}): render them "
                "into top_imgs/train with generate_top_down.py of github.com/AlexDelitzas/3D-VQA, or run the arm T"
            )
        return {name: self.teacher.encode_images(picture[None])[0] for name, picture in pictures.items()}

    def _relax(self, network: nn.Module, epoch: int) -> None:
        """Batch norm's momentum of an epoch, not below the published least."""
        momentum = max(0.001, self.config.norm_momentum * 0.5 ** (epoch // self.config.norm_epochs))
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.momentum = momentum


def _note(learning: dict[str, list], step: int, steps: int, parts: Mapping[str, Tensor]) -> None:
    """Losses, about twenty times a training."""
    if (step + 1) % max(1, steps // 20) == 0:
        learning["step"].append(step + 1)
        for name, value in parts.items():
            learning[name].append(value.item())
