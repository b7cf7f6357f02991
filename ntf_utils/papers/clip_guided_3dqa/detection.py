"""The paper's pre-training end to end: VoteNet reads the points, and z_scene is aligned above its proposals.

    L = vote + 0.5 objectness + box + 0.1 class + w [a (1 - cos(z, z_text)) + (1 - a) (1 - cos(z, z_image))]

The chapter's arms are compared on proposals that are given, see `pretraining.py`, because that is far cheaper. This is
the one place where proposals are learned too, as the paper does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ntf_utils.data.rooms import NOUNS, room_scene
from ntf_utils.data.scenes import Scene
from ntf_utils.measures.boxes import average_precision, iou
from ntf_utils.measures.retrieval import centred_cosine, constant_cosine, mean_cosine, spread
from ntf_utils.models import detector, scene_encoder
from ntf_utils.models.detector import DetectorShape, PointSceneEncoder, Survey, Truth, detector_loss
from ntf_utils.models.scene_encoder import SceneShape
from ntf_utils.papers.clip_guided_3dqa.pretraining import ARMS, Aims, PretrainConfig, gallery_recall
from ntf_utils.papers.clip_guided_3dqa.teacher import TeacherConfig, the_teacher
from ntf_utils.papers.clip_guided_3dqa.worlds import Rooms, World, WorldConfig
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Outcome, experiment
from ntf_utils.training.checkpoint import Checkpoints
from ntf_utils.training.device import default_device
from ntf_utils.training.members import BatchOrder

SURE = 0.5  # probability of being an object from which a proposal counts as found
OVERLAPPING = 0.25  # of two boxes of one class, from which the less sure one goes; VoteNet's
SURVEYED = 2**31  # bytes: surveys of all training clouds are kept where they take less
AT_ONCE = 32  # clouds read at a time in evaluation
THRESHOLDS = {"25": 0.25, "50": 0.5}  # of the overlap


class DetectConfig(WorldConfig):
    """One detector with a scene layer above it.

    Attributes:
        arm: D for the detection losses alone, TI with the alignment, R with it as the published code runs.
        teacher: whose vectors z_scene is aligned with. alignment: w.
        cloud: points of a room.
        size: of the networks, see `DetectorShape` and `detector.PAPER`. proposals: of the laptop's size.
        detect_steps, detect_batch: of clouds. detect_rate, scene_rate: Adam's, of the detector and of the scene layer,
            the peaks of one cycle of a cosine. At the detector's rate the scene layer ends with one vector for all.
    """

    arm: Literal["D", "TI", "R"] = "TI"
    teacher: TeacherConfig = TeacherConfig()
    alignment: float = Field(0.1, ge=0)
    cloud: int = Field(1024, ge=256)
    size: Literal["laptop", "paper"] = "laptop"
    proposals: int = Field(32, ge=1, le=128)
    detect_steps: int = Field(1000, ge=1)
    detect_batch: int = Field(8, ge=2)
    detect_rate: float = Field(1e-2, gt=0)
    scene_rate: float = Field(2e-3, gt=0)

    @property
    def shapes(self) -> tuple[DetectorShape, SceneShape]:
        """Sizes of detector and scene layer."""
        kinds = {"classes": len(NOUNS), "embedding": self.teacher.dimension, "across_batch": self.arm == "R"}
        if self.size == "laptop":
            return DetectorShape(proposals=self.proposals, classes=len(NOUNS), sizes=len(NOUNS)), SceneShape(**kinds)
        large = replace(detector.PAPER, features=4, classes=len(NOUNS), sizes=len(NOUNS))
        return large, scene_encoder.PAPER.but(**kinds)


@experiment(version=1, tolerance=1.5, resumable=True)
def train_detector(config: DetectConfig) -> Outcome:
    """Trains detector and scene layer together, and looks for the things of rooms that they have not seen.

    Row, in percent: acc25, acc50: things that some sure proposal overlaps by 0.25 or 0.5; map25, map50: mean average
    precision over the classes; each also "untrained_", before training, and acc also "components_": of the proposals
    without labels on which the chapter's arms rest. Of the scene vectors: cosine, cosine_constant, cosine_centred to
    the pictures' vectors, recall1: rooms that find their own picture among 64, with its chance, and spread. parameters.
    Curve "learning": the losses.
    """
    job = DetectorJob(config, default_device())
    network = job.fresh()
    known, row = job.look(network), {}
    row |= {f"untrained_{name}": known[name] for name in ("acc25", "acc50", "map25", "map50")}
    learning = job.train(network)
    row |= job.look(network) | component_accuracy(job.world.val["iid"])
    row["parameters"] = sum(value.numel() for value in network.parameters())
    return Outcome([row], {"learning": learning})


@dataclass(frozen=True)
class Clouds:
    """Scenes as a detector reads them.

    Attributes:
        points: [n, c, 3] metres. features: [n, c, 4] colours in [0, 1] and the height above the floor.
        truth: what they hold.
    """

    points: Tensor
    features: Tensor
    truth: Truth

    def __len__(self) -> int:
        return len(self.points)

    def at(self, rows: Tensor) -> Self:
        """Some of the scenes."""
        return type(self)(self.points[rows], self.features[rows], Truth(*(part[rows] for part in self.truth)))

    def to(self, device: torch.device) -> Self:
        return type(self)(
            self.points.to(device), self.features.to(device), Truth(*(part.to(device) for part in self.truth))
        )

    @classmethod
    def of(cls, scenes: Sequence[Scene], classes: Sequence[str]) -> Self:
        """Puts scenes of equally many points together.

        Args:
            classes: names in the order of their numbers; things of other classes are no things here.

        Raises:
            Refusal: a scene has another number of points than the first.
        """
        for scene in scenes:
            if len(scene) != len(scenes[0]):
                sizes = f"{scenes[0].name} has {len(scenes[0])}, {scene.name} {len(scene)}"
                raise Refusal(f"clouds of a batch must have equally many points ({sizes}): draw them, `Scene.drawn`")
        number = {name: place for place, name in enumerate(classes)}
        most = max(1, *(len(scene.boxes) for scene in scenes))
        boxes = torch.zeros(len(scenes), most, 6)
        kinds = torch.zeros(len(scenes), most, dtype=torch.long)
        there = torch.zeros(len(scenes), most, dtype=torch.bool)
        owners = []
        for row, scene in enumerate(scenes):
            known = [thing for thing, name in enumerate(scene.classes) if name in number]
            boxes[row, : len(known)] = torch.as_tensor(scene.boxes[known], dtype=torch.float32)
            kinds[row, : len(known)] = torch.tensor([number[scene.classes[thing]] for thing in known], dtype=torch.long)
            there[row, : len(known)] = True
            renamed = np.full(len(scene.classes) + 1, -1)  # the last one is for points of no thing, -1
            renamed[known] = np.arange(len(known))
            owners.append(torch.from_numpy(renamed[scene.instance]))
        points = torch.from_numpy(np.stack([scene.points for scene in scenes])).float()
        colours = torch.from_numpy(np.stack([scene.colours for scene in scenes])).float()
        height = points[..., 2:] - points[..., 2:].amin(dim=1, keepdim=True)
        # a size's cluster is the class, as VoteNet's are on ScanNet
        truth = Truth(torch.stack(owners), boxes, kinds, kinds, there)
        return cls(points, torch.cat([colours, height], dim=2), truth)

    def mean_sizes(self, classes: int) -> Tensor:
        """[classes, 3] mean extent of the things of each class, metres; 1 m where there is none."""
        extents, kinds = self.truth.boxes[..., 3:][self.truth.there], self.truth.classes[self.truth.there]
        some = [extents[kinds == kind] for kind in range(classes)]
        return torch.stack([part.mean(dim=0) if len(part) else part.new_ones(3) for part in some])


class DetectorJob:
    """The rooms and networks of one run."""

    def __init__(self, config: DetectConfig, device: torch.device):
        self.config, self.device = config, device
        self.world, self.teacher = World(config.world_only), the_teacher(config.teacher)
        self.clouds = self._scanned(self.world.pretrain)
        self.unseen = self._scanned(self.world.val["iid"])

    def _scanned(self, rooms: Rooms) -> Clouds:
        return Clouds.of([room_scene(room, self.config.cloud) for room in rooms.rooms], NOUNS).to(self.device)

    def fresh(self) -> PointSceneEncoder:
        """The networks at their start: the same in every arm of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            network = PointSceneEncoder(*self.config.shapes, self.clouds.mean_sizes(len(NOUNS)))
        return network.to(self.device)

    def aims(self) -> Aims | None:
        """The targets of the scene vectors."""
        config = self.config
        if ARMS[config.arm].text is None:
            return None
        asked = PretrainConfig(**config.world_only.as_dict(), arm=config.arm, teacher=config.teacher)
        return Aims.of(asked, self.world.pretrain, self.teacher, self.device)

    def train(self, network: PointSceneEncoder) -> dict[str, list]:
        """Trains in place; the losses on the way."""
        config, aims = self.config, self.aims()
        return train_together(
            network, self.clouds, config.detect_steps, config.detect_batch, (config.detect_rate, config.scene_rate),
            config.seed,
            None if aims is None else lambda scene, rows, step: config.alignment * aims.loss(scene, rows, step),
        )  # fmt: skip

    def look(self, network: PointSceneEncoder) -> dict[str, float]:
        """What the networks find and know in unseen rooms."""
        read = read_clouds(network, self.unseen)
        rooms = self.world.val["iid"]
        images = self.teacher.encode_images(rooms.pictures).cpu()
        return found_things(read, self.unseen.truth) | {
            "cosine": mean_cosine(read.scene, images), "cosine_constant": constant_cosine(images),
            "cosine_centred": centred_cosine(read.scene, images), "recall1": 100 * gallery_recall(read.scene, images),
            "recall1_chance": 100 / min(64, len(images)), "spread": spread(read.scene),
        }  # fmt: skip


def train_together(
    network: PointSceneEncoder,
    clouds: Clouds,
    steps: int,
    batch: int,
    rates: tuple[float, float],
    seed: int,
    align: Callable[[Tensor, Tensor, int], Tensor] | None = None,
) -> dict[str, list]:
    """Trains detector and scene layer in place; the losses on the way.

    Args:
        clouds: on the network's device.
        rates: Adam's peaks, of the detector and of the scene layer.
        align: z_scene [b, embedding], rows [b] of the clouds and the step
            -> what is added to the detection losses.
    """
    names = ("vote", "objectness", "box", "class", "aligned")
    learning: dict[str, list] = {name: [] for name in ("step", *names)}
    optimiser = torch.optim.Adam([
        {"params": part.parameters(), "lr": peak}
        for part, peak in zip((network.detector, network.scene), rates, strict=True)
    ])
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, list(rates), total_steps=steps, pct_start=0.1)
    order = BatchOrder(len(clouds), batch, [seed])
    survey = survey_of(network, clouds)
    parts = {"network": network.train(), "optimiser": optimiser, "rate": rate, "learning": learning}
    checkpoints = Checkpoints(parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        for step in range(checkpoints.resume(), steps):
            rows = order.rows(step)[0].to(clouds.points.device)
            some = clouds.at(rows)
            surveyed = survey.at(rows) if survey else None
            encoded, detected = network(some.points, some.features, surveyed)
            losses = detector_loss(detected, some.truth, network.detector.mean_sizes)
            aligned = align(encoded.scene, rows, step) if align else losses["total"].new_zeros(())
            optimiser.zero_grad(set_to_none=True)
            (losses["total"] + aligned).backward()
            optimiser.step()
            rate.step()
            if (step + 1) % max(1, steps // 20) == 0:
                losses |= {"aligned": aligned}
                learning["step"].append(step + 1)
                for name in names:
                    learning[name].append(losses[name].item())
            checkpoints.after(step + 1)
        checkpoints.end(steps)
    return learning


def survey_of(network: PointSceneEncoder, clouds: Clouds) -> Survey | None:
    """Who stands near whom in every cloud; None where that would take too much memory."""
    levels = network.detector.shape.levels
    if 8 * len(clouds) * sum(level.count * (1 + level.neighbours) for level in levels) > SURVEYED:
        return None
    parts = [network.detector.survey(points) for points in clouds.points.split(AT_ONCE)]
    return Survey(*(
        tuple(tuple(torch.cat(pieces) for pieces in zip(*level, strict=True)) for level in zip(*side, strict=True))
        for side in zip(*parts, strict=True)
    ))  # fmt: skip


@dataclass(frozen=True)
class Read:
    """Clouds after the network, on the CPU.

    Attributes:
        scene: [n, embedding] z. boxes: [n, p, 6]. sure: [n, p] probability of being an object.
        classes: [n, p, classes] probabilities.
    """

    scene: Tensor
    boxes: Tensor
    sure: Tensor
    classes: Tensor


@torch.no_grad()
def read_clouds(network: PointSceneEncoder, clouds: Clouds) -> Read:
    """Reads clouds in evaluation mode."""
    training = network.training
    network.eval()
    parts = []
    for points, features in zip(clouds.points.split(AT_ONCE), clouds.features.split(AT_ONCE), strict=True):
        encoded, found = network(points, features)
        sure = found.objectness.softmax(dim=2)[..., 1]
        parts.append((encoded.scene, network.detector.boxes(found), sure, found.classes.softmax(dim=2)))
    network.train(training)
    return Read(*(torch.cat(pieces).cpu() for pieces in zip(*parts, strict=True)))


def found_things(read: Read, truth: Truth) -> dict[str, float]:
    """Things found, in percent: acc25 and acc50 of all things, map25 and map50 over classes; see `train_detector`."""
    boxes, there = truth.boxes.cpu(), truth.there.cpu()
    overlap = iou(read.boxes, boxes).masked_fill((read.sure < SURE)[..., None], 0)  # [n, p, k]
    best = overlap.amax(dim=1)[there]
    found = {f"acc{name}": 100 * (best >= least).float().mean().item() for name, least in THRESHOLDS.items()}
    kept = apart(read.boxes, read.sure, read.classes.argmax(dim=2))
    room, owner = kept.nonzero()[:, 0], there.nonzero()[:, 0]
    kinds = truth.classes.cpu()[there]
    for name, least in THRESHOLDS.items():
        by_class = [
            average_precision(
                (read.sure[..., None] * read.classes)[..., kind][kept], read.boxes[kept], room,
                boxes[there][kinds == kind], owner[kinds == kind], least,
            )
            for kind in kinds.unique().tolist()
        ]  # fmt: skip
        found[f"map{name}"] = 100 * float(np.mean(by_class))
    return found


def apart(boxes: Tensor, sure: Tensor, classes: Tensor, most: float = OVERLAPPING) -> Tensor:
    """Non-maximum suppression: [n, p] which boxes stay when a surer one of the same class overlaps them by more.

    Args:
        boxes: [n, p, 6]. sure: [n, p]. classes: [n, p].
    """
    order = sure.argsort(dim=1, descending=True, stable=True)
    boxes, classes = boxes.gather(1, order[..., None].expand_as(boxes)), classes.gather(1, order)
    hides = (iou(boxes, boxes) > most) & (classes[:, :, None] == classes[:, None])  # [n, p, p]
    stays = torch.ones_like(classes, dtype=torch.bool)
    for place in range(boxes.shape[1]):
        later = torch.arange(boxes.shape[1]) > place
        stays &= ~(hides[:, place] & stays[:, place, None] & later)
    return torch.empty_like(stays).scatter_(1, order, stays)


def component_accuracy(rooms: Rooms) -> dict[str, float]:
    """components_acc25 and components_acc50: things that a proposal without labels overlaps, in percent."""
    shown = rooms.proposals
    best = []
    for row, room in enumerate(rooms.rooms):
        truth = torch.as_tensor(np.stack([thing.box for thing in room.things])).float()
        best.append(iou(shown.boxes[row][shown.present[row]], truth).amax(dim=0))
    return {
        f"components_acc{name}": 100 * (torch.cat(best) >= least).float().mean().item()
        for name, least in THRESHOLDS.items()
    }
