"""ResNet-20 for small images (He et al., 2016, section 4.2), with a choice of norm: nine blocks in three groups.

With nine blocks a group instead of three it is the paper's ResNet-56.
"""

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal

Norm = Literal["batch", "layer", "none"]


class ResNet20(nn.Module):
    """Maps images [n, channels, height, width] to logits [n, classes].

    Args:
        channels: of the images. classes: outputs.
        width: channels of the first group; the others have twice and four times as many. The paper's is 16.
        norm: "batch" is the paper's; "layer" normalises each image over all its channels and places (as
            `gsaltintas/lmc` does) and needs no running statistics; "none" leaves the norm out.
        blocks: in each of the three groups.
    """

    def __init__(self, channels: int, classes: int, width: int = 16, norm: Norm = "batch", blocks: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none")
        self.norm = normalisation(norm, width)
        sizes = [width] + [size for size in (width, 2 * width, 4 * width) for _ in range(blocks)]
        self.blocks = nn.Sequential(*(Block(a, b, norm) for a, b in pairwise(sizes)))
        self.head = nn.Linear(sizes[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        h = self.blocks(self.norm(self.stem(images)).relu())
        return self.head(h.mean(dim=(2, 3)))


class Block(nn.Module):
    """Two convolutions beside a shortcut; where the channels double, the shortcut skips every second place and fills
    the new channels with zeros (the paper's option A, which has no weights)."""

    def __init__(self, inputs: int, outputs: int, norm: Norm):
        super().__init__()
        self.stride, self.more = (1, 0) if inputs == outputs else (2, outputs - inputs)
        bias = norm == "none"
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=bias)
        self.norm1 = normalisation(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias)
        self.norm2 = normalisation(norm, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return (h + shortcut).relu()


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """A norm for [n, channels, height, width]."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    if norm == "none":
        return nn.Identity()
    raise Refusal(f"norm must be batch, layer or none (got {norm!r})")
