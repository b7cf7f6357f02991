"""The teacher: a small image-text model trained on rooms of its own in the place of CLIP, and the gate it must pass.

CLIP has seen hundreds of millions of pictures with their texts, and no ScanNet. This one sees generated rooms, from
above and from eye level, with texts that tell the type of room and some of its things; then it is frozen. No room of it
comes again. A trained teacher is kept under the store's cache folder.
"""


import hashlib
import inspect
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ntf_utils.data.cached import cached_arrays
from ntf_utils.data.renders import eye_cameras, top_camera, views
from ntf_utils.data.room_language import PREFIX, WORDS, captions, describe, kind_prompt, tokenise
from ntf_utils.data.rooms import KINDS, Room, split
from ntf_utils.measures.retrieval import recall_at, zero_shot
from ntf_utils.models import dual_encoder
from ntf_utils.models.clip import load_teacher
from ntf_utils.models.dual_encoder import DualEncoder, RoomTeacher, Teacher, info_nce
from ntf_utils.papers.clip_guided_3dqa.worlds import CODE
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.checkpoint import Checkpoints
from ntf_utils.training.device import default_device
from ntf_utils.training.members import BatchOrder, generator

LONGEST = 48  # words of a text
GALLERY = 64  # rooms among which the gate's picture is to find its text
EYE_SHARE = 0.25  # of the pictures that are from eye level: pre-training shows the teacher rooms from above only


class TeacherConfig(Config):
    """One teacher.

    Attributes:
        folder: of CLIP in transformers' format; empty trains ours, which the rest is about.
        seed: of its rooms, start and order. rooms: that it learns from, each from above and once from eye level.
        unseen: rooms of the gate, a multiple of 64.
        picture: side in pixels. dimension: of its vectors. width, text_width: of its towers.
        steps, batch, learning_rate: AdamW, with a cosine down to 0.
        told: most things that a text tells.
    """

    folder: str = ""
    seed: int = Field(0, ge=0)
    rooms: int = Field(2048, ge=2)
    unseen: int = Field(256, ge=GALLERY, multiple_of=GALLERY)
    picture: int = Field(48, ge=16, multiple_of=16)
    dimension: int = Field(128, ge=2)
    width: int = Field(16, ge=1)
    text_width: int = Field(128, ge=4, multiple_of=4)
    steps: int = Field(600, ge=1)
    batch: int = Field(128, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    told: int = Field(5, ge=1)


@experiment(version=1, tolerance=0.05, resumable=True)
def train_teacher(config: TeacherConfig) -> Outcome:
    """Trains the teacher, and finds out what it can do in rooms that it has not seen.

    Row: recall1, recall1_text: share of pictures from above that find their room's text among 64, and of texts that
    find their picture; recall1_caption: the same for the caption of a single thing, behind the paper's prefix, as
    pre-training shows it (many rooms fit one); zero_shot: share of pictures whose type of room the prompts name; and
    the chance of each; parameters. Curve "learning": the loss.
    """
    learning: dict[str, list] = {"step": [], "loss": []}
    teacher = _trained(config, learning) if not config.folder else the_teacher(config)
    rooms = split("teacher", config.rooms + config.unseen, config.seed)[config.rooms :]
    pictures = teacher.encode_images(_pictures(rooms, config.picture)[0])
    rng = np.random.default_rng((config.seed, 1))
    texts = teacher.encode_texts([describe(room, rng, config.told) for room in rooms])
    single = [captions(room)[0].text for room in rooms]
    single = teacher.encode_texts([f"{PREFIX} there is {text}" for text in single])
    kinds = torch.tensor([list(KINDS).index(room.kind) for room in rooms])
    prompts = teacher.encode_texts([kind_prompt(kind) for kind in KINDS])
    row = {
        "recall1": _recall(pictures, texts), "recall1_text": _recall(texts, pictures),
        "recall1_caption": _recall(pictures, single), "chance": 1 / GALLERY,
        "zero_shot": zero_shot(pictures.cpu(), prompts.cpu(), kinds), "zero_shot_chance": 1 / len(KINDS),
    }  # fmt: skip
    if isinstance(teacher, RoomTeacher):
        row["parameters"] = sum(value.numel() for value in teacher.network.parameters())
    return Outcome([row], {"learning": learning})


def _recall(queries: Tensor, items: Tensor) -> float:
    """R@1 among the items of 64 rooms, mean over such galleries."""
    own = torch.arange(GALLERY)
    pairs = zip(queries.cpu().split(GALLERY), items.cpu().split(GALLERY), strict=True)
    return float(np.mean([recall_at(some @ others.T, own) for some, others in pairs]))


def the_teacher(config: TeacherConfig, source: Literal["trained", "random"] = "trained") -> Teacher:
    """The frozen teacher: from its folder, from the cache, or trained now; "random" is one that has learned nothing."""
    if source == "random":
        return _as_teacher(_fresh(config))
    if config.folder:
        return load_teacher(config.folder, config.dimension, default_device())
    kept = cached_arrays("room_teacher", _about(config), lambda: _weights(_train(config, {"step": [], "loss": []})))
    network = _fresh(config)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in kept.items()})
    return _as_teacher(network)


def _trained(config: TeacherConfig, learning: dict[str, list]) -> Teacher:
    """Trained now, with the loss on its way, and kept."""
    network = _train(config, learning)
    cached_arrays("room_teacher", _about(config), partial(_weights, network))
    return _as_teacher(network)


def _about(config: TeacherConfig) -> dict:
    """All that decides a trained teacher."""
    code = hashlib.sha256((inspect.getsource(dual_encoder) + inspect.getsource(_text) + CODE).encode()).hexdigest()
    return {
        "config": config.as_dict(), "version": train_teacher.version, "torch": torch.__version__,
        "device": default_device().type, "code": code,
    }  # fmt: skip


def _as_teacher(network: DualEncoder) -> Teacher:
    return RoomTeacher(network.to(default_device()), tokenise)


def _weights(network: DualEncoder) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


def _fresh(config: TeacherConfig) -> DualEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return DualEncoder(
            len(WORDS), LONGEST, config.dimension, config.width, config.text_width, size=config.picture
        )


def _train(config: TeacherConfig, learning: dict[str, list]) -> DualEncoder:
    """Contrastive training: each picture picks its room's text among the batch's, and each text its picture."""
    device = default_device()
    rooms = split("teacher", config.rooms, config.seed)
    shown = torch.from_numpy(_pictures(rooms, config.picture))  # [2, n, s, s, 3]
    network = _fresh(config).to(device).train()
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.1)
    order = BatchOrder(len(rooms), min(config.batch, len(rooms)), [config.seed])
    parts = {"network": network, "optimiser": optimiser, "rate": rate, "learning": learning}
    checkpoints = Checkpoints(parts)
    for step in range(checkpoints.resume(), config.steps):
        rows = order.rows(step)[0]
        high = torch.rand(len(rows), generator=generator(config.seed, step)) < EYE_SHARE
        pixels = shown[high.long(), rows].to(device).permute(0, 3, 1, 2).float() / 255
        rng = np.random.default_rng((config.seed, 2, step))
        texts = [_text(rooms[row], rng, config.told) for row in rows]
        tokens = torch.from_numpy(tokenise(texts)).to(device)
        loss = info_nce(network.images(pixels), network.texts(tokens), network.scale)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        if (step + 1) % max(1, config.steps // 20) == 0:
            learning["step"].append(step + 1)
            learning["loss"].append(loss.item())
        checkpoints.after(step + 1)
    checkpoints.end(config.steps)
    return network


def _text(room: Room, rng: np.random.Generator, told: int) -> str:
    """What a picture's text says: the type of room, or that and some things, or one thing's caption, as ScanRefer's.

    Texts of several things are the most: they alone tell one room from most others.
    """
    draw = rng.random()
    if draw < 0.15:
        return kind_prompt(room.kind)
    if draw < 0.8:
        return describe(room, rng, int(rng.integers(min(2, told), told + 1)), kind=rng.random() < 0.8)
    some = captions(room)[int(rng.integers(len(room.things)))].text
    return f"{PREFIX} there is {some}" if rng.random() < 0.5 else some


def _pictures(rooms: list[Room], size: int) -> np.ndarray:
    """[2, n, s, s, 3] uint8: each room from above, and from one of five places at eye level."""

    def make() -> dict[str, np.ndarray]:
        both = [
            views(room, [top_camera(), eye_cameras(room)[row % 5]], size) for row, room in enumerate(rooms)
        ]
        return {"pictures": np.stack(both, axis=1)}

    about = {"first": rooms[0].name, "last": rooms[-1].name, "size": size, "code": CODE}
    return cached_arrays("teacher_pictures", about, make)["pictures"]


