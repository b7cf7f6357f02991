import pytest
import torch
from sklearn.datasets import load_digits

from ntf_utils.measures.barriers import alphas, barrier, paths, score_members
from ntf_utils.measures.matching import fixed_share, match_weights, permute
from ntf_utils.models.receptive import Perceptron, ReceptiveNet
from ntf_utils.refusal import Refusal
from ntf_utils.training.members import MemberRecipe, stack, train_members, unstack

SHAPE = (1, 8, 8)
GRID = alphas(11)


@pytest.fixture(scope="module")
def trained():
    """Two perceptrons from one start and one from another, the template, and the digits that they have learned."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images[:600], dtype=torch.float32).view(-1, *SHAPE) / 8 - 1
    labels = torch.tensor(labels[:600])
    torch.manual_seed(0)
    net, other = (Perceptron(SHAPE, 32, 3, 10) for _ in range(2))
    state = train_members(net, stack([net, net, other]), images, labels, MemberRecipe(200, 32, 0.05), range(3)).state
    return net, state, images, labels


def height(net, a, b, images, labels):
    a, b = ({name: value[None] for name, value in side.items()} for side in (a, b))
    return barrier(paths(net, a, b, GRID, images, labels).loss, GRID).item()


def test_a_permuted_copy_has_the_same_loss_and_a_large_barrier_which_matching_takes_away(trained):
    net, state, images, labels = trained
    one = unstack(state, 0)
    orders = [torch.randperm(32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    moved = permute(one, orders)
    losses = [score_members(net, {n: v[None] for n, v in side.items()}, images, labels).loss for side in (one, moved)]
    torch.testing.assert_close(*losses)
    assert height(net, one, moved, images, labels) > 0.5

    found = match_weights(one, moved)
    back = permute(moved, found)
    assert all(torch.equal(back[name], one[name]) for name in one)
    assert height(net, one, back, images, labels) == 0
    for order, undo in zip(orders, found, strict=True):
        assert torch.equal(order[undo], torch.arange(32))


def test_matching_moves_nothing_between_networks_of_one_start(trained):
    _, state, _, _ = trained
    assert fixed_share(match_weights(unstack(state, 0), unstack(state, 1))) > 0.9
    assert fixed_share(match_weights(unstack(state, 0), unstack(state, 2))) < 0.5


def test_matching_brings_different_starts_nearer(trained):
    _, state, _, _ = trained
    one, other = unstack(state, 0), unstack(state, 2)

    def distance(a, b):
        return sum((a[name] - b[name]).pow(2).sum() for name in a)

    assert distance(one, permute(other, match_weights(one, other))) < distance(one, other)


def test_what_cannot_be_matched_is_refused(trained):
    _, state, _, _ = trained
    one = unstack(state, 0)
    with pytest.raises(Refusal, match="one Perceptron at a time"):
        match_weights(ReceptiveNet("local", SHAPE, 2, 3, 2, 1, 10).state_dict(), one)
    with pytest.raises(Refusal, match="one Perceptron at a time"):
        match_weights(state, state)
    with pytest.raises(Refusal, match="equal shape"):
        match_weights(one, Perceptron(SHAPE, 16, 3, 10).state_dict())
    with pytest.raises(Refusal, match="2 hidden layers need as many orders"):
        permute(one, [torch.arange(32)])
