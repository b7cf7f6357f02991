"""Speed of the chapter on concept guidance: a sweep over strengths as one batch, and activations of many texts.

Beside ours stands what the authors' code does: one prompt and one strength at a time, the norms' forward exchanged and
text written by transformers' own `generate`; activations text by text. The model has the size of the chapter's and
random weights: no time depends on what it says, and both ways must say the same.
"""

import functools
import statistics

import torch
from torch import Tensor, nn

from benchmarks.timing import Measure, interleaved, median_ratio
from ntf_utils.data import torchvision_door
from ntf_utils.measures.concept_probes import random_directions
from ntf_utils.models.guidance import Directions, activations, generate, guided

assert torchvision_door  # opened first: transformers imports torchvision on its own
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

VOCABULARY, WIDTH, LAYERS, GUIDED = 500, 96, 6, (2, 3, 4)
PROMPTS, PROMPT_LENGTH, NEW_TOKENS = 16, 12, 24
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, -0.25, -0.5, -1.0, -2.0, -4.0, -8.0)
TEXTS, TEXT_LENGTH = 128, 40


def measure() -> list[Measure]:
    model = llama()
    return [*sweep(model), *collection(model)]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=LAYERS,
        num_attention_heads=4, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def texts(count: int, length: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1))


def sweep(model: LlamaForCausalLM) -> list[Measure]:
    """Text at 13 strengths from each of the prompts."""
    prompts = texts(PROMPTS, PROMPT_LENGTH)
    vectors = random_directions(1, LAYERS, WIDTH, seed=0)[0]
    guide = Directions(vectors, "none", "random", "norm", "benchmark", torch.ones(LAYERS))

    def ours() -> Tensor:
        rows = prompts.repeat(len(STRENGTHS), 1)
        with guided(model, guide, GUIDED, torch.tensor(STRENGTHS).repeat_interleave(PROMPTS)):
            return generate(model, rows, torch.ones_like(rows), NEW_TOKENS).tokens

    def one_by_one() -> Tensor:
        found = []
        for strength in STRENGTHS:
            with Patched(model, vectors, GUIDED, strength):
                for prompt in prompts[:, None]:
                    said = model.generate(
                        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False,
                        eos_token_id=None,
                    )  # fmt: skip
                    found.append(said[0, PROMPT_LENGTH:])
        return torch.stack(found)

    differ = (ours() != one_by_one()).any(dim=1).float().mean().item()
    # a tie of logits may be rounded apart
    assert differ < 0.01, f"{differ:.1%} of the texts differ between the two ways"
    seconds = interleaved({"ours": ours, "one": one_by_one}, rounds=3)
    written = len(STRENGTHS) * PROMPTS * NEW_TOKENS
    size = f"{len(STRENGTHS)} strengths x {PROMPTS} prompts x {NEW_TOKENS} tokens"
    return [
        Measure(f"{size}: one strength, one prompt at a time / ours", median_ratio(seconds, "one", "ours"), "",
                "at least 8"),
        Measure("guided tokens written, ours", written / statistics.median(seconds["ours"]), "per second"),
        Measure("guided tokens written, one at a time", written / statistics.median(seconds["one"]), "per second"),
    ]  # fmt: skip


class Patched:
    """The authors' way to guide: the forward of each norm is exchanged for one that turns its output."""

    def __init__(self, model: nn.Module, vectors: Tensor, layers: tuple[int, ...], strength: float) -> None:
        self.norms = {layer: model.model.layers[layer].input_layernorm for layer in layers}
        self.vectors, self.strength = vectors, strength

    def __enter__(self) -> None:
        for layer, norm in self.norms.items():
            norm.forward = functools.partial(self.turned, norm.forward, self.vectors[layer])

    def __exit__(self, *error: object) -> None:
        for norm in self.norms.values():
            del norm.forward

    def turned(self, plain: functools.partial, vector: Tensor, x: Tensor) -> Tensor:
        x = plain(x)
        if self.strength == 0:
            return x
        moved = x + self.strength * vector / vector.norm()
        return moved * (x.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))


def collection(model: LlamaForCausalLM) -> list[Measure]:
    """The norms' outputs for all tokens of some texts."""
    tokens = texts(TEXTS, TEXT_LENGTH)
    mask = torch.ones_like(tokens)

    def ours() -> Tensor:
        return activations(model, tokens, mask, "norm")

    def one_by_one() -> Tensor:
        return torch.cat([activations(model, tokens[row : row + 1], mask[:1], "norm") for row in range(TEXTS)])

    torch.testing.assert_close(ours(), one_by_one(), rtol=1e-3, atol=1e-4)
    seconds = interleaved({"ours": ours, "one": one_by_one}, rounds=7)
    rates = {name: TEXTS * TEXT_LENGTH / statistics.median(spent) for name, spent in seconds.items()}
    return [
        Measure("activations collected, ours", rates["ours"], "tokens per second"),
        Measure("activations collected, text by text", rates["one"], "tokens per second"),
        Measure("activations: text by text / ours", median_ratio(seconds, "one", "ours"), ""),
    ]
