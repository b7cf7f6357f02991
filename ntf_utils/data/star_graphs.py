"""Path-finding on star graphs: the planning task of Bachmann & Nagarajan (2024), Section 4.

A star graph G(d, l) has d arms that leave one start node; each arm holds l - 1 further nodes, so a path from the
start to a leaf has l nodes. The model reads the shuffled edges and a query (start, goal), and writes the path:

    text     a,b|c,d|...|y,z/start,goal=start,n2,...,goal
    tokens   a b | c d | ... | y z / start goal = start n2 ... goal          (commas dropped)

Labels are the tokens 0..N-1; then `|` is N, `=` is N+1, `/` is N+2 and the dummy `$` is N+3, as in the authors'
`tokenizing/numeral_tokenizer.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ntf_utils.refusal import Refusal


@dataclass(frozen=True)
class StarTask:
    """The size of the task: G(degree, path_length) with labels drawn from `labels` numbers.

    Raises:
        Refusal: fewer than two arms, fewer than three nodes on a path, or fewer labels than nodes.
    """

    degree: int
    path_length: int
    labels: int

    def __post_init__(self) -> None:
        if self.degree < 2:
            raise Refusal(f"degree must be at least 2, else there is nothing to decide (got {self.degree})")
        if self.path_length < 3:
            raise Refusal(
                f"path_length must be at least 3: on a path of {self.path_length} nodes the token after the "
                "start is the goal, which the query already tells"
            )
        if self.labels < self.nodes:
            raise Refusal(
                f"labels must be at least {self.nodes}, the nodes of G({self.degree},{self.path_length}) "
                f"(got {self.labels})"
            )

    @property
    def nodes(self) -> int:
        return self.degree * (self.path_length - 1) + 1

    @property
    def edges(self) -> int:
        return self.nodes - 1

    @property
    def prefix_length(self) -> int:
        """Tokens before the path: three an edge (two labels and what follows them), then start, goal and `=`."""
        return 3 * self.edges + 3

    @property
    def context(self) -> int:
        """Tokens that a model reads in training: the prefix and all of the path but its last node."""
        return self.prefix_length + self.path_length - 1

    @property
    def vocabulary(self) -> int:
        return self.labels + 4

    @property
    def bar(self) -> int:
        return self.labels

    @property
    def equals(self) -> int:
        return self.labels + 1

    @property
    def slash(self) -> int:
        return self.labels + 2

    @property
    def dummy(self) -> int:
        return self.labels + 3


@dataclass(frozen=True)
class StarGraphs:
    """A batch of star graphs. The first arm leads to the goal; the shuffled edges hide which one it is.

    Attributes:
        task: the size.
        start: [batch] label of the centre.
        arms: [batch, degree, path_length - 1] labels of each arm, outwards.
        edges: [batch, edges, 2] parent and child, in the order in which the model reads them.
    """

    task: StarTask
    start: Tensor
    arms: Tensor
    edges: Tensor

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: Tensor | slice) -> "StarGraphs":
        return StarGraphs(self.task, self.start[rows], self.arms[rows], self.edges[rows])

    def to(self, device: torch.device) -> "StarGraphs":
        return StarGraphs(self.task, self.start.to(device), self.arms.to(device), self.edges.to(device))

    @property
    def goal(self) -> Tensor:
        """[batch] leaf of the first arm."""
        return self.arms[:, 0, -1]

    def path(self, arm: int = 0) -> Tensor:
        """[batch, path_length] from the start along one arm; arm 0 is the answer."""
        return torch.cat([self.start[:, None], self.arms[:, arm]], dim=1)

    def prefix(self, goal: Tensor | None = None) -> Tensor:
        """[batch, 3E + 3] tokens of the edges and the query. `goal` ([batch]) overrides the goal that is shown."""
        batch, device = len(self), self.start.device
        separators = torch.full((batch, self.task.edges, 1), self.task.bar, device=device)
        separators[:, -1] = self.task.slash  # the last edge is followed by the query
        edges = torch.cat([self.edges, separators], dim=2).flatten(1)  # [batch, 3E]
        shown = self.goal if goal is None else goal
        equals = torch.full_like(shown, self.task.equals)
        return torch.cat([edges, torch.stack([self.start, shown, equals], dim=1)], dim=1)


def draw_star_graphs(task: StarTask, batch: int, generator: torch.Generator) -> StarGraphs:
    """Independent star graphs with distinct, uniformly drawn labels and shuffled edges, on the generator's device.

    Follows the authors' `data/graphs.py`: every label of a graph is distinct, edges point away from the start,
    and their order is shuffled over the whole graph.
    """
    device = generator.device
    labels = _distinct_labels(batch, task.nodes, task.labels, generator)
    start, arms = labels[:, 0], labels[:, 1:].view(batch, task.degree, task.path_length - 1)
    parents = torch.cat([start[:, None, None].expand(-1, task.degree, 1), arms[:, :, :-1]], dim=2)
    edges = torch.stack([parents, arms], dim=3).view(batch, task.edges, 2)
    order = torch.rand(batch, task.edges, generator=generator, device=device).argsort(dim=1)
    edges = edges.gather(1, order[:, :, None].expand(-1, -1, 2))
    return StarGraphs(task, start, arms, edges)


def _distinct_labels(batch: int, count: int, labels: int, generator: torch.Generator) -> Tensor:
    """[batch, count] distinct labels below `labels`: the first `count` steps of a Fisher-Yates shuffle, batched."""
    device = generator.device
    # [labels, batch]: a step of the shuffle then touches whole contiguous rows
    deck = torch.arange(labels, device=device)[:, None].repeat(1, batch)
    uniform = torch.rand(count, batch, generator=generator, device=device)
    for step in range(count):
        pick = step + (uniform[step] * (labels - step)).long().clamp_max(labels - step - 1)
        taken = deck.gather(0, pick[None])
        deck.scatter_(0, pick[None], deck[step : step + 1].clone())
        deck[step] = taken[0]
    return deck[:count].T.contiguous()


def write_lines(graphs: StarGraphs) -> list[str]:
    """One line of the authors' text format a graph, e.g. `23,17|36,23|1,32|36,1/36,32=36,1,32`."""
    lines = []
    for edges, start, goal, path in zip(
        graphs.edges.tolist(), graphs.start.tolist(), graphs.goal.tolist(), graphs.path().tolist(), strict=True
    ):
        shown = "|".join(f"{parent},{child}" for parent, child in edges)
        lines.append(f"{shown}/{start},{goal}={','.join(map(str, path))}")
    return lines


def read_file(path: str | Path, labels: int) -> StarGraphs:
    """Reads a file of the authors' text format, e.g. their `deg_2_path_5_nodes_50_test_20000.txt`; see `read_lines`.

    Raises:
        Refusal: no such file, or not text, or a malformed line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise Refusal(f"cannot read {path}: {reason}") from None
    return read_lines(text.splitlines(), labels, source=Path(path).name)


def read_lines(lines: Iterable[str], labels: int, source: str = "text") -> StarGraphs:
    """Reads the authors' text format back; blank lines are skipped.

    Args:
        lines: e.g. an open file.
        labels: size of the label set N, which the text does not tell.
        source: name used in error messages, e.g. the file's name.

    Raises:
        Refusal: a line that is not a star graph of the first line's size, named by its number.
    """
    task, parsed = None, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            start, arms, edges = _parse_line(line.strip(), labels)
        except ValueError as problem:
            raise Refusal(f"{source}, line {number}: {problem}") from None
        size = (len(arms), len(arms[0]) + 1)
        task = task or StarTask(*size, labels)
        if size != (task.degree, task.path_length):
            expected = f"G({task.degree},{task.path_length})"
            raise Refusal(f"{source}, line {number}: the lines before hold {expected}, this one G({size[0]},{size[1]})")
        parsed.append((start, arms, edges))
    if task is None:
        raise Refusal(f"{source} holds no graph")
    start, arms, edges = (torch.tensor(column) for column in zip(*parsed, strict=True))
    return StarGraphs(task, start, arms, edges)


def _parse_line(line: str, labels: int) -> tuple[int, list[list[int]], list[list[int]]]:
    """Start, arms (the goal's first) and edges of one line; ValueError says what is wrong with it."""
    try:
        shown, rest = line.split("/")
        query, answer = rest.split("=")
        edges = [[int(label) for label in edge.split(",")] for edge in shown.split("|")]
        start, goal = (int(label) for label in query.split(","))
        path = [int(label) for label in answer.split(",")]
    except ValueError:
        raise ValueError(f"not of the form a,b|c,d/start,goal=start,...,goal: {line[:60]!r}") from None
    if any(len(edge) != 2 for edge in edges):
        raise ValueError("an edge needs exactly two labels")
    if not all(0 <= label < labels for edge in edges for label in edge):
        raise ValueError(f"a label lies outside 0..{labels - 1}")
    children = {parent: child for parent, child in edges if parent != start}
    arms = [_follow(child, children) for parent, child in edges if parent == start]
    if len({len(arm) for arm in arms}) != 1 or sum(map(len, arms)) != len(edges):
        raise ValueError("the edges are not a star with arms of one length")
    if len({start, *(child for _, child in edges)}) != len(edges) + 1:
        raise ValueError("a label occurs twice")
    arms.sort(key=lambda arm: arm[-1] != goal)
    if path != [start, *arms[0]] or path[-1] != goal:
        raise ValueError("the path does not lead from the start to the goal along the edges")
    return start, arms, edges


def _follow(node: int, children: dict[int, int]) -> list[int]:
    """The labels from `node` to its leaf; stops after as many nodes as there are edges, so that a cycle ends."""
    arm = [node]
    while arm[-1] in children and len(arm) <= len(children):
        arm.append(children[arm[-1]])
    return arm
