"""What members descend beside their labels: teachers and the loss between members, each against a plain computation."""

import re

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ntf_utils.measures.barriers import alphas, barrier, joint_connectivity, paths
from ntf_utils.models.receptive import Perceptron
from ntf_utils.refusal import Refusal
from ntf_utils.training.augmentation import noisy
from ntf_utils.training.members import MemberRecipe, stack, train_members, unstack
from ntf_utils.training.objectives import Connected, Distilling, labelled

SHAPE, CLASSES, K = (1, 4, 4), 3, 3


def networks(count, width=6, classes=CLASSES, seed=0):
    torch.manual_seed(seed)
    return [Perceptron(SHAPE, width, 3, classes) for _ in range(count)]


def data(images=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, *SHAPE, generator=generator), torch.randint(CLASSES, (images,), generator=generator)


def step(objective, stacked, batch=24, **recipe):
    """One update with a batch of all images, so that the order is of no matter; weights before and after."""
    images, labels = data()
    nets = networks(K)
    rule = MemberRecipe(1, batch, 0.1, schedule="constant", momentum=0.0, **recipe)
    trained = train_members(
        nets[0], stack(nets), images, labels, rule, range(K), objective=objective, stacked=stacked
    )  # fmt: skip
    return nets, images, labels, trained


def moved(nets, loss, rate=0.1):
    """Plain gradient descent of the sum of a loss over single networks."""
    gradients = torch.autograd.grad(loss, [p for net in nets for p in net.parameters()])
    names = [name for name, _ in nets[0].named_parameters()]
    values = [p for net in nets for p in net.parameters()]
    new = [value - rate * gradient for value, gradient in zip(values, gradients, strict=True)]
    return [dict(zip(names, new[i * len(names) : (i + 1) * len(names)], strict=True)) for i in range(len(nets))]


def same(trained, expected):
    for member, state in enumerate(expected):
        for name, value in unstack(trained.state, member).items():
            assert torch.allclose(value, state[name], atol=2e-6), name


@pytest.mark.parametrize("stacked", [True, False])
def test_an_objective_of_labels_changes_nothing(stacked):
    images, labels = data()
    nets, rule = networks(K), MemberRecipe(20, 8, 0.1)
    one, other = (
        train_members(nets[0], stack(nets), images, labels, rule, range(K), objective=objective, stacked=stacked)
        for objective in (None, labelled)
    )
    assert torch.equal(one.losses, other.losses)
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 1.0), (4.0, 0.9), (2.0, 0.0)])
def test_distillation_is_the_textbook_loss(stacked, temperature, share):
    teachers = networks(K, seed=7)
    nets, images, labels, trained = step(Distilling([stack(teachers)], temperature, share), stacked)
    loss = 0
    for net, teacher in zip(nets, teachers, strict=True):
        said, told = net(images), teacher(images).detach()
        kl = nn.KLDivLoss(reduction="batchmean")
        taught = kl((said / temperature).log_softmax(-1), (told / temperature).softmax(-1))
        loss = loss + share * temperature**2 * taught + (1 - share) * F.cross_entropy(said, labels)
    same(trained, moved(nets, loss))
    # what is told is the cross-entropy, whatever is descended
    assert torch.allclose(trained.losses[0], torch.stack([F.cross_entropy(n(images), labels) for n in nets]), atol=1e-6)


def test_several_voices_are_one_teacher_of_their_mean_probabilities():
    teachers = networks(2, seed=7)
    voices = [stack([teacher] * K) for teacher in teachers]
    nets, images, _, trained = step(Distilling(voices, 2.0, 1.0), True)
    told = torch.stack([(teacher(images) / 2).softmax(-1) for teacher in teachers]).mean(0).detach()
    loss = sum(4 * F.kl_div((net(images) / 2).log_softmax(-1), told, reduction="batchmean") for net in nets)
    same(trained, moved(nets, loss))


def test_students_take_in_what_their_own_teacher_says():
    images, labels = data(200)
    teachers = networks(K, seed=7)
    nets, rule = networks(K), MemberRecipe(400, 50, 0.3)
    end = train_members(
        nets[0], stack(nets), images, labels, rule, range(K), augment=lambda x, g: noisy(x, g, 0.3),
        objective=Distilling([stack(teachers)], 2.0, 1.0),
    )  # fmt: skip
    fresh = data(500, seed=9)[0]
    said = torch.stack([functional_call(nets[0], unstack(end.state, k), (fresh,)).argmax(-1) for k in range(K)])
    told = torch.stack([teacher(fresh).argmax(-1) for teacher in teachers])
    share = (said[:, None] == told[None]).float().mean(-1)
    assert (share.diagonal() > 0.7).all() and (share.diagonal() > share.max(1).values - 1e-6).all()


def test_the_term_between_members_is_felt_at_both_ends():
    weights = torch.tensor([0.3, 0.3, 0.3])
    objective = Connected(labelled, weights, K, seed=5)
    nets, images, labels, trained = step(objective, True)
    partner, place = objective.draw(0)
    loss = 0
    for k, net in enumerate(nets):
        other = dict(nets[partner[k]].named_parameters())
        between = {n: (1 - place[k]) * p + place[k] * other[n] for n, p in net.named_parameters()}
        near = F.cross_entropy(functional_call(net, between, (images,)), labels)
        loss = loss + 0.7 * F.cross_entropy(net(images), labels) + 0.3 * near
    same(trained, moved(nets, loss))


def test_partners_are_never_oneself_and_groups_are_paired():
    objective = Connected(labelled, torch.full((8,), 0.5), 4, seed=3)
    met = set()
    for update in range(60):
        partner, place = objective.draw(update)
        assert (partner != torch.arange(8)).all() and (partner // 4 == torch.arange(8) // 4).all()
        assert torch.equal(partner[:4], partner[4:] - 4) and torch.equal(place[:4], place[4:])
        met |= {(k, int(partner[k])) for k in range(4)}
    assert len(met) == 12
    assert torch.equal(objective.draw(7)[1], objective.draw(7)[1])


def test_a_weight_of_zero_is_no_term_and_a_weight_connects():
    images, labels = data(60)
    net = networks(1)[0]
    rule, starts = MemberRecipe(150, 10, 0.1), stack([net] * K)

    def train(weight):
        objective = None if weight is None else Connected(labelled, torch.full((K,), weight), K, seed=0)
        trained = train_members(net, starts, images, labels, rule, range(K), objective=objective, stacked=True)
        return trained, joint_connectivity(net, trained.state, images, labels, alphas(5)).highest

    (plain, high), (none, _), (_, low) = train(None), train(0.0), train(0.5)
    assert all(torch.allclose(plain.state[name], none.state[name], atol=1e-4) for name in plain.state)
    assert low < 0.5 * high


def test_joint_connectivity_is_pairs_centroid_and_mixtures():
    images, labels = data(60)
    nets = networks(4)
    state, at = stack(nets), alphas(5)
    found = joint_connectivity(nets[0], state, images, labels, at, mixtures=7, seed=1)
    ends = ({n: v[[pair[side] for pair in PAIRS]] for n, v in state.items()} for side in (0, 1))
    lines = paths(nets[0], *ends, at, images, labels)
    assert torch.allclose(found.pairs, barrier(lines.loss, at), atol=1e-5)
    assert torch.allclose(found.error_pairs, barrier(lines.error, at), atol=1e-5)
    alone = torch.stack([F.cross_entropy(net(images), labels) for net in nets]).detach()
    middle = {name: value.detach().mean(0) for name, value in state.items()}
    centre = F.cross_entropy(functional_call(nets[0], middle, (images,)), labels)
    assert found.centroid == pytest.approx(float(centre - alone.mean()), abs=1e-5)
    assert len(found.mixtures) == 7
    assert found.highest == pytest.approx(
        max(0, float(found.pairs.max()), found.centroid, float(found.mixtures.max())), abs=1e-7
    )


PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_clones_are_connected_exactly():
    images, labels = data(60)
    found = joint_connectivity(networks(1)[0], stack(networks(1) * 5), images, labels, alphas(5))
    assert found.highest == 0 and found.centroid == 0 and not found.mixtures.any() and not found.error_pairs.any()


def test_pairwise_connection_does_not_imply_a_low_centroid():
    """Three networks round a hill: no line crosses its top, the centroid sits on it."""

    class Hill(nn.Module):
        def __init__(self):
            super().__init__()
            self.at = nn.Parameter(torch.zeros(2))

        def forward(self, images):
            height = 3 * torch.exp(-4 * self.at.square().sum())
            return torch.stack([-height, height]).expand(len(images), 2) + 0 * images.flatten(1)[:, :1]

    corner = torch.tensor([[0.0, 1.0], [0.866, -0.5], [-0.866, -0.5]])
    images, labels = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    found = joint_connectivity(Hill(), {"at": 2 * corner}, images, labels, alphas(11), mixtures=5)
    assert found.pairs.max() < 0.2 < 4 < found.centroid
    assert found.highest >= found.centroid


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Distilling([stack(networks(K))], 0.0), "distillation temperature must be above 0 (got 0)"),
        (lambda: Distilling([stack(networks(K))], -2.0), "distillation temperature must be above 0 (got -2)"),
        (lambda: Distilling([stack(networks(K))], 1.0, 1.1), "must lie in [0, 1] (got 1.1)"),
        (lambda: Distilling([], 1.0), "needs a teacher"),
        (lambda: step(Distilling([stack(networks(K, classes=5))]), True), "the same classes: head.bias is (5,) in the"),
        (lambda: step(Distilling([stack(networks(K, width=9))]), False), "must have one architecture"),
        (lambda: Connected(labelled, torch.tensor([0.5]), 1, 0), "a group needs 2 or more (got 1)"),
        (lambda: Connected(labelled, torch.tensor([0.5, 1.5]), 2, 0), "must lie in [0, 1] (got [0.5, 1.5])"),
        (lambda: Connected(labelled, torch.zeros(5), 2, 0), "5 members cannot be cut into groups of 2"),
        (lambda: step(Connected(labelled, torch.full((K,), 0.5), K, 0), False), "trained in one stack: stacked=True"),
        (lambda: joint_connectivity(networks(1)[0], stack(networks(1)), *data(), alphas(3)), "two members or more"),
    ],
)  # fmt: skip
def test_impossible_wishes_are_refused_in_one_sentence(wrong, words):
    with pytest.raises(Refusal, match=re.escape(words)) as refusal:
        wrong()
    assert "\n" not in str(refusal.value)


def test_noise_has_the_spread_asked_for_and_belongs_to_its_seed():
    images = torch.zeros(50, 1, 20, 20)
    one, same_again, other = (noisy(images, torch.Generator().manual_seed(seed), 0.5) for seed in (1, 1, 2))
    assert torch.equal(one, same_again) and not torch.equal(one, other)
    assert float(one.std()) == pytest.approx(0.5, rel=0.02) and float(one.mean()) == pytest.approx(0, abs=0.01)
    assert not images.any()
