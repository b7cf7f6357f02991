"""One run of the chapter: from one seed, every kind of ensemble, with what it achieves and how connected it is.

All ensembles have K members of one architecture, trained on the same images with the same recipe and the same noise
on them; what tells them apart is where members start and what they descend:

    deep         K initialisations, each with an order of its own
    branch       one initialisation, trained up to a spawn step, then K orders
    snapshot     one network, trained on at a constant rate; a member every few epochs
    constrained  as branch at step 0, with a loss on the lines between members (`Connected`)
    drawn        as deep, with the same loss: it can only draw members together that start far apart
    permuted     the deep members, their hidden units matched to the first one's: the same functions elsewhere
    distilled    K students from one starting point, the branches' common trunk; each learns from its own deep member

and, for controls, students without a teacher, with the branches as teachers, with one deep member or the mean of all as
the teacher of each, without the connectivity term; and K clones of one network. The paper's own recipes are unknown to
us: the strategies' names come from a summary by others, their form is our reconstruction.

The unit of repetition is the seed: a whole set of ensembles, so that every comparison is paired. It also draws the
training images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.images import (
    DATASETS,
    Images,
    as_floats,
    images_fingerprint,
    load_images,
    pooled,
    stratified_subset,
    tile_rows,
)
from ntf_utils.measures import calibration
from ntf_utils.measures.barriers import (
    alphas,
    joint_connectivity,
    loss_plane,
    member_logits,
    paths,
    score_members,
)
from ntf_utils.measures.matching import match_weights, permute
from ntf_utils.models.receptive import Perceptron, ReceptiveNet
from ntf_utils.models.resnet import ResNet20
from ntf_utils.models.vision_transformer import ViT
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.augmentation import flip_and_shift, noisy
from ntf_utils.training.device import default_device
from ntf_utils.training.members import MemberRecipe, Objective, State, Trained, Training, stack, train_members, unstack
from ntf_utils.training.objectives import Connected, Distilling, labelled

Architecture = Literal["perceptron", "convolutional", "resnet20", "vit"]
Students = Literal["distilled", "same_basin", "no_teacher", "one_teacher", "mean_teacher", "unbound"]
STUDENTS: tuple[Students, ...] = ("distilled", "same_basin", "no_teacher", "one_teacher", "mean_teacher", "unbound")
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(gt=0, le=1)]

A_SEED = 1000  # numbers of initialisations and orders that belong to one seed
BRANCHES, PUPILS, SNAPSHOTS = 100, 200, 300  # where the orders of each kind begin in them


class EnsembleConfig(Config):
    """All ensembles of one seed.

    Attributes:
        dataset, pooling: images, their pixels averaged in squares of `pooling`. n_train, n_held: training images, and
            others of the training part on which temperatures are fitted. n_test: 0 takes all.
        seed: of initialisations, orders and the draw of images.
        architecture: a "perceptron" has `depth` layers of weights of `width`; a "convolutional" network `layers` layers
            of `width` channels with squares of 5 x 5, the first with stride 2; a "resnet20" or "vit" `width` channels.
        members: K. noise: standard deviation of Gaussian noise on every standardised input, in every training.
        augment: flip and shift every image at every update, before the noise.
        steps, batch, learning_rate, momentum, weight_decay: of all members but students; cosine schedule.
        spawns: shares of the updates that branches make together; `spawn`, one of them, is the ensemble that claims
            are about, and the students' starting point.
        weights: of the connectivity term in constrained ensembles, in (0, 1]; `weight`, one of them, is the ensemble
            that claims are about. drawn: the weights in drawn ensembles.
        snapshot_rate, snapshot_steps: constant learning rate, and updates from one member to the next.
        students: which to train, beside "distilled". temperature, share: of distillation. student_steps,
            student_rate, student_weight: their updates, learning rate and weight of the connectivity term, 0 for none.
        points: positions on each line. scored: training images on which connectivity is measured; 0 takes all.
            mixtures: random weighted means of all members, besides.
        plane: points on each side of loss planes through three members; 0 for none.
        tiles: test images of each class whose predicted labels are kept, member by member; 0 for none.
    """

    dataset: str = "cifar10"
    pooling: int = Field(4, ge=1)
    n_train: int = Field(2000, ge=1)
    n_held: int = Field(1000, ge=1)
    n_test: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    architecture: Architecture = "perceptron"
    depth: int = Field(3, ge=2)
    width: int = Field(128, ge=1)
    layers: int = Field(2, ge=1)
    members: int = Field(5, ge=2)
    noise: float = Field(0.5, ge=0)
    augment: bool = False
    steps: int = Field(450, ge=1)
    batch: int = Field(64, ge=1)
    learning_rate: float = Field(0.03, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    spawns: tuple[Share, ...] = (0.0, 0.2, 0.5)
    spawn: Share = 0.2
    weights: tuple[Weight, ...] = (0.1, 0.5, 0.9)
    weight: Weight = 0.5
    drawn: tuple[Weight, ...] = ()
    snapshot_rate: float = Field(0.01, gt=0)
    snapshot_steps: int = Field(90, ge=1)
    students: tuple[Students, ...] = STUDENTS
    temperature: float = Field(4.0, gt=0)
    share: float = Field(0.9, ge=0, le=1)
    student_steps: int = Field(900, ge=1)
    student_rate: float = Field(0.03, gt=0)
    student_weight: float = Field(0.1, ge=0, le=1)
    points: int = Field(11, ge=3)
    scored: int = Field(500, ge=0)
    mixtures: int = Field(20, ge=1)
    plane: int = Field(0, ge=0)
    tiles: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dataset not in DATASETS:
            raise Refusal(f"unknown data set {self.dataset!r}: {nearest(self.dataset, DATASETS)}")
        if self.batch > self.n_train:
            raise Refusal(f"batch must not exceed n_train (got {self.batch} of {self.n_train})")
        if self.members > BRANCHES:
            raise Refusal(f"members must be at most {BRANCHES} (got {self.members})")
        for name, one, several in (("spawn", self.spawn, self.spawns), ("weight", self.weight, self.weights)):
            if one not in several:
                raise Refusal(f"{name} must be one of {name}s (got {one:g}, not in {', '.join(map(str, several))})")
        for name in ("spawns", "weights", "drawn", "students"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise Refusal(f"{name} holds a value twice")
        return self

    def data_fingerprint(self) -> str:
        return images_fingerprint(self.dataset)


@experiment(version=1, tolerance=1e-3, resumable=True)
def train_ensembles(config: EnsembleConfig) -> Outcome:
    """Trains every ensemble of a seed and measures performance, diversity and connectivity.

    Row: an ensemble. `strategy`, with `at_spawn` or `at_weight` where it has one, and `chosen` for the ones that claims
    are about. On the test images: `nll` and `calibrated` (after temperature scaling with `fitted_temperature`) in nats,
    `error`, `brier`, `ece` and `calibrated_ece` of the ensemble; `member_nll`, `member_calibrated`, `member_error` the
    means over its members; `gain` is member_calibrated - calibrated; `disagreement` of two members, and `diversity`,
    that over the members' error. On the training images: `barrier` the mean over all pairs, `worst_pair`, `centroid`,
    `mixed` (mean over the random mixtures) and `joint`, the largest rise found anywhere; `error_barrier` as a share.
    `distance` of two members' weights. `own_teacher`, `other_teachers`: shares of test images on which a student says
    what they say, the first pair left out.
    An ensemble with a diverged member has None for all that.
    Curves: "sizes", the NLL of the first m members; "agreement" of each distilled student and each deep member;
    "lines", the mean loss on the lines between pairs; "votes", "planes", "corners" where asked for.
    """
    job = Job(config, default_device())
    kinds = list(job.ensembles())
    rows = [job.row(kind) for kind in kinds]
    curves = {"sizes": job.sizes(kinds), "lines": job.lines(kinds)}
    if "distilled" in config.students:
        curves["agreement"] = job.agreement(kinds)
    if config.plane and config.members >= 3:
        curves |= job.planes(kinds)
    if config.tiles:
        curves |= job.votes(kinds)
    return Outcome(rows, curves)


@dataclass(frozen=True)
class Data:
    """Floats [n, channels, height, width] and labels [n]: to train on, to fit temperatures on, to be tested on."""

    train: Tensor
    train_labels: Tensor
    held: Tensor
    held_labels: Tensor
    test: Tensor
    test_labels: Tensor
    test_pixels: Images


def load_data(config: EnsembleConfig, device: torch.device) -> Data:
    """The config's images on a device.

    Raises:
        Refusal: no such data, or fewer images than asked for.
    """
    given, test = (load_images(config.dataset, part) for part in ("train", "test"))
    drawn = stratified_subset(given, config.n_train + config.n_held, config.seed)
    test = stratified_subset(test, config.n_test, 0) if config.n_test else test
    drawn, small = (pooled(images, config.pooling) if config.pooling > 1 else images for images in (drawn, test))
    train, held = drawn[: config.n_train], drawn[config.n_train :]
    floats = [as_floats(images.pixels.to(device), train) for images in (train, held, small)]
    labels = [images.labels.to(device) for images in (train, held, small)]
    return Data(floats[0], labels[0], floats[1], labels[1], floats[2], labels[2], test)


def build_model(config: EnsembleConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A fresh network, initialised from torch's global generator. None has batch norm: see `paths`."""
    if config.architecture == "perceptron":
        return Perceptron(shape, config.width, config.depth, classes)
    if config.architecture == "convolutional":
        return ReceptiveNet("convolutional", shape, config.width, 5, 2, 2, classes, config.layers)
    if config.architecture == "resnet20":
        return ResNet20(shape[0], classes, config.width, "layer")
    return ViT(shape, classes, width=config.width)


def arm_name(strategy: str, spawn: float | None, weight: float | None) -> str:
    """What an ensemble's lines are called in the curves: its strategy and its setting; None and NaN are no setting."""
    settings = [float(value) for value in (spawn, weight) if value is not None and value == value]
    return " ".join([strategy, *(f"{value:g}" for value in settings[:1])])


@dataclass(frozen=True)
class Ensemble:
    """One ensemble: its strategy and setting, its members' weights [members, ...], and how many have diverged."""

    strategy: str
    state: State
    diverged: int = 0
    spawn: float | None = None
    weight: float | None = None
    chosen: bool = True

    @property
    def arm(self) -> str:
        """A name that tells settings of one strategy apart, e.g. "branch 0.2"."""
        return arm_name(self.strategy, self.spawn, self.weight)


class Job:
    """The ensembles of one seed."""

    def __init__(self, config: EnsembleConfig, device: torch.device):
        self.config, self.device = config, device
        self.data = load_data(config, device)
        self.at = alphas(config.points)
        self.first = config.seed * A_SEED
        shape, classes = tuple(self.data.train.shape[1:]), len(self.data.test_pixels.classes)
        with torch.random.fork_rng(devices=[]):
            models = [self._model(self.first + member, shape, classes) for member in range(config.members)]
        self.template = models[0].to(device)
        self.starts = stack([model.to(device) for model in models])

    def _model(self, seed: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(self.config, shape, classes)

    def report(self) -> None:
        """Called before every update; a live job tells how far it is."""

    # the strategies

    def ensembles(self) -> Iterator[Ensemble]:
        """All of them, each as soon as it is trained."""
        deep = self.deep()
        yield Ensemble("deep", deep.state, int(deep.diverged.sum()))
        yield Ensemble("clones", deep.end.pick([0] * self.config.members).state, int(deep.diverged[0]))
        branches = {}
        for spawn in self.config.spawns:
            branches[spawn] = self.branch(deep, spawn)
            yield branches[spawn]
        yield self.snapshots(deep)
        yield from self.constrained()
        if self.config.architecture == "perceptron":
            yield self.permuted(deep)
        trunk = deep.saved[self._spawn_step(self.config.spawn)].pick([0] * self.config.members)
        for kind in self.config.students:
            yield self.taught(kind, trunk.state, deep.state, branches[self.config.spawn].state)

    @property
    def recipe(self) -> MemberRecipe:
        config = self.config
        return MemberRecipe(
            config.steps, config.batch, config.learning_rate, momentum=config.momentum,
            weight_decay=config.weight_decay,
        )  # fmt: skip

    def _spawn_step(self, spawn: float) -> int:
        return round(spawn * self.config.steps)

    def deep(self) -> Trained:
        """K initialisations, K orders. The first member is also the trunk of all branches."""
        orders = range(self.first, self.first + self.config.members)
        trunks = sorted({self._spawn_step(spawn) for spawn in self.config.spawns})
        return self._train(Training(self.starts), self.recipe, orders, save_at=trunks)

    def branch(self, deep: Trained, spawn: float) -> Ensemble:
        """Copies of the first deep member as it was at the spawn step, each going on with its own order; the first
        keeps its order, so it is that member itself."""
        copies = deep.saved[self._spawn_step(spawn)].pick([0] * (self.config.members - 1))
        trained = self._train(copies, self.recipe, self._branch_orders[1:])
        state = _joined(deep.end.pick([0]).state, trained.state)
        diverged = int(deep.diverged[0]) + int(trained.diverged.sum())
        return Ensemble("branch", state, diverged, spawn=spawn, chosen=spawn == self.config.spawn)

    def snapshots(self, deep: Trained) -> Ensemble:
        """The first deep member, trained on at a constant rate from new momentum; a member every few epochs."""
        config = self.config
        steps = config.snapshot_steps * config.members
        recipe = MemberRecipe(steps, config.batch, config.snapshot_rate, schedule="constant", momentum=config.momentum)
        when = range(config.snapshot_steps, steps + 1, config.snapshot_steps)
        begun = Training(deep.end.pick([0]).state)
        trained = self._train(begun, recipe, [self.first + SNAPSHOTS], save_at=when)
        state = _joined(*(trained.saved[step].state for step in when))
        return Ensemble("snapshot", state, config.members * int(trained.diverged.sum()))

    def constrained(self) -> Iterator[Ensemble]:
        """Ensembles with the connectivity term, all in one stack: constrained ones start and see their images as the
        branches of step 0, drawn ones as the deep members, so that a weight of 0 would give these."""
        config, everyone = self.config, range(self.config.members)
        settings = [("constrained", weight) for weight in config.weights] + [("drawn", w) for w in config.drawn]
        starts, orders = [], []
        for strategy, _ in settings:
            starts += [0] * config.members if strategy == "constrained" else everyone
            orders += self._branch_orders if strategy == "constrained" else [self.first + k for k in everyone]
        weights = torch.tensor([weight for _, weight in settings]).repeat_interleave(config.members)
        objective = Connected(labelled, weights, config.members, self.first)
        trained = self._train(Training(self.starts).pick(starts), self.recipe, orders, objective=objective)
        for place, (strategy, weight) in enumerate(settings):
            rows = range(place * config.members, (place + 1) * config.members)
            lost = int(trained.diverged[list(rows)].sum())
            chosen = strategy == "constrained" and weight == config.weight
            yield Ensemble(strategy, trained.end.pick(rows).state, lost, weight=weight, chosen=chosen)

    @property
    def _branch_orders(self) -> list[int]:
        """The first is the trunk's own."""
        return [self.first, *range(self.first + BRANCHES, self.first + BRANCHES + self.config.members - 1)]

    def permuted(self, deep: Trained) -> Ensemble:
        """The deep members in the basin of the first, as far as a permutation can bring them there."""
        if deep.diverged.any():
            return Ensemble("permuted", deep.state, int(deep.diverged.sum()))
        members = [unstack(deep.state, member) for member in range(self.config.members)]
        moved = [members[0], *(permute(other, match_weights(members[0], other)) for other in members[1:])]
        state = {name: torch.stack([member[name] for member in moved]) for name in members[0]}
        return Ensemble("permuted", state)

    def taught(self, kind: Students, start: State, deep: State, branches: State) -> Ensemble:
        """Students from one starting point. See `taught_by` for what each kind learns from."""
        config = self.config
        recipe = MemberRecipe(config.student_steps, config.batch, config.student_rate, momentum=config.momentum,
                              weight_decay=config.weight_decay)  # fmt: skip
        objective = taught_by(config, kind, deep, branches)
        if config.student_weight and kind != "unbound":
            weights = torch.full((config.members,), config.student_weight)
            objective = Connected(objective, weights, config.members, self.first)
        orders = range(self.first + PUPILS, self.first + PUPILS + config.members)
        trained = self._train(Training(start), recipe, orders, objective=objective)
        return Ensemble(kind, trained.state, int(trained.diverged.sum()))

    def _train(
        self, begun: Training, recipe: MemberRecipe, orders: Sequence[int], objective: Objective | None = None,
        save_at: Sequence[int] = (),
    ) -> Trained:  # fmt: skip
        return train_members(
            self.template, begun, self.data.train, self.data.train_labels, recipe, list(orders), save_at=list(save_at),
            augment=disturbance(self.config), objective=objective, report=self.report,
            # with noise on the inputs a stack of five perceptrons took 0.8 of a loop's time, with teachers 0.6, also
            # where `stack_pays`, which knows neither, would not yet stack
            stacked=True if objective is not None or self.config.architecture == "perceptron" else None,
        )  # fmt: skip

    # what is measured

    @cached_property
    def _scored(self) -> tuple[Tensor, Tensor]:
        """The training images and labels on which connectivity is measured."""
        part = slice(self.config.scored or None)
        return self.data.train[part], self.data.train_labels[part]

    def row(self, kind: Ensemble) -> dict:
        """A row of the table; None where a member has diverged."""
        about = {
            "strategy": kind.strategy, "at_spawn": kind.spawn, "at_weight": kind.weight, "chosen": kind.chosen,
            "diverged": kind.diverged,
        }  # fmt: skip
        if kind.diverged:
            return about | dict.fromkeys(MEASURES)
        return about | self.performance(kind) | self.connectivity(kind) | self.teachers(kind)

    def performance(self, kind: Ensemble) -> dict[str, float]:
        """On the test images; temperatures from the held-out ones."""
        held, test = self.said(kind)
        labels = self.data.test_labels
        together = calibration.ensemble(test)
        temperature = calibration.best_temperature(calibration.ensemble(held), self.data.held_labels)
        scaled = calibration.tempered(together, temperature)
        alone = [
            calibration.tempered(own, calibration.best_temperature(own_held, self.data.held_labels))
            for own, own_held in zip(test.log_softmax(-1), held.log_softmax(-1), strict=True)
        ]
        nll, scaled_nll = (float(calibration.nll(said, labels)) for said in (together, scaled))
        member_nll = float(calibration.nll(test.log_softmax(-1), labels).mean())
        member_calibrated = float(calibration.nll(torch.stack(alone), labels).mean())
        member_error = float(calibration.error(test, labels).mean())
        disagreement = calibration.disagreement(test)
        return {
            "nll": nll, "calibrated": scaled_nll, "fitted_temperature": temperature,
            "error": float(calibration.error(together, labels)), "brier": float(calibration.brier(together, labels)),
            "ece": calibration.expected_calibration_error(together, labels),
            "calibrated_ece": calibration.expected_calibration_error(scaled, labels),
            "member_nll": member_nll, "member_calibrated": member_calibrated,
            "member_error": member_error, "gain": member_calibrated - scaled_nll, "disagreement": disagreement,
            "diversity": disagreement / member_error if member_error else 0.0,
        }  # fmt: skip

    def connectivity(self, kind: Ensemble) -> dict[str, float]:
        """On the training images."""
        found = joint_connectivity(
            self.template, kind.state, *self._scored, self.at, self.config.mixtures, self.first, self._scored[0]
        )
        ends = score_members(self.template, kind.state, *self._scored, self._scored[0])
        pairs = list(combinations(range(self.config.members), 2))
        return {
            "train_loss": float(ends.loss.mean()), "train_error": float(ends.error.mean()),
            "barrier": float(found.pairs.mean()), "worst_pair": float(found.pairs.max()),
            "error_barrier": float(found.error_pairs.mean()), "centroid": found.centroid,
            "mixed": float(found.mixtures.mean()), "joint": found.highest, "distance": _distance(kind.state, pairs),
        }  # fmt: skip

    def teachers(self, kind: Ensemble) -> dict[str, float | None]:
        """How often a student says what its own deep member says, and what the others say. The first pair is left out:
        the first deep member is where the students' common trunk leads by itself, so all of them are like it."""
        shares = dict.fromkeys(("own_teacher", "other_teachers"))
        count = self.config.members - 1
        if kind.strategy in STUDENTS and self._deep_said is not None and count >= 2:
            found = calibration.agreement(self.said(kind)[1][1:], self._deep_said[1:])
            own = float(found.diagonal().mean())
            shares = {"own_teacher": own, "other_teachers": float((found.sum() - count * own) / (count**2 - count))}
        return shares

    def said(self, kind: Ensemble) -> tuple[Tensor, Tensor]:
        """[members, n, classes] logits on the held-out and on the test images."""
        if self._last_said is None or self._last_said[0] is not kind:
            parts = tuple(
                member_logits(self.template, kind.state, images, self._scored[0])
                for images in (self.data.held, self.data.test)
            )
            self._last_said = (kind, parts)
            if kind.strategy == "deep":
                self._deep_said = parts[1]
        return self._last_said[1]

    _last_said: tuple[Ensemble, tuple[Tensor, Tensor]] | None = None
    _deep_said: Tensor | None = None  # on the test images; None where a deep member has diverged

    def sizes(self, kinds: Sequence[Ensemble]) -> dict[str, list]:
        """NLL and temperature-scaled NLL of the first m members, m = 1 .. K."""
        lines = []
        for kind in (kind for kind in kinds if kind.chosen and not kind.diverged):
            held, test = (logits.log_softmax(-1) for logits in self.said(kind))
            for count in range(1, self.config.members + 1):
                said, there = (calibration.ensemble(part[:count]) if count > 1 else part[0] for part in (test, held))
                temperature = calibration.best_temperature(there, self.data.held_labels)
                scaled = calibration.nll(calibration.tempered(said, temperature), self.data.test_labels)
                lines.append((kind.arm, count, float(calibration.nll(said, self.data.test_labels)), float(scaled)))
        return _columns(("arm", "members", "nll", "calibrated"), lines)

    def lines(self, kinds: Sequence[Ensemble]) -> dict[str, list]:
        """Mean training loss over all pairs at each place between them."""
        lines = []
        pairs = list(combinations(range(self.config.members), 2))
        for kind in (kind for kind in kinds if not kind.diverged):
            ends = ({n: v[[pair[side] for pair in pairs]] for n, v in kind.state.items()} for side in (0, 1))
            found = paths(self.template, *ends, self.at, *self._scored, self._scored[0]).loss.mean(dim=0)
            lines += [(kind.arm, alpha, loss) for alpha, loss in zip(self.at.tolist(), found.tolist(), strict=True)]
        return _columns(("arm", "alpha", "loss"), lines)

    def agreement(self, kinds: Sequence[Ensemble]) -> dict[str, list]:
        """Share of test images on which each distilled student says what each deep member says."""
        lines = []
        taught = [kind for kind in kinds if kind.strategy == "distilled" and not kind.diverged]
        for kind in taught if self._deep_said is not None else []:
            found = calibration.agreement(self.said(kind)[1], self._deep_said)
            count = self.config.members
            lines = [(s, t, float(found[s, t])) for s in range(count) for t in range(count)]
        return _columns(("student", "teacher", "share"), lines)

    def planes(self, kinds: Sequence[Ensemble]) -> dict[str, dict[str, list]]:
        """The training loss in the plane through the first three members of some ensembles."""
        planes, corners = [], []
        for kind in kinds:
            if kind.diverged or not kind.chosen or kind.strategy not in ("deep", "permuted", "branch", "distilled"):
                continue
            three = {name: value[:3] for name, value in kind.state.items()}
            found = loss_plane(self.template, three, *self._scored, self.config.plane, calibration=self._scored[0])
            x, y, loss = found.x.tolist(), found.y.tolist(), found.loss.tolist()
            planes += [(kind.arm, x[c], y[r], loss[r][c]) for r in range(len(y)) for c in range(len(x))]
            corners += [(kind.arm, member, *place) for member, place in enumerate(found.corners.tolist())]
        return {"planes": _columns(("arm", "x", "y", "loss"), planes),
                "corners": _columns(("arm", "member", "x", "y"), corners)}  # fmt: skip

    def votes(self, kinds: Sequence[Ensemble]) -> dict[str, dict[str, list]]:
        """What each member says of a few test images: class numbers, a text a member."""
        rows = tile_rows(self.data.test_labels, self.config.tiles)
        lines = [
            (kind.arm, member, _text(said))
            for kind in kinds if not kind.diverged
            for member, said in enumerate(self.said(kind)[1][:, rows].argmax(dim=-1).tolist())
        ]  # fmt: skip
        return {
            "votes": _columns(("arm", "member", "said"), lines),
            "shown": {"truth": self.data.test_labels[rows].tolist()},
            "classes": {"name": list(self.data.test_pixels.classes)},
        }


MEASURES = (
    "nll", "calibrated", "fitted_temperature", "error", "brier", "ece", "calibrated_ece", "member_nll",
    "member_calibrated", "member_error", "gain", "disagreement", "diversity", "train_loss", "train_error", "barrier",
    "worst_pair", "error_barrier", "centroid", "mixed", "joint", "distance", "own_teacher", "other_teachers",
)  # fmt: skip


def taught_by(config: EnsembleConfig, kind: Students, deep: State, branches: State) -> Objective:
    """What the students of a kind learn from: the teacher of each is, in the order of the members,

    distilled, unbound   its own deep member
    same_basin           its own branch
    one_teacher          the second deep member, for all: the first is where their own basin leads
    mean_teacher         the mean of all deep members' probabilities, for all
    no_teacher           the labels alone, for equally many updates
    """
    if kind == "no_teacher":
        return labelled
    everyone = range(config.members)
    one = {member: {name: value[[member] * config.members] for name, value in deep.items()} for member in everyone}
    teachers = {
        "same_basin": [branches], "one_teacher": [one[1]], "mean_teacher": [one[member] for member in everyone],
    }.get(kind, [deep])  # fmt: skip
    return Distilling(teachers, config.temperature, config.share)


def disturbance(config: EnsembleConfig):
    """The augmentation and the noise that every training has; None for neither."""
    if not config.augment:
        return partial(noisy, spread=config.noise) if config.noise else None

    def both(images: Tensor, generator: torch.Generator) -> Tensor:
        return noisy(flip_and_shift(images, generator), generator, config.noise)

    return both


def _joined(*states: State) -> State:
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def _distance(state: State, pairs: list[tuple[int, int]]) -> float:
    """Mean Euclidean distance of two members' weights."""
    firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
    moved = [value[firsts] - value[seconds] for value in state.values() if value.is_floating_point()]
    return float(sum(part.flatten(1).double().square().sum(dim=1) for part in moved).sqrt().mean())


def _columns(names: tuple[str, ...], lines) -> dict[str, list]:
    lines = list(lines)
    return {name: [line[place] for line in lines] for place, name in enumerate(names)}


def _text(classes: list[int]) -> str:
    return " ".join(str(number) for number in classes)
