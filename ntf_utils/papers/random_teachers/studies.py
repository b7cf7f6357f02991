"""What each notebook of the chapter may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of
the laptop values, and `profiles/*.yaml` override them.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ntf_utils.models.encoders import EncoderName
from ntf_utils.papers.random_teachers.checkpoints import ChildrenConfig, PlaneConfig, PruneConfig
from ntf_utils.papers.random_teachers.distillation import DistilConfig, PixelConfig
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]  # 0 takes all
Rate = Annotated[float, Field(gt=0)]
Locality = Annotated[float, Field(ge=0, le=1)]
DIGITS_TRAIN, DIGITS_TEST = 1437, 360  # the embedded digits have no more


class TeacherParameters(Config):
    """What the three notebooks share: data, networks and recipe of the main arm.

    `seeds` are counted from `first_seed`; arms that the chapter's main claims do not rest on have the first `few` of
    them. `dataset` is what students learn from and are probed on, `other` a second
    data set, for the transfer.
    """

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    seeds: Count
    few: Count
    first_seed: Size
    dataset: str
    other: str
    n_train: Size
    n_probe: Size
    n_test: Size
    neighbours: Count
    probe_updates: Count
    encoder: EncoderName
    width: Count
    hidden: Count
    bottleneck: Count
    outputs: Annotated[int, Field(ge=2)]
    locality: Locality
    steps: Count
    batch: Count
    learning_rate: Rate
    precision: Literal["fp32", "bf16"]
    looks: Count
    line: Annotated[int, Field(ge=5)]
    tiles: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.line - 1) % 14:
            raise Refusal(f"line must be 14 k + 1, so that tenths of the way are among its points (got {self.line})")
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def runs(self) -> list[Config]:
        """Every run of the notebook."""
        return self.main()

    @property
    def counted(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def fewer(self) -> range:
        """The first `few` of them."""
        return self.counted[: self.few]

    @property
    def examples(self) -> int:
        """Test images behind an accuracy."""
        return self.arm(self.first_seed).n_test or (DIGITS_TEST if self.dataset == "digits" else 10_000)

    def size(self, wanted: int, dataset: str, most: int) -> int:
        """How many images are asked for; of the embedded digits, all of them where that is more than there are."""
        return wanted if dataset != "digits" or wanted <= most else 0

    def arm(self, seed: int) -> DistilConfig:
        """A student of the main arm, without the curves that only the main arm itself keeps."""
        names = (
            "neighbours", "probe_updates", "encoder", "width", "hidden", "bottleneck", "outputs", "locality",
            "steps", "batch", "learning_rate", "precision",
        )  # fmt: skip
        return DistilConfig(
            **{name: getattr(self, name) for name in names}, dataset=self.dataset, seed=seed,
            n_train=self.size(self.n_train, self.dataset, DIGITS_TRAIN),
            n_probe=self.size(self.n_probe, self.dataset, DIGITS_TRAIN),
            n_test=self.size(self.n_test, self.dataset, DIGITS_TEST),
        )  # fmt: skip

    def arms(self, **changes: object) -> list[DistilConfig]:
        """The main arm with changes, a run a seed; the first seed is looked at on its way, for the explorer."""
        return [
            self.arm(seed).but(**changes, **(self.watched if seed == self.first_seed else {}))
            for seed in self.counted
        ]  # fmt: skip

    @property
    def second(self) -> str:
        """The other data set; with the embedded digits nothing else is loaded, so it is them again."""
        return self.other if self.dataset != "digits" else "digits"

    @property
    def watched(self) -> dict:
        """What a run keeps that is shown on its way."""
        return {"looks": self.looks, "tiles": self.tiles}

    def main(self) -> list[DistilConfig]:
        """The main arm: every seed on its way, a second round, the line to its teacher, and the other data set."""
        kept = {"probe_on": (self.dataset, self.second)} | self.watched
        kept |= {"line": self.line} if self.encoder.startswith("vgg") else {}  # batch norm has no line
        return [self.arm(seed).but(**kept, rounds=2) for seed in self.counted]

    def pixels(self) -> list[PixelConfig]:
        """The probes on pixels of both data sets."""
        names = ("neighbours", "probe_updates", "data_seed", "n_probe", "n_test")
        arm = self.arm(0)
        return [
            PixelConfig(dataset=dataset, **{name: getattr(arm, name) for name in names})
            for dataset in dict.fromkeys((self.dataset, self.second))
        ]  # fmt: skip


class NoiseParameters(TeacherParameters):
    """Of 01_a_student_of_noise."""

    def noise(self) -> list[DistilConfig]:
        """Students that see noise, on their way too."""
        return [self.arm(seed).but(inputs="noise", looks=self.looks) for seed in self.counted]

    def runs(self) -> list[Config]:
        return [*self.main(), *self.noise(), *self.pixels()]


class SourceParameters(TeacherParameters):
    """Of 02_where_it_comes_from. `few_outputs`: a head with far fewer outputs than its bottleneck is wide."""

    near_locality: Locality
    far_locality: Locality
    localities: Annotated[list[Locality], Field(min_length=1)]
    tiny_locality: Locality
    sizes: Annotated[list[Count], Field(min_length=2)]
    few_outputs: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _narrow(self) -> Self:
        if self.few_outputs >= self.bottleneck:
            raise Refusal(f"few_outputs must be fewer than the bottleneck's {self.bottleneck} (got {self.few_outputs})")
        return self

    def by_locality(self) -> list[DistilConfig]:
        """Starts further and further from the teacher; the judged ones for all seeds, the others for the first."""
        judged = sorted({self.near_locality, self.far_locality} - {self.locality})
        shown = sorted({*self.localities} - {self.locality, *judged})
        few = [config for locality in shown for config in self.arms(locality=locality)[:1]]
        return [config for locality in judged for config in self.arms(locality=locality)] + few

    def at_the_teacher(self) -> list[DistilConfig]:
        """Starts so near to the teacher that rounding decides; in fp32 whatever the profile."""
        return self.arms(locality=self.tiny_locality, precision="fp32")[:2]

    def by_size(self) -> list[DistilConfig]:
        """Fewer images at equal updates. Sizes that the embedded digits do not have are left out."""
        arm = self.arm(self.first_seed)
        most = arm.n_train or (DIGITS_TRAIN if self.dataset == "digits" else max(self.sizes) + 1)
        sizes = [size for size in sorted(set(self.sizes)) if size < most]
        return [self.arm(seed).but(n_train=size, batch=min(self.batch, size)) for size in sizes for seed in self.fewer]

    def elsewhere(self) -> list[DistilConfig]:
        """Distilled on the other data set, probed on both."""
        changes = {"dataset": self.second, "probe_on": (self.second, self.dataset)}
        return [self.arm(seed).but(**changes) for seed in self.fewer]

    def by_head(self) -> dict[str, list[DistilConfig]]:
        """The head with one part changed."""
        changes = {
            "no feature norm": {"feature_norm": False},
            "no weight norm": {"weight_norm": False},
            "outputs = bottleneck": {"outputs": self.bottleneck},
            "few outputs": {"outputs": self.few_outputs},
        }
        return {name: [self.arm(seed).but(**change) for seed in self.fewer] for name, change in changes.items()}

    def students(self) -> list[DistilConfig]:
        """All that are distilled for the page."""
        heads = [config for configs in self.by_head().values() for config in configs]
        return [
            *self.main(), *self.by_locality(), *self.at_the_teacher(), *self.by_size(), *self.elsewhere(), *heads
        ]  # fmt: skip

    def runs(self) -> list[Config]:
        return [*self.students(), *self.pixels()]


class CheckpointParameters(TeacherParameters):
    """Of 03_what_the_checkpoint_is_good_for. Names as in the configs; pruning has an encoder and recipe of its own."""

    far_locality: Locality
    plane: Annotated[int, Field(ge=2)]
    children: Annotated[int, Field(ge=2)]
    child_steps: Count
    child_batch: Count
    child_rates: Annotated[list[Rate], Field(min_length=1)]
    points: Annotated[int, Field(ge=3)]
    scored: Count
    prune_seeds: Count
    prune_encoder: EncoderName
    prune_width: Count
    levels: Count
    tune_steps: Count
    tune_batch: Count
    tune_rate: Rate
    rewind_steps: Count
    architectures: list[tuple[EncoderName, Count]]

    def planes(self) -> list[PlaneConfig]:
        """The plane through teacher, near and far student, for the first seed."""
        if not self.encoder.startswith("vgg"):
            return []
        return [
            PlaneConfig(
                **self.arm(self.first_seed).as_dict(), far_locality=self.far_locality, plane=self.plane
            )
        ]  # fmt: skip

    def families(self) -> list[ChildrenConfig]:
        """Children of both checkpoints; the first seed carries the control."""
        names = ("children", "child_steps", "child_batch", "points", "scored")
        asked = {name: getattr(self, name) for name in names}
        return [
            ChildrenConfig(
                **self.arm(seed).as_dict(), **asked, child_rates=tuple(self.child_rates),
                control=seed == self.first_seed,
            )
            for seed in self.fewer
        ]  # fmt: skip

    def prunings(self) -> list[PruneConfig]:
        """Iterative pruning in three arms."""
        names = ("levels", "tune_steps", "tune_batch", "tune_rate", "rewind_steps")
        asked = {name: getattr(self, name) for name in names}
        return [
            PruneConfig(
                **self.arm(seed).but(encoder=self.prune_encoder, width=self.prune_width).as_dict(), **asked
            )
            for seed in list(self.counted)[: self.prune_seeds]
        ]  # fmt: skip

    def by_architecture(self) -> list[DistilConfig]:
        """Other encoders; none on a laptop."""
        return [
            self.arm(seed).but(encoder=encoder, width=width)
            for encoder, width in self.architectures for seed in self.fewer
        ]  # fmt: skip

    def runs(self) -> list[Config]:
        return [*self.main(), *self.planes(), *self.families(), *self.prunings(), *self.by_architecture()]
