"""Random augmentation of whole batches of images, on their device, drawn image by image from a generator.

`flip` and `shift_crop` are what RandomHorizontalFlip and RandomCrop(size, padding) of torchvision do to single
images. Augment the uint8 pixels, then standardise: there the border that a shift brings in, 0, is black.

Stacked members, [members, n, channels, height, width], take one generator for all or a list with one a member. With
a list, a member's draws do not depend on who else is in the stack.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Generators = torch.Generator | Sequence[torch.Generator]


def flip(pixels: Tensor, generator: Generators) -> Tensor:
    """Mirrors each image left to right with probability 1/2.

    Args:
        pixels: [..., n, channels, height, width] of any type.
        generator: on any device, and the same seed on a CPU generator gives the same flips on every device.

    Raises:
        ValueError: a list of generators whose length is not the number of members.
    """
    return mirrored(pixels, _integers(2, pixels.shape[:-3], generator, pixels.device).bool())


def shift_crop(pixels: Tensor, padding: int, generator: Generators) -> Tensor:
    """Shifts each image by up to `padding` pixels, down or up and right or left; what comes in is 0.

    All (2 padding + 1)^2 shifts are equally likely.

    Args:
        pixels: [..., n, channels, height, width] of any type.
        padding: at least 0.
        generator: as in `flip`.

    Raises:
        ValueError: a negative padding, or a list of generators whose length is not the number of members.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0 (got {padding})")
    corners = _integers(2 * padding + 1, (*pixels.shape[:-3], 2), generator, pixels.device)
    return cropped(pixels, padding, corners)


def mirrored(pixels: Tensor, where: Tensor) -> Tensor:
    """[..., channels, height, width] images, mirrored left to right where `where`, [...], is true."""
    return torch.where(where[..., None, None, None], pixels.flip(-1), pixels)


def cropped(pixels: Tensor, padding: int, corners: Tensor) -> Tensor:
    """Each image framed by `padding` zeros, then cut to its old size.

    Args:
        pixels: [..., channels, height, width].
        padding: at least 0.
        corners: [..., 2] row and column of the upper left corner of each cut, from 0 to 2 padding.
    """
    framed = F.pad(pixels.flatten(0, -4), (padding,) * 4)
    # every cut there could be, as a view: [n, channels, rows, columns, height, width]
    cuts = framed.unfold(2, pixels.shape[-2], 1).unfold(3, pixels.shape[-1], 1)
    row, column = corners.reshape(-1, 2).unbind(1)
    return cuts[torch.arange(len(framed), device=pixels.device), :, row, column].view(pixels.shape)


def _integers(below: int, shape: Sequence[int], generators: Generators, device: torch.device) -> Tensor:
    """Uniform draws from 0..below - 1 of that shape on a device; `shape` opens with the members in case of a list."""
    if isinstance(generators, torch.Generator):
        return torch.randint(below, shape, generator=generators, device=generators.device).to(device)
    if len(generators) != shape[0]:
        raise ValueError(
            f"{len(generators)} generators do not fit {shape[0]} members: give one a member, or one in all"
        )
    drawn = [torch.randint(below, shape[1:], generator=own, device=own.device) for own in generators]
    return torch.stack(drawn).to(device)


def flip_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """[n, channels, height, width] standardised images, each mirrored or not, and shifted by up to an eighth of its
    side. What comes in at the border is 0, so the mean grey."""
    return shift_crop(flip(images, generator), max(1, images.shape[-1] // 8), generator)


def noisy(images: Tensor, generator: torch.Generator, spread: float) -> Tensor:
    """Images of any shape with Gaussian noise of a standard deviation added to every value."""
    noise = torch.randn(images.shape, generator=generator, device=generator.device, dtype=images.dtype)
    return torch.add(images, noise.to(images.device), alpha=spread)
