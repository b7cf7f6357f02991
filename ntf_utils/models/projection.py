"""Projection heads: what stands on an encoder in training and is thrown away afterwards. `Projector` is plain.

`ProjectionHead` is that of self-distillation (DINO's, Caron et al., 2021) as Sarnthein et al. (2023, section 3) have
it:

    u = MLP(x)                 [n, hidden], GELU after each layer
    z = W u + b                [n, bottleneck]
    z~ = z / |z|               feature norm
    y = V~ z~                  [n, outputs]; the rows of V~ have norm 1, no bias, no learnt gain: weight norm

Weights are drawn from a normal distribution with standard deviation 0.02, cut off at 2; biases start at 0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal

SPREAD = 0.02


class ProjectionHead(nn.Module):
    """Maps embeddings [n, inputs] to logits [n, outputs].

    Args:
        inputs: size of an embedding. hidden, bottleneck, outputs: 2048, 256 and 65,536 in the paper.
        feature_norm: divide the bottleneck's features by their norm.
        weight_norm: divide each output's weights by their norm. The published code computes this norm and then
            multiplies by the weights without it (safelix/dinopl, from 9c88484 on): False is what it does.

    Raises:
        Refusal: hidden layers narrower than the bottleneck, which would then be none.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        outputs: int = 65_536,
        feature_norm: bool = True,
        weight_norm: bool = True,
    ):
        super().__init__()
        check_head(hidden, bottleneck)
        self.hidden1 = nn.Linear(inputs, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.bottleneck = nn.Linear(hidden, bottleneck)
        self.last = nn.Parameter(torch.empty(outputs, bottleneck))
        self.feature_norm, self.weight_norm = feature_norm, weight_norm
        for layer in (self.hidden1, self.hidden2, self.bottleneck):
            nn.init.trunc_normal_(layer.weight, std=SPREAD)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.last, std=SPREAD)

    def squeeze(self, embeddings: Tensor) -> Tensor:
        """[n, inputs] -> the bottleneck's features z~ [n, bottleneck], in fp32."""
        h = F.gelu(self.hidden2(F.gelu(self.hidden1(embeddings))))
        with torch.autocast(embeddings.device.type, enabled=False):
            z = self.bottleneck(h.to(self.bottleneck.weight.dtype))
            return F.normalize(z, dim=1) if self.feature_norm else z

    def expand(self, features: Tensor) -> Tensor:
        """z~ [n, bottleneck] -> logits [n, outputs], in fp32."""
        with torch.autocast(features.device.type, enabled=False):
            weights = F.normalize(self.last, dim=1) if self.weight_norm else self.last
            return features @ weights.T

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.expand(self.squeeze(embeddings))


def check_head(hidden: int, bottleneck: int) -> None:
    """Raises Refusal where the hidden layers are narrower than the bottleneck."""
    if hidden < bottleneck:
        sizes = f"hidden layers of {hidden}, bottleneck of {bottleneck}"
        raise Refusal(f"a head must not be narrower than its bottleneck (got {sizes})")


class Projector(nn.Module):
    """The head of Anagnostidis et al. (2023, [repo: models]): embeddings [n, inputs] -> logits [n, classes].

    Two linear layers without bias, a ReLU between, no norm.

    Args:
        inputs: size of an embedding. hidden: 65,536 in the authors' command.
    """

    def __init__(self, inputs: int, hidden: int, classes: int):
        super().__init__()
        self.first = nn.Linear(inputs, hidden, bias=False)
        self.last = nn.Linear(hidden, classes, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.last(self.first(embeddings).relu())
