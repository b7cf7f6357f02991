"""Pictures and texts in one space: a small image-text dual encoder, and CLIP from a folder behind the same interface.

`DualEncoder` learns as CLIP does (Radford et al., 2021): both towers end in unit vectors of one size, and `info_nce`
pulls each picture to its own text and away from the batch's others, at a learnt temperature. Trained on generated
rooms it stands in for CLIP where no CLIP weights are at hand. `RoomTeacher` and `CLIPTeacher` are the frozen teachers
that pre-training sees; both have `dimension`, `word_width`, `encode_images`, `encode_texts` and `encode_words`.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.models.causal import fingerprint, load_pretrained_as, load_tokenizer, local_folder
from ntf_utils.refusal import Refusal

CHUNK = 256  # pictures or texts that a teacher embeds at a time


class DualEncoder(nn.Module):
    """An image tower and a text tower.

    Args:
        vocabulary: words, 0 being the padding. longest: most words of a text.
        dimension: of the shared space. width: of the image tower's first layer.
        text_width, text_layers, heads: of the text Transformer.
        size: side of a picture in pixels, a multiple of 16.

    Raises:
        Refusal: another size.
    """

    def __init__(
        self,
        vocabulary: int,
        longest: int = 24,
        dimension: int = 128,
        width: int = 24,
        text_width: int = 128,
        text_layers: int = 2,
        heads: int = 4,
        size: int = 48,
    ):
        super().__init__()
        if size % 16:
            raise Refusal(f"pictures must have a side that 16 divides (got {size})")
        self.dimension, self.longest, self.size = dimension, longest, size
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(channels)
            )
        )
        # a linear map of all places, not their mean: "left of the table" is lost in a mean
        self.to_image = nn.Linear(channels[-1] * (size // 16) ** 2, dimension)
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
        return F.normalize(self.to_image(self.convolutions(pixels * 2 - 1).flatten(1)), dim=1)

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
        return _in_chunks(lambda part: self.network.images(_pixels(part, self._device)), images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return _in_chunks(self.network.texts, self._tokens(texts))

    def encode_words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(texts)
        return _in_chunks(self.network.words, tokens), tokens != 0

    @property
    def _device(self) -> torch.device:
        return self.network.log_scale.device

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        return torch.as_tensor(self.tokenise(list(texts)), dtype=torch.long).to(self._device)


class CLIPTeacher:
    """CLIP of transformers, frozen.

    Args:
        network: transformers' CLIPModel. tokenizer: its own; texts are cut at its longest, 77 words for OpenAI's.
        mean, spread: of the colours it was trained on. name: what a record says of it.
    """

    def __init__(self, network: Any, tokenizer: Any, mean: Sequence[float], spread: Sequence[float], name: str):
        self.network, self.tokenizer, self.name = network.eval().requires_grad_(False), tokenizer, name
        self.mean, self.spread = torch.tensor(mean)[:, None, None], torch.tensor(spread)[:, None, None]
        self.side = network.config.vision_config.image_size
        self.dimension = network.config.projection_dim
        self.word_width = network.config.text_config.hidden_size

    def encode_images(self, images: np.ndarray | Tensor) -> Tensor:
        return _in_chunks(self._see, images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokens(texts)
        parts = [
            self.network.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
            for ids, mask in zip(tokens["input_ids"].split(CHUNK), tokens["attention_mask"].split(CHUNK), strict=True)
        ]
        return F.normalize(torch.cat(parts), dim=1)

    def encode_words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(texts)
        read = self.network.text_model(**tokens).last_hidden_state
        return read, tokens["attention_mask"].bool()

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        longest = self.network.config.text_config.max_position_embeddings
        read = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return {name: read[name].to(self.network.device) for name in ("input_ids", "attention_mask")}

    def _see(self, images: np.ndarray | Tensor) -> Tensor:
        """CLIP's own preparation: the shorter side to the network's size, bicubic, the middle cut out, colours
        standardised."""
        pixels = _pixels(images, torch.device("cpu"))
        ratio = self.side / min(pixels.shape[-2:])
        size = [max(self.side, round(ratio * length)) for length in pixels.shape[-2:]]
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((length - self.side) // 2 for length in size)
        pixels = pixels[..., top : top + self.side, left : left + self.side]
        shown = ((pixels - self.mean) / self.spread).to(self.network.device)
        return F.normalize(self.network.get_image_features(pixel_values=shown).pooler_output, dim=1)


def load_teacher(folder: str | Path, dimension: int | None = None, device: str | torch.device = "cpu") -> CLIPTeacher:
    """CLIP from a local folder (or a name on the Hugging Face hub) in transformers' format.

    Args:
        folder: holds config.json, *.safetensors, a tokenizer and preprocessor_config.json, as `save_pretrained` writes
            them. Weights of OpenAI and of OpenCLIP are published in this format.
        dimension: that its vectors must have; 512 for ViT-B/32.

    Raises:
        Refusal: as `causal.load_network`; a model that is no CLIP; another dimension; weights in OpenCLIP's own format.
    """
    path = local_folder(folder)
    if path and not (path / "config.json").is_file() and any(path.glob("open_clip*")):
        raise Refusal(
            f"{path} holds weights in OpenCLIP's own format: fetch those in transformers' format "
            "(config.json and model.safetensors), which the same model is published in"
        )
    network = load_pretrained_as("CLIPModel", folder).to(device)
    if dimension is not None and network.config.projection_dim != dimension:
        raise Refusal(
            f"the teacher in {folder} has vectors of {network.config.projection_dim}, and the scene encoder's have "
            f"{dimension}: choose another teacher, or another embedding"
        )
    mean, spread = _colours(path)
    return CLIPTeacher(network, load_tokenizer(folder), mean, spread, fingerprint(folder))


OPENAI_MEAN, OPENAI_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _colours(folder: Path | None) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and spread of the colours from preprocessor_config.json; OpenAI's where there is none."""
    path = folder / "preprocessor_config.json" if folder else None
    if path is None or not path.is_file():
        return OPENAI_MEAN, OPENAI_SPREAD
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as problem:
        raise Refusal(f"{path} is no JSON: {problem}") from None
    return told.get("image_mean", OPENAI_MEAN), told.get("image_std", OPENAI_SPREAD)


def _pixels(images: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """uint8 [n, height, width, 3] -> [n, 3, height, width] in [0, 1]."""
    pixels = torch.as_tensor(images)
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[3] != 3:
        what = f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}"
        raise Refusal(f"a teacher sees pictures of whole numbers 0 to 255, [n, height, width, 3] (got {what})")
    return pixels.to(device).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def _in_chunks(embed: Callable[[Any], Tensor], items: np.ndarray | Tensor) -> Tensor:
    return torch.cat([embed(items[start : start + CHUNK]) for start in range(0, len(items), CHUNK)])
