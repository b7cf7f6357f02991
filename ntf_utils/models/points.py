"""Point clouds as PointNet++ reads them (Qi, Yi, Su & Guibas, 2017), in PyTorch alone, on every device.

The published code of Parelli et al. (2023) needs CUDA kernels that no CPU and few newer versions of PyTorch can
compile. Here farthest-point sampling is a loop over the points to be found, all clouds of a batch at once, and
neighbours come from distance matrices, cut into parts that fit in memory.

Clouds are [b, n, 3] positions in metres with [b, n, c] features.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ntf_utils.refusal import Refusal

AT_ONCE = 2**25  # distances held at a time, 128 MiB


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Farthest-point sampling: the first point, then always the one that is farthest from all those taken.

    Args:
        points: [b, n, 3].

    Returns:
        [b, count] indices in the order in which they were taken, so a shorter sample is the beginning of a longer one.

    Raises:
        Refusal: more points wanted than there are, or a cloud without points.
    """
    n = points.shape[1]
    if not 1 <= count <= n:
        raise Refusal(f"cannot take {count} points from a cloud of {n}")
    with torch.no_grad():
        x, y, z = points.unbind(dim=2)  # rows of one coordinate: three times as fast as sums over a last axis of 3
        rows = torch.arange(len(points), device=points.device)
        taken = torch.zeros(len(points), count, dtype=torch.long, device=points.device)
        distance = torch.full_like(x, torch.inf)
        for place in range(1, count):
            last = taken[:, place - 1]
            px, py, pz = (axis[rows, last, None] for axis in (x, y, z))
            away = (x - px).square_().add_((y - py).square_()).add_((z - pz).square_())
            distance = torch.minimum(distance, away)
            taken[:, place] = distance.argmax(dim=1)
    return taken


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of each cloud: [b, n, c] and [b, ...] indices -> [b, ..., c]."""
    flat = index.flatten(1)
    taken = values.gather(1, flat[..., None].expand(-1, -1, values.shape[2]))
    return taken.unflatten(1, index.shape[1:])


def nearest(points: Tensor, centres: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest points of each centre.

    Args:
        points: [b, n, 3]. centres: [b, m, 3].

    Returns:
        [b, m, count] distances in metres, ascending, and indices.

    Raises:
        Refusal: fewer points than neighbours.
    """
    if count > points.shape[1]:
        raise Refusal(f"{count} neighbours need a cloud of as many points (got {points.shape[1]})")
    parts = [distance.topk(count, dim=2, largest=False) for distance in _distances(points, centres)]
    return torch.cat([part.values for part in parts], dim=1), torch.cat([part.indices for part in parts], dim=1)


def ball(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """The first `count` points, in the cloud's order, nearer to each centre than `radius`, as PointNet++ groups them.

    Where the ball holds fewer, its first point fills the rest; where it holds none, the nearest point does.

    Returns:
        [b, m, count] indices.
    """
    found = []
    count_here = min(count, points.shape[1])
    for distance in _distances(points, centres):
        number = torch.arange(points.shape[1], device=points.device, dtype=torch.int32)
        inside = torch.where(distance < radius, number, points.shape[1])  # int32 sorts twice as fast as int64
        first = inside.topk(count_here, dim=2, largest=False).values.long()
        first = torch.nn.functional.pad(first, (0, count - count_here), value=points.shape[1])
        spare = torch.where(first[..., :1] < points.shape[1], first[..., :1], distance.argmin(dim=2, keepdim=True))
        found.append(torch.where(first < points.shape[1], first, spare))
    return torch.cat(found, dim=1)


@torch.no_grad()
def _distances(points: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """[b, part of m, n] distances, so many centres at a time that they fit in memory."""
    part = max(1, AT_ONCE // max(1, points.shape[0] * points.shape[1]))
    for some in centres.split(part, dim=1):
        # exact differences: the faster form |a|^2 - 2ab + |b|^2 loses centimetres in fp32
        yield torch.cdist(some, points, compute_mode="donot_use_mm_for_euclid_dist")


class SharedMLP(nn.Module):
    """Linear, batch norm and ReLU, the same for every point; batch norm takes all leading axes as one."""

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """[..., sizes[0]] -> [..., sizes[-1]]."""
        shape = x.shape[:-1]
        h = x.flatten(0, -2)
        for linear, norm in zip(self.linear, self.norms, strict=True):
            h = norm(linear(h)).relu()
        return h.unflatten(0, shape)


class SetAbstraction(nn.Module):
    """Fewer points that each know their surroundings: farthest points, balls around them, a small PointNet on each.

    Args:
        inputs: features of a point beside its position; 0 for none.
        count: points that are left. radius: of the balls, metres. neighbours: points of a ball.
        channels: outputs of the PointNet's layers; offsets from the centre, divided by the radius, go in as well.
    """

    def __init__(self, inputs: int, count: int, radius: float, neighbours: int, channels: Sequence[int]):
        super().__init__()
        self.count, self.radius, self.neighbours = count, radius, neighbours
        self.mlp = SharedMLP([3 + inputs, *channels])

    def survey(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Which points are kept, [b, count], and which lie around each, [b, count, neighbours].

        Raises:
            Refusal: a cloud of fewer than `count` points.
        """
        index = farthest_points(points, self.count)
        return index, ball(points, take(points, index), self.radius, self.neighbours)

    def forward(
        self, points: Tensor, features: Tensor | None, survey: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[b, n, 3], [b, n, inputs] -> positions [b, count, 3], features [b, count, channels[-1]], indices [b, count].

        Args:
            survey: of these points, where it is known already.
        """
        index, around = survey or self.survey(points)
        centres = take(points, index)
        grouped = (take(points, around) - centres[:, :, None]) / self.radius
        if features is not None:
            grouped = torch.cat([grouped, take(features, around)], dim=3)
        return centres, self.mlp(grouped).amax(dim=2), index


class FeaturePropagation(nn.Module):
    """Features of few points carried back to many: the mean of the three nearest, weighted by inverse distance.

    Args:
        coarse, fine: features of the few and of the many. channels: outputs of the layers that read both.
    """

    def __init__(self, coarse: int, fine: int, channels: Sequence[int]):
        super().__init__()
        self.mlp = SharedMLP([coarse + fine, *channels])

    def forward(self, features: Tensor, known: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Features [b, n, fine] and [b, m, coarse], `interpolation` of their positions -> [b, n, channels[-1]]."""
        return self.mlp(torch.cat([interpolate(known, *weights), features], dim=2))


def interpolation(points: Tensor, few: Tensor) -> tuple[Tensor, Tensor]:
    """For each of [b, n, 3] positions, its three nearest among [b, m, 3]: indices and weights, [b, n, 3] each.

    Weights go by inverse squared distance and sum to 1.
    """
    distance, index = nearest(few, points, min(3, few.shape[1]))
    weight = 1 / (distance.square() + 1e-8)
    return index, weight / weight.sum(dim=2, keepdim=True)


def interpolate(known: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Features [b, m, c] carried over, [b, n, c]; see `interpolation`."""
    return (take(known, index) * weight[..., None]).sum(dim=2)
