"""One run of the chapter: a setting, trained from several initialisations, and the barriers between its solutions.

Every initialisation is copied and the copies are trained on differently ordered data: their barrier is what the
chapter is about. Beside it stand two controls from the same job: the barrier to independently initialised networks
(it must be high) and to a copy trained in the same order (it must be exactly 0). The unit of repetition is the
initialisation: the pairs of one initialisation are averaged before anything is judged.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

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
from ntf_utils.measures.barriers import (
    Scores,
    alphas,
    barrier,
    endpoint_mean_barrier,
    loss_plane,
    midpoint_excess,
    path_logits,
    paths,
    score_members,
)
from ntf_utils.measures.matching import fixed_share, match_weights, permute
from ntf_utils.models.receptive import Perceptron, ReceptiveNet
from ntf_utils.models.resnet import ResNet20
from ntf_utils.models.vision_transformer import ViT
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.augmentation import flip_and_shift
from ntf_utils.training.device import default_device
from ntf_utils.training.members import MemberRecipe, State, Trained, Training, stack, train_members, unstack

Architecture = Literal["perceptron", "dense", "local", "convolutional", "random_sparse", "shuffled", "resnet20", "vit"]
RECEPTIVE = ("dense", "local", "convolutional", "random_sparse", "shuffled")
Kind = Literal["order", "independent", "same"]  # of a pair: what its two networks do not share

LARGEST_SUBSET_SEED = 2**20


class ConnectivityConfig(Config):
    """One setting with all its initialisations.

    Attributes:
        dataset, pooling, n_train, n_test: images, their pixels averaged in squares of `pooling`, and how many of
            them; 0 takes all. data_seed: of the subset and of random labels, shared by all initialisations.
        labels: "random" shuffles the training labels once and for all.
        architecture: "perceptron" has `depth` layers of weights of `width`. "dense" to "random_sparse" are one
            family with equally many hidden units, see `ReceptiveNet`; "shuffled" is convolutional on pixels in a
            fixed random order. `channels`, `kernel`, `stride`, `padding` and `layers` are theirs. A "resnet20" or
            "vit" has `width` channels; `norm` is the residual network's.
        warmup: share of the updates in which the learning rate rises from 0; it then falls as `schedule` says.
        augment: flip and shift every image at every update.
        inits, first_init: initialisations first_init, first_init + 1, ... orders: copies of each.
        spawn_step: updates that all copies of an initialisation make together before their orders part.
        points: positions on a path. scored: training images on which barriers are measured; 0 takes all.
        plane: points on each side of the loss plane through the first pair and its initialisation; 0 for none.
        tiles: test images of each class whose predicted labels along the first paths are kept.
        match: also measure each path after the second network's units have been matched to the first's.
    """

    dataset: str = "fashion_mnist"
    pooling: int = Field(2, ge=1)
    n_train: int = Field(2000, ge=0)
    n_test: int = Field(1000, ge=0)
    data_seed: int = Field(0, ge=0, lt=LARGEST_SUBSET_SEED)
    labels: Literal["true", "random"] = "true"
    architecture: Architecture = "perceptron"
    depth: int = Field(2, ge=2)
    width: int = Field(128, ge=1)
    channels: int = Field(8, ge=1)
    kernel: int = Field(5, ge=1)
    stride: int = Field(2, ge=1)
    padding: int = Field(2, ge=0)
    layers: int = Field(1, ge=1)
    norm: Literal["batch", "layer"] = "layer"
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch: int = Field(64, ge=1)
    steps: int = Field(930, ge=1)
    augment: bool = False
    inits: int = Field(8, ge=2)
    first_init: int = Field(0, ge=0)
    orders: int = Field(2, ge=2)
    spawn_step: int = Field(0, ge=0)
    points: int = Field(11, ge=3)
    scored: int = Field(2000, ge=0)
    plane: int = Field(0, ge=0)
    tiles: int = Field(0, ge=0)
    match: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dataset not in DATASETS:
            raise Refusal(f"unknown data set {self.dataset!r}: {nearest(self.dataset, DATASETS)}")
        if self.points % 2 == 0:
            raise Refusal(f"points must be odd, so that the midpoint is one of them (got {self.points})")
        if self.n_train and self.batch > self.n_train:
            raise Refusal(f"batch must not exceed n_train (got {self.batch} of {self.n_train})")
        if self.match and self.architecture != "perceptron":
            raise Refusal(f"units are matched for perceptrons only (got {self.architecture})")
        if self.spawn_step >= self.steps:
            raise Refusal(f"spawn_step must lie before the last update (got {self.spawn_step} of {self.steps} steps)")
        return self

    def data_fingerprint(self) -> str:
        return images_fingerprint(self.dataset)


@experiment(version=1, tolerance=1e-4, resumable=True)
def measure_connectivity(config: ConnectivityConfig) -> Outcome:
    """Trains all copies of all initialisations in one stack and measures the loss between them.

    Row: an initialisation, means over its pairs. `barrier` and `endpoint_mean`, `midpoint` in nats on the training
    images; `error_barrier` and `test_error_barrier` as shares; `reference` the barrier to independent networks;
    `relative` their ratio; `distance` of the weights; `same_*` the negative control (first initialisation only);
    `matched_*` where units are matched, with `fixed_share` of the units that matching leaves in place.
    An initialisation that has lost a copy or both of its neighbours to divergence has None where nothing can be
    measured.
    Curve "paths": loss and errors at each alpha, by kind of pair. "plane" and "corners", "predictions" and "classes"
    where asked for.
    """
    job = Job(config, default_device())
    trained = job.train()
    pairs = job.pairs(trained)
    scored = {kind: job.score(trained, pairs[kind]) for kind in pairs}
    rows = job.rows(trained, pairs, scored)
    for row, matched in zip(rows, job.matched(trained, pairs), strict=True):
        row |= matched
    curves = {"paths": job.curves_of(pairs, scored)}
    if config.plane:
        curves |= job.plane(trained, pairs["order"])
    if config.tiles:
        curves["predictions"] = job.predictions(trained, pairs, scored)
        curves["classes"] = {"name": list(job.data.test_pixels.classes)}
    return Outcome(rows, curves)


@dataclass(frozen=True)
class Data:
    """What the networks learn and are tested on: floats [n, channels, height, width] and labels [n]."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    test_pixels: Images


def load_data(config: ConnectivityConfig, device: torch.device) -> Data:
    """The config's images on a device.

    Raises:
        Refusal: no such data, or fewer images than asked for.
    """
    train, test = (load_images(config.dataset, part) for part in ("train", "test"))
    train = stratified_subset(train, config.n_train, config.data_seed) if config.n_train else train
    test = stratified_subset(test, config.n_test, config.data_seed) if config.n_test else test
    train, small = (pooled(images, config.pooling) if config.pooling > 1 else images for images in (train, test))
    labels = train.labels
    if config.labels == "random":
        generator = torch.Generator().manual_seed(LARGEST_SUBSET_SEED + config.data_seed)
        labels = labels[torch.randperm(len(labels), generator=generator)]
    floats = (as_floats(images.pixels.to(device), train) for images in (train, small))
    return Data(next(floats), labels.to(device), next(floats), test.labels.to(device), test)


def build_model(config: ConnectivityConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A fresh network, initialised from torch's global generator."""
    if config.architecture == "perceptron":
        return Perceptron(shape, config.width, config.depth, classes)
    if config.architecture in RECEPTIVE:
        kind = "convolutional" if config.architecture == "shuffled" else config.architecture
        return ReceptiveNet(
            kind, shape, config.channels, config.kernel, config.stride, config.padding, classes, config.layers,
            shuffle=0 if config.architecture == "shuffled" else None,
        )  # fmt: skip
    if config.architecture == "resnet20":
        return ResNet20(shape[0], classes, config.width, config.norm)
    return ViT(shape, classes, width=config.width)


def recipe_of(config: ConnectivityConfig) -> MemberRecipe:
    return MemberRecipe(
        steps=config.steps, batch=config.batch, learning_rate=config.learning_rate, warmup=config.warmup,
        schedule=config.schedule, optimiser=config.optimiser, momentum=config.momentum,
        weight_decay=config.weight_decay,
    )  # fmt: skip


class Job:
    """The networks of one run. Member (init i, order o) has place i * orders + o; the last is the same-order copy."""

    def __init__(self, config: ConnectivityConfig, device: torch.device):
        self.config, self.device = config, device
        self.data = load_data(config, device)
        self.at = alphas(config.points)
        shape, classes = tuple(self.data.train.shape[1:]), len(self.data.test_pixels.classes)
        with torch.random.fork_rng(devices=[]):
            models = [self._model(seed, shape, classes) for seed in self.seeds]
        self.template = models[0].to(device)
        self.starts = stack([model.to(device) for model in models])

    def _model(self, seed: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(self.config, shape, classes)

    @property
    def seeds(self) -> range:
        """Of the initialisations."""
        return range(self.config.first_init, self.config.first_init + self.config.inits)

    def train(self) -> Trained:
        """All copies, in one stack from the moment at which their orders part."""
        config, begun = self.config, Training(self.starts)
        if config.spawn_step:
            together = self._train(begun, [self._order_seed(init, config.orders) for init in range(config.inits)])
            begun = together.saved[config.spawn_step]
        places = [(init, order) for init in range(config.inits) for order in range(config.orders)] + [(0, 0)]
        return self._train(begun.pick([init for init, _ in places]), [self._order_seed(*place) for place in places])

    def _order_seed(self, init: int, order: int) -> int:
        """Of the data order of a copy; order number `orders` belongs to the common part of a spawned run."""
        return self.seeds[init] * 100 + order

    def _train(self, begun: Training, order_seeds: list[int]) -> Trained:
        return train_members(
            self.template, begun, self.data.train, self.data.train_labels, recipe_of(self.config), order_seeds,
            save_at=[self.config.spawn_step] if begun.step < self.config.spawn_step else (),
            augment=flip_and_shift if self.config.augment else None, report=self.report,
        )  # fmt: skip

    def report(self) -> None:
        """Called before every update; a live job tells how far it is."""

    def pairs(self, trained: Trained) -> dict[Kind, list[tuple[int, int, int]]]:
        """(init, member, member) of each pair whose networks have both found a solution."""
        config, found = self.config, (~trained.diverged).tolist()
        order = [
            (init, init * config.orders + a, init * config.orders + b)
            for init in range(config.inits) for a, b in combinations(range(config.orders), 2)
        ]  # fmt: skip
        # each with the next one in a ring, so that each is compared with two others
        ring = [(init, (init + 1) % config.inits) for init in range(config.inits if config.inits > 2 else 1)]
        independent = [(a, a * config.orders, b * config.orders) for a, b in ring]
        same = [(0, 0, config.inits * config.orders)]
        kinds = {"order": order, "independent": independent, "same": same}
        return {kind: [p for p in pairs if found[p[1]] and found[p[2]]] for kind, pairs in kinds.items()}

    def score(self, trained: Trained, pairs: list[tuple[int, int, int]]) -> dict[str, Scores] | None:
        """Scores [pairs, alphas] on the training and on the test images; None without any pair."""
        if not pairs:
            return None
        starts, ends = (_pick(trained.state, [pair[side] for pair in pairs]) for side in (1, 2))
        return {
            part: paths(self.template, starts, ends, self.at, images, labels, self.calibration)
            for part, (images, labels) in self.parts().items()
        }

    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The images and labels on which networks are scored."""
        scored = slice(self.config.scored or None)
        return {
            "train": (self.data.train[scored], self.data.train_labels[scored]),
            "test": (self.data.test, self.data.test_labels),
        }

    @property
    def calibration(self) -> Tensor:
        """Training images for the statistics of batch norm."""
        return self.parts()["train"][0]

    def rows(self, trained: Trained, pairs: dict, scored: dict) -> list[dict]:
        """A row an initialisation."""
        measured = {kind: self._measured(trained, pairs[kind], scored[kind]) for kind in pairs}
        ends = {part: score_members(self.template, trained.state, *self.parts()[part], self.calibration)
                for part in ("train", "test")}  # fmt: skip
        rows = []
        for init, seed in enumerate(self.seeds):
            copies = range(init * self.config.orders, (init + 1) * self.config.orders)
            kept = [copy for copy in copies if not trained.diverged[copy]]
            own = [line for line in measured["order"] if line["init"] == init]
            near = [
                line["barrier"] for line, pair in zip(measured["independent"], pairs["independent"], strict=True)
                if init in (pair[1] // self.config.orders, pair[2] // self.config.orders)
            ]  # fmt: skip
            same = measured["same"][0] if init == 0 and measured["same"] else {}
            row = {"seed": seed, "diverged": len(copies) - len(kept)}
            row |= {"train_loss": _mean(ends["train"].loss[kept]), "train_error": _mean(ends["train"].error[kept]),
                    "test_error": _mean(ends["test"].error[kept])}  # fmt: skip
            row |= {name: _mean([line[name] for line in own]) for name in MEASURES}
            row["reference"] = _mean(near)
            usable = row["barrier"] is not None and row["reference"]
            row["relative"] = row["barrier"] / row["reference"] if usable else None
            row |= {"same_distance": same.get("distance"), "same_barrier": same.get("barrier")}
            rows.append(row)
        return rows

    def _measured(self, trained: Trained, pairs: list[tuple[int, int, int]], scored: dict | None) -> list[dict]:
        """A line a pair, with the columns MEASURES."""
        if scored is None:
            return []
        train, test = scored["train"], scored["test"]
        columns = {
            "barrier": barrier(train.loss, self.at),
            "endpoint_mean": endpoint_mean_barrier(train.loss, self.at),
            "midpoint": midpoint_excess(train.loss, self.at),
            "error_barrier": barrier(train.error, self.at),
            "test_error_barrier": barrier(test.error, self.at),
            "distance": _distance(trained.state, pairs),
        }
        return [
            {"init": pair[0]} | {name: values[line].item() for name, values in columns.items()}
            for line, pair in enumerate(pairs)
        ]

    def matched(self, trained: Trained, pairs: dict) -> list[dict]:
        """For each initialisation the barriers after matching, and how many units stay in place; None elsewhere."""
        names = {"order": ("matched_barrier", "fixed_share"), "independent": ("matched_reference", "moved_fixed_share")}
        rows: list[dict] = [dict.fromkeys(sum(names.values(), ())) for _ in self.seeds]
        for kind, (height, share) in names.items() if self.config.match else ():
            lines: dict[int, list[tuple[float, float]]] = {}
            for init, a, b in pairs[kind]:
                first, second = unstack(trained.state, a), unstack(trained.state, b)
                orders = match_weights(first, second)
                ends = (_alone(state) for state in (first, permute(second, orders)))
                found = paths(self.template, *ends, self.at, *self.parts()["train"])
                lines.setdefault(init, []).append((barrier(found.loss, self.at).item(), fixed_share(orders)))
            for init, values in lines.items():
                rows[init] |= {height: _mean([v for v, _ in values]), share: _mean([v for _, v in values])}
        return rows

    def curves_of(self, pairs: dict, scored: dict) -> dict[str, list]:
        """Loss and errors along the paths, mean over the pairs of each initialisation, in long form."""
        lines = []
        for kind, found in scored.items():
            owners = [pair[0] for pair in pairs[kind]]
            for init in sorted(set(owners)):
                own = [line for line, owner in enumerate(owners) if owner == init]
                columns = (found["train"].loss, found["train"].error, found["test"].error)
                means = [column[own].mean(dim=0).tolist() for column in columns]
                for point, alpha in enumerate(self.at.tolist()):
                    lines.append((kind, self.seeds[init], alpha, *(mean[point] for mean in means)))
        return _columns(("kind", "seed", "alpha", "loss", "error", "test_error"), lines)

    def plane(self, trained: Trained, pairs: list[tuple[int, int, int]]) -> dict[str, dict[str, list]]:
        """The training loss in the plane through the first pair and its initialisation; empty without a pair."""
        if not pairs:
            return {}
        init, a, b = pairs[0]
        three = {name: torch.stack([trained.state[name][a], trained.state[name][b], self.starts[name][init]])
                 for name in self.starts}  # fmt: skip
        images, labels = self.parts()["train"]
        found = loss_plane(self.template, three, images, labels, self.config.plane, calibration=self.calibration)
        x, y, loss = found.x.tolist(), found.y.tolist(), found.loss.tolist()
        lines = [(x[column], y[row], loss[row][column]) for row in range(len(y)) for column in range(len(x))]
        corners = zip(("first", "second", "initialisation"), *found.corners.T.tolist(), strict=True)
        return {"plane": _columns(("x", "y", "loss"), lines), "corners": _columns(("name", "x", "y"), corners)}

    def predictions(self, trained: Trained, pairs: dict, scored: dict) -> dict[str, list]:
        """The first path of each kind: its scores, the share of test images that are said to be something else than
        at its start, and what is said of a few of them: class numbers, as one text."""
        lines = []
        rows = tile_rows(self.data.test_labels, self.config.tiles)
        truth = self.data.test_labels[rows].tolist()
        for kind, found in pairs.items():
            if not found:
                continue
            starts, ends = (_pick(trained.state, [found[0][side]]) for side in (1, 2))
            logits = path_logits(self.template, starts, ends, self.at, self.data.test, self.calibration)[0]
            said = logits.argmax(dim=-1)  # [alphas, test images]
            train, test = scored[kind]["train"], scored[kind]["test"]
            scores = (train.loss[0].tolist(), train.error[0].tolist(), test.error[0].tolist())
            for point, alpha in enumerate(self.at.tolist()):
                changed = (said[point] != said[0]).float().mean().item()
                told = (_text(said[point, rows].tolist()), _text(truth))
                lines.append((kind, alpha, *(score[point] for score in scores), changed, *told))
        return _columns(("kind", "alpha", "loss", "error", "test_error", "changed", "said", "truth"), lines)


MEASURES = ("barrier", "endpoint_mean", "midpoint", "error_barrier", "test_error_barrier", "distance")


def _pick(state: State, members: list[int]) -> State:
    return {name: value[members] for name, value in state.items()}


def _alone(state: State) -> State:
    """One network as a stack of one."""
    return {name: value[None] for name, value in state.items()}


def _distance(state: State, pairs: list[tuple[int, int, int]]) -> Tensor:
    """[pairs] Euclidean distance of all weights."""
    firsts, seconds = ([pair[side] for pair in pairs] for side in (1, 2))
    moved = [value[firsts] - value[seconds] for value in state.values() if value.is_floating_point()]
    return sum(part.flatten(1).double().square().sum(dim=1) for part in moved).sqrt()


def _mean(values: Tensor | list[float]) -> float | None:
    """None for nothing: a record holds no NaN."""
    return float(torch.as_tensor(values, dtype=torch.float64).mean()) if len(values) else None


def _columns(names: tuple[str, ...], lines) -> dict[str, list]:
    lines = list(lines)
    return {name: [line[place] for line in lines] for place, name in enumerate(names)}


def _text(classes: list[int]) -> str:
    return " ".join(str(number) for number in classes)
