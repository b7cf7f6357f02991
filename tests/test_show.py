"""What the reader sees: boxes, scorecard, provenance, statistics and the path explorer with its two faces."""

import json
import re
import threading

import pandas as pd
import pytest
from waiting import wait_for

from ntf_utils.claims import Court, Region, load_claims
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, Store, experiment, sweep
from ntf_utils.show import (
    PathExplorer,
    benchmark_figures,
    chapters,
    claim_box,
    estimated_costs,
    marks,
    package_versions,
    profile_costs,
    provenance,
    run_statistics,
    scorecard,
    software_of_runs,
    wording,
)
from ntf_utils.show.explorer import json_for_html
from ntf_utils.show.path_live import PathView
from ntf_utils.show.path_picture import clue

CLAIMS = """
paper: next_token_pitfalls
title: Pitfalls <of> prediction
arxiv: "2403.06963"
claims:
  C1:
    name: Ends at <chance>
    statement: It guesses & nothing else.
    where: Table 2
    published: {value: "48 to 50 %", standing: secondhand, source: "a \\"review\\""}
    shown_in: 01_task
    clauses:
      exact: {measure: exact match minus 1/d, unit: pp, holds: {within: [-5, 5]}}
    revisions: [{was: {within: [-3, 3]}, why: the test set resolves less}]
  C2:
    name: Reversed is solved
    statement: Backwards it works.
    where: Section 5
    published: {value: unknown, standing: unknown}
    shown_in: 02_fix
    clauses:
      exact: {measure: exact match, unit: "%", holds: {above: 95}}
  C3:
    name: Pretrained too
    statement: A large model fails too.
    where: Table 2
    published: {value: 48 %, standing: memory}
    shown_in: 02_fix
    only: [paper]
    untested: needs a GPU for hours
    clauses:
      exact: {measure: exact match, unit: "%", holds: {below: 55}}
"""


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks" / "next_token_pitfalls"
    folder.mkdir(parents=True)
    (folder / "claims.yaml").write_text(CLAIMS, encoding="utf-8")
    return folder.parent


@pytest.fixture
def court(notebooks, tmp_path):
    claims = load_claims(notebooks / "next_token_pitfalls" / "claims.yaml")
    return Court("next_token_pitfalls", "laptop", claims, Store(tmp_path / "data"))


def judged(court: Court):
    """The verdict on C1: at chance, by five invented seeds."""
    rests_on = pd.DataFrame({"key": ["a", "b"]})
    return court.judge("C1", {"exact": [0.5, -0.4, 1.0, -0.8, 0.2]}, examples=2000, rests_on=rests_on)


class TestWording:
    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (-1.234, "−1.23"), (48.26, "48.3"), (99.96, "100"), (1234.4, "1234"), (0.0123, "0.0123")],
    )
    def test_number(self, value, text):
        assert wording.number(value) == text

    def test_seeds_are_written_as_runs(self):
        assert wording.numbers_run([3, 0, 1, 2, 7]) == "0–3, 7"

    @pytest.mark.parametrize(
        ("seconds", "text"), [(4.26, "4.3 s"), (48, "48 s"), (750, "12 min"), (9000, "2.5 h")]
    )
    def test_duration(self, seconds, text):
        assert wording.duration(seconds) == text

    def test_an_interval_is_as_fine_as_it_is_narrow(self):
        assert wording.interval(0.08, -0.731, 0.891, "pp") == "0.08 pp [−0.73, 0.89]"
        assert wording.interval(45.04, 40.6, 49.4) == "45.0 [40.6, 49.4]"


class TestBox:
    def test_text_has_claim_numbers_criterion_and_reason(self, court):
        text = repr(claim_box(judged(court), court.claims.claims["C1"]))
        for part in ("REPRODUCED", "48 to 50 %, quoted by others", "within [−5, 5] pp", "5 seeds", "revised"):
            assert part in text

    def test_html_escapes_and_has_the_anchor_and_the_verdicts_class(self, court):
        html = claim_box(judged(court), court.claims.claims["C1"])._repr_html_()
        assert 'id="claim-c1"' in html
        assert "claim-box-reproduced" in html
        assert "Ends at &lt;chance&gt;" in html
        assert "<chance>" not in html
        assert 'title="a &quot;review&quot;"' in html
        assert "was: within [−3, 3]; the test set resolves less" in html

    def test_a_claim_that_is_not_tested_shows_why(self, court):
        box = claim_box(court.not_tested("C3"), court.claims.claims["C3"])
        assert "NOT TESTED" in repr(box)
        assert "needs a GPU for hours" in box._repr_html_()

    def test_a_level_that_holm_s_rule_set_is_said(self, court):
        verdict = judged(court)
        widened = verdict.clauses[0].model_copy(update={"level": 0.975})
        verdict = verdict.model_copy(update={"clauses": [widened]})
        box = claim_box(verdict, court.claims.claims["C1"])
        assert "5 seeds, 97.5 % interval" in repr(box) and "97.5 % interval" in box._repr_html_()


class TestScorecard:
    def test_every_claim_is_there_judged_or_not(self, court, notebooks):
        judged(court)
        card = scorecard("laptop", notebooks, court.store)
        words = {line.name: line.word for lines in card.papers.values() for line in lines}
        assert words == {"C1": "reproduced", "C2": "not tested", "C3": "not tested"}
        html = card._repr_html_()
        assert 'href="../notebooks/next_token_pitfalls/01_task.html#claim-c1"' in html
        assert "no verdict is recorded" in html
        assert "<of>" not in html
        assert "1 reproduced · 2 not tested" in repr(card)

    def test_without_chapters(self, tmp_path):
        assert "no claims yet" in repr(scorecard("laptop", tmp_path, Store(tmp_path)))

    def test_chapters_name_all_ten_papers_and_their_state(self, court, notebooks):
        judged(court)
        text = repr(chapters("laptop", notebooks, court.store))
        assert len(text.splitlines()) == 10
        assert text.count("to come") == 9
        assert "3 claims: 1 reproduced" in text


class TestIntervalPicture:
    def test_says_its_numbers_and_shades_the_region(self, court):
        holds = court.claims.claims["C1"].clauses["exact"].holds
        svg = marks.interval_picture(0.1, -1, 1.2, holds, "pp", "reproduced")
        assert 'aria-label="0.1 pp [−1.0, 1.2]; holds within [−5, 5] pp"' in svg
        assert svg.count("interval-edge") == 2

    def test_an_open_region_has_one_edge_and_runs_to_the_border(self, court):
        holds = court.claims.claims["C2"].clauses["exact"].holds
        svg = marks.interval_picture(100, 99, 101, holds, "%", "reproduced")
        assert svg.count("interval-edge") == 1
        region = re.search(r'interval-region" x="([\d.]+)" y="3" width="([\d.]+)"', svg)
        assert float(region[1]) + float(region[2]) == pytest.approx(marks._WIDTH)


    def test_a_difference_either_way_shades_both_sides(self):
        svg = marks.interval_picture(0.2, 0.1, 0.3, Region(outside=[-0.05, 0.05]), "", "reproduced")
        assert svg.count("interval-region") == svg.count("interval-edge") == 2
        assert "holds outside [−0.05, 0.05]" in svg
        first, second = re.findall(r'interval-region" x="([\d.]+)" y="3" width="([\d.]+)"', svg)
        assert float(first[0]) == 0 and float(first[1]) < float(second[0])
        assert float(second[0]) + float(second[1]) == pytest.approx(marks._WIDTH)


class ToyConfig(Config):
    seed: int = 0


@experiment(version=2)
def train_toy(config: ToyConfig) -> Outcome:
    return Outcome(rows=[{"accuracy": config.seed / 10}])


class TestRuns:
    @pytest.fixture
    def table(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NTF_STORE", str(tmp_path / "data"))
        return sweep(train_toy, [ToyConfig(seed=seed) for seed in (0, 1, 2, 5)], workers=0)

    def test_provenance_says_what_made_a_table(self, table):
        line = repr(provenance([table, table], "laptop"))
        assert line.startswith("Runs: train_toy v2 · 4 runs · seeds 0–2, 5 · laptop · cpu, ")
        assert "commit" in line

    def test_provenance_counts_all_seeds_of_a_run_that_holds_several(self, table):
        several = pd.concat([table, table.assign(seed=table["seed"] + 6)])
        assert "4 runs · seeds 0–2, 5–8, 11" in repr(provenance(several, "laptop"))

    def test_statistics_count_runs_and_name_versions(self, table):
        assert run_statistics().loc["train_toy v2", ["runs", "seeds"]].tolist() == [4, "0–2, 5"]
        assert software_of_runs()["runs"].sum() == 4

    def test_costs_are_those_of_the_runs_behind_the_verdicts(self, table, court, notebooks):
        court.judge("C1", {"exact": [0.5, -0.4, 1.0]}, examples=2000, rests_on=table[:3])
        costs = profile_costs(notebooks, court.store)
        assert costs.loc["next_token_pitfalls", ["profile", "runs"]].tolist() == ["laptop", 3]

    def test_benchmarks_show_value_target_and_processor(self, table, tmp_path):
        measures = [
            {"name": "step", "value": 1.2, "unit": "", "target": "at most 1.25", "verdict": "met"},
            {"name": "rival", "value": 31.4, "unit": "ms", "target": "", "verdict": ""},
        ]
        assert benchmark_figures().empty
        (tmp_path / "data" / "benchmarks").mkdir()
        report = {"measures": measures, "cpu": {"model": "a processor"}}
        (tmp_path / "data" / "benchmarks" / "a_paper.json").write_text(json.dumps(report), encoding="utf-8")
        assert benchmark_figures().loc["step"].tolist() == ["1.2", "at most 1.25 met", "a processor", "a_paper"]
        assert benchmark_figures().loc["rival", ["value", "target"]].tolist() == ["31.4 ms", "–"]

    def test_packages_are_those_the_book_asks_for(self):
        versions = package_versions()["version"]
        assert {"torch", "jupyter-book", "pydantic"} <= set(versions.index)


# --- the path explorer

GRAPH = {
    "edges": [[4, 1], [7, 2], [2, 4], [7, 5], [5, 3], [3, 6]],  # arms 7-2-4-1 and 7-5-3-6
    "start": 7,
    "goal": 6,
    "path": [7, 5, 3, 6],
    "arms": [[5, 3, 6], [2, 4, 1]],
}
FORWARD = {"name": "next_token", "title": "Teacher forcing", "order": "forward"}
BACKWARD = {"name": "reverse", "title": "Reversed", "order": "backward"}
TEACHERLESS = {"name": "teacherless", "title": "Teacherless", "order": "forward"}


def row(labels, p=0.5):
    return [{"label": label, "p": p, "p_true": p} for label in labels]


def states(*graphs):
    """Three objectives, two steps; teacher forcing has the hop token wrong at the end."""
    graphs = list(graphs) or [GRAPH]

    def predictions(order, last):
        paths = [graph["path"][::order] for graph in graphs]
        return [[row([path[0]] * len(path)), row(last(path), 0.75)] for path in paths]

    steps = {"steps": [0, 1000]}
    wrong_hop = predictions(1, lambda path: [path[0], 2, *path[2:]])
    wrong_arm = predictions(1, lambda path: [7, 2, 4, 1])
    return {
        "graphs": graphs,
        "objectives": [
            FORWARD | steps | {"predictions": wrong_hop, "alone": wrong_arm},
            BACKWARD | steps | {"predictions": predictions(-1, list)},
            TEACHERLESS | steps | {"predictions": predictions(1, list)},
        ],
    }


class TestClue:
    def test_the_first_token_is_copied_from_the_query(self):
        assert clue(GRAPH, FORWARD, 0, None).read == ("start",)
        assert clue(GRAPH, BACKWARD, 0, None).read == ("goal",)

    def test_the_hop_token_cannot_be_looked_up(self):
        found = clue(GRAPH, FORWARD, 1, 7)
        assert found.read == ("e1", "e3")
        assert "2 edges start at 7" in found.told

    def test_the_cheat_reads_the_edge_that_leaves_the_given_token(self):
        found = clue(GRAPH, FORWARD, 2, 5)
        assert (found.given, found.read) == ("t1", ("e4",))
        assert "reads 3" in found.told

    def test_reversed_every_token_has_one_parent(self):
        assert [clue(GRAPH, BACKWARD, i, label).read for i, label in ((1, 6), (2, 3), (3, 5))] == [
            ("e5",),
            ("e4",),
            ("e3",),
        ]

    def test_teacherless_hides_what_a_cheat_would_read(self):
        assert clue(GRAPH, TEACHERLESS, 2, 5).read == ()

    def test_a_leaf_leads_nowhere(self):
        assert "no edge" in clue(GRAPH, FORWARD, 3, 6).told


class TestPage:
    def test_says_in_words_what_it_shows(self):
        explorer = PathExplorer(states())
        assert "Teacher forcing (step 1000): 3 of 4" in repr(explorer)
        assert "3 of 4 tokens right. Token 3: the model says 3 with probability 0.75" in explorer.page()

    def test_markup_in_labels_stays_text(self):
        rename = {7: "<b>x</b>", 5: "</script><script>alert(1)</script>", 6: '"&'}
        graph = {
            "edges": [[rename.get(a, a), rename.get(b, b)] for a, b in GRAPH["edges"]],
            "start": rename[7],
            "goal": rename[6],
            "path": [rename.get(label, label) for label in GRAPH["path"]],
            "arms": [[rename.get(label, label) for label in arm] for arm in GRAPH["arms"]],
        }
        html = PathExplorer(states(graph)).page()
        assert "<b>x</b>" not in html
        assert "alert(1)</script>" not in html
        assert html.count("<script") == html.count("</script>") == 2
        assert "&lt;b&gt;x&lt;/b&gt;" in html

    def test_its_data_are_json_and_point_to_the_clues(self):
        html = PathExplorer(states()).page()
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
        said = data["objectives"][0]["shown"][0][1][2]
        assert said[:3] == [3, 0.75, 0.75]
        assert data["clues"][said[3]][1] == ["e4"]
        alone = data["objectives"][0]["alone"][0][1][2]
        assert data["clues"][alone[3]][1] == ["e2"], "alone, the cheat follows the model's own wrong token"

    def test_loads_nothing(self):
        html = PathExplorer(states()).page()
        assert not re.search(r"""(src|href)=|https?://|url\(|@import""", html)

    def test_wrong_shapes_are_refused(self):
        bad = states()
        bad["objectives"][1]["predictions"][0].pop()
        with pytest.raises(Refusal, match="'reverse' must be"):
            PathExplorer(bad)

    def test_json_cannot_end_its_script(self):
        assert json.loads(json_for_html({"a": "</script><!--"})) == {"a": "</script><!--"}
        assert "<" not in json_for_html({"a": "</script><!--"})


class FakeModel:
    """Trains three steps, each when the test allows it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.kept = {}
        self.go = threading.Semaphore(0)
        self.ended = []

    def draw_graph(self):
        return {**GRAPH, "goal": 1, "path": [7, 2, 4, 1], "arms": [[2, 4, 1], [5, 3, 6]]}

    def train(self, objective, report):
        self.kept[objective] = []
        try:
            for step in (1, 2, 3):
                assert self.go.acquire(timeout=10)
                if self.error:
                    raise self.error
                self.kept[objective].append(step)
                report(step, 3)
            self.ended.append("done")
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise

    def checkpoints(self, objective):
        return list(self.kept.get(objective, []))

    def predict(self, objective, graph, step, alone):
        path = graph["path"] if objective != "reverse" else graph["path"][::-1]
        return row(path, 0.25 * step)


class TestLive:
    def test_both_faces_are_offered(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        bundle = PathExplorer(states(), live=FakeModel)._repr_mimebundle_()
        assert {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"} == set(bundle)

    def test_a_page_build_has_no_widget_state(self, monkeypatch):
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert "text/html" in PathExplorer(states(), live=FakeModel)._repr_mimebundle_()
        assert len(PathExplorer(states(), live=FakeModel)._repr_mimebundle_()) == 2

    def test_without_a_live_model_the_page_face_serves_jupyter_too(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        assert len(PathExplorer(states())._repr_mimebundle_()) == 2

    def test_controls_move_the_picture(self):
        view = PathView(states(), FakeModel)
        assert "says 3 with probability 0.75" in view.picture.value
        view.step.value = 0
        assert "step 0: 1 of 4 tokens right" in view.picture.value
        view.objective.value = 1
        assert "Reversed, step 1,000: 4 of 4" in view.picture.value
        view.token.value = 1
        assert "copied from the query" in view.picture.value
        assert view.alone.disabled

    def test_training_shows_progress_and_then_the_live_answers(self):
        model = FakeModel()
        view = PathView(states(), lambda: model)
        view.train_button.click()
        assert view.train_button.description == "Stop"
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        wait_for(lambda: "step 1: 4 of 4" in view.picture.value)
        model.go.release(2)
        wait_for(lambda: "Training done" in view.status.value)
        assert view.train_button.description == "Train"
        assert view.step.max == 2
        assert "3 (live)" in view.when.value

    def test_pressing_again_cancels(self):
        model = FakeModel()
        view = PathView(states(), lambda: model)
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "step 1 of 3" in view.status.value)
        view.train_button.click()
        assert "stopped" in view.status.value
        model.go.release(2)
        wait_for(lambda: model.ended == ["Cancelled"])
        assert "stopped" in view.status.value, "a stale training stays silent"

    def test_another_objective_cancels_and_a_new_training_waits_for_the_stale_one(self):
        model = FakeModel()
        view = PathView(states(), lambda: model)
        view.train_button.click()
        wait_for(lambda: "next_token" in model.kept)
        view.objective.value = 1
        assert "cancelled" in view.status.value
        view.train_button.click()
        assert "reverse" not in model.kept
        model.go.release(4)
        wait_for(lambda: "Training done" in view.status.value)
        assert model.ended == ["Cancelled", "done"]

    def test_an_error_is_shown_and_escaped(self):
        model = FakeModel(error=RuntimeError("no <memory>"))
        view = PathView(states(), lambda: model)
        view.train_button.click()
        model.go.release()
        wait_for(lambda: "Training failed" in view.status.value)
        assert "RuntimeError: no &lt;memory&gt;" in view.status.value
        assert view.train_button.description == "Train"

    def test_a_live_model_that_cannot_be_made_says_so(self):
        def broken():
            raise OSError("no weights here")

        view = PathView(states(), broken)
        view.draw_button.click()
        assert "no weights here" in view.status.value
        assert "Teacher forcing" in view.picture.value, "the recorded picture stays"

    def test_a_new_graph_waits_for_a_training(self):
        model = FakeModel()
        view = PathView(states(), lambda: model)
        view.draw_button.click()
        assert view.graph.label == "drawn 1"
        assert "press Train" in view.status.value
        view.train_button.click()
        model.go.release(3)
        wait_for(lambda: "Training done" in view.status.value)
        assert "goal 1" in view.picture.value


def test_costs_that_nobody_measured_stand_as_their_profiles_tell_them(tmp_path, monkeypatch):
    monkeypatch.setenv("NTF_STORE", str(tmp_path / "data"))
    chapter = tmp_path / "notebooks" / "toy"
    (chapter / "profiles").mkdir(parents=True)
    for name, cost in [("gpu", "an estimate: 2 h"), ("smoke", "seconds")]:
        (chapter / "profiles" / f"{name}.yaml").write_text(f"# cost:     {cost}\n# machine:  one GPU\n\nseeds: 3\n")
    table = estimated_costs(tmp_path / "notebooks")
    assert table.reset_index().to_numpy().tolist() == [["toy", "gpu", "an estimate: 2 h", "one GPU"]]
