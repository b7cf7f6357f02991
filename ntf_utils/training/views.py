"""Random views of whole batches of images, on their device: what torchvision's RandomResizedCrop,
RandomHorizontalFlip, ColorJitter and RandomGrayscale do to single images, in this order.

What is random is drawn first (`draw_views`), image by image, from a generator; what is done with it (`apply_views`) is
a pure function of images and draws. `strength` scales the whole set, from no augmentation at 0 to that of
Anagnostidis et al. (2023, [repo: transformations, "full"]) at 1.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ntf_utils.refusal import Refusal
from ntf_utils.training.augmentation import mirrored

LEAST_AREA = 0.08  # of a crop, as a share of the image: torchvision's default
LARGEST_RATIO = 4 / 3  # of a crop's sides, and its inverse
JITTER, HUE, JITTERED = 0.8, 0.2, 0.8  # factors 1 +- 0.8, hue +- 0.2 of a turn, with probability 0.8
FLIPPED, GREYED = 0.5, 0.2
TRIES = 10  # draws of a crop that must fit into the image; else the whole image, as in torchvision
GREY = (0.2989, 0.587, 0.114)  # weights of red, green and blue
SLOTS = 4  # brightness 0, contrast 1, saturation 2, hue 3, in a random order


@dataclass(frozen=True)
class ViewDraws:
    """What was drawn for each of n images.

    Attributes:
        corner: [n, 2] row and column of the crop. size: [n, 2] its height and width, in pixels.
        flipped, grey: [n] whether it is mirrored, and turned to grey.
        factors: [n, 3] of brightness, contrast and saturation; 1 changes nothing. hue: [n] in turns; 0 changes nothing.
        order: [n, 4] in which the four are applied.
    """

    corner: Tensor
    size: Tensor
    flipped: Tensor
    factors: Tensor
    hue: Tensor
    order: Tensor
    grey: Tensor

    def to(self, device: torch.device) -> "ViewDraws":
        return ViewDraws(**{part.name: getattr(self, part.name).to(device) for part in fields(self)})


def draw_views(n: int, side: int, strength: float, generator: torch.Generator) -> ViewDraws:
    """Draws for n square images of `side` pixels.

    Args:
        strength: in [0, 1]. Crop areas go from 1 - 0.92 strength to 1; all other ranges and the probabilities of a
            flip and of grey are multiplied by it. The authors' own knob is RandAugment's, which has other operations.
        generator: on any device; a CPU generator gives the same draws for every device.

    Raises:
        Refusal: a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise Refusal(f"strength must lie between 0 (no augmentation) and 1 (the authors' full set), got {strength:g}")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    area = side**2 * (1 - (1 - LEAST_AREA) * strength * uniform(n, TRIES))
    ratio = (strength * math.log(LARGEST_RATIO) * (2 * uniform(n, TRIES) - 1)).exp()
    tried = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2).round()  # [n, tries, 2]
    fits = ((tried > 0) & (tried <= side)).all(dim=2)
    first = fits.float().argmax(dim=1)
    size = torch.where(fits.any(dim=1)[:, None], tried[torch.arange(n, device=area.device), first], side)
    corner = (uniform(n, 2) * (side - size + 1)).floor()
    jittered = uniform(n, 1) < JITTERED
    factors = 1 + jittered * JITTER * strength * (2 * uniform(n, 3) - 1)
    hue = jittered[:, 0] * HUE * strength * (2 * uniform(n) - 1)
    return ViewDraws(
        corner=corner.long(), size=size.long(), flipped=uniform(n) < FLIPPED * strength, factors=factors, hue=hue,
        order=uniform(n, SLOTS).argsort(dim=1), grey=uniform(n) < GREYED * strength,
    )  # fmt: skip


def apply_views(images: Tensor, draws: ViewDraws) -> Tensor:
    """[n, channels, side, side] images in [0, 1], one or three channels, each changed by its draws.

    Images of one channel have no saturation, hue and grey to change, as in torchvision.
    """
    views = mirrored(resized(images, draws.corner, draws.size), draws.flipped)
    colour = images.shape[1] == 3
    for slot in range(SLOTS):
        kind = draws.order[:, slot]
        views = _blended(views, kind, draws.factors)
        if colour:
            turned = (kind == 3).nonzero()[:, 0]
            views = views.index_copy(0, turned, with_hue(views[turned], draws.hue[turned]))
    if colour:
        views = torch.where(draws.grey[:, None, None, None], luminance(views), views)
    return views


def resized(images: Tensor, corner: Tensor, size: Tensor) -> Tensor:
    """Each square image cut to its crop, and the crop blown up to the old size, bilinearly.

    Rows and columns are mixed one after the other: `up` [n, side, side] holds, for each row of the result, the weights
    of the rows that it is made of.
    """
    side = images.shape[-1]
    places = torch.arange(side, device=images.device, dtype=images.dtype)
    at = (places[None, None] + 0.5) * (size[..., None] / side) - 0.5  # [n, 2, side] in the crop's own pixels
    at = at.clamp(min=torch.zeros_like(at), max=(size[..., None] - 1).to(at)) + corner[..., None]
    up, along = (1 - (at[..., None] - places).abs()).clamp_min(0).unbind(1)
    return torch.einsum("nrh,nchw,nsw->ncrs", up, images, along)


def luminance(images: Tensor) -> Tensor:
    """[n, 1, height, width] of images with three channels."""
    weights = torch.tensor(GREY, device=images.device, dtype=images.dtype)
    return torch.einsum("c,nchw->nhw", weights, images)[:, None]


def _blended(views: Tensor, kind: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast or saturation, by each image's kind: a mixture with black, mean grey, or its own grey."""
    grey = luminance(views) if views.shape[1] == 3 else views
    kind = kind[:, None, None, None]
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    towards = torch.where(kind == 0, 0, torch.where(kind == 1, mean, grey))
    factor = torch.cat([factors, torch.ones_like(factors[:, :1])], dim=1).gather(1, kind[:, 0, 0])[:, :, None, None]
    return torch.lerp(towards, views, factor).clamp(0, 1)


def with_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Three-channel images with the hue moved by `turn` [n] of a full turn; value and saturation stay."""
    top = images.amax(dim=1)
    spread = top - images.amin(dim=1)
    safe = torch.where(spread > 0, spread, 1)
    red, green, blue = images.unbind(1)
    sector = torch.where(
        top == red, (green - blue) / safe, torch.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    moved = sector + 6 * turn[:, None, None]
    # channel c of a colour of hue h (in sixths of a turn): top - spread * clamp(min(k, 4 - k), 0, 1), k = (c + h) mod 6
    # with c = 5, 3, 1 for red, green and blue
    parts = (moved[:, None] + torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)).remainder(6)
    return top[:, None] - spread[:, None] * torch.minimum(parts, 4 - parts).clamp(0, 1)
