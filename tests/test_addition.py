"""Addition as token sequences."""

import pytest
import torch

from ntf_utils.data.addition import AdditionTask, Sums, draw_sums
from ntf_utils.refusal import Refusal

SIGNS = {AdditionTask.plus: "+", AdditionTask.equals: "="}


def text(tokens: torch.Tensor) -> str:
    return "".join(SIGNS.get(token, str(token)) for token in tokens.tolist())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_numbers_are_padded_and_the_sum_keeps_its_carry():
    sums = Sums(AdditionTask(3), torch.tensor([47, 0]), torch.tensor([985, 9]))
    assert [text(tokens) for tokens in sums.prefix()] == ["047+985=", "000+009="]
    assert [text(tokens) for tokens in sums.answer()] == ["1032", "0009"]


@pytest.mark.parametrize("digits", [1, 3, 17])
def test_every_line_is_a_true_sum_of_the_stated_size(digits):
    task = AdditionTask(digits)
    sums = draw_sums(task, 200, generator())
    prefix, answer = sums.prefix(), sums.answer()
    assert prefix.shape == (200, task.prefix_length) and answer.shape == (200, task.answer_length)
    assert task.context == task.prefix_length + task.answer_length - 1
    for question, result in zip(prefix, answer, strict=True):
        first, second = text(question).removesuffix("=").split("+")
        assert len(first) == len(second) == digits
        assert int(first) + int(second) == int(text(result))
    assert max(prefix.max(), answer.max(), task.dummy) < task.vocabulary


def test_numbers_are_uniform_over_the_whole_range():
    sums = draw_sums(AdditionTask(1), 20_000, generator())
    for numbers in (sums.first, sums.second):
        share = numbers.bincount(minlength=10) / len(sums)
        assert (share - 0.1).abs().max() < 0.01  # 5 standard errors


def test_the_generator_alone_decides():
    drawn = [draw_sums(AdditionTask(), 50, generator(seed)).prefix() for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_rows_can_be_picked():
    sums = draw_sums(AdditionTask(), 10, generator())
    rows = torch.tensor([3, 3, 7])
    assert len(sums[rows]) == 3 and torch.equal(sums[rows].answer(), sums.answer()[rows])


@pytest.mark.parametrize("digits", [0, -1, 18])
def test_impossible_sizes_are_refused(digits):
    with pytest.raises(Refusal, match="digits must be from 1 to 17"):
        AdditionTask(digits)
