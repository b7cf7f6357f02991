"""VoteNet (Qi, Litany, He & Guibas, 2019): objects of a point cloud by voting, and the losses that train it.

    backbone   points -> seeds [b, s, c]       PointNet++: set abstractions, then feature propagations
    voting     seed -> vote = seed + offset    each seed points to the middle of its object
    proposals  votes -> [b, p, c]              farthest-point sampling among votes, balls around them
    head       proposal -> object or not, centre, size, class

The published pre-training of Parelli et al. (2023) is this detector's training with the alignment of z_scene added;
`PAPER` has its sizes. Boxes lie along the axes, as ScanNet's do: the published head's outputs for a heading, which
always say 0 there, are left out.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.models.points import FeaturePropagation, SetAbstraction, SharedMLP, interpolation, take
from ntf_utils.models.scene_encoder import Encoded, SceneLayer, SceneShape
from ntf_utils.refusal import Refusal

NEAR, FAR = 0.3, 0.6  # metres from an object's middle: nearer is an object, farther is none, between nobody asks
OBJECTNESS_WEIGHTS = (0.2, 0.8)  # of "none" and "object"


@dataclass(frozen=True)
class Level:
    """A set abstraction: `count` points, balls of `radius` metres with `neighbours` points, widths of the layers."""

    count: int
    radius: float
    neighbours: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class DetectorShape:
    """Sizes of a detector; the defaults are our laptop's, `PAPER` the published code's.

    Attributes:
        features: of a point beside its position: three colours and the height above the floor.
        levels: set abstractions, from fine to coarse.
        ups: feature propagations, from coarse to fine; what the last one reaches are the seeds.
        proposals, width: how many, and their features. vote_radius, vote_neighbours: of the balls around votes.
        classes: of objects. sizes: clusters of sizes; the head picks one and says how far off it is.
    """

    features: int = 4
    levels: tuple[Level, ...] = (
        Level(256, 0.3, 12, (16, 32)), Level(128, 0.6, 12, (32, 64)), Level(32, 1.2, 12, (64, 128)),
    )  # fmt: skip
    ups: tuple[tuple[int, ...], ...] = ((128, 128),)
    proposals: int = 16
    width: int = 64
    vote_radius: float = 0.3
    vote_neighbours: int = 8
    classes: int = 8
    sizes: int = 8

    def __post_init__(self) -> None:
        if not 0 < len(self.ups) < len(self.levels):
            raise Refusal(f"{len(self.levels)} levels take 1 to {len(self.levels) - 1} propagations up")
        if self.proposals > self.seeds:
            raise Refusal(f"{self.proposals} proposals need as many seeds (got {self.seeds})")

    @property
    def seeds(self) -> int:
        """Points that vote."""
        return self.levels[-1 - len(self.ups)].count


# AlexDelitzas/3D-VQA at 774f5a9: models/backbone_module.py and proposal_module.py; the height above the floor is the
# one feature beside the position with the README's flags
PAPER = DetectorShape(
    features=1,
    levels=(
        Level(2048, 0.2, 64, (64, 64, 128)), Level(1024, 0.4, 32, (128, 128, 256)),
        Level(512, 0.8, 16, (128, 128, 256)), Level(256, 1.2, 16, (128, 128, 256)),
    ),
    ups=((512, 512), (512, 512)),
    proposals=256, width=128, vote_radius=0.3, vote_neighbours=16, classes=18, sizes=18,
)  # fmt: skip


class Detected(NamedTuple):
    """What the detector says of b clouds.

    Attributes:
        seeds: [b, s] which points vote. votes: [b, s, 3] where to, metres.
        middles: [b, p, 3] of the groups of votes. features: [b, p, width] of the proposals.
        objectness: [b, p, 2] logits of "none" and "object".
        centres: [b, p, 3] of the boxes, metres.
        sizes: [b, p, sizes] logits of the size's cluster. stretch: [b, p, sizes, 3] how far off each cluster's mean
            the size is, as a part of that mean.
        classes: [b, p, classes] logits.
    """

    seeds: Tensor
    votes: Tensor
    middles: Tensor
    features: Tensor
    objectness: Tensor
    centres: Tensor
    sizes: Tensor
    stretch: Tensor
    classes: Tensor


class Truth(NamedTuple):
    """What b clouds hold.

    Attributes:
        instance: [b, n] which object each point belongs to, -1 for none.
        boxes: [b, k, 6] centre and extent, metres. classes: [b, k]. sizes: [b, k] cluster of each one's size.
        there: [b, k] which objects are real; the others are padding.
    """

    instance: Tensor
    boxes: Tensor
    classes: Tensor
    sizes: Tensor
    there: Tensor


class Survey(NamedTuple):
    """Who stands near whom in b clouds: it hangs on positions alone, so clouds that never move are surveyed once.

    Attributes:
        down: of each set abstraction, which points it keeps and which lie around them.
        up: of each feature propagation, the three nearest and their weights.
    """

    down: tuple[tuple[Tensor, Tensor], ...]
    up: tuple[tuple[Tensor, Tensor], ...]

    def at(self, rows: Tensor) -> Self:
        """Of some of the clouds."""
        return type(self)(*(tuple((a[rows], b[rows]) for a, b in part) for part in self))


class Detector(nn.Module):
    """Clouds -> proposals.

    Args:
        mean_sizes: [sizes, 3] mean extent of each cluster, metres, from the training scenes.
    """

    def __init__(self, shape: DetectorShape, mean_sizes: Tensor):
        super().__init__()
        if mean_sizes.shape != (shape.sizes, 3):
            raise Refusal(f"mean sizes must be [{shape.sizes}, 3] (got {list(mean_sizes.shape)})")
        self.shape = shape
        self.register_buffer("mean_sizes", mean_sizes.float())
        inputs = [shape.features, *(level.channels[-1] for level in shape.levels)]
        self.down = nn.ModuleList(
            SetAbstraction(a, level.count, level.radius, level.neighbours, level.channels)
            for a, level in zip(inputs, shape.levels, strict=False)
        )
        coarse, ups = inputs[-1], []
        for place, channels in enumerate(shape.ups):
            ups.append(FeaturePropagation(coarse, inputs[-2 - place], channels))
            coarse = channels[-1]
        self.up = nn.ModuleList(ups)
        self.vote = nn.Sequential(SharedMLP([coarse, coarse, coarse]), nn.Linear(coarse, 3 + coarse))
        layers = [shape.width] * 3
        self.group = SetAbstraction(coarse, shape.proposals, shape.vote_radius, shape.vote_neighbours, layers)
        outputs = 2 + 3 + 4 * shape.sizes + shape.classes
        self.head = nn.Sequential(SharedMLP(layers), nn.Linear(shape.width, outputs))

    def survey(self, points: Tensor) -> Survey:
        """Who stands near whom in clouds [b, n, 3].

        Raises:
            Refusal: a cloud of fewer points than the first level keeps.
        """
        if points.shape[1] < self.shape.levels[0].count:
            raise Refusal(f"the detector reads clouds of at least {self.shape.levels[0].count} points "
                          f"(got {points.shape[1]})")  # fmt: skip
        places, down = [points], []
        for level in self.down:
            down.append(level.survey(places[-1]))
            places.append(take(places[-1], down[-1][0]))
        steps = range(len(self.up))
        return Survey(tuple(down), tuple(interpolation(places[-2 - step], places[-1 - step]) for step in steps))

    def forward(self, points: Tensor, features: Tensor, survey: Survey | None = None) -> Detected:
        """Clouds -> proposals.

        Args:
            points: [b, n, 3] metres. features: [b, n, features].
            survey: of these clouds, where it is known already.

        Raises:
            Refusal: as `survey`.
        """
        survey = survey or self.survey(points)
        places, known, indices = [points], [features], []
        for level, around in zip(self.down, survey.down, strict=True):
            place, found, taken = level(places[-1], known[-1], around)
            indices.append(indices[-1].gather(1, taken) if indices else taken)  # among the cloud's own points
            places.append(place)
            known.append(found)
        h = known[-1]
        for step, (level, weights) in enumerate(zip(self.up, survey.up, strict=True)):
            h = level(known[-2 - step], h, weights)
        seeds, where = indices[-1 - len(self.up)], places[-1 - len(self.up)]

        moved = self.vote(h)  # [b, s, 3 + c]
        votes = where + moved[..., :3]
        middles, proposals, _ = self.group(votes, F.normalize(h + moved[..., 3:], dim=2))
        said = self.head(proposals)
        objectness, shift, sizes, stretch, classes = said.split(
            [2, 3, self.shape.sizes, 3 * self.shape.sizes, self.shape.classes], dim=2
        )
        return Detected(
            seeds, votes, middles, proposals, objectness, middles + shift, sizes,
            stretch.unflatten(2, (self.shape.sizes, 3)), classes,
        )  # fmt: skip

    def boxes(self, detected: Detected) -> Tensor:
        """[b, p, 6] centre and extent of each proposal, metres, of the likeliest size cluster."""
        cluster = detected.sizes.argmax(dim=2)
        stretch = _of(detected.stretch, cluster)
        extent = self.mean_sizes[cluster] * (1 + stretch)
        return torch.cat([detected.centres, extent.clamp_min(0.01)], dim=2)


def detector_loss(detected: Detected, truth: Truth, mean_sizes: Tensor) -> dict[str, Tensor]:
    """VoteNet's losses as the published code weighs them.

    total = vote + 0.5 objectness + box + 0.1 class, with box = centre + 0.1 size cluster + size. The published code
    multiplies it by 10, which Adam takes back.

    Args:
        mean_sizes: [sizes, 3] as the detector's.

    Returns:
        "vote" (metres, L1, seeds on objects alone), "objectness" and "class" (nats), "box", and "total".
    """
    centres = truth.boxes[..., :3]
    missing = ~truth.there

    owner = truth.instance.gather(1, detected.seeds)  # [b, s]
    on = (owner >= 0).float()
    aim = take(centres, owner.clamp_min(0))
    vote = _mean((detected.votes - aim).abs().sum(dim=2), on)

    apart = torch.cdist(detected.middles.detach(), centres).masked_fill(missing[:, None], torch.inf)
    distance, own = apart.min(dim=2)  # [b, p] to the nearest object, and which
    near = (distance < NEAR).float()
    weights = detected.objectness.new_tensor(OBJECTNESS_WEIGHTS)
    doubt = F.cross_entropy(detected.objectness.mT, near.long(), weights, reduction="none")
    objectness = _mean(doubt, near + (distance > FAR))

    off = (detected.centres[:, :, None] - centres[:, None]).square().sum(dim=3)  # [b, p, k]
    off = off.masked_fill(missing[:, None], torch.inf)
    centre = _mean(off.amin(dim=2), near) + _mean(off.amin(dim=1).masked_fill(missing, 0), truth.there.float())

    cluster = truth.sizes.gather(1, own)  # [b, p]
    picked = _mean(F.cross_entropy(detected.sizes.mT, cluster, reduction="none"), near)
    mean = mean_sizes[cluster]
    wanted = take(truth.boxes[..., 3:], own) / mean - 1
    sized = F.smooth_l1_loss(_of(detected.stretch, cluster), wanted, reduction="none").mean(dim=2)
    named = F.cross_entropy(detected.classes.mT, truth.classes.gather(1, own), reduction="none")

    box = centre + 0.1 * picked + _mean(sized, near)
    parts = {"vote": vote, "objectness": objectness, "box": box, "class": _mean(named, near)}
    return parts | {"total": vote + 0.5 * objectness + box + 0.1 * parts["class"]}


class PointSceneEncoder(nn.Module):
    """Clouds -> z_scene, end to end as the paper has it: the detector's proposals under the scene layer.

    `Encoded` has the detector's class logits with the logit of "none" last, and no offsets: `Detector.boxes` has the
    boxes. So `ntf_utils.models.scene_encoder.Fusion` reads these scenes as it does those of given proposals.
    """

    def __init__(self, shape: DetectorShape, scene: SceneShape, mean_sizes: Tensor):
        super().__init__()
        if scene.classes != shape.classes:
            raise Refusal(f"detector and scene encoder must know the same classes ({shape.classes}, {scene.classes})")
        self.detector = Detector(shape, mean_sizes)
        self.scene = SceneLayer(shape.width, scene)

    def forward(self, points: Tensor, features: Tensor, survey: Survey | None = None) -> tuple[Encoded, Detected]:
        """As `Detector.forward`."""
        detected = self.detector(points, features, survey)
        present = torch.ones(detected.objectness.shape[:2], dtype=torch.bool, device=points.device)
        scene, tokens = self.scene(detected.features, present)
        none, some = detected.objectness.unbind(dim=2)
        named = detected.classes.log_softmax(dim=2) + (some - none)[..., None]
        objects = F.pad(named, (0, 1))
        return Encoded(scene, tokens, present, objects, detected.centres.new_zeros(*present.shape, 6)), detected


def _of(values: Tensor, cluster: Tensor) -> Tensor:
    """[b, p, s, 3] and [b, p] -> [b, p, 3]."""
    return values.gather(2, cluster[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0 where no weight is left. Infinite values must have weight 0."""
    return (values.masked_fill(weights == 0, 0) * weights).sum() / (weights.sum() + 1e-6)
