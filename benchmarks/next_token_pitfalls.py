"""Speed of chapter one at the size of its speed targets: G(2,5) with 50 labels, 31 tokens, batches of 64."""

import statistics
from collections.abc import Callable

import torch
from mambapy.mamba import Mamba as MambapyMamba
from mambapy.mamba import MambaConfig
from torch import Tensor, nn

from benchmarks.timing import Measure, cpu, interleaved, median_ratio
from ntf_utils.data import torchvision_door
from ntf_utils.data.star_graphs import StarTask, draw_star_graphs
from ntf_utils.models.decoding import decode_greedily
from ntf_utils.models.mamba import MambaLM
from ntf_utils.models.transformer import Transformer
from ntf_utils.training.loop import Lesson, loss_of

assert torchvision_door  # opened first: transformers imports torchvision on its own
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

TASK = StarTask(degree=2, path_length=5, labels=50)
BATCH, LAYERS, WIDTH, HEADS = 64, 3, 128, 4
MAMBA = {"layers": 3, "width": 64, "state": 8}
DRAWN = 1024  # graphs a call; training draws a batch a step, where fixed costs weigh more
EVALUATED = 500


def measure() -> list[Measure]:
    return [*transformer_step(), *evaluation(), *mamba_step(), *generator()]


def transformer_step() -> list[Measure]:
    """A training step beside its matrix products alone, and beside the same step of transformers' GPT-2."""
    ours = Transformer(TASK.vocabulary, TASK.context, LAYERS, WIDTH, HEADS)
    rivals = {
        "ours": training_step(ours),
        "products": matrix_products,
        "gpt2": training_step(GPT2(ours)),
    }
    if {"avx512_bf16", "amx_bf16"} & set(cpu()["flags"]):
        bf16 = Transformer(TASK.vocabulary, TASK.context, LAYERS, WIDTH, HEADS)
        rivals["bf16"] = training_step(bf16, "bf16")
    seconds = interleaved(rivals, rounds=40)
    to_products = median_ratio(seconds, "ours", "products")
    found = [
        Measure("Transformer step / its products alone", to_products, "", "at most 1.25"),
        Measure("Transformer step", milliseconds(seconds["ours"]), "ms"),
        Measure("its matrix products alone, fp32", milliseconds(seconds["products"]), "ms"),
        Measure("the same step, transformers' GPT-2", milliseconds(seconds["gpt2"]), "ms"),
        Measure("transformers' GPT-2 / ours", median_ratio(seconds, "gpt2", "ours"), ""),
    ]
    if "bf16" in seconds:
        found.append(Measure("Transformer step, bf16 / fp32", median_ratio(seconds, "bf16", "ours"), ""))
    return found


def evaluation() -> list[Measure]:
    """Greedy decoding of the whole path, all tokens of it."""
    model = Transformer(TASK.vocabulary, TASK.context, LAYERS, WIDTH, HEADS).eval()
    prompts = draw_star_graphs(TASK, EVALUATED, torch.Generator().manual_seed(0)).prefix()
    decode = {"ours": lambda: decode_greedily(model, prompts, TASK.path_length)}
    each = milliseconds(interleaved(decode, rounds=15)["ours"]) / EVALUATED
    return [Measure("evaluation, per example", each, "ms", "at most 0.6")]


def mamba_step() -> list[Measure]:
    """A training step beside mambapy's with its parallel and its sequential scan."""
    rivals = {
        "ours": training_step(MambaLM(TASK.vocabulary, **MAMBA)),
        "pscan": training_step(Mambapy(pscan=True)),
        "sequential": training_step(Mambapy(pscan=False)),
    }
    seconds = interleaved(rivals, rounds=10)
    return [
        Measure("Mamba step", milliseconds(seconds["ours"]), "ms", "at most 150"),
        Measure("the same step, mambapy's parallel scan", milliseconds(seconds["pscan"]), "ms"),
        Measure("the same step, mambapy's sequential scan", milliseconds(seconds["sequential"]), "ms"),
        Measure("mambapy's faster scan / ours", median_ratio(seconds, "pscan", "ours"), ""),
    ]


def generator() -> list[Measure]:
    """Graphs a second, with their tokens."""
    random = torch.Generator().manual_seed(0)

    def draw() -> None:
        graphs = draw_star_graphs(TASK, DRAWN, random)
        graphs.prefix(), graphs.path()

    seconds = interleaved({"ours": draw}, rounds=50)["ours"]
    rate = DRAWN / statistics.median(seconds)
    return [Measure("graphs drawn and tokenised, G(2,5)", rate, "per second", "at least 100,000")]


def training_step(model: nn.Module, precision: str = "fp32") -> Callable[[], None]:
    """Forward, loss on the path's tokens, backward, clipping and AdamW, on one fixed batch."""
    graphs = draw_star_graphs(TASK, BATCH, torch.Generator().manual_seed(0))
    inputs = torch.cat([graphs.prefix(), graphs.path()[:, :-1]], dim=1)
    lesson = Lesson(inputs, graphs.path(), TASK.prefix_length - 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss = loss_of(model, lesson, precision)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


def matrix_products() -> None:
    """Every matrix product of a training step of our Transformer, forward and both backward ones.

    The last block needs queries, output and MLP for the target positions only, as in our model.
    """
    tokens, targets = BATCH * TASK.context, BATCH * TASK.path_length
    for _ in range(LAYERS - 1):
        linear_products(tokens, WIDTH, 3 * WIDTH)
        attention_products(TASK.context)
        linear_products(tokens, WIDTH, WIDTH)
        linear_products(tokens, WIDTH, 4 * WIDTH)
        linear_products(tokens, 4 * WIDTH, WIDTH)
    linear_products(targets, WIDTH, WIDTH)
    linear_products(tokens, WIDTH, 2 * WIDTH)
    attention_products(TASK.path_length)
    linear_products(targets, WIDTH, WIDTH)
    linear_products(targets, WIDTH, 4 * WIDTH)
    linear_products(targets, 4 * WIDTH, WIDTH)
    linear_products(targets, WIDTH, TASK.vocabulary)


def linear_products(rows: int, fan_in: int, fan_out: int) -> None:
    """[rows, fan_in] through a matrix, and the gradients of input and matrix."""
    x, weight, y = filled(rows, fan_in), filled(fan_out, fan_in), filled(rows, fan_out)
    x @ weight.T
    y @ weight
    y.T @ x


def attention_products(queries: int) -> None:
    """Scores and mixing, and the gradients of weights, values, queries and keys, for every head."""
    size, batch = WIDTH // HEADS, BATCH * HEADS
    query, value = filled(batch, queries, size), filled(batch, TASK.context, size)
    scores = filled(batch, queries, TASK.context)
    query @ value.mT
    scores @ value
    query @ value.mT
    scores.mT @ query
    scores @ value
    scores.mT @ query


_filled: dict[tuple[int, ...], Tensor] = {}


def filled(*shape: int) -> Tensor:
    """A random tensor of that shape, made once."""
    if shape not in _filled:
        _filled[shape] = torch.randn(shape)
    return _filled[shape]


class GPT2(nn.Module):
    """transformers' GPT-2 of our size, called like our model; logits for the targets only, no dropout."""

    def __init__(self, ours: Transformer):
        super().__init__()
        sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": ours.context}
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        self.network = GPT2LMHeadModel(GPT2Config(vocab_size=TASK.vocabulary, **sizes, **no_dropout))

    def forward(self, tokens: Tensor, from_position: int) -> Tensor:
        kept = tokens.shape[1] - from_position
        return self.network(tokens, use_cache=False, logits_to_keep=kept).logits


class Mambapy(nn.Module):
    """mambapy's blocks of our size, called like our model."""

    def __init__(self, pscan: bool):
        super().__init__()
        width = MAMBA["width"]
        self.embedding = nn.Embedding(TASK.vocabulary, width)
        self.mamba = MambapyMamba(
            MambaConfig(d_model=width, n_layers=MAMBA["layers"], d_state=MAMBA["state"], pscan=pscan)
        )
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, TASK.vocabulary, bias=False)

    def forward(self, tokens: Tensor, from_position: int) -> Tensor:
        return self.head(self.norm(self.mamba(self.embedding(tokens))[:, from_position:]))


def milliseconds(seconds: list[float]) -> float:
    """Median."""
    return 1000 * statistics.median(seconds)
