"""One run of the chapter: a student learns to say what a frozen random teacher says, and both are probed.

Teacher and student have one architecture, an encoder g and a projection head h. The teacher is frozen at its random
start theta_T. The student starts at

    theta_S(alpha) = [(1 - alpha) theta_T + alpha theta~] / sqrt(alpha^2 + (1 - alpha)^2),

with theta~ another random start (Sarnthein et al., 2023, section 3; alpha is the locality), and learns by soft
cross-entropy on images without labels and without augmentation. Then h is thrown away, and the embeddings of both
encoders are probed with labels. The unit of repetition is the seed: theta_T, theta~ and the order of the images follow
from it, in every arm alike, so arms are compared seed by seed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.images import (
    DATASETS,
    Images,
    as_floats,
    framed,
    images_fingerprint,
    load_images,
    stratified_subset,
    tile_rows,
)
from ntf_utils.measures.probing import (
    PENALTIES,
    adamw_probe,
    check_features,
    converged_probe,
    knn_accuracy,
    knn_predict,
)
from ntf_utils.models.encoders import EncoderName, build_encoder
from ntf_utils.models.projection import ProjectionHead, check_head
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.checkpoint import Checkpoints, match_layout
from ntf_utils.training.device import default_device
from ntf_utils.training.members import BatchOrder, deterministic, generator

PROBES = ("converged", "adamw", "knn", "cosine")  # see ntf_utils/measures/probing.py
Probe = Literal["converged", "adamw", "knn", "cosine"]
State = dict[str, Tensor]

LARGEST_SEED = 2**20
AT_ONCE = {"cpu": 128, "cuda": 2000}  # images embedded at a time: on a CPU few enough to stay in its cache
LAYOUT = torch.channels_last  # convolutions of few channels are a sixth faster in it
SCORED = 1000  # images on which distillation losses between networks are taken
BANK, ASKED = 2000, 1000  # training and test images of the k-NN probe at points between networks
NOISE, SHUFFLED = -1, -2  # moments of a seed's generator; the order of the images has 0, 1, ...


class DistilConfig(Config):
    """One student.

    Attributes:
        dataset, n_train: images that the student sees, and how many; 0 takes all. data_seed: of the subsets.
        inputs: "noise" shows it as many draws from N(0, 1), pixel by pixel, in the place of images.
        probe_on: data sets whose images both encoders are probed on, `dataset` itself where it is empty.
        n_probe, n_test: training and test images of a probe; 0 takes all.
        probe_updates: of the AdamW probe; 1950 are the paper's 10 epochs.
        encoder, width: see `build_encoder`. hidden, bottleneck, outputs, feature_norm, weight_norm: the head's.
        locality: alpha, from 0 (start at the teacher) to 1 (start independently of it).
        optimiser is AdamW without weight decay, at a constant `learning_rate`.
        precision: "bf16" runs encoder and hidden layers under autocast; bottleneck, logits and loss stay in fp32.
        looks: times at which the student is probed, evenly spread to its end; with more than one also at its start.
            That of a second round is probed at its end.
        rounds: 2 lets the student teach a student of its own.
        line: points between and around teacher and student at which both losses and probes are taken; 0 for none.
        tiles: test images of each class whose label, as voted by the nearest training images, is kept.
    """

    dataset: str = "cifar10"
    n_train: int = Field(5000, ge=0)
    inputs: Literal["images", "noise"] = "images"
    probe_on: tuple[str, ...] = ()
    n_probe: int = Field(5000, ge=0)
    n_test: int = Field(2000, ge=0)
    data_seed: int = Field(0, ge=0, lt=LARGEST_SEED)
    probe_updates: int = Field(1950, ge=1)
    neighbours: int = Field(20, ge=1)
    encoder: EncoderName = "vgg11"
    width: int = Field(16, ge=1)
    hidden: int = Field(512, ge=1)
    bottleneck: int = Field(64, ge=1)
    outputs: int = Field(1024, ge=2)
    feature_norm: bool = True
    weight_norm: bool = True
    locality: float = Field(0.1, ge=0, le=1)
    steps: int = Field(900, ge=1)
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0, lt=LARGEST_SEED)
    looks: int = Field(1, ge=1)
    rounds: int = Field(1, ge=1, le=2)
    line: int = Field(0, ge=0)
    tiles: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in (self.dataset, *self.probe_on):
            if name not in DATASETS:
                raise Refusal(f"unknown data set {name!r}: {nearest(name, DATASETS)}")
        check_head(self.hidden, self.bottleneck)
        if self.n_train and self.batch > self.n_train:
            raise Refusal(f"batch must not exceed n_train (got {self.batch} of {self.n_train})")
        if self.n_probe and self.neighbours > self.n_probe:
            raise Refusal(f"{self.neighbours} neighbours need a bank of as many images (n_probe is {self.n_probe})")
        if self.precision == "bf16" and 0 < self.locality < 0.01:
            raise Refusal(f"a locality of {self.locality:g} is lost in bf16: use precision fp32, or 0.01 and more")
        return self

    @property
    def probed(self) -> tuple[str, ...]:
        """The data sets of the probes."""
        return tuple(dict.fromkeys(self.probe_on)) or (self.dataset,)

    def data_fingerprint(self) -> str:
        return "; ".join(images_fingerprint(name) for name in dict.fromkeys((self.dataset, *self.probed)))


@experiment(version=1, tolerance=1e-3, resumable=True)
def distil_student(config: DistilConfig) -> Outcome:
    """Trains one student (two with `rounds`) and probes it beside its teacher.

    Row: `<probe>_teacher` and `<probe>_student` are test accuracies on the first of the probed data sets, at the end
    of training; `kl` the last distillation loss above the teacher's own entropy, in nats; `scale_*` the spread of
    embeddings; `moved` the distance of the student's encoder from its start, in units of the teacher's norm; the same
    with `restart_` for a second round.
    Curves: "learning" (round, step, kl, and each probe), "probes" (who, on which data set, probe, accuracy); "line",
    "votes" and "classes" where asked for.
    """
    job = Job(config, default_device())
    teacher = job.teacher()
    known = job.probe(teacher, config.probed[0])
    looks, row, curves = [], {}, {}
    for turn in range(1, config.rounds + 1):
        student = job.student(teacher, turn)
        lessons = job.distil(teacher, student, turn)
        looks += [{"round": turn} | look for look in lessons]
        last = {name: lessons[-1][name] for name in PROBES}
        row |= job.compared(teacher, student, known, lessons[-1], "" if turn == 1 else "restart_")
        if turn == 1:
            curves = job.curves(teacher, student, known, last)
        teacher, known = frozen(student), last
    return Outcome([row], {"learning": columns(looks)} | curves)


class PixelConfig(Config):
    """The probes on raw pixels: what the features of a student must beat. Attributes as in `DistilConfig`."""

    dataset: str = "cifar10"
    n_probe: int = Field(5000, ge=0)
    n_test: int = Field(2000, ge=0)
    data_seed: int = Field(0, ge=0, lt=LARGEST_SEED)
    probe_updates: int = Field(1950, ge=1)
    neighbours: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dataset not in DATASETS:
            raise Refusal(f"unknown data set {self.dataset!r}: {nearest(self.dataset, DATASETS)}")
        return self

    def data_fingerprint(self) -> str:
        return images_fingerprint(self.dataset)


@experiment(version=1, tolerance=1e-3)
def probe_pixels(config: PixelConfig) -> Outcome:
    """Row: test accuracy of each probe on the pixels themselves; `shuffled`, that of the converged probe when the
    training labels are shuffled: the control that must stay at chance."""
    data = load_probe_data(config.dataset, config, default_device())
    train, test = data.train.flatten(1), data.test.flatten(1)
    found = probed(train, test, data, config)
    order = torch.randperm(len(train), generator=generator(config.data_seed, SHUFFLED)).to(train.device)
    lost = converged_probe(train, data.train_labels[order], data.classes, [max(PENALTIES)])
    found |= {"shuffled": lost.accuracy(test, data.test_labels), "chance": 1 / data.classes}
    return Outcome([found])


@dataclass(frozen=True)
class ProbeData:
    """Images [n, channels, height, width] as floats and labels [n] of a probe."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: int


def load_probe_data(
    dataset: str, config: DistilConfig | PixelConfig, device: torch.device, shape: tuple[int, int, int] | None = None
) -> ProbeData:
    """Probe images on a device, each set standardised by itself; `shape` is what an encoder wants to see.

    Raises:
        Refusal: no such data, or fewer images than asked for.
    """
    train, test = load_images(dataset, "train"), load_images(dataset, "test")
    train = stratified_subset(train, config.n_probe, config.data_seed) if config.n_probe else train
    test = stratified_subset(test, config.n_test, config.data_seed) if config.n_test else test
    if shape:
        train, test = fitted(train, shape), fitted(test, shape)
    floats = [as_floats(images.pixels.to(device), train) for images in (train, test)]
    floats = [images.contiguous(memory_format=LAYOUT) for images in floats]
    return ProbeData(floats[0], train.labels.to(device), floats[1], test.labels.to(device), len(train.classes))


def common_shape(*shapes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels, height and width of a square that holds images of all these shapes: what an encoder sees."""
    side = max(size for shape in shapes for size in shape[1:])
    return (max(shape[0] for shape in shapes), side, side)


def fitted(images: Images, shape: tuple[int, int, int]) -> Images:
    """Images in the shape that an encoder sees: smaller ones are framed in black, grey ones get its channels."""
    return images if images.shape == shape else framed(images, max(shape[1:]), shape[0])


def probed(train: Tensor, test: Tensor, data: ProbeData, config: DistilConfig | PixelConfig) -> dict[str, float]:
    """Test accuracy of each probe on features [n, d]; what is chosen, is chosen on the training features."""
    for features, part in ((train, "training"), (test, "test")):
        check_features(features, what=f"the {part} features")
    linear = {
        "converged": converged_probe(train, data.train_labels, data.classes),
        "adamw": adamw_probe(train, data.train_labels, data.classes, config.probe_updates),
    }
    voted = {"knn": "euclidean", "cosine": "cosine"}
    bank = (train, data.train_labels, test, data.test_labels)
    return {name: probe.accuracy(test, data.test_labels) for name, probe in linear.items()} | {
        name: knn_accuracy(*bank, config.neighbours, metric) for name, metric in voted.items()
    }


class Network(nn.Module):
    """Encoder and head: images -> bottleneck features (`squeeze`) -> logits."""

    def __init__(self, encoder: nn.Module, head: ProjectionHead):
        super().__init__()
        self.encoder, self.head = encoder, head

    def squeeze(self, images: Tensor) -> Tensor:
        return self.head.squeeze(self.encoder(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.head.expand(self.squeeze(images))


def near(teacher: State, other: State, locality: float) -> State:
    """theta_S(alpha): parameters between the teacher's and another start's, of their length.

    Both starts are independent with mean 0, so a plain mean would be shorter than either. Buffers are the teacher's.
    """
    alpha = torch.tensor(locality, dtype=torch.float64)
    length = (alpha**2 + (1 - alpha) ** 2).sqrt()
    kept, added = float((1 - alpha) / length), float(alpha / length)
    return {name: kept * value + added * other[name] for name, value in teacher.items()}


def distillation_loss(said: Tensor, taught: Tensor) -> Tensor:
    """Soft cross-entropy of the student's logits to the teacher's, [n, outputs] both, both temperatures 1; in nats.

    In fp32: above the teacher's entropy it is of the order of 1e-5, less than bf16 can tell apart.
    """
    return -(taught.float().softmax(dim=1) * said.float().log_softmax(dim=1)).sum(dim=1).mean()


def frozen(network: Network) -> Network:
    """A copy that never learns and is in evaluation mode: batch norm keeps the statistics that it has."""
    return copy.deepcopy(network).requires_grad_(False).eval()


class Job:
    """The networks and data of one run."""

    def __init__(self, config: DistilConfig, device: torch.device):
        self.config, self.device = config, device
        images = load_images(config.dataset, "train")
        images = stratified_subset(images, config.n_train, config.data_seed) if config.n_train else images
        self.shape = common_shape(images.shape, *(load_images(name, "test").shape for name in config.probed))
        images = fitted(images, self.shape)
        self.classes = load_images(config.probed[0], "test").classes
        self.images = as_floats(images.pixels.to(device), images)
        if config.inputs == "noise":
            drawn = torch.randn(self.images.shape, generator=generator(config.seed, NOISE))
            self.images = drawn.to(device)
        self.images = self.images.contiguous(memory_format=LAYOUT)
        self.probe_data = {name: load_probe_data(name, config, device, self.shape) for name in config.probed}

    def report(self, step: int) -> None:
        """Called before every update; a live job tells how far it is."""

    def fresh(self, seed: int) -> Network:
        """A network at a random start."""
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(config.encoder, self.shape[0], config.width)
            head = ProjectionHead(
                encoder.outputs, config.hidden, config.bottleneck, config.outputs,
                config.feature_norm, config.weight_norm,
            )  # fmt: skip
        return Network(encoder, head).to(self.device, memory_format=LAYOUT)

    def teacher(self) -> Network:
        """theta_T, frozen. Batch norm keeps the statistics 0 and 1 of its start: it does nothing."""
        return frozen(self.fresh(self.config.seed))

    def student(self, teacher: Network, turn: int = 1) -> Network:
        """theta_S(alpha), in training mode."""
        student = copy.deepcopy(teacher).requires_grad_(True)
        other = self.fresh(turn * LARGEST_SEED + self.config.seed)
        start = near(dict(teacher.named_parameters()), dict(other.named_parameters()), self.config.locality)
        student.load_state_dict(start, strict=False)
        return student.train()

    def distil(self, teacher: Network, student: Network, turn: int = 1) -> list[dict[str, float]]:
        """Trains the student in place; what it scored at each look.

        Nothing is augmented, so the teacher's bottleneck features are computed once and kept.
        """
        config = self.config
        taught = self.in_batches(teacher.squeeze, self.images)
        count = config.looks if turn == 1 else 1
        when = {round(config.steps * look / count) for look in range(1, count + 1)}
        optimiser = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
        order = BatchOrder(len(self.images), config.batch, [config.seed])
        looks: dict[str, list] = {name: [] for name in ("step", "kl", *PROBES)}
        checkpoints = Checkpoints({"student": student, "optimiser": optimiser, "looks": looks})
        with deterministic():
            done = checkpoints.resume()
            match_layout(optimiser)
            if not done and count > 1:
                self._look(looks, student, 0, self._kl(teacher, student))
            for step in range(done, config.steps):
                self.report(step)
                rows = order.rows(step)[0].to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    squeezed = student.squeeze(self.images[rows])
                logits = teacher.head.expand(taught[rows])
                loss = distillation_loss(student.head.expand(squeezed), logits)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                if step + 1 in when:
                    self._look(looks, student, step + 1, (loss - distillation_loss(logits, logits)).item())
                checkpoints.after(step + 1)
            checkpoints.end(config.steps)
        names = list(looks)
        return [dict(zip(names, values, strict=True)) for values in zip(*looks.values(), strict=True)]

    def _kl(self, teacher: Network, other: Network) -> float:
        """The distillation loss above the teacher's entropy, on the first images that the student learns from."""
        taught, said = (self.in_batches(network, self.images[:SCORED]) for network in (teacher, other))
        return (distillation_loss(said, taught) - distillation_loss(taught, taught)).item()

    def _look(self, looks: dict[str, list], student: Network, step: int, kl: float) -> None:
        found = {"step": step, "kl": kl} | self.probe(student, self.config.probed[0])
        for name, value in found.items():
            looks[name].append(value)

    def in_batches(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """[n, ...] what a function says of all images, without gradients."""
        with torch.no_grad():
            return torch.cat([function(some) for some in images.split(AT_ONCE[images.device.type])])

    def embed(self, network: Network, images: Tensor) -> Tensor:
        """[n, d] embeddings in evaluation mode, in fp32."""
        training = network.training
        network.eval()
        try:
            return self.in_batches(network.encoder, images).float()
        finally:
            network.train(training)

    def probe(self, network: Network, dataset: str) -> dict[str, float]:
        """Test accuracy of each probe on an encoder's embeddings."""
        data = self.probe_data[dataset]
        with deterministic():
            return probed(self.embed(network, data.train), self.embed(network, data.test), data, self.config)

    def compared(
        self, teacher: Network, student: Network, known: dict[str, float], last: dict[str, float], prefix: str
    ) -> dict[str, float]:
        """The row's numbers of one round: the teacher's probes, the student's last look, and how far it went."""
        row = {f"{name}_teacher": known[name] for name in PROBES} | {f"{name}_student": last[name] for name in PROBES}
        row |= {"kl": last["kl"]}
        for who, network in (("teacher", teacher), ("student", student)):
            row[f"scale_{who}"] = self.embed(network, self.probe_data[self.config.probed[0]].test).std().item()
        before, after = (list(network.encoder.parameters()) for network in (teacher, student))
        far = sum((a - b).detach().square().sum() for a, b in zip(after, before, strict=True))
        row["moved"] = (far / sum(b.square().sum() for b in before)).sqrt().item()
        return {prefix + name: value for name, value in row.items()}

    def curves(
        self, teacher: Network, student: Network, known: dict[str, float], last: dict[str, float]
    ) -> dict[str, dict]:
        """What is kept of a student beside its row: other data sets, the line to its teacher, votes for tiles."""
        first, *others = self.config.probed
        networks = {"teacher": teacher, "student": student}
        scores = [("teacher", first, known), ("student", first, last)]
        scores += [(who, name, self.probe(network, name)) for name in others for who, network in networks.items()]
        kept = {"probes": columns([
            {"who": who, "on": on, "probe": name, "accuracy": found[name]}
            for who, on, found in scores for name in PROBES
        ])}  # fmt: skip
        if self.config.line:
            kept["line"] = columns(self.line(teacher, student))
        if self.config.tiles:
            kept |= {"votes": columns(self.votes(networks)), "classes": {"name": list(self.classes)}}
        return kept

    def votes(self, networks: dict[str, Network]) -> list[dict[str, str]]:
        """What the nearest training images call the first `tiles` test images of each class, as text."""
        data = self.probe_data[self.config.probed[0]]
        shown = tile_rows(data.test_labels, self.config.tiles)
        found = []
        for who, network in networks.items():
            bank, queries = self.embed(network, data.train), self.embed(network, data.test[shown])
            said = knn_predict(bank, data.train_labels, queries, self.config.neighbours)
            found.append({"who": who, "truth": _spaced(data.test_labels[shown]), "said": _spaced(said)})
        return found

    def line(self, teacher: Network, student: Network) -> list[dict[str, float]]:
        """The distillation loss and the probe along theta_T + t (theta*_S - theta_T), t from -0.2 to 1.2.

        `kl` is the loss above the teacher's entropy, on the first images that the student has learned from.
        """
        ends = [dict(network.named_parameters()) for network in (teacher, student)]
        return [
            {"t": t} | self.at(teacher, mixture(ends, [1 - t, t]))
            for t in torch.linspace(-0.2, 1.2, self.config.line, dtype=torch.float64).tolist()
        ]  # fmt: skip

    def at(self, teacher: Network, state: State) -> dict[str, float]:
        """Distillation loss and nearest-neighbour accuracy of a network with these parameters."""
        if any(isinstance(module, nn.BatchNorm2d) for module in teacher.modules()):
            raise Refusal("losses between networks are taken for encoders without batch norm: choose a vgg")
        network = copy.deepcopy(teacher)
        network.load_state_dict(state, strict=False)
        data = self.probe_data[self.config.probed[0]]
        bank, queries = self.embed(network, data.train[:BANK]), self.embed(network, data.test[:ASKED])
        knn = knn_accuracy(bank, data.train_labels[:BANK], queries, data.test_labels[:ASKED], self.config.neighbours)
        return {"kl": self._kl(teacher, network), "knn": knn}


def mixture(states: list[State], weights: list[float]) -> State:
    """The weighted sum of some networks' parameters."""
    return {
        name: sum(weight * state[name].detach() for weight, state in zip(weights, states, strict=True))
        for name in states[0]
    }


def columns(rows: list[dict]) -> dict[str, list]:
    """Rows as a curve of an `Outcome`."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _spaced(labels: Tensor) -> str:
    return " ".join(map(str, labels.tolist()))
