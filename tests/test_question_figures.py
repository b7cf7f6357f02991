"""The figures and tables of questions in rooms, from an invented table."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ntf_utils.show import question_figures as figures

ARMS = {"blind": 0.30, "S": 0.50, "D": 0.52, "T": 0.55, "I": 0.54, "TI": 0.57, "Sh": 0.52, "R": 0.50}
TEMPLATES = ("colour", "count", "existence", "relation")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def invented(seeds=5, arms=ARMS, **settings):
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        luck = rng.normal(0, 0.02)  # shared by the arms of a seed
        for arm in arms:
            row = {"seed": seed, "arm": arm, "purity": 0.3 + ARMS[arm] / 2, "purity_95": 0.31,
                   "zero_shot": 0.4, "recall1": 0.1, "cosine": 0.8, "cosine_constant": 0.78,
                   "cosine_centred": 0.2}  # fmt: skip
            for split, harder in (("iid", 0.0), ("comp", 0.1)):
                row |= {f"em1_{split}": 100 * (ARMS[arm] - harder + luck + rng.normal(0, 0.002)), f"em3_{split}": 80.0,
                        f"swapped_{split}": 31.0, f"majority_{split}": 29.0, f"acc25_{split}": 60.0,
                        f"acc50_{split}": 50.0, f"kind_{split}": 70.0, f"bleu4_{split}": 0.2,
                        f"rouge_l_{split}": 0.5, f"cider_{split}": 1.234}  # fmt: skip
            rows.append(row | settings)
    return pd.DataFrame(rows)


def invented_templates(seeds=5):
    rng = np.random.default_rng(1)
    return pd.DataFrame([
        {"seed": seed, "arm": arm, "split": split, "template": template, "n": 100, "swapped": 21.0,
         "majority": 19.0, "em1": 100 * (ARMS[arm] - 0.05 * number + rng.normal(0, 0.01))}
        for seed in range(seeds) for arm in ("S", "TI", "D", "blind") for split in ("iid", "comp")
        for number, template in enumerate(TEMPLATES)
    ])  # fmt: skip


def words(figure):
    """All text of a figure."""
    figure.canvas.draw()
    return " | ".join(text.get_text() for text in figure.findobj(plt.Text))


def test_answers_by_arm_stand_beside_their_controls():
    figure = figures.by_arm(invented())
    told = words(figure)
    for label in (
        "question only",
        "another room",
        "best fixed answer",
        "TI: text and image",
        "EM@1, %",
        "comp: pairs never",
    ):
        assert label in told
    iid = figure.axes[0]
    diamonds = {
        float(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in iid.lines if line.get_marker() == "D"
    }
    table = invented()
    assert diamonds[4] == pytest.approx(table.loc[table["arm"] == "TI", "em1_iid"].mean())  # the fifth arm
    crosses = [line.get_xdata()[0] for line in iid.lines if line.get_marker() == "x"]
    assert crosses == pytest.approx([31] * (len(ARMS) - 1))


def test_gains_are_paired_by_seed():
    table = invented()
    figure = figures.gains(table, least={"comp": 1})
    assert "asked for by the claim" in words(figure)
    comp = figure.axes[1]
    means = [line.get_xdata()[0] for line in comp.lines if line.get_marker() == "D"]
    assert means == pytest.approx([2, 5, 4, 7, 2, 0], abs=0.4)
    bars = [np.ptp(line.get_xdata()) for line in comp.lines if line.get_linewidth() == 2.6]
    assert max(bars) < 1  # what the arms of a seed share has gone; unpaired intervals are five times as long
    assert "asked for" not in words(figures.gains(table, over="D"))


def test_gains_by_template_name_every_kind_of_question():
    figure = figures.gains_by_template(invented_templates())
    told = words(figure)
    assert all(template in told for template in TEMPLATES) and "question only" in told
    gained = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert gained == pytest.approx([7] * len(TEMPLATES), abs=1.5)


def test_maps_stand_beside_true_purities():
    rng = np.random.default_rng(0)
    points = pd.DataFrame([
        {"arm": arm, "x": rng.normal(), "y": rng.normal(), "kind": kind}
        for arm in ("D", "TI") for kind in ("bedroom", "office", "living room", "dining room") for _ in range(9)
    ])  # fmt: skip
    figure = figures.maps(points, invented(), pd.Series([60.0, 62.0]))
    told = words(figure)
    assert len(figure.axes) == 3 and all(kind in told for kind in set(points["kind"]))
    assert "permuted types" in told and "counts known" in told and "purity of 5 neighbours, %" in told
    assert len({line.get_marker() for line in figure.axes[0].lines}) == 4  # not by colour alone


def test_cosines_show_what_a_constant_vector_reaches():
    figure = figures.cosines(invented())
    assert "one vector for all, or chance" in words(figure) and "caption among" in words(figure)
    floors = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linewidth() == 2.2]
    assert floors == pytest.approx([0.78] * (len(ARMS) - 1))


def test_the_data_curve_has_a_line_an_arm_and_the_control():
    table = pd.concat([invented(arms=("S", "TI", "blind"), qa_rooms=rooms) for rooms in (80, 160, 320)])
    figure = figures.data_curve(table, "qa_rooms", "rooms with questions")
    told = words(figure)
    assert "question only" in told and "160" in told and "rooms with questions" in told
    assert [list(line.get_xdata()) for line in figure.axes[0].lines[1:]] == [[80, 160, 320]] * 2


def test_one_seed_draws_no_interval():
    table = invented(seeds=1)
    for figure in (figures.by_arm(table), figures.gains(table), figures.cosines(table)):
        assert "nan" not in words(figure)


def test_tables_hold_their_controls_and_stay_narrow():
    table = figures.answers_table(invented())
    assert list(table.index[-2:]) == ["question only", "fixed answers"] and "other room" in table
    assert table.loc["TI", "CIDEr"] == 123.4
    assert table.loc["fixed answers", "EM@1"] == 29 and table.loc["fixed answers", "CIDEr"] == ""
    assert table.loc["question only", "EM@1"] == pytest.approx(20, abs=1)
    spaces = figures.spaces_table(invented())
    assert spaces.loc["chance", ["purity", "zero-shot", "R@1"]].tolist() == [25, 25, 1.6]
    renamed = invented().rename(columns=lambda name: f"tuned_image_{name}" if "cosine" in name else f"tuned_{name}")
    renamed = renamed.rename(columns={"tuned_arm": "arm", "tuned_recall1": "tuned_image_recall1"})
    assert figures.spaces_table(renamed, "tuned_", "image_cosine").equals(spaces)
    assert spaces.loc["D", ["purity", "permuted", "constant"]].tolist() == [56, 31, 0.78]
    assert max(len(table.columns), len(spaces.columns)) <= 10


def test_the_table_of_real_scans_has_the_question_only_network_last():
    rows = [
        {"arm": arm, "seed": seed, "em1": em1 + seed, "em10": 50.0, "em1_answerable": em1 + 3, "bleu_4": 0.1,
         "rouge_l": 0.3, "cider": 0.65, "swapped": 15.0, "acc25": None if arm == "blind" else 25.0}
        for arm, em1 in (("blind", 15.0), ("TI", 22.0), ("S", 20.0)) for seed in range(3)
    ]  # fmt: skip
    table = figures.scans_table(pd.DataFrame(rows))
    assert list(table.index) == ["S", "TI", "question only"]
    assert table.loc["TI", ["EM@1", "CIDEr", "Acc@.25"]].tolist() == [23, 65, 25]
    assert table.loc["question only", "Acc@.25"] == "" and len(table.columns) <= 9
