"""One run of the chapter: a network memorises random labels on images, and its layers are probed with true ones.

An encoder and a projector (two linear layers with a ReLU between, no bias) are trained on a mean squared error to
one-hot labels that were drawn once, whatever the images show. All views of an image carry the image's label, or, with
`own_labels`, one of its own (Anagnostidis et al., 2023, [repo: main.py, models, transformations]). Then the encoder is
read by nearest neighbours with true labels. The seed draws the images, their labels, the views and the start, in every
arm alike, so arms are compared seed by seed; the bank and the test images of the probe are the same for all.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.data.images import (
    DATASETS,
    Images,
    images_fingerprint,
    load_images,
    pooled,
    stratified_subset,
    tile_rows,
)
from ntf_utils.measures.invariance import bias_and_spread, invariance_index
from ntf_utils.measures.probing import knn_accuracy, knn_predict, neighbours
from ntf_utils.models.encoders import build_encoder, check_side
from ntf_utils.models.projection import Projector
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.checkpoint import Checkpoints, match_layout
from ntf_utils.training.device import default_device
from ntf_utils.training.members import BatchOrder, deterministic, generator
from ntf_utils.training.views import apply_views, draw_views

LARGEST_SEED = 2**20
LAYOUT = torch.channels_last
AT_ONCE = {"cpu": 256, "cuda": 4000}  # images embedded at a time
READ_VIEWS = 4  # views of each training image that memorisation of ever new views is read from
SHOWN = 5  # nearest images that the explorer shows
COMPARED, COMPARED_VIEWS = 500, 4  # test images, and views of each, of the invariance index
# moments of a seed's generator; the order of the images has 0, 1, ..., and a step's views STEP + step
LABELS, VIEWS, READ, CHOICE, STEP = -1, -2, -3, 2**24, 2**25
SHUFFLE, PROBED = -1, -2  # moments of the data's
APART = 2**20  # between the moments of two views, and of what else is drawn at negative moments

Source = Literal["augmented", "same_class"]
Encoder = Literal["resnet8", "resnet8_medium", "resnet18", "resnet18_medium", "resnet34"]  # those read by layer


class MemorizeConfig(Config):
    """One network.

    Attributes:
        dataset; pool: every block of so many pixels a side is replaced by its mean.
        n_train: images that are memorised. n_bank, n_test: of the probe; n_test 0 takes all. data_seed: of bank and
            test images. The images to memorise are drawn by `seed` from those outside the bank.
        encoder, width: see `build_encoder`. hidden: width of the projector; 65,536 in the authors' command.
        strength: of the augmentation, from 0 (none) to 1 (the authors' set).
        views: frozen views of an image, drawn once; 0 draws new ones at every step.
        own_labels: every frozen view has a label of its own, in the place of its image's.
        source: "same_class" takes other images of the image's class as its frozen views, each image its own ones.
        noise: share of the images whose label is random; the others have their true one.
        mixup: share of the batches in which inputs are mixed and labels are not (what the authors' code does).
        optimiser is Adam at a constant `learning_rate`. precision: "bf16" runs the encoder under autocast.
        looks: times at which the network is read on its way, evenly spread, and before.
        by_layer: probe every layer before and after.
        shown: training images of each class whose nearest others are kept, layer by layer.
    """

    dataset: str = "cifar10"
    pool: int = Field(2, ge=1)
    n_train: int = Field(256, ge=2)
    n_bank: int = Field(2000, ge=1)
    n_test: int = Field(2000, ge=0)
    data_seed: int = Field(0, ge=0, lt=LARGEST_SEED)
    neighbours: int = Field(20, ge=1)
    encoder: Encoder = "resnet8"
    width: int = Field(16, ge=1)
    hidden: int = Field(1024, ge=1)
    strength: float = Field(0.4, ge=0, le=1)
    views: int = Field(0, ge=0)
    own_labels: bool = False
    source: Source = "augmented"
    noise: float = Field(1.0, ge=0, le=1)
    mixup: float = Field(0.0, ge=0, le=1)
    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=2)
    learning_rate: float = Field(3e-3, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0, lt=LARGEST_SEED)
    looks: int = Field(4, ge=1)
    by_layer: bool = False
    shown: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.dataset not in DATASETS:
            raise Refusal(f"unknown data set {self.dataset!r}: {nearest(self.dataset, DATASETS)}")
        if self.batch > self.n_train:
            raise Refusal(f"batch must not exceed n_train (got {self.batch} of {self.n_train})")
        if self.neighbours > self.n_bank:
            raise Refusal(f"{self.neighbours} neighbours need a bank of as many images (n_bank is {self.n_bank})")
        if not self.views and (self.own_labels or self.source == "same_class"):
            raise Refusal("labels of its own, or other images, can only be had for frozen views: give views from 1")
        if self.own_labels and self.noise < 1:
            raise Refusal("views with labels of their own are all random: noise must be 1")
        return self

    def data_fingerprint(self) -> str:
        return images_fingerprint(self.dataset)


@experiment(version=1, tolerance=1e-3, resumable=True)
def memorize_labels(config: MemorizeConfig) -> Outcome:
    """Trains one network on random labels and reads it.

    Row: `memorised`, share of the training views whose label is said; `knn_start`, `knn`, test accuracy of the probe
    on the embedding before and after; `knn_shuffled`, the same with the bank's labels shuffled; `head`, test accuracy
    of the network's own answer; `invariance_start`, `invariance`; `bias`, `spread` of the loss; `parameters`;
    `labels`, how many were to be memorised.
    Curves: "learning" (step, memorised, knn, invariance, bias, spread); "layers" (when, layer, true, random) and
    "shown" where asked for.
    """
    job = Job(config, default_device())
    network = job.fresh()
    start = job.look(network, 0)
    layers, shown = job.layers(network, "start"), job.shown(network, "start")
    looks = job.train(network, [start])
    layers, shown = layers + job.layers(network, "end"), shown + job.shown(network, "end")
    end = looks[-1]
    row = {
        "memorised": end["memorised"], "knn_start": start["knn"], "knn": end["knn"],
        "invariance_start": start["invariance"], "invariance": end["invariance"],
        "bias": end["bias"], "spread": end["spread"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "labels": job.memory_items, "classes": job.classes,
    } | job.at_the_end(network)  # fmt: skip
    curves = {"learning": columns(looks)}
    if layers:
        curves["layers"] = columns(layers)
    if shown:
        curves["shown"] = columns(shown)
    return Outcome([row], curves)


class Network(nn.Module):
    """Encoder and projector: images [n, channels, side, side] -> logits [n, classes]."""

    def __init__(self, encoder: nn.Module, projector: Projector):
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.encoder(images))

    def by_layer(self, images: Tensor) -> dict[str, Tensor]:
        """Features [n, d] of every layer, in order; the encoder's last is the embedding."""
        found = self.encoder.by_layer(images)
        hidden = self.projector.first(next(reversed(found.values())))
        return found | {"hidden": hidden, "ReLU": hidden.relu(), "logits": self.projector.last(hidden.relu())}


@dataclass(frozen=True)
class Shown:
    """Training views [v, n, channels, side, side] as uint8, and what each is to be called, [v, n]."""

    pixels: Tensor
    labels: Tensor


def drawn_labels(true: Tensor, classes: int, noise: float, seed: int, views: int = 1) -> Tensor:
    """[views, n] labels, drawn uniformly, so that one in `classes` is right by chance.

    Args:
        true: [n]. noise: with less than 1, int((1 - noise) n) random images get their true label back, in every view.
        views: labels for each image; the first row is the same whatever their number.
    """
    source = generator(seed, LABELS)
    labels = torch.randint(classes, (views, len(true)), generator=source)
    kept = torch.randperm(len(true), generator=generator(seed, CHOICE))[: int((1 - noise) * len(true))]
    labels[:, kept] = true[kept]
    return labels


def label_loss(said: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of logits [n, classes] to one-hot labels [n], mean over images and classes, in fp32."""
    return F.mse_loss(said.float(), F.one_hot(labels, said.shape[1]).float())


def mixed(images: Tensor, source: torch.Generator) -> Tensor:
    """lambda x + (1 - lambda) x_other for one lambda ~ U(0, 1) a batch.

    The published code mixes the images and keeps the first one's label whole, so this is noise on the inputs.
    """
    share = torch.rand((), generator=source).to(images.device)
    other = torch.randperm(len(images), generator=source).to(images.device)
    return share * images + (1 - share) * images[other]


def memory_of(device: torch.device) -> int:
    """Bytes of memory: what is free of a GPU's, and all of this machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(n: int, views: int, shape: tuple[int, int, int], available: int) -> None:
    """Raises Refusal where frozen views would take more than half of the bytes available; before anything is
    allocated."""
    wanted = n * views * shape[0] * shape[1] * shape[2]
    if 2 * wanted > available:
        raise Refusal(
            f"{views:,} views of {n:,} images take {wanted / 2**30:,.1f} GiB, and half of the memory is "
            f"{available / 2**31:,.1f} GiB: ask for fewer views or images, or for ever new ones (views 0)"
        )


class Job:
    """Network and data of one run."""

    def __init__(self, config: MemorizeConfig, device: torch.device):
        self.config, self.device = config, device
        train, test = (pooled(load_images(config.dataset, part), config.pool) for part in ("train", "test"))
        self.shape = train.shape
        if self.shape[1] != self.shape[2]:
            raise Refusal(f"views are drawn of square images (got {self.shape[1]} x {self.shape[2]})")
        check_side(config.encoder, self.shape[1])
        check_memory(config.n_train, config.views, self.shape, memory_of(device))
        self.classes = len(train.classes)
        self.bank, rest = split(train, config.n_bank, config.data_seed)
        if config.n_train > len(rest):
            left = f"{len(rest):,} outside the bank"
            raise Refusal(f"{config.n_train:,} images to memorise cannot be drawn from the {left}")
        self.test = stratified_subset(test, config.n_test, config.data_seed) if config.n_test else test
        self.images, self.others = split(rest, config.n_train, config.seed)
        self.labels = drawn_labels(self.images.labels, self.classes, config.noise, config.seed)
        self.frozen = self._frozen_views() if config.views else None
        self.bank_pixels, self.test_pixels = self.bank.pixels.to(device), self.test.pixels.to(device)
        self.bank_labels, self.test_labels = self.bank.labels.to(device), self.test.labels.to(device)

    def report(self, step: int) -> None:
        """Called before every update; a live job tells how far it is."""

    @property
    def memory_items(self) -> int:
        """Labels that have to be memorised one by one."""
        return self.config.n_train * (self.config.views if self.config.own_labels else 1)

    # what is seen

    def _frozen_views(self) -> Shown:
        config = self.config
        if config.source == "same_class":
            pixels = same_class_views(self.images, self.others, config.views)
        else:
            drawn = (
                self.augmented(self.images.pixels, generator(config.seed, VIEWS - view * APART))
                for view in range(config.views)
            )
            pixels = torch.stack([view.mul_(255).round_().to(torch.uint8) for view in drawn])
        if config.own_labels:
            labels = drawn_labels(self.images.labels, self.classes, 1, config.seed, config.views)
        else:
            labels = self.labels.expand(config.views, -1)
        return Shown(pixels.to(self.device), labels.to(self.device))

    def augmented(self, pixels: Tensor, source: torch.Generator) -> Tensor:
        """[n, channels, side, side] floats in [0, 1]: a new view of each uint8 image."""
        draws = draw_views(len(pixels), self.shape[1], self.config.strength, source)
        return apply_views(as_unit(pixels), draws.to(pixels.device))

    def batch(self, step: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of an update; `rows` are those of the training images, on the CPU."""
        config = self.config
        source = generator(config.seed, STEP + step)
        if self.frozen is None:
            inputs = self.augmented(self.train_pixels[rows.to(self.device)], source)
            labels = self.labels[0][rows].to(self.device)
        else:
            view = torch.randint(config.views, rows.shape, generator=source).to(self.device)
            rows = rows.to(self.device)
            inputs, labels = as_unit(self.frozen.pixels[view, rows]), self.frozen.labels[view, rows]
        if config.mixup and torch.rand((), generator=source) < config.mixup:
            inputs = mixed(inputs, source)
        return inputs.contiguous(memory_format=LAYOUT), labels

    @cached_property
    def train_pixels(self) -> Tensor:
        """The training images as they are, on the device."""
        return self.images.pixels.to(self.device)

    @property
    def read_count(self) -> int:
        """How many views of each image memorisation is read from."""
        return self.config.views or READ_VIEWS

    def read_view(self, view: int) -> tuple[Tensor, Tensor]:
        """One of them of every training image, [n, channels, side, side] in [0, 1], and the labels [n].

        A frozen one itself; of ever new ones, one that training has not seen, the same at every look.
        """
        if self.frozen is not None:
            return as_unit(self.frozen.pixels[view]), self.frozen.labels[view]
        pixels = self.augmented(self.train_pixels, generator(self.config.seed, READ - view * APART))
        return pixels, self.labels[0].to(self.device)

    # the network

    def fresh(self) -> Network:
        """A network at its random start, with batch norm that knows the statistics of the bank's images.

        Untrained, it would have 0 and 1 in their place, and every change after training would be flattered.
        """
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            encoder = build_encoder(config.encoder, self.shape[0], config.width)
            network = Network(encoder, Projector(encoder.outputs, config.hidden, self.classes))
        network = network.to(self.device, memory_format=LAYOUT)
        calibrate(network, as_unit(self.bank_pixels[: max(COMPARED, config.batch)]))
        return network

    def train(self, network: Network, looks: list[dict[str, float]]) -> list[dict[str, float]]:
        """Trains in place; the looks given and those on the way."""
        config = self.config
        when = {round(config.steps * look / config.looks) for look in range(1, config.looks + 1)}
        optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        order = BatchOrder(config.n_train, config.batch, [config.seed])
        notes = columns(looks)
        checkpoints = Checkpoints({"network": network, "optimiser": optimiser, "looks": notes})
        with deterministic():
            done = checkpoints.resume()
            match_layout(optimiser)
            network.train()
            for step in range(done, config.steps):
                self.report(step)
                inputs, labels = self.batch(step, order.rows(step)[0])
                with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    said = network(inputs)
                loss = label_loss(said, labels)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                if step + 1 in when:
                    for name, value in self.look(network, step + 1).items():
                        notes[name].append(value)
                checkpoints.after(step + 1)
            checkpoints.end(config.steps)
        return [dict(zip(notes, values, strict=True)) for values in zip(*notes.values(), strict=True)]

    # what is read

    def look(self, network: Network, step: int) -> dict[str, float]:
        """Memorisation, k-NN and invariance of a network, in evaluation mode."""
        read = [(in_batches(network, pixels), labels) for pixels, labels in map(self.read_view, range(self.read_count))]
        said, labels = (torch.stack(part) for part in zip(*read, strict=True))
        targets = F.one_hot(labels, self.classes).float()
        if self.config.own_labels:
            error = (said - targets).square().mean().item()
            bias, spread = error, 0.0  # there is no mean view: each is to be called something else
        else:
            bias, spread = bias_and_spread(said, targets[0])
        embed = network.encoder
        return {
            "step": step, "memorised": (said.argmax(dim=2) == labels).double().mean().item(),
            "knn": self.knn(in_batches(embed, as_unit(self.bank_pixels)), in_batches(embed, as_unit(self.test_pixels))),
            "invariance": invariance_index(torch.stack([in_batches(embed, view) for view in self.foreign_views])),
            "bias": bias, "spread": spread,
        }  # fmt: skip

    @cached_property
    def foreign_views(self) -> list[Tensor]:
        """Views of test images, the same in every arm: the authors' augmentation at full strength."""
        pixels = self.test_pixels[:COMPARED]
        moments = (PROBED - view * APART for view in range(COMPARED_VIEWS))
        draws = (draw_views(len(pixels), self.shape[1], 1.0, generator(self.config.data_seed, at)) for at in moments)
        return [apply_views(as_unit(pixels), each.to(self.device)) for each in draws]

    def knn(self, bank: Tensor, test: Tensor, labels: Tensor | None = None) -> float:
        """Test accuracy of the vote: by cosine, so by Euclidean distance on features of length 1, one vote each."""
        labels = self.bank_labels if labels is None else labels
        bank, test = F.normalize(bank, dim=1), F.normalize(test, dim=1)
        return knn_accuracy(bank, labels, test, self.test_labels, self.config.neighbours)

    def layers(self, network: Network, when: str) -> list[dict]:
        """k-NN of every layer, where it is asked for: of true labels in bank and test images; of the random ones in
        training views, where a view may not ask those of its own image (it would find them, if only the layer is
        invariant)."""
        if not self.config.by_layer:
            return []
        read = map(self.read_view, range(min(READ_VIEWS, self.read_count)))
        views, labels = (torch.stack(part) for part in zip(*read, strict=True))
        count, n = labels.shape
        images = torch.arange(n, device=self.device).repeat(count)
        features = {
            name: layer_features(network, as_unit(pixels))
            for name, pixels in (("bank", self.bank_pixels), ("test", self.test_pixels))
        }
        seen = layer_features(network, views.flatten(0, 1))
        found = []
        for layer, ask in seen.items():
            ask = F.normalize(ask, dim=1)
            k = min(self.config.neighbours, count * (n - 1))
            said = knn_predict(ask, labels.flatten(), ask, k, "euclidean", images, images)
            found.append({
                "when": when, "layer": layer, "true": self.knn(features["bank"][layer], features["test"][layer]),
                "random": (said == labels.flatten()).double().mean().item(),
            })  # fmt: skip
        return found

    def at_the_end(self, network: Network) -> dict[str, float]:
        """What is read once: the head's own answer to test images, and the control with a shuffled bank."""
        order = torch.randperm(len(self.bank), generator=generator(self.config.data_seed, SHUFFLE)).to(self.device)
        bank, test = (in_batches(network.encoder, as_unit(pixels)) for pixels in (self.bank_pixels, self.test_pixels))
        said = in_batches(network, as_unit(self.test_pixels)).argmax(dim=1)
        return {
            "head": (said == self.test_labels).double().mean().item(),
            "knn_shuffled": self.knn(bank, test, self.bank_labels[order]),
        }

    def shown(self, network: Network, when: str) -> list[dict[str, str | int]]:
        """For a few training images, where they are asked for, the nearest other training images in every layer, all
        as they are; rows as text."""
        if not self.config.shown:
            return []
        features = layer_features(network, as_unit(self.train_pixels))
        asked = tile_rows(self.images.labels, self.config.shown).to(self.device)
        rows = torch.arange(self.config.n_train, device=self.device)
        found = []
        for layer, all_ in features.items():
            all_ = F.normalize(all_, dim=1)
            _, near = neighbours(all_, all_[asked], SHOWN, "euclidean", rows, rows[asked])
            found += [
                {"when": when, "layer": layer, "image": image, "near": " ".join(map(str, near_rows))}
                for image, near_rows in zip(asked.tolist(), near.tolist(), strict=True)
            ]
        return found


def split(images: Images, size: int, seed: int) -> tuple[Images, Images]:
    """The first `size` images of a stratified order, and all others.

    Raises:
        Refusal: there are not as many.
    """
    ordered = stratified_subset(images, len(images), seed)
    if not 1 <= size <= len(images):
        raise Refusal(f"{size:,} images cannot be drawn from the {len(images):,} of {images.name}")
    return ordered[:size], ordered[size:]


def same_class_views(images: Images, others: Images, views: int) -> Tensor:
    """[views, n, ...] uint8: for each image, `views` other images of its class; none serves two images.

    As the published code has it (`augm_iid`), which trains on them alone and never on the image itself.

    Raises:
        Refusal: a class has too few other images.
    """
    chosen = torch.empty(views, len(images), dtype=torch.int64)
    for kind in images.labels.unique():
        own, pool = (images.labels == kind).nonzero()[:, 0], (others.labels == kind).nonzero()[:, 0]
        if len(pool) < views * len(own):
            raise Refusal(
                f"{views} other images of class {images.classes[kind]!r} for each of {len(own)} images need "
                f"{views * len(own):,} (there are {len(pool):,})"
            )
        chosen[:, own] = pool[: views * len(own)].view(len(own), views).T
    return others.pixels[chosen]


def as_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels as floats in [0, 1], which is all that the published code does to them."""
    return pixels.float().div_(255)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """[n, d] fp32 answers of a module in evaluation mode; it has its old mode afterwards."""
    modules = [function] if isinstance(function, nn.Module) else []
    was = [module.training for module in modules]
    for module in modules:
        module.eval()
    pieces = images.split(AT_ONCE[images.device.type])
    found = torch.cat([function(piece.contiguous(memory_format=LAYOUT)).float() for piece in pieces])
    for module, mode in zip(modules, was, strict=True):
        module.train(mode)
    return found


@torch.no_grad()
def layer_features(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Layer -> [n, d] features in evaluation mode."""
    was = network.training
    network.eval()
    pieces = [
        network.by_layer(piece.contiguous(memory_format=LAYOUT)) for piece in images.split(AT_ONCE[images.device.type])
    ]
    network.train(was)
    return {layer: torch.cat([piece[layer] for piece in pieces]).float() for layer in pieces[0]}


@torch.no_grad()
def calibrate(network: nn.Module, images: Tensor) -> None:
    """Sets batch norm's running statistics to those of these images, in place."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    was = network.training
    network.train()
    for piece in images.split(AT_ONCE[images.device.type]):
        network(piece.contiguous(memory_format=LAYOUT))
    network.train(was)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.zero_()


def columns(rows: list[dict]) -> dict[str, list]:
    """Rows as a curve of an `Outcome`."""
    return {name: [row[name] for row in rows] for name in rows[0]}
