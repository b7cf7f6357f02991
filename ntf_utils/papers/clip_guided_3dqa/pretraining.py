"""Pre-training of the scene encoder (Parelli et al., 2023): detection losses, and the cosine to a teacher's vectors.

A sample is a room, the caption of one of its things, and its picture from above. With z the scene vector,

    L = L_det + w [a (1 - cos(z, z_text)) + (1 - a) (1 - cos(z, z_image))],

a plain cosine without negatives. The published code has w = 0.1 and a = 0.5. L_det is what is left of VoteNet's losses
where proposals are given: class and box.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ntf_utils.data.room_language import kind_prompt
from ntf_utils.data.rooms import KINDS, NOUNS
from ntf_utils.measures.retrieval import (
    centred_cosine,
    constant_cosine,
    mean_cosine,
    purity,
    recall_at,
    similarity,
    spread,
    zero_shot,
)
from ntf_utils.models.dual_encoder import Teacher
from ntf_utils.models.scene_encoder import SceneEncoder, SceneShape, alignment_loss, detection_loss
from ntf_utils.papers.clip_guided_3dqa.teacher import TeacherConfig, the_teacher
from ntf_utils.papers.clip_guided_3dqa.worlds import Rooms, World, WorldConfig
from ntf_utils.training.checkpoint import Checkpoints
from ntf_utils.training.members import BatchOrder, generator

Arm = Literal["S", "D", "T", "I", "TI", "Sh", "R", "RT", "TIx", "blind"]
CHOICES, CAPTIONS, SHUFFLE = -1, -2, -3  # moments of a seed's generator; updates have 0, 1, ...
GALLERY = 64  # rooms among which a scene vector is to find its caption


@dataclass(frozen=True)
class Targets:
    """What an arm is pre-trained on.

    Attributes:
        text: a, the share of the text's cosine; the picture has the rest. None: no cosine at all.
        of: whose targets: of the room itself, of another one ("shuffled"), or of a teacher that has learned nothing.
        seen_only: the rooms lack the held-out pairs of class and colour.
        released: attention across the batch, and weights that are not loaded, as in the published code.
    """

    text: float | None
    of: Literal["own", "shuffled", "random"] = "own"
    seen_only: bool = False
    released: bool = False


ARMS: dict[str, Targets | None] = {
    "S": None, "D": Targets(None), "T": Targets(1.0), "I": Targets(0.0), "TI": Targets(0.5),
    "Sh": Targets(0.5, of="shuffled"), "R": Targets(0.5, released=True), "RT": Targets(0.5, of="random"),
    "TIx": Targets(0.5, seen_only=True), "blind": None,
}  # fmt: skip


class PretrainConfig(WorldConfig):
    """One scene encoder.

    Attributes:
        arm: see `ARMS`; S is the start itself.
        teacher: whose vectors are the targets.
        pretrain_steps, pretrain_batch, pretrain_rate: AdamW; batches are of rooms.
        alignment: w, the weight of the cosines. spoken: captions that stand behind one text target, drawn anew at every
            step; 1 is the paper's.
        width, heads, feedforward, crop_width: of the networks, see `SceneShape`.
    """

    arm: Arm = "TI"
    teacher: TeacherConfig = TeacherConfig()
    pretrain_steps: int = Field(300, ge=1)
    pretrain_batch: int = Field(64, ge=2)
    pretrain_rate: float = Field(2e-3, gt=0)
    alignment: float = Field(0.1, ge=0)
    width: int = Field(64, ge=4)
    heads: int = Field(4, ge=1)
    feedforward: int = Field(128, ge=1)
    crop_width: int = Field(64, ge=2, multiple_of=2)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.shape()  # sizes that cannot be are refused here, before any training
        return self

    @property
    def targets(self) -> Targets | None:
        return ARMS[self.arm]

    def shape(self, **changes: object) -> SceneShape:
        """Sizes of the networks."""
        released = self.targets is not None and self.targets.released
        return SceneShape(
            classes=len(NOUNS), embedding=self.teacher.dimension, width=self.width, heads=self.heads,
            feedforward=self.feedforward, crop=(self.crop_width // 2, self.crop_width),
            dropout=self.dropout, across_batch=released,
        ).but(**changes)  # fmt: skip


def fresh_encoder(config: PretrainConfig) -> SceneEncoder:
    """At its start: the same in every arm of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SceneEncoder(config.shape())


def pretrain(config: PretrainConfig, world: World, encoder: SceneEncoder, teacher: Teacher) -> dict[str, list]:
    """Trains in place; the losses on the way. The arm S is left as it is."""
    learning: dict[str, list] = {"step": [], "detection": [], "cosine": []}
    targets = config.targets
    if targets is None:
        return learning
    device = next(encoder.parameters()).device
    rooms = world.pretrain_seen if targets.seen_only else world.pretrain
    seen = rooms.proposals.to(device)
    aims = None if targets.text is None else Aims.of(config, rooms, teacher, device)
    optimiser = torch.optim.AdamW(encoder.parameters(), config.pretrain_rate, weight_decay=1e-5)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.pretrain_rate, total_steps=config.pretrain_steps, pct_start=0.1
    )
    order = BatchOrder(len(seen), min(config.pretrain_batch, len(seen)), [config.seed])
    checkpoints = Checkpoints(
        {"encoder": encoder.train(), "optimiser": optimiser, "rate": rate, "learning": learning}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # of dropout
        for step in range(checkpoints.resume(), config.pretrain_steps):
            rows = order.rows(step)[0].to(device)
            some = seen.at(rows)
            encoded = encoder(*some.seen)
            detection = detection_loss(encoded, some.classes, some.offsets)
            aligned = torch.zeros_like(detection) if aims is None else aims.loss(encoded.scene, rows, step)
            loss = detection + config.alignment * aligned
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimiser.step()
            rate.step()
            if (step + 1) % max(1, config.pretrain_steps // 15) == 0:
                for name, value in (("step", step + 1), ("detection", detection.item()), ("cosine", aligned.item())):
                    learning[name].append(value)
            checkpoints.after(step + 1)
        checkpoints.end(config.pretrain_steps)
    return learning


@dataclass(frozen=True)
class Aims:
    """The targets of pre-training.

    Attributes:
        text: [captions, d] vectors of all captions. first, many: [rooms] the captions of each room.
        image: [rooms, d]. share: a. dealt: [rooms] whose targets each room is given; its own, unless shuffled.
    """

    seed: int
    text: Tensor
    first: Tensor
    many: Tensor
    image: Tensor
    share: float
    dealt: Tensor

    @classmethod
    def of(cls, config: PretrainConfig, rooms: Rooms, teacher: Teacher, device: torch.device) -> "Aims":
        targets = config.targets
        if targets.of == "random":
            teacher = the_teacher(config.teacher, "random")
        text = teacher.encode_texts([caption for some in rooms.captions for caption in some]).to(device)
        many = torch.tensor([len(some) for some in rooms.captions], device=device)
        dealt = torch.arange(len(many), device=device)
        if targets.of == "shuffled":
            dealt = torch.randperm(len(many), generator=generator(config.seed, SHUFFLE)).to(device)
        image = teacher.encode_images(rooms.pictures).to(device)
        return cls(config.seed, text, many.cumsum(0) - many, many, image, targets.text, dealt)

    def loss(self, scene: Tensor, rows: Tensor, step: int) -> Tensor:
        """The mean of the cosines' distances, 0 to 2, weighted by their shares; `rows` are the rooms of the batch."""
        given = self.dealt[rows]
        drawn = torch.rand(len(rows), generator=generator(self.seed, step)).to(scene.device)
        said = self.text[self.first[given] + (drawn * self.many[given]).long()]
        total = scene.new_zeros(())
        if self.share > 0:
            total = total + self.share * alignment_loss(scene, said)
        if self.share < 1:
            total = total + (1 - self.share) * alignment_loss(scene, self.image[given])
        return total


@torch.no_grad()
def scene_vectors(encoder: SceneEncoder, rooms: Rooms) -> tuple[Tensor, Tensor]:
    """[n, embedding] z, and [n, width] the scene token it is read from, in evaluation mode."""
    training = encoder.training
    encoder.eval()
    encoded = encoder(*rooms.proposals.to(next(encoder.parameters()).device).seen)
    encoder.train(training)
    return encoded.scene.cpu(), encoded.tokens[:, 0].cpu()


def vector_knowledge(encoder: SceneEncoder, rooms: Rooms, teacher: Teacher, prefix: str = "") -> dict[str, float]:
    """What scene vectors of unseen rooms know.

    purity, purity_chance, purity_95: share of a room's 5 nearest that are of its type, and that share's mean and 95th
    percentile when types are dealt at random; token_purity: the same of the scene token before the last layer;
    zero_shot: share of rooms whose type the teacher's prompts name; recall1: share of rooms that find the caption of
    one of their things among 64; cosine, cosine_constant, cosine_centred: to the captions' vectors, of the encoder, of
    the best constant vector, and with both means taken away; image_*: the same with the pictures'; spread: of z.
    """
    z, token = scene_vectors(encoder, rooms)
    first = teacher.encode_texts([some[0] for some in rooms.captions]).cpu()
    images = teacher.encode_images(rooms.pictures).cpu()
    prompts = teacher.encode_texts([kind_prompt(kind) for kind in KINDS]).cpu()
    found = purity(z, rooms.kinds)
    known = {
        "purity": found.value, "purity_chance": found.chance, "purity_95": found.chance_95,
        "token_purity": purity(token, rooms.kinds).value, "zero_shot": zero_shot(z, prompts, rooms.kinds),
        "zero_shot_images": zero_shot(images, prompts, rooms.kinds), "zero_shot_chance": 1 / len(KINDS),
        "recall1": gallery_recall(z, first), "image_recall1": gallery_recall(z, images), "spread": spread(z),
    }  # fmt: skip
    for name, targets in (("cosine", first), ("image_cosine", images)):
        known[name] = mean_cosine(z, targets)
        known[f"{name}_constant"] = constant_cosine(targets)
        known[f"{name}_centred"] = centred_cosine(z, targets)
    return {prefix + name: value for name, value in known.items()}


def gallery_recall(queries: Tensor, items: Tensor, gallery: int = GALLERY) -> float:
    """R@1 among the items of as many rooms, mean over such galleries; a last, smaller one is left out."""
    gallery = min(gallery, len(queries))
    own = torch.arange(gallery)
    pairs = list(zip(queries.split(gallery), items.split(gallery), strict=True))
    full = [recall_at(similarity(some, others), own) for some, others in pairs if len(some) == gallery]
    return sum(full) / len(full)
