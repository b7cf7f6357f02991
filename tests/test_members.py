import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from ntf_utils.models.receptive import Perceptron, ReceptiveNet
from ntf_utils.models.resnet import ResNet20
from ntf_utils.refusal import Refusal
from ntf_utils.training.members import (
    BatchOrder,
    MemberRecipe,
    deterministic,
    generator,
    stack,
    stack_pays,
    train_members,
    unstack,
)

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:200], dtype=torch.float32).view(-1, *SHAPE) / 8 - 1, torch.tensor(labels[:200])


def perceptrons(count, width=16, depth=3):
    torch.manual_seed(0)
    return [Perceptron(SHAPE, width, depth, 10) for _ in range(count)]


def plain_loop(net, optimiser, images, labels, seed, steps, batch, schedule=None):
    """What a user would write for one network."""
    order = BatchOrder(len(images), batch, [seed])
    for step in range(steps):
        rows = order.rows(step)[0]
        optimiser.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimiser.step()
        if schedule:
            schedule.step()


OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-3),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("stacked", [True, False])
def test_members_train_as_a_plain_loop_with_torch_s_optimiser(digits, optimiser, stacked):
    nets = perceptrons(3)
    rate = {"sgd": 0.05, "adam": 0.01}[optimiser]
    recipe = MemberRecipe(12, 20, rate, optimiser=optimiser, weight_decay=1e-3, schedule="cosine")
    found = train_members(nets[0], stack(nets), *digits, recipe, [5, 6, 7], stacked=stacked)
    for member, net in enumerate(nets):
        torch_s = OPTIMISERS[optimiser](net.parameters())
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch_s, 12)
        plain_loop(net, torch_s, *digits, [5, 6, 7][member], 12, 20, cosine)
        for name, value in net.state_dict().items():
            torch.testing.assert_close(found.state[name][member], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stacked", [True, False])
def test_equal_start_and_order_end_equal_to_the_last_bit(digits, stacked):
    """The control that must give 0; another order must not."""
    net = perceptrons(1)[0]
    found = train_members(net, stack([net] * 4), *digits, MemberRecipe(30, 16, 0.1), [1, 2, 1, 3], stacked=stacked)
    for value in found.state.values():
        assert torch.equal(value[0], value[2])
    assert not torch.equal(found.state["head.weight"][0], found.state["head.weight"][1])
    assert torch.equal(found.losses[:, 0], found.losses[:, 2])


def test_looking_at_members_changes_nothing(digits):
    nets = perceptrons(4)
    recipe = MemberRecipe(20, 16, 0.1)
    plain = train_members(nets[0], stack(nets), *digits, recipe, range(4))
    torch.manual_seed(99)
    watched = train_members(nets[0], stack(nets), *digits, recipe, range(4), save_at=range(0, 21, 3))
    assert all(torch.equal(plain.state[name], watched.state[name]) for name in plain.state)
    assert torch.equal(watched.saved[0].state["head.weight"], stack(nets)["head.weight"])
    assert sorted(watched.saved) == [0, 3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("stacked", [True, False])
def test_a_resumed_training_is_the_uninterrupted_one(digits, optimiser, stacked):
    nets = perceptrons(4)
    recipe = MemberRecipe(30, 16, 0.05, warmup=0.5, optimiser=optimiser)
    # step 13 is inside the second epoch of 12 steps and inside the warm-up
    whole = train_members(nets[0], stack(nets), *digits, recipe, range(4), save_at=[13], stacked=stacked)
    resumed = train_members(nets[0], whole.saved[13], *digits, recipe, range(4), stacked=stacked)
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    assert torch.equal(whole.losses[13:], resumed.losses)


def test_a_spawned_pair_shares_the_past_only(digits):
    nets = perceptrons(2)
    recipe = MemberRecipe(30, 16, 0.05)
    trunk = train_members(nets[0], stack(nets), *digits, recipe, [0, 1], save_at=[20])
    pairs = trunk.saved[20].pick([0, 0, 1, 1])
    assert all(value.any() for value in pairs.moments[0].values())  # the optimiser's memory comes along
    forked = train_members(nets[0], pairs, *digits, recipe, [0, 8, 1, 9], stacked=True)
    for name, value in trunk.state.items():  # the half that keeps the old order ends where the trunk does
        torch.testing.assert_close(forked.state[name][::2], value, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(forked.state["head.weight"][0], forked.state["head.weight"][1])


@pytest.mark.parametrize("stacked", [True, False])
def test_a_diverged_member_is_reported_and_leaves_the_others_alone(digits, stacked):
    nets = perceptrons(3)
    calm, wild = (
        train_members(nets[0], stack(nets), *digits, MemberRecipe(40, 16, rates), range(3), stacked=stacked)
        for rates in (0.05, (0.05, 1e9, 0.05))
    )
    assert calm.diverged.tolist() == [False, False, False]
    assert wild.diverged.tolist() == [False, True, False]
    for name in calm.state:
        assert torch.equal(calm.state[name][[0, 2]], wild.state[name][[0, 2]])


def test_a_dead_member_counts_as_diverged(digits):
    nets = perceptrons(2)
    state = stack(nets)
    state["first.weight"][1] = 0  # every unit of the second is off for good
    state["first.bias"][1] = -1
    images, labels = digits
    even = torch.arange(len(labels)) % 10  # and its guess cannot beat log(10)
    found = train_members(nets[0], state, images, torch.stack([labels, even]), MemberRecipe(40, 20, 0.05), [0, 1])
    assert found.diverged.tolist() == [False, True]


def test_each_member_has_its_own_labels(digits):
    images, labels = digits
    net = perceptrons(1, width=64)[0]
    other = (labels + 3) % 10
    both = torch.stack([labels, other])
    found = train_members(net, stack([net] * 2), images, both, MemberRecipe(150, 20, 0.1), [0, 0])
    for member, wanted in enumerate((labels, other)):
        net.load_state_dict(unstack(found.state, member))
        assert (net(images).argmax(dim=1) == wanted).float().mean() > 0.95


def test_the_schedule_rises_then_falls():
    recipe = MemberRecipe(100, 1, (1.0, 2.0), warmup=(0.0, 0.2))
    rates = recipe.learning_rates(2)
    expected = [0.5 + 0.5 * math.cos(math.pi * step / 100) for step in range(100)]
    torch.testing.assert_close(rates[:, 0], torch.tensor(expected))
    torch.testing.assert_close(rates[:20, 1], torch.arange(1, 21) / 10)
    assert rates[:, 1].argmax() in (19, 20) and rates[-1, 1] < 0.01
    assert (MemberRecipe(10, 1, 0.3, schedule="constant").learning_rates(1) == 0.3).all()
    torch.testing.assert_close(MemberRecipe(4, 1, 1.0, schedule="linear").learning_rates(1)[:, 0],
                               torch.tensor([1, 0.75, 0.5, 0.25]))  # fmt: skip


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    order = BatchOrder(20, 4, [3, 3, 4])
    first, second = ([order.rows(step) for step in range(5 * e, 5 * e + 5)] for e in range(2))
    for rows in (torch.cat(first, dim=1), torch.cat(second, dim=1)):
        assert torch.equal(rows.sort(dim=1).values, torch.arange(20).expand(3, -1))
        assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    assert not torch.equal(torch.cat(first, dim=1), torch.cat(second, dim=1))
    assert torch.equal(BatchOrder(20, 4, [4]).rows(7), order.rows(7)[2:])  # no need to have walked there


def test_seeds_and_moments_have_generators_of_their_own():
    seeds = {generator(seed, moment).initial_seed() for seed in range(100) for moment in range(100)}
    assert len(seeds) == 10_000


def test_augmentation_has_the_order_s_generator(digits):
    def noisy(images, draw):
        return images + torch.randn(images.shape, generator=draw)

    net = perceptrons(1)[0]
    recipe = MemberRecipe(10, 16, 0.05)
    runs = [
        train_members(net, stack([net] * 3), *digits, recipe, [1, 1, 2], augment=noisy, stacked=stacked).state
        for stacked in (True, False)
    ]
    assert torch.equal(runs[0]["head.weight"][0], runs[0]["head.weight"][1])
    assert not torch.equal(runs[0]["head.weight"][0], runs[0]["head.weight"][2])
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_a_residual_net_trains_stacked_as_alone_with_its_running_statistics(norm):
    torch.manual_seed(0)
    nets = [ResNet20(1, 3, width=2, norm=norm) for _ in range(2)]
    images, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 3
    recipe = MemberRecipe(3, 6, 0.01)
    runs = [train_members(nets[0], stack(nets), images, labels, recipe, [0, 1], stacked=s).state for s in (True, False)]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-2, atol=1e-3)
    if norm == "batch":
        assert not torch.equal(runs[0]["norm.running_mean"], stack(nets)["norm.running_mean"])
        assert runs[0]["norm.num_batches_tracked"].tolist() == [3, 3]


def test_what_was_given_stays_as_it_was(digits):
    nets = perceptrons(2)
    state = stack(nets)
    before = {name: value.clone() for name, value in state.items()}
    nets[0].eval()
    for stacked in (True, False):
        train_members(nets[0], state, *digits, MemberRecipe(3, 16, 0.1), [0, 1], stacked=stacked)
    assert all(torch.equal(state[name], before[name]) and not state[name].requires_grad for name in state)
    assert torch.equal(nets[0].head.weight, before["head.weight"][0]) and not nets[0].training


def test_deterministic_puts_everything_back():
    was = torch.are_deterministic_algorithms_enabled()
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cuda.matmul.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() == was
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_small_nets_are_stacked_and_large_ones_looped():
    def pays(net, members, shape):
        return stack_pays(net, members, torch.zeros(1, *shape), 64)

    small, wide = Perceptron(SHAPE, 64, 2, 10), Perceptron((1, 28, 28), 1568, 2, 10)
    assert pays(small, 64, SHAPE) and not pays(small, 1, SHAPE) and not pays(wide, 32, (1, 28, 28))
    assert not pays(ReceptiveNet("convolutional", (1, 28, 28), 8, 5, 2, 2, 10), 32, (1, 28, 28))


def test_bad_input_is_refused(digits):
    images, labels = digits
    nets = perceptrons(2)
    recipe = MemberRecipe(3, 16, 0.1)
    with pytest.raises(Refusal, match=r"equal shapes: .* is \(16, 16\) in member 0, \(8, 8\) in 1|equal shapes"):
        stack([nets[0], Perceptron(SHAPE, 8, 3, 10)])
    with pytest.raises(Refusal, match="equal shapes"):
        stack([nets[0], nn.Linear(2, 2)])
    with pytest.raises(Refusal, match="no network"):
        stack([])
    with pytest.raises(Refusal, match="2 members need as many order seeds"):
        train_members(nets[0], stack(nets), images, labels, recipe, [0])
    with pytest.raises(Refusal, match="labels of shape"):
        train_members(nets[0], stack(nets), images, labels[:5], recipe, [0, 1])
    with pytest.raises(Refusal, match="batch of 300 cannot be drawn from 200"):
        train_members(nets[0], stack(nets), images, labels, MemberRecipe(3, 300, 0.1), [0, 1])
    done = train_members(nets[0], stack(nets), images, labels, recipe, [0, 1])
    with pytest.raises(Refusal, match="after 3 of 3 steps"):
        train_members(nets[0], done.end, images, labels, recipe, [0, 1])
    with pytest.raises(Refusal, match="saved after 4"):
        train_members(nets[0], stack(nets), images, labels, recipe, [0, 1], save_at=[4])
    with pytest.raises(Refusal, match="3 values were given for 2 members"):
        train_members(nets[0], stack(nets), images, labels, MemberRecipe(3, 16, (0.1, 0.1, 0.1)), [0, 1])
