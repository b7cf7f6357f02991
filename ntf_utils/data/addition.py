"""Addition of two numbers of equal length: where next-token prediction does succeed.

Bachmann & Nagarajan (2024), Appendix F.4, name three-digit addition as a task in which the Clever-Hans cheat
only costs samples. The paper's own token format is not known to us; this is the plain one, most significant
digit first, every number padded with zeros to its full width:

    text     a+b=c             047+985=1032
    tokens   a a a + b b b = c c c c

Digits are the tokens 0..9; then `+` is 10, `=` is 11 and the dummy `$` is 12.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ntf_utils.refusal import Refusal

LARGEST = 17  # digits whose sums still fit 64 bits


@dataclass(frozen=True)
class AdditionTask:
    """The size of the task: numbers of `digits` digits, a sum of one more.

    Raises:
        Refusal: no digits, or more than 64-bit integers hold.
    """

    digits: int = 3
    plus: ClassVar = 10
    equals: ClassVar = 11
    dummy: ClassVar = 12
    vocabulary: ClassVar = 13

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= LARGEST:
            raise Refusal(f"digits must be from 1 to {LARGEST} (got {self.digits})")

    @property
    def prefix_length(self) -> int:
        """Tokens before the sum: both numbers, `+` and `=`."""
        return 2 * self.digits + 2

    @property
    def answer_length(self) -> int:
        return self.digits + 1

    @property
    def context(self) -> int:
        """Tokens that a model reads in training: the prefix and all of the sum but its last digit."""
        return self.prefix_length + self.answer_length - 1


@dataclass(frozen=True)
class Sums:
    """A batch of additions.

    Attributes:
        task: the size.
        first, second: [batch] the numbers to add.
    """

    task: AdditionTask
    first: Tensor
    second: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: Tensor | slice) -> "Sums":
        return Sums(self.task, self.first[rows], self.second[rows])

    def to(self, device: torch.device) -> "Sums":
        return Sums(self.task, self.first.to(device), self.second.to(device))

    def prefix(self) -> Tensor:
        """[batch, 2 digits + 2] tokens up to and with `=`."""
        plus = torch.full_like(self.first, self.task.plus)[:, None]
        equals = torch.full_like(self.first, self.task.equals)[:, None]
        first, second = (_digits(number, self.task.digits) for number in (self.first, self.second))
        return torch.cat([first, plus, second, equals], dim=1)

    def answer(self) -> Tensor:
        """[batch, digits + 1] tokens of the sum."""
        return _digits(self.first + self.second, self.task.answer_length)


def draw_sums(task: AdditionTask, batch: int, generator: torch.Generator) -> Sums:
    """Independent pairs of numbers, uniform over all of up to `digits` digits, on the generator's device."""
    numbers = torch.randint(10**task.digits, (2, batch), generator=generator, device=generator.device)
    return Sums(task, *numbers)


def _digits(numbers: Tensor, width: int) -> Tensor:
    """[batch] -> [batch, width] decimal digits, most significant first."""
    places = 10 ** torch.arange(width - 1, -1, -1, device=numbers.device)
    return numbers[:, None] // places % 10
