"""The chapter's own methods: settings, controls, divergence, effects, studies and the explorer's two faces."""

import base64
import io
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from waiting import wait_for

from ntf_utils.data.images import Images, load_images, tile_rows
from ntf_utils.data.pictures import pictures_of
from ntf_utils.papers.linear_mode_connectivity import effects
from ntf_utils.papers.linear_mode_connectivity.connectivity import (
    ConnectivityConfig,
    Job,
    load_data,
    measure_connectivity,
)
from ntf_utils.papers.linear_mode_connectivity.live import LivePairs, recorded_states
from ntf_utils.papers.linear_mode_connectivity.studies import BreaksParameters, HoldsParameters, TimeParameters
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, sweep
from ntf_utils.show import BarrierExplorer
from ntf_utils.show.barrier_live import BarrierView
from ntf_utils.training.device import default_device

pytestmark = pytest.mark.usefixtures("own_store")


def offline(*arguments):
    raise OSError("no network in tests")


def tiny(**changes):
    small = {"dataset": "digits", "pooling": 1, "n_train": 200, "n_test": 60, "width": 12, "batch": 20, "steps": 60}
    return ConnectivityConfig(**(small | {"inits": 3, "points": 5, "scored": 100} | changes))


# one run


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learning_rate": 0.3},
        {"optimiser": "adam", "learning_rate": 0.01},
        {"spawn_step": 20},
        {"architecture": "convolutional", "kernel": 3, "padding": 1, "channels": 2},
        {"architecture": "random_sparse", "kernel": 3, "padding": 1, "channels": 2},
        {"architecture": "resnet20", "width": 4, "norm": "batch", "steps": 25, "inits": 2, "augment": True},
        {"labels": "random"},
    ],
    ids=str,
)
def test_the_same_order_gives_exactly_zero_and_another_does_not(changes):
    outcome = measure_connectivity(tiny(**changes))
    first = outcome.rows[0]
    assert first["same_distance"] == 0 and first["same_barrier"] == 0
    assert all(row["distance"] > 0 for row in outcome.rows)
    assert all(row["same_distance"] is None for row in outcome.rows[1:])
    lines = pd.DataFrame(outcome.curves["paths"])
    flat = lines[lines["kind"] == "same"]["loss"]
    assert len(flat) == 5 and flat.nunique() == 1


def test_a_row_an_initialisation_and_runs_repeat_exactly():
    config = tiny(orders=3)
    outcome = measure_connectivity(config)
    assert [row["seed"] for row in outcome.rows] == [0, 1, 2]
    assert measure_connectivity(config) == outcome
    later = measure_connectivity(config.but(first_init=1))
    assert later.rows[0]["train_loss"] == pytest.approx(outcome.rows[1]["train_loss"], rel=1e-3)
    assert later.rows[0]["barrier"] != outcome.rows[0]["barrier"]


def test_numbers_fit_each_other():
    """r, its two parts, and the curves that they were taken from."""
    outcome = measure_connectivity(tiny(learning_rate=0.2, steps=150))
    lines = pd.DataFrame(outcome.curves["paths"])

    def height(kind, seed):
        loss = lines[(lines["kind"] == kind) & (lines["seed"] == seed)].sort_values("alpha")["loss"].to_numpy()
        return max(0, (loss - np.interp(np.linspace(0, 1, len(loss)), [0, 1], loss[[0, -1]])).max())

    ring = [height("independent", seed) for seed in range(3)]  # seed with seed + 1
    for seed, row in enumerate(outcome.rows):
        assert row["barrier"] == pytest.approx(height("order", seed), abs=1e-4)
        assert row["reference"] == pytest.approx((ring[seed] + ring[seed - 1]) / 2, abs=1e-4)
        assert row["relative"] == pytest.approx(row["barrier"] / row["reference"], rel=1e-3)
        assert row["reference"] > 0.1


def test_pairs_of_one_initialisation_are_averaged():
    config = tiny(orders=3, learning_rate=0.2)
    job = Job(config, default_device())
    trained = job.train()
    pairs = job.pairs(trained)
    assert [pair[1:] for pair in pairs["order"]][:3] == [(0, 1), (0, 2), (1, 2)]
    assert pairs["independent"] == [(0, 0, 3), (1, 3, 6), (2, 6, 0)] and pairs["same"] == [(0, 0, 9)]
    scored = {kind: job.score(trained, found) for kind, found in pairs.items()}
    single = [line["barrier"] for line in job._measured(trained, pairs["order"], scored["order"])]
    rows = job.rows(trained, pairs, scored)
    assert [row["barrier"] for row in rows] == pytest.approx([np.mean(single[i : i + 3]) for i in (0, 3, 6)])


def test_copies_of_a_spawned_run_are_one_network_until_they_part():
    late = measure_connectivity(tiny(spawn_step=59, learning_rate=0.2)).rows
    early = measure_connectivity(tiny(spawn_step=1, learning_rate=0.2)).rows
    assert all(0 < a["distance"] < 0.2 * b["distance"] for a, b in zip(late, early, strict=True))


def test_a_diverged_network_is_reported_and_left_out():
    config = tiny(inits=4, learning_rate=0.2)
    job = Job(config, default_device())
    trained = job.train()
    trained.diverged[2] = True  # a copy of initialisation 1, which also serves as its reference
    pairs = job.pairs(trained)
    rows = job.rows(trained, pairs, {kind: job.score(trained, found) for kind, found in pairs.items()})
    assert [row["diverged"] for row in rows] == [0, 1, 0, 0]
    assert rows[1]["relative"] is None and rows[1]["barrier"] is None and rows[1]["train_loss"] is not None
    assert all(row["relative"] is not None for row in (rows[0], rows[2], rows[3]))  # each has one neighbour left


def test_a_run_in_which_everything_diverges_is_a_record():
    outcome = measure_connectivity(tiny(learning_rate=1e6, inits=2, plane=3, tiles=1, match=True))
    assert all(row["diverged"] == 2 and row["relative"] is None and row["train_loss"] is None for row in outcome.rows)
    assert not outcome.curves["paths"]["loss"] and "plane" not in outcome.curves
    table = pd.DataFrame(outcome.rows).assign(key="a", learning_rate=1e6)
    assert effects.lost([table]).startswith("4 networks diverged, in 1 of 1 settings; 2 initialisations")
    assert not effects.gates([table])["enough_left"]
    assert effects.summary(table, "learning_rate").loc[1e6, "diverged nets"] == 4


def test_the_plane_passes_through_both_solutions_and_their_start():
    outcome = measure_connectivity(tiny(plane=7, learning_rate=0.2))
    corners = pd.DataFrame(outcome.curves["corners"]).set_index("name")
    assert corners.loc["second", "x"] == pytest.approx(outcome.rows[0]["distance"], rel=1e-4)
    assert len(outcome.curves["plane"]["loss"]) == 49


def test_matching_finds_nothing_to_move_between_copies_that_stayed_close():
    (row, *_) = measure_connectivity(tiny(match=True, learning_rate=0.01)).rows
    assert row["fixed_share"] == 1 and row["matched_barrier"] == pytest.approx(row["barrier"])
    assert row["moved_fixed_share"] < 1 and row["matched_reference"] < row["reference"]


def test_labels_of_tiles_are_those_of_the_end_points():
    config = tiny(tiles=2, learning_rate=0.2)
    outcome = measure_connectivity(config)
    said = pd.DataFrame(outcome.curves["predictions"])
    data = load_data(config, torch.device("cpu"))
    truth = data.test_labels[tile_rows(data.test_labels, 2)].tolist()
    assert said["truth"].unique().tolist() == [" ".join(str(label) for label in truth)]
    assert truth == sorted(truth) and len(truth) == 20
    assert said[said["alpha"] == 0]["changed"].tolist() == [0, 0, 0]
    assert set(said[said["kind"] == "same"]["changed"]) == {0}
    assert said[said["kind"] == "independent"]["changed"].max() > 0


def test_random_labels_are_the_true_ones_in_another_order():
    true, random = (load_data(tiny(labels=labels), torch.device("cpu")) for labels in ("true", "random"))
    assert torch.equal(true.train, random.train) and torch.equal(true.test_labels, random.test_labels)
    assert not torch.equal(true.train_labels, random.train_labels)
    assert torch.equal(true.train_labels.sort().values, random.train_labels.sort().values)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset": "mnits"}, "unknown data set 'mnits': did you mean 'mnist'"),
        ({"points": 10}, "points must be odd"),
        ({"points": 1}, "points must be greater than or equal to 3"),
        ({"batch": 300}, "batch must not exceed n_train"),
        ({"spawn_step": 60}, "spawn_step must lie before the last update"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"inits": 1}, "inits must be greater than or equal to 2"),
        ({"orders": 1}, "orders must be greater than or equal to 2"),
        ({"depth": 1}, "depth must be greater than or equal to 2"),
        ({"warmup": 1.0}, "warmup must be less than 1"),
        ({"match": True, "architecture": "local"}, "matched for perceptrons only"),
        ({"architecture": "mlp"}, "architecture must be"),
        ({"learning_rat": 0.1}, "unknown field 'learning_rat': did you mean 'learning_rate'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)


def test_more_images_than_there_are_is_refused_and_absent_data_names_the_ways_out(monkeypatch):
    with pytest.raises(Refusal, match="1,438 images cannot be drawn from the 1,437"):
        sweep(measure_connectivity, [tiny(n_train=1438)], workers=0)
    config = tiny(dataset="fashion_mnist")
    assert config.data_fingerprint().startswith("fashion_mnist ")  # without the files
    monkeypatch.setattr("ntf_utils.data.images._download", offline)
    with pytest.raises(Refusal, match=r"NTF_DATA.*download.*-p dataset digits"):
        sweep(measure_connectivity, [config], workers=0)


def test_importing_the_chapter_draws_no_figure_library():
    """Workers import the paper's module only; matplotlib there would cost a second a process."""
    module = "ntf_utils.papers.linear_mode_connectivity.connectivity"
    code = f"import sys, {module}; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# from rows to effects, on tables made by hand


def rows(key, heights, **columns):
    """A setting: one row an initialisation, with these r; None is one lost to divergence."""
    lost = [height is None for height in heights]
    made = pd.DataFrame({"key": key, "seed": range(len(heights)), "relative": heights, "barrier": heights})
    standard = {"reference": 1.0, "train_loss": 0.1, "train_error": 0.01, "test_error": 0.2, "error_barrier": 0.0}
    made = made.assign(**standard, diverged=[2 * gone for gone in lost], same_distance=None, same_barrier=None)
    made.loc[0, ["same_distance", "same_barrier"]] = 0.0
    return made.assign(**columns)


def test_differences_pair_initialisations_and_drop_the_lost():
    gap = effects.difference(rows("a", [0.3, None, 0.5]), rows("b", [0.1, 0.1, 0.2]))
    assert gap.to_dict() == pytest.approx({0: 0.2, 2: 0.3})
    with pytest.raises(Refusal, match="one setting at a time"):
        effects.relative(pd.concat([rows("a", [0.1]), rows("b", [0.2])]))


def test_rank_correlation_is_one_number_an_initialisation():
    table = pd.concat([
        rows("a", [0.1, 0.3, 0.0, 0.1], learning_rate=0.01),
        rows("b", [0.2, 0.2, 0.0, None], learning_rate=0.03),
        rows("c", [0.9, 0.1, 0.0, 0.2], learning_rate=0.1),
    ])  # fmt: skip
    assert effects.rank_correlation(table, "learning_rate").to_dict() == pytest.approx({0: 1, 1: -1, 2: 0})


def test_equal_loss_is_read_off_between_the_rates_that_enclose_it():
    table = pd.concat([
        rows("a", [0.001, 0.01, 0.01], learning_rate=0.01, train_loss=[0.4, 0.4, 0.04]),
        rows("b", [0.010, 0.01, 0.02], learning_rate=0.03, train_loss=[0.1, 0.2, 0.03]),
        rows("c", [0.100, 0.09, 0.04], learning_rate=0.1, train_loss=[0.025, 0.05, 0.02]),
    ])  # fmt: skip
    found = effects.at_equal_loss(table, 0.1)
    assert found.to_dict() == pytest.approx({0: 0.01, 1: 0.03})  # the third starts below the loss
    assert effects.at_equal_loss(table, 0.05)[0] == pytest.approx(10**-1.5)  # halfway in both logarithms


def test_decades_are_the_longest_run_of_connected_rates():
    rates = [0.001, 0.003, 0.01, 0.03, 0.1]
    heights = [[0.01, 0.01], [0.01, 0.2], [0.01, 0.01], [0.04, None], [0.2, 0.01]]
    table = pd.concat([rows(str(rate), pair, learning_rate=rate) for rate, pair in zip(rates, heights, strict=True)])
    assert effects.connected_decades(table, 0.2).to_dict() == pytest.approx({0: np.log10(30), 1: 0.0})
    slow = table.assign(train_error=np.where(table["learning_rate"] < 0.01, 0.5, 0.01))
    assert effects.connected_decades(slow, 0.2)[0] == pytest.approx(np.log10(3))
    bumpy = table.assign(error_barrier=np.where(table["learning_rate"] == 0.01, 0.05, 0.0))
    assert effects.connected_decades(bumpy, 0.2)[0] == pytest.approx(np.log10(3))


def test_gates_fail_when_they_should():
    good = rows("a", [0.1] * 5)
    assert effects.gates([good, rows("b", [0.2] * 5)]) == {
        "same_order_is_zero": True, "reference_exists": True, "enough_left": True,
    }  # fmt: skip
    assert not effects.gates([good, rows("b", [0.2] * 5, same_barrier=1e-9)])["same_order_is_zero"]
    assert not effects.gates([good.assign(same_distance=None, same_barrier=None)])["same_order_is_zero"]
    assert not effects.gates([good, rows("b", [0.2] * 5, reference=0.09)])["reference_exists"]
    assert not effects.gates([good, rows("b", [0.2, None, 0.2, None, 0.2])])["enough_left"]
    assert effects.gates([good, rows("b", [0.2, None, 0.2, 0.2, 0.2])])["enough_left"]
    assert effects.fitted([good]) and not effects.fitted([good, rows("b", [0.1] * 5, train_error=0.03)])
    assert effects.stays_below(pd.Series([0.01, 0.02, 0.03]), 0.05)
    assert not effects.stays_below(pd.Series([0.01, 0.02, 0.08]), 0.05)


def test_the_text_counts_what_divergence_took():
    tables = [rows("a", [0.1, 0.2]), rows("b", [None, 0.2])]
    assert effects.lost(tables[:1]) == "No network diverged in 1 settings."
    assert effects.lost(tables + tables) == (
        "2 networks diverged, in 1 of 2 settings; 1 initialisations have no r there and are left out."
    )


# studies

SHARED = {
    "profile": "smoke", "inits": 3, "orders": 2, "dataset": "fashion_mnist", "pooling": 2, "n_train": 2000,
    "n_test": 1000, "width": 16, "steps": 100, "batch": 20, "learning_rate": 0.03, "high_rate": 0.1, "points": 11,
    "scored": 500,
}  # fmt: skip
BREAKS = SHARED | {
    "rates": [0.01, 0.1, 0.2], "warmups": [0.5], "batches": [16, 64], "adam_rates": [0.001, 0.01], "equal_loss": 0.05,
    "label_images": 500, "sizes": [500, 8000], "datasets": [["mnist", 2], ["cifar10", 4]], "depths": [2, 4],
    "high_depths": [3], "widths": [8, 32],
}  # fmt: skip
TIME = SHARED | {
    "architectures": ["dense", "local", "convolutional"], "architecture_rates": [0.03, 0.1], "equal_loss": 0.05,
    "channels": 4, "kernel": 5, "stride": 2, "padding": 2, "layers": 1, "spawns": [0.0, 0.1, 0.5], "tiles": 2,
    "large": [], "large_dataset": "cifar10", "large_width": 16, "large_rates": [0.1], "large_steps": 10,
    "large_inits": 5,
}  # fmt: skip


def test_every_setting_differs_from_its_baseline_in_one_thing():
    holds = HoldsParameters(**SHARED, rates=[0.01, 0.1, 0.2], plane=5)
    assert [config.learning_rate for config in holds.by_rate()] == [0.01, 0.03, 0.1, 0.2]
    study = BreaksParameters(**BREAKS)
    base, high = study.base().as_dict(), study.high().as_dict()
    singles = {"by_warmup": "warmup", "by_batch": "batch", "by_size": "n_train", "by_width": "width"}
    for name, field in singles.items():
        start = base if name == "by_width" else high
        for config in getattr(study, name)():
            assert {key for key, value in config.as_dict().items() if value != start[key]} <= {field}
    assert {config.labels for config in study.by_labels()} == {"true", "random"}


def test_with_the_embedded_digits_nothing_else_is_loaded():
    """`-p dataset digits` alone is one of the ways out when data are absent."""
    everything = [
        *HoldsParameters(**SHARED | {"dataset": "digits"}, rates=[0.01, 0.1, 0.2], plane=5).runs(),
        *BreaksParameters(**BREAKS | {"dataset": "digits"}).runs(),
        *TimeParameters(**TIME | {"dataset": "digits"}).runs(),
    ]
    assert {config.dataset for config in everything} == {"digits"}
    assert max(config.n_train for config in everything) <= 1437
    load_data(everything[0], torch.device("cpu"))


def test_impossible_studies_are_refused():
    with pytest.raises(Refusal, match="architectures must hold dense, local and convolutional"):
        TimeParameters(**TIME | {"architectures": ["dense", "local", "shuffled"]})
    with pytest.raises(Refusal, match="unknown data set"):
        BreaksParameters(**BREAKS | {"datasets": [["mnits", 2], ["cifar10", 4]]})
    with pytest.raises(Refusal, match=r"depths.0 must be greater than or equal to 2"):
        BreaksParameters(**BREAKS | {"depths": [1, 2]})


# the explorer


def pair(kind="order", points=3, images=2):
    middle = [0, 1] if kind != "same" else [0, 0]
    said = [[0] * images, middle * (images // 2), [0] * images]
    return {
        "kind": kind, "alphas": [0.0, 0.5, 1.0][:points], "loss": [0.1, 0.9, 0.2], "error": [0.0, 0.25, 0.0],
        "test_error": [0.1, 0.3, 0.1], "changed": [0.0, 0.2, 0.0], "said": said,
    }  # fmt: skip


def states(*titles, classes=("coat", "bag")):
    pairs = [pair(kind) for kind in ("order", "independent", "same")]
    settings = [{"title": title, "pairs": pairs} for title in titles or ("slow", "fast")]
    return {"classes": list(classes), "truth": [0, 1], "settings": settings}


class TestPage:
    def test_says_in_words_what_it_shows(self):
        explorer = BarrierExplorer(states())
        assert "slow: same start, other order 0.900" in repr(explorer)
        page = explorer.page()
        assert "slow, same start, other order, α = 0.50: training loss 0.900 nats, training error 25.0 %" in page
        assert "20.0 % of all test images have another label" in page and "of the 2 shown, 1." in page

    def test_tiles_mark_what_is_wrong_and_what_changed(self):
        page = BarrierExplorer(states()).page()
        tiles = re.findall(r'<span class="(tile[^"]*)" data-image="(\d)"><b>(\w+)</b>', page)
        assert tiles == [("tile", "0", "coat"), ("tile changed", "1", "bag")]  # the second is right only here

    def test_markup_in_names_stays_text(self):
        html = BarrierExplorer(states("<b>x</b>", classes=("</script><script>alert(1)</script>", '"&'))).page()
        assert "<b>x</b>" not in html and "alert(1)</script>" not in html
        assert html.count("<script") == html.count("</script>") == 2

    def test_its_data_are_json_and_it_loads_nothing(self):
        html = BarrierExplorer(states()).page()
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
        assert data["settings"][1]["pairs"][0]["said"] == [[0, 0], [0, 1], [0, 0]] and data["truth"] == [0, 1]
        assert not re.search(r"""(src|href)=|https?://|url\(|@import""", html)

    def test_wrong_shapes_are_refused(self):
        for spoil, words in (
            (lambda s: s["settings"].clear(), "no setting"),
            (lambda s: s["settings"][0]["pairs"][0]["loss"].pop(), "'order' must have 3 points"),
            (lambda s: s["settings"][0]["pairs"][0]["said"][1].pop(), "a class for each of 2 images"),
            (lambda s: s["settings"][1].update(pairs=s["settings"][1]["pairs"][:1]), "must have the pairs"),
        ):
            bad = states()
            spoil(bad)
            with pytest.raises(Refusal, match=words):
                BarrierExplorer(bad)


class FakePairs:
    """Trains three updates, each when the test allows it."""

    def __init__(self, error=None):
        self.error = error
        self.go = threading.Semaphore(0)
        self.ended = []

    def train(self, title, report):
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
        trained = states(title)["settings"][0]
        return {**trained, "pairs": [p | {"loss": [0.1, 0.7, 0.2]} for p in trained["pairs"]]}

    def pictures(self):
        return ["data:image/png;base64,AA", "data:image/png;base64,BB"]


class TestLive:
    def test_both_faces_are_offered_and_a_page_build_has_no_widget(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        bundle = BarrierExplorer(states(), live=FakePairs)._repr_mimebundle_()
        assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} == set(bundle)
        assert len(BarrierExplorer(states())._repr_mimebundle_()) == 2
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert len(BarrierExplorer(states(), live=FakePairs)._repr_mimebundle_()) == 2

    def test_controls_move_the_picture(self):
        view = BarrierView(states(), FakePairs)
        assert "slow, same start, other order, α = 0.50" in view.picture.value
        view.alpha.value = 0
        assert "α = 0.00: training loss 0.100" in view.picture.value
        view.pair.value = 1
        assert "independent networks" in view.picture.value
        view.setting.value = 1
        assert "fast" in view.picture.value and view.alpha.value == 1

    def test_training_shows_progress_and_then_the_live_path(self):
        model = FakePairs()
        view = BarrierView(states(), lambda: model)
        view.train_button.click()
        assert view.train_button.description == "Stop"
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        model.go.release(2)
        wait_for(lambda: "Training done" in view.status.value)
        assert "training loss 0.700" in view.picture.value and "(live)" in view.where.value
        view.setting.value = 1
        assert "(recorded)" in view.where.value

    def test_pressing_again_or_another_setting_cancels(self):
        model = FakePairs()
        view = BarrierView(states(), lambda: model)
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        view.train_button.click()
        assert "stopped" in view.status.value
        model.go.release()
        wait_for(lambda: model.ended == ["Cancelled"])
        view.train_button.click()
        view.setting.value = 1
        assert "cancelled" in view.status.value
        model.go.release(3)
        wait_for(lambda: model.ended == ["Cancelled", "Cancelled"])
        assert "(recorded)" in view.where.value

    def test_errors_are_shown_and_escaped(self):
        model = FakePairs(error=RuntimeError("no <memory>"))
        view = BarrierView(states(), lambda: model)
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "Training failed" in view.status.value)
        assert "RuntimeError: no &lt;memory&gt;" in view.status.value

    def test_pictures_come_with_the_data_and_their_absence_is_said(self):
        view = BarrierView(states(), FakePairs)
        assert "<img" not in view.picture.value
        view.images.value = True
        assert view.picture.value.count("<img") == 2
        settings = {"slow": tiny(dataset="cifar100")}
        view = BarrierView(states(), lambda: LivePairs(settings, 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ntf_utils.data.images._download", offline)
            view.images.value = True
        assert "cifar100 is not under" in view.status.value and "<img" not in view.picture.value


def test_recorded_runs_make_states_and_a_live_model_answers_in_the_same_form():
    configs = [tiny(tiles=1, learning_rate=rate) for rate in (0.03, 0.2)]
    table = sweep(measure_connectivity, configs, workers=0)
    shown = {f"rate {rate:g}": found for rate, found in table.groupby("learning_rate")}
    classes = curves(shown["rate 0.2"], "classes")["name"]
    recorded = recorded_states({title: curves(found, "predictions") for title, found in shown.items()}, classes)
    explorer = BarrierExplorer(recorded)
    assert "rate 0.03" in explorer.page() and "10 test images" in repr(explorer)

    live, seen = LivePairs.of(shown, 1), []
    trained = live.train("rate 0.2", lambda done, last: seen.append((done, last)))
    assert seen == [(step, 60) for step in range(60)]
    BarrierExplorer(recorded | {"settings": [trained]})
    assert len(trained["pairs"][0]["alphas"]) == 41
    assert len(live.pictures()) == 10 and live.pictures()[0].startswith("data:image/png;base64,")

    def stop(done, last):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.train("rate 0.2", stop)


def test_pictures_are_the_pixels():
    images = load_images("digits", "test")[:2]
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    colour = Images("cifar10", pixels, torch.zeros(1, dtype=torch.long), ("a",))
    for given in (images, colour):
        data = base64.b64decode(pictures_of(given)[0].split(",")[1])
        shown = torch.from_numpy(np.array(Image.open(io.BytesIO(data))))
        expected = given.pixels[0, 0] if given.shape[0] == 1 else given.pixels[0].permute(1, 2, 0)
        assert torch.equal(shown, expected)
