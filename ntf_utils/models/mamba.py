"""A Mamba language model (Gu & Dao, 2023): a state-space model that chooses its step size, input and output
by the token.

Block: norm, a short causal convolution over time, the selective scan, a gate, and back onto the residual
stream. Inside, tensors are time-major, [time, batch, channels], so that a step of the scan reads and writes
whole contiguous slices. The scan has a backward of its own: autograd through the loop takes several times as
long (`benchmarks/next_token_pitfalls.py`).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

try:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as fused_scan
except ImportError:  # the authors' CUDA kernel is optional
    fused_scan = None

# of a block: the convolution's last inputs, [conv - 1, batch, inner], and the scan's state, [N, batch, inner]
Memory = tuple[Tensor, Tensor]
State = list[Memory]


class MambaLM(nn.Module):
    """Maps tokens to next-token logits; called like `Transformer`, but with no longest sequence.

    Args:
        vocabulary: number of tokens.
        layers, width: blocks and residual width.
        state: N, numbers kept per channel.
        conv: taps of the convolution over time.
        expand: channels inside a block, as a multiple of width.
        dt_rank: rank of the map to the step sizes; "auto" is width / 16, rounded up.
        init: "fan_in" draws embeddings from N(0, 0.5), each matrix from N(0, 1/sqrt(fan_in)) with residual
            outputs scaled by 1/sqrt(layers), and has a head of its own; "mamba" is the authors'
            (`mixer_seq_simple.py`): embeddings from N(0, 0.02) tied to the head, matrices uniform as in
            nn.Linear, outputs scaled likewise. In both, step sizes start log-uniform in [0.001, 0.1] and A at
            -1..-N.
    """

    def __init__(
        self,
        vocabulary: int,
        layers: int,
        width: int,
        state: int = 16,
        conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        init: str = "fan_in",
    ):
        super().__init__()
        sizes = {"vocabulary": vocabulary, "layers": layers, "width": width}
        sizes |= {"state": state, "conv": conv, "expand": expand}
        rank = math.ceil(width / 16) if dt_rank == "auto" else dt_rank
        for name, size in (sizes | {"dt_rank": rank}).items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number of at least 1 (got {size!r})")
        if init not in ("fan_in", "mamba"):
            raise ValueError(f"unknown init {init!r}: 'fan_in' or 'mamba'")
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, expand * width, state, conv, rank) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if init == "mamba":
            self.head.weight = self.token_embedding.weight
        self._initialise(init)

    def forward(self, tokens: Tensor, from_position: int = 0) -> Tensor:
        """[batch, time] tokens -> [batch, time - from_position, vocabulary] logits from there on."""
        time = tokens.shape[1]
        if not 0 <= from_position < time:
            raise ValueError(f"from_position must be one of the {time} positions (got {from_position})")
        x = self.token_embedding(tokens.T)  # [time, batch, width]
        for block in self.blocks[:-1]:
            x, _ = block(x)
        x, _ = self.blocks[-1](x, from_position)
        return self.head(self.norm(x)).transpose(0, 1)

    def start(self, tokens: Tensor) -> tuple[Tensor, State]:
        """Reads a prompt: [batch, vocabulary] logits after its last token, and the state for `step`."""
        return self._advance(tokens.T, [None] * len(self.blocks))

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """One more token, [batch]: the next logits, [batch, vocabulary], and the state, of the same size."""
        return self._advance(token[None], state)

    def _advance(self, tokens: Tensor, state: list[Memory | None]) -> tuple[Tensor, State]:
        """Reads [time, batch] more tokens; logits after the last of them."""
        x, advanced = self.token_embedding(tokens), []
        for block, memory in zip(self.blocks, state, strict=True):
            x, memory = block(x, len(tokens) - 1 if block is self.blocks[-1] else 0, memory)
            advanced.append(memory)
        return self.head(self.norm(x[-1])), advanced

    @torch.no_grad()
    def _initialise(self, init: str) -> None:
        self.token_embedding.weight.normal_(std=0.5 if init == "fan_in" else 0.02)
        if init == "fan_in":
            self.head.weight.normal_(std=0.02)
        for block in self.blocks:
            if init == "fan_in":
                for linear in (block.signal, block.gate, block.select, block.out):
                    linear.weight.normal_(std=1 / math.sqrt(linear.in_features))
            block.out.weight.mul_(1 / math.sqrt(len(self.blocks)))


class Block(nn.Module):
    """One Mamba block of `inner` channels, `state` numbers each, on an RMS norm and added to the stream."""

    def __init__(self, width: int, inner: int, state: int, conv: int, dt_rank: int):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.signal = nn.Linear(width, inner, bias=False)  # this and `gate` are the two halves of `in_proj`
        self.gate = nn.Linear(width, inner, bias=False)
        bound = 1 / math.sqrt(conv)  # nn.Conv1d's own initialisation
        self.conv_weight = nn.Parameter(torch.empty(conv, inner).uniform_(-bound, bound))  # latest tap last
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.select = nn.Linear(inner, dt_rank + 2 * state, bias=False)  # what the token selects: dt, B and C
        self.dt = nn.Linear(dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width, bias=False)
        self._initialise_dt()

    def forward(
        self, x: Tensor, from_position: int = 0, memory: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        """[time, batch, width] -> [time - from_position, batch, width], and the memory after the last one."""
        time, batch, _ = x.shape
        taps, inner = self.conv_weight.shape
        h = self.norm(x)
        recent, state = (x.new_zeros(taps - 1, batch, inner), None) if memory is None else memory
        inputs = torch.cat([recent, self.signal(h)])  # [conv - 1 + time, batch, inner]
        mixed = self.conv_bias
        for tap, weight in enumerate(self.conv_weight):
            mixed = torch.addcmul(mixed, inputs[tap : tap + time], weight)
        u = F.silu(mixed)
        rank, size = self.dt.in_features, self.A_log.shape[1]
        dt, B, C = self.select(u).split([rank, size, size], dim=2)
        dt = F.softplus(self.dt(dt))  # [time, batch, inner]
        y, state = selective_scan(u, dt, -self.A_log.exp(), B, C, state, from_position)
        y = torch.addcmul(y, u[from_position:], self.D) * F.silu(self.gate(h[from_position:]))
        return x[from_position:] + self.out(y), (inputs[time:], state)

    @torch.no_grad()
    def _initialise_dt(self) -> None:
        """As in `mamba_simple.py`: softplus(bias) is log-uniform, weights are within 1/sqrt(rank)."""
        self.dt.weight.uniform_(-(self.dt.in_features**-0.5), self.dt.in_features**-0.5)
        dt = torch.empty_like(self.dt.bias).uniform_(math.log(0.001), math.log(0.1)).exp()
        self.dt.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus


@torch.compiler.disable  # tracing would unroll the loop over time
def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    from_position: int = 0,
) -> tuple[Tensor, Tensor]:
    """The recurrence h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, y_t = C_t h_t (Gu & Dao, 2023, Algorithm 2).

    Args:
        u, dt: [time, batch, channels] input and step sizes.
        A: [channels, N] negative rates.
        B, C: [time, batch, N] input and output weights.
        state: [N, batch, channels] h before the first position; None means zero.
        from_position: y is computed for the positions from there on.

    Returns:
        y, [time - from_position, batch, channels], and h after the last position, [N, batch, channels].
    """
    u, dt, B, C = (x.to(A.dtype) for x in (u, dt, B, C))  # under autocast too, the recurrence is in fp32
    if u.is_cuda and fused_scan is not None and state is None:
        y, state = scan_by_kernel(u, dt, A, B, C)
        return y[from_position:], state
    if state is None:
        state = u.new_zeros(A.shape[1], *u.shape[1:])
    return SelectiveScan.apply(u, dt, A, B, C[from_position:], state)


def scan_by_kernel(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """`selective_scan` from a zero state by the authors' CUDA kernel, which wants [batch, features, time]."""
    u, dt, B, C = (x.permute(1, 2, 0).contiguous() for x in (u, dt, B, C))
    y, state = fused_scan(u, dt, A, B, C, return_last_state=True)  # state: [batch, channels, N]
    return y.permute(2, 0, 1), state.permute(2, 0, 1)


class SelectiveScan(torch.autograd.Function):
    """`selective_scan` by a loop over time; C has one row a position to be read out, the last one last."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C, state):
        skipped = len(u) - len(C)
        rates, drive = A.T.contiguous()[:, None], dt * u  # [N, 1, channels], [time, batch, channels]
        B_, C_ = (x.transpose(1, 2)[..., None] for x in (B, C))  # [time, N, batch, 1]
        decays, states = [], [state]  # [N, batch, channels] each
        y = torch.empty_like(u[skipped:])
        keep = any(ctx.needs_input_grad)
        for t in range(len(u)):
            decay = (dt[t] * rates).exp_()
            state = (drive[t] * B_[t]).addcmul_(decay, state)
            if keep:
                decays.append(decay)
                states.append(state)
            if t >= skipped:
                torch.sum(state * C_[t - skipped], dim=0, out=y[t - skipped])
        if keep:
            ctx.save_for_backward(u, dt, A, B, C, *decays, *states)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_state):
        u, dt, A, B, C, *kept = ctx.saved_tensors
        time, skipped = len(u), len(u) - len(C)
        decays, states = kept[:time], kept[time:]
        rates, drive = A.T.contiguous()[:, None], dt * u
        B_, C_ = (x.transpose(1, 2)[..., None] for x in (B, C))
        grad_drive, grad_dt = torch.empty_like(u), torch.empty_like(u)
        grad_B, grad_C = (x.new_empty(len(x), x.shape[2], x.shape[1]) for x in (B, C))  # [time, N, batch]
        grad_A = torch.zeros_like(states[0])  # summed over the batch at the end
        g = grad_state.clone()  # gradient of the state after position t
        for t in reversed(range(time)):
            if t >= skipped:
                torch.sum(states[t + 1] * grad_y[t - skipped], dim=2, out=grad_C[t - skipped])
                g.addcmul_(C_[t - skipped], grad_y[t - skipped])
            torch.sum(g * drive[t], dim=2, out=grad_B[t])
            torch.sum(g * B_[t], dim=0, out=grad_drive[t])
            g.mul_(decays[t])
            grad_exponent = g * states[t]  # of dt_t A
            grad_A.addcmul_(grad_exponent, dt[t])
            torch.sum(grad_exponent.mul_(rates), dim=0, out=grad_dt[t])
        grad_B, grad_C = grad_B.transpose(1, 2), grad_C.transpose(1, 2)
        return grad_drive * dt, grad_dt.addcmul_(grad_drive, u), grad_A.sum(1).T, grad_B, grad_C, g
