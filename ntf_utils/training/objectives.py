"""What stacked members may descend besides the cross-entropy: other networks' predictions, and one another's middle.

Each is an `Objective` of `train_members`: a `Lesson` goes in, a loss [members] comes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntf_utils.measures.barriers import cross_entropy
from ntf_utils.refusal import Refusal
from ntf_utils.training.members import Lesson, Objective, State, generator


def labelled(lesson: Lesson) -> Tensor:
    """[members] cross-entropy to the labels in nats: what is descended without any objective."""
    return cross_entropy(lesson.logits, lesson.labels).mean(dim=1)


@dataclass(frozen=True)
class Distilling:
    """Hinton, Vinyals and Dean (2015): (1 - share) CE(labels) + share T^2 KL(teacher at T || student at T).

    Attributes:
        teachers: for each voice the weights [members, ...] of every member's teacher: one voice gives each student
            a teacher of its own, several the mean of their probabilities.
        temperature: T, above 0. share: of the loss that comes from the teacher, in [0, 1].

    Raises:
        Refusal: an impossible value, or (when it is used) teachers of another architecture or number of classes.
    """

    teachers: Sequence[State]
    temperature: float = 4.0
    share: float = 0.9

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise Refusal(f"a distillation temperature must be above 0 (got {self.temperature:g})")
        if not 0 <= self.share <= 1:
            raise Refusal(f"the teachers' share of the loss must lie in [0, 1] (got {self.share:g})")
        if not self.teachers:
            raise Refusal("distillation needs a teacher")

    def __call__(self, lesson: Lesson) -> Tensor:
        if not self.share:
            return labelled(lesson)
        target = self.targets(lesson)
        said = (lesson.logits / self.temperature).log_softmax(dim=-1)
        surplus = torch.xlogy(target, target) - target * said  # KL, class by class
        taught = self.temperature**2 * surplus.sum(dim=-1).mean(dim=1)
        return self.share * taught + ((1 - self.share) * labelled(lesson) if self.share < 1 else 0)

    @torch.no_grad()
    def targets(self, lesson: Lesson) -> Tensor:
        """[members, batch, classes] the teachers' probabilities at T on the students' own inputs."""
        own = torch.as_tensor(lesson.members)
        voices = []
        for teacher in self.teachers:
            _check_alike(teacher, lesson.state)
            state = {name: value[own.to(value.device)] for name, value in teacher.items()}
            voices.append((lesson.ask(state, teaching=True) / self.temperature).softmax(dim=-1))
        return torch.stack(voices).mean(dim=0)


def _check_alike(teacher: State, student: State) -> None:
    """Teachers are asked through the students' network, so their weights must have its shapes."""
    for name in sorted(student.keys() | teacher.keys()):
        shapes = [tuple(state[name].shape[1:]) if name in state else "none" for state in (teacher, student)]
        if shapes[0] != shapes[1]:
            raise Refusal(
                "teachers and students must have one architecture and the same classes: "
                f"{name} is {shapes[0]} in the teachers, {shapes[1]} in the students"
            )


@dataclass(frozen=True)
class Connected:
    """An objective, and beside it the cross-entropy somewhere between each member and another one.

    At every update each member k of a group gets one partner, and a place a ~ U(0, 1) on the line to it; it descends
    (1 - weight_k) base_k + weight_k CE((1 - a) w_k + a w_partner), of which both ends feel the second term's gradient.
    The weights sum to 1 because a term that is only added acts as a higher learning rate, until training diverges.
    Partners go round the group by a random number of places, so that over time every pair is asked for at every
    place. The members must be in one stack.

    Attributes:
        base: the rest of the objective. weights: [members] the term's weight, from 0 for none to 1.
        group: members that belong together, in their order; the stack is cut into groups of that many.
        seed: of partners and places; the same in every group, so that groups are paired.
    """

    base: Objective
    weights: Tensor
    group: int
    seed: int

    def __post_init__(self) -> None:
        if self.group < 2:
            raise Refusal(f"members are connected with one another: a group needs 2 or more (got {self.group})")
        if not bool(((self.weights >= 0) & (self.weights <= 1)).all()):
            raise Refusal(f"weights of the connectivity term must lie in [0, 1] (got {self.weights.tolist()})")
        if len(self.weights) % self.group:
            raise Refusal(f"{len(self.weights)} members cannot be cut into groups of {self.group}")

    def __call__(self, lesson: Lesson) -> Tensor:
        count = len(self.weights)
        if len(lesson.members) != count:
            raise Refusal("members that are to stay connected are trained in one stack: stacked=True")
        between = lesson.ask(self.between(lesson.state, lesson.step))
        weights = self.weights.to(between)
        return (1 - weights) * self.base(lesson) + weights * cross_entropy(between, lesson.labels).mean(dim=1)

    def between(self, state: State, step: int) -> State:
        """The weights on the lines, [members, ...]; whole numbers are the members' own."""
        partner, place = self.draw(step)

        def mixed(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value
            at = place.to(value).view(-1, *[1] * (value.dim() - 1))
            return torch.lerp(value, value[partner.to(value.device)], at)

        return {name: mixed(value) for name, value in state.items()}

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """[members] partner and place of each member at an update."""
        own = generator(self.seed, step)
        turn = int(torch.randint(1, self.group, (), generator=own))
        place = torch.rand(self.group, generator=own)
        groups = torch.arange(len(self.weights)).view(-1, self.group)
        return groups.roll(-turn, dims=1).flatten(), place.repeat(len(groups))
