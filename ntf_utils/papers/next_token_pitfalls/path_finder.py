"""One run of the chapter: train a path finder on star graphs and examine it."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.star_graphs import StarGraphs, StarTask, draw_star_graphs
from ntf_utils.measures.sequences import exact_match, token_accuracy
from ntf_utils.models.decoding import decode_greedily
from ntf_utils.models.mamba import MambaLM
from ntf_utils.models.transformer import Transformer
from ntf_utils.papers.next_token_pitfalls.objectives import Objective, examine, lesson, say
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.device import default_device
from ntf_utils.training.loop import Lesson, Recipe, train

SOLVED = 0.995  # exact match on the validation graphs at which a run may stop
MEMORISED = 0.95  # exact match on a fixed training set that counts as known by heart
VALIDATION_GRAPHS = 512
WRITTEN_TOKEN_BY_TOKEN = ("next_token", "reversed")


class PathFinderConfig(Config):
    """One training run on G(degree, path_length).

    Attributes:
        query: "shuffled" shows a leaf drawn at random instead of the goal, in training and at test, so that no
            learner can beat 1/degree: the control that must fail.
        train_graphs: size of a fixed training set; 0 draws fresh graphs for every step.
        looks: evaluations spread over training. probes: graphs whose predictions are kept at each look.
        stop_when_solved: end at the first look with an exact match of 99.5 % on validation graphs, which are
            neither trained on nor reported.
        patience: with a fixed training set, go on for this many times the steps that it took to know the set by
            heart, then end; 0 goes on to the last step.
        init: see `Transformer`. A Mamba starts as its authors start it for "gpt2", else from "fan_in".
    """

    degree: int = 2
    path_length: int = 5
    labels: int = 9
    objective: Objective = "next_token"
    query: Literal["true", "shuffled"] = "true"
    architecture: Literal["transformer", "mamba"] = "transformer"
    layers: int = Field(4, ge=1)
    width: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    state: int = Field(8, ge=1)
    init: Literal["gpt2", "fan_in", "mimetic"] = "mimetic"
    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    beta2: float = Field(0.98, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    train_graphs: int = Field(0, ge=0)
    test_graphs: int = Field(2000, ge=1)
    looks: int = Field(20, ge=1)
    probes: int = Field(0, ge=0)
    stop_when_solved: bool = True
    patience: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        task = self.task  # refuses graphs that cannot be
        if self.width % self.heads:
            raise Refusal(f"heads must divide width (got width {self.width}, heads {self.heads})")
        if self.patience and not self.train_graphs:
            raise Refusal("patience counts from the step at which a fixed set is known: set train_graphs above 0")
        if self.query == "shuffled" and self.train_graphs:
            raise Refusal(f"the shuffled query is drawn afresh at every step: set train_graphs to 0 for {task}")
        return self

    @property
    def task(self) -> StarTask:
        return StarTask(self.degree, self.path_length, self.labels)


@experiment(version=1, tolerance=1e-4, resumable=True)
def train_path_finder(config: PathFinderConfig) -> Outcome:
    """Trains one model and examines it on unseen graphs.

    Row: steps made, exact match, accuracy of the hop token and of each token (on its own and teacher-forced),
    completion after the true hop, share that follow a wrong arm, exact match on the training set if that is fixed.
    Curve "learning": validation accuracy at each look. Curve "probes": predictions on a few graphs at each look.
    """
    device = default_device()
    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    lessons = Lessons(config, device)
    validation = draw_star_graphs(config.task, VALIDATION_GRAPHS, _generator(config, "validation", device))
    diary = Diary(config, model, validation, probe_graphs(config).to(device), lessons)
    kept = {"data": lessons.data, "control": lessons.control, "learning": diary.learning, "probes": diary.probed}
    steps = train(model, lessons.next, recipe_of(config, device), diary.look, config.looks, kept)

    test = draw_star_graphs(config.task, config.test_graphs, _generator(config, "test", device))
    found = examine(model.eval(), test, config.objective, lessons.shown_goal(test))
    hop = 0 if config.objective == "hop_only" else 1
    row = {
        "made_steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "exact": found.exact,
        "hop": found.forced_tokens[hop],
        "hop_given": found.hop_given,
        "wrong_arm": found.wrong_arm,
        "train_exact": diary.train_exact(),
    }
    row |= {f"own_{i + 1}": value for i, value in enumerate(found.own_tokens)}
    row |= {f"forced_{i + 1}": value for i, value in enumerate(found.forced_tokens)}
    return Outcome([row], {"learning": diary.learning, "probes": diary.probed})


def build_model(config: PathFinderConfig) -> nn.Module:
    """A fresh model, initialised from torch's global generator."""
    task = config.task
    if config.architecture == "mamba":
        init = "mamba" if config.init == "gpt2" else "fan_in"
        return MambaLM(task.vocabulary, config.layers, config.width, state=config.state, init=init)
    return Transformer(task.vocabulary, task.context, config.layers, config.width, config.heads, config.init)


def recipe_of(config: PathFinderConfig, device: torch.device) -> Recipe:
    return Recipe(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        beta2=config.beta2,
        clip=config.clip,
        precision=config.precision,
        compiler="inductor" if device.type == "cuda" else None,
    )


class Lessons:
    """The stream of training batches of a run, and the goal that its queries show."""

    def __init__(self, config: PathFinderConfig, device: torch.device):
        self.config = config
        self.data = _generator(config, "data", device)
        self.control = _generator(config, "control", device)
        self.fixed = draw_star_graphs(config.task, config.train_graphs, self.data) if config.train_graphs else None

    def next(self) -> Lesson:
        config = self.config
        if self.fixed is None:
            graphs = draw_star_graphs(config.task, config.batch, self.data)
        else:
            rows = torch.randint(len(self.fixed), (config.batch,), generator=self.data, device=self.data.device)
            graphs = self.fixed[rows]
        return lesson(graphs, config.objective, self.shown_goal(graphs))

    def shown_goal(self, graphs: StarGraphs) -> Tensor | None:
        """[batch] a random leaf for the shuffled-query control; None leaves the true goal."""
        if self.config.query == "true":
            return None
        arm = torch.randint(graphs.task.degree, (len(graphs),), generator=self.control, device=self.control.device)
        return graphs.arms[torch.arange(len(graphs), device=arm.device), arm, -1]


class Diary:
    """What is noted down on the way: validation accuracy by token, and predictions on the probe graphs."""

    def __init__(
        self, config: PathFinderConfig, model: nn.Module, validation: StarGraphs, probes: StarGraphs, lessons: Lessons
    ):
        self.config, self.model, self.lessons = config, model, lessons
        self.asked = lesson(validation, config.objective, lessons.shown_goal(validation))
        self.probes = probes
        tokens = self.asked.targets.shape[1]
        self.learning = {name: [] for name in ["step", "loss", "exact", "train_exact", *_token_names(tokens)]}
        self.probed = {name: [] for name in ["step", "alone", "graph", "position", "label", "p", "p_true"]}

    def look(self, step: int, loss: float) -> bool:
        """Notes the state of the model; True when it has solved the task and may stop."""
        asked = self.asked
        said = say(self.model, asked)
        accuracy = token_accuracy(said, asked.targets)
        if self.config.objective == "reversed":
            accuracy.reverse()  # always from the start to the goal
        exact = exact_match(said, asked.targets)
        line = {"step": step, "loss": None if step == 0 else loss, "exact": exact, "train_exact": self.train_exact()}
        for name, value in (line | dict(zip(_token_names(len(accuracy)), accuracy, strict=True))).items():
            self.learning[name].append(value)
        if len(self.probes):
            self._probe(step)
        return (self.config.stop_when_solved and exact >= SOLVED) or self._patience_is_over(step)

    def _patience_is_over(self, step: int) -> bool:
        by_heart = (at for at, share in zip(self.learning["step"], self.learning["train_exact"], strict=True)
                    if share is not None and share >= MEMORISED)  # fmt: skip
        known_at = next(by_heart, None)
        return bool(self.config.patience) and known_at is not None and step >= (1 + self.config.patience) * known_at

    def train_exact(self) -> float | None:
        """Exact match on (the first graphs of) the fixed training set; None for fresh graphs."""
        if self.lessons.fixed is None:
            return None
        asked = lesson(self.lessons.fixed[slice(VALIDATION_GRAPHS)], self.config.objective)
        return exact_match(say(self.model, asked), asked.targets)

    def _probe(self, step: int) -> None:
        """What the model says for the probe graphs, shown the true path so far and left alone."""
        for alone in (False, True):
            if alone and self.config.objective not in WRITTEN_TOKEN_BY_TOKEN:
                continue
            label, p, p_true = answers(self.model, self.probes, self.config.objective, alone)
            for graph in range(len(self.probes)):
                for position in range(p.shape[1]):
                    chances = (round(column[graph, position].item(), 3) for column in (p, p_true))
                    line = (step, alone, graph, position, label[graph, position].item(), *chances)
                    for name, value in zip(self.probed, line, strict=True):
                        self.probed[name].append(value)


@torch.no_grad()
def answers(
    model: nn.Module, graphs: StarGraphs, objective: Objective, alone: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What a model says for each token, in the order in which it writes them.

    Args:
        alone: the model reads its own tokens instead of the true ones; only where it writes token by token.

    Returns:
        The likeliest token, its probability and that of the right token, each [batch, tokens].
    """
    asked = lesson(graphs, objective)
    inputs = asked.inputs
    if alone and objective in WRITTEN_TOKEN_BY_TOKEN:
        prompt = inputs[:, : asked.from_position + 1]
        inputs = torch.cat([prompt, decode_greedily(model, prompt, asked.targets.shape[1] - 1)], dim=1)
    chances = model(inputs, asked.from_position).float().softmax(dim=-1)
    p, label = chances.max(dim=-1)
    return label, p, chances.gather(2, asked.targets[:, :, None])[:, :, 0]


def probe_graphs(config: PathFinderConfig) -> StarGraphs:
    """The probe graphs of a config: the same for every seed, objective and device."""
    return draw_star_graphs(config.task, config.probes, _generator(config.but(seed=0), "probes", torch.device("cpu")))


def _token_names(tokens: int) -> list[str]:
    return [f"token_{i + 1}" for i in range(tokens)]


_ROLES = ("data", "control", "validation", "test", "probes")


def _generator(config: PathFinderConfig, role: str, device: torch.device) -> torch.Generator:
    """A generator of its own for each role and seed, so that looking at a model never changes its data."""
    return torch.Generator(device).manual_seed(len(_ROLES) * config.seed + _ROLES.index(role))
