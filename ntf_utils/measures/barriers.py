"""The loss along straight lines between networks, and how high it rises.

Chord form of the barrier (Entezari et al., 2021): the largest rise of the loss above the straight line between the
losses of the two ends. The height above the mean of the two ends (Frankle et al., 2020; Ainsworth et al., 2022) is
there too. Both are a largest value and so never below 0: noise pushes them up. The excess at the midpoint has a sign.

Several networks can be connected pair by pair and yet have a high loss in their midst: `joint_connectivity` looks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from ntf_utils.models.stages import call, is_staged
from ntf_utils.refusal import Refusal

State = Mapping[str, Tensor]

CHUNK = 256
MIXED_AT_ONCE = 16  # mixtures of a whole ensemble that are held in memory together
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def alphas(points: int = 11) -> Tensor:
    """[points] positions on a path, evenly spaced from 0 to 1. An odd number has the midpoint among them."""
    if points < 2:
        raise Refusal(f"a path needs at least its two ends (got {points} points)")
    return torch.linspace(0, 1, points)


def barrier(loss_at: Tensor, alphas: Tensor) -> Tensor:
    """Height of the barrier above the chord.

    Args:
        loss_at: [paths, alphas] loss in nats (or error rate) at each point of each path.
        alphas: [alphas] positions in [0, 1], increasing, both ends included.

    Returns:
        [paths] in the loss's unit, never negative; 0 for a convex path, NaN where a loss is not a number.

    Raises:
        Refusal: the grid lacks an end point, so no chord can be drawn.
    """
    check_alphas(alphas)
    at = alphas.to(loss_at)
    chord = torch.lerp(loss_at[:, :1], loss_at[:, -1:], at)
    return (loss_at - chord).amax(dim=1).clamp_min(0)


def endpoint_mean_barrier(loss_at: Tensor, alphas: Tensor) -> Tensor:
    """[paths] height of the highest point above the mean of the two ends; arguments as for `barrier`."""
    check_alphas(alphas)
    return loss_at.amax(dim=1) - _mean_of_ends(loss_at)


def midpoint_excess(loss_at: Tensor, alphas: Tensor) -> Tensor:
    """[paths] loss at alpha = 0.5 minus the mean of the ends: signed; arguments as for `barrier`.

    Raises:
        Refusal: the grid lacks an end point or the midpoint.
    """
    check_alphas(alphas)
    middle = (alphas - 0.5).abs().argmin()
    if abs(float(alphas[middle]) - 0.5) > 1e-6:
        raise Refusal("the midpoint excess needs the loss at alpha = 0.5: take an odd number of evenly spaced alphas")
    return loss_at[:, middle] - _mean_of_ends(loss_at)


def _mean_of_ends(loss_at: Tensor) -> Tensor:
    return (loss_at[:, 0] + loss_at[:, -1]) / 2


def check_alphas(alphas: Tensor) -> None:
    """Raises Refusal unless the alphas run from 0 to 1, increasing."""
    if alphas.dim() != 1 or len(alphas) < 2 or alphas[0] != 0 or alphas[-1] != 1:
        raise Refusal("a barrier needs the loss at both ends: alphas must run from 0 to 1")
    if not bool((alphas[1:] > alphas[:-1]).all()):
        raise Refusal("alphas must increase from 0 to 1")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """In nats, of each image: logits [members, n, classes] and labels [members, n] -> [members, n].

    With the classes in the second place the CPU works on many images at once, nine times as fast; gathering, unlike
    torch's own loss on such a layout, has a deterministic gradient on a GPU. One network alone is better off as usual.
    """
    if len(logits) == 1:
        return F.cross_entropy(logits[0], labels[0], reduction="none")[None]
    return -logits.mT.contiguous().log_softmax(dim=1).gather(1, labels[:, None])[:, 0]


@dataclass(frozen=True)
class Scores:
    """What networks score: `loss`, mean cross-entropy in nats, and `error`, the share that is classified wrongly."""

    loss: Tensor
    error: Tensor


def score_members(
    template: nn.Module, members: State, images: Tensor, labels: Tensor, calibration: Tensor | None = None
) -> Scores:
    """[members] what each network scores; arguments as for `paths`."""
    only = {name: value[:, None] for name, value in members.items()}
    found = _score(template, only, torch.ones(1, 1), images, labels, calibration)
    return Scores(found.loss[:, 0], found.error[:, 0])


def member_logits(
    template: nn.Module, members: State, images: Tensor, calibration: Tensor | None = None
) -> Tensor:
    """[members, n, classes] what each network says; arguments as for `paths`."""
    alone = torch.ones(1, 1, device=images.device)
    with torch.no_grad(), evaluation(template):
        said = [
            torch.cat(list(_logits(template, _one({n: v[:, None] for n, v in members.items()}, member), alone, images,
                                   calibration)), dim=1)
            for member in range(_count(members))
        ]  # fmt: skip
    return torch.cat(said)


def paths(
    template: nn.Module,
    starts: State,
    ends: State,
    alphas: Tensor,
    images: Tensor,
    labels: Tensor,
    calibration: Tensor | None = None,
) -> Scores:
    """[paths, alphas] what the networks (1 - alpha) start + alpha end score on some images.

    Args:
        template: a network of their architecture, on their device; its own weights are not used.
        starts, ends: parameters and buffers, [paths, ...], as `stack` gives them.
        alphas: [alphas] from 0 to 1.
        images: [n, channels, height, width] floats. labels: [n], or [paths, n] where each path has its own.
        calibration: training images from which a network with batch norm takes its statistics at every point.

    Raises:
        Refusal: alphas without end points, ends of unequal shape, or batch norm without calibration images.
    """
    check_alphas(alphas)
    return _score(template, _corners(starts, ends), _path_weights(alphas), images, labels, calibration)


def path_logits(
    template: nn.Module,
    starts: State,
    ends: State,
    alphas: Tensor,
    images: Tensor,
    calibration: Tensor | None = None,
) -> Tensor:
    """[paths, alphas, n, classes] what the networks on the paths say; arguments as for `paths`."""
    check_alphas(alphas)
    corners = _corners(starts, ends)
    weights = _path_weights(alphas).to(images)
    with torch.no_grad(), evaluation(template):
        found = [
            torch.cat(list(_logits(template, _one(corners, path), weights, images, calibration)), dim=1)
            for path in range(_count(corners))
        ]
    return torch.stack(found)


@dataclass(frozen=True)
class Joint:
    """How far loss and error rise anywhere between the members of an ensemble.

    Attributes:
        pairs: [pairs] loss barrier of each pair, above its chord, in nats. error_pairs: the same of the error rate.
        centroid: loss at the mean of all weights minus the members' mean loss; signed.
        mixtures: [mixtures] loss at random weighted means minus the equally weighted losses of the members; signed.
    """

    pairs: Tensor
    error_pairs: Tensor
    centroid: float
    mixtures: Tensor

    @property
    def highest(self) -> float:
        """The largest rise found anywhere: 0 or above, and growing with the number of places that are looked at."""
        return max(0.0, float(self.pairs.max()), self.centroid, *self.mixtures.tolist())


def joint_connectivity(
    template: nn.Module,
    members: State,
    images: Tensor,
    labels: Tensor,
    alphas: Tensor,
    mixtures: int = 20,
    seed: int = 0,
    calibration: Tensor | None = None,
) -> Joint:
    """Barriers between all pairs, and the loss at the members' centroid and at Dirichlet(1) mixtures of them.

    Args:
        members: parameters and buffers, [members, ...]: two or more.
        alphas: [alphas] positions on the lines, from 0 to 1. mixtures: how many. seed: of the mixtures.
        template, images, labels, calibration: as for `paths`.

    Raises:
        Refusal: one member, which is connected with nothing.
    """
    check_alphas(alphas)
    count = _count(members)
    if count < 2:
        raise Refusal(f"connectivity is a matter of two members or more (got {count})")
    pairs = list(combinations(range(count), 2))
    on_lines = torch.zeros(len(pairs), len(alphas), count)
    for place, (a, b) in enumerate(pairs):
        on_lines[place, :, a], on_lines[place, :, b] = 1 - alphas, alphas
    drawn = torch.empty(mixtures, count).exponential_(generator=torch.Generator().manual_seed(seed))
    drawn = drawn / drawn.sum(dim=1, keepdim=True)  # Dirichlet(1): uniform over all weights that sum to 1
    corners = torch.eye(count)
    inner = on_lines[:, 1:-1].reshape(-1, count)
    weights = torch.cat([corners, torch.full((1, count), 1 / count), drawn, inner])
    stacked = {name: value[None] for name, value in members.items()}
    found = [_score(template, stacked, part, images, labels, calibration) for part in weights.split(MIXED_AT_ONCE)]
    loss, error = (torch.cat([getattr(part, name)[0] for part in found]).cpu() for name in ("loss", "error"))
    first = count + 1 + mixtures
    above = loss - loss[0]  # differences first, so that equal networks give exactly 0

    def along_lines(values: Tensor) -> Tensor:
        """[pairs, alphas]: the ends are shared by all lines of a member."""
        firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
        between = values[first:].view(len(pairs), -1)
        return torch.cat([values[firsts][:, None], between, values[seconds][:, None]], dim=1)

    return Joint(
        barrier(along_lines(loss), alphas),
        barrier(along_lines(error), alphas),
        float(above[count] - above[:count].mean()),
        above[count + 1 : first] - drawn @ above[:count],
    )


@dataclass(frozen=True)
class Plane:
    """A loss surface over the plane through three networks, in Euclidean distance of their weights.

    Attributes:
        x, y: [columns], [rows] coordinates. loss, error: [rows, columns]. corners: [3, 2] (x, y) of the networks:
            the first at (0, 0), the second on the x axis.
    """

    x: Tensor
    y: Tensor
    loss: Tensor
    error: Tensor
    corners: Tensor


def loss_plane(
    template: nn.Module,
    corners: State,
    images: Tensor,
    labels: Tensor,
    points: int = 21,
    margin: float = 0.25,
    calibration: Tensor | None = None,
) -> Plane:
    """The loss on a grid in the plane through three networks, e.g. two solutions and their initialisation.

    Args:
        corners: parameters and buffers of the three networks, [3, ...].
        points: of the grid on each side. margin: how far it reaches beyond the networks, as a share of their extent.
        template, images, labels, calibration: as for `paths`.

    Raises:
        Refusal: not three networks, or three on one line.
    """
    parameters = [name for name, _ in template.named_parameters()]
    grid = plane_through({name: corners[name] for name in parameters}, points, margin)
    found = _score(template, {n: v[None] for n, v in corners.items()}, grid.weights, images, labels, calibration)
    loss, error = (value.view(points, points) for value in (found.loss, found.error))
    return Plane(grid.x, grid.y, loss, error, grid.corners)


@dataclass(frozen=True)
class Grid:
    """Points in the plane through three networks, in Euclidean distance of their weights.

    Attributes:
        x, y: [columns], [rows] coordinates. corners: [3, 2] (x, y) of the networks: the first at (0, 0), the second
            on the x axis. weights: [rows * columns, 3] how much of each network is in each point, row by row.
    """

    x: Tensor
    y: Tensor
    corners: Tensor
    weights: Tensor


def plane_through(corners: State, points: int = 21, margin: float = 0.25) -> Grid:
    """A grid in the plane through three networks; arguments as for `loss_plane`, but parameters only.

    Raises:
        Refusal: not three networks, or three on one line.
    """
    if _count(corners) != 3:
        raise Refusal(f"a plane goes through three networks (got {_count(corners)})")
    flat = torch.cat([value.detach().flatten(1) for value in corners.values()], dim=1).double()
    across, up = flat[1] - flat[0], flat[2] - flat[0]
    length = across.norm()
    foot = (up @ across) / length
    height = (up - foot * across / length).norm()
    if not (length > 0 and height > 1e-9 * up.norm()):
        raise Refusal("the three networks lie on one line: they span no plane")
    places = torch.stack([torch.zeros(2, dtype=length.dtype), torch.stack([length, length * 0]).cpu(),
                          torch.stack([foot, height]).cpu()])  # fmt: skip
    lowest, highest = places.amin(dim=0), places.amax(dim=0)
    reach = margin * (highest - lowest)
    x, y = (
        torch.linspace(float(lowest[i] - reach[i]), float(highest[i] + reach[i]), points, dtype=torch.float64)
        for i in range(2)
    )
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    third = grid_y / places[2, 1]
    second = (grid_x - third * places[2, 0]) / places[1, 0]
    weights = torch.stack([1 - second - third, second, third], dim=-1).view(-1, 3).float()
    return Grid(x.float(), y.float(), places.float(), weights)


def _corners(starts: State, ends: State) -> State:
    for name in starts.keys() | ends.keys():
        sizes = [tuple(state[name].shape) if name in state else "none" for state in (starts, ends)]
        if sizes[0] != sizes[1]:
            raise Refusal(f"both ends of a path must have equal shapes: {name} is {sizes[0]} and {sizes[1]}")
    return {name: torch.stack([starts[name], ends[name]], dim=1) for name in starts}


def _path_weights(alphas: Tensor) -> Tensor:
    return torch.stack([1 - alphas, alphas], dim=1)


def _count(corners: State) -> int:
    return len(next(iter(corners.values())))


def _one(corners: State, path: int) -> State:
    return {name: value[path].detach() for name, value in corners.items()}


def _score(
    template: nn.Module, corners: State, weights: Tensor, images: Tensor, labels: Tensor, calibration: Tensor | None
) -> Scores:
    """[paths, points] scores of the mixtures sum_k weights[point, k] corners[path, k]."""
    if labels.shape[-1] != len(images):
        raise Refusal(f"{len(images)} images need as many labels (got {labels.shape[-1]})")
    count, points = _count(corners), len(weights)
    loss = torch.zeros(count, points, device=images.device)
    wrong = torch.zeros_like(loss)
    weights = weights.to(images)
    labels = labels.expand(count, -1)
    with torch.no_grad(), evaluation(template):
        for path in range(count):
            done = 0
            for logits in _logits(template, _one(corners, path), weights, images, calibration):
                asked = labels[path, done : done + logits.shape[1]].expand(points, -1)
                done += logits.shape[1]
                loss[path] += cross_entropy(logits, asked).sum(dim=1)
                wrong[path] += (logits.contiguous().argmax(dim=2) != asked).sum(dim=1)
    return Scores(loss / len(images), wrong / len(images))


def _logits(
    template: nn.Module, corners: State, weights: Tensor, images: Tensor, calibration: Tensor | None
) -> Iterator[Tensor]:
    """Chunks [points, some images, classes] of what the mixtures of the corners [corners, ...] say."""
    mixed = {name: mixture(value, weights) for name, value in corners.items()}
    norms = [module for module in template.modules() if isinstance(module, BATCH_NORMS)]
    if norms:
        if calibration is None:
            raise Refusal("a network with batch norm needs calibration images, to take its statistics anew everywhere")
        restate_batch_norm(template, mixed, norms, calibration)
    if not is_staged(template):
        forward = vmap(lambda own, inputs: call(template, own, inputs, "forward"), in_dims=(0, None))
        for chunk in images.split(CHUNK):
            yield forward(mixed, chunk)
        return
    respond = vmap(lambda own, seen: call(template, own, seen, "respond"), in_dims=(0, None))
    conclude = vmap(lambda own, responses: call(template, own, responses, "conclude"))
    for chunk in images.split(CHUNK):
        responses = respond(corners, template.see(chunk))  # [corners, images, units]
        yield conclude(mixed, mixture(responses, weights))


def mixture(values: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights[:, k] values[k], for weights that sum to 1.

    Written as a step away from the first value: where all values are equal, so is every mixture, to the last bit.

    Args:
        values: [corners, ...]. weights: [points, corners].

    Returns:
        [points, ...]; whole numbers (counts) are the first corner's.
    """
    first = values[0].expand(len(weights), *values.shape[1:])
    if not values.is_floating_point():
        return first.clone()
    found = first
    for weight, value in zip(weights.T[1:], values[1:], strict=True):
        found = torch.addcmul(found, weight.view(-1, *[1] * (values.dim() - 1)), value - values[0])
    return found


def restate_batch_norm(
    template: nn.Module, members: dict[str, Tensor], norms: list[nn.Module], calibration: Tensor, batch: int = 500
) -> None:
    """Takes the running statistics of all members anew, as the plain mean over batches of the calibration images.

    An average of statistics is not the statistics of an average network: the mixed ones fit no point of the path.

    Args:
        members: [members, ...]; its batch-norm buffers are overwritten.
        norms: the template's batch-norm layers.
    """
    forward = vmap(lambda own, inputs: call(template, own, inputs, "forward"), in_dims=(0, None))
    momenta = [norm.momentum for norm in norms]
    try:
        for turn, chunk in enumerate(calibration.split(batch), start=1):
            for norm in norms:
                norm.train()
                norm.momentum = 1 / turn  # makes the running value the mean of all batches so far
            forward(members, chunk)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


@contextmanager
def evaluation(template: nn.Module) -> Iterator[None]:
    """Evaluation mode, and products in full fp32: TF32's rounding is as large as a small barrier."""
    modes = {module: module.training for module in template.modules()}
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    template.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
