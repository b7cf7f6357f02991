"""Point clouds: sampling and grouping against plain loops; the detector's parts, losses and sizes."""

import math

import pytest
import torch
from torch.nn import functional as F

from ntf_utils.models.detector import PAPER, Detector, DetectorShape, Level, PointSceneEncoder, Truth, detector_loss
from ntf_utils.models.points import (
    SetAbstraction,
    SharedMLP,
    ball,
    farthest_points,
    interpolate,
    interpolation,
    nearest,
    take,
)
from ntf_utils.models.scene_encoder import Fusion, SceneShape, alignment_loss
from ntf_utils.refusal import Refusal

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SMALL = DetectorShape(
    levels=(Level(24, 0.6, 6, (8,)), Level(12, 1.2, 4, (12,)), Level(6, 2.4, 4, (16,))),
    ups=((16,),), proposals=5, width=8, vote_radius=0.6, vote_neighbours=4, classes=3, sizes=2,
)  # fmt: skip
SIZES = torch.tensor([[1.0, 0.8, 0.6], [0.4, 0.4, 1.2]])


def cloud(batch=2, points=40, seed=0):
    return 3 * torch.rand(batch, points, 3, generator=torch.Generator().manual_seed(seed))


def far(a, b):
    return math.dist(a.tolist(), b.tolist())


# points


def test_farthest_points_are_those_of_a_plain_loop():
    points = cloud(3)
    found = farthest_points(points, 10)
    for rows, index in zip(points, found, strict=True):
        taken = [0]
        while len(taken) < 10:
            gaps = [min(far(p, rows[i]) for i in taken) for p in rows]
            taken.append(max(range(len(rows)), key=lambda i: gaps[i]))
        assert index.tolist() == taken
    assert torch.equal(found[:, :4], farthest_points(points, 4))


@pytest.mark.parametrize("radius", [0.05, 0.7, 9.0])
def test_balls_are_those_of_a_plain_loop(radius):
    points, centres = cloud(), cloud(points=7, seed=1)
    found = ball(points, centres, radius, 5)
    for rows, middles, index in zip(points, centres, found, strict=True):
        for middle, chosen in zip(middles, index.tolist(), strict=True):
            gaps = [far(p, middle) for p in rows]
            inside = [i for i, gap in enumerate(gaps) if gap < radius][:5] or [min(range(40), key=gaps.__getitem__)]
            assert chosen == inside + [inside[0]] * (5 - len(inside))


def test_neighbours_and_interpolation_are_those_of_a_plain_loop(monkeypatch):
    points, few, known = cloud(), cloud(points=6, seed=2), torch.randn(2, 6, 4)
    whole = nearest(few, points, 3)
    expected = torch.zeros(2, 40, 4)
    for b in range(2):
        for i, p in enumerate(points[b]):
            gaps = [far(p, q) for q in few[b]]
            three = sorted(range(6), key=gaps.__getitem__)[:3]
            assert whole[1][b, i].tolist() == three
            weights = [1 / (gaps[j] ** 2 + 1e-8) for j in three]
            expected[b, i] = sum(w * known[b, j] for w, j in zip(weights, three, strict=True)) / sum(weights)
    torch.testing.assert_close(interpolate(known, *interpolation(points, few)), expected)
    monkeypatch.setattr("ntf_utils.models.points.AT_ONCE", 50)  # in parts, as for a cloud that is too large
    assert all(torch.equal(a, b) for a, b in zip(whole, nearest(few, points, 3), strict=True))


def test_a_set_abstraction_is_a_small_network_on_each_ball():
    torch.manual_seed(0)
    layer, points, features = SetAbstraction(2, 4, 0.8, 6, (5, 7)).eval(), cloud(), torch.randn(2, 40, 2)
    places, found, index = layer(points, features)
    group = ball(points, places, 0.8, 6)
    for b in range(2):
        for m in range(4):
            assert torch.equal(places[b, m], points[b, index[b, m]])
            rows = [torch.cat([(points[b, i] - places[b, m]) / 0.8, features[b, i]]) for i in group[b, m]]
            h = torch.stack(rows)
            for linear, norm in zip(layer.mlp.linear, layer.mlp.norms, strict=True):
                h = norm(linear(h)).relu()
            torch.testing.assert_close(found[b, m], h.amax(dim=0))


def test_the_order_of_a_cloud_changes_nothing_but_where_it_begins():
    """Positions decide; only the first point and the filling of a ball go by order."""
    torch.manual_seed(0)
    layer, points, features = SetAbstraction(2, 8, 9.0, 40, (5,)).eval(), cloud(), torch.randn(2, 40, 2)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(39)])
    for a, b in zip(layer(points, features)[:2], layer(points[:, order], features[:, order])[:2], strict=True):
        torch.testing.assert_close(a, b)


def test_too_few_points_get_a_sentence():
    with pytest.raises(Refusal, match="cannot take 41 points from a cloud of 40"):
        farthest_points(cloud(), 41)
    with pytest.raises(Refusal, match="cloud of 0"):
        farthest_points(cloud(points=0), 1)
    with pytest.raises(Refusal, match="41 neighbours"):
        nearest(cloud(), cloud(), 41)
    with pytest.raises(Refusal, match="at least 24 points"):
        Detector(SMALL, SIZES)(cloud(points=20), torch.zeros(2, 20, 4))
    with pytest.raises(Refusal, match=r"must be \[2, 3\]"):
        Detector(SMALL, SIZES[:1])
    with pytest.raises(Refusal, match="5 proposals need as many seeds"):
        DetectorShape(
            levels=(Level(8, 1, 2, (4,)), Level(4, 1, 2, (4,)), Level(2, 1, 2, (4,))), ups=((4,),), proposals=5
        )


# the detector


def world(batch=2, seed=0):
    """Clouds of two blocks each, of which the second cloud has but one, and what they hold."""
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 1.0, 0.8, 0.6], [2.5, 2.0, 0.6, 0.4, 0.4, 1.2]]]).repeat(batch, 1, 1)
    boxes[..., :2] += 0.2 * torch.rand(batch, 2, 2, generator=draw)
    there = torch.tensor([[True, True], [True, False]]).repeat(batch // 2, 1)
    instance = torch.arange(40).expand(batch, -1) % 3 - 1  # floor, first, second
    instance = torch.where(there.gather(1, instance.clamp_min(0)), instance, -1)
    inside = torch.rand(batch, 40, 3, generator=draw) - 0.5
    blocks = take(boxes, instance.clamp_min(0))
    points = torch.where(instance[..., None] >= 0, blocks[..., :3] + inside * blocks[..., 3:], 3 * (inside + 0.5))
    points[..., 2] = torch.where(instance >= 0, points[..., 2], 0.0)
    features = torch.cat([torch.rand(batch, 40, 3, generator=draw), points[..., 2:]], dim=2)
    kinds = torch.tensor([[0, 2]]).repeat(batch, 1)
    return points, features, Truth(instance, boxes, kinds, torch.tensor([[0, 1]]).repeat(batch, 1), there)


def test_the_losses_are_those_of_a_plain_loop():
    points, features, truth = world()
    torch.manual_seed(0)
    found = Detector(SMALL, SIZES)(points, features)
    # near, doubtful and far groups
    found = found._replace(
        middles=truth.boxes[:, [0, 0, 0, 1, 1], :3] + torch.tensor([0.1, 0.4, 0.9, 0.2, 3.0])[:, None] / 3**0.5
    )
    losses = detector_loss(found, truth, SIZES)
    vote, doubt, asked, centre, back, picked, sized, named, near, real = [0.0] * 10
    seeds = 0
    for b in range(2):
        objects = [k for k in range(2) if truth.there[b, k]]
        for s, i in enumerate(found.seeds[b]):
            if (k := int(truth.instance[b, i])) >= 0:
                vote += sum(abs(found.votes[b, s, a] - truth.boxes[b, k, a]) for a in range(3))
                seeds += 1
        for k in objects:
            back += min(((found.centres[b, p] - truth.boxes[b, k, :3]) ** 2).sum() for p in range(5))
            real += 1
        for p in range(5):
            gaps = {k: far(found.middles[b, p], truth.boxes[b, k, :3]) for k in objects}
            own = min(objects, key=gaps.__getitem__)
            positive = gaps[own] < 0.3
            if positive or gaps[own] > 0.6:
                doubt -= (0.8 if positive else 0.2) * found.objectness[b, p].log_softmax(0)[int(positive)]
                asked += 1
            if positive:
                near += 1
                centre += min(((found.centres[b, p] - truth.boxes[b, k, :3]) ** 2).sum() for k in objects)
                picked -= found.sizes[b, p].log_softmax(0)[truth.sizes[b, own]]
                wanted = truth.boxes[b, own, 3:] / SIZES[truth.sizes[b, own]] - 1
                sized += F.smooth_l1_loss(found.stretch[b, p, truth.sizes[b, own]], wanted)
                named -= found.classes[b, p].log_softmax(0)[truth.classes[b, own]]
    assert 0 < near < 10 and near < asked < 10
    expected = {
        "vote": vote / seeds, "objectness": doubt / asked, "class": named / near,
        "box": centre / near + back / real + 0.1 * picked / near + sized / near,
    }  # fmt: skip
    expected["total"] = expected["vote"] + 0.5 * expected["objectness"] + expected["box"] + 0.1 * expected["class"]
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_a_perfect_answer_costs_nothing_and_decodes_to_the_boxes():
    points, features, truth = world()
    net = Detector(SMALL, SIZES)
    found = net(points, features)
    which = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]])
    centres, sizes = take(truth.boxes, which)[..., :3], truth.sizes.gather(1, which)
    extents = take(truth.boxes, which)[..., 3:]
    perfect = found._replace(
        votes=take(truth.boxes, truth.instance.gather(1, found.seeds).clamp_min(0))[..., :3],
        middles=centres, centres=centres, objectness=torch.tensor([-50.0, 50.0]).expand(2, 5, 2),
        sizes=100.0 * F.one_hot(sizes, 2), classes=100.0 * F.one_hot(truth.classes.gather(1, which), 3),
        stretch=(extents[:, :, None] / SIZES - 1),
    )  # fmt: skip
    assert detector_loss(perfect, truth, SIZES)["total"].item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(net.boxes(perfect), take(truth.boxes, which))


def test_seeds_are_points_of_the_cloud_and_votes_move_them():
    points, features, _ = world()
    net = Detector(SMALL, SIZES).eval()
    found = net(points, features)
    assert torch.equal(found.seeds, farthest_points(points, 12))  # farthest points of farthest points
    assert not torch.allclose(found.votes, take(points, found.seeds), atol=1e-3)
    net.vote[1].weight.data.zero_()
    net.vote[1].bias.data.zero_()
    torch.testing.assert_close(net(points, features).votes, take(points, found.seeds))


def test_a_survey_made_before_gives_the_same():
    points, features, _ = world(4)
    net = Detector(SMALL, SIZES).eval()
    rows = torch.tensor([2, 0])
    for a, b in zip(net(points, features)[:], net(points, features, net.survey(points))[:], strict=True):
        assert torch.equal(a, b)
    some = net(points[rows], features[rows], net.survey(points).at(rows))
    torch.testing.assert_close(some.centres, net(points, features).centres[rows])


def test_it_learns_to_find_two_blocks():
    points, features, truth = world(8)
    torch.manual_seed(0)
    net = Detector(SMALL, SIZES)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    totals = []
    for _ in range(60):
        optimiser.zero_grad()
        losses = detector_loss(net(points, features), truth, SIZES)
        losses["total"].backward()
        optimiser.step()
        totals.append(losses["total"].item())
    assert totals[-1] < 0.35 * totals[0]


@pytest.mark.parametrize("device", DEVICES)
def test_both_losses_reach_every_part_of_the_encoder(device):
    points, features, truth = (part.to(device) if torch.is_tensor(part) else part for part in world())
    truth = Truth(*(part.to(device) for part in truth))
    torch.manual_seed(0)
    scene = SceneShape(classes=3, width=8, heads=2, feedforward=8, embedding=6, answers=4, text_width=5)
    net = PointSceneEncoder(SMALL, scene, SIZES).to(device)
    encoded, found = net(points, features)
    backbone = [*net.detector.down.parameters(), *net.detector.up.parameters()]
    for loss in (
        detector_loss(found, truth, SIZES.to(device))["total"],
        alignment_loss(encoded.scene, torch.randn(2, 6, device=device)),
    ):
        reached = torch.autograd.grad(loss, backbone, retain_graph=True)
        assert all(part.isfinite().all() and part.abs().max() > 0 for part in reached)
    asked = Fusion(scene).to(device)(encoded, torch.randn(2, 3, 5, device=device))
    assert asked.answers.shape == (2, 4) and asked.places.isfinite().all()


def test_an_empty_room_costs_what_it_should():
    points, features, truth = world()
    nothing = truth._replace(instance=torch.full_like(truth.instance, -1), there=torch.zeros_like(truth.there))
    losses = detector_loss(Detector(SMALL, SIZES)(points, features), nothing, SIZES)
    assert losses["vote"] == 0 and losses["box"] == 0 and losses["objectness"] > 0


def test_sizes_are_those_of_the_published_code():
    net = Detector(PAPER, torch.ones(18, 3))
    widths = [level.mlp.linear[0].in_features for level in (*net.down, *net.up, net.group)]
    assert widths == [3 + 1, 3 + 128, 3 + 256, 3 + 256, 512, 768, 3 + 512]
    assert net.vote[1].out_features == 3 + 512 and PAPER.seeds == 1024
    assert net.head[1].out_features == 97 - 2  # without the heading
    assert isinstance(net.head[0], SharedMLP)
