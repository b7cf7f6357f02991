"""Rooms, their points, renders and proposals: checked by other means than they are made with."""

import time
from collections import Counter

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy.spatial.distance import cdist

from ntf_utils.data.proposals import proposals
from ntf_utils.data.renders import Camera, eye_cameras, render, top_camera, top_views, views
from ntf_utils.data.rooms import (
    COLOURS,
    GAP,
    HELD_OUT,
    KINDS,
    NOUNS,
    SIZES,
    SPLITS,
    Cloud,
    Room,
    Thing,
    apart,
    make_room,
    room_scene,
    sample,
    split,
)
from ntf_utils.data.scenes import Scene
from ntf_utils.refusal import Refusal


@pytest.fixture(scope="module")
def rooms():
    return split("train", 160)


@pytest.fixture(scope="module")
def scenes(rooms):
    return [room_scene(room) for room in rooms[:40]]


def outline(thing, step=0.02):
    """[n, 2] points along the sides of a footprint."""
    corners = thing.footprint
    sides = zip(corners, np.roll(corners, -1, axis=0), strict=True)
    return np.concatenate([np.linspace(start, end, max(2, int(np.ptp([start, end]) / step))) for start, end in sides])


def overlap(one, other):
    """Whether two footprints share ground, by their points alone."""
    inside = Polygon(one.footprint).contains_points([(other.x, other.y), *outline(other)])
    return bool(inside.any() or Polygon(other.footprint).contains_points([(one.x, one.y)]).any())


# Rooms


def test_no_two_things_overlap_and_none_stands_in_a_wall(rooms):
    for room in rooms[:60]:
        outlines = [outline(thing) for thing in room.things]
        for row, thing in enumerate(room.things):
            assert (np.abs(outlines[row]) <= np.array(room.floor) / 2 - GAP + 1e-9).all()
            for other in range(row):
                assert not overlap(thing, room.things[other]) and not overlap(room.things[other], thing)
                assert cdist(outlines[row], outlines[other]).min() >= GAP - 1e-9


def test_the_gap_of_rectangles_is_known_where_it_is_plain():
    one = Thing("bin", "red", "small").footprint
    side = one[1, 0] - one[0, 0]
    others = [one + (2 * side, 0), one + (side / 2, 0), one + (side, side)]
    assert apart(one[None], np.array(others))[0] == pytest.approx([side, -side / 2, 0])
    assert overlap(Thing("bed", "red", "small"), Thing("bin", "red", "small", 0.3, 0.3, 0.5))
    turned = Thing("bin", "red", "small", 0.9 * side, 0.9 * side, np.pi / 4)  # the corners' boxes meet, they do not
    assert apart(one[None], turned.footprint[None])[0, 0] > 0
    assert not overlap(Thing("bin", "red", "small"), turned)


def test_a_room_has_five_to_nine_things_of_both_sizes_and_every_quarter_turn(rooms):
    counts = Counter(len(room.things) for room in rooms)
    assert set(counts) == {5, 6, 7, 8, 9}
    things = [thing for room in rooms for thing in room.things]
    assert {thing.size for thing in things} == set(SIZES) and {thing.noun for thing in things} == set(NOUNS)
    quarters = np.array([thing.yaw for thing in things]) / (np.pi / 2)
    assert np.abs(quarters - quarters.round()).max() <= np.radians(10) / (np.pi / 2) + 1e-9
    assert set(quarters.round().astype(int) % 4) == {0, 1, 2, 3}
    assert all(4 <= side <= 6 for room in rooms for side in room.floor)


def test_kinds_and_counts_come_evenly_and_independently(rooms):
    focus = Counter((room.kind, room.focus, Counter(t.noun for t in room.things)[room.focus]) for room in rooms)
    assert len(focus) == len(KINDS) * len(NOUNS) * 5 and set(focus.values()) == {1}
    counts = [Counter(t.noun for t in room.things)[room.focus] for room in rooms]
    assert abs(np.corrcoef(counts, [len(room.things) for room in rooms])[0, 1]) < 0.2


def test_no_room_comes_twice_and_a_seed_names_one_room():
    found = [room.things for name in SPLITS for seed in (0, 1) for room in split(name, 20, seed)]
    assert len(set(found)) == len(found)
    assert make_room(3) == make_room(3) and make_room(3).things != make_room(4).things


def test_held_out_pairs_are_met_only_where_they_may_be(rooms):
    assert len(set(HELD_OUT)) == 12
    assert max(Counter(noun for noun, _ in HELD_OUT).values()) == max(Counter(c for _, c in HELD_OUT).values()) == 2

    def met(some):
        return {thing.pair for room in some for thing in room.things}

    assert met(rooms).isdisjoint(HELD_OUT) and len(met(rooms)) == 64 - 12  # so each class and colour is seen
    for name in ("val_iid", "pretrain_seen"):
        assert met(split(name, 60)).isdisjoint(HELD_OUT)
    for name in ("pretrain", "teacher"):
        assert met(split(name, 160)).issuperset(HELD_OUT)
    strange = [thing.pair in HELD_OUT for room in split("val_comp", 60) for thing in room.things]
    assert 0.4 < np.mean(strange) < 0.6


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"floor": (2.0, 2.5)}, "too small"),
        ({"things": (60, 60)}, "too small"),
        ({"kind": "bathroom"}, "no such type of room"),
        ({"pairs": "some"}, "all, seen or held-out"),
        ({"focus": ("piano", 2)}, "focus"),
        ({"focus": ("bed", 7)}, "focus"),
        ({"things": (3, 9)}, "more than 4"),
        ({"floor": (6.0, 4.0)}, "shortest"),
    ],
)
def test_impossible_rooms_are_refused_soon(asked, told):
    began = time.process_time()
    with pytest.raises(Refusal, match=told):
        make_room(0, **asked)
    assert time.process_time() - began < 5


def test_an_unknown_split_is_refused():
    with pytest.raises(Refusal, match="val_ood"):
        split("val_ood", 1)


# Points


def test_points_lie_on_the_things_they_belong_to(rooms):
    for room in rooms[:10]:
        cloud = sample(room, 4000, np.random.default_rng(0))
        assert len(cloud.points) == 4000
        assert np.linalg.norm(cloud.normals, axis=1) == pytest.approx(1)
        for row, thing in enumerate(room.things):
            mine = cloud.instance == row
            assert mine.sum() >= 31
            points = cloud.points[mine]
            back = np.array([[np.cos(thing.yaw), -np.sin(thing.yaw)], [np.sin(thing.yaw), np.cos(thing.yaw)]])
            own = (points[:, :2] - (thing.x, thing.y)) @ back  # in the thing's own frame
            assert (np.abs(own) <= np.array(thing.measures[:2]) / 2 + 1e-9).all()
            assert 0.9 * thing.measures[2] <= points[:, 2].max() <= thing.measures[2] + 1e-9
            assert (np.abs(points - thing.box[:3]) <= thing.box[3:] / 2 + 1e-9).all()
            shade = cloud.colours[mine] / np.array(COLOURS[thing.colour])
            assert (shade <= 1 + 1e-9).all() and (shade >= 0.8 - 1e-9).all()
        shell = cloud.points[cloud.instance == -1]
        width, depth = room.floor
        on = np.stack([shell[:, 2] == 0, shell[:, 0] == -width / 2, np.isclose(shell[:, 1], depth / 2)])
        assert on.any(axis=0).all() and len(shell) == pytest.approx(1000, abs=2)


def test_round_things_are_round():
    room = Room("one", (0,), "office", (5.0, 5.0), 0.7, "lamp", (Thing("lamp", "red", "large", 1.0, -1.0, 0.3),))
    points = sample(room, 3000, np.random.default_rng(0)).points
    head = points[(points[:, 2] > 1.23 * 1.2)] - (1.0, -1.0, 1.4 * 1.2)
    head = head[np.abs(head).max(axis=1) < 0.3]
    assert np.linalg.norm(head, axis=1) == pytest.approx(0.22 * 1.2) and len(head) > 300
    assert np.abs(head.mean(axis=0)).max() < 0.05  # on all sides of it


def test_points_are_as_many_as_the_area_has_shares():
    things = (Thing("bin", "red", "small", -1.0, -1.0), Thing("bin", "blue", "large", 1.0, 1.0))
    room = Room("two", (0,), "office", (5.0, 5.0), 0.7, "bin", things)
    cloud = sample(room, 20000, np.random.default_rng(0), shell=0.5)
    small, large, shell = (int((cloud.instance == row).sum()) for row in (0, 1, -1))
    assert shell == pytest.approx(10000, abs=2) and large / small == pytest.approx((1.2 / 0.8) ** 2, rel=0.01)
    lid = np.isclose(cloud.points[cloud.instance == 1, 2], 0.55 * 1.2).mean()
    assert lid == pytest.approx(0.22 / (0.22 + 2 * 0.55), rel=0.02)  # pi r^2 of pi r^2 + 2 pi r h
    floor = cloud.points[np.isclose(cloud.points[:, 2], 0) & (cloud.instance == -1)]
    density, _, _ = np.histogram2d(floor[:, 0], floor[:, 1], bins=5)
    assert density.min() > 0.9 * density.max()  # evenly spread


def test_a_scan_is_noisy_and_the_same_each_time(rooms, scenes):
    room, scene = rooms[0], scenes[0]
    again = room_scene(room)
    assert (again.points == scene.points).all() and (again.colours == scene.colours).all()
    clean = sample(room, len(scene), np.random.default_rng((*room.seed, 1)))
    assert np.std(scene.points - clean.points) == pytest.approx(0.01, rel=0.1)
    assert scene.classes == tuple(thing.noun for thing in room.things) and scene.kind == room.kind
    assert scene.boxes == pytest.approx(np.stack([thing.box for thing in room.things]), abs=1e-5)
    few = scene.drawn(100, np.random.default_rng(0))
    assert len(few) == 100 and {tuple(point) for point in few.points} <= {tuple(point) for point in scene.points}
    assert len(few.drawn(300, np.random.default_rng(0))) == 300
    with pytest.raises(Refusal, match="at least one point"):
        room_scene(room, points=0)


# Renders


def painted(cloud, camera, size):
    """A picture by a loop over pixels and points: the nearest of the points in sight that fall into a pixel."""
    picture = np.full((size, size, 3), 255, dtype=np.uint8)
    nearest = np.full((size, size), np.inf)
    focal = size / 2 / np.tan(np.radians(camera.angle / 2))
    into = np.subtract(camera.target, camera.position) / np.linalg.norm(np.subtract(camera.target, camera.position))
    right = np.cross(into, camera.up)
    right /= np.linalg.norm(right)
    for point, colour, normal in zip(cloud.points, cloud.colours, cloud.normals, strict=True):
        ray = point - camera.position
        depth = ray @ into
        if depth <= 0.1 or normal @ ray >= 0:
            continue
        x = int(np.floor(size / 2 + focal * (ray @ right) / depth))
        y = int(np.floor(size / 2 - focal * (ray @ np.cross(right, into)) / depth))
        if 0 <= x < size and 0 <= y < size and depth < nearest[y, x]:
            nearest[y, x] = depth
            picture[y, x] = colour_seen(colour, normal)
    return picture


def colour_seen(colour, normal):
    light = np.array([0.35, -0.55, 0.76])
    lit = 0.72 + 0.28 * max(0.0, float(normal @ light / np.linalg.norm(light)))
    return (255 * np.clip(colour * lit, 0, 1)).astype(np.uint8)


def test_a_render_is_that_of_a_plain_loop(rooms):
    cloud = sample(rooms[1], 1500, np.random.default_rng(0))
    for camera in (top_camera(), *eye_cameras(rooms[1], 3)):
        one = render(cloud, [camera], 40, widest=0)[0]  # splats of one pixel, as the loop has them
        assert (one == painted(cloud, camera, 40)).all()


def test_the_nearer_thing_hides_the_farther_one():
    facing = np.tile([0.0, -1.0, 0.0], (2, 1))
    cloud = Cloud(np.array([[0, 2.0, 0], [0, 1.0, 0]]), np.array([[1.0, 0, 0], [0, 0, 1.0]]), np.array([0, 1]), facing)
    picture = render(cloud, [Camera((0, 0, 0), (0, 1, 0))], 9)[0]
    assert picture[4, 4, 2] > 0 and picture[4, 4, 0] == 0
    behind = render(cloud, [Camera((0, 0, 0), (0, -1, 0))], 9)[0]
    assert (behind == 255).all()  # nothing is seen behind the camera's back


def test_pictures_show_left_on_the_left_and_the_back_above():
    things = (Thing("bin", "red", "large", -1.5, 1.5), Thing("bin", "blue", "large", 1.5, -1.0))
    room = Room("two", (0,), "office", (5.0, 5.0), 0.7, "bin", things)
    above, *around = views(room, [top_camera(), *eye_cameras(room, 4)], 48)
    red, blue = ((above[..., a].astype(int) - above[..., b]) > 60 for a, b in ((0, 2), (2, 0)))
    (red_y, red_x), (blue_y, blue_x) = (np.argwhere(mask).mean(axis=0) for mask in (red, blue))
    assert red_x < 24 < blue_x and red_y < 24 < blue_y
    assert len(around) == 4 and len({picture.tobytes() for picture in around}) == 4
    from_door = around[0]
    red, blue = ((from_door[..., a].astype(int) - from_door[..., b]) > 60 for a, b in ((0, 2), (2, 0)))
    assert np.argwhere(red)[:, 1].mean() < np.argwhere(blue)[:, 1].mean()
    assert (top_views([room])[0] == above).all() and above.dtype == np.uint8


# Proposals


def overlaps(one, others):
    """Intersection over union of one box with others."""
    low = np.maximum(one[:3] - one[3:] / 2, others[:, :3] - others[:, 3:] / 2)
    high = np.minimum(one[:3] + one[3:] / 2, others[:, :3] + others[:, 3:] / 2)
    shared = (high - low).clip(min=0).prod(axis=1)
    return shared / (one[3:].prod() + others[:, 3:].prod(axis=1) - shared)


def test_proposals_find_the_things_without_their_labels(scenes):
    found = [(proposals(scene), scene) for scene in scenes]
    hit = [overlaps(box, boxes).max() > 0.5 for (_, boxes), scene in found for box in scene.boxes]
    vain = [overlaps(box, scene.boxes).max() < 0.5 for (_, boxes), scene in found for box in boxes]
    assert np.mean(hit) > 0.98 and np.mean(vain) < 0.02
    for (crops, boxes), _ in found:
        assert crops.shape == (len(boxes), 32, 6) and crops.dtype == boxes.dtype == np.float32
        assert (np.abs(crops[..., :3] - boxes[:, None, :3]) <= boxes[:, None, 3:] / 2 + 1e-5).all()
    scene = scenes[0]
    blind = Scene("blind", scene.points, scene.colours, scene.instance[::-1], scene.boxes[:1], ())
    assert all((a == b).all() for a, b in zip(proposals(scene), proposals(blind), strict=True))


def test_a_scene_without_things_has_no_proposals_and_one_without_points_is_refused(scenes):
    scene = scenes[0]
    shell = scene.instance == -1
    bare = Scene("bare", scene.points[shell], scene.colours[shell], scene.instance[shell], scene.boxes[:0], ())
    crops, boxes = proposals(bare)
    assert crops.shape == (0, 32, 6) and boxes.shape == (0, 6)
    empty = Scene("empty", scene.points[:0], scene.colours[:0], scene.instance[:0], scene.boxes[:0], ())
    with pytest.raises(Refusal, match="empty has no points"):
        proposals(empty)
