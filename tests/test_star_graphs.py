"""The star-graph task: what is drawn, its tokens, and the authors' text format."""

import time

import pytest
import torch

from ntf_utils.data.star_graphs import StarTask, draw_star_graphs, read_file, read_lines, write_lines
from ntf_utils.refusal import Refusal

SIZES = [(2, 3, 5), (2, 4, 12), (2, 5, 50), (5, 5, 50), (10, 5, 50), (2, 20, 50), (20, 5, 81)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("degree", "path_length", "labels"), SIZES)
def test_every_graph_is_a_star_whose_first_arm_leads_to_the_goal(degree, path_length, labels):
    task = StarTask(degree, path_length, labels)
    graphs = draw_star_graphs(task, 200, generator())
    for start, goal, edges, path in zip(
        graphs.start.tolist(), graphs.goal.tolist(), graphs.edges.tolist(), graphs.path().tolist(), strict=True
    ):
        assert len(edges) == task.edges == degree * (path_length - 1)
        parent_of = {child: parent for parent, child in edges}
        assert len(parent_of) == task.edges and start not in parent_of  # distinct labels, all below the start
        walk = [goal]  # an independent solution: from the goal upwards, one parent at a time
        while walk[-1] != start:
            walk.append(parent_of[walk[-1]])
        assert walk[::-1] == path
        leaves = set(parent_of) - {parent for parent, _ in edges}
        assert len(leaves) == degree and goal in leaves


def test_token_counts_are_the_paper_s():
    # dossier of the paper: G(2,5) 27 + 5, G(5,5) 63 + 5, G(10,5) 123 + 5, G(20,5) 243 + 5, G(2,20) 117 + 20
    for degree, path_length, labels, prefix in [
        (2, 5, 50, 27), (5, 5, 50, 63), (10, 5, 50, 123), (20, 5, 81, 243), (2, 20, 50, 117)
    ]:  # fmt: skip
        task = StarTask(degree, path_length, labels)
        graphs = draw_star_graphs(task, 2, generator())
        assert graphs.prefix().shape == (2, prefix) == (2, task.prefix_length)
        assert graphs.path().shape == (2, path_length)
        assert task.context == prefix + path_length - 1


def test_tokens_follow_the_text():
    graphs = read_lines(["23,17|36,23|1,32|36,1/36,32=36,1,32\n"], labels=50)  # an example of the authors' test file
    bar, equals, slash = 50, 51, 52
    expected = [23, 17, bar, 36, 23, bar, 1, 32, bar, 36, 1, slash, 36, 32, equals]
    assert graphs.prefix()[0].tolist() == expected
    assert graphs.path()[0].tolist() == [36, 1, 32]
    assert graphs.path(arm=1)[0].tolist() == [36, 23, 17]
    assert graphs.task == StarTask(2, 3, 50)


def test_text_round_trip():
    graphs = draw_star_graphs(StarTask(3, 4, 20), 50, generator())
    again = read_lines(write_lines(graphs), labels=20)
    assert torch.equal(again.prefix(), graphs.prefix())
    assert torch.equal(again.path(), graphs.path())
    # the order of the arms that do not lead to the goal is the order of their edges, so compare them as sets
    arms = [{tuple(arm) for arm in graph} for graph in graphs.arms.tolist()]
    assert [{tuple(arm) for arm in graph} for graph in again.arms.tolist()] == arms


def test_draws_are_uniform_and_reproducible():
    task = StarTask(2, 4, 9)
    graphs = draw_star_graphs(task, 60_000, generator())
    assert torch.equal(graphs.prefix(), draw_star_graphs(task, 60_000, generator()).prefix())
    for labels in (graphs.start, graphs.goal, graphs.arms[:, 1, 0]):
        share = torch.bincount(labels, minlength=9) / len(graphs)
        assert (share - 1 / 9).abs().max() < 0.006  # 5 standard errors
    # the edge that starts the answer stands anywhere in the list with equal chance
    first = (graphs.edges[:, :, 1] == graphs.path()[:, 1:2]).float().argmax(dim=1)
    share = torch.bincount(first, minlength=6) / len(graphs)
    assert (share - 1 / 6).abs().max() < 0.008


def test_nothing_but_the_goal_tells_the_arm():
    """Any position whose label agreed with the hop token more often than chance would be a leak."""
    graphs = draw_star_graphs(StarTask(2, 4, 9), 60_000, generator())
    edges = graphs.edges.flatten(1)
    right = (edges == graphs.path()[:, 1:2]).float().mean(dim=0)
    wrong = (edges == graphs.path(arm=1)[:, 1:2]).float().mean(dim=0)
    assert (right - wrong).abs().max() < 0.01


def test_generator_makes_100_000_graphs_a_second():
    task, random = StarTask(2, 5, 50), generator()
    draw_star_graphs(task, 4096, random).prefix()
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        graphs = draw_star_graphs(task, 20_000, random)
        graphs.prefix(), graphs.path()
        best = min(best, time.process_time() - begun)
    assert 20_000 / best >= 100_000


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 5, 50), "degree must be at least 2"),
        ((2, 2, 50), "path_length must be at least 3"),
        ((2, 5, 8), "labels must be at least 9"),
    ],
)
def test_impossible_sizes_are_refused(size, words):
    with pytest.raises(Refusal, match=words):
        StarTask(*size)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("23,17|36,23|1,32|36,1/36,32", "not of the form"),
        ("23,17|36,x|1,32|36,1/36,32=36,1,32", "not of the form"),
        ("23,17,4|36,23|1,32|36,1/36,32=36,1,32", "exactly two labels"),
        ("23,17|36,23|1,99|36,1/36,99=36,1,99", "outside 0..49"),
        ("23,17|36,23|1,32|36,1/36,32=36,23,17", "does not lead"),
        ("23,17|36,23|1,17|36,1/36,17=36,1,17", "occurs twice"),
        ("23,17|36,23|36,1/36,1=36,1", "arms of one length"),
        ("23,17|17,23|1,32|36,1/36,32=36,1,32", "arms of one length"),
        ("23,17|36,23|1,32|36,1|40,3|36,40/36,32=36,1,32", r"the lines before hold G\(2,3\), this one G\(3,3\)"),
    ],
)
def test_a_malformed_line_is_named(line, words):
    good = "23,17|36,23|1,32|36,1/36,32=36,1,32"
    with pytest.raises(Refusal, match=rf"test_2_3\.txt, line 3: .*{words}"):
        read_lines([good, "", line], labels=50, source="test_2_3.txt")


def test_an_empty_text_is_refused():
    with pytest.raises(Refusal, match="holds no graph"):
        read_lines(["\n"], labels=50, source="empty.txt")


def test_files_are_read_and_named_in_errors(tmp_path):
    graphs = draw_star_graphs(StarTask(2, 5, 50), 20, generator())
    file = tmp_path / "deg_2_path_5.txt"
    file.write_text("\n".join(write_lines(graphs)) + "\n")
    assert torch.equal(read_file(file, labels=50).prefix(), graphs.prefix())
    file.write_text("\n".join([*write_lines(graphs), "1,2|3/4"]))
    with pytest.raises(Refusal, match=r"deg_2_path_5\.txt, line 21: not of the form"):
        read_file(file, labels=50)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Refusal, match="not UTF-8 text"):
        read_file(file, labels=50)
    with pytest.raises(Refusal, match="No such file"):
        read_file(tmp_path / "absent.txt", labels=50)
