"""A decoder-only Transformer: GPT-2's layout (pre-LN, learned positions, tanh-GELU, biases, no dropout).

Two things make it quick without changing a number. Logits are computed for the target positions only, and the last
block runs its queries and its MLP on those positions only; the prefix is needed there as keys and values alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Keys over queries in the "mimetic" start. In pilots on reversed star graphs every seed learned with 0.6; with 1 an
# occasional one, and with 1.6 every second one, attended too sharply to leave its first plateau.
MIMETIC = 0.6

Cache = list[tuple[Tensor, Tensor]]  # keys and values of each block, [batch, heads, time, width / heads]


class Transformer(nn.Module):
    """Maps tokens to next-token logits.

    Args:
        vocabulary: number of tokens.
        context: longest sequence.
        layers, width, heads: blocks, residual width and attention heads; heads divide width.
        init: "gpt2" draws all from N(0, 0.02), residual outputs scaled by 1/sqrt(2 layers), and ties the head to
            the token embedding (Radford et al., 2019). "fan_in" draws embeddings from N(0, 0.5) and matrices from
            N(0, 1/sqrt(fan_in)), residual outputs scaled likewise, and has a head of its own. "mimetic" is "fan_in"
            with positions as sinusoids and keys along the queries, so that a token first attends to its like (after
            Trockman & Kolter, 2023): lookups are then learned in hundreds of updates.
    """

    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int, init: str = "mimetic"):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width: {width} / {heads}")
        self.context = context
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if init == "gpt2":
            self.head.weight = self.token_embedding.weight
        elif init not in ("fan_in", "mimetic"):
            raise ValueError(f"unknown init {init!r}: 'gpt2', 'fan_in' or 'mimetic'")
        self._initialise(init)

    def forward(self, tokens: Tensor, from_position: int = 0) -> Tensor:
        """[batch, time] tokens -> [batch, time - from_position, vocabulary] logits of the positions from there on."""
        x = self._embed(tokens, 0)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.head(self.norm(self.blocks[-1](x, from_position)))

    def start(self, tokens: Tensor) -> tuple[Tensor, Cache]:
        """Reads a prompt: [batch, vocabulary] logits after its last token, and the cache that `step` needs."""
        x, cache = self._embed(tokens, 0), []
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            x, *kept = block.read(x, x.shape[1] - 1 if last else 0)
            cache.append(tuple(kept))
        return self.head(self.norm(x[:, -1])), cache

    def step(self, token: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """One more token, [batch]: the next logits, [batch, vocabulary], and the longer cache."""
        x = self._embed(token[:, None], cache[0][0].shape[2])
        longer = []
        for block, kept in zip(self.blocks, cache, strict=True):
            x, *kept = block.read(x, past=kept)
            longer.append(tuple(kept))
        return self.head(self.norm(x[:, -1])), longer

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        """[batch, time, width] of token plus position; the first token stands at `position`."""
        time = tokens.shape[1]
        if position + time > self.context:
            raise ValueError(f"{position + time} tokens do not fit a context of {self.context}")
        return self.token_embedding(tokens) + self.position_embedding.weight[position : position + time]

    @torch.no_grad()
    def _initialise(self, init: str) -> None:
        residual = 1 / math.sqrt(2 * len(self.blocks))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1)
            elif init == "gpt2" or name == "head.weight":
                parameter.normal_(std=0.02)
            elif "embedding" in name:
                parameter.normal_(std=0.5)
            else:
                parameter.normal_(std=1 / math.sqrt(parameter.shape[1]))
            if name.endswith(("merge.weight", "down.weight")):
                parameter.mul_(residual)
        if init == "mimetic":
            self.position_embedding.weight.copy_(_sinusoids(*self.position_embedding.weight.shape))
            for block in self.blocks:
                query, key, _ = block.query_key_value.weight.chunk(3)
                key.copy_(MIMETIC * query)


def _sinusoids(context: int, width: int) -> Tensor:
    """[context, width] positions as in Vaswani et al. (2017), with periods up to 100 tokens; mean square 1/4."""
    rate = 100 ** (-torch.arange(0, width, 2) / width)
    angle = torch.arange(context)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width] / math.sqrt(2)


class Block(nn.Module):
    """Causal self-attention, then an MLP of four times the width, each on a layer norm and added to the stream."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, from_position: int = 0) -> Tensor:
        """[batch, time, width] -> [batch, time - from_position, width], each position seeing itself and its past."""
        return self.read(x, from_position)[0]

    def read(
        self, x: Tensor, from_position: int = 0, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, with the keys and values ([batch, heads, time, width / heads] each) for the cache.

        With a past, x is one new position, which sees all keys.
        """
        h = self.attention_norm(x)
        time, width = x.shape[1:]
        mask = None
        if from_position == 0:
            query, key, value = self._split(self.query_key_value(h), 3)
        else:
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            (query,) = self._split(F.linear(h[:, from_position:], weight[:width], bias[:width]), 1)
            key, value = self._split(F.linear(h, weight[width:], bias[width:]), 2)
            mask = torch.ones(time - from_position, time, dtype=torch.bool, device=x.device).tril(from_position)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        whole = from_position == 0 and past is None
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=whole)
        return self._finish(x[:, from_position:], mixed), key, value

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[batch, time, parts * width] -> `parts` of [batch, heads, time, width / heads]."""
        return tuple(part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, dim=2))

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Adds the merged heads ([batch, heads, time, width / heads]) and the MLP to the stream."""
        x = x + self.merge(mixed.transpose(1, 2).flatten(2))
        return x + self.down(tanh_gelu(self.up(self.mlp_norm(x))))


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU in the tanh form of Hendrycks & Gimpel (2016), Eq. 2, as GPT-2 uses it."""
    on_cpu_in_full = x.device.type == "cpu" and x.dtype == torch.float32
    return _SigmoidGELU.apply(x) if on_cpu_in_full else F.gelu(x, approximate="tanh")


class _SigmoidGELU(torch.autograd.Function):
    """The same function as x * sigmoid(2 z), z = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh z) / 2 = sigmoid(2 z).

    torch's tanh form costs as much as the matrix products around it on CPUs without AVX-512; this takes half the time
    (`benchmarks/next_token_pitfalls.py`).
    """

    SLOPE, CUBIC = torch.tensor(math.sqrt(8 / math.pi)), 0.044715 * math.sqrt(8 / math.pi)

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        gate = torch.addcmul(_SigmoidGELU.SLOPE, x, x, value=_SigmoidGELU.CUBIC).mul_(x).sigmoid_()
        if not ctx.needs_input_grad[0]:
            return gate.mul_(x)
        y = x * gate
        ctx.save_for_backward(x, gate, y)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        # d/dx = gate + (y - y gate) (slope + 3 cubic x^2)
        x, gate, y = ctx.saved_tensors
        rate = torch.addcmul(_SigmoidGELU.SLOPE, x, x, value=3 * _SigmoidGELU.CUBIC)
        return torch.addcmul(y, y, gate, value=-1).mul_(rate).add_(gate).mul_(grad)
