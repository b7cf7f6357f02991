"""The paper's experiment on invented scans with an invented CLIP: every part of it runs, and it can learn."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_dual_encoder import clip  # noqa: F401 (a fixture: a random CLIP in a folder)

from ntf_utils.papers.clip_guided_3dqa.scans import CLASSES, ScanJob, ScansConfig, answer_in_scans
from ntf_utils.refusal import Refusal

THINGS = {"bed": (4, "a red box"), "lamp": (35, "a blue ball")}


@pytest.fixture
def root(tmp_path):
    """Two scans for training and validation alike: one holds a bed, wide and low, the other a lamp, tall and narrow."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    scans = data / "scannet" / "scannet_data"
    scans.mkdir(parents=True)
    questions, descriptions = [], []
    for number, (noun, (nyu40, text)) in enumerate(THINGS.items()):
        name = f"scene900{number}_00"
        extent = np.array([2.0, 1.6, 0.5] if noun == "bed" else [0.4, 0.4, 1.8])
        thing = rng.uniform(-0.5, 0.5, (150, 3)) * extent + [0, 0, extent[2] / 2]
        floor = np.column_stack([rng.uniform(-2, 2, (150, 2)), np.zeros(150)])
        vertices = np.zeros((300, 9))
        vertices[:, :3] = np.concatenate([thing, floor])
        box = np.array([[0, 0, extent[2] / 2, *extent, nyu40, 0]])
        for part, array in (("aligned_vert", vertices), ("ins_label", np.repeat([1, 0], 150)), ("aligned_bbox", box)):
            np.save(scans / f"{name}_{part}.npy", array)
        for asked in range(4):
            answers = [noun] if asked else [noun, f"the {noun}"]
            questions.append({"scene_id": name, "question_id": f"{noun}-{asked}", "question": "a box",
                              "object_ids": [0], "answers": answers})  # fmt: skip
            descriptions.append({"scene_id": name, "object_id": "0", "ann_id": str(asked), "description": text})
        (data / "top_imgs" / "train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 42), (200 * number, 0, 90)).save(data / "top_imgs" / "train" / f"{name}.jpg")
    (data / "qa").mkdir()
    for part in ("train", "val"):
        (data / "qa" / f"ScanQA_v1.0_{part}.json").write_text(json.dumps(questions))
    (data / "ScanRefer_filtered_train.json").write_text(json.dumps(descriptions))
    return data


def config(root, clip, **changes):  # noqa: F811
    small = {"counted": False, "size": "laptop", "dimension": 8, "pretrain_epochs": 1, "answer_epochs": 1, "batch": 4,
             "pretrain_points": 256, "answer_points": 256, "drops": ()}  # fmt: skip
    return ScansConfig(root=str(root), clip=str(clip[0]), **small | changes)


def test_it_learns_what_only_the_scan_tells(root, clip):  # noqa: F811
    outcome = answer_in_scans(config(root, clip, answer_epochs=40, answer_rate=2e-3, norm_momentum=0.2))
    (row,) = outcome.rows
    assert (row["em1"], row["swapped"]) == (100, 0)  # the same words, so the answer comes from the scan alone
    assert row["kind"] == 100 and 0 <= row["acc50"] <= row["acc25"] <= 100
    assert row["loaded"] == row["of"] > 50
    assert (row["questions"], row["answerable"], row["em1_answerable"]) == (8, 8, 100)
    learning, before = (outcome.curves[name] for name in ("learning", "pretraining"))
    assert np.isfinite(learning["detection"]).all() and learning["kind"][-1] < learning["kind"][0]
    assert np.isfinite(before["detection"]).all() and 0 < before["cosine"][-1] < 2
    assert outcome.curves["kinds"] == {"kind": ["other"], "n": [8], "em1": [100.0]}


def test_the_published_faults_come_back_as_an_arm(root, clip):  # noqa: F811
    job = ScanJob(config(root, clip, arm="R"), torch.device("cpu"))
    network, loaded, _ = job.network()
    assert loaded[0] == 0 and network.encoder.scene.across_batch
    start = job.fresh().encoder.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in network.encoder.state_dict().items())


def test_a_network_that_sees_no_scan_cannot_tell_them_apart(root, clip):  # noqa: F811
    outcome = answer_in_scans(config(root, clip, arm="blind", answer_epochs=5, answer_rate=3e-3))
    (row,) = outcome.rows
    assert row["em1"] == row["swapped"] == 50 and "acc25" not in row


def test_every_arm_pulls_to_its_own_targets(root, clip):  # noqa: F811
    cosines = {}
    for arm in ("D", "T", "I"):
        job = ScanJob(config(root, clip, arm=arm), torch.device("cpu"))
        cosines[arm] = job.pretrain(job.fresh().encoder)["cosine"][0]
    assert cosines["D"] == 0 and cosines["T"] != cosines["I"] and min(cosines["T"], cosines["I"]) > 0


def test_targets_of_answers_grow_with_how_often_training_gives_them(root, clip):  # noqa: F811
    job = ScanJob(config(root, clip), torch.device("cpu"))
    assert job.counts == {"bed": 4, "the bed": 1, "lamp": 4, "the lamp": 1}
    assert job.answers == ("bed", "lamp", "the bed", "the lamp")
    names = [question.scene for question in job.questions["train"]]
    truth = job._clouds(names[3:5], 100, (0, 0)).truth
    assert truth.classes[:, 0].tolist() == [CLASSES.index("bed"), CLASSES.index("other")]  # lamps are none of the 17
    torch.testing.assert_close(truth.boxes[0, 0], torch.tensor([0, 0, 0.25, 2, 1.6, 0.5]))


def test_clouds_are_drawn_anew_at_every_step_and_alike_for_every_arm(root, clip):  # noqa: F811
    clouds = []
    for arm, step in (("TI", 0), ("S", 0), ("TI", 1)):
        job = ScanJob(config(root, clip, arm=arm), torch.device("cpu"))
        clouds.append(job._clouds(["scene9000_00"], 100, (0, step)))
    assert torch.equal(clouds[0].points, clouds[1].points) and not torch.equal(clouds[0].points, clouds[2].points)
    assert clouds[0].features.shape == (1, 100, 1)


def test_what_it_lacks_is_said_before_any_training(root, clip):  # noqa: F811
    with pytest.raises(Refusal, match="has vectors of 8, the scene encoder of 512"):
        ScanJob(config(root, clip, dimension=512), torch.device("cpu"))
    for picture in (root / "top_imgs" / "train").glob("*.jpg"):
        picture.unlink()
    job = ScanJob(config(root, clip), torch.device("cpu"))
    with pytest.raises(Refusal, match="2 of the described scans have no picture from above"):
        job.network()
    with pytest.raises(Refusal, match="a batch of 9 cannot be drawn from 8 questions"):
        answer_in_scans(config(root, clip, arm="S", batch=9))
    with pytest.raises(Refusal, match="there is no folder"):
        config(root / "nowhere", clip).data_fingerprint()
