"""What each notebook of the chapter may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of
the laptop values, and `profiles/*.yaml` override them.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from ntf_utils.papers.next_token_pitfalls.path_finder import PathFinderConfig
from ntf_utils.runs import Config

Count = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0)]
Init = Literal["gpt2", "fan_in", "mimetic"]
INIT_SEEDS = 3  # of the initialisations that are only compared with the one in use; no verdict rests on them


class PathParameters(Config):
    """What the three notebooks share: the graph, the model and the recipe of the main comparison."""

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    seeds: Count
    degree: int
    path_length: int
    labels: int
    layers: Count
    width: Count
    heads: Count
    init: Init
    steps: Count
    batch: Count
    learning_rate: LearningRate
    precision: Literal["fp32", "bf16"]
    train_graphs: Annotated[int, Field(ge=0)]
    test_graphs: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def runs(self) -> list[PathFinderConfig]:
        """Every run of the notebook."""
        return [self.base()]

    def base(self) -> PathFinderConfig:
        """Teacher forcing on the main graph, seed 0; every other run is this with changes."""
        shared = self.model_dump(include=set(PathParameters.model_fields) - {"profile", "seeds"})
        return PathFinderConfig(**shared, probes=4)

    def over_seeds(self, config: PathFinderConfig, seeds: int | None = None) -> list[PathFinderConfig]:
        """The config with seeds 0, 1, ...; the first keeps the predictions that the explorer shows."""
        return [
            config.but(seed=seed, probes=0 if seed else config.probes) for seed in range(seeds or self.seeds)
        ]


class FailureParameters(PathParameters):
    """Of 01_task_and_failure."""

    mamba_layers: Count
    mamba_state: Count
    mamba_steps: Count

    def teacher_forced(self) -> list[PathFinderConfig]:
        return self.over_seeds(self.base())

    def reversed(self) -> list[PathFinderConfig]:
        """The control that must succeed."""
        return self.over_seeds(self.base().but(objective="reversed"))

    def reversed_by_init(self) -> list[PathFinderConfig]:
        """The control that must succeed, from each initialisation; those of `reversed` are among them."""
        others = [init for init in get_args(Init) if init != self.init]
        return self.reversed() + [
            config.but(init=init, probes=0) for init in others for config in self.reversed()[:INIT_SEEDS]
        ]

    def shuffled(self) -> list[PathFinderConfig]:
        """The control that must fail: reversed training with queries that tell nothing."""
        return self.over_seeds(self.base().but(objective="reversed", query="shuffled", train_graphs=0, probes=0))

    def mamba(self) -> list[PathFinderConfig]:
        config = self.base().but(architecture="mamba", probes=0)
        return self.over_seeds(
            config.but(layers=self.mamba_layers, state=self.mamba_state, steps=self.mamba_steps)
        )

    def runs(self) -> list[PathFinderConfig]:
        return self.teacher_forced() + self.reversed_by_init() + self.shuffled() + self.mamba()


class CureParameters(PathParameters):
    """Of 02_what_fixes_it."""

    hop_steps: Count
    cure_path_length: Count
    cure_labels: Count
    cure_layers: Count
    cure_width: Count
    cure_heads: Count
    cure_init: Init
    cure_seeds: Count
    cure_steps: Count
    cure_learning_rate: LearningRate
    cure_batch: Count

    def variants(self) -> list[PathFinderConfig]:
        """Teacher-forced and reversed training on the main graph at equal steps, and the hop token alone."""
        config = self.base()
        return [
            *self.over_seeds(config),
            *self.over_seeds(config.but(objective="reversed")),
            *self.over_seeds(config.but(objective="hop_only", steps=self.hop_steps, probes=0)),
        ]

    def cure(self) -> list[PathFinderConfig]:
        """Teacherless and teacher-forced training, at equal steps, on the graph on which the cure is affordable."""
        config = self.base().but(
            path_length=self.cure_path_length,
            labels=self.cure_labels,
            layers=self.cure_layers,
            width=self.cure_width,
            heads=self.cure_heads,
            init=self.cure_init,
            steps=self.cure_steps,
            learning_rate=self.cure_learning_rate,
            batch=self.cure_batch,
            looks=40,
        )
        return [
            run
            for objective in ("teacherless", "next_token")
            for run in self.over_seeds(config.but(objective=objective), self.cure_seeds)
        ]

    def runs(self) -> list[PathFinderConfig]:
        return self.variants() + self.cure()


class ReachParameters(PathParameters):
    """Of 03_how_far_it_reaches. A graph is [degree, path length, labels]."""

    sweep_seeds: Count
    sweep_steps: Count
    sweep_graphs: Annotated[list[tuple[int, int, int]], Field(min_length=1)]
    sweep_objectives: list[Literal["next_token", "reversed", "teacherless", "hop_only"]]
    fixed_graphs: Count
    fixed_steps: Count
    fixed_learning_rate: LearningRate
    fixed_seeds: Count

    def sweep(self) -> list[PathFinderConfig]:
        """Every objective on every graph."""
        config = self.base().but(steps=self.sweep_steps)
        return [
            run
            for degree, path_length, labels in self.sweep_graphs
            for objective in self.sweep_objectives
            for run in self.over_seeds(
                config.but(degree=degree, path_length=path_length, labels=labels, objective=objective),
                self.sweep_seeds,
            )
        ]

    def fixed(self) -> list[PathFinderConfig]:
        """Teacher forcing on a fixed training set, for five times as long as it takes to know it by heart."""
        return self.over_seeds(
            self._on_fixed_set().but(steps=self.fixed_steps, looks=60, patience=5, stop_when_solved=False),
            self.fixed_seeds,
        )

    def fixed_control(self) -> list[PathFinderConfig]:
        """The control that must succeed: reversed targets on the same fixed set."""
        return self.over_seeds(self._on_fixed_set().but(objective="reversed"), self.fixed_seeds)

    def _on_fixed_set(self) -> PathFinderConfig:
        return self.base().but(
            train_graphs=self.fixed_graphs, learning_rate=self.fixed_learning_rate, probes=0
        )

    def runs(self) -> list[PathFinderConfig]:
        return self.sweep() + self.fixed() + self.fixed_control()
