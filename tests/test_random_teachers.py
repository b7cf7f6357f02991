"""The chapter's own methods: distillation, locality, checkpoints, effects, studies and the explorer's two faces."""

import copy
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from waiting import wait_for

from ntf_utils.data.images import Images, framed, load_images
from ntf_utils.papers.random_teachers import effects
from ntf_utils.papers.random_teachers.checkpoints import (
    ChildrenConfig,
    PlaneConfig,
    PruneConfig,
    PruningJob,
    map_plane,
    prune_iteratively,
    raise_children,
)
from ntf_utils.papers.random_teachers.distillation import (
    PROBES,
    DistilConfig,
    Job,
    PixelConfig,
    distil_student,
    distillation_loss,
    mixture,
    near,
    probe_pixels,
)
from ntf_utils.papers.random_teachers.live import LiveStudents, recorded_states
from ntf_utils.papers.random_teachers.studies import CheckpointParameters, NoiseParameters, SourceParameters
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, sweep
from ntf_utils.show import LocalityExplorer
from ntf_utils.show.locality_live import LocalityView
from ntf_utils.training.device import default_device

pytestmark = pytest.mark.usefixtures("own_store")


def offline(*arguments):
    raise OSError("no network in tests")


SMALL = {
    "dataset": "digits", "n_train": 120, "n_probe": 120, "n_test": 60, "neighbours": 5, "probe_updates": 10,
    "width": 4, "hidden": 24, "bottleneck": 12, "outputs": 32, "steps": 8, "batch": 20,
}  # fmt: skip


def tiny(**changes):
    return DistilConfig(**SMALL | changes)


def trained(config):
    job = Job(config, default_device())
    teacher = job.teacher()
    student = job.student(teacher)
    return job, teacher, student, job.distil(teacher, student)


# the game


def test_the_start_lies_between_teacher_and_another_start_and_keeps_their_length():
    a, b = ({"w": torch.randn(100_000, generator=torch.Generator().manual_seed(seed))} for seed in (0, 1))
    assert torch.equal(near(a, b, 0)["w"], a["w"]) and torch.equal(near(a, b, 1)["w"], b["w"])
    for locality in (0.1, 0.5, 0.9):
        found = near(a, b, locality)["w"]
        plain = (1 - locality) * a["w"] + locality * b["w"]
        torch.testing.assert_close(found, plain / (locality**2 + (1 - locality) ** 2) ** 0.5)
        assert found.std().item() == pytest.approx(1, rel=0.01)


def test_the_loss_is_cross_entropy_with_soft_labels():
    said, taught = torch.randn(2, 50, 7)
    soft = taught.softmax(dim=1)
    torch.testing.assert_close(distillation_loss(said, taught), F.cross_entropy(said, soft))
    above = distillation_loss(said, taught) - distillation_loss(taught, taught)
    torch.testing.assert_close(above, F.kl_div(said.log_softmax(1), soft, reduction="batchmean"))
    assert distillation_loss(said.bfloat16(), taught.bfloat16()).dtype == torch.float32


def test_at_the_teacher_there_is_nothing_to_learn():
    """The start-up hazard: at locality 0 the exact gradient is 0, and what is computed is rounding."""

    def largest_gradient(locality, precision):
        job = Job(tiny(locality=locality), default_device())
        teacher, images = job.teacher().to(precision), job.images[:20].to(precision)
        student = job.student(job.teacher()).to(precision)
        logits, taught = student(images), teacher(images)
        loss = -(taught.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        return max(part.abs().max().item() for part in torch.autograd.grad(loss, list(student.parameters())))

    assert largest_gradient(0.0, torch.float64) < 1e-9 * largest_gradient(0.3, torch.float64)
    # in fp32 it is not as small, but no signal either: a thousand times Adam's epsilon would move the weights
    assert 0 < largest_gradient(0.0, torch.float32) < 1e-3 * largest_gradient(0.3, torch.float32)


def test_a_student_learns_what_its_teacher_says_and_the_teacher_stays():
    config = tiny(steps=150, looks=3, locality=0.3, learning_rate=3e-3)
    job, teacher, student, looks = trained(config)
    assert [look["step"] for look in looks] == [0, 50, 100, 150]
    assert looks[-1]["kl"] < 0.1 * looks[0]["kl"]
    untouched = job.teacher()
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), untouched.parameters(), strict=True))
    assert student.training and not any(p.requires_grad for p in teacher.parameters())


def test_runs_repeat_and_looking_changes_nothing():
    config = tiny(rounds=2, line=15, tiles=1)
    outcome = distil_student(config)
    assert distil_student(config) == outcome
    watched = distil_student(tiny(looks=4))
    for name in ("converged_student", "adamw_student", "kl", "moved"):
        assert watched.rows[0][name] == outcome.rows[0][name]


def test_all_arms_of_a_seed_have_one_teacher_and_one_order():
    first = {name: value for name, value in distil_student(tiny()).rows[0].items() if name.endswith("_teacher")}
    for changes in ({"locality": 1.0}, {"inputs": "noise"}, {"outputs": 8}, {"weight_norm": False}, {"n_train": 40}):
        row = distil_student(tiny(**changes)).rows[0]
        assert {name: row[name] for name in first} == first
    assert any(distil_student(tiny(seed=1)).rows[0][name] != first[name] for name in first)


def test_noise_takes_the_place_of_images_for_the_student_alone():
    shown, noisy = (Job(tiny(inputs=inputs), default_device()) for inputs in ("images", "noise"))
    assert noisy.images.shape == shown.images.shape
    assert noisy.images.mean().abs() < 0.05 and noisy.images.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(noisy.probe_data["digits"].test, shown.probe_data["digits"].test)
    other = Job(tiny(inputs="noise", seed=1), default_device())
    assert not torch.equal(other.images, noisy.images)


def test_batch_norm_does_nothing_to_the_teacher_and_learns_in_the_student():
    job, teacher, student, _ = trained(tiny(encoder="resnet20", width=2, steps=3))
    fresh = [b for name, b in teacher.named_buffers() if "running" in name]
    assert all((b == b.round()).all() for b in fresh)  # still 0 and 1
    assert any((b != b.round()).any() for name, b in student.named_buffers() if "running" in name)
    images = job.images[:7]
    assert torch.equal(job.embed(student, images), job.embed(student, images)) and student.training


def test_the_second_round_is_taught_by_the_first_student():
    row = distil_student(tiny(rounds=2)).rows[0]
    for probe in PROBES:
        assert row[f"restart_{probe}_teacher"] == row[f"{probe}_student"]
    assert row["restart_scale_teacher"] == row["scale_student"]


def test_the_line_passes_through_teacher_and_student():
    config = tiny(line=15, steps=30)
    line = pd.DataFrame(distil_student(config).curves["line"]).set_index("t")["kl"]
    job, teacher, student, _ = trained(config)
    assert line.index[2] == pytest.approx(0, abs=1e-9) and line.iloc[2] == 0
    end = F.kl_div(student.eval()(job.images).log_softmax(1), teacher(job.images).softmax(1), reduction="batchmean")
    assert line.iloc[12] == pytest.approx(end.item(), rel=1e-2, abs=1e-6)
    with pytest.raises(Refusal, match="without batch norm"):
        distil_student(tiny(encoder="resnet20", width=2, line=15, steps=2))


def test_votes_are_of_the_first_images_of_each_class():
    votes = pd.DataFrame(distil_student(tiny(tiles=2)).curves["votes"]).set_index("who")
    truth = [int(word) for word in votes.loc["student", "truth"].split()]
    assert truth == [kind for kind in range(10) for _ in range(2)]
    assert len(votes.loc["teacher", "said"].split()) == 20


def test_pixels_know_more_than_chance_and_shuffled_labels_do_not():
    (row,) = probe_pixels(PixelConfig(dataset="digits", n_probe=600, n_test=300, probe_updates=300)).rows
    assert row["converged"] > 0.85 and row["knn"] > 0.85
    assert abs(row["shuffled"] - row["chance"]) < 0.06


def test_smaller_grey_images_are_framed_for_an_encoder_of_colours():
    pixels = torch.randint(1, 255, (2, 1, 28, 28), dtype=torch.uint8)
    found = framed(Images("mnist", pixels, torch.zeros(2, dtype=torch.long), ("a",)), 32, 3)
    assert found.shape == (3, 32, 32) and torch.equal(found.pixels[:, 1, 2:30, 2:30], pixels[:, 0])
    assert not found.pixels[:, :, :2].any() and not found.pixels[:, :, :, 30:].any()
    digits = load_images("digits", "test")
    with pytest.raises(Refusal, match="do not fit into 7 x 7"):
        framed(digits, 7, 1)
    with pytest.raises(Refusal, match="3 channels cannot be shown in 1"):
        framed(found, 32, 1)


def test_data_sets_of_unequal_shape_meet_in_one_encoder(monkeypatch):
    """Distilled on smaller grey images, probed on larger coloured ones, and the other way round: one teacher."""

    def invented(name, part):
        colours, side = (3, 12) if name == "cifar10" else (1, 8)
        drawn = torch.Generator().manual_seed(len(name) + len(part))
        pixels = torch.randint(256, (130, colours, side, side), dtype=torch.uint8, generator=drawn)
        return Images(name, pixels, torch.arange(130) % 10, tuple("abcdefghij"))

    monkeypatch.setattr("ntf_utils.papers.random_teachers.distillation.load_images", invented)
    grey, coloured = (
        pd.DataFrame(distil_student(tiny(dataset=a, probe_on=(a, b))).curves["probes"])
        for a, b in (("mnist", "cifar10"), ("cifar10", "mnist"))
    )
    teachers = [
        found[found["who"] == "teacher"].set_index(["on", "probe"])["accuracy"].to_dict() for found in (grey, coloured)
    ]
    assert teachers[0] == teachers[1] and len(teachers[0]) == 8


def test_bf16_touches_the_encoder_only():
    row = distil_student(tiny(precision="bf16")).rows[0]
    assert 0 <= row["kl"] < 1 and row["moved"] > 0


# checkpoints


def test_the_plane_holds_its_three_networks():
    outcome = map_plane(PlaneConfig(**SMALL, plane=3))
    corners = pd.DataFrame(outcome.curves["corners"])
    assert corners.loc[0, ["x", "y"]].tolist() == [0, 0] and corners.loc[1, "y"] == 0
    assert corners["name"].tolist() == ["teacher", "student 0.1", "student 1"]
    assert len(outcome.curves["plane"]["kl"]) == 9
    a, b = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    assert mixture([a, b], [0.25, 0.75])["w"].item() == 2.5


FAMILY = SMALL | {"child_steps": 80, "child_batch": 20, "points": 5, "n_train": 400}


def test_children_of_one_order_are_one_network_and_others_are_not():
    """With batch norm, whose statistics are taken anew at every point between two children."""
    encoder = {"encoder": "resnet20", "width": 2, "steps": 3}
    config = ChildrenConfig(**FAMILY | encoder, child_rates=(0.1,), control=True, children=3)
    outcome = raise_children(config)
    row = outcome.rows[0]
    assert row["student_same_distance"] == row["start_same_distance"] == 0
    assert row["student_diverged"] == row["start_diverged"] == 0
    paths = pd.DataFrame(outcome.curves["paths"])
    assert len(paths) == 10
    for which in ("student", "start"):
        losses = paths[paths["which"] == which]["loss"].to_numpy()
        assert row[f"{which}_train_loss"] == pytest.approx((losses[0] + losses[-1]) / 2, rel=1e-4)
        assert row[f"{which}_loss_barrier"] >= losses.max() - (losses[0] + losses[-1]) / 2 - 1e-5


def test_children_that_diverge_are_told_and_left_out():
    outcome = raise_children(ChildrenConfig(**FAMILY, child_rates=(1e3,)))
    row = outcome.rows[0]
    assert row["student_diverged"] == row["start_diverged"] == 2
    assert row["student_error_barrier"] is row["start_same_distance"] is None
    assert not outcome.curves["paths"]["alpha"]
    table = pd.DataFrame([row | {"seed": 0}])
    assert effects.half_barrier(table).empty and effects.half_barrier_at_equal_rates(table).empty
    assert not effects.children_gates(table, PIXELS)["children_learned"]


def test_both_checkpoints_get_the_same_classifier():
    job = PruningJob(PruneConfig(**SMALL, tune_steps=4, rewind_steps=1, tune_batch=20), default_device())
    teacher = job.teacher()
    first, second = job.classifier(teacher), job.classifier(job.student(teacher))
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.encoder.convolutions[0].weight, second.encoder.convolutions[0].weight)


def test_pruning_rewinds_and_every_round_sees_the_same_batches():
    config = PruneConfig(**SMALL, levels=3, tune_steps=8, tune_batch=20, rewind_steps=2)
    job = PruningJob(config, default_device())
    for augment in (True, False):
        job.config = config.but(augment=augment)
        first, again = (torch.stack([job.batch_at(step)[0] for step in (2, 3)]) for _ in range(2))
        assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    curve = pd.DataFrame(prune_iteratively(config).curves["pruning"])
    for _, line in curve.groupby("arm"):
        assert line["sparsity"].tolist() == pytest.approx([1 - 0.8**level for level in range(4)], abs=0.01)
    assert [config.but(tune_steps=8).rate_at(step) for step in (0, 3, 4, 5, 6, 7)] == pytest.approx(
        [0.05] * 2 + [0.005] * 2 + [0.0005] * 2
    )


# bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"locality": 1.1}, "locality must be less than or equal to 1 (got 1.1)"),
        ({"locality": -0.1}, "locality must be greater than or equal to 0 (got -0.1)"),
        ({"hidden": 8}, "a head must not be narrower than its bottleneck (got hidden layers of 8, bottleneck of 12)"),
        ({"n_probe": 4}, "5 neighbours need a bank of as many images (n_probe is 4)"),
        ({"dataset": "cifar"}, "unknown data set 'cifar': did you mean"),
        ({"probe_on": ("digits", "mnits")}, "unknown data set 'mnits'"),
        ({"encoder": "vgg12"}, "encoder must be"),
        ({"batch": 121}, "batch must not exceed n_train (got 121 of 120)"),
        ({"precision": "bf16", "locality": 1e-10}, "a locality of 1e-10 is lost in bf16"),
        ({"rounds": 3}, "rounds must be less than or equal to 2"),
        ({"stepz": 3}, "unknown field 'stepz': did you mean 'steps'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)


def test_impossible_children_and_prunings_are_refused():
    for build, words in (
        (lambda: ChildrenConfig(**SMALL, points=6), "points must be odd"),
        (lambda: ChildrenConfig(**SMALL, child_batch=121), "child_batch must not exceed n_train"),
        (lambda: PruneConfig(**SMALL, tune_steps=5, rewind_steps=5), "rewind_steps must lie before the end"),
        (lambda: PruneConfig(**SMALL, prune_share=1.0), "prune_share must be less than 1"),
    ):
        with pytest.raises(Refusal, match=words):
            build()


def test_a_student_that_breaks_is_told_and_recorded_nowhere(monkeypatch):
    with pytest.raises(Refusal, match="features hold NaN or infinity"):
        distil_student(tiny(learning_rate=1e30, steps=3))


def test_absent_data_name_the_ways_out(monkeypatch):
    config = tiny(dataset="cifar10", n_train=100)
    assert config.data_fingerprint().startswith("cifar10 ")  # without the files
    monkeypatch.setattr("ntf_utils.data.images._download", offline)
    with pytest.raises(Refusal, match=r"NTF_DATA.*download.*-p dataset digits"):
        sweep(distil_student, [config], workers=0)


def test_importing_the_chapter_draws_no_figure_library():
    module = "ntf_utils.papers.random_teachers.checkpoints"
    code = f"import sys, {module}; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# from rows to effects, on tables made by hand


def rows(students, teachers=None, **columns):
    """A setting: a row a seed, all four probes with these accuracies."""
    teachers = teachers or [0.3] * len(students)
    made = pd.DataFrame({"seed": range(len(students)), "key": [f"{id(students)} {i}" for i in range(len(students))]})
    for probe in PROBES:
        made[f"{probe}_student"], made[f"{probe}_teacher"] = students, teachers
    standard = {"dataset": "digits", "encoder": "vgg11", "width": 4, "precision": "fp32", "n_probe": 9, "n_test": 9}
    return made.assign(probe_on=[()] * len(students), **standard | columns)


PIXELS = pd.DataFrame([{"shuffled": 0.12, "chance": 0.1, "converged": 0.4, "key": "pixels"}])


def test_gains_and_differences_are_points_seed_by_seed():
    a, b = rows([0.4, 0.5], [0.3, 0.45]), rows([0.35, 0.3, 0.2])
    assert effects.gain(a).tolist() == pytest.approx([10, 5])
    assert effects.difference(a, b).to_dict() == pytest.approx({0: 5, 1: 20})
    with pytest.raises(Refusal, match="one setting at a time"):
        effects.scores(pd.concat([a, b]))
    a["restart_knn_student"], a["restart_knn_teacher"] = [0.5, None], [0.4, None]
    assert effects.restart_gain(a, "knn").to_dict() == pytest.approx({0: 10})


def test_slopes_are_points_a_decade():
    table = pd.concat([rows([0.30, 0.5], n_train=10), rows([0.32, 0.5], n_train=100), rows([0.34], n_train=1000)])
    assert effects.slope(table).to_dict() == pytest.approx({0: 2, 1: 0})
    alone = pd.concat([table, rows([0, 0, 0.5], n_train=1000).iloc[[2]]])
    assert set(effects.slope(alone).index) == {0, 1}


def test_transfer_compares_with_a_share_of_the_gain_at_home():
    def probes(gains):
        return pd.DataFrame([
            {"seed": seed, "who": who, "on": "digits", "probe": "converged", "accuracy": 0.3 + more}
            for seed, gain in enumerate(gains) for who, more in (("teacher", 0), ("student", gain))
        ])  # fmt: skip

    home, away = probes([0.1, 0.05, 0.02]), probes([0.09, 0.03])
    assert effects.gain_on(home, "digits").tolist() == pytest.approx([10, 5, 2])
    assert effects.kept_gain(away, home, "digits").to_dict() == pytest.approx({0: 1, 1: -1})


def test_a_line_is_read_at_its_ends_and_at_a_tenth():
    t = np.round(np.linspace(-0.2, 1.2, 15), 10)
    kl = np.where(np.isclose(t, 1), 2.0, np.where(np.isclose(t, 0.5), 16.0, 1.0))
    kl = np.where(np.isclose(t, -0.1), 8.0, np.where(t > 1.05, 99.0, kl))
    line = pd.DataFrame({"seed": 3, "t": t, "kl": kl})
    assert effects.rise(line).to_dict() == {3: 3}
    assert effects.asymmetry(line).to_dict() == {3: 3}
    with pytest.raises(Refusal, match=r"no point at 0\.05"):
        effects.loss_at(line, 0.05)


def test_gates_fail_when_they_should():
    good = [rows([0.4] * 3), rows([0.2] * 3, locality=1.0)]
    assert effects.gates(good, PIXELS) == {
        "shuffled_at_chance": True, "teacher_above_chance": True, "one_teacher": True,
    }  # fmt: skip
    assert not effects.gates(good, PIXELS.assign(shuffled=0.17))["shuffled_at_chance"]
    assert not effects.gates([*good, rows([0.4], [0.14])], PIXELS)["teacher_above_chance"]
    assert not effects.gates([*good, rows([0.4], [0.3005])], PIXELS)["one_teacher"]
    assert effects.one_teacher(pd.concat([*good, rows([0.4], [0.31], encoder="resnet18")], ignore_index=True))


def test_a_gain_exists_where_both_probes_tell_it_from_none():
    def main(converged, adamw):
        return rows(converged, [0.3] * 3).assign(adamw_teacher=0.3, adamw_student=adamw)

    assert effects.gain_exists(main([0.32, 0.33, 0.32], [0.36, 0.35, 0.36]))
    assert not effects.gain_exists(main([0.32, 0.33, 0.32], [0.36, 0.30, 0.29]))
    assert not effects.gain_exists(main([0.36, 0.30, 0.29], [0.36, 0.35, 0.36]))
    assert not effects.gain_exists(main([0.32, 0.33, 0.32], [0.36, 0.35, 0.36])[:1])


def test_children_are_judged_only_where_there_is_a_barrier_to_halve():
    table = pd.DataFrame({
        "seed": [0, 1, 2], "rate": 0.1, "student_train_loss": 0.5, "start_train_loss": 0.5,
        "student_error_barrier": [0.01, 0.02, 0.03], "start_error_barrier": [0.06, 0.06, 0.04],
        "student_same_distance": [0.0, None, None], "start_same_distance": [0.0, None, None],
        "student_test_error": 0.4, "start_test_error": 0.4, "student_diverged": 0, "start_diverged": 0,
    })  # fmt: skip
    assert effects.half_barrier(table).tolist() == pytest.approx([-2, -1, 1])
    assert effects.children_gates(table, PIXELS) == {
        "same_order_is_zero": True, "start_breaks": True, "children_learned": True,
    }  # fmt: skip
    for spoil, gate in (
        ({"start_same_distance": [1e-9, None, None]}, "same_order_is_zero"),
        ({"student_same_distance": None, "start_same_distance": None}, "same_order_is_zero"),
        ({"start_error_barrier": 0.01}, "start_breaks"),
        ({"student_diverged": 1}, "children_learned"),
        ({"start_test_error": 0.65}, "children_learned"),
    ):
        assert not effects.children_gates(table.assign(**spoil), PIXELS)[gate]


def test_each_checkpoint_is_judged_at_the_rate_that_suits_it():
    slow = {"rate": 0.1, "student_train_loss": 0.5, "start_train_loss": 0.9, "start_diverged": 0}
    fast = {"rate": 0.3, "student_train_loss": 0.7, "start_train_loss": 0.4, "start_diverged": 0}
    wild = {"rate": 0.9, "student_train_loss": 0.8, "start_train_loss": None, "start_diverged": 2}
    table = pd.DataFrame([
        one | {"seed": seed, "student_diverged": 0, "student_error_barrier": one["rate"], "student_test_error": 0.4,
               "start_error_barrier": one["rate"], "start_test_error": 0.4}
        for one in (slow, fast, wild) for seed in (0, 1)
    ])  # fmt: skip
    assert effects.own_rates(table) == {"student": 0.1, "start": 0.3}
    assert effects.half_barrier(table).tolist() == pytest.approx([10 - 15] * 2)
    assert effects.half_barrier_at_equal_rates(table).tolist() == pytest.approx([(10 + 30) / 2 / 2] * 2)


# studies

SHARED = {
    "profile": "smoke", "seeds": 4, "few": 3, "first_seed": 7, "dataset": "cifar10", "other": "fashion_mnist",
    "n_train": 5000, "n_probe": 5000, "n_test": 2000, "neighbours": 20, "probe_updates": 50, "encoder": "vgg11",
    "width": 8, "hidden": 64, "bottleneck": 16, "outputs": 64, "locality": 0.1, "steps": 10, "batch": 32,
    "learning_rate": 1e-3, "precision": "fp32", "looks": 3, "line": 15, "tiles": 2,
}  # fmt: skip
SOURCE = SHARED | {
    "near_locality": 0.5, "far_locality": 1.0, "localities": [0.3], "tiny_locality": 1e-10, "sizes": [20, 500],
    "few_outputs": 2,
}  # fmt: skip
CHECKPOINT = SHARED | {
    "far_locality": 1.0, "plane": 3, "children": 2, "child_steps": 10, "child_batch": 16, "child_rates": [0.1, 0.2],
    "points": 5, "scored": 100, "prune_seeds": 1, "prune_encoder": "resnet20", "prune_width": 4, "levels": 2,
    "tune_steps": 10, "tune_batch": 16, "tune_rate": 0.1, "rewind_steps": 2, "architectures": [["vgg13", 4]],
}  # fmt: skip


def changed(config, start):
    return {key for key, value in config.as_dict().items() if value != start[key]} - {"seed", "looks", "tiles"}


def test_every_arm_differs_from_the_main_one_in_one_thing():
    study = SourceParameters(**SOURCE)
    start = study.arm(7).as_dict()
    for configs, field in (
        (study.by_locality(), {"locality"}), (study.at_the_teacher(), {"locality"}),
        (study.by_size(), {"n_train", "batch"}), (study.elsewhere(), {"dataset", "probe_on"}),
        (NoiseParameters(**SHARED).noise(), {"inputs"}),
    ):  # fmt: skip
        assert configs and all(changed(config, start) <= field for config in configs)
    singles = [changed(config, start) for configs in study.by_head().values() for config in configs]
    assert {tuple(single) for single in singles} == {("feature_norm",), ("weight_norm",), ("outputs",)}


def test_the_start_at_the_teacher_is_fp32_in_every_profile():
    study = SourceParameters(**SOURCE | {"precision": "bf16"})
    assert {config.precision for config in study.at_the_teacher()} == {"fp32"}
    assert {config.precision for config in study.by_locality()} == {"bf16"}


def test_judged_arms_have_all_seeds_and_the_others_fewer():
    study = SourceParameters(**SOURCE)
    seeds = {at: [c.seed for c in study.by_locality() if c.locality == at] for at in (0.3, 0.5, 1.0)}
    assert seeds == {0.3: [7], 0.5: [7, 8, 9, 10], 1.0: [7, 8, 9, 10]}
    assert {config.seed for config in study.by_size()} == {7, 8, 9}
    assert [config.control for config in CheckpointParameters(**CHECKPOINT).families()] == [True, False, False]
    watched = {config.seed for config in study.by_locality() if config.tiles}
    assert watched == {7}  # the explorer's


def test_with_the_embedded_digits_nothing_else_is_loaded():
    """`-p dataset digits` alone is one of the ways out when data are absent."""
    runs = [
        *NoiseParameters(**SHARED | {"dataset": "digits"}).runs(),
        *SourceParameters(**SOURCE | {"dataset": "digits"}).runs(),
        *CheckpointParameters(**CHECKPOINT | {"dataset": "digits"}).runs(),
    ]
    assert {name for config in runs for name in (config.dataset, *getattr(config, "probe_on", ()))} == {"digits"}
    assert max(getattr(config, "n_train", 0) for config in runs) <= 1437
    Job(SourceParameters(**SOURCE | {"dataset": "digits"}).main()[0], default_device())


def test_impossible_studies_are_refused():
    with pytest.raises(Refusal, match="few_outputs must be fewer than the bottleneck's 16"):
        SourceParameters(**SOURCE | {"few_outputs": 16})
    with pytest.raises(Refusal, match="tenths of the way"):
        NoiseParameters(**SHARED | {"line": 20})
    with pytest.raises(Refusal, match=r"localities.0 must be less than or equal to 1"):
        SourceParameters(**SOURCE | {"localities": [2.0]})


# the explorer

ENDS = {probe: 10.0 * place for place, probe in enumerate(PROBES, start=3)}


def setting(locality, said, shift=0.0):
    return {
        "locality": locality, "steps": [0, 40], "said": said,
        "accuracy": {probe: [end, end + 1 + shift] for probe, end in ENDS.items()},
    }  # fmt: skip


def states(*settings, classes=("cat", "dog")):
    return {
        "classes": list(classes), "truth": [0, 1], "pixels": {probe: end + 0.5 for probe, end in ENDS.items()},
        "teacher": {"accuracy": ENDS, "said": [0, 0]},
        "settings": list(settings) or [setting(1.0, [1, 1], shift=-0.5), setting(0.1, [0, 1])],
    }  # fmt: skip


class TestPage:
    def test_says_in_words_what_it_shows_from_the_teacher_on(self):
        explorer = LocalityExplorer(states())
        assert repr(explorer).splitlines()[1].startswith("  locality 0.1: converged linear probe 31.0")
        page = explorer.page()
        assert "Locality 0.1, converged linear probe: the student ends at 31.0 % after 40 updates" in page
        assert "its neighbours label 2 rightly, the teacher&#x27;s 1; 1 labels differ." in page

    def test_tiles_mark_what_is_wrong_and_what_the_teacher_says_otherwise(self):
        page = LocalityExplorer(states(setting(0.5, [1, 1]))).page()
        tiles = re.findall(r'<span class="(tile[^"]*)" data-image="(\d)"><b>(\w+)</b>', page)
        assert tiles == [("tile wrong changed", "0", "dog"), ("tile changed", "1", "dog")]

    def test_markup_in_names_stays_text_and_nothing_is_loaded(self):
        html = LocalityExplorer(states(classes=("</script><script>alert(1)</script>", '"&'))).page()
        assert "alert(1)</script>" not in html and html.count("<script") == html.count("</script>") == 2
        assert not re.search(r"""(src|href)=|https?://|url\(|@import""", html)

    def test_its_data_draw_every_locality_and_probe(self):
        html = LocalityExplorer(states()).page()
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
        assert [one["name"] for one in data["settings"]] == ["0.1", "1"]
        assert len(data["probes"]) == 4 and all(len(one["curves"]) == 4 for one in data["settings"])
        assert data["settings"][0]["curves"][0].startswith("0.0,") and "100.0," in data["settings"][0]["curves"][0]
        assert len(html) < 60_000

    def test_wrong_shapes_are_refused(self):
        for spoil, words in (
            (lambda s: s["settings"].clear(), "no setting"),
            (lambda s: s["settings"][0]["accuracy"].pop("knn"), "must have the probes"),
            (lambda s: s["settings"][0]["accuracy"]["knn"].pop(), "must have 2 points"),
            (lambda s: s["settings"][0]["said"].pop(), "a class for each of 2 images"),
            (lambda s: s["teacher"].update(said=[0]), "the teacher needs 4 accuracies and 2 labels"),
        ):
            bad = copy.deepcopy(states())
            spoil(bad)
            with pytest.raises(Refusal, match=words):
                LocalityExplorer(bad)


class FakeStudents:
    """Trains three updates, each when the test allows it."""

    def __init__(self, error=None):
        self.error = error
        self.go = threading.Semaphore(0)
        self.ended = []

    def train(self, locality, report):
        try:
            for step in (1, 2, 3):
                assert self.go.acquire(timeout=10)
                if self.error:
                    raise self.error
                report(step, 3)
            self.ended.append("done")
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        return setting(locality, [1, 0], shift=5)

    def pictures(self):
        return ["data:image/png;base64,AA", "data:image/png;base64,BB"]


class TestLive:
    def test_both_faces_are_offered_and_a_page_build_has_no_widget(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        bundle = LocalityExplorer(states(), live=FakeStudents)._repr_mimebundle_()
        assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} == set(bundle)
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert len(LocalityExplorer(states(), live=FakeStudents)._repr_mimebundle_()) == 2

    def test_controls_move_the_picture(self):
        view = LocalityView(LocalityExplorer(states()).states, FakeStudents)
        assert "Locality 0.1, converged" in view.picture.value and "(recorded)" in view.where.value
        view.probe.value = "knn"
        assert "Locality 0.1, k-NN, Euclidean: the student ends at 51.0 %" in view.picture.value
        view.locality.value = 0.8
        assert "Locality 1, k-NN" in view.picture.value and "press Train" in view.where.value

    def test_training_shows_progress_and_then_that_student(self):
        model = FakeStudents()
        view = LocalityView(states(), lambda: model)
        view.locality.value = 0.6
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        model.go.release(2)
        wait_for(lambda: "Training done" in view.status.value)
        assert "Locality 0.6, converged linear probe: the student ends at 36.0 %" in view.picture.value
        assert "(live)" in view.where.value

    def test_moving_the_slider_cancels_and_errors_are_shown_escaped(self):
        model = FakeStudents()
        view = LocalityView(states(), lambda: model)
        view.train_button.click()
        view.locality.value = 0.9
        assert "cancelled" in view.status.value
        model.go.release()
        wait_for(lambda: model.ended == ["Cancelled"])
        broken = FakeStudents(error=RuntimeError("no <memory>"))
        view = LocalityView(states(), lambda: broken)
        view.train_button.click()
        broken.go.release()
        wait_for(lambda: "Training failed" in view.status.value)
        assert "RuntimeError: no &lt;memory&gt;" in view.status.value

    def test_pictures_come_with_the_data_and_their_absence_is_said(self):
        view = LocalityView(states(), FakeStudents)
        view.images.value = True
        assert view.picture.value.count("<img") == 2
        view = LocalityView(states(), lambda: LiveStudents(tiny(dataset="cifar100", tiles=1)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ntf_utils.data.images._download", offline)
            view.images.value = True
        assert "cifar100 is not under" in view.status.value and "<img" not in view.picture.value


def test_recorded_runs_make_states_and_a_live_model_answers_in_the_same_form():
    configs = [tiny(tiles=1, looks=2, locality=locality) for locality in (0.1, 1.0)]
    table = sweep(distil_student, configs, workers=0)
    recorded = recorded_states(table, dict.fromkeys(PROBES, 0.5))
    assert [one["steps"] for one in recorded["settings"]] == [[0, 4, 8]] * 2
    assert "locality 1:" in repr(LocalityExplorer(recorded))
    said = curves(table, "votes").query("who == 'student'")["said"].iloc[1]
    assert recorded["settings"][1]["said"] == [int(word) for word in said.split()]

    live, seen = LiveStudents.of(table), []
    found = live.train(1.0, lambda done, last: seen.append((done, last)))
    assert seen == [(step, 8) for step in range(8)]
    assert found["said"] == recorded["settings"][1]["said"]  # the recorded runs' teacher and start
    assert found["accuracy"]["knn"][-1] == recorded["settings"][1]["accuracy"]["knn"][-1]
    assert len(live.pictures()) == 10 and live.pictures()[0].startswith("data:image/png;base64,")
    others = sweep(distil_student, [tiny(tiles=1, looks=2, seed=1)], workers=0)
    with pytest.raises(Refusal, match="runs of one teacher"):
        recorded_states(pd.concat([table, others]), dict.fromkeys(PROBES, 0.5))

    def stop(done, last):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.train(0.5, stop)
