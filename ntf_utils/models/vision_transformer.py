"""A small vision transformer (Dosovitskiy et al., 2021): patches, blocks, and the mean of the tokens."""

import torch
from torch import Tensor, nn

from ntf_utils.refusal import Refusal


class ViT(nn.Module):
    """Maps images [n, channels, height, width] to logits [n, classes].

    Args:
        shape: (channels, height, width) of the images. classes: outputs.
        patch: side of a patch; divides height and width.
        width, layers, heads: of the transformer; the MLPs are 2 * width wide.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        patch: int = 4,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
    ):
        super().__init__()
        channels, height, rows = shape[0], shape[1], shape[1] // patch
        if height % patch or shape[2] % patch:
            raise Refusal(f"patches of {patch} do not tile {shape[1]} x {shape[2]}")
        if width % heads:
            raise Refusal(f"heads must divide width (got width {width}, heads {heads})")
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, width)
        self.place = nn.Parameter(0.02 * torch.randn(rows * (shape[2] // patch), width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        n, channels, height, across = images.shape
        p = self.patch
        tiles = images.reshape(n, channels, height // p, p, across // p, p)
        tokens = tiles.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * p * p)  # [n, patches, channels * p * p]
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.place)).mean(dim=1))


class Block(nn.Module):
    """Attention over all tokens, then an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, tokens, width / heads]
        # written out: the fused kernel has no deterministic gradient on a GPU
        chances = (query @ key.mT * (width // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.out((chances @ value).transpose(1, 2).reshape(n, tokens, width))
        return x + self.mlp(self.norm2(x))
