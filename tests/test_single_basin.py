"""The chapter's own methods: ensembles and their relations, effects, studies and the explorer's two faces."""

import json
import re
import subprocess
import sys
import threading
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from waiting import wait_for

from ntf_utils import ROOT
from ntf_utils.data.images import tile_rows
from ntf_utils.measures import calibration
from ntf_utils.papers.single_basin import effects
from ntf_utils.papers.single_basin.ensembles import (
    EnsembleConfig,
    Job,
    disturbance,
    load_data,
    taught_by,
    train_ensembles,
)
from ntf_utils.papers.single_basin.live import LiveEnsembles, recorded_states
from ntf_utils.papers.single_basin.studies import BasinParameters
from ntf_utils.refusal import Refusal
from ntf_utils.runs import sweep
from ntf_utils.show import BasinExplorer
from ntf_utils.show.basin_live import BasinView
from ntf_utils.training.objectives import Distilling, labelled

pytestmark = pytest.mark.usefixtures("own_store")


def offline(*arguments):
    raise OSError("no network in tests")


def tiny(**changes):
    small = {
        "dataset": "digits", "pooling": 1, "n_train": 150, "n_held": 60, "n_test": 100, "width": 16, "members": 3,
        "noise": 0.2, "steps": 60, "batch": 20, "learning_rate": 0.1, "spawns": (0.0, 0.5), "spawn": 0.5,
        "weights": (0.5,), "weight": 0.5, "drawn": (0.3, 1.0), "snapshot_rate": 0.02, "snapshot_steps": 7,
        "student_steps": 40, "student_rate": 0.1, "student_weight": 0.2, "points": 3, "mixtures": 3, "scored": 80,
    }  # fmt: skip
    return EnsembleConfig(**(small | changes))


@cache
def outcome():
    return train_ensembles(tiny(plane=3, tiles=1))


@cache
def trained():
    """The job of a tiny run and its ensembles by arm."""
    job = Job(tiny(), torch.device("cpu"))
    return job, {kind.arm: kind for kind in job.ensembles()}


def alike(one, other, member=0):
    return all(torch.allclose(one.state[n][member], other.state[n][member], atol=1e-5) for n in one.state)


# one run


def test_a_row_an_ensemble_and_runs_repeat_exactly():
    rows = outcome().rows
    arms = [(row["strategy"], row["at_spawn"] if row["at_spawn"] is not None else row["at_weight"]) for row in rows]
    assert arms == [
        ("deep", None), ("clones", None), ("branch", 0.0), ("branch", 0.5), ("snapshot", None), ("constrained", 0.5),
        ("drawn", 0.3), ("drawn", 1.0), ("permuted", None), ("distilled", None), ("same_basin", None),
        ("no_teacher", None), ("one_teacher", None), ("mean_teacher", None), ("unbound", None),
    ]  # fmt: skip
    assert [row["strategy"] for row in rows if row["chosen"]] == [
        name for name, setting in arms if (name, setting) not in (("branch", 0.0), ("drawn", 0.3), ("drawn", 1.0))
    ]
    assert train_ensembles(tiny(plane=3, tiles=1)) == outcome()
    assert train_ensembles(tiny(seed=1)).rows[0]["nll"] != rows[0]["nll"]


def test_clones_are_the_control_that_must_show_nothing():
    clones = next(row for row in outcome().rows if row["strategy"] == "clones")
    assert clones["joint"] == clones["disagreement"] == clones["diversity"] == clones["distance"] == 0
    assert clones["gain"] == pytest.approx(0, abs=1e-5)
    assert clones["nll"] == pytest.approx(clones["member_nll"], abs=1e-5)


def test_ensembles_share_what_they_should():
    _, kinds = trained()
    deep, branch, early = kinds["deep"], kinds["branch 0.5"], kinds["branch 0"]
    for other in (branch, early, kinds["clones"], kinds["permuted"]):
        assert alike(deep, other)  # the first member is one network
    assert not alike(deep, branch, member=1) and not alike(early, branch, member=1)
    pairs = [(0, 1), (0, 2), (1, 2)]
    distances = [kind_distance(kind, pairs) for kind in (branch, early, deep)]
    assert all(near < far for near, far in pairwise(distances))


def kind_distance(kind, pairs):
    return sum(float((v[a] - v[b]).square().sum()) for v in kind.state.values() for a, b in pairs) ** 0.5


def test_branches_are_one_network_until_they_part(monkeypatch):
    job, _ = trained()
    deep = job.deep()
    begun = []
    monkeypatch.setattr(job, "_train", lambda given, *rest, **more: begun.append(given) or deep)
    job.branch(deep, 0.5)
    (copies,) = begun
    assert copies.step == 30
    for value in copies.state.values():
        assert torch.equal(value[0], value[1])
    assert any(moment.any() for moment in copies.moments[0].values())  # momentum goes along


def test_permuted_members_are_the_same_functions():
    job, kinds = trained()
    deep, permuted = (job.said(kinds[name])[1] for name in ("deep", "permuted"))
    assert torch.allclose(deep, permuted, atol=1e-4)
    rows = {row["strategy"]: row for row in outcome().rows}
    assert rows["permuted"]["calibrated"] == pytest.approx(rows["deep"]["calibrated"], abs=1e-4)
    assert rows["permuted"]["distance"] < rows["deep"]["distance"]


def test_a_term_of_weight_near_zero_gives_the_plain_ensembles():
    job = Job(tiny(weights=(1e-9,), weight=1e-9, drawn=(1e-8,), students=()), torch.device("cpu"))
    kinds = {kind.arm: kind for kind in job.ensembles()}
    for bound, free in (("constrained 1e-09", "branch 0"), ("drawn 1e-08", "deep")):
        for member in range(3):
            one, other = (torch.cat([v[member].flatten() for v in kinds[arm].state.values()]) for arm in (bound, free))
            assert float((one - other).norm() / other.norm()) < 1e-2


def test_every_kind_of_student_has_the_teachers_it_is_named_for():
    deep, branches = {"w": torch.arange(3.0)[:, None]}, {"w": 10 + torch.arange(3.0)[:, None]}
    found = {}
    for kind in ("distilled", "unbound", "same_basin", "one_teacher", "mean_teacher", "no_teacher"):
        objective = taught_by(tiny(), kind, deep, branches)
        if isinstance(objective, Distilling):
            found[kind] = [voice["w"].flatten().tolist() for voice in objective.teachers]
        else:
            assert objective is labelled and kind == "no_teacher"
    assert found == {
        "distilled": [[0, 1, 2]], "unbound": [[0, 1, 2]], "same_basin": [[10, 11, 12]], "one_teacher": [[1, 1, 1]],
        "mean_teacher": [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
    }  # fmt: skip


def test_students_start_at_the_trunk_and_without_a_term_where_there_is_none():
    job, kinds = trained()
    assert not alike(kinds["distilled"], kinds["unbound"], member=1)
    free = Job(tiny(student_weight=0.0), torch.device("cpu"))
    rows = {kind.arm: kind for kind in free.ensembles()}
    assert all(alike(rows["distilled"], rows["unbound"], member) for member in range(3))
    start = job.deep().saved[30].pick([0]).state
    distance = sum(float((kinds["distilled"].state[n][1] - v[0]).square().sum()) for n, v in start.items()) ** 0.5
    other = sum(float((kinds["deep"].state[n][1] - v[0]).square().sum()) for n, v in start.items()) ** 0.5
    assert distance < other


def test_rows_say_what_the_networks_say():
    """NLL and agreement of a row, from the networks themselves."""
    job, kinds = trained()
    rows = {row["strategy"]: row for row in outcome().rows if row["chosen"]}
    said = {arm: job.said(kinds[arm])[1] for arm in ("deep", "distilled")}
    probabilities = said["deep"].softmax(-1).mean(0)
    expected = -probabilities[torch.arange(100), job.data.test_labels].log().mean()
    assert rows["deep"]["nll"] == pytest.approx(float(expected), rel=1e-3)
    shares = calibration.agreement(said["distilled"], said["deep"])
    matrix = pd.DataFrame(outcome().curves["agreement"])
    assert matrix["share"].to_numpy() == pytest.approx(shares.flatten().numpy(), abs=0.011)
    others = matrix[(matrix["student"] > 0) & (matrix["teacher"] > 0)]  # the first is the trunk's own
    own = others["student"] == others["teacher"]
    assert rows["distilled"]["own_teacher"] == pytest.approx(others[own]["share"].mean(), abs=1e-4)
    off = others[~own]["share"].mean()
    assert rows["distilled"]["other_teachers"] == pytest.approx(off, abs=1e-4)
    sizes = pd.DataFrame(outcome().curves["sizes"])
    assert sizes[(sizes["arm"] == "deep") & (sizes["members"] == 3)]["calibrated"].item() == pytest.approx(
        rows["deep"]["calibrated"], abs=1e-4
    )


def test_temperatures_never_see_the_test_images(monkeypatch):
    asked, real = [], calibration.best_temperature

    def noted(said, labels):
        asked.append(labels)
        return real(said, labels)

    monkeypatch.setattr(calibration, "best_temperature", noted)
    job, kinds = trained()
    job.performance(kinds["deep"])
    assert asked and all(labels is job.data.held_labels for labels in asked)
    config = tiny()
    data = load_data(config, torch.device("cpu"))
    flat = {tuple(row.flatten().tolist()) for row in data.train}
    assert not flat & {tuple(row.flatten().tolist()) for row in data.held}


def test_every_training_has_the_noise():
    images = torch.zeros(4, 1, 8, 8)
    noisy = disturbance(tiny())(images, torch.Generator().manual_seed(0))
    assert float(noisy.std()) == pytest.approx(0.2, rel=0.2)
    assert disturbance(tiny(noise=0.0)) is None
    both = disturbance(tiny(augment=True))(images + 1, torch.Generator().manual_seed(0))
    assert both.shape == images.shape and float(both.std()) > 0.2


def test_a_diverged_ensemble_is_reported_and_left_out():
    rows = train_ensembles(tiny(learning_rate=1e4, student_rate=1e4, tiles=1, plane=3)).rows
    assert all(row["diverged"] and row["nll"] is None and row["joint"] is None for row in rows)
    found = table(rows)
    assert not any(effects.gates([found]).values())
    assert effects.lost([found]) == "15 of 15 ensembles have a member that diverged, and are left out."
    assert effects.summary(found)["seeds"].eq(0).all()


def test_students_of_lost_teachers_are_lost_and_others_are_not():
    rows = {row["strategy"]: row for row in train_ensembles(tiny(learning_rate=1e4, students=("no_teacher",))).rows}
    assert rows["deep"]["nll"] is None and rows["no_teacher"]["own_teacher"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "convolutional", "width": 2, "layers": 1},
        {"architecture": "resnet20", "width": 2, "augment": True},
        {"architecture": "vit", "width": 8},
    ],
    ids=lambda changes: changes["architecture"],
)
def test_other_architectures_have_all_but_the_permuted(changes):
    config = tiny(**changes, members=2, steps=3, student_steps=2, snapshot_steps=1, n_test=30, drawn=(), scored=30,
                  students=("distilled", "mean_teacher"), learning_rate=0.01, n_train=40)  # fmt: skip
    rows = train_ensembles(config).rows
    assert "permuted" not in {row["strategy"] for row in rows} and len(rows) == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": 1}, "members must be greater than or equal to 2 (got 1)"),
        ({"temperature": 0.0}, "temperature must be greater than 0 (got 0.0)"),
        ({"temperature": -1.0}, "temperature must be greater than 0"),
        ({"weights": (5.0,), "weight": 5.0}, "must be less than or equal to 1 (got 5.0)"),
        ({"drawn": (0.0,)}, "must be greater than 0"),
        ({"student_weight": 1.5}, "student_weight must be less than or equal to 1"),
        ({"spawn": 0.3}, "spawn must be one of spawns (got 0.3, not in 0.0, 0.5)"),
        ({"weight": 0.3}, "weight must be one of weights"),
        ({"spawns": (0.5, 0.5)}, "spawns holds a value twice"),
        ({"spawns": (0.5, 1.0)}, "must be less than 1"),
        ({"dataset": "digit"}, "unknown data set 'digit': did you mean 'digits'"),
        ({"architecture": "mlp"}, "architecture must be"),
        ({"students": ("teacher",)}, "students.0 must be"),
        ({"batch": 300}, "batch must not exceed n_train"),
        ({"noise": -1.0}, "noise must be greater than or equal to 0"),
        ({"tempreature": 1.0}, "unknown field 'tempreature': did you mean 'temperature'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)


def test_absent_data_names_the_ways_out(monkeypatch):
    config = tiny(dataset="cifar10")
    assert config.data_fingerprint().startswith("cifar10 ")  # without the files
    monkeypatch.setattr("ntf_utils.data.images._download", offline)
    with pytest.raises(Refusal, match=r"NTF_DATA.*download.*-p dataset digits"):
        sweep(train_ensembles, [config], workers=0)
    with pytest.raises(Refusal, match="images cannot be drawn from the 1,437"):
        train_ensembles(tiny(n_train=1400, n_held=60))


def test_importing_the_chapter_draws_no_figure_library():
    module = "ntf_utils.papers.single_basin.ensembles"
    code = f"import sys, {module}; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# from rows to effects, on tables made by hand


def table(rows, seed=0):
    return pd.DataFrame([{"key": f"run {seed}", "seed": seed, **row} for row in rows])


def made(*seeds):
    """A table of some seeds: each a dict of strategy -> (calibrated NLL, joint barrier), both None for a lost one."""
    plain = {"diverged": 0, "chosen": True, "at_spawn": None, "at_weight": None}
    lines = []
    for seed, ensembles in enumerate(seeds):
        for strategy, (nll, joint) in ensembles.items():
            name, _, setting = strategy.partition(" ")
            place = {"at_spawn" if name == "branch" else "at_weight": float(setting)} if setting else {}
            numbers = dict.fromkeys(("calibrated", "nll", "brier", "error", "ece", "gain"), nll)
            numbers["member_calibrated"] = nll and max(nll, 1.2)
            lines.append(plain | numbers | place | {
                "key": str(seed), "seed": seed, "strategy": name, "joint": joint, "barrier": joint, "centroid": joint,
                "diversity": None if joint is None else 0.2 + joint, "diverged": int(nll is None),
                "calibrated_ece": nll, "fitted_temperature": 1.0,
                "disagreement": 0.0 if name == "clones" else 0.1, "chosen": setting in ("", "0.2", "0.5"),
            })  # fmt: skip
    return pd.DataFrame(lines)


SEED = {
    "deep": (1.0, 2.0), "clones": (1.2, 0.0), "branch 0.2": (1.12, 0.02), "constrained 0.5": (1.1, 0.1),
    "distilled": (1.03, 0.1), "permuted": (1.0, 1.0),
}  # fmt: skip


def test_closure_is_a_share_of_the_gap_of_each_seed():
    other = SEED | {"branch 0.2": (1.05, 0.04), "distilled": (0.99, 0.2)}
    found = made(SEED, other)
    assert effects.better(found).tolist() == pytest.approx([1.1, 1.05])
    assert effects.above_deep(found, "better").tolist() == pytest.approx([0.1, 0.05])
    assert effects.closed(found, "distilled").tolist() == pytest.approx([0.09, 0.06])
    assert effects.closure(found, "distilled").tolist() == pytest.approx([0.75, 1.2])
    assert effects.closure(found, "distilled", "better").tolist() == pytest.approx([0.7, 1.2])
    assert effects.relative(found, "distilled").tolist() == pytest.approx([0.05, 0.1])
    assert effects.least_connected(found).tolist() == pytest.approx([0.05, 0.05])
    assert effects.diversity_ratio(found).tolist() == pytest.approx([2.2 / 0.22, 2.2 / 0.24])
    assert effects.above_deep(found, "branch").tolist() == pytest.approx([0.12, 0.05])


def test_lost_seeds_take_no_part():
    found = made(SEED, SEED | {"branch 0.2": (None, None)}, SEED)
    assert list(effects.above_deep(found, "better").index) == [0, 2] and len(effects.closure(found, "distilled")) == 2
    assert list(effects.above_deep(found, "constrained").index) == [0, 1, 2]
    with pytest.raises(Refusal, match="no ensemble 'drawn'"):
        effects.of(found, "drawn", "nll")


def test_the_price_is_a_rank_correlation_over_settings():
    sweep_rows = {"branch 0": (1.05, 1.0), "branch 0.2": (1.1, 0.5), "branch 0.8": (1.2, 0.0)}
    weights = {"constrained 0.5": (1.2, 0.2), "constrained 0.9": (1.15, 0.1)}
    found = made(SEED | sweep_rows | weights)
    assert effects.price(found, "branch").tolist() == pytest.approx([-1])
    assert effects.sweep_of(found, "constrained")["setting"].tolist() == [0.0, 0.5, 0.9]  # 0 is the first branch
    assert effects.price(found, "constrained").tolist() == pytest.approx([-0.5])
    assert effects.price(made({name: SEED[name] for name in SEED}), "branch").empty  # one setting is no sweep
    flat = made(SEED | {"branch 0": (1.1, 0.5), "branch 0.2": (1.1, 0.2), "branch 0.8": (1.1, 0.0)})
    assert effects.price(flat, "branch").tolist() == [0.0]


def test_gates_fail_when_they_should():
    good = made(*[SEED] * 5)
    passed = effects.gates([good])
    assert passed.pop("gap_exists") and all(passed.values())
    spoilt = {
        "reference_exists": SEED | {"deep": (1.0, 0.05), "branch 0.2": (1.1, 0.001), "constrained 0.5": (1.1, 0.001)},
        "clones_are_one": SEED | {"clones": (1.2, 1e-9)},
        "members_alike": SEED | {"branch 0.2": (1.4, 0.02)},
        "one_basin": SEED | {"constrained 0.5": (1.1, 0.3)},
    }
    for gate, one in spoilt.items():
        failed = {name for name, good in effects.gates([good, made(*[one] * 5)]).items() if not good}
        assert failed == {gate}
    assert not effects.gates([made(*[SEED] * 3, SEED | {"distilled": (None, None)})])["enough_left"]
    assert effects.gates([made(*[SEED] * 4, SEED | {"distilled": (None, None)})])["enough_left"]
    uneven = [SEED | {"branch 0.2": (nll, 0.02), "constrained 0.5": (nll, 0.02)} for nll in (1.1, 0.9, 1.1, 0.95)]
    assert not effects.gates([made(*uneven)])["gap_exists"]


def test_clauses_are_named_by_tier_and_the_table_has_both_halves():
    tables = {"objects": made(SEED, SEED), "clothes": made(SEED)}
    found = effects.by_tier(tables, {"basin": effects.least_connected, "": effects.diversity_ratio})
    assert list(found) == ["basin_objects", "objects", "basin_clothes", "clothes"]
    lost = {"objects": made(SEED, SEED | {"permuted": (None, None)})}
    gap = {"x": lambda table: effects.of(table, "distilled", "joint") - effects.of(table, "permuted", "joint")}
    assert effects.by_tier(lost, gap)["x_objects"].to_dict() == pytest.approx({0: -0.9})
    shown = effects.summary(tables["objects"], ["deep", "branch"])
    assert list(shown.index) == ["deep", "branch 0.2"]
    assert shown.loc["branch 0.2", "gap"] == pytest.approx(0.12) and shown.loc["branch 0.2", "joint"] == 0.02


def test_every_claim_finds_its_effects():
    """Clauses, as the notebooks hand them in, are those of claims.yaml."""
    claims = yaml.safe_load((ROOT / "notebooks/single_basin/claims.yaml").read_text(encoding="utf-8"))["claims"]
    for name, claim in claims.items():
        page = (ROOT / "notebooks/single_basin" / f"{claim['shown_in']}.py").read_text(encoding="utf-8")
        assert f'"{name}"' in page
        tiers = {clause.rpartition("_")[2] for clause in claim["clauses"]} - {"closure"}
        assert tiers <= {"objects", "clothes"}


def test_each_row_of_students_is_named_though_tiers_have_other_students():
    from ntf_utils.show.basin_figures import closing_the_gap

    fewer = made(SEED, SEED)
    more = made(*[SEED | {"same_basin": (1.11, 0.02)}] * 2)
    figure = closing_the_gap({"objects": more, "contrast": fewer}, ["distilled", "same_basin"])
    named = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes[::2]]
    assert named == [["distilled", "same-basin teachers"], ["distilled"]]


# studies


def parameters(**changes):
    small = yaml.safe_load((ROOT / "notebooks/single_basin/profiles/smoke.yaml").read_text(encoding="utf-8"))
    return BasinParameters(**(small | {"dataset": "", "temperature": 4.0, "share": 0.9} | changes))


def test_tiers_give_a_run_a_seed_and_one_keeps_the_pictures():
    study = parameters()
    assert [config.seed for config in study.tier("objects")] == [0, 1]
    assert [(config.plane, config.tiles) for config in study.tier("objects")] == [(5, 1), (0, 0)]
    assert len(study.runs()) == 5 and {config.members for config in study.runs()} == {3}
    rows = pd.concat([study_rows(config) for config in study.runs()])
    assert {tier: found["seed"].tolist() for tier, found in study.by_tier(rows).items()} == {
        "objects": [0, 1], "clothes": [0, 1], "contrast": [0],
    }  # fmt: skip


def study_rows(config):
    from ntf_utils.runs import key_of

    return pd.DataFrame([{"key": key_of(train_ensembles, config), "seed": config.seed}])


def test_with_the_embedded_digits_nothing_else_is_loaded():
    objects = parameters().objects | {"dataset": "cifar10", "pooling": 4, "n_train": 40000, "batch": 64}
    study = parameters(dataset="digits", objects=objects)
    assert {config.dataset for config in study.runs()} == {"digits"}
    assert max(config.n_train + config.n_held for config in study.runs()) <= 1437
    load_data(study.runs()[0], torch.device("cpu"))


@pytest.mark.parametrize("profile", ["gpu", "paper"])
def test_large_profiles_are_possible(profile):
    path = Path(ROOT / "notebooks/single_basin/profiles" / f"{profile}.yaml")
    given = yaml.safe_load(path.read_text(encoding="utf-8")) | {"dataset": "", "temperature": 4.0, "share": 0.9}
    study = BasinParameters(**given)
    assert {config.architecture for config in study.runs()} == {"resnet20", "vit", "perceptron"}
    assert all(config.members == 5 for config in study.runs()) and len(study.tier("objects")) >= 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": 1}, "members must be greater than or equal to 2 (got 1)"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"objects": {"dataset": "digits"}}, "objects needs seeds"),
        ({"clothes": {"seeds": 3, "datset": "digits"}}, "unknown field 'datset': did you mean 'dataset'"),
        ({"contrast": {"seeds": 1, "dataset": "mnits"}}, "unknown data set 'mnits'"),
    ],
)
def test_impossible_studies_are_refused(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)):
        parameters(**changes)


# the explorer


def stop(title="deep ensemble", value=0.0, **changes):
    return {
        "title": title, "value": value, "alphas": [0.0, 0.5, 1.0], "loss": [0.1, 0.9, 0.2], "nll": 1.5, "joint": 0.75,
        "disagreement": 0.25, "said": [[0, 1], [0, 1], [0, 0]],
    } | changes  # fmt: skip


def states(*titles, classes=("coat", "bag")):
    sweeps = [
        {"title": title, "stops": [stop(f"{title} {k}", k / 2, nll=1.6 + k, joint=0.1 * k) for k in (0, 1)]}
        for title in titles or ("spawn time", "weight of the term, one start")
    ]
    return {"classes": list(classes), "truth": [0, 1], "reference": stop(), "sweeps": sweeps}


class TestPage:
    def test_says_in_words_what_it_shows(self):
        explorer = BasinExplorer(states())
        assert "spawn time: spawn time 0 0.000, 1.600" in repr(explorer)
        page = explorer.page()
        assert "spawn time 0: joint barrier 0.000 nats, test NLL 1.600, 0.100 above that of the deep ensemble." in page
        assert "disagree on 25.0 % of all test images; on 1 of the 2 shown" in page

    def test_tiles_show_the_votes(self):
        page = BasinExplorer(states()).page()
        tiles = re.findall(r'<span class="(tile[^"]*)" data-image="(\d)"><b>([^<]+)</b>', page)
        assert tiles == [("tile", "0", "coat"), ("tile split", "1", "bag 2, coat 1")]
        wrong = states()
        wrong["truth"] = [1, 1]
        assert 'class="tile wrong" data-image="0"' in BasinExplorer(wrong).page()

    def test_markup_in_names_stays_text(self):
        html = BasinExplorer(states("<b>x</b>", classes=("</script><script>alert(1)</script>", '"&'))).page()
        assert "<b>x</b>" not in html and "alert(1)</script>" not in html
        assert html.count("<script") == html.count("</script>") == 2

    def test_its_data_are_json_and_it_loads_nothing(self):
        html = BasinExplorer(states()).page()
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
        assert data["sweeps"][1][1]["title"] == "weight of the term, one start 1"
        assert data["sweeps"][0][0]["tiles"] == [["coat", False, False], ["bag 2, coat 1", True, False]]
        assert not re.search(r"""(src|href)=|https?://|url\(|@import""", html)

    def test_wrong_shapes_are_refused(self):
        for spoil, words in (
            (lambda s: s["sweeps"].clear(), "two settings or more"),
            (lambda s: s["sweeps"][0]["stops"].pop(), "two settings or more"),
            (lambda s: s["sweeps"][0]["stops"][0]["loss"].pop(), "a loss at every position"),
            (lambda s: s["sweeps"][0]["stops"][1]["said"][0].pop(), "a class for each of 2 images"),
        ):
            bad = states()
            spoil(bad)
            with pytest.raises(Refusal, match=words):
                BasinExplorer(bad)


class FakeEnsembles:
    """Trains three updates, each when the test allows it."""

    def __init__(self, error=None):
        self.error = error
        self.go = threading.Semaphore(0)
        self.ended, self.asked = [], []

    def train(self, sweep, value, report):
        self.asked.append((sweep, value))
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
        return stop(f"trained {value:g}", value, nll=1.4)

    def pictures(self):
        return ["data:image/png;base64,AA", "data:image/png;base64,BB"]


class TestLive:
    def test_both_faces_are_offered_and_a_page_build_has_no_widget(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        bundle = BasinExplorer(states(), live=FakeEnsembles)._repr_mimebundle_()
        assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} == set(bundle)
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert len(BasinExplorer(states(), live=FakeEnsembles)._repr_mimebundle_()) == 2

    def test_controls_move_the_picture(self):
        view = BasinView(states(), FakeEnsembles)
        assert "spawn time 0: joint barrier" in view.picture.value
        view.place.value = 1
        assert "spawn time 1: joint barrier 0.100" in view.picture.value and "(recorded)" in view.where.value
        view.sweep.value = 1
        assert "one start 0" in view.picture.value and view.place.value == 0

    def test_a_trained_ensemble_takes_its_place_among_the_recorded(self):
        model = FakeEnsembles()
        view = BasinView(states(), lambda: model)
        view.value.value = 0.3
        view.train_button.click()
        assert view.train_button.description == "Stop"
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        model.go.release(2)
        wait_for(lambda: "Training done" in view.status.value)
        assert model.asked == [("spawn time", 0.3)]
        assert view.place.max == 2 and view.place.value == 1 and "trained 0.3 (live)" in view.where.value
        assert "0.100 below that of the deep ensemble" in view.picture.value

    def test_pressing_again_or_another_sweep_cancels(self):
        model = FakeEnsembles()
        view = BasinView(states(), lambda: model)
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        view.train_button.click()
        assert "stopped" in view.status.value
        model.go.release()
        wait_for(lambda: model.ended == ["Cancelled"])
        view.train_button.click()
        view.sweep.value = 1
        assert "cancelled" in view.status.value
        model.go.release(3)
        wait_for(lambda: model.ended == ["Cancelled", "Cancelled"])
        assert "(recorded)" in view.where.value and view.place.max == 1

    def test_errors_are_shown_and_escaped(self):
        model = FakeEnsembles(error=RuntimeError("no <memory>"))
        view = BasinView(states(), lambda: model)
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "Training failed" in view.status.value)
        assert "RuntimeError: no &lt;memory&gt;" in view.status.value

    def test_pictures_come_with_the_data_and_their_absence_is_said(self):
        view = BasinView(states(), FakeEnsembles)
        assert "<img" not in view.picture.value
        view.images.value = True
        assert view.picture.value.count("<img") == 2
        view = BasinView(states(), lambda: LiveEnsembles(tiny(dataset="cifar100", tiles=1)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ntf_utils.data.images._download", offline)
            view.images.value = True
        assert "cifar100 is not under" in view.status.value and "<img" not in view.picture.value


def test_recorded_runs_make_states_and_a_live_model_answers_in_the_same_form():
    run = sweep(train_ensembles, [tiny(tiles=1, students=())], workers=0)
    recorded = recorded_states(run)
    assert [sweep["title"] for sweep in recorded["sweeps"]] == [
        "spawn time", "weight of the term, one start", "weight of the term, many starts",
    ]  # fmt: skip
    assert [stop["value"] for stop in recorded["sweeps"][2]["stops"]] == [0.0, 0.3, 1.0]
    assert "branches part at 0.5 of training" in BasinExplorer(recorded).page()

    live, seen = LiveEnsembles.of(run), []
    again = live.train("spawn time", 0.5, lambda done, last: seen.append((done, last)))
    first = recorded["sweeps"][0]["stops"][1]
    assert again["nll"] == pytest.approx(first["nll"], abs=1e-3) and again["title"] == first["title"]
    assert again["loss"] == pytest.approx(first["loss"], abs=1e-3) and len(again["said"]) == 3
    assert seen == [(step, 90) for step in range(90)]
    other = live.train("weight of the term, many starts", 0.6, lambda done, last: None)
    BasinExplorer(recorded | {"sweeps": [{"title": "x", "stops": [again, other]}]})
    assert len(live.pictures()) == 10 == len(recorded["truth"])
    with pytest.raises(Refusal, match=r"branches part between 0 and 0\.99"):
        live.train("spawn time", 1.0, lambda done, last: None)

    def enough(done, last):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.train("weight of the term, one start", 0.5, enough)


def test_tiles_are_the_first_images_of_each_class():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 1])
    assert tile_rows(labels, 2).tolist() == [1, 3, 2, 5, 0, 4]
    assert np.all(np.diff(labels[tile_rows(labels, 2)]) >= 0)
