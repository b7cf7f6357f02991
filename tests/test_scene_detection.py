"""Detectors on rooms, end to end with the alignment, and the published code's defects, measured."""

import numpy as np
import pandas as pd
import pytest
import torch

from ntf_utils.data.rooms import NOUNS, make_room, room_scene
from ntf_utils.data.scenes import Scene
from ntf_utils.measures.boxes import iou
from ntf_utils.models.detector import Truth
from ntf_utils.papers.clip_guided_3dqa.answering import Job
from ntf_utils.papers.clip_guided_3dqa.defects import DefectConfig, changed, measure_defects
from ntf_utils.papers.clip_guided_3dqa.detection import (
    Clouds,
    DetectConfig,
    DetectorJob,
    Read,
    apart,
    component_accuracy,
    found_things,
    survey_of,
    train_detector,
)
from ntf_utils.papers.clip_guided_3dqa.teacher import TeacherConfig
from ntf_utils.refusal import Refusal
from ntf_utils.show import defect_figures
from ntf_utils.training.device import default_device


@pytest.fixture(autouse=True, scope="module")
def own_store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTF_STORE", str(tmp_path_factory.mktemp("store")))
        yield


WORLD = {
    "pretrain_rooms": 12, "qa_rooms": 8, "val_rooms": 8, "per_template": 6, "val_per_template": 6,
    "teacher": TeacherConfig(rooms=16, steps=1, batch=8, text_width=16, dimension=16, width=4),
}  # fmt: skip


def detecting(**changes):
    return DetectConfig(**WORLD | {"cloud": 256, "proposals": 8, "detect_steps": 2, "detect_batch": 4} | changes)


# clouds


def test_a_cloud_is_a_scene_with_its_things_numbered():
    scenes = [room_scene(make_room(seed), 300) for seed in (1, 2)]
    clouds = Clouds.of(scenes, NOUNS)
    assert clouds.points.shape == (2, 300, 3) and clouds.features.shape == (2, 300, 4)
    for row, scene in enumerate(scenes):
        count = len(scene.boxes)
        assert clouds.truth.there[row].tolist() == [True] * count + [False] * (clouds.truth.there.shape[1] - count)
        assert [NOUNS[kind] for kind in clouds.truth.classes[row, :count]] == list(scene.classes)
        owner = clouds.truth.instance[row]
        assert torch.equal(owner, torch.as_tensor(scene.instance))
        middle = clouds.points[row][owner == 0].mean(dim=0)
        assert ((middle - clouds.truth.boxes[row, 0, :3]).abs() < clouds.truth.boxes[row, 0, 3:] / 2).all()
    assert clouds.features[..., 3].amin() == 0  # the floor's height
    sizes = clouds.mean_sizes(len(NOUNS))
    chairs = np.concatenate([s.boxes[[c == NOUNS[0] for c in s.classes]] for s in scenes])[:, 3:]
    expected = torch.as_tensor(chairs.mean(axis=0)) if len(chairs) else torch.ones(3)
    torch.testing.assert_close(sizes[0], expected)


def test_things_of_unknown_classes_are_part_of_the_room():
    scene = Scene(
        "one", np.random.default_rng(0).random((6, 3)), np.zeros((6, 3)), np.array([0, 1, 2, -1, 2, 1]),
        np.arange(18.0).reshape(3, 6), ("lamp", "ghost", "bed"),
    )  # fmt: skip
    truth = Clouds.of([scene], ("bed", "lamp")).truth
    assert truth.instance.tolist() == [[0, -1, 1, -1, 1, -1]]
    assert truth.there.tolist() == [[True, True, False]]
    assert truth.classes[0, :2].tolist() == [1, 0] and truth.boxes[0, 1].tolist() == list(range(12, 18))


def test_clouds_of_unequal_size_get_a_sentence():
    scenes = [room_scene(make_room(seed), points) for seed, points in ((1, 300), (2, 200))]
    with pytest.raises(Refusal, match=r"equally many points .* has 300, .* 200"):
        Clouds.of(scenes, NOUNS)


# scores


def test_boxes_are_kept_apart_as_a_plain_loop_would():
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(3, 12, 6, generator=draw) + 0.3
    sure, classes = torch.rand(3, 12, generator=draw), torch.randint(2, (3, 12), generator=draw)
    kept = apart(boxes, sure, classes)
    for b in range(3):
        chosen = []
        for i in sorted(range(12), key=lambda i: -sure[b, i]):
            over = [j for j in chosen if classes[b, j] == classes[b, i]]
            if all(iou(boxes[b, i][None], boxes[b, j][None]).item() <= 0.25 for j in over):
                chosen.append(i)
        assert kept[b].nonzero()[:, 0].tolist() == sorted(chosen)
    assert 0 < kept.sum() < 36


def test_perfect_boxes_find_everything_and_unsure_ones_nothing():
    boxes = torch.tensor([[[0.0, 0, 0, 1, 1, 1], [3, 0, 0, 1, 2, 1]], [[0, 5, 0, 1, 1, 2], [0, 0, 0, 0, 0, 0]]])
    there = torch.tensor([[True, True], [True, False]])
    kinds = torch.tensor([[0, 1], [1, 0]])
    truth = Truth(torch.zeros(2, 1, dtype=torch.long), boxes, kinds, kinds, there)
    classes = torch.nn.functional.one_hot(kinds, 2).float()
    read = Read(torch.zeros(2, 3), boxes, there.float(), classes)
    assert set(found_things(read, truth).values()) == {100.0}
    # half a metre off along a side of one metre: a third of the union
    moved = boxes + torch.tensor([0.5, 0, 0, 0, 0, 0])
    found = found_things(Read(read.scene, moved, read.sure, classes), truth)
    assert found["acc25"] == pytest.approx(100) and found["acc50"] == 0 and found["map50"] == 0
    unsure = found_things(Read(read.scene, boxes, 0.4 * read.sure, classes), truth)
    assert unsure["acc25"] == 0 and unsure["map25"] == 100  # precision asks for the order alone
    wrong = found_things(Read(read.scene, boxes, read.sure, classes.flip(2)), truth)
    assert wrong["acc25"] == 100 and wrong["map25"] <= 50  # the right class comes last


# the detector's runs


def test_a_run_repeats_and_says_what_it_found():
    outcome = train_detector(detecting())
    assert outcome == train_detector(detecting())
    row = outcome.rows[0]
    assert {"acc25", "map50", "untrained_acc25", "recall1", "cosine_constant", "components_acc50"} <= set(row)
    assert row["components_acc25"] > 80 and row["recall1_chance"] == 100 / 8
    assert outcome.curves["learning"]["step"] == [1, 2]
    assert train_detector(detecting(seed=1)).rows[0]["cosine"] != row["cosine"]


def test_as_released_the_detector_is_the_one_that_knows_no_alignment():
    """Its gradient below the scene layer is 0, so the weights are equal to the last bit."""
    states = {}
    for arm in ("D", "R", "TI"):
        job = DetectorJob(detecting(arm=arm), default_device())
        network = job.fresh()
        job.train(network)
        states[arm] = network.state_dict()
    inside = [name for name in states["D"] if name.startswith("detector.")]
    assert all(torch.equal(states["D"][name], states["R"][name]) for name in inside)
    assert not all(torch.equal(states["D"][name], states["TI"][name]) for name in inside)
    assert not torch.equal(states["D"]["scene.token"], states["R"]["scene.token"])


def test_clouds_are_surveyed_once_where_that_fits_in_memory(monkeypatch):
    job = DetectorJob(detecting(), default_device())
    network = job.fresh()
    known, rows = survey_of(network, job.clouds), torch.tensor([3, 7])
    some = network.detector.survey(job.clouds.points[rows])
    for whole, part in zip(known.at(rows), some, strict=True):
        for a, b in zip(whole, part, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    monkeypatch.setattr("ntf_utils.papers.clip_guided_3dqa.detection.SURVEYED", 1000)
    assert survey_of(network, job.clouds) is None
    assert component_accuracy(job.world.val["iid"])["components_acc50"] > 80


def test_the_paper_size_is_the_published_one():
    shape, scene = detecting(size="paper", arm="R").shapes
    assert (shape.proposals, shape.levels[0].count, shape.width) == (256, 2048, 128)
    assert (scene.width, scene.feedforward, scene.embedding, scene.across_batch) == (256, 2048, 16, True)


# the defects


def defective(**changes):
    return DefectConfig(**WORLD | {"pretrain_steps": 2, "answer_steps": 2, "group": 4} | changes)


def test_the_defects_are_there_as_released_and_gone_when_mended():
    outcome = measure_defects(defective())
    row = outcome.rows[0]
    assert row["gradient_released"] == row["end_to_end_released"] == row["loaded"] == row["trunk_released"] == 0
    assert row["gradient_fixed"] > 0 and row["end_to_end_fixed"] > 0
    assert row["loaded_fixed"] == row["of"] > 0 and row["trunk_fixed"] == row["trunk_of"] > 0
    assert row["spread_ratio"] < 1e-9 and row["spread_fixed"] > 1e-4
    assert row["changed_fixed"] == 0
    gradients = pd.DataFrame(outcome.curves["gradients"])
    above = gradients[gradients["part"].isin(["scene token", "attention", "feed-forward", "head"])]
    assert (above["norm"] > 0).all()  # the scene layer itself is reached in either
    with pytest.raises(Refusal, match="measured on the arm TI"):
        defective(arm="S")


def test_answers_hang_on_the_batch_as_released():
    found = {}
    for arm in ("TI", "R"):
        job = Job(defective().variant(arm), default_device())
        network = job.fresh()
        with torch.no_grad():
            for weights in (*network.encoder.scene.layer.parameters(), *network.fusion.layers.parameters()):
                weights.mul_(3)  # at its start the network hardly attends
        found[arm] = changed(job, network, 4)
    assert found["TI"] == 0 < found["R"]


# figures


def gradients_table():
    lines = []
    for network, parts in (("proposals given", ("crops", "head")), ("end to end", ("votes", "head"))):
        for seed in range(3):
            for variant in ("fixed", "released"):
                for part in parts:
                    gone = variant == "released" and part != "head"
                    lines.append({"network": network, "variant": variant, "part": part, "seed": seed,
                                  "norm": 0.0 if gone else 0.01 * (seed + 1)})  # fmt: skip
    return pd.DataFrame(lines)


def test_a_gradient_of_nothing_is_said_and_drawn_as_nothing():
    figure = defect_figures.gradient_bars(gradients_table())
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["exactly 0"]
        assert axes.get_xlabel() and axes.get_xscale() == "log"
        lengths = sorted(round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches)
        assert lengths == [0.01, 0.02, 0.02, 0.02]  # the first one has no length: it ends where the axis begins


def test_detectors_are_shown_with_their_controls():
    names = ("acc25", "acc50", "map25", "map50")
    table = pd.DataFrame([
        {"arm": arm, "seed": seed, "recall1": 10.0 + seed, "recall1_chance": 1.5, "cosine_centred": 0.2,
         "components_acc25": 99.0, "components_acc50": 98.0}
        | dict.fromkeys(names, 50.0 + seed) | {f"untrained_{name}": 1.0 for name in names}
        for arm in ("TI", "R") for seed in range(3)
    ])  # fmt: skip
    figure = defect_figures.end_to_end(table)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["mended", "as released", "control: before training", "control: chance"]
    assert all(axes.get_ylabel() for axes in figure.axes)
    shown = defect_figures.detectors(table)
    assert shown.loc["mended", "Acc@0.25"] == "51.0" and shown.loc["components, no network", "mAP@0.5"] == ""
    learning = pd.DataFrame([
        {"arm": arm, "seed": seed, "step": step, "vote": 1.0, "objectness": 1.0, "box": 1.0, "class": 1.0}
        for arm in ("TI", "R") for seed in range(2) for step in (1, 2)
    ])  # fmt: skip
    assert [axes.get_xlabel() for axes in defect_figures.losses_on_the_way(learning).axes] == ["updates"] * 4


def test_consequences_are_told_in_one_narrow_table():
    row = {f"{name}_{variant}": value for name in ("gradient", "end_to_end", "spread", "loaded", "trunk", "changed")
           for variant, value in (("fixed", 12.0), ("released", 0.0))}  # fmt: skip
    shown = defect_figures.consequences(pd.DataFrame([row | {"of": 33, "trunk_of": 30, "spread_released": 2e-16}]))
    assert shown.loc["pre-trained tensors loaded"].tolist() == ["0", "12", "33"]
    assert shown.loc["spread of scene vectors", "as released"] == "2e−16"
