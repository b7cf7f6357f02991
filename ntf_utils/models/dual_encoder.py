"""Pictures and texts in one space: a small image-text dual encoder, and what pre-training asks of a teacher.

`DualEncoder` learns as CLIP does (Radford et al., 2021): both towers end in unit vectors of one size, and `info_nce`
pulls each picture to its own text and away from the batch's others, at a learnt temperature. Trained on generated
rooms it stands in for CLIP where no CLIP weights are at hand. Frozen, it is a `RoomTeacher`; `ntf_utils.models.clip`
has CLIP itself behind the same interface, `Teacher`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.refusal import Refusal

CHUNK = 256  # pictures or texts that a teacher embeds at a time


class DualEncoder(nn.Module):
    """An image tower and a text tower.

    Args:
        vocabulary: words, 0 being the padding. longest: most words of a text.
        dimension: of the shared space. width: of the image tower's first layer; the next ones have 2, 4 and 8 times it.
        text_width, text_layers, heads: of the text Transformer.
        size: side of a picture in pixels. grid: the last layer reads the means of grid x grid equal parts of the
            picture; 1 has no idea where things stand, but learns their colours and classes sooner.

    Raises:
        Refusal: a size that 4 grid does not divide.
    """

    def __init__(
        self,
        vocabulary: int,
        longest: int = 24,
        dimension: int = 128,
        width: int = 16,
        text_width: int = 128,
        text_layers: int = 2,
        heads: int = 4,
        size: int = 48,
        grid: int = 1,
    ):
        super().__init__()
        if size % (4 * grid):
            raise Refusal(f"pictures must have a side that {4 * grid} divides (got {size})")
        self.dimension, self.longest, self.size = dimension, longest, size
        channels = [3, *(width * 2**place for place in range(4))]
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for (a, b), stride in zip(pairwise(channels), (2, 2, 1, 1), strict=True)
            )
        )
        self.means = nn.AvgPool2d(size // 4 // grid)
        self.to_image = nn.Linear(channels[-1] * grid**2, dimension)
        self.embed = nn.Embedding(vocabulary, text_width, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(longest, text_width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                text_width, heads, 2 * text_width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(text_layers)
        )
        self.norm = nn.LayerNorm(text_width)
        self.to_text = nn.Linear(text_width, dimension)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # CLIP's start

    @property
    def word_width(self) -> int:
        """Size of the features that `words` gives."""
        return self.norm.normalized_shape[0]

    def images(self, pixels: Tensor) -> Tensor:
        """[n, 3, size, size] colours in [0, 1] -> unit vectors [n, dimension]."""
        if pixels.shape[1:] != (3, self.size, self.size):
            raise Refusal(f"pictures must be 3 x {self.size} x {self.size} (got {tuple(pixels.shape[1:])})")
        return F.normalize(self.to_image(self.means(self.convolutions(pixels * 2 - 1)).flatten(1)), dim=1)

    def words(self, tokens: Tensor) -> Tensor:
        """[n, w] tokens, 0 for padding -> features of each word in its sentence, [n, w, word_width]."""
        if tokens.shape[1] > self.longest:
            raise Refusal(f"a text of {tokens.shape[1]} words, and the text tower reads {self.longest}")
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        absent = tokens == 0
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        return self.norm(x)

    def texts(self, tokens: Tensor) -> Tensor:
        """[n, w] tokens, 0 for padding -> unit vectors [n, dimension], of the mean word."""
        there = (tokens != 0)[..., None].float()
        mean = (self.words(tokens) * there).sum(dim=1) / there.sum(dim=1).clamp_min(1)
        return F.normalize(self.to_text(mean), dim=1)

    @property
    def scale(self) -> Tensor:
        """What similarities are multiplied by, one over the temperature; at most 100, as in CLIP."""
        return self.log_scale.exp().clamp_max(100)


def info_nce(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """CLIP's loss: each picture picks its text among the batch's, and each text its picture.

    Args:
        images, texts: [n, d] unit vectors; row i of one belongs to row i of the other.
        scale: one over the temperature.
        same: [n, n] pairs beside the diagonal that belong together too (one caption true of two pictures): they are
            left out, neither pulled nor pushed.

    Returns:
        Mean of both cross-entropies in nats.
    """
    similarity = scale * images @ texts.T
    if same is not None:
        others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        similarity = similarity.masked_fill(others, -torch.inf)
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


class Teacher(Protocol):
    """What pre-training asks of a frozen image-text model.

    Attributes:
        dimension: of its vectors. word_width: of its words' features. name: what a record says of it.
    """

    dimension: int
    word_width: int
    name: str

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        """uint8 [n, height, width, 3] -> unit vectors [n, dimension]."""

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> unit vectors [n, dimension]."""

    def encode_words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """n texts -> features of each word [n, w, word_width], and which of them are real [n, w]."""


class RoomTeacher:
    """A trained `DualEncoder`, frozen.

    Args:
        network: put into evaluation mode.
        tokenise: texts -> [n, w] whole numbers, 0 for padding.
        name: what a record says of it.
    """

    def __init__(self, network: DualEncoder, tokenise: Callable[[Sequence[str]], Any], name: str = "rooms"):
        self.network = network.eval().requires_grad_(False)
        self.tokenise, self.name = tokenise, name
        self.dimension, self.word_width = network.dimension, network.word_width

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        return in_chunks(lambda part: self.network.images(as_pixels(part, self._device)), images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return in_chunks(self.network.texts, self._tokens(texts))

    def encode_words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(texts)
        return in_chunks(self.network.words, tokens), tokens != 0

    @property
    def _device(self) -> torch.device:
        return self.network.log_scale.device

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        return torch.as_tensor(self.tokenise(list(texts)), dtype=torch.long).to(self._device)


def as_pixels(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 [n, height, width, 3] -> [n, 3, height, width] in [0, 1] on a device.

    Raises:
        Refusal: another type or shape.
    """
    pixels = torch.as_tensor(images)
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[3] != 3:
        what = f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}"
        raise Refusal(f"a teacher sees pictures of whole numbers 0 to 255, [n, height, width, 3] (got {what})")
    return pixels.to(device).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def in_chunks(embed: Callable[[Any], Tensor], items: np.ndarray | Tensor) -> Tensor:
    """`embed` of so many items at a time, put together."""
    return torch.cat([embed(items[start : start + CHUNK]) for start in range(0, len(items), CHUNK)])
