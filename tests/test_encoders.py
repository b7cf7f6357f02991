"""Encoders and the projection head, beside torchvision's networks and the paper's counts of parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ntf_utils.data.torchvision_door import models
from ntf_utils.models.encoders import ENCODERS, build_encoder, check_side
from ntf_utils.models.projection import ProjectionHead, Projector
from ntf_utils.refusal import Refusal


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_sizes_are_the_papers():
    """Sarnthein et al. (2023), table 5; the head's is our own sum."""
    assert count(build_encoder("vgg11", 3, 64)) == 9_220_480
    assert count(build_encoder("resnet18", 3, 64)) == 11_168_832
    assert count(ProjectionHead(512)) == 22_548_736


def test_the_projector_is_two_plain_layers():
    """Anagnostidis et al. (2023), the published code's default with 65,536 units; the sum is ours."""
    head = Projector(512, 65_536, 10)
    assert count(head) == 512 * 65_536 + 65_536 * 10 and not any("bias" in name for name, _ in head.named_parameters())
    small, x = Projector(5, 7, 3), torch.randn(4, 5)
    torch.testing.assert_close(small(x), (x @ small.first.weight.T).clamp_min(0) @ small.last.weight.T)


def test_a_medium_encoder_has_a_stem_of_stride_2():
    images = torch.randn(2, 3, 16, 16)
    assert build_encoder("resnet8", 3, 4).stem(images).shape == (2, 4, 16, 16)
    assert build_encoder("resnet8_medium", 3, 4).stem(images).shape == (2, 4, 8, 8)
    with pytest.raises(Refusal, match="unknown encoder 'resnet20_medium'"):
        build_encoder("resnet20_medium", 3, 4)


def test_layers_of_a_resnet_end_with_its_groups():
    net, images = build_encoder("resnet18", 3, 4).eval(), torch.randn(2, 3, 16, 16)
    found = net.by_layer(images)
    assert [part.shape[1] for part in found.values()] == [4, 4, 8, 16, 32]
    torch.testing.assert_close(found["group 4"], net(images))
    second = net.blocks[:4](net.norm(net.stem(images)).relu()).mean(dim=(2, 3))
    torch.testing.assert_close(found["group 2"], second)


def test_images_too_small_for_an_encoder_are_refused():
    check_side("resnet18", 8)
    check_side("vgg11", 1)  # pools while there is more than one place
    with pytest.raises(Refusal, match=r"resnet18 needs images of at least 8 x 8 pixels \(got 4 x 4\)"):
        check_side("resnet18", 4)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_embedding_has_the_size_that_is_told(name):
    net = build_encoder(name, 3, 2).eval()
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, net.outputs)
    assert build_encoder(name, 1, 2).eval()(torch.randn(2, 1, 8, 8)).shape == (2, net.outputs)


@pytest.mark.parametrize("name", ["vgg11", "vgg16"])
def test_vgg_is_torchvisions_without_its_classifier(name):
    ours, known = build_encoder(name, 3, 64), getattr(models, name)(weights=None).features
    for mine, layer in zip(ours.convolutions, [layer for layer in known if isinstance(layer, nn.Conv2d)], strict=True):
        layer.weight.data, layer.bias.data = mine.weight.data, torch.randn_like(mine.bias)
        mine.bias.data = layer.bias.data
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), known(images).flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnet_is_torchvisions_with_the_small_stem(name):
    ours, known = build_encoder(name, 3, 64), getattr(models, name)(weights=None)
    known.conv1, known.maxpool, known.fc = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity(), nn.Identity()
    pairs = list(zip(ours.state_dict().values(), known.state_dict().values(), strict=True))
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    for mine, layer in pairs:
        layer.copy_(mine)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours.train()(images), known.train()(images), rtol=1e-4, atol=1e-4)


def test_a_fresh_resnet_teacher_has_batch_norm_that_does_nothing():
    net = build_encoder("resnet20", 3, 4).eval()
    images = torch.randn(2, 3, 16, 16)
    plain = build_encoder("resnet20", 3, 4).eval()
    plain.load_state_dict(net.state_dict())
    for module in plain.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    torch.testing.assert_close(net(images), plain(images), rtol=1e-3, atol=1e-4)


def test_weights_are_kaimings_by_fan_out_and_biases_zero():
    net = build_encoder("vgg11", 3, 32)
    for layer in net.convolutions:
        spread = (2 / (9 * layer.out_channels)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.1)
        assert not layer.bias.any()


def test_unknown_encoders_are_refused():
    with pytest.raises(Refusal, match="unknown encoder 'vgg12': did you mean"):
        build_encoder("vgg12", 3, 4)


def test_the_head_is_what_its_equation_says():
    torch.manual_seed(0)
    head, x = ProjectionHead(12, 16, 8, 20), torch.randn(5, 12)
    u = F.gelu(head.hidden2(F.gelu(head.hidden1(x))))
    z = head.bottleneck(u)
    rows = head.last / head.last.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(x), (z / z.norm(dim=1, keepdim=True)) @ rows.T)
    assert head(x).abs().max() <= 1 + 1e-6  # cosines


def test_weight_norm_is_really_applied_and_its_switch_is_the_published_no_op():
    torch.manual_seed(0)
    for applied in (True, False):
        head, x = ProjectionHead(12, 16, 8, 20, weight_norm=applied), torch.randn(5, 12)
        before = head(x)
        with torch.no_grad():
            head.last.mul_(3)
        torch.testing.assert_close(head(x), before if applied else 3 * before)
    head = ProjectionHead(12, 16, 8, 20, feature_norm=False)
    torch.testing.assert_close(head.squeeze(x), head.bottleneck(F.gelu(head.hidden2(F.gelu(head.hidden1(x))))))


def test_bottleneck_and_logits_stay_in_fp32():
    head, x = ProjectionHead(12, 16, 8, 20), torch.randn(5, 12)
    with torch.autocast("cpu", torch.bfloat16):
        squeezed = head.squeeze(x)
        assert squeezed.dtype == head.expand(squeezed).dtype == torch.float32
        torch.testing.assert_close(squeezed.norm(dim=1), torch.ones(5))  # in bf16 it would be off by a thousandth


def test_a_head_narrower_than_its_bottleneck_is_refused():
    with pytest.raises(Refusal, match="hidden layers of 7, bottleneck of 8"):
        ProjectionHead(12, 7, 8, 20)
