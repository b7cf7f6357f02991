"""Speed of the chapter on CLIP-guided pre-training: rooms, pictures, points grouped as PointNet++ does, and questions.

Beside ours stand a plain loop over pixels' points for the pictures, a plain loop and torch's own `cdist` with `topk`
for sampling and grouping, and one question at a time for the answers. All of them must give the same.
"""

import math
import statistics

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Measure, interleaved, median_ratio
from ntf_utils.data.proposals import proposals
from ntf_utils.data.renders import Camera, render, top_camera
from ntf_utils.data.room_language import ask, tokenise
from ntf_utils.data.rooms import Cloud, room_scene, sample, split
from ntf_utils.models.points import ball, farthest_points, nearest
from ntf_utils.models.scene_encoder import SceneQA, SceneShape

ROOMS, POINTS, SIDE = 40, 6000, 48
CLOUDS, CLOUD, KEPT, NEIGHBOURS, RADIUS = 8, 1024, 128, 32, 0.4
SCENES, QUESTIONS, PROPOSALS, CROP = 32, 128, 9, 32


def measure() -> list[Measure]:
    return [*rooms(), *pictures(), *grouping(), *questions()]


def rooms() -> list[Measure]:
    """From a seed to what a network is given."""
    made = split("train", ROOMS)
    scenes = [room_scene(room) for room in made]
    seconds = interleaved({
        "room": lambda: split("train", ROOMS), "scan": lambda: [room_scene(room) for room in made],
        "found": lambda: [proposals(scene) for scene in scenes], "asked": lambda: ask(made, 0),
    }, rounds=5)  # fmt: skip
    rates = {name: ROOMS / statistics.median(spent) for name, spent in seconds.items()}
    return [
        Measure("rooms generated", rates["room"], "per second"),
        Measure("rooms sampled, 2,048 points", rates["scan"], "per second"),
        Measure("rooms cut into proposals", rates["found"], "per second"),
        Measure("rooms asked about, all questions", rates["asked"], "per second"),
    ]


def pictures() -> list[Measure]:
    """One room from above, 48 pixels a side, from 6,000 points; a splat of one pixel each, as the loop has them."""
    cloud = sample(split("train", 1)[0], POINTS, np.random.default_rng(0), shell=0.4)
    camera = top_camera()

    def ours() -> np.ndarray:
        return render(cloud, [camera], SIDE, widest=1 / SIDE)[0]

    assert (ours() == plain_picture(cloud, camera)).all(), "the loop draws another picture"
    seconds = interleaved({
        "ours": ours, "loop": lambda: plain_picture(cloud, camera), "splats": lambda: render(cloud, [camera], SIDE),
    }, rounds=5)  # fmt: skip
    return [
        Measure("pictures rendered, 48 pixels, 6,000 points", 1 / statistics.median(seconds["splats"]), "per second"),
        Measure("picture: a loop over points / ours", median_ratio(seconds, "loop", "ours"), "", "at least 10"),
    ]


def plain_picture(cloud: Cloud, camera: Camera) -> np.ndarray:
    """A z-buffer filled point by point."""
    light = np.array([0.35, -0.55, 0.76]) / np.linalg.norm([0.35, -0.55, 0.76])
    picture, nearest_yet = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8), np.full((SIDE, SIDE), np.inf)
    focal, axes = SIDE / 2 / np.tan(np.radians(camera.angle) / 2), camera.axes
    for point, colour, normal in zip(cloud.points, cloud.colours, cloud.normals, strict=True):
        ray = point - camera.position
        across, down, depth = axes @ ray
        if depth <= 0.1 or normal @ ray >= 0:
            continue
        x, y = math.floor(SIDE / 2 + focal * across / depth), math.floor(SIDE / 2 + focal * down / depth)
        if 0 <= x < SIDE and 0 <= y < SIDE and depth < nearest_yet[y, x]:
            nearest_yet[y, x] = depth
            picture[y, x] = 255 * (colour * (0.72 + 0.28 * max(0.0, float(normal @ light)))).clip(0, 1)
    return picture


def grouping() -> list[Measure]:
    """Farthest points of eight clouds, and what lies around them."""
    scenes = [room_scene(room, CLOUD) for room in split("train", CLOUDS)]
    points = torch.from_numpy(np.stack([scene.points for scene in scenes]))  # [b, n, 3]
    centres = torch.stack([cloud[rows] for cloud, rows in zip(points, farthest_points(points, KEPT), strict=True)])

    def cdist_farthest() -> Tensor:
        """The whole matrix of distances first, then rows of it."""
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        rows, taken = torch.arange(CLOUDS), torch.zeros(CLOUDS, KEPT, dtype=torch.long)
        least = torch.full((CLOUDS, CLOUD), torch.inf)
        for place in range(1, KEPT):
            least = torch.minimum(least, distance[rows, taken[:, place - 1]])
            taken[:, place] = least.argmax(dim=1)
        return taken

    def cdist_nearest() -> Tensor:
        return torch.cdist(centres, points).topk(NEIGHBOURS, largest=False).values

    assert torch.equal(farthest_points(points, KEPT), loop_farthest(points))
    assert torch.equal(farthest_points(points, KEPT), cdist_farthest())
    torch.testing.assert_close(nearest(points, centres, NEIGHBOURS)[0], cdist_nearest(), atol=2e-3, rtol=0)
    assert torch.equal(ball(points[:1], centres[:1], RADIUS, NEIGHBOURS), loop_ball(points[:1], centres[:1]))
    first = interleaved({
        "ours": lambda: farthest_points(points, KEPT), "loop": lambda: loop_farthest(points), "cdist": cdist_farthest,
    }, rounds=5)  # fmt: skip
    second = interleaved({
        "ours": lambda: ball(points[:1], centres[:1], RADIUS, NEIGHBOURS),
        "loop": lambda: loop_ball(points[:1], centres[:1]),
    }, rounds=5)  # fmt: skip
    third = interleaved({"ours": lambda: nearest(points, centres, NEIGHBOURS), "cdist": cdist_nearest}, rounds=7)
    return [
        Measure("clouds sampled, 128 of 1,024 points", CLOUDS / statistics.median(first["ours"]), "per second"),
        Measure("farthest points: a loop, cloud by cloud / ours", median_ratio(first, "loop", "ours"), ""),
        Measure("farthest points: all distances first (cdist) / ours", median_ratio(first, "cdist", "ours"), ""),
        Measure("balls of 32: a loop over centres / ours", median_ratio(second, "loop", "ours"), ""),
        Measure("nearest 32: cdist and topk / ours (which is exact)", median_ratio(third, "cdist", "ours"), ""),
    ]


def loop_farthest(points: Tensor) -> Tensor:
    """Cloud by cloud, as PointNet++'s first code in PyTorch has it."""
    found = []
    for cloud in points:
        least, taken = torch.full((len(cloud),), torch.inf), [0]
        for _ in range(KEPT - 1):
            least = torch.minimum(least, (cloud - cloud[taken[-1]]).square().sum(dim=1))
            taken.append(int(least.argmax()))
        found.append(torch.tensor(taken))
    return torch.stack(found)


def loop_ball(points: Tensor, centres: Tensor) -> Tensor:
    """Centre by centre: the first points inside, the first of them again where there are too few."""
    found = []
    for cloud, middles in zip(points, centres, strict=True):
        rows = []
        for middle in middles:
            inside = torch.where((cloud - middle).square().sum(dim=1).sqrt() < RADIUS)[0][:NEIGHBOURS]
            rows.append(F.pad(inside, (0, NEIGHBOURS - len(inside)), value=int(inside[0])))
        found.append(torch.stack(rows))
    return torch.stack(found)


def questions() -> list[Measure]:
    """32 rooms, each asked four questions: a training step, and answers alone, beside one question at a time."""
    torch.manual_seed(0)
    asked = ask(split("train", ROOMS), 0)[:QUESTIONS]
    words = torch.from_numpy(tokenise([question.text for question in asked]))
    network = SceneQA(SceneShape(vocabulary=int(words.max()) + 1))
    crops, boxes = torch.rand(SCENES, PROPOSALS, CROP, 6), torch.rand(SCENES, PROPOSALS, 6)
    present, about = torch.ones(SCENES, PROPOSALS, dtype=torch.bool), torch.arange(QUESTIONS) % SCENES
    targets = torch.rand(QUESTIONS, network.shape.answers).round()
    optimiser = torch.optim.AdamW(network.parameters())

    def step() -> None:
        network.train()
        said = network(crops, boxes, present, words, scenes=about)
        loss = F.binary_cross_entropy_with_logits(said.answers, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def ours() -> Tensor:
        return network.eval()(crops, boxes, present, words, scenes=about).answers

    @torch.no_grad()
    def one_by_one() -> Tensor:
        network.eval()
        rows = [(crops[s : s + 1], boxes[s : s + 1], present[s : s + 1]) for s in about.tolist()]
        return torch.cat([network(*row, text[None]).answers for row, text in zip(rows, words, strict=True)])

    torch.testing.assert_close(ours(), one_by_one(), rtol=1e-3, atol=1e-4)
    seconds = interleaved({"step": step, "ours": ours, "one": one_by_one}, rounds=5)
    rates = {name: QUESTIONS / statistics.median(spent) for name, spent in seconds.items()}
    return [
        Measure("questions trained on", rates["step"], "per second"),
        Measure("questions answered", rates["ours"], "per second"),
        Measure("questions answered, one at a time", rates["one"], "per second"),
        Measure("answers: one question at a time / ours", median_ratio(seconds, "one", "ours"), "", "at least 5"),
    ]
