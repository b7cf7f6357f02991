import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from ntf_utils.measures.barriers import (
    alphas,
    barrier,
    endpoint_mean_barrier,
    loss_plane,
    midpoint_excess,
    path_logits,
    paths,
    score_members,
)
from ntf_utils.models.receptive import KINDS, Perceptron, ReceptiveNet
from ntf_utils.models.resnet import ResNet20
from ntf_utils.refusal import Refusal
from ntf_utils.training.members import stack

SHAPE = (1, 8, 8)
GRID = alphas(11)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:600], dtype=torch.float32).view(-1, *SHAPE) / 8 - 1, torch.tensor(labels[:600])


def nets(count, make=lambda: Perceptron(SHAPE, 16, 3, 10), seed=0):
    torch.manual_seed(seed)
    return [make() for _ in range(count)]


class Normed(nn.Module):
    """1-d batch norm in a perceptron, with dropout: both must be looked after."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.b(self.dropout(self.norm(self.a(images.flatten(1))).relu()))


# a loss written down: what barrier, endpoint mean and midpoint must give


def test_a_quadratic_gives_the_closed_form():
    """L = (c + alpha (d - c))^2 is convex: no barrier. -L rises above its chord by (d - c)^2 / 4 in the middle."""
    ends = torch.tensor([[-1.0, 3.0], [0.5, 0.7]])
    at = torch.lerp(ends[:, :1], ends[:, 1:], GRID) ** 2
    gap = (ends[:, 1] - ends[:, 0]) ** 2 / 4
    assert not barrier(at, GRID).any()
    torch.testing.assert_close(midpoint_excess(at, GRID), -gap)
    torch.testing.assert_close(barrier(-at, GRID), gap)
    torch.testing.assert_close(midpoint_excess(-at, GRID), gap)


def test_unequal_ends_hide_no_bump():
    """The gap is largest where the raw curve is not: the curve's own top is its right end."""
    at = torch.tensor([[0.0, 0.6, 0.5, 0.75, 1.0]])
    grid = alphas(5)
    torch.testing.assert_close(barrier(at, grid), torch.tensor([0.35]))
    torch.testing.assert_close(endpoint_mean_barrier(at, grid), torch.tensor([0.5]))
    torch.testing.assert_close(midpoint_excess(at, grid), torch.tensor([0.0]))


def test_a_diverged_path_is_nan_and_alone():
    at = torch.tensor([[0.0, 1.0, 0.0], [0.0, float("nan"), float("inf")]])
    found = barrier(at, alphas(3))
    assert found[0] == 1 and found[1].isnan()


@pytest.mark.parametrize("grid", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.7, 0.3, 1.0], [1.0]])
def test_a_grid_without_its_ends_is_refused(grid):
    grid = torch.tensor(grid)
    for measure in (barrier, endpoint_mean_barrier, midpoint_excess):
        with pytest.raises(Refusal, match="from 0 to 1"):
            measure(torch.zeros(2, len(grid)), grid)
    with pytest.raises(Refusal, match="from 0 to 1"):
        net = nets(1)[0]
        paths(net, stack([net]), stack([net]), grid, torch.zeros(2, *SHAPE), torch.zeros(2, dtype=torch.long))


def test_the_midpoint_must_be_there():
    with pytest.raises(Refusal, match=r"0\.5"):
        midpoint_excess(torch.zeros(1, 4), alphas(4))


# networks


def by_deep_copies(a, b, images, labels, calibration=None):
    """[alphas] loss and error the plain way: a copy of the network for every point."""
    losses, errors = [], []
    for alpha in GRID.tolist():
        net = copy.deepcopy(a)
        mixed = {name: torch.lerp(value, b.state_dict()[name], alpha) if value.is_floating_point() else value
                 for name, value in a.state_dict().items()}  # fmt: skip
        net.load_state_dict(mixed)
        net.eval()
        if calibration is not None:
            for module in net.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    module.reset_running_stats()
                    module.momentum = None  # torch's own cumulative average
                    module.train()
            with torch.no_grad():
                for chunk in calibration.split(500):
                    net(chunk)
            net.eval()
        with torch.no_grad():
            logits = net(images)
        losses.append(F.cross_entropy(logits, labels).item())
        errors.append((logits.argmax(dim=1) != labels).float().mean().item())
    return torch.tensor(losses), torch.tensor(errors)


@pytest.mark.parametrize("kind", [*KINDS, "perceptron"])
def test_paths_are_those_of_deep_copies(digits, kind):
    def make():
        if kind == "perceptron":
            return Perceptron(SHAPE, 16, 3, 10)
        return ReceptiveNet(kind, SHAPE, 4, 3, 2, 1, 10, layers=2)

    made = nets(4, make)
    found = paths(made[0], stack(made[:2]), stack(made[2:]), GRID, *digits)
    for path in range(2):
        loss, error = by_deep_copies(made[path], made[path + 2], *digits)
        torch.testing.assert_close(found.loss[path], loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.error[path], error, rtol=0, atol=1.5 / 600)
    assert barrier(found.loss, GRID).min() >= 0


@pytest.mark.parametrize("make", [Normed, lambda: ResNet20(1, 10, width=2)], ids=["1-d", "2-d"])
def test_batch_norm_is_taken_anew_at_every_point(digits, make):
    images, labels = digits[0][:64], digits[1][:64]
    calibration = digits[0][:520] if make is Normed else digits[0][:80]
    made = nets(2, make)
    for net in made:  # running statistics that fit nothing
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.fill_(100)
    found = paths(made[0].train(), stack(made[:1]), stack(made[1:]), GRID, images, labels, calibration)
    loss, error = by_deep_copies(*made, images, labels, calibration)
    torch.testing.assert_close(found.loss[0], loss, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.error[0], error, rtol=0, atol=1.5 / 64)
    assert all(module.training for module in made[0].modules())
    with pytest.raises(Refusal, match="calibration"):
        paths(made[0], stack(made[:1]), stack(made[1:]), GRID, images, labels)


@pytest.mark.parametrize(
    "make",
    [lambda: Perceptron(SHAPE, 16, 3, 10), lambda: ReceptiveNet("convolutional", SHAPE, 4, 3, 1, 1, 10), Normed],
    ids=["perceptron", "convolution", "not staged"],
)
def test_identical_networks_have_no_barrier_at_all(digits, make):
    made = nets(3, make)
    state = stack(made)
    found = paths(made[0], state, state, GRID, *digits, digits[0])
    assert torch.equal(found.loss, found.loss[:, :1].expand(-1, 11))
    for measure in (barrier, endpoint_mean_barrier, midpoint_excess):
        assert not measure(found.loss, GRID).any() and not measure(found.error, GRID).any()


def test_ends_members_logits_and_labels_of_a_path_agree(digits):
    images, labels = digits
    made = nets(4)
    starts, ends = stack(made[:2]), stack(made[2:])
    own = torch.stack([labels, (labels + 1) % 10])
    found = paths(made[0], starts, ends, GRID, images, own)
    for side, at in ((starts, 0), (ends, -1)):
        alone = score_members(made[0], side, images, own)
        torch.testing.assert_close(found.loss[:, at], alone.loss)
        torch.testing.assert_close(found.error[:, at], alone.error)
    logits = path_logits(made[0], starts, ends, GRID, images)
    assert logits.shape == (2, 11, 600, 10)
    again = F.cross_entropy(logits.permute(0, 3, 1, 2), own[:, None].expand(-1, 11, -1), reduction="none")
    torch.testing.assert_close(again.mean(dim=2), found.loss)


def test_a_plane_holds_its_three_networks_at_their_distances(digits):
    made = nets(3)
    state = stack(made)
    plane = loss_plane(made[0], state, *digits, points=9, margin=0)
    flat = [torch.cat([p.flatten() for p in net.parameters()]) for net in made]
    for i in range(3):
        for j in range(i):
            torch.testing.assert_close((plane.corners[i] - plane.corners[j]).norm(), (flat[i] - flat[j]).norm())
    alone = score_members(made[0], state, *digits).loss
    # without a margin the first two networks are the ends of the lowest row, if the third stands between them
    assert 0 <= plane.corners[2, 0] <= plane.corners[1, 0]
    torch.testing.assert_close(plane.loss[0, [0, -1]], alone[:2], rtol=1e-4, atol=1e-4)
    flat_plane = {name: value[[0, 1, 1]] for name, value in state.items()}
    with pytest.raises(Refusal, match="one line"):
        loss_plane(made[0], flat_plane, *digits)
    with pytest.raises(Refusal, match="three networks"):
        loss_plane(made[0], stack(made[:2]), *digits)


def test_ends_of_unequal_shape_are_refused(digits):
    a, b = nets(1)[0], Perceptron(SHAPE, 8, 3, 10)
    with pytest.raises(Refusal, match="equal shapes"):
        paths(a, stack([a]), stack([b]), GRID, *digits)
    with pytest.raises(Refusal, match="as many labels"):
        paths(a, stack([a]), stack([a]), GRID, digits[0], digits[1][:3])
