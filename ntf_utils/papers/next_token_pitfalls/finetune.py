"""One run of a pretrained path finder: a language model fine-tuned on the authors' text (Bachmann &
Nagarajan, 2024, Table 2, GPT-2 Large).

The model reads `a,b|c,d|...|y,z/start,goal=start,n2,...,goal` in the tokens of its own tokenizer. Commas are
tokens here: a path of l labels takes 2 l - 1 tokens, every second of them a label.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.star_graphs import StarGraphs, StarTask, draw_star_graphs, write_lines
from ntf_utils.measures.sequences import exact_match, token_accuracy
from ntf_utils.models.causal import fingerprint, load_tokenizer
from ntf_utils.models.decoding import decode_greedily
from ntf_utils.models.pretrained import load_pretrained
from ntf_utils.papers.next_token_pitfalls.path_finder import _generator, recipe_of
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, experiment
from ntf_utils.training.device import default_device
from ntf_utils.training.loop import Lesson, train

VALIDATION_GRAPHS = 256
CHUNK = 200  # graphs evaluated at once: keys and values of G(2,5) in GPT-2 Large then take 3.3 GB in fp32


class FinetuneConfig(Config):
    """One fine-tuning run on G(degree, path_length); the defaults are the paper's where they are known.

    Attributes:
        model: a name on the Hugging Face hub, or a folder with config.json, *.safetensors and a tokenizer. It
            must write each label and each of `,|/=` as one token.
        train_graphs: size of a fixed training set; 0 draws fresh graphs for every step.
        looks: evaluations spread over training.
    """

    degree: int = 2
    path_length: int = 5
    labels: int = 50
    model: str = "openai-community/gpt2-large"
    steps: int = Field(12_500, ge=1)  # one pass over 200,000 graphs; the paper's number of passes is unknown
    batch: int = Field(16, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    beta2: float = Field(0.999, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "bf16"
    train_graphs: int = Field(200_000, ge=0)
    test_graphs: int = Field(2000, ge=1)
    looks: int = Field(20, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _ = self.task  # refuses graphs that cannot be
        return self

    @property
    def task(self) -> StarTask:
        return StarTask(self.degree, self.path_length, self.labels)

    def data_fingerprint(self) -> str:
        """The pretrained weights; the graphs are generated."""
        return fingerprint(self.model)


@experiment(version=1, tolerance=1e-3, resumable=True)
def finetune_path_finder(config: FinetuneConfig) -> Outcome:
    """Fine-tunes one model by teacher forcing and examines it on unseen graphs.

    Row: parameters, and what `examine` finds. Curve "learning": teacher-forced validation accuracy at each
    look, of the whole path and of each label.
    """
    from ntf_utils.data import torchvision_door  # noqa: F401  (transformers imports torchvision)

    device, task = default_device(), config.task
    text = StarText(load_tokenizer(config.model), task, config.model)
    torch.manual_seed(config.seed)
    model = load_pretrained(config.model)
    text.check_fits(model.vocabulary, model.context)
    model = model.to(device).train()
    validation = draw_star_graphs(task, VALIDATION_GRAPHS, _generator(config, "validation", device))
    learning = {name: [] for name in ["step", "loss", "exact", *_label_names("label", task)]}

    def look(step: int, loss: float) -> bool:
        said, right = forced(model, text, validation, config.precision), text.path(validation)
        line = (step, None if step == 0 else loss, exact_match(said, right), *_label_accuracy(said, right))
        for name, value in zip(learning, line, strict=True):
            learning[name].append(value)
        return False

    data = _generator(config, "data", device)
    kept = {"data": data, "learning": learning}
    train(model, lessons(config, text, data), recipe_of(config, device), look, config.looks, kept)
    test = draw_star_graphs(task, config.test_graphs, _generator(config, "test", device))
    found = examine(model.eval(), text, test, config.precision)
    parameters = sum(p.numel() for p in model.parameters())
    return Outcome([{"parameters": parameters, **found}], {"learning": learning})


class StarText:
    """The authors' lines in the tokens of a language model: one a label and one a sign.

    Tokens are put together on the device from the graphs; a sample of lines is compared with what the
    tokenizer itself makes of the text.

    Args:
        tokenizer: of transformers.
        source: the model's name for error messages.

    Raises:
        Refusal: the tokenizer does not know a label or a sign, splits one, or joins two.
    """

    def __init__(self, tokenizer: Any, task: StarTask, source: str):
        # in the order of StarTask's own tokens; the comma takes the place of the dummy, which the text lacks
        pieces = [*map(str, range(task.labels)), "|", "=", "/", ","]
        ids = tokenizer(pieces, add_special_tokens=False)["input_ids"]
        for piece, tokens in zip(pieces, ids, strict=True):
            if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
                does = f"writes {piece!r} as {len(tokens)} tokens" if len(tokens) > 1 else f"lacks {piece!r}"
                raise Refusal(
                    f"the tokenizer of {source!r} {does}, but every label below {task.labels} and every "
                    "sign must be one token, so that all lines are equally long: take fewer labels or another "
                    "model"
                )
        self.task, self.source, self.ids = task, source, torch.tensor(ids)[:, 0]
        self._check_lines(tokenizer)

    def prefix(self, graphs: StarGraphs) -> Tensor:
        """[batch, 4E + 4] tokens up to and with `=`."""
        triples = graphs.prefix().view(len(graphs), -1, 3)  # each a label, a label and the sign that follows
        comma = torch.full_like(triples[:, :, :1], self.task.dummy)
        return self._ids(torch.cat([triples[:, :, :1], comma, triples[:, :, 1:]], dim=2).flatten(1))

    def path(self, graphs: StarGraphs, arm: int = 0) -> Tensor:
        """[batch, 2 l - 1] tokens of the path along one arm; arm 0 is the answer."""
        path = graphs.path(arm)
        comma = torch.full_like(path, self.task.dummy)
        return self._ids(torch.stack([path, comma], dim=2).flatten(1)[:, :-1])

    def lesson(self, graphs: StarGraphs, arm: int = 0) -> Lesson:
        """Teacher forcing: the model sees the path up to each token; the loss is on the path's tokens."""
        prefix, path = self.prefix(graphs), self.path(graphs, arm)
        return Lesson(torch.cat([prefix, path[:, :-1]], dim=1), path, prefix.shape[1] - 1)

    def check_fits(self, vocabulary: int, context: int) -> None:
        """Refuses a model that lacks some of the tokens or reads too short texts."""
        length = 4 * self.task.edges + 4 + 2 * self.task.path_length - 2
        if length > context:
            raise Refusal(
                f"a line of G({self.task.degree},{self.task.path_length}) takes {length} tokens, but "
                f"{self.source!r} reads at most {context}: take a smaller graph"
            )
        if self.ids.max() >= vocabulary:
            raise Refusal(
                f"the tokenizer of {self.source!r} writes token {self.ids.max()}, but the model has "
                f"{vocabulary} only: they do not belong together"
            )

    def _ids(self, tokens: Tensor) -> Tensor:
        """StarTask's tokens -> the language model's."""
        self.ids = self.ids.to(tokens.device)
        return self.ids[tokens]

    def _check_lines(self, tokenizer: Any) -> None:
        """Refuses a tokenizer that writes whole lines otherwise than label by label and sign by sign."""
        graphs = draw_star_graphs(self.task, 100, torch.Generator().manual_seed(0))
        ours = torch.cat([self.prefix(graphs), self.path(graphs)], dim=1).tolist()
        lines = write_lines(graphs)
        theirs = tokenizer(lines, add_special_tokens=False)["input_ids"]
        for line, expected, tokens in zip(lines, ours, theirs, strict=True):
            if tokens != expected:
                raise Refusal(
                    f"the tokenizer of {self.source!r} writes {line!r} as {len(tokens)} tokens, not as its "
                    f"{len(expected)} labels and signs one by one: take another model"
                )


def lessons(config: FinetuneConfig, text: StarText, data: torch.Generator) -> Callable[[], Lesson]:
    """The stream of training batches of a run, drawn from `data`."""
    fixed = draw_star_graphs(config.task, config.train_graphs, data) if config.train_graphs else None

    def next_lesson() -> Lesson:
        if fixed is None:
            return text.lesson(draw_star_graphs(config.task, config.batch, data))
        rows = torch.randint(len(fixed), (config.batch,), generator=data, device=data.device)
        return text.lesson(fixed[rows])

    return next_lesson


def examine(model: nn.Module, text: StarText, graphs: StarGraphs, precision: str) -> dict[str, float | None]:
    """What a model does with unseen graphs.

    Returns:
        exact: share of graphs whose whole path the model writes on its own.
        hop: teacher-forced accuracy of the second label, the only one that takes a decision.
        hop_given: share of paths completed without a fault once the true hop label is given.
        wrong_arm: the Clever-Hans test. The hop label is replaced by the head of another arm; the share of
            graphs whose labels 3 to l - 1 all follow that arm. None for l = 3, which has no such label.
        own_i, forced_i: accuracy of label i when the model writes alone, and when it is shown the true path.

    hop_given and wrong_arm come from a pass that is shown the path: see `exact_match`.
    """
    right, wrong = text.path(graphs), text.path(graphs, arm=1)
    own = alone(model, text, graphs, precision)
    shown, misled = (forced(model, text, graphs, precision, arm) for arm in (0, 1))
    own_labels, forced_labels = _label_accuracy(own, right), _label_accuracy(shown, right)
    # after the hop label; and before the leaf, which differs from the goal that the query names
    to_the_end, to_the_leaf = slice(3, None), slice(3, -2)
    has_between = graphs.task.path_length > 3
    return {
        "exact": exact_match(own, right),
        "hop": forced_labels[1],
        "hop_given": exact_match(shown[:, to_the_end], right[:, to_the_end]),
        "wrong_arm": exact_match(misled[:, to_the_leaf], wrong[:, to_the_leaf]) if has_between else None,
        **dict(zip(_label_names("own", graphs.task), own_labels, strict=True)),
        **dict(zip(_label_names("forced", graphs.task), forced_labels, strict=True)),
    }


def alone(model: nn.Module, text: StarText, graphs: StarGraphs, precision: str) -> Tensor:
    """[batch, 2 l - 1] tokens that the model writes on its own, greedily."""
    length = 2 * graphs.task.path_length - 1
    return _in_chunks(graphs, precision, lambda some: decode_greedily(model, text.prefix(some), length))


def forced(model: nn.Module, text: StarText, graphs: StarGraphs, precision: str, arm: int = 0) -> Tensor:
    """[batch, 2 l - 1] likeliest tokens, each after the true tokens of the path along `arm` so far."""

    def answer(some: StarGraphs) -> Tensor:
        asked = text.lesson(some, arm)
        return model(asked.inputs, asked.from_position).argmax(dim=-1)

    return _in_chunks(graphs, precision, answer)


@torch.no_grad()
def _in_chunks(graphs: StarGraphs, precision: str, answer: Callable[[StarGraphs], Tensor]) -> Tensor:
    """`answer` of a few graphs at a time, so that a large model's cache fits the memory."""
    parts = [graphs[slice(first, first + CHUNK)] for first in range(0, len(graphs), CHUNK)]
    with torch.autocast(graphs.start.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return torch.cat([answer(some) for some in parts])


def _label_accuracy(said: Tensor, right: Tensor) -> list[float]:
    """Share of right labels at each place of the path; the commas between are left out."""
    return token_accuracy(said[:, ::2], right[:, ::2])


def _label_names(kind: str, task: StarTask) -> list[str]:
    return [f"{kind}_{i + 1}" for i in range(task.path_length)]
