"""The chapter on CLIP-guided pre-training: rooms of a seed, targets of an arm, answers, claims and studies."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from ntf_utils import ROOT
from ntf_utils.data.room_language import TEMPLATES, answer
from ntf_utils.data.rooms import HELD_OUT, KINDS, NOUNS
from ntf_utils.measures.boxes import iou
from ntf_utils.papers.clip_guided_3dqa import effects
from ntf_utils.papers.clip_guided_3dqa.answering import AnswerConfig, Draw, Job, answer_questions, majority
from ntf_utils.papers.clip_guided_3dqa.ceiling import counted_purity
from ntf_utils.papers.clip_guided_3dqa.pretraining import ARMS, Aims, fresh_encoder, pretrain, scene_vectors
from ntf_utils.papers.clip_guided_3dqa.studies import (
    AnswerParameters,
    DefectParameters,
    RoomParameters,
    SpaceParameters,
)
from ntf_utils.papers.clip_guided_3dqa.teacher import TeacherConfig, the_teacher, train_teacher
from ntf_utils.papers.clip_guided_3dqa.worlds import Proposals, World
from ntf_utils.refusal import Refusal

PAGES = ROOT / "notebooks" / "clip_guided_3dqa"
CPU = torch.device("cpu")
TEACHER = TeacherConfig(rooms=16, unseen=64, steps=2, batch=8, dimension=16, width=4, text_width=16)
SMALL = {
    "pretrain_rooms": 12, "qa_rooms": 12, "val_rooms": 16, "per_template": 16, "val_per_template": 16, "points": 2048,
    "teacher": TEACHER, "pretrain_steps": 2, "pretrain_batch": 6, "width": 16, "heads": 2, "feedforward": 16,
    "crop_width": 8, "answer_steps": 2, "answer_batch": 6, "each": 2, "fusion_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_store(tmp_path_factory):
    """Rooms and teacher are made once for the module, and nothing of them stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTF_STORE", str(tmp_path_factory.mktemp("store")))
        yield


def config(**changes):
    return AnswerConfig(**SMALL | changes)


def job(**changes):
    return Job(config(**changes), CPU)


# rooms


def test_proposals_are_matched_with_what_they_truly_are():
    rooms = World(config().world_only).train
    shown: Proposals = rooms.proposals
    assert len(shown) == 12 and shown.crops.shape[2:] == (32, 6)
    for row, room in enumerate(rooms.rooms):
        for place in shown.present[row].nonzero()[:, 0].tolist():
            thing = int(shown.things[row, place])
            if thing < 0:
                assert shown.classes[row, place] == len(NOUNS) and not shown.offsets[row, place].any()
                continue
            assert shown.classes[row, place] == NOUNS.index(room.things[thing].noun)
            box = torch.from_numpy(room.things[thing].box).float()
            torch.testing.assert_close(shown.boxes[row, place] + shown.offsets[row, place], box)
            assert float(iou(shown.boxes[row, place][None], box[None])) >= 0.25
    found = (shown.things >= 0).sum().item() / sum(len(room.things) for room in rooms.rooms)
    assert found > 0.95


def test_held_out_pairs_never_occur_where_questions_are_learned_and_are_asked_about_in_comp():
    world = World(config().world_only)
    pairs = {name: {(thing.noun, thing.colour) for room in rooms.rooms for thing in room.things}
             for name, rooms in {"train": world.train, "pretrain": world.pretrain, **world.val}.items()}  # fmt: skip
    held_out = set(HELD_OUT)
    assert not held_out & (pairs["train"] | pairs["iid"])
    assert held_out & pairs["pretrain"] and held_out & pairs["comp"]
    names = [room.name for rooms in (world.train, world.pretrain, *world.val.values()) for room in rooms.rooms]
    assert len(set(names)) == len(names)
    assert {question.template for question in world.val_questions["comp"]} <= set(TEMPLATES)


def test_what_is_kept_on_disk_is_what_was_made():
    first, again = (World(config().world_only).val["iid"] for _ in range(2))
    assert first.rooms == again.rooms and np.array_equal(first.pictures, again.pictures)
    assert all(torch.equal(a, b) for a, b in zip(first.proposals.seen, again.proposals.seen, strict=True))
    assert first.kinds.tolist() == [list(KINDS).index(room.kind) for room in first.rooms]


# the teacher


def test_the_teacher_is_kept_and_the_random_one_has_learned_nothing():
    trained, again, untrained = the_teacher(TEACHER), the_teacher(TEACHER), the_teacher(TEACHER, "random")
    texts = ["a bedroom with a red bed", "a blue chair"]
    assert torch.equal(trained.encode_texts(texts), again.encode_texts(texts))
    assert not torch.allclose(trained.encode_texts(texts), untrained.encode_texts(texts), atol=1e-3)
    (row,) = train_teacher(TEACHER).rows
    assert row["chance"] == 1 / 64 and 0 <= row["recall1"] <= 1 and row["zero_shot_chance"] == 0.25


# pre-training


def test_every_arm_of_a_seed_has_the_same_start_and_the_same_questions():
    jobs = {arm: job(arm=arm) for arm in ("S", "TI", "D")}
    starts = [one.fresh().state_dict() for one in jobs.values()]
    for name, value in starts[0].items():
        assert all(torch.equal(value, other[name]) for other in starts[1:])
    asked = [one.questions["train"] for one in jobs.values()]
    assert all(torch.equal(asked[0].answers, other.answers) for other in asked)
    other_seed = job(arm="S", seed=1).fresh().state_dict()
    assert not torch.equal(starts[0]["encoder.scene.token"], other_seed["encoder.scene.token"])


def test_arms_differ_in_their_targets_alone():
    world, teacher = World(config().world_only), the_teacher(TEACHER)
    scene, rows = torch.randn(12, 16, generator=torch.Generator().manual_seed(0)), torch.arange(12)
    found = {}
    for arm, targets in ARMS.items():
        if targets is not None and targets.text is not None:
            rooms = world.pretrain_seen if targets.seen_only else world.pretrain
            found[arm] = float(Aims.of(config(arm=arm), rooms, teacher, CPU).loss(scene, rows, 0))
    assert found["TI"] == pytest.approx((found["T"] + found["I"]) / 2, rel=1e-5)
    assert found["R"] == found["TI"] and len({round(value, 6) for value in found.values()}) == len(found) - 1
    own, shuffled = (Aims.of(config(arm=arm), world.pretrain, teacher, CPU) for arm in ("TI", "Sh"))
    assert torch.equal(own.dealt, rows) and sorted(shuffled.dealt.tolist()) == rows.tolist()
    assert (shuffled.dealt != rows).float().mean() > 0.5


def test_scratch_stays_as_it_is_and_the_alignment_moves_the_encoder():
    world, teacher = World(config().world_only), the_teacher(TEACHER)
    vectors = {}
    for arm in ("S", "D", "TI"):
        encoder = fresh_encoder(config(arm=arm))
        learning = pretrain(config(arm=arm, alignment=1.0), world, encoder, teacher)
        vectors[arm] = scene_vectors(encoder, world.val["iid"])[0]
        assert bool(learning["step"]) == (arm != "S")
    start = scene_vectors(fresh_encoder(config()), world.val["iid"])[0]
    assert torch.equal(vectors["S"], start) and not torch.allclose(vectors["TI"], vectors["D"], atol=1e-3)


# answering


@pytest.fixture(scope="module")
def outcomes():
    return {arm: answer_questions(config(arm=arm)) for arm in ("blind", "S", "TI", "R")}


def test_a_run_tells_all_that_the_pages_read(outcomes):
    (row,) = outcomes["TI"].rows
    for report in ("iid", "comp"):
        assert row[f"oracle_{report}"] == 100
        for name in ("em1", "em3", "majority", "swapped", "acc25", "acc50", "kind"):
            assert 0 <= row[f"{name}_{report}"] <= 100
        assert row[f"em1_{report}"] <= row[f"em3_{report}"] and row[f"acc50_{report}"] <= row[f"acc25_{report}"]
    assert row["loaded"] == row["of"] > 0 == outcomes["R"].rows[0]["loaded"]
    templates = pd.DataFrame(outcomes["TI"].curves["templates"])
    mean = (templates["em1"] * templates["n"]).groupby(templates["split"]).sum()
    mean /= templates.groupby("split")["n"].sum()
    assert mean.to_dict() == pytest.approx({report: row[f"em1_{report}"] for report in ("iid", "comp")}, rel=1e-4)
    drawn = outcomes["TI"].curves["map"]
    assert len(drawn["x"]) == len(drawn["kind"]) == 16 and set(drawn["kind"]) <= set(KINDS)
    assert {name.removeprefix("tuned_") for name in row if name.startswith("tuned_")} <= set(row)


def test_the_network_that_sees_no_room_answers_the_same_in_every_room(outcomes):
    (row,) = outcomes["blind"].rows
    assert row["em1_iid"] == row["swapped_iid"] and row["em1_comp"] == row["swapped_comp"]
    assert not {"acc25_iid", "purity", "cosine"} & set(row)
    shown = job(arm="blind").seen(World(config().world_only).train)
    assert not shown.crops.any() and not shown.boxes.any() and shown.present.all()


def test_a_room_is_never_swapped_with_itself_and_the_oracle_reads_the_attributes():
    one = job(arm="S")
    questions, rooms = one.questions["comp"], one.world.val["comp"]
    truth = [set(question.answers) == set(answer(rooms.rooms[rooms.row_of[question.scene]], question))
             for question in questions.questions]  # fmt: skip
    assert all(truth)
    said = one.answers(one.fresh(), one.seen(rooms), questions)
    elsewhere = torch.arange(len(rooms.rooms)).roll(1)
    other = one.answers(one.fresh(), one.seen(rooms), questions, elsewhere)
    assert not torch.allclose(said.box, other.box)


def test_batches_are_a_function_of_seed_and_step_and_stay_within_their_rooms():
    rooms = torch.tensor([0, 0, 2, 2, 2, 3, 5])
    draw = Draw(rooms, 3, 2, seed=0)
    for step in range(6):
        shown, which, rows = draw.at(step)
        assert len(rows) == 6 and torch.equal(rooms[rows], shown[which])
        assert all(torch.equal(a, b) for a, b in zip(draw.at(step), Draw(rooms, 3, 2, seed=0).at(step), strict=True))
    assert {int(room) for step in range(8) for room in draw.at(step)[0]} == {0, 2, 3, 5}


def test_fixed_answers_are_the_most_frequent_of_the_same_text():
    class Asked:
        def __init__(self, text, template, *answers):
            self.text, self.template, self.answers = text, template, answers

    train = [Asked("a", "x", "red"), Asked("a", "x", "red"), Asked("b", "x", "blue"), Asked("b", "x", "blue"),
             Asked("b", "x", "blue")]  # fmt: skip
    asked = [Asked("a", "x", "red"), Asked("a", "x", "blue"), Asked("new", "x", "blue"), Asked("new", "y", "blue")]
    assert majority(train, asked).tolist() == [True, False, True, False]


def test_a_run_gives_the_same_twice(outcomes):
    (first,), (again,) = outcomes["S"].rows, answer_questions(config(arm="S")).rows
    assert first == again


# effects


def made(seeds=4, **arms):
    """Rows of invented arms: name -> EM@1 in comp; iid is 10 points higher."""
    return pd.DataFrame([
        {"arm": arm, "seed": seed, "em1_comp": value + seed, "em1_iid": value + seed + 10, "swapped_comp": 20.0 + seed,
         "swapped_iid": 30.0 + seed, "majority_comp": 20.0 + seed, "majority_iid": 30.0 + seed, "oracle_comp": 100.0,
         "oracle_iid": 100.0, "purity": value / 100, "purity_95": 0.3, "zero_shot": 0.6, "zero_shot_chance": 0.25}
        for arm, value in arms.items() for seed in range(seeds)
    ])  # fmt: skip


def test_differences_are_by_seed_and_gates_know_what_they_ask():
    table = made(blind=20.0, S=40.0, D=42.0, TI=45.0)
    assert effects.difference(table, "TI", "S").tolist() == [5.0] * 4
    assert effects.interpretability(table)["purity"].round(6).tolist() == [3.0] * 4
    assert effects.interpretability(table)["zero_shot"].round(6).tolist() == [10.0] * 4
    good = pd.DataFrame([{"recall1": 0.5, "zero_shot": 0.6, "zero_shot_chance": 0.25}])
    assert all(effects.gates(table, good).values())
    assert not effects.gates(table, good.assign(recall1=0.2))["teacher_reads"]
    assert not effects.gates(table, good.assign(zero_shot=0.4))["teacher_names_types"]
    assert not effects.gates(made(blind=28.0, S=40.0, D=42.0, TI=45.0), good)["blind_knows_nothing"]
    assert not effects.gates(made(blind=20.0, S=24.0, D=42.0, TI=45.0), good)["scratch_learns"]
    assert not effects.gates(table.assign(swapped_comp=30.0), good)["swapped_room_fails"]
    assert not effects.gates(table.assign(oracle_iid=99.0), good)["oracle_knows"]
    with pytest.raises(Refusal, match="arm T is not in the table"):
        effects.difference(table, "TI", "T")
    with pytest.raises(Refusal, match="more than once for a seed"):
        effects.difference(pd.concat([table, table]), "TI", "S")


def test_whoever_counts_the_things_knows_more_of_the_type_than_chance():
    found = counted_purity([0, 1], 40)
    assert list(found.index) == [0, 1] and 30 < found.mean() < 90


# studies and pages


def parameters(kind=AnswerParameters, **changes):
    """A page's laptop values, with those of the smoke profile."""
    page = {AnswerParameters: "01_", SpaceParameters: "02_", DefectParameters: "03_"}[kind]
    (source,) = PAGES.glob(f"{page}*.py")
    cell = source.read_text(encoding="utf-8").split('tags=["parameters"]\n')[1].split("\n# %%")[0]
    values: dict = {}
    exec(cell, {}, values)
    small = yaml.safe_load((PAGES / "profiles" / "smoke.yaml").read_text(encoding="utf-8"))
    return kind(**{name: value for name, value in (values | small | changes).items() if name in kind.model_fields})


def test_every_arm_is_run_for_every_seed_with_one_teacher():
    study = parameters(seeds=3)
    runs = study.main()
    assert len({(run.arm, run.seed) for run in runs}) == len(runs) == 3 * len({run.arm for run in runs})
    assert {"blind", "S", "D", "T", "I", "TI", "Sh", "R"} <= {run.arm for run in runs}
    assert {run.teacher for run in runs} == {study.teacher()}
    assert {(run.qa_rooms, run.arm) for run in study.where_few()} == {(8, "S"), (8, "TI")}
    assert study.on_scans() == [] and len(parameters(scans="/a", clip="/b").on_scans()) == 2 * len(study.scan_arms)
    assert parameters(SpaceParameters).explorer().arms == ("S", "TI")
    assert {run.arm for run in parameters(DefectParameters).detectors()} == {"TI", "R"}


@pytest.mark.parametrize("kind", [AnswerParameters, SpaceParameters, DefectParameters])
@pytest.mark.parametrize("profile", ["gpu", "paper"])
def test_large_profiles_are_possible(kind, profile):
    given = yaml.safe_load((PAGES / "profiles" / f"{profile}.yaml").read_text(encoding="utf-8"))
    assert set(given) <= {
        name for each in (RoomParameters, *RoomParameters.__subclasses__()) for name in each.model_fields
    }
    study = parameters(kind, **given)
    assert study.seeds >= 3 and study.width == 256 and len(study.runs()) > 3


def test_the_three_pages_have_the_same_settings():
    shared = [{name: getattr(parameters(kind), name) for name in RoomParameters.model_fields}
              for kind in (AnswerParameters, SpaceParameters, DefectParameters)]  # fmt: skip
    assert shared[0] == shared[1] == shared[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 0}, "seeds must be greater than or equal to 1"),
        ({"heads": 3}, "heads must divide width"),
        ({"picture": 50}, "picture must be a multiple of 16"),
        ({"scans": "/data"}, "scans is given but not clip"),
        ({"scan_arms": ["X"]}, "scan_arms.0 must be"),
        ({"teacher_unseen": 65}, "unseen must be a multiple of 64"),
    ],
)
def test_impossible_settings_are_refused_before_any_training(changes, words):
    with pytest.raises(Refusal, match=words):
        parameters(**changes)


def test_every_claim_is_shown_on_its_page_with_its_clauses():
    claims = yaml.safe_load((PAGES / "claims.yaml").read_text(encoding="utf-8"))["claims"]
    for name, claim in claims.items():
        page = (PAGES / f"{claim['shown_in']}.py").read_text(encoding="utf-8")
        assert f'"{name}"' in page
        if "untested" not in claim and name != "C3":  # C3's come from effects.interpretability
            assert all(f'"{clause}"' in page for clause in claim["clauses"])
    assert set(claims["C3"]["clauses"]) == set(effects.interpretability(made(blind=20, S=40, D=42, TI=45)))
