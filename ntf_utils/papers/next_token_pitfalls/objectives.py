"""The four ways to train on a star graph, and what was learned: Bachmann & Nagarajan (2024), Sections 4 and 5."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ntf_utils.data.star_graphs import StarGraphs
from ntf_utils.measures.sequences import exact_match, token_accuracy
from ntf_utils.models.decoding import decode_greedily, in_chunks
from ntf_utils.training.loop import Lesson

Objective = Literal["next_token", "reversed", "teacherless", "hop_only"]


def lesson(graphs: StarGraphs, objective: Objective, goal: Tensor | None = None) -> Lesson:
    """Turns graphs into what the model reads and what it should say.

    - next_token: teacher forcing. The model sees the true path up to each token it predicts.
    - reversed: the same with the path written from the goal to the start.
    - teacherless: every token of the path is replaced by a dummy in the input; all are predicted in one pass.
    - hop_only: teacher forcing with the loss on the hop token alone.

    Args:
        goal: [batch] the goal shown in the query, if not the true one (the shuffled-query control).
    """
    prefix, path = graphs.prefix(goal), graphs.path()
    first = prefix.shape[1] - 1  # the position of `=`, which is asked for the first token of the path
    if objective == "hop_only":
        return Lesson(torch.cat([prefix, path[:, :1]], dim=1), path[:, 1:2], first + 1)
    written = path.flip(1) if objective == "reversed" else path
    shown = written[:, :-1]
    if objective == "teacherless":
        shown = torch.full_like(shown, graphs.task.dummy)
    return Lesson(torch.cat([prefix, shown], dim=1), written, first)


@dataclass(frozen=True)
class Judgement:
    """What a model does with unseen graphs; every list runs along the path from the start to the goal.

    Attributes:
        exact: share of graphs whose whole path the model writes on its own.
        own_tokens: accuracy of each token when the model writes on its own.
        forced_tokens: accuracy of each token when it is shown the true path so far (for teacherless: the same).
        hop_given: share of paths completed without a fault once the true hop token is given; None unless the
            path is written from its start, token by token.
        wrong_arm: the Clever-Hans test. The hop token is replaced by the head of another arm; the share of graphs
            whose tokens 3 to l-1 all follow that arm, though it leads nowhere. None likewise.
    """

    exact: float
    own_tokens: list[float]
    forced_tokens: list[float]
    hop_given: float | None = None
    wrong_arm: float | None = None


@torch.no_grad()
def say(model: nn.Module, asked: Lesson) -> Tensor:
    """[batch, tokens] the likeliest token at each position that is asked for."""
    return in_chunks(lambda inputs: model(inputs, asked.from_position).argmax(dim=-1), asked.inputs)


@torch.no_grad()
def examine(model: nn.Module, graphs: StarGraphs, objective: Objective, goal: Tensor | None = None) -> Judgement:
    """Examines a model by the objective it was trained on; `hop_only` models are asked for the hop token alone."""
    asked = lesson(graphs, objective, goal)
    forced = say(model, asked)
    if objective == "hop_only":
        accuracy = token_accuracy(forced, asked.targets)
        return Judgement(accuracy[0], accuracy, accuracy)
    if objective == "teacherless":
        accuracy = token_accuracy(forced, asked.targets)
        return Judgement(exact_match(forced, asked.targets), accuracy, accuracy)
    prefix, length = graphs.prefix(goal), graphs.task.path_length
    own = in_chunks(lambda prompt: decode_greedily(model, prompt, length), prefix)
    outwards = slice(None, None, -1) if objective == "reversed" else slice(None)
    judgement = {
        "exact": exact_match(own, asked.targets),
        "own_tokens": token_accuracy(own, asked.targets)[outwards],
        "forced_tokens": token_accuracy(forced, asked.targets)[outwards],
    }
    if objective == "next_token":
        right, wrong = graphs.path(), graphs.path(arm=1)
        after_right, after_wrong = (
            in_chunks(
                lambda prompt: decode_greedily(model, prompt, length - 2), torch.cat([prefix, path[:, :2]], dim=1)
            )
            for path in (right, wrong)
        )
        judgement["hop_given"] = exact_match(after_right, right[:, 2:])
        # the last token is left out: the query names the goal, so a model may well end there
        judgement["wrong_arm"] = exact_match(after_wrong[:, :-1], wrong[:, 2:-1])
    return Judgement(**judgement)
