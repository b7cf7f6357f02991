"""The chapter's own methods: objectives, examination, training runs."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch import nn

from ntf_utils.data.star_graphs import StarTask, draw_star_graphs
from ntf_utils.measures.learning import first_step_above
from ntf_utils.measures.sequences import exact_match, token_accuracy
from ntf_utils.models.decoding import decode_greedily, in_chunks
from ntf_utils.models.transformer import Transformer
from ntf_utils.papers.next_token_pitfalls.live import LivePathFinder, recorded_states
from ntf_utils.papers.next_token_pitfalls.objectives import examine, lesson
from ntf_utils.papers.next_token_pitfalls.path_finder import (
    MEMORISED,
    Lessons,
    PathFinderConfig,
    build_model,
    probe_graphs,
    recipe_of,
    train_path_finder,
)
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, sweep
from ntf_utils.show import PathExplorer
from ntf_utils.training.loop import IGNORE, Lesson, Recipe, loss_of, train

TASK = StarTask(2, 4, 9)
CPU = torch.device("cpu")


def graphs(count=64, seed=0, task=TASK):
    return draw_star_graphs(task, count, torch.Generator().manual_seed(seed))


class Scripted(nn.Module):
    """Answers like a person with a rule: `rule(tokens read so far, star) -> next token`, one graph a batch row."""

    def __init__(self, rule, batch, vocabulary):
        super().__init__()
        self.rule, self.stars, self.vocabulary = rule, batch, vocabulary

    def forward(self, tokens, from_position=0):
        said = [
            [self.rule(row[: end + 1], star, self.stars.task) for end in range(from_position, len(row))]
            for row, star in zip(tokens.tolist(), self.stars.prefix().tolist(), strict=True)
        ]
        return nn.functional.one_hot(torch.tensor(said), self.vocabulary).float()

    def start(self, tokens):
        return self.forward(tokens, tokens.shape[1] - 1)[:, 0], tokens

    def step(self, token, tokens):
        tokens = torch.cat([tokens, token[:, None]], dim=1)
        return self.start(tokens)


def clever_hans(read, star, task):
    """Copies the start, guesses an arm by the order of the edges, then follows edges: the cheat of the paper."""
    edges = [(star[3 * i], star[3 * i + 1]) for i in range(task.edges)]
    written = read[task.prefix_length :]
    if not written:
        return star[-3]
    return next(child for parent, child in edges if parent == written[-1])


def planner(read, star, task):
    """Walks from the goal to the start first, then writes the path."""
    parent_of = {star[3 * i + 1]: star[3 * i] for i in range(task.edges)}
    path = [star[-2]]
    while path[-1] != star[-3]:
        path.append(parent_of[path[-1]])
    return path[::-1][len(read) - task.prefix_length]


def test_lessons_are_the_paper_s_formats():
    batch = graphs(2)
    prefix, path = batch.prefix(), batch.path()
    plain = lesson(batch, "next_token")
    assert torch.equal(plain.inputs, torch.cat([prefix, path[:, :-1]], 1)) and torch.equal(plain.targets, path)
    assert plain.inputs.shape[1] - plain.from_position == path.shape[1]
    backwards = lesson(batch, "reversed")
    assert torch.equal(backwards.targets, path.flip(1))
    assert torch.equal(backwards.inputs[:, TASK.prefix_length :], path.flip(1)[:, :-1])
    blind = lesson(batch, "teacherless")
    assert (blind.inputs[:, TASK.prefix_length :] == TASK.dummy).all() and torch.equal(blind.targets, path)
    hop = lesson(batch, "hop_only")
    assert torch.equal(hop.targets, path[:, 1:2]) and torch.equal(hop.inputs[:, -1:], path[:, :1])


def test_the_cheat_is_told_from_planning():
    batch = graphs(120)  # one chunk: a Scripted model answers for its whole batch
    cheat = examine(Scripted(clever_hans, batch, TASK.vocabulary), batch, "next_token")
    assert 0.35 < cheat.exact < 0.65  # a guess between two arms
    assert cheat.hop_given == 1 and cheat.wrong_arm == 1
    assert cheat.forced_tokens[0] == cheat.forced_tokens[2] == cheat.forced_tokens[3] == 1
    assert cheat.forced_tokens[1] == pytest.approx(cheat.exact) == cheat.own_tokens[1]
    plan = examine(Scripted(planner, batch, TASK.vocabulary), batch, "next_token")
    assert plan.exact == plan.hop_given == 1 and plan.wrong_arm == 0


def test_one_forced_pass_gives_the_exact_match_of_greedy_decoding():
    batch = graphs(300)
    torch.manual_seed(0)
    model = Transformer(TASK.vocabulary, TASK.context, 1, 16, 2)
    asked = lesson(batch, "next_token")

    def next_lesson():
        return asked

    train(model, next_lesson, Recipe(steps=100, learning_rate=1e-2, warmup=5), lambda step, loss: False, 1)
    forced = model(asked.inputs, asked.from_position).argmax(-1)
    own = decode_greedily(model, batch.prefix(), TASK.path_length)
    share = exact_match(own, asked.targets)
    assert 0 < share < 1  # else the comparison would be empty
    assert share == exact_match(forced, asked.targets)
    assert token_accuracy(own, asked.targets) != token_accuracy(forced, asked.targets)


def test_the_loss_counts_the_marked_targets_only():
    batch = graphs(8)
    torch.manual_seed(0)
    model = Transformer(TASK.vocabulary, TASK.context, 2, 16, 2)
    plain, hop = lesson(batch, "next_token"), lesson(batch, "hop_only")
    masked = torch.full_like(plain.targets, IGNORE)
    masked[:, 1] = plain.targets[:, 1]
    by_mask = loss_of(model, Lesson(plain.inputs, masked, plain.from_position))
    assert torch.allclose(by_mask, loss_of(model, hop), atol=1e-6)


def test_learning_rate_reaches_the_optimiser():
    """In the authors' code weight decay is parsed and never used, and the cosine never decays."""
    recipe = Recipe(steps=1000, learning_rate=1e-3, warmup=100)
    rates = [recipe.learning_rate_at(step) for step in (1, 50, 100, 550, 1000)]
    assert rates[0] < rates[1] < rates[2] and rates[2] == pytest.approx(1e-3, rel=0.05)
    assert rates[3] < 0.7e-3 and rates[4] == pytest.approx(1e-4)
    seen = []

    class Spy(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            seen.append({name: self.param_groups[0][name] for name in ("lr", "weight_decay", "betas")})
            return super().step(*args, **kwargs)

    model, asked = Transformer(TASK.vocabulary, TASK.context, 1, 16, 2), lesson(graphs(4), "next_token")
    original, torch.optim.AdamW = torch.optim.AdamW, Spy
    try:
        recipe = Recipe(steps=3, learning_rate=1e-3, warmup=2, weight_decay=0.3, beta2=0.9)
        train(model, lambda: asked, recipe, lambda step, loss: False, 1)
    finally:
        torch.optim.AdamW = original
    assert [line["lr"] for line in seen] == [recipe.learning_rate_at(step) for step in (1, 2, 3)]
    assert all(line["weight_decay"] == 0.3 and line["betas"] == (0.9, 0.9) for line in seen)


def tiny(**changes):
    small = {"labels": 9, "layers": 1, "width": 16, "heads": 2, "warmup": 2}
    return PathFinderConfig(**(small | {"steps": 6, "batch": 8, "test_graphs": 50, "looks": 2} | changes))


@pytest.mark.parametrize("objective", ["next_token", "reversed", "teacherless", "hop_only"])
@pytest.mark.parametrize("architecture", ["transformer", "mamba"])
def test_a_run_gives_a_full_row_and_repeats_exactly(objective, architecture):
    config = tiny(objective=objective, architecture=architecture, probes=2, seed=3)
    outcome = train_path_finder(config)
    (row,) = outcome.rows
    assert row["made_steps"] == 6 and 0 <= row["exact"] <= 1
    assert (row["wrong_arm"] is None) == (objective != "next_token")
    assert len(outcome.curves["learning"]["step"]) == 3
    assert set(outcome.curves["probes"]["graph"]) == {0, 1}
    assert train_path_finder(config) == outcome
    assert train_path_finder(config.but(seed=4)) != outcome


def test_looking_never_changes_the_run():
    """The authors' evaluation draws from the training loader's generator; ours must not."""
    few, many = train_path_finder(tiny(looks=1)), train_path_finder(tiny(looks=6, probes=3))
    assert few.rows == many.rows


def test_train_and_test_graphs_differ_between_roles_and_seeds():
    drawn = [Lessons(tiny(seed=seed), CPU).next().inputs for seed in range(5)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert torch.equal(probe_graphs(tiny(probes=2, seed=1)).edges, probe_graphs(tiny(probes=2, seed=7)).edges)


def test_fixed_training_set_is_fixed():
    lessons = Lessons(tiny(train_graphs=5), CPU)
    seen = {tuple(row) for _ in range(20) for row in lessons.next().inputs.tolist()}
    assert len(seen) == 5
    assert train_path_finder(tiny(train_graphs=5)).rows[0]["train_exact"] is not None


def test_shuffled_query_tells_nothing_of_the_arm():
    lessons = Lessons(tiny(query="shuffled", labels=9), CPU)
    batch = graphs(4000, task=lessons.config.task)
    shown = lessons.shown_goal(batch)
    assert 0.46 < (shown == batch.goal).float().mean() < 0.54
    assert ((shown == batch.goal) | (shown == batch.arms[:, 1, -1])).all()


def test_small_models_learn_the_reversed_task():
    """The whole loop learns: one lookup a token on the smallest graph, in a few seconds."""
    config = PathFinderConfig(
        degree=2, path_length=3, labels=5, objective="reversed", layers=2, width=32, heads=2, steps=500, batch=64,
        learning_rate=4e-3, looks=10, test_graphs=500,
    )  # fmt: skip
    assert train_path_finder(config).rows[0]["exact"] > 0.95


def test_gpu_code_path_at_toy_size():
    """bf16 autocast and a compiled model, here on the CPU with the tracing backend."""
    config = tiny(precision="bf16")
    model = build_model(config)
    recipe = recipe_of(config, torch.device("cuda"))
    assert recipe.compiler == "inductor" and recipe.precision == "bf16"
    recipe = Recipe(steps=4, learning_rate=1e-3, warmup=1, precision="bf16", compiler="aot_eager")
    before = model.head.weight.clone()
    losses = []
    train(model, Lessons(config, CPU).next, recipe, lambda step, loss: losses.append(loss), 4)
    assert torch.isfinite(torch.tensor(losses[1:])).all() and not torch.equal(before, model.head.weight)
    assert model.head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"degree": 1}, "degree must be at least 2"),
        ({"path_length": 2}, "path_length must be at least 3"),
        ({"labels": 4}, "labels must be at least 9"),
        ({"steps": -5}, "steps must be greater than or equal to 1"),
        ({"objective": "backwards"}, "objective"),
        ({"heads": 3}, "heads must divide width"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"depth": 3}, "depth"),
        ({"query": "shuffled", "train_graphs": 10}, "train_graphs"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=words) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)


def test_importing_the_chapter_draws_no_figure_library():
    """Workers import the paper's module only; matplotlib there would cost a second a process."""
    code = "import sys, ntf_utils.papers.next_token_pitfalls.path_finder; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_chunks_make_one_answer():
    task = StarTask(2, 3, 5)
    long = graphs(300, task=task)
    torch.manual_seed(0)
    model = Transformer(task.vocabulary, task.context, 1, 16, 2)
    asked = lesson(long, "next_token")
    whole = model(asked.inputs, asked.from_position)
    pieces = in_chunks(lambda inputs: model(inputs, asked.from_position), asked.inputs)
    torch.testing.assert_close(pieces, whole)


def test_learned_when():
    curve = pd.DataFrame({"seed": [0, 0, 0, 1, 1], "step": [0, 10, 20, 0, 10], "token_2": [0.1, 0.95, 0.8, 0.2, 0.3]})
    assert first_step_above(curve, "token_2", 0.9).to_dict() == {0: 10, 1: 10}  # seed 1 never: its last look
    assert first_step_above(curve, "token_2", 0.2).to_dict() == {0: 10, 1: 0}


def test_patience_counts_from_the_step_at_which_the_set_is_known():
    config = PathFinderConfig(
        degree=2, path_length=3, labels=5, objective="reversed", layers=2, width=32, heads=2, batch=32, looks=60,
        steps=600, train_graphs=4, patience=2, stop_when_solved=False, test_graphs=50, learning_rate=4e-3, warmup=20,
    )  # fmt: skip
    outcome = train_path_finder(config)
    learning = outcome.curves["learning"]
    known_at = next(s for s, x in zip(learning["step"], learning["train_exact"], strict=True) if x >= MEMORISED)
    assert known_at > 0 and outcome.rows[0]["made_steps"] == 3 * known_at < 600


def test_live_model_trains_cancels_and_answers():
    live = LivePathFinder(tiny(steps=8, looks=2))
    graph = live.draw_graph()
    assert graph["path"] == [graph["start"], *graph["arms"][0]] and graph["path"][-1] == graph["goal"]
    seen = []
    for objective in ("next_token", "reversed", "teacherless"):
        live.train(objective, lambda step, last: seen.append((step, last)))
        assert live.checkpoints(objective) == [0, 4, 8]
        for alone in (False, True):
            said = live.predict(objective, graph, 8, alone)
            assert len(said) == 5 and all(0 <= token["p_true"] <= token["p"] <= 1 for token in said)
    assert seen[0] == (0, 8) and seen[8] == (8, 8)

    def stop(step, last):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live.train("next_token", stop)
    assert live.checkpoints("next_token") == [0]


def test_explorer_states_fit_the_recorded_runs():
    configs = [tiny(objective=objective, probes=2) for objective in ("next_token", "reversed", "teacherless")]
    # a run without probes beside them must not turn labels into fractions, which equal no label
    table = sweep(train_path_finder, [*configs, tiny(objective="hop_only", probes=0)], workers=0)
    states = recorded_states(configs, curves(table, "probes"))
    assert all(isinstance(step, int) for objective in states["objectives"] for step in objective["steps"])
    said = [token["label"] for objective in states["objectives"] for token in objective["predictions"][0][-1]]
    assert all(isinstance(label, int) for label in said)
    explorer = PathExplorer(states)
    assert "Teacher forcing" in explorer.page() and "3 graphs" not in repr(explorer)
    assert ["alone" in objective for objective in states["objectives"]] == [True, True, False]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("NTF_STORE", str(tmp_path))
