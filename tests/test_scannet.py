"""ScanNet, ScanRefer and ScanQA in their own formats: tiny invented files, none of anybody's data."""

import json

import numpy as np
import pytest
from PIL import Image

from ntf_utils.data.scannet import NYU40, ScanNetFolder, question_kind
from ntf_utils.refusal import Refusal

SCENE = "scene9999_00"
QUESTIONS = [
    {"scene_id": SCENE, "question_id": "val-scene9999-0", "question": "What color is the desk?",
     "object_ids": [3], "object_names": ["desk"], "answers": ["brown", "dark brown"]},
    {"scene_id": SCENE, "question_id": "val-scene9999-1", "question": "How many chairs are next to the table?",
     "object_id": [7, 0, 5], "object_names": ["chair", "chair", "wall"], "answers": ["2", "two"]},
]  # fmt: skip
DESCRIPTIONS = [
    {"scene_id": SCENE, "object_id": "7", "object_name": "chair", "ann_id": "0",
     "description": "a chair left of the desk", "token": ["a", "chair"]},
    {"scene_id": SCENE, "object_id": "5", "object_name": "wall", "ann_id": "0", "description": "a white wall",
     "token": ["a"]},
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A scan of 40 points: a desk (object 3), chairs (0 and 7), and a wall (5), which has no box."""
    rng = np.random.default_rng(0)
    scans = tmp_path / "scannet" / "scannet_data"
    scans.mkdir(parents=True)
    vertices = rng.uniform(-2, 2, (40, 9))
    vertices[:, 3:6] = rng.integers(0, 256, (40, 3))
    labels = np.repeat(np.array([0, 4, 1, 8, 6], dtype=np.uint32), 8)  # unlabelled, then objects 3, 0, 7 and 5
    boxes = np.array([[0, 0, 0.4, 1, 1, 0.8, 14, 3], [1, 0, 0.5, 0.5, 0.5, 1, 5, 0], [2, 0, 0.5, 0.5, 0.5, 1, 5, 7]])
    for part, array in (("aligned_vert", vertices), ("ins_label", labels), ("aligned_bbox", boxes)):
        np.save(scans / f"{SCENE}_{part}.npy", array)
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "ScanQA_v1.0_val.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "ScanRefer_filtered_val.json").write_text(json.dumps(DESCRIPTIONS))
    return tmp_path


def test_a_scan_becomes_a_scene(folder):
    scene = ScanNetFolder(folder, counted=False).scene(SCENE)
    stored = np.load(folder / "scannet" / "scannet_data" / f"{SCENE}_aligned_vert.npy")
    np.testing.assert_allclose(scene.points, stored[:, :3], rtol=1e-6)
    np.testing.assert_allclose(scene.colours, stored[:, 3:6] / 255, rtol=1e-6)
    assert scene.instance.tolist() == [-1] * 8 + [0] * 8 + [1] * 8 + [2] * 8 + [-1] * 8
    assert scene.classes == ("desk", "chair", "chair")
    np.testing.assert_allclose(scene.boxes[1], [1, 0, 0.5, 0.5, 0.5, 1])
    assert (scene.kind, scene.views, scene.captions) == (None, {}, ())
    assert (NYU40[0], NYU40[13], NYU40[34], len(NYU40)) == ("wall", "desk", "lamp", 40)


def test_descriptions_pictures_and_room_types_come_with_the_split(folder):
    (folder / "scannet" / "scans" / SCENE).mkdir(parents=True)
    (folder / "scannet" / "scans" / SCENE / f"{SCENE}.txt").write_text(
        "numColorFrames = 9\nsceneType = Bedroom / Hotel\n"
    )
    (folder / "top_imgs" / "val").mkdir(parents=True)
    Image.new("RGB", (64, 42), (200, 0, 0)).save(folder / "top_imgs" / "val" / f"{SCENE}.jpg")
    real = ScanNetFolder(folder, counted=False)
    assert real.names("val") == [SCENE]
    (scene,) = real.scenes("val")
    assert scene.kind == "bedroom / hotel"
    assert [(caption.text, caption.object) for caption in scene.captions] == [("a chair left of the desk", 2)]
    assert scene.views["top"].shape == (42, 64, 3) and scene.views["top"].dtype == np.uint8
    assert abs(scene.views["top"].astype(int) - [200, 0, 0]).max() < 5


def test_questions_point_at_rows_of_boxes(folder):
    first, second = ScanNetFolder(folder, counted=False).questions("val")
    assert (first.text, first.answers, first.objects) == ("What color is the desk?", ("brown", "dark brown"), (0,))
    assert second.objects == (2, 1)  # the wall has no box
    assert (first.template, second.template) == ("colour", "number")
    assert [question_kind(text) for text in ("Where is it?", "What is it?", "Is it?", "What kind is it?")] == [
        "place", "object", "other", "object nature",
    ]  # fmt: skip


def test_questions_alone_need_no_scan_and_test_questions_have_no_answer(folder):
    bare = [{key: row[key] for key in ("scene_id", "question_id", "question")} for row in QUESTIONS]
    (folder / "qa" / "ScanQA_v1.0_test_wo_obj.json").write_text(json.dumps(bare))
    real = ScanNetFolder(folder, counted=False)
    assert [question.answers for question in real.questions("test_wo_obj")] == [(), ()]
    (folder / "scannet" / "scannet_data" / f"{SCENE}_aligned_bbox.npy").unlink()
    assert [question.objects for question in real.questions("val", objects=False)] == [(), ()]
    with pytest.raises(Refusal, match="run ScanQA's data/scannet"):
        real.questions("val")


def test_files_of_another_length_are_refused(folder):
    with pytest.raises(Refusal, match=r"ScanQA_v1.0_val.json has 2 rows, the published one 4,675"):
        ScanNetFolder(folder).questions("val")
    with pytest.raises(Refusal, match=r"ScanRefer_filtered_val.json has 2 rows, the published one 9,508"):
        ScanNetFolder(folder).names("val")


def test_what_is_missing_is_said_in_one_sentence(folder):
    with pytest.raises(Refusal, match=r"there is no folder .*nowhere: ScanNet, ScanRefer and ScanQA") as told:
        ScanNetFolder(folder / "nowhere")
    assert "\n" not in str(told.value)
    assert all(place in str(told.value) for place in ("ScanNet/ScanNet", "ATR-DBI/ScanQA", "daveredrum/ScanRefer"))
    real = ScanNetFolder(folder)
    with pytest.raises(Refusal, match=r"there is no .*ScanQA_v1.0_train.json: fetch the questions"):
        real.questions("train")
    with pytest.raises(Refusal, match=r"there is no .*ScanRefer_filtered_train.json: ask for the descriptions"):
        real.names("train")
    with pytest.raises(Refusal, match=r"there is no .*scene0000_00_aligned_vert.npy: sign ScanNet's terms"):
        real.scene("scene0000_00")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": None}, r"ScanQA_v1.0_val.json, row 1: answers must be a valid list"),
        ({"answers": []}, r"row 1: answers .*at least 1 item"),
        ({"answers": ["two", 2]}, r"row 1: answers.1 must be a valid string \(got 2\)"),
        ({"question": ...}, r"row 1: question is missing"),
        ({"object_id": ...}, r"row 1: object_ids is missing"),
        ({"scene_id": ""}, r"row 1: scene_id"),
    ],
)
def test_a_row_with_a_fault_is_told_by_file_row_and_field(folder, change, words):
    row = {key: value for key, value in (QUESTIONS[1] | change).items() if value is not ...}
    (folder / "qa" / "ScanQA_v1.0_val.json").write_text(json.dumps([QUESTIONS[0], row]))
    with pytest.raises(Refusal, match=words):
        ScanNetFolder(folder).questions("val")


@pytest.mark.parametrize(
    ("text", "words"), [("[{", "is no JSON"), ('{"questions": []}', r"must be a list of rows \(got dict\)")]
)
def test_json_that_is_none_is_refused(folder, text, words):
    (folder / "ScanRefer_filtered_val.json").write_text(text)
    with pytest.raises(Refusal, match=words):
        ScanNetFolder(folder).names("val")


@pytest.mark.parametrize(
    ("part", "array", "words"),
    [
        ("aligned_vert", np.zeros((0, 9)), "holds no points"),
        ("aligned_vert", np.zeros((40, 6)), r"must be \[n, 9\] \(got \[40, 6\]\)"),
        ("aligned_vert", np.full((40, 9), np.nan), "NaN or infinity"),
        ("ins_label", np.zeros(39, dtype=np.uint32), "40 points but 39 instance labels"),
        ("aligned_bbox", np.array([[0, 0, 0, 1, 1, 1, 41.0, 3]]), "class of 1 to 40"),
    ],
)
def test_scans_that_are_none_are_refused(folder, part, array, words):
    np.save(folder / "scannet" / "scannet_data" / f"{SCENE}_{part}.npy", array)
    with pytest.raises(Refusal, match=words):
        ScanNetFolder(folder).scene(SCENE)


def test_damaged_files_are_refused(folder):
    (folder / "scannet" / "scannet_data" / f"{SCENE}_ins_label.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(Refusal, match="is no array of numbers"):
        ScanNetFolder(folder).scene(SCENE)
    (folder / "top_imgs" / "val").mkdir(parents=True)
    (folder / "top_imgs" / "val" / f"{SCENE}.jpg").write_bytes(b"no picture")
    np.save(folder / "scannet" / "scannet_data" / f"{SCENE}_ins_label.npy", np.zeros(40, dtype=np.uint32))
    with pytest.raises(Refusal, match="is no picture"):
        ScanNetFolder(folder, counted=False).scene(SCENE, "val")


def test_the_fingerprint_changes_with_the_questions_and_the_scans(folder):
    real = ScanNetFolder(folder)
    first = real.fingerprint("val")
    assert first == ScanNetFolder(folder).fingerprint("val") != real.fingerprint("train")
    (folder / "qa" / "ScanQA_v1.0_val.json").write_text(json.dumps(QUESTIONS[:1]))
    second = real.fingerprint("val")
    np.save(folder / "scannet" / "scannet_data" / "scene9998_00_ins_label.npy", np.zeros(3))
    assert len({first, second, real.fingerprint("val")}) == 3
