"""Pretrained causal language models of Hugging Face, called like our own networks."""

import copy
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ntf_utils.models.causal import load_network


class PretrainedLM(nn.Module):
    """Gives a causal language model of transformers the interface of `Transformer`; turns its dropout off.

    Args:
        network: e.g. GPT2LMHeadModel; its forward must know `logits_to_keep`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as in the authors' models

    @property
    def vocabulary(self) -> int:
        return self.network.config.vocab_size

    @property
    def context(self) -> int:
        return self.network.config.max_position_embeddings

    def forward(self, tokens: Tensor, from_position: int = 0) -> Tensor:
        """[batch, time] tokens -> [batch, time - from_position, vocabulary] logits from there on."""
        time = tokens.shape[1]
        if not 0 <= from_position < time <= self.context:
            raise ValueError(f"from_position {from_position} and {time} tokens do not fit a context of {self.context}")
        return self.network(tokens, use_cache=False, logits_to_keep=time - from_position).logits

    def start(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Reads a prompt: [batch, vocabulary] logits after its last token, and the cache for `step`."""
        read = self.network(tokens, use_cache=True, logits_to_keep=1)
        return read.logits[:, -1], read.past_key_values

    def step(self, token: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """One more token, [batch]: the next logits, [batch, vocabulary], and the longer cache."""
        cache = copy.deepcopy(cache)  # transformers lengthens the cache it is given
        read = self.network(token[:, None], past_key_values=cache, use_cache=True)
        return read.logits[:, -1], read.past_key_values


def load_pretrained(model: str | Path) -> PretrainedLM:
    """Loads a causal language model in fp32, e.g. `load_pretrained("openai-community/gpt2-large")`.

    Args:
        model: a name on the Hugging Face hub, or a folder that holds config.json and *.safetensors.

    Raises:
        Refusal: as `causal.load_network`.
    """
    return PretrainedLM(load_network(model))
