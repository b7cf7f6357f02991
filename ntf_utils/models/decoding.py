"""Greedy decoding with a cache, for every model that has `start` and `step`."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """A model that reads a prompt once and then one token at a time."""

    def start(self, tokens: Tensor) -> tuple[Tensor, Any]: ...

    def step(self, token: Tensor, cache: Any) -> tuple[Tensor, Any]: ...


@torch.no_grad()
def decode_greedily(model: Decoder, prompt: Tensor, length: int) -> Tensor:
    """The `length` likeliest tokens after the prompt, one by one: [batch, time] -> [batch, length].

    The authors decode with temperature 0.8 and top_k = 1 (`evaluate.py`), which is the same.
    """
    logits, cache = model.start(prompt)
    written = [logits.argmax(dim=-1)]
    while len(written) < length:
        logits, cache = model.step(written[-1], cache)
        written.append(logits.argmax(dim=-1))
    return torch.stack(written, dim=1)


def in_chunks(say: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """`say` of a long batch, piece by piece: as much as fits a CPU's cache, or a small share of a GPU's memory.

    Args:
        say: maps tensors [batch, ...] to one tensor [batch, ...].
        batches: of equal length.
    """
    size = 128 if batches[0].device.type == "cpu" else 2048
    return torch.cat([say(*piece) for piece in zip(*(batch.split(size) for batch in batches), strict=True)])
