"""What each notebook of the chapter may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of
the laptop values, and `profiles/*.yaml` override them.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ntf_utils.papers.linear_mode_connectivity.connectivity import Architecture, ConnectivityConfig
from ntf_utils.runs import Config

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]  # 0 takes all
LearningRate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
DIGITS_TRAIN, DIGITS_TEST = 1437, 360  # the embedded digits have no more


class ConnectivityParameters(Config):
    """What the three notebooks share: data, network and recipe of the baseline.

    `learning_rate` is the baseline's, at which a two-layer perceptron is meant to be connected, and `high_rate` the
    one at which it is meant not to be.
    """

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    inits: Annotated[int, Field(ge=2)]
    orders: Annotated[int, Field(ge=2)]
    dataset: str
    pooling: Count
    n_train: Size
    n_test: Size
    width: Count
    steps: Count
    batch: Count
    learning_rate: LearningRate
    high_rate: LearningRate
    points: Annotated[int, Field(ge=3)]
    scored: Size

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def runs(self) -> list[ConnectivityConfig]:
        """Every run of the notebook."""
        return [self.base()]

    def base(self) -> ConnectivityConfig:
        """The baseline: a two-layer perceptron at the baseline's rate; every other run is this with changes."""
        names = ("inits", "orders", "width", "steps", "batch", "learning_rate", "points", "scored")
        return ConnectivityConfig(**{name: getattr(self, name) for name in names}, **self.data(self.dataset))

    def data(self, dataset: str, pooling: int | None = None) -> dict:
        """The fields that choose a data set. The embedded digits are few and small: never pooled unless asked for
        here, and all of them where more are asked for than there are."""
        if dataset != "digits":
            sizes = {"pooling": pooling or self.pooling, "n_train": self.n_train, "n_test": self.n_test}
        else:
            sizes = {
                "pooling": pooling or 1,
                "n_train": self.n_train if self.n_train <= DIGITS_TRAIN else 0,
                "n_test": self.n_test if self.n_test <= DIGITS_TEST else 0,
            }
        return {"dataset": dataset} | sizes


class HoldsParameters(ConnectivityParameters):
    """Of 01_where_it_holds."""

    rates: Annotated[list[LearningRate], Field(min_length=3)]
    plane: Count

    def by_rate(self) -> list[ConnectivityConfig]:
        """The two-layer perceptron at every learning rate; the baseline and the high rate are always among them."""
        rates = sorted({*self.rates, self.learning_rate, self.high_rate})
        shown = {self.learning_rate: {"plane": self.plane}, self.high_rate: {"plane": self.plane, "match": True}}
        return [self.base().but(learning_rate=rate, **shown.get(rate, {})) for rate in rates]

    def runs(self) -> list[ConnectivityConfig]:
        return self.by_rate()


class BreaksParameters(ConnectivityParameters):
    """Of 02_what_breaks_it. A data set is [name, pooling], from the easiest to the hardest."""

    rates: Annotated[list[LearningRate], Field(min_length=3)]
    warmups: Annotated[list[Share], Field(min_length=1)]
    batches: Annotated[list[Count], Field(min_length=2)]
    adam_rates: Annotated[list[LearningRate], Field(min_length=2)]
    equal_loss: LearningRate
    label_images: Count
    sizes: Annotated[list[Count], Field(min_length=1)]
    datasets: Annotated[list[tuple[str, Count]], Field(min_length=2)]
    depths: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=2)]
    high_depths: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    widths: Annotated[list[Count], Field(min_length=2)]

    def high(self) -> ConnectivityConfig:
        """The baseline at the high rate."""
        return self.base().but(learning_rate=self.high_rate)

    def by_rate(self) -> list[ConnectivityConfig]:
        rates = sorted({*self.rates, self.learning_rate, self.high_rate})
        return [self.base().but(learning_rate=rate) for rate in rates]

    def by_warmup(self) -> list[ConnectivityConfig]:
        """At the high rate, without warm-up first."""
        return [self.high().but(warmup=warmup) for warmup in sorted({0.0, *self.warmups})]

    def by_batch(self) -> list[ConnectivityConfig]:
        """At the high rate and equal updates."""
        return [self.high().but(batch=batch) for batch in sorted(self.batches)]

    def adam(self) -> list[ConnectivityConfig]:
        return [self.base().but(optimiser="adam", learning_rate=rate) for rate in sorted(self.adam_rates)]

    def by_labels(self) -> list[ConnectivityConfig]:
        """True and random labels at the baseline's and at the high rate, on equally many images."""
        return [
            self.base().but(labels=labels, n_train=self.label_images, learning_rate=rate)
            for rate in (self.learning_rate, self.high_rate) for labels in ("true", "random")
        ]  # fmt: skip

    def by_size(self) -> list[ConnectivityConfig]:
        """At the high rate and equal updates. Sizes that the embedded digits do not have are left out."""
        most = DIGITS_TRAIN if self.dataset == "digits" else max(self.sizes)
        sizes = sorted({*(size for size in self.sizes if size <= most), self.base().n_train} - {0})
        return [self.high().but(n_train=size) for size in sizes]

    def by_dataset(self) -> list[ConnectivityConfig]:
        """At the baseline's rate and at the high one. With the embedded digits, nothing else is loaded: they are
        compared with their own coarser copies."""
        chosen = self.datasets if self.dataset != "digits" else [("digits", 1), ("digits", 2)]
        return [
            self.base().but(learning_rate=rate, **self.data(*named))
            for rate in (self.learning_rate, self.high_rate) for named in chosen
        ]  # fmt: skip

    def by_depth(self) -> list[ConnectivityConfig]:
        """At the baseline's rate; `high_depths` at the high one, where deep networks may diverge."""
        return [self.base().but(depth=depth) for depth in sorted(self.depths)] + [
            self.high().but(depth=depth) for depth in sorted(self.high_depths)
        ]

    def by_width(self) -> list[ConnectivityConfig]:
        """At the baseline's rate."""
        return [self.base().but(width=width) for width in sorted({*self.widths, self.width})]

    def runs(self) -> list[ConnectivityConfig]:
        return [
            *self.by_rate(), *self.by_warmup(), *self.by_batch(), *self.adam(), *self.by_labels(),
            *self.by_size(), *self.by_dataset(), *self.by_depth(), *self.by_width(),
        ]  # fmt: skip


class TimeParameters(ConnectivityParameters):
    """Of 03_architecture_and_time. `spawns` are shares of the training that all copies make together."""

    architectures: Annotated[list[Architecture], Field(min_length=3)]
    architecture_rates: Annotated[list[LearningRate], Field(min_length=2)]
    equal_loss: LearningRate
    channels: Count
    kernel: Count
    stride: Count
    padding: Size
    layers: Count
    spawns: Annotated[list[Share], Field(min_length=3)]
    tiles: Count
    large: list[Architecture]
    large_dataset: str
    large_width: Count
    large_rates: list[LearningRate]
    large_steps: Count
    large_inits: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        missing = {"dense", "local", "convolutional"} - set(self.architectures)
        if missing:
            raise ValueError(f"architectures must hold dense, local and convolutional (lacks {', '.join(missing)})")
        return self

    def by_architecture(self) -> list[ConnectivityConfig]:
        """Every architecture of the family at every rate; at the highest one with labels for the explorer."""
        names = ("channels", "kernel", "stride", "padding", "layers")
        family = self.base().but(**{name: getattr(self, name) for name in names})
        highest = max(self.architecture_rates)
        return [
            family.but(architecture=architecture, learning_rate=rate, tiles=self.tiles if rate == highest else 0)
            for architecture in self.architectures for rate in sorted(self.architecture_rates)
        ]  # fmt: skip

    def by_spawn(self) -> list[ConnectivityConfig]:
        """The two-layer perceptron at the high rate, its copies parting later and later."""
        high = self.base().but(learning_rate=self.high_rate, tiles=self.tiles)
        return [high.but(spawn_step=step) for step in sorted({round(share * self.steps) for share in self.spawns})]

    def baseline(self) -> list[ConnectivityConfig]:
        """The baseline with labels for the explorer."""
        return [self.base().but(tiles=self.tiles)]

    def larger(self) -> list[ConnectivityConfig]:
        """ResNet-20 and a small ViT with augmentation; none on a laptop."""
        base = self.base().but(
            dataset=self.large_dataset, pooling=1, n_train=0, n_test=0, width=self.large_width,
            steps=self.large_steps, batch=128, inits=self.large_inits, augment=True,
        )  # fmt: skip
        return [base.but(architecture=name, learning_rate=rate) for name in self.large for rate in self.large_rates]

    def runs(self) -> list[ConnectivityConfig]:
        return self.by_architecture() + self.by_spawn() + self.baseline() + self.larger()
