"""Scene encoder and fusion, and three defects of the published code: across the batch, no gradient, nothing loaded."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ntf_utils.models.loading import TRUNK, load_weights, released_names
from ntf_utils.models.scene_encoder import (
    PAPER,
    Encoded,
    SceneEncoder,
    SceneLayer,
    SceneQA,
    SceneShape,
    alignment_loss,
    detection_loss,
    place_loss,
)
from ntf_utils.refusal import Refusal

SHAPE = SceneShape(width=16, heads=2, feedforward=32, crop=(8, 12), embedding=10, answers=5, text_width=6)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def scenes(count=4, proposals=5, seed=0):
    """Crops, boxes and which proposals are real: the second scene has two, the third one."""
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, proposals, 6, generator=draw) + 0.2
    crops = torch.rand(count, proposals, 8, 6, generator=draw)
    crops[..., :3] += boxes[:, :, None, :3]
    present = torch.ones(count, proposals, dtype=torch.bool)
    present[1:2, 2:] = False
    present[2:3, 1:] = False
    return crops, boxes, present


def built(kind=SceneQA, **changes):
    torch.manual_seed(0)
    return kind(SHAPE.but(**changes)).eval()


def questions(count=4, words=3, seed=1):
    return torch.randn(count, words, 6, generator=torch.Generator().manual_seed(seed))


# the networks


def test_a_scene_is_the_same_whatever_stands_beside_it_in_the_batch():
    encoder, (crops, boxes, present) = built(SceneEncoder), scenes()
    together = encoder(crops, boxes, present)
    for i in range(len(crops)):
        alone = encoder(crops[i : i + 1], boxes[i : i + 1], present[i : i + 1])
        torch.testing.assert_close(together.scene[i], alone.scene[0])
        torch.testing.assert_close(together.tokens[i][:1], alone.tokens[0][:1])
    asked = built()(crops, boxes, present, questions())
    alone = built()(crops[2:3], boxes[2:3], present[2:3], questions()[2:3])
    torch.testing.assert_close(asked.answers[2], alone.answers[0])


def test_padding_counts_for_nothing_and_order_neither():
    net, (crops, boxes, present) = built(), scenes()
    before = net(crops, boxes, present, questions())
    filled = crops.clone()
    filled[~present] = 7.0
    after = net(filled, boxes, present, questions())
    torch.testing.assert_close(before.answers, after.answers)
    torch.testing.assert_close(before.encoded.scene, after.encoded.scene)
    assert (before.places[~present] == -torch.inf).all() and before.places[present].isfinite().all()
    turned = net(crops.flip(1), boxes.flip(1), present.flip(1), questions())
    torch.testing.assert_close(before.answers, turned.answers)
    torch.testing.assert_close(before.places, turned.places.flip(1))


def test_an_empty_scene_still_has_a_vector_and_an_answer():
    crops, boxes, present = scenes(2)
    asked = built()(crops, boxes, torch.zeros_like(present), questions(2))
    assert asked.encoded.scene.isfinite().all() and asked.answers.isfinite().all()
    assert place_loss(asked.places, torch.tensor([-1, -1])) == 0


def test_the_scene_layer_is_a_transformer_layer_written_out():
    layer, found = SceneLayer(7, SHAPE.but(norm_first=False)).eval(), torch.randn(2, 3, 7)
    scene, tokens = layer(found, torch.ones(2, 3, dtype=torch.bool))
    x = torch.cat([layer.token.expand(2, 1, -1), F.gelu(layer.project[0](found))], dim=1)
    inner = layer.layer
    query, key, value = (
        part.unflatten(2, (2, 8)).transpose(1, 2)
        for part in F.linear(x, inner.self_attn.in_proj_weight, inner.self_attn.in_proj_bias).chunk(3, dim=2)
    )
    mixed = ((query @ key.mT / 8**0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)
    x = inner.norm1(x + inner.self_attn.out_proj(mixed))
    x = inner.norm2(x + inner.linear2(F.relu(inner.linear1(x))))
    torch.testing.assert_close(tokens, x)
    torch.testing.assert_close(scene, layer.head[1](layer.head[0](x[:, 0])))


def test_several_questions_share_a_scene():
    net, batch = built(), scenes()
    which, words = torch.tensor([3, 0, 3, 1]), questions()
    shared = net(*batch, words, scenes=which)
    spread = net(*(part[which] for part in batch), words)
    torch.testing.assert_close(shared.answers, spread.answers)
    torch.testing.assert_close(shared.places, spread.places)
    padded = F.pad(words, (0, 0, 0, 2), value=9.0)
    mask = torch.arange(5).expand(4, 5) < 3
    torch.testing.assert_close(net(*batch, padded, mask, which).answers, shared.answers)


def test_words_of_its_own_are_padded_with_zero_and_know_their_place():
    net, batch = built(vocabulary=9), scenes(2)
    tokens = torch.tensor([[3, 4, 0, 0], [4, 3, 0, 0]])
    asked = net(*(part[:1].expand(2, *part.shape[1:]) for part in batch), tokens)
    torch.testing.assert_close(net(*batch, tokens[:, :2]).answers[0], asked.answers[0])
    assert not torch.allclose(asked.answers[0], asked.answers[1], atol=1e-4)
    with pytest.raises(Refusal, match="30 words"):
        net(*batch, torch.ones(2, 30, dtype=torch.long))
    with pytest.raises(Refusal, match="heads must divide width"):
        SHAPE.but(heads=3)


def test_a_proposal_looks_the_same_wherever_it_stands_and_shows_its_colour():
    encoder, (crops, boxes, _) = built(SceneEncoder), scenes()
    moved, shift = boxes.clone(), torch.tensor([1.0, -2.0, 0.0])
    moved[..., :3] += shift
    away = crops.clone()
    away[..., :3] += shift
    look, there = encoder.proposals(crops, boxes), encoder.proposals(away, moved)
    half = look.shape[-1] // 2  # the crop's half; the other one is the box's
    torch.testing.assert_close(look[..., :half], there[..., :half])
    assert not torch.allclose(look[..., half:], there[..., half:], atol=1e-3)
    painted = crops.clone()
    painted[..., 3:] = 1 - painted[..., 3:]
    assert not torch.allclose(look[..., :half], encoder.proposals(painted, boxes)[..., :half], atol=1e-3)


def test_sizes_are_those_of_the_published_code():
    layer = SceneLayer(128, PAPER)  # VoteNet's proposals have 128 numbers
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    assert shapes["project.0.weight"] == (256, 128) and shapes["token"] == (1, 1, 256)
    assert shapes["layer.linear1.weight"] == (2048, 256) and shapes["head.1.weight"] == (512, 256)


# the losses


def test_the_alignment_is_the_plain_cosine():
    scene, target = torch.randn(2, 6, 10)
    by_hand = sum(1 - (a @ b) / (a.norm() * b.norm()) for a, b in zip(scene, target, strict=True)) / 6
    torch.testing.assert_close(alignment_loss(scene, target), by_hand)
    torch.testing.assert_close(alignment_loss(3 * scene, scene), torch.tensor(0.0))


def test_the_detection_losses_count_real_proposals_and_boxes_of_objects():
    present = torch.tensor([[True, True, False]])
    logits, offsets = torch.randn(1, 3, 4), torch.randn(1, 3, 6)
    encoded = Encoded(torch.zeros(1, 2), torch.zeros(1, 4, 2), present, logits, offsets)
    classes, wanted = torch.tensor([[1, 3, 0]]), torch.randn(1, 3, 6)  # 3: no object
    named = -(logits[0, 0].log_softmax(0)[1] + logits[0, 1].log_softmax(0)[3]) / 2
    far = (offsets[0, 0] - wanted[0, 0]).abs()
    boxed = torch.where(far < 1, far**2 / 2, far - 0.5).mean()
    torch.testing.assert_close(detection_loss(encoded, classes, wanted), 0.1 * named + boxed)
    nothing = torch.full((1, 3), 3)
    assert detection_loss(encoded, nothing, wanted).isfinite()


def test_only_questions_about_a_place_have_a_place_loss():
    places = torch.tensor([[1.0, 2.0, -torch.inf], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(place_loss(places, torch.tensor([1, -1])), -places[0, :2].log_softmax(0)[1])


# the three defects


def gradients(encoder):
    """Norm of the alignment loss's gradient at each parameter of the proposals."""
    crops, boxes, present = scenes(6)
    loss = alignment_loss(encoder(crops, boxes, present).scene, torch.randn(6, 10))
    reached = torch.autograd.grad(loss, list(encoder.proposals.parameters()), allow_unused=True)
    return [0.0 if part is None else part.norm().item() for part in reached]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_alignment_reaches_the_encoder_and_in_the_published_code_it_does_not(training, norm_first):
    kind = {"norm_first": norm_first}
    assert min(gradients(built(SceneEncoder, **kind).train(training))) > 1e-6
    assert max(gradients(built(SceneEncoder, across_batch=True, **kind).train(training))) == 0


def test_in_the_published_code_all_scenes_are_one_and_tokens_hang_on_their_neighbours():
    crops, boxes, present = scenes(6)
    ours, released = (built(SceneEncoder, across_batch=across) for across in (False, True))
    assert ours(crops, boxes, present).scene.std(dim=0).max() > 1e-3
    seen = released(crops, boxes, present)
    assert seen.scene.std(dim=0).max() < 1e-6
    alone = released(crops[:1], boxes[:1], present[:1])
    assert (seen.tokens[0, 1:] - alone.tokens[0, 1:]).abs().max() > 1e-3
    assert seen.tokens.isfinite().all()


def test_pretrained_tensors_arrive_and_by_the_published_filter_none_does():
    torch.manual_seed(1)
    source, net = SceneEncoder(SHAPE), built()
    tensors = len(source.state_dict())
    found = load_weights(net.encoder, source.state_dict(), released=True)
    assert (found.tensors, found.of) == (0, tensors)
    assert len(found.missing) == tensors
    assert not torch.equal(net.encoder.scene.token, source.scene.token)
    assert load_weights(net.encoder, source.state_dict()).tensors == tensors
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in net.encoder.state_dict().items())


def test_the_published_filter_misses_depthcontrast_too():
    layer = nn.ModuleDict({"SA_modules": nn.ModuleList([nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))])})
    saved = {TRUNK + name: value + 1 for name, value in layer.state_dict().items()}
    assert set(released_names(saved)) >= {" SA_modules. 0. 0. weight"}
    assert load_weights(layer, saved, released=True).tensors == 0
    loaded = load_weights(layer, saved)
    assert loaded.tensors == loaded.of == 6 and not loaded.missing
    torch.testing.assert_close(layer["SA_modules"][0][0].bias, saved[TRUNK + "SA_modules.0.0.bias"])


def test_weights_that_do_not_fit_are_refused():
    net = built()
    with pytest.raises(Refusal, match=r"none of .* 'elsewhere'"):
        load_weights(net, {"elsewhere": torch.zeros(1)})
    with pytest.raises(Refusal, match=r"scene.token is \(1, 1, 8\), the network's \(1, 1, 16\)"):
        load_weights(net.encoder, {"scene.token": torch.zeros(1, 1, 8)})
    part = load_weights(net.encoder, net.state_dict(), prefix="encoder.")
    assert part.tensors == part.of


@pytest.mark.parametrize("device", DEVICES)
def test_it_trains_on_every_device(device):
    net = built().to(device).train()
    batch = [part.to(device) for part in scenes()]
    asked = net(*batch, questions().to(device))
    classes = torch.zeros(4, 5, dtype=torch.long, device=device)
    loss = asked.answers.mean() + asked.objects.mean() + place_loss(asked.places, torch.zeros_like(classes[:, 0]))
    loss = loss + detection_loss(asked.encoded, classes, torch.zeros(4, 5, 6, device=device))
    loss = loss + alignment_loss(asked.encoded.scene, torch.randn(4, 10, device=device))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
