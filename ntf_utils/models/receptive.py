"""One family of networks from fully connected to convolutional: what a unit sees, and with whom it shares weights.

Every member has a first layer with the weight matrix W = M * gather(w): a mask M says which inputs a unit sees,
and the gather says which of the learned numbers w stands where (`ReceptiveLayer.matrix` writes W out).

| kind | sees | shares |
|---|---|---|
| dense | the whole image | nothing |
| local | a square of k x k pixels | nothing: each position owns its weights |
| convolutional | the same squares | every position has the same weights and bias |
| random_sparse | as many pixels as `local`, drawn at random for each position | nothing |

So dense against local asks what sparsity does, local against convolutional what sharing does, and local against
random_sparse whether it matters that the pixels lie together. Local and convolutional cost the same multiplications.
Weights are drawn from N(0, 2 / fan_in) (He et al., 2015), where fan_in is the number of inputs a unit really sees:
a dense layer's fan-in would make a sparse layer start too small. Biases start at 0.

What the units see is gathered from the images once (`see`), and the layer is then a plain product (`respond`): so a
data set that never changes is gathered once for all steps. Matrices are kept as [inputs, outputs]: the batched
products of many stacked networks read that faster than nn.Linear's [outputs, inputs], by about a fifth.
"""

import math
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal, nearest

Kind = Literal["dense", "local", "convolutional", "random_sparse"]
KINDS: tuple[str, ...] = get_args(Kind)
NARROW = 32  # outputs: fewer than a product has at full speed


class Dense(nn.Module):
    """inputs [n, inputs] -> [n, outputs]; an nn.Linear with its weight transposed and He's initialisation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * math.sqrt(2 / inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return product(inputs, self.weight) + self.bias


def product(inputs: Tensor, weight: Tensor) -> Tensor:
    """inputs [..., n, inputs] @ weight [..., inputs, outputs].

    With few outputs it is written the other way round, which batched products do three times as fast, and likewise
    their gradient.
    """
    return (weight.mT @ inputs.mT).mT if weight.shape[-1] < NARROW else inputs @ weight


class ReceptiveLayer(nn.Module):
    """A layer of units at the positions of a grid, each seeing `kernel` x `kernel` places of every input channel.

    Args:
        kind: see the module.
        shape: (channels, height, width) of the input.
        channels: units at each position. kernel, stride, padding: as in nn.Conv2d; padding is with zeros.
        channels_last: the input vector runs over places first and channels second; else over channels first, as
            images do. The output runs over channels first for a convolution and over positions first otherwise.
        seed: of the pixels that "random_sparse" sees. They belong to the architecture, so all members of a stack
            and both ends of a path share them.

    Raises:
        Refusal: an unknown kind, or sizes that leave no position.
    """

    def __init__(
        self,
        kind: Kind,
        shape: tuple[int, int, int],
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        channels_last: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        if kind not in KINDS:
            raise Refusal(f"unknown kind of layer {kind!r}: {nearest(kind, KINDS)}")
        self.kind, self.shape, self.channels = kind, shape, channels
        self.stride, self.padding = stride, padding
        self.inputs = math.prod(shape)
        fields, self.grid = receptive_fields(shape, kernel, stride, padding, channels_last)
        if kind == "random_sparse":
            fields = scattered(fields, self.inputs, seed)
        self.positions, self.fan_in = fields.shape
        self.units = self.positions * channels
        # not part of the state: no member has fields of its own
        self.register_buffer("fields", fields, persistent=False)

        if kind == "dense":
            self.fan_in = self.inputs
        weight, bias = (self.positions, self.fan_in, channels), (self.positions, channels)
        if kind == "dense":
            weight, bias = (self.inputs, self.units), (self.units,)
        if kind == "convolutional":
            weight, bias = (channels, shape[0], kernel, kernel), (channels,)
        self.weight = nn.Parameter(torch.randn(weight) * math.sqrt(2 / self.fan_in))
        self.bias = nn.Parameter(torch.zeros(bias))

    def see(self, inputs: Tensor) -> Tensor:
        """[n, inputs] -> what each position sees, [n, positions, fan_in].

        A dense layer gives the inputs themselves, and so does a convolution: torch's own finds its way faster.
        """
        if self.kind in ("dense", "convolutional"):
            return inputs
        padded = F.pad(inputs, (0, 1))  # one zero more: where the fields point outside the image
        return padded.index_select(1, self.fields.flatten()).unflatten(1, self.fields.shape)

    def respond(self, seen: Tensor) -> Tensor:
        """What `see` gives -> [n, units] pre-activations."""
        if self.kind == "dense":
            return product(seen, self.weight) + self.bias
        if self.kind == "convolutional":
            images = seen.unflatten(1, self.shape)
            return F.conv2d(images, self.weight, self.bias, self.stride, self.padding).flatten(1)
        # one product for each position: [positions, n, fan_in] @ [positions, fan_in, channels]
        return (product(seen.transpose(0, 1), self.weight).transpose(0, 1) + self.bias).flatten(1)

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, inputs] -> [n, units]; for hidden layers, whose inputs have gradients too."""
        if self.kind in ("local", "random_sparse") and self.inputs <= 8 * self.fan_in:
            # the gradient of gathering is slow: where the matrix is not much larger than w, it is the faster way
            return inputs @ self.matrix() + self.bias.flatten()
        return self.respond(self.see(inputs))

    def matrix(self) -> Tensor:
        """[inputs, units]: the layer written out as one matrix, M * gather(w)."""
        if self.kind == "dense":
            return self.weight
        weight = self.weight.flatten(1).T if self.kind == "convolutional" else self.weight
        weight = weight.expand(self.positions, self.fan_in, self.channels)
        written = weight.new_zeros(self.inputs + 1, self.positions, self.channels)
        positions = torch.arange(self.positions, device=weight.device)[:, None]
        written = written.index_put((self.fields, positions), weight)[:-1]
        return (written.mT if self.kind == "convolutional" else written).flatten(1)


def receptive_fields(
    shape: tuple[int, int, int], kernel: int, stride: int, padding: int, channels_last: bool = False
) -> tuple[Tensor, tuple[int, int]]:
    """Which inputs each position sees.

    Returns:
        [positions, channels * kernel * kernel] places in the input vector, in nn.Conv2d's order; the number of
        inputs itself stands for padding. And the (rows, columns) of the grid of positions.

    Raises:
        Refusal: the kernel does not fit into the padded image.
    """
    channels, height, width = shape
    if min(height, width) + 2 * padding < kernel:
        raise Refusal(f"a kernel of {kernel} does not fit into {height} x {width} with padding {padding}")
    places = torch.arange(math.prod(shape))
    places = places.view(height, width, channels).permute(2, 0, 1) if channels_last else places.view(shape)
    places = F.pad(places, (padding,) * 4, value=math.prod(shape))
    windows = places.unfold(1, kernel, stride).unfold(2, kernel, stride)  # [channels, rows, columns, k, k]
    rows, columns = windows.shape[1:3]
    return windows.permute(1, 2, 0, 3, 4).reshape(rows * columns, -1), (rows, columns)


def scattered(fields: Tensor, inputs: int, seed: int) -> Tensor:
    """Fields of the same sizes whose inputs are drawn without repetition, for each position anew.

    Places outside the image stay outside, so each position sees exactly as many inputs as before.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([torch.randperm(inputs, generator=generator)[: fields.shape[1]] for _ in fields])
    return torch.where(fields == inputs, fields, drawn)


class Perceptron(nn.Module):
    """A fully connected network on images: `depth` layers of weights, so depth 2 has one hidden layer of `width`."""

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int, classes: int):
        super().__init__()
        if depth < 2:
            raise Refusal(f"depth counts layers of weights and must be at least 2 (got {depth})")
        self.first = Dense(math.prod(shape), width)
        self.hidden = nn.ModuleList(Dense(width, width) for _ in range(depth - 2))
        self.head = Dense(width, classes)

    def see(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> what `first` multiplies, [n, inputs]."""
        return images.flatten(1)

    def respond(self, seen: Tensor) -> Tensor:
        """What `see` gives -> the first layer's pre-activations, [n, width]; linear in the first layer's weights."""
        return self.first(seen)

    def conclude(self, responses: Tensor) -> Tensor:
        """What `respond` gives -> logits [n, classes]."""
        h = responses.relu()
        for layer in self.hidden:
            h = layer(h).relu()
        return self.head(h)

    def forward(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> logits [n, classes]."""
        return self.conclude(self.respond(self.see(images)))


class ReceptiveNet(nn.Module):
    """One or more receptive layers of one kind, then dense ones.

    Args:
        kind, shape, channels, kernel, stride, padding, seed: of the first layer, see `ReceptiveLayer`.
        classes: outputs.
        layers: receptive layers; those after the first keep the grid (stride 1, odd kernel).
        hidden: widths of dense layers between the last receptive layer and the logits.
        shuffle: a fixed random order of the pixels before the first layer, the same for all images and members;
            its seed, None for the images as they are. It takes neighbourhood away and leaves everything else.
    """

    def __init__(
        self,
        kind: Kind,
        shape: tuple[int, int, int],
        channels: int,
        kernel: int,
        stride: int,
        padding: int,
        classes: int,
        layers: int = 1,
        hidden: tuple[int, ...] = (),
        seed: int = 0,
        shuffle: int | None = None,
    ):
        super().__init__()
        if layers > 1 and kernel % 2 == 0:
            raise Refusal(f"several receptive layers need an odd kernel to keep the grid (got {kernel})")
        self.first = ReceptiveLayer(kind, shape, channels, kernel, stride, padding, seed=seed)
        inner = (channels, *self.first.grid)
        order = {"channels_last": kind != "convolutional"}  # what the layer before gives
        self.deeper = nn.ModuleList(
            ReceptiveLayer(kind, inner, channels, kernel, 1, kernel // 2, seed=seed + layer, **order)
            for layer in range(1, layers)
        )
        widths = (self.first.units, *hidden, classes)
        self.dense = nn.ModuleList(Dense(*sizes) for sizes in pairwise(widths))
        order = None if shuffle is None else pixel_order(shape, shuffle)
        self.register_buffer("order", order, persistent=False)

    def see(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> what the first layer's positions see."""
        pixels = images.flatten(1)
        return self.first.see(pixels if self.order is None else pixels[:, self.order])

    def respond(self, seen: Tensor) -> Tensor:
        """What `see` gives -> the first layer's pre-activations, [n, units]; linear in the first layer's weights."""
        return self.first.respond(seen)

    def conclude(self, responses: Tensor) -> Tensor:
        """What `respond` gives -> logits [n, classes]."""
        h = responses
        for layer in (*self.deeper, *self.dense):
            h = layer(h.relu())
        return h

    def forward(self, images: Tensor) -> Tensor:
        """[n, channels, height, width] -> logits [n, classes]."""
        return self.conclude(self.respond(self.see(images)))


def pixel_order(shape: tuple[int, int, int], seed: int) -> Tensor:
    """[inputs] a random order of the places of an image; the channels of a place stay together."""
    channels, height, width = shape
    places = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    return (torch.arange(channels)[:, None] * height * width + places).flatten()
