"""Pictures of path-finding on a star graph: the graph, its tokens, and what a model says for each.

Pure functions of the states that the explorer of chapter one is given (see `path_explorer`); both of its
faces draw with them. A *position* counts the target tokens in the order in which the model writes them. A
*key* names what can be lit up, in the drawing and in the tokens alike: `e0`, `e1`, ... the edges in token
order, `start` and `goal` of the query, `t0`, `t1`, ... the target tokens.
"""

import math
from dataclasses import dataclass
from html import escape

_RADIUS, _SPACING = 15, 48  # of a node and between nodes, px
_SPARK_WIDTH, _SPARK_HEIGHT = 100, 26


@dataclass(frozen=True)
class Clue:
    """What a model that only copies could read for one target token.

    Attributes:
        given: key of the target token that the model was just given; "" for the first and for hidden ones.
        read: keys of the prefix tokens to read.
        told: the same in a sentence.
    """

    given: str
    read: tuple[str, ...]
    told: str


def targets(graph: dict, objective: dict) -> list:
    """The target labels in the order in which this objective's model writes them."""
    return graph["path"] if objective["order"] == "forward" else graph["path"][::-1]


def reveals(objective: dict) -> bool:
    """Whether the model is given the target tokens before the one it predicts; teacherless hides them."""
    return objective.get("reveals", objective["name"] != "teacherless")


def clue(graph: dict, objective: dict, position: int, previous: object) -> Clue:
    """What can be copied for the token at `position` when `previous` is the label just before it."""
    forward = objective["order"] == "forward"
    if position == 0:
        key = "start" if forward else "goal"
        return Clue("", (key,), f"The first token is the {key}: it can be copied from the query.")
    if not reveals(objective):
        return Clue("", (), "The tokens before it are hidden, so no edge can be looked up from them.")
    near, far = (0, 1) if forward else (1, 0)
    found = [index for index, edge in enumerate(graph["edges"]) if edge[near] == previous]
    keys = tuple(f"e{index}" for index in found)
    given = f"t{position - 1}"
    if len(found) == 1:
        other = graph["edges"][found[0]][far]
        if forward:
            told = f"{previous} was just given and one edge starts there: the cheat reads {other}."
        else:
            told = f"{previous} was just given and one edge ends there, from {other}: a lookup solves it."
        return Clue(given, keys, told)
    if found:
        return Clue(
            given,
            keys,
            f"{len(found)} edges start at {previous}: only looking ahead to the goal tells which.",
        )
    return Clue(given, (), f"{previous} was just given and no edge {'starts' if forward else 'ends'} there.")


def panel(
    graph: dict, objective: dict, history: list[list[dict]], at: int, selected: int, alone: bool = False
) -> str:
    """The whole picture of one graph under one objective.

    Args:
        history: [step][position] predictions, each {"label", "p", "p_true"}.
        at: index of the step that is shown; history[at] is what the model says there.
        selected: position whose clue is lit up.
        alone: the model was fed its own tokens, not the right ones.
    """
    now = history[at]
    lit = shown_clue(graph, objective, now, selected, alone)
    written = [said["label"] for said in now] if alone else targets(graph, objective)
    return (
        f'<div class="path-panel">{_drawing(graph, now, objective, lit)}'
        f"{_strip(graph, written, lit, selected)}"
        f"{_cards(graph, objective, history, at, selected)}</div>"
    )


def shown_clue(
    graph: dict, objective: dict, predictions: list[dict], position: int, alone: bool = False
) -> Clue:
    """The clue for one token, after the right token or (alone) after the model's own."""
    if position == 0:
        return clue(graph, objective, 0, None)
    own = predictions[position - 1]["label"]
    return clue(graph, objective, position, own if alone else targets(graph, objective)[position - 1])


def summary(
    graph: dict, objective: dict, predictions: list[dict], step: int, position: int, lit: Clue
) -> str:
    """One or two sentences that say what the picture shows, for those who do not see it."""
    right = targets(graph, objective)
    correct = sum(same(said["label"], label) for said, label in zip(predictions, right, strict=True))
    said = predictions[position]
    verdict = "which is right" if same(said["label"], right[position]) else f"the answer is {right[position]}"
    return (
        f"{objective['title']}, step {step:,}: {correct} of {len(right)} tokens right. "
        f"Token {position + 1}: the model says {said['label']} with probability {said['p']:.2f}, "
        f"{verdict}. {lit.told}"
    )


def same(label: object, other: object) -> bool:
    """Labels are compared as they are written, so 7 and "7" are one."""
    return str(label) == str(other)


def _drawing(graph: dict, predictions: list[dict], objective: dict, lit: Clue) -> str:
    """SVG of the star: start in the middle, arms outwards; what the model says is ringed."""
    places = _places(graph)
    xs, ys = zip(*places.values(), strict=True)
    margin = _RADIUS + 18
    left, top = min(xs) - margin, min(ys) - margin
    width, height = max(xs) - left + margin, max(ys) - top + margin
    said = _said(predictions, targets(graph, objective))
    answer = set(zip(map(str, graph["path"]), map(str, graph["path"][1:]), strict=False))
    edges = "".join(
        _edge(
            places[str(a)], places[str(b)], f"e{index}", (str(a), str(b)) in answer, f"e{index}" in lit.read
        )
        for index, (a, b) in enumerate(graph["edges"])
    )
    nodes = "".join(_node(label, place, graph, said.get(label, "")) for label, place in places.items())
    told = (
        f"Star graph with {len(graph['arms'])} arms. From start {graph['start']} to goal "
        f"{graph['goal']} the path is {', '.join(map(str, graph['path']))}."
    )
    return (
        f'<svg class="path-graph" role="img" aria-label="{escape(told)}" '
        f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" style="max-width:{width:.0f}px">'
        f"{edges}{nodes}</svg>"
    )


def _places(graph: dict) -> dict[str, tuple[float, float]]:
    """Position of every node; arms are ordered by label, so that their order does not tell the goal's arm."""
    places = {str(graph["start"]): (0.0, 0.0)}
    arms = sorted(graph["arms"], key=lambda arm: str(arm[0]))
    turn = 0.0 if len(arms) == 2 else -math.pi / 2
    for index, arm in enumerate(arms):
        angle = turn + 2 * math.pi * index / len(arms)
        # crowded stars begin farther out, so that the first nodes of neighbouring arms do not touch
        inner = max(_SPACING, 1.2 * _RADIUS * len(arms) / math.pi + _RADIUS)
        for hop, label in enumerate(arm):
            reach = inner + hop * _SPACING
            places[str(label)] = (reach * math.cos(angle), reach * math.sin(angle))
    return places


def _said(predictions: list[dict], right: list) -> dict[str, str]:
    """Label -> "right" or "wrong" for every label that the model says; right wins over wrong."""
    said = {}
    for prediction, label in zip(predictions, right, strict=True):
        hit = same(prediction["label"], label)
        said[str(prediction["label"])] = (
            "right" if hit or said.get(str(prediction["label"])) == "right" else "wrong"
        )
    return said


def _edge(a: tuple[float, float], b: tuple[float, float], key: str, answer: bool, read: bool) -> str:
    (ax, ay), (bx, by) = a, b
    length = math.dist(a, b)
    ux, uy = (bx - ax) / length, (by - ay) / length
    tip = (bx - ux * (_RADIUS + 3), by - uy * (_RADIUS + 3))
    wings = [(tip[0] - 6 * ux + side * 4 * uy, tip[1] - 6 * uy - side * 4 * ux) for side in (1, -1)]
    line = (
        f"M{ax + ux * _RADIUS:.1f} {ay + uy * _RADIUS:.1f}L{tip[0]:.1f} {tip[1]:.1f}"
        f"M{wings[0][0]:.1f} {wings[0][1]:.1f}L{tip[0]:.1f} {tip[1]:.1f}L{wings[1][0]:.1f} {wings[1][1]:.1f}"
    )
    classes = _classes(edge=True, answer=answer, read=read)
    return f'<path class="{classes}" data-key="{key}" d="{line}"/>'


def _node(label: str, place: tuple[float, float], graph: dict, said: str) -> str:
    x, y = place
    end = "start" if same(label, graph["start"]) else "goal" if same(label, graph["goal"]) else ""
    ring = (
        f'<circle class="goal-ring" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS - 3.5}"/>' if end == "goal" else ""
    )
    name = f'<text class="end" x="{x:.1f}" y="{y + _RADIUS + 14:.1f}">{end}</text>' if end else ""
    size = 13 if len(label) < 4 else 9
    classes = _classes(node=True, right=said == "right", wrong=said == "wrong")
    return (
        f'<g class="{classes}" data-label="{escape(label)}">'
        f'<circle class="said" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS + 4}"/>'
        f'<circle class="disc" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"/>{ring}'
        f'<text x="{x:.1f}" y="{y + 4.5:.1f}" font-size="{size}">{escape(label)}</text>{name}</g>'
    )


def _strip(graph: dict, written: list, lit: Clue, selected: int) -> str:
    """The tokens of the question, then the target tokens: the right ones, or those that the model wrote."""
    cells = []
    for index, edge in enumerate(graph["edges"]):
        bar = '<i class="between">|</i>' if index else ""
        pair = "".join(f"<b>{escape(str(label))}</b>" for label in edge)
        classes = _classes(token=True, read=f"e{index}" in lit.read)
        cells.append(f'{bar}<span class="{classes}" data-key="e{index}">{pair}</span>')
    cells.append('<i class="between">/</i>')
    for end in ("start", "goal"):
        classes = _classes(token=True, read=end in lit.read)
        cells.append(
            f'<span class="{classes}" data-key="{end}" title="{end}"><b>{escape(str(graph[end]))}</b></span>'
        )
    cells.append('<i class="between">=</i>')
    for position, label in enumerate(written):
        classes = _classes(
            token=True, target=True, given=lit.given == f"t{position}", asked=position == selected
        )
        cells.append(f'<span class="{classes}" data-key="t{position}"><b>{escape(str(label))}</b></span>')
    return f'<div class="path-strip" role="group" aria-label="Tokens">{" ".join(cells)}</div>'


def _cards(graph: dict, objective: dict, history: list[list[dict]], at: int, selected: int) -> str:
    """A card a target token: what the model says, how surely, and the right token's curve."""
    right, cards = targets(graph, objective), []
    for position, (said, label) in enumerate(zip(history[at], right, strict=True)):
        hit = same(said["label"], label)
        pressed = "true" if position == selected else "false"
        cards.append(
            f'<li><button type="button" class="{_classes(card=True, right=hit, wrong=not hit)}" '
            f'data-position="{position}" aria-pressed="{pressed}">'
            f'<span class="place">token {position + 1}</span>'
            f'<span class="verdict-line"><b class="label">{escape(str(said["label"]))}</b> '
            f'<span class="word">{"right" if hit else "wrong"}</span></span>'
            f'<span class="bar"><span class="fill" style="width:{100 * said["p"]:.0f}%"></span></span>'
            f'<span class="p">p = {said["p"]:.2f}</span>'
            f'<span class="answer">answer <b>{escape(str(label))}</b></span>'
            f"{_spark([row[position]['p_true'] for row in history], at)}</button></li>"
        )
    return f'<ol class="path-cards">{"".join(cards)}</ol>'


def _spark(values: list[float], at: int) -> str:
    """SVG of a curve of probabilities, one a step, with a mark at step `at`."""
    points = " ".join(
        f"{_spark_x(index, len(values)):.1f},{_SPARK_HEIGHT * (1 - value):.1f}"
        for index, value in enumerate(values)
    )
    return (
        f'<svg class="spark" viewBox="0 -2 {_SPARK_WIDTH} {_SPARK_HEIGHT + 4}" preserveAspectRatio="none" '
        f'aria-hidden="true"><path class="ground" d="M0 0h{_SPARK_WIDTH}m0 {_SPARK_HEIGHT}h-{_SPARK_WIDTH}"/>'
        f'<polyline points="{points}"/>'
        f'<path class="now" d="M{_spark_x(at, len(values)):.1f} 0v{_SPARK_HEIGHT}"/></svg>'
    )


def _spark_x(index: int, count: int) -> float:
    return _SPARK_WIDTH * index / max(1, count - 1)


def _classes(**on: bool) -> str:
    return " ".join(name for name, yes in on.items() if yes)
