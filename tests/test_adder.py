"""The addition run: its data, its examination, and what it refuses."""

import pytest
import torch
from torch import nn

from ntf_utils.data.addition import AdditionTask, draw_sums
from ntf_utils.papers.next_token_pitfalls import adder
from ntf_utils.papers.next_token_pitfalls.adder import AdderConfig, examine, lesson, train_adder
from ntf_utils.refusal import Refusal
from ntf_utils.training.loop import IGNORE

TASK = AdditionTask(3)


def sums(count, seed=0, task=TASK):
    return draw_sums(task, count, torch.Generator().manual_seed(seed))


def pairs(inputs):
    """The two numbers of each line, [batch, 2 digits]."""
    digits = (inputs.shape[1] - 2) // 3
    return {tuple(line[:digits] + line[digits + 1 : 2 * digits + 1]) for line in inputs.tolist()}


def tiny(**changes):
    small = {"layers": 1, "width": 16, "heads": 2, "steps": 6, "batch": 16, "test_sums": 50, "looks": 2}
    return AdderConfig(**(small | changes))


class Calculator(nn.Module):
    """Knows the sums it was given; forgets the carry into the first digit if told so."""

    def __init__(self, known, forgetful=False):
        super().__init__()
        self.answer = known.answer()
        if forgetful:
            self.answer[:, 0] = 0

    def forward(self, tokens, from_position=0):
        first = from_position - TASK.prefix_length + 1
        said = self.answer[:, first : first + tokens.shape[1] - from_position]
        return nn.functional.one_hot(said, TASK.vocabulary).float()

    def start(self, tokens):
        return self.forward(tokens, tokens.shape[1] - 1)[:, 0], tokens

    def step(self, token, tokens):
        return self.start(torch.cat([tokens, token[:, None]], dim=1))


def test_a_lesson_asks_for_each_digit_of_the_sum_after_the_true_ones():
    batch = sums(4)
    asked = lesson(batch)
    assert torch.equal(asked.inputs, torch.cat([batch.prefix(), batch.answer()[:, :-1]], dim=1))
    assert torch.equal(asked.targets, batch.answer()) and asked.from_position == TASK.prefix_length - 1


def test_test_and_validation_sums_are_never_learned_from(monkeypatch):
    """Of the 10,000 sums of two-digit numbers a run sees most, so the test must be held out, not just drawn anew."""
    drawn, examined = [], []

    def spy(model, next_lesson, recipe, look, looks, kept):
        drawn.extend(next_lesson() for _ in range(1500))
        return 0

    def keep(model, unseen):
        examined.append(unseen)
        return {"exact": 0.0}

    monkeypatch.setattr(adder, "train", spy)
    monkeypatch.setattr(adder, "examine", keep)
    train_adder(tiny(digits=2, test_sums=1000))
    skipped = [(asked.targets == IGNORE).all(dim=1) for asked in drawn]
    for asked, skip in zip(drawn, skipped, strict=True):
        assert torch.equal(skip, (asked.targets == IGNORE).any(dim=1))
    learned = set().union(*(pairs(asked.inputs[~skip]) for asked, skip in zip(drawn, skipped, strict=True)))
    held = set().union(*(pairs(asked.inputs[skip]) for asked, skip in zip(drawn, skipped, strict=True)))
    test = pairs(lesson(examined[0]).inputs)
    assert len(learned) > 7000 and not learned & test
    assert held & test and len(held) > len(held & test)  # the others are the validation's


def test_right_sums_and_a_forgotten_carry_are_told_apart():
    batch = sums(500)
    found = examine(Calculator(batch), batch)
    assert set(found.values()) == {1.0} and len(found) == 1 + 2 * TASK.answer_length
    found = examine(Calculator(batch, forgetful=True), batch)
    carries = (batch.first + batch.second >= 1000).float().mean().item()
    assert found["exact"] == found["own_1"] == found["forced_1"] == pytest.approx(1 - carries)
    assert found["own_2"] == found["forced_4"] == 1


def test_a_run_gives_a_full_row_and_repeats_exactly():
    outcome = train_adder(tiny(seed=3))
    (row,) = outcome.rows
    assert row["made_steps"] == 6 and 0 <= row["exact"] <= 1
    digits = [f"{kind}_{i}" for kind in ("own", "forced") for i in range(1, 5)]
    assert list(row) == ["made_steps", "parameters", "exact", *digits]
    assert outcome.curves["learning"]["step"] == [0, 3, 6] and "digit_4" in outcome.curves["learning"]
    assert train_adder(tiny(seed=3)) == outcome
    assert train_adder(tiny(seed=4)) != outcome


def test_looking_never_changes_the_run():
    assert train_adder(tiny(looks=1)).rows == train_adder(tiny(looks=6)).rows


def test_small_models_learn_to_add():
    """Two-digit sums in some seconds. The carries take most of the steps; without them a third is out of reach."""
    config = AdderConfig(
        digits=2, layers=2, width=32, heads=2, steps=2000, learning_rate=5e-3, looks=4, batch=64, test_sums=500
    )
    assert train_adder(config).rows[0]["exact"] > 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digits": 1}, "digits must be greater than or equal to 2"),
        ({"digits": 10}, "digits must be less than or equal to 9"),
        ({"digits": 2, "test_sums": 3000}, "test_sums must be at most 1988"),
        ({"batch": 4}, "batch must be greater than or equal to 16"),
        ({"heads": 3}, "heads must divide width"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"init": "xavier"}, "init"),
        ({"test_graphs": 100}, "did you mean 'test_sums'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=words) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)
