"""What a student's checkpoint is good for: its place in the landscape, its supervised children, and its sparse nets.

Each run distils its student first, by `distillation.py` and from the same seed, and then asks one question about
theta*_S, the encoder that the student ends with, beside theta_S, the one that it started from. Supervised training
puts a fresh linear layer on the encoder; both checkpoints get the same one.
"""

import copy
from functools import cached_property
from itertools import combinations
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.images import as_floats, load_images, stratified_subset
from ntf_utils.measures.barriers import alphas, endpoint_mean_barrier, paths, plane_through
from ntf_utils.papers.random_teachers.distillation import (
    LARGEST_SEED,
    SCORED,
    DistilConfig,
    Job,
    Network,
    columns,
    fitted,
    frozen,
    load_probe_data,
    mixture,
)
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Outcome, experiment
from ntf_utils.training.augmentation import flip, shift_crop
from ntf_utils.training.device import default_device
from ntf_utils.training.members import (
    BatchOrder,
    MemberRecipe,
    State,
    deterministic,
    generator,
    stack,
    train_members,
)
from ntf_utils.training.pruning import prunable, pruned, sparsity, train_masked

AUGMENTATION = -3  # first of the moments of a seed's generator that shift images; they run downwards
BARRIERS = ("error_barrier", "loss_barrier", "test_error", "train_loss")  # what is measured between children
PADDING = 4  # pixels by which images are shifted at most


class PlaneConfig(DistilConfig):
    """The plane through theta_T and two students: that of `locality`, and one that started at `far_locality`.

    `plane` points on each side; at each, the distillation loss and the nearest-neighbour accuracy.
    """

    far_locality: float = Field(1.0, ge=0, le=1)
    plane: int = Field(9, ge=2)


@experiment(version=1, tolerance=1e-3, resumable=True)
def map_plane(config: PlaneConfig) -> Outcome:
    """Row: the distances between the corners. Curves: "plane" (x, y, kl, knn) and "corners" (name, x, y)."""
    job = Job(config, default_device())
    teacher = job.teacher()
    corners = [dict(teacher.named_parameters())]
    for locality in (config.locality, config.far_locality):
        other = Job(config.but(locality=locality), job.device)
        student = other.student(teacher)
        other.distil(teacher, student)
        corners.append({name: value.detach() for name, value in student.named_parameters()})
    shape = plane_through(_stacked(corners), config.plane)
    places = [(x, y) for y in shape.y.tolist() for x in shape.x.tolist()]
    points = [
        {"x": x, "y": y} | job.at(teacher, mixture(corners, weights))
        for (x, y), weights in zip(places, shape.weights.tolist(), strict=True)
    ]
    names = ("teacher", f"student {config.locality:g}", f"student {config.far_locality:g}")
    at = [{"name": name, "x": x, "y": y} for name, (x, y) in zip(names, shape.corners.tolist(), strict=True)]
    far = shape.corners.norm(dim=1)
    row = {"to_near": far[1], "to_far": far[2]}
    return Outcome([row], {"plane": columns(points), "corners": columns(at)})


def _stacked(states: list[State]) -> State:
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


class ChildrenConfig(DistilConfig):
    """Supervised children of both checkpoints.

    Attributes:
        children: of each checkpoint, trained on the same labelled images in different orders.
        child_*: their SGD with momentum, at rates that fall along half a cosine from each of `child_rates`. Checkpoints
            whose embeddings differ in scale have no common rate, so each can be judged at its own.
        points: positions on the line between two children. scored: test images are those of the probe; training
            images on which losses are taken, 0 takes all.
        control: train one child of each checkpoint twice in the same order, at the first rate; the two must be equal
            to the last bit.
    """

    children: int = Field(2, ge=2)
    child_steps: int = Field(400, ge=1)
    child_batch: int = Field(64, ge=1)
    child_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.03,), min_length=1)
    points: int = Field(11, ge=3)
    scored: int = Field(1000, ge=1)
    control: bool = False

    @model_validator(mode="after")
    def _paths_possible(self) -> Self:
        if self.points % 2 == 0:
            raise Refusal(f"points must be odd, so that the midpoint is one of them (got {self.points})")
        if self.n_train and self.child_batch > self.n_train:
            raise Refusal(f"child_batch must not exceed n_train (got {self.child_batch} of {self.n_train})")
        return self


Checkpoint = Literal["student", "start"]


@experiment(version=1, tolerance=1e-3, resumable=True)
def raise_children(config: ChildrenConfig) -> Outcome:
    """Row: a `rate`. For "student" (theta*_S) and "start" (theta_S) each: `<which>_error_barrier` on test images, the
    highest error on the line minus the mean error of its ends, as a share; `<which>_loss_barrier` in nats on training
    images; errors of the ends; `same_*` the control. Means over pairs of children that have not diverged; None without.
    Curve "paths": rate, which, alpha, loss, test_error.
    """
    job = SupervisedJob(config, default_device())
    teacher = job.teacher()
    student = job.student(teacher)
    start = frozen(student)
    job.distil(teacher, student)
    rows, lines = [], []
    for rate in config.child_rates:
        row = {"rate": rate}
        for which, network in (("student", student), ("start", start)):
            found, lines_of = job.children(network, rate)
            row |= {f"{which}_{name}": value for name, value in found.items()}
            lines += [{"rate": rate, "which": which} | line for line in lines_of]
        rows.append(row)
    empty = {name: [] for name in ("rate", "which", "alpha", "loss", "test_error")}
    return Outcome(rows, {"paths": columns(lines) if lines else empty})


class Classifier(nn.Module):
    """An encoder with a linear layer: images -> logits [n, classes].

    Args:
        scale: embeddings are divided by it, a constant. With the spread of the embeddings at the start of training,
            one learning rate suits encoders of different scale: without batch norm, a student's embeddings are many
            times larger than its teacher's, and what differs in the children would be the size of their first steps.
    """

    def __init__(self, encoder: nn.Module, outputs: int, classes: int, scale: float = 1.0):
        super().__init__()
        self.encoder, self.linear = encoder, nn.Linear(outputs, classes)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.encoder(images) / self.scale)


class SupervisedJob(Job):
    """A job whose images come with labels, for classifiers on its encoders."""

    config: "ChildrenConfig | PruneConfig"

    def __init__(self, config: "ChildrenConfig | PruneConfig", device: torch.device):
        super().__init__(config, device)
        images = load_images(config.dataset, "train")
        self.labelled = stratified_subset(images, config.n_train, config.data_seed) if config.n_train else images
        self.labelled = fitted(self.labelled, self.shape).to(device)
        self.floats = as_floats(self.labelled.pixels, self.labelled)
        self.test = self.probe_data.get(config.dataset) or load_probe_data(config.dataset, config, device, self.shape)

    def classifier(self, network: Network) -> Classifier:
        """A network's encoder, copied, under a linear layer that depends on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2 * LARGEST_SEED + self.config.seed)
            encoder = copy.deepcopy(network.encoder).requires_grad_(True)
            spread = self.embed(network, self.floats[:SCORED]).std().item()
            net = Classifier(encoder, encoder.outputs, len(self.labelled.classes), spread)
            return net.to(self.device).train()

    def children(self, network: Network, rate: float) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Barriers between the children of one checkpoint: means over pairs, and the mean path."""
        config, parent = self.config, self.classifier(network)
        control = config.control and rate == config.child_rates[0]
        orders = [config.seed * 100 + child for child in range(config.children)] + [config.seed * 100] * control
        recipe = MemberRecipe(config.child_steps, config.child_batch, rate)
        trained = train_members(
            parent, stack([parent] * len(orders)), self.floats, self.labelled.labels, recipe, orders
        )
        same = _distance(trained.state, 0, config.children) if control else None
        lost = trained.diverged[: config.children].tolist()
        kept = [child for child in range(config.children) if not lost[child]]
        row = {"diverged": sum(lost), "same_distance": same} | dict.fromkeys(BARRIERS)
        if len(kept) < 2:
            return row, []
        starts, ends = (
            {name: value[list(side)] for name, value in trained.state.items()}
            for side in zip(*combinations(kept, 2), strict=True)
        )
        at, scored = alphas(config.points), self.floats[: config.scored]
        parts = {
            "train": (scored, self.labelled.labels[: config.scored]),
            "test": (self.test.test, self.test.test_labels),
        }
        with deterministic():
            found = {p: paths(parent, starts, ends, at, *parts[p], calibration=scored) for p in parts}
        errors, losses = found["test"].error.cpu(), found["train"].loss.cpu()
        row |= {
            "error_barrier": endpoint_mean_barrier(errors, at).mean().item(),
            "loss_barrier": endpoint_mean_barrier(losses, at).mean().item(),
            "test_error": errors[:, [0, -1]].mean().item(),
            "train_loss": losses[:, [0, -1]].mean().item(),
        }
        mean = zip(at.tolist(), losses.mean(dim=0).tolist(), errors.mean(dim=0).tolist(), strict=True)
        return row, [{"alpha": alpha, "loss": loss, "test_error": error} for alpha, loss, error in mean]


def _distance(state: State, one: int, other: int) -> float:
    """Largest difference of any number in two members."""
    return max((value[one] - value[other]).abs().max().item() for value in state.values() if value.numel())


class PruneConfig(DistilConfig):
    """Iterative magnitude pruning from both checkpoints.

    Attributes:
        levels: rounds of pruning, each taking `prune_share` of what is left. scope: see `prunable`.
        tune_steps, tune_batch, tune_rate: of each round's SGD (momentum 0.9, weight decay 1e-4); the rate falls to a
            tenth at a half and again at three quarters.
        rewind_steps: supervised updates before the point that the arm "late" rewinds to.
        augment: flip and shift every image at every update.
    """

    levels: int = Field(6, ge=1)
    prune_share: float = Field(0.2, gt=0, lt=1)
    scope: Literal["all", "weights"] = "weights"
    tune_steps: int = Field(300, ge=1)
    tune_batch: int = Field(128, ge=1)
    tune_rate: float = Field(0.05, gt=0)
    rewind_steps: int = Field(30, ge=1)
    augment: bool = True

    @model_validator(mode="after")
    def _rewind_early(self) -> Self:
        if self.rewind_steps >= self.tune_steps:
            raise Refusal(f"rewind_steps must lie before the end (got {self.rewind_steps} of {self.tune_steps})")
        return self

    def rate_at(self, step: int) -> float:
        """Learning rate of an update, counted from 0."""
        return self.tune_rate * 0.1 ** (int(2 * step >= self.tune_steps) + int(4 * step >= 3 * self.tune_steps))


@experiment(version=1, tolerance=1e-2, resumable=True)
def prune_iteratively(config: PruneConfig) -> Outcome:
    """Trains, prunes and rewinds again and again, in three arms.

    "student": rewound to theta*_S, before any supervised update; "start": to theta_S, before any; "late": to what
    theta_S has become after `rewind_steps` supervised updates. Row: the arm's mean test accuracy over the sparsest
    half of its levels. Curve "pruning": arm, sparsity, accuracy; the accuracy is the last checkpoint's, not the best.
    """
    job = PruningJob(config, default_device())
    teacher = job.teacher()
    student = job.student(teacher)
    start = frozen(student)
    job.distil(teacher, student)
    arms = {"student": (student, 0), "start": (start, 0), "late": (start, config.rewind_steps)}
    lines = {arm: job.levels(network, rewind) for arm, (network, rewind) in arms.items()}
    row: dict[str, float] = {}
    for arm, line in lines.items():
        sparse = line[len(line) // 2 :]
        row[arm] = sum(level["accuracy"] for level in sparse) / len(sparse)
    curve = [{"arm": arm} | level for arm, line in lines.items() for level in line]
    return Outcome([row], {"pruning": columns(curve)})


class PruningJob(SupervisedJob):
    """Rounds of training, pruning and rewinding."""

    config: PruneConfig

    def levels(self, network: Network, rewind: int) -> list[dict[str, float]]:
        """Sparsity and test accuracy of each round; the first one is dense."""
        with deterministic():
            return self._levels(self.classifier(network), rewind)

    def _levels(self, net: Classifier, rewind: int) -> list[dict[str, float]]:
        masks = prunable(net, self.config.scope)
        if rewind:
            train_masked(net, masks, self.batch_at, range(rewind), self.config.rate_at)
        kept, found = copy.deepcopy(net.state_dict()), []
        for level in range(self.config.levels + 1):
            if level:
                masks = pruned(dict(net.named_parameters()), masks, self.config.prune_share)
                net.load_state_dict(kept)
            train_masked(net, masks, self.batch_at, range(rewind, self.config.tune_steps), self.config.rate_at)
            found.append({"sparsity": sparsity(masks), "accuracy": self.accuracy(net)})
        return found

    @cached_property
    def order(self) -> BatchOrder:
        return BatchOrder(len(self.floats), self.config.tune_batch, [self.config.seed])

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of an update; every round and arm sees the same ones."""
        rows = self.order.rows(step)[0].to(self.device)
        if not self.config.augment:
            return self.floats[rows], self.labelled.labels[rows]
        draw = generator(self.config.seed, AUGMENTATION - step)
        shifted = shift_crop(flip(self.labelled.pixels[rows], draw), PADDING, draw)
        return as_floats(shifted, self.labelled), self.labelled.labels[rows]

    def accuracy(self, net: Classifier) -> float:
        """On the test images of the probe."""
        net.eval()
        said = self.in_batches(net, self.test.test).argmax(dim=1)
        net.train()
        return (said == self.test.test_labels).double().mean().item()
