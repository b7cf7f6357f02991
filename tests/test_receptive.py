import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ntf_utils.models.receptive import KINDS, Perceptron, ReceptiveLayer, ReceptiveNet, receptive_fields
from ntf_utils.models.resnet import ResNet20
from ntf_utils.models.stages import call, is_staged
from ntf_utils.models.vision_transformer import ViT
from ntf_utils.refusal import Refusal

SHAPE = (2, 7, 6)
SIZES = {"shape": SHAPE, "channels": 3, "kernel": 3, "stride": 2, "padding": 1}
INPUTS = math.prod(SHAPE)


def layer(kind, **changes):
    torch.manual_seed(0)
    return ReceptiveLayer(kind, **(SIZES | changes))


def images(n=5, shape=SHAPE):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_fast_way_is_the_written_out_matrix(kind, channels_last):
    ours = layer(kind, channels_last=channels_last and kind != "convolutional")
    nn.init.normal_(ours.bias)
    x = images().flatten(1)
    bias = ours.bias.repeat_interleave(ours.positions) if kind == "convolutional" else ours.bias.flatten()
    expected = x @ ours.matrix() + bias
    torch.testing.assert_close(ours.respond(ours.see(x)), expected)
    torch.testing.assert_close(ours(x), expected)


def test_dense_is_nn_linear():
    ours, linear = layer("dense"), nn.Linear(INPUTS, 36)
    with torch.no_grad():
        linear.weight.copy_(ours.weight.T)
        linear.bias.copy_(ours.bias.normal_())
    torch.testing.assert_close(ours(images().flatten(1)), linear(images().flatten(1)))


def test_convolutional_is_nn_conv2d_also_written_out():
    ours, conv = layer("convolutional"), nn.Conv2d(2, 3, 3, 2, 1)
    conv.load_state_dict(ours.state_dict())
    expected = conv(images()).flatten(1)
    torch.testing.assert_close(ours(images().flatten(1)), expected)
    torch.testing.assert_close(images().flatten(1) @ ours.matrix(), expected)  # biases start at 0


def test_local_with_equal_weights_everywhere_is_the_convolution():
    local, conv = layer("local"), layer("convolutional")
    with torch.no_grad():
        local.weight.copy_(conv.weight.flatten(1).T.expand_as(local.weight))
        local.bias.copy_(conv.bias.normal_().expand_as(local.bias))
    by_place = local(images().flatten(1)).view(5, local.positions, 3)
    torch.testing.assert_close(by_place.mT.flatten(1), conv(images().flatten(1)))


def test_ties_and_masks_are_in_the_gradient():
    """One step on the written-out layer moves tied weights together and never moves a masked one."""
    conv, local = layer("convolutional"), layer("local")
    x, wanted = images().flatten(1), torch.randn(5, 36)
    reference = nn.Conv2d(2, 3, 3, 2, 1)
    reference.load_state_dict(conv.state_dict())
    F.mse_loss(conv(x), wanted).backward()
    F.mse_loss(reference(images()).flatten(1), wanted).backward()
    torch.testing.assert_close(conv.weight.grad, reference.weight.grad)
    seen = local.matrix() != 0
    F.mse_loss(local(x), wanted).backward()
    with torch.no_grad():
        local.weight -= local.weight.grad
    assert torch.equal(local.matrix() != 0, seen)


def test_random_sparse_sees_as_many_inputs_as_local_but_others():
    local, scattered = (layer(kind).matrix() != 0 for kind in ("local", "random_sparse"))
    assert torch.equal(local.sum(dim=0), scattered.sum(dim=0))
    assert not torch.equal(local, scattered)
    assert torch.equal(layer("random_sparse", seed=0).fields, layer("random_sparse", seed=0).fields)
    assert not torch.equal(layer("random_sparse", seed=0).fields, layer("random_sparse", seed=1).fields)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_start_by_the_true_fan_in(kind):
    fan_in = 200 if kind == "dense" else 50
    wide = layer(kind, shape=(2, 10, 10), channels=256, kernel=5)
    assert wide.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert not wide.bias.any()


def test_hidden_layers_of_a_convolutional_net_are_torch_s():
    torch.manual_seed(0)
    ours = ReceptiveNet("convolutional", SHAPE, 3, 3, 2, 1, classes=4, layers=2, hidden=(5,))
    theirs = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), nn.Flatten(),
                           nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 4))  # fmt: skip
    with torch.no_grad():
        for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
            a.copy_(b if b.dim() != 2 else b.T)
    torch.testing.assert_close(ours(images()), theirs(images()))


def test_a_shuffle_takes_neighbours_apart_and_keeps_the_channels_of_a_pixel():
    net = ReceptiveNet("dense", SHAPE, 3, 3, 2, 1, classes=4, shuffle=3)
    counted = torch.arange(INPUTS).view(1, *SHAPE)
    shuffled = net.see(counted).view(SHAPE)
    assert torch.equal(shuffled.flatten().sort().values, torch.arange(INPUTS))
    assert torch.equal(shuffled[1] - shuffled[0], torch.full((7, 6), 42))
    assert not torch.equal(shuffled, counted[0])


def test_the_state_holds_what_is_learned_and_nothing_else():
    for kind in KINDS:
        net = ReceptiveNet(kind, SHAPE, 3, 3, 2, 1, classes=4, layers=2, shuffle=0)
        assert net.state_dict().keys() == {name for name, _ in net.named_parameters()}


def test_depth_counts_layers_of_weights():
    net = Perceptron((1, 4, 4), 8, 3, 10)
    assert [tuple(p.shape) for p in net.parameters() if p.dim() == 2] == [(16, 8), (8, 8), (8, 10)]
    assert is_staged(net) and not is_staged(nn.Linear(1, 1))


def test_call_uses_the_given_weights():
    net, other = (Perceptron((1, 4, 4), 8, 3, 10) for _ in range(2))
    x = images(3, (1, 4, 4))
    torch.testing.assert_close(call(net, other.state_dict(), x, "see", "respond", "conclude"), other(x))
    assert not torch.allclose(net(x), other(x))


def test_impossible_nets_are_refused():
    with pytest.raises(Refusal, match="did you mean 'convolutional'"):
        layer("convolution")
    with pytest.raises(Refusal, match="kernel of 9 does not fit into 7 x 6"):
        receptive_fields(SHAPE, 9, 1, 0)
    with pytest.raises(Refusal, match="odd kernel"):
        ReceptiveNet("local", SHAPE, 3, 2, 2, 0, 4, layers=2)
    with pytest.raises(Refusal, match="at least 2"):
        Perceptron(SHAPE, 8, 1, 10)
    with pytest.raises(Refusal, match="do not tile"):
        ViT((3, 10, 10), 10, patch=4)
    with pytest.raises(Refusal, match="norm must be"):
        ResNet20(3, 10, norm="group")


def test_resnet_20_has_its_published_size():
    """0.27 million parameters (He et al., 2016, table 6), with batch norm and shortcuts without weights."""
    assert sum(p.numel() for p in ResNet20(3, 10).parameters()) == 269_722
    assert ResNet20(3, 10, width=4, norm="layer")(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_vit_reads_every_patch_and_its_place():
    torch.manual_seed(0)
    net = ViT((1, 8, 8), 10, width=16, layers=1)
    x = torch.randn(1, 1, 8, 8)
    base = net(x)
    for row in (0, 4):
        for column in (0, 4):
            changed = x.clone()
            changed[0, 0, row, column] += 1
            assert not torch.allclose(net(changed), base)
    assert not torch.allclose(net(x.roll(4, dims=3)), base)
