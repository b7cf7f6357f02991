"""Masks and training under them, beside torch's own pruning and SGD."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from ntf_utils.refusal import Refusal
from ntf_utils.training.pruning import apply_masks, prunable, pruned, sparsity, train_masked


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def batch_at(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def test_masks_are_those_of_torchs_global_pruning():
    net, known = network(), network()
    masks = prunable(net, "weights")
    assert set(masks) == {"0.weight", "4.weight"} and sparsity(masks) == 0
    layers = [(known[0], "weight"), (known[4], "weight")]
    for _ in range(3):
        masks = pruned(dict(net.named_parameters()), masks, 0.2)
        left = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    prune.global_unstructured(layers, prune.L1Unstructured, amount=total - left)
    assert torch.equal(masks["0.weight"], known[0].weight_mask.bool())
    assert torch.equal(masks["4.weight"], known[4].weight_mask.bool())
    assert sparsity(masks) == pytest.approx(1 - 0.8**3, abs=0.02)


def test_the_published_code_prunes_everything():
    assert set(prunable(network(), "all")) == {name for name, _ in network().named_parameters()}


def test_what_is_pruned_stays_zero_and_the_rest_learns():
    net = network()
    masks = pruned(dict(net.named_parameters()), prunable(net, "weights"), 0.5)
    before = copy.deepcopy(net.state_dict())
    train_masked(net, masks, batch_at, range(5), lambda step: 0.1)
    for name, mask in masks.items():
        now = dict(net.named_parameters())[name]
        assert not now[~mask].any() and (now[mask] != before[name][mask]).all()


def test_without_a_gap_it_is_torchs_sgd():
    net, known = network(), network()
    seen = []
    train_masked(net, prunable(net, "all"), batch_at, range(3, 7), lambda step: seen.append(step) or 0.1 / step)
    optimiser = torch.optim.SGD(known.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for step in range(3, 7):
        images, labels = batch_at(step)
        optimiser.param_groups[0]["lr"] = 0.1 / step
        optimiser.zero_grad()
        F.cross_entropy(known(images), labels).backward()
        optimiser.step()
    assert seen == [3, 4, 5, 6]
    for a, b in zip(net.parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_masks_are_put_on_a_rewound_network():
    net = network()
    masks = pruned(dict(net.named_parameters()), prunable(net, "weights"), 0.9)
    apply_masks(net, masks)
    assert (net[4].weight != 0).sum() == masks["4.weight"].sum()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_impossible_shares_are_refused(share):
    net = network()
    with pytest.raises(Refusal, match="between 0 and 1"):
        pruned(dict(net.named_parameters()), prunable(net, "all"), share)
