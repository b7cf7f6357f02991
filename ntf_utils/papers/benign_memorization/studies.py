"""What each notebook of the chapter may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of
the laptop values, and `profiles/*.yaml` override them. Runs that several notebooks ask for are recorded once.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ntf_utils.papers.benign_memorization.memorization import Encoder, MemorizeConfig
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
# the embedded digits are few and small: no pooling, and what of them is left for a bank and for others of a class
DIGITS_BANK, DIGITS_TEST, DIGITS_OTHERS = 500, 360, 2


class MemoryParameters(Config):
    """What the three notebooks share: data, network and recipe of the main arm. `seeds` are counted from `first_seed`;
    arms that the main claims do not rest on have the first `few`."""

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    seeds: Count
    few: Count
    first_seed: Size
    dataset: str
    pool: Count
    n_train: Count
    n_bank: Count
    n_test: Size
    neighbours: Count
    encoder: Encoder
    width: Count
    hidden: Count
    strength: Share
    steps: Count
    batch: Count
    learning_rate: Rate
    precision: Literal["fp32", "bf16"]
    looks: Annotated[int, Field(ge=1, multiple_of=4)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.steps % self.looks:
            raise Refusal(f"steps must be a multiple of looks, {self.looks} (got {self.steps})")
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def runs(self) -> list[MemorizeConfig]:
        """Every run of the notebook."""
        return [*self.augmented(), *self.plain(), *self.with_true_labels()]

    @property
    def counted(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def examples(self) -> int:
        """Test images behind an accuracy."""
        return self.arm(self.first_seed).n_test or (DIGITS_TEST if self.dataset == "digits" else 10_000)

    def arm(self, seed: int) -> MemorizeConfig:
        """A run of the main arm, without what only the main arms keep."""
        names = (
            "dataset", "n_train", "neighbours", "encoder", "width", "hidden", "strength", "steps", "batch",
            "learning_rate", "precision", "looks",
        )  # fmt: skip
        digits = self.dataset == "digits"
        return MemorizeConfig(
            **{name: getattr(self, name) for name in names}, seed=seed,
            pool=1 if digits else self.pool,
            n_bank=min(self.n_bank, DIGITS_BANK) if digits else self.n_bank,
            n_test=self.n_test if not digits or self.n_test <= DIGITS_TEST else 0,
        )  # fmt: skip

    def arms(self, few: bool = False, **changes: object) -> list[MemorizeConfig]:
        """The main arm with changes, a run a seed."""
        seeds = self.counted[: self.few] if few else self.counted
        return [self.arm(seed).but(**changes) for seed in seeds]

    def augmented(self) -> list[MemorizeConfig]:
        """The main arm: ever new views, every layer probed."""
        return self.arms(by_layer=True)

    def plain(self) -> list[MemorizeConfig]:
        """The same images as they are, every layer probed."""
        return self.arms(strength=0.0, views=1, by_layer=True)

    def with_true_labels(self) -> list[MemorizeConfig]:
        """The control that must learn features: augmented, with the images' own labels."""
        return self.arms(noise=0.0)

    def frozen(self, views: int) -> list[MemorizeConfig]:
        """A number of views of each image, drawn once."""
        return self.arms(views=views)


class BenignParameters(MemoryParameters):
    """Of 01_memorising_benignly. `strengths`: of the augmentation, beside the main arm's; `mixup`: share of batches."""

    strengths: Annotated[list[Share], Field(min_length=2)]
    mixup: Share

    def by_strength(self) -> list[MemorizeConfig]:
        """Other strengths of ever new views; at 0 all views are alike, so that arm is the one without augmentation."""
        others = sorted({*self.strengths} - {self.strength, 0.0})
        return [config for strength in others for config in self.arms(few=True, strength=strength)]

    def with_mixup(self) -> list[MemorizeConfig]:
        """Mixed inputs in the place of augmentation."""
        return self.arms(few=True, strength=0.0, views=1, mixup=self.mixup)

    def runs(self) -> list[MemorizeConfig]:
        return [*super().runs(), *self.frozen(1), *self.by_strength(), *self.with_mixup()]


class DepthParameters(MemoryParameters):
    """Of 02_where_it_memorises. `noises`: shares of random labels between none and all; `projectors`: other widths of
    the projector; `explored_*`: of the networks that the explorer shows, which see digits."""

    noises: list[Share]
    projectors: list[Count]
    explored_images: Annotated[int, Field(ge=20, le=500)]
    explored_steps: Count
    explored_width: Count

    def by_noise(self) -> list[MemorizeConfig]:
        """Fewer random labels; with none it is the control of all notebooks, with all the main arm."""
        others = sorted({*self.noises} - {0.0, 1.0})
        return [config for noise in others for config in self.arms(noise=noise)]

    def by_projector(self) -> list[MemorizeConfig]:
        """Other widths of the projector, every layer probed."""
        others = sorted({*self.projectors} - {self.hidden})
        return [config for hidden in others for config in self.arms(few=True, hidden=hidden, by_layer=True)]

    def explored(self) -> list[MemorizeConfig]:
        """For the explorer: digits, whose pictures a page may show; with augmentation and without."""
        arm = MemorizeConfig(
            dataset="digits", pool=1, n_train=self.explored_images, n_bank=DIGITS_BANK, n_test=0,
            neighbours=min(self.neighbours, 20), encoder="resnet8", width=self.explored_width, hidden=self.hidden,
            strength=self.strength, steps=self.explored_steps, batch=min(self.batch, 64, self.explored_images),
            learning_rate=self.learning_rate, looks=1, by_layer=True, shown=1,
            seed=self.first_seed,
        )  # fmt: skip
        return [arm, arm.but(strength=0.0, views=1)]

    def runs(self) -> list[MemorizeConfig]:
        return [*super().runs(), *self.by_noise(), *self.by_projector(), *self.explored()]


class ViewsParameters(MemoryParameters):
    """Of 03_how_many_views.

    `counts`: frozen views of an image, with shared labels; `own_counts`: with a label for each view; `same_class`:
    other images of the class as views, for `same_class_images` images; `tight_*`: of a network so small that its
    capacity ends within the counts.
    """

    counts: Annotated[list[Count], Field(min_length=2)]
    own_counts: Annotated[list[Count], Field(min_length=2)]
    same_class: Count
    same_class_images: Count
    tight_width: Count
    tight_hidden: Count
    tight_images: Count
    tight_counts: Annotated[list[Count], Field(min_length=2)]
    tight_passes: Count

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if max(self.own_counts) not in self.counts:
            raise Refusal(f"the largest of own_counts, {max(self.own_counts)}, must be among counts: they are compared")
        return self

    def by_count(self) -> list[MemorizeConfig]:
        """Frozen views, all of an image with its one label."""
        return [config for count in sorted(set(self.counts)) for config in self.frozen(count)]

    def by_own_count(self) -> list[MemorizeConfig]:
        """Frozen views, each with a label of its own. One view has the image's: it is the same arm."""
        others = sorted({*self.own_counts} - {1})
        return [config for count in others for config in self.arms(views=count, own_labels=True)]

    @property
    def others(self) -> int:
        """Images of the class in the place of views; of the embedded digits there are few."""
        return min(self.same_class, DIGITS_OTHERS) if self.dataset == "digits" else self.same_class

    def by_same_class(self) -> list[MemorizeConfig]:
        """Other images of an image's class as its views, without further augmentation."""
        return self.arms(n_train=self.same_class_images, views=self.others, source="same_class", strength=0.0)

    def as_many(self) -> list[MemorizeConfig]:
        """As many augmented views as that."""
        return self.arms(n_train=self.same_class_images, views=self.others)

    def tight(self) -> list[MemorizeConfig]:
        """A network of few weights, more and more views with labels of their own, every view as often: updates grow
        with the number of views, so that time is not what is lacking."""
        found = []
        for count in sorted(set(self.tight_counts)):
            passes = self.tight_passes * count * max(1, self.tight_images // self.batch)
            found += [
                self.arm(seed).but(
                    n_train=self.tight_images, batch=min(self.batch, self.tight_images), width=self.tight_width,
                    hidden=self.tight_hidden, views=count, own_labels=True, steps=passes, looks=1,
                )
                for seed in self.counted[: self.few]
            ]  # fmt: skip
        return found

    def runs(self) -> list[MemorizeConfig]:
        return [
            *self.augmented(), *self.by_count(), *self.by_own_count(), *self.by_same_class(), *self.as_many(),
            *self.tight(),
        ]  # fmt: skip
