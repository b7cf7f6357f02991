"""Encoders without a classifier: what is left of an image network when its last layer is cut off.

VGG without batch norm (Simonyan and Zisserman, 2015, its convolutions alone) and ResNet for small images (He et al.,
2016, with a 3 x 3 stem and no max-pool; of stride 1, or of 2 where the name ends in "medium", as Anagnostidis et al.,
2023, have it). Both in the papers' width, 64, or scaled down. Convolutions are
drawn from N(0, 2 / fan_out) (He et al., 2015), biases start at 0, as Sarnthein et al. (2023, appendix E.1) have it.
"""

from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from ntf_utils.models.resnet import ResNet20
from ntf_utils.refusal import Refusal, nearest

EncoderName = Literal[
    "vgg11", "vgg13", "vgg16", "vgg19", "resnet8", "resnet8_medium", "resnet18", "resnet18_medium", "resnet34",
    "resnet20", "resnet56"
]  # fmt: skip
ENCODERS: tuple[str, ...] = get_args(EncoderName)

# convolutions in each of the five groups, whose channels are 1, 2, 4, 8 and 8 times the width
_VGG = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
# blocks in each of the groups, whose channels are 1, 2, 4 and 8 times the width; resnet8 is a small one of ours
_RESNET = {"resnet8": (1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
MEDIUM = "_medium"
_SMALL_RESNET = {"resnet20": 3, "resnet56": 9}  # blocks in each of three groups


class VGG(nn.Module):
    """Maps images [n, channels, height, width] to embeddings [n, 8 * width].

    Args:
        channels: of the images.
        groups: convolutions in each group; a 2 x 2 max-pool ends a group while there is more than one place to pool.
        width: channels of the first group; 64 is the paper's, with an embedding of 512.
    """

    def __init__(self, channels: int, groups: tuple[int, ...], width: int = 64):
        super().__init__()
        sizes = [width * min(2**group, 8) for group, count in enumerate(groups) for _ in range(count)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise([channels, *sizes]))
        self.ends = {sum(groups[: group + 1]) - 1 for group in range(len(groups))}
        self.outputs = sizes[-1]
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for place, convolution in enumerate(self.convolutions):
            h = convolution(h)
            if place in self.ends and min(h.shape[-2:]) > 1:
                h = nn.functional.max_pool2d(h, 2)  # before the ReLU: the same result from a quarter of the places
            h = h.relu()
        return h.mean(dim=(2, 3))  # of a single place for images of 32 x 32


class ResNet(nn.Module):
    """Maps images [n, channels, height, width] to embeddings [n, 8 * width] with four groups; basic blocks, batch norm.

    Args:
        channels: of the images.
        groups: blocks in each group. width: channels of the first; 64 is the paper's, with an embedding of 512.
        stride: of the stem.
    """

    def __init__(self, channels: int, groups: tuple[int, ...], width: int = 64, stride: int = 1):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        sizes = [width] + [width * 2**group for group, count in enumerate(groups) for _ in range(count)]
        self.blocks = nn.Sequential(*(ResidualBlock(a, b) for a, b in pairwise(sizes)))
        self.ends = [sum(groups[: group + 1]) - 1 for group in range(len(groups))]
        self.outputs = sizes[-1]
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.norm(self.stem(images)).relu()).mean(dim=(2, 3))

    def by_layer(self, images: Tensor) -> dict[str, Tensor]:
        """Activations [n, channels of the layer], averaged over places: "stem", "group 1", "group 2", ...; the last
        one is the embedding."""
        h = self.norm(self.stem(images)).relu()
        found = {"stem": h.mean(dim=(2, 3))}
        for place, block in enumerate(self.blocks):
            h = block(h)
            if place in self.ends:
                found[f"group {len(found)}"] = h.mean(dim=(2, 3))
        return found


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; where the channels double, the shortcut is a 1 x 1 convolution (option B)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (h + self.shortcut(x)).relu()


def initialise(net: nn.Module) -> None:
    """Kaiming-normal convolutions by fan-out, biases 0; batch norm keeps gain 1 and bias 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build_encoder(name: str, channels: int, width: int) -> nn.Module:
    """A fresh encoder from torch's global generator; its attribute `outputs` is the size of an embedding.

    Args:
        name: one of `ENCODERS`. channels: of the images.
        width: channels of the first group; the papers' are 64, and 16 for ResNet-20 and ResNet-56.

    Raises:
        Refusal: no such encoder.
    """
    if name in _VGG:
        return VGG(channels, _VGG[name], width)
    if name.removesuffix(MEDIUM) in _RESNET and name in ENCODERS:
        return ResNet(channels, _RESNET[name.removesuffix(MEDIUM)], width, 2 if name.endswith(MEDIUM) else 1)
    if name in _SMALL_RESNET:
        net = ResNet20(channels, 1, width, blocks=_SMALL_RESNET[name])
        net.head, net.outputs = nn.Identity(), 4 * width
        initialise(net)
        return net
    raise Refusal(f"unknown encoder {name!r}: {nearest(name, ENCODERS)}")


def check_side(name: str, side: int) -> None:
    """Raises Refusal where square images of that many pixels are too small for a residual encoder: before its last
    group, nothing would be left to halve."""
    groups = _RESNET.get(name.removesuffix(MEDIUM)) or ((0, 0, 0) if name in _SMALL_RESNET else (0,))
    least = 2 ** (len(groups) - 1) * (2 if name.endswith(MEDIUM) else 1)
    if side < least:
        raise Refusal(f"{name} needs images of at least {least} x {least} pixels (got {side} x {side})")
