"""What the reader sees of concept guidance: the figures, and the explorer with its two faces."""

import json
import os
import re
import shutil
import threading

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from waiting import wait_for

from ntf_utils.papers.concept_guidance.recorded import recorded_states
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, experiment, sweep
from ntf_utils.show import GuidanceExplorer, guidance_figures
from ntf_utils.show.guidance_live import GuidanceView
from ntf_utils.show.newest import Newest

SCORED = ("truth", "humor")
GRIDS = {"norm": [-2.0, -1.0, 0.0, 1.0, 2.0], "residual": [-0.4, -0.1, 0.0, 0.1, 0.4]}
PROMPTS = ["tell me about <b>arun</b> .", "</script><script>document.title = 'broken'</script>", "why ?"]


def text(word, strength, prompt):
    return {"tokens": [word, "<i>&</i>", f"s{strength:g}", f"p{prompt}"], "tint": [80, 0, -80, 20], "scores": [100, -1]}


def guide(concept="truth", probe="difference", site="residual"):
    strengths = GRIDS[site]
    return {
        "concept": concept, "probe": probe, "site": site, "layers": [1, 2], "accuracy": 0.9, "pnes": 0.31,
        "null_pnes": 0.08, "strengths": strengths, "perplexity": [40.0, 5.0, 4.0, 5.0, 40.0], "parsed": [1.0] * 5,
        "scores": {"truth": [0.2, 0.3, 0.5, 0.7, 0.6], "humor": [0.5] * 5},
        "null": {"low": [0.4] * 5, "high": [0.6] * 5}, "by_layer": [0.5, 0.7, 0.9],
        "texts": [[text(f"{concept}_{probe}", s, n) for n in range(len(PROMPTS))] for s in strengths],
    }  # fmt: skip


def states(*guides):
    made = list(guides) or [guide(), guide(site="norm"), guide(probe="logistic"), guide("humor")]
    return {"concepts": [{"name": name, "title": name.capitalize()} for name in SCORED], "prompts": PROMPTS,
            "guides": made}  # fmt: skip


class TestPage:
    def test_begins_where_the_guide_does_most_to_fluent_text(self):
        html = GuidanceExplorer(states()).page()
        assert "strength +0.1: mean score 70 % (unguided 50 %), perplexity of good answers 1.25 times" in html
        assert "s0.1" in html and ">s0.4<" not in html

    def test_markup_of_prompts_and_texts_stays_text(self):
        html = GuidanceExplorer(states()).page()
        assert "<b>arun</b>" not in html and "<i>&</i>" not in html and "<i>&amp;" not in html
        assert html.count("<script") == html.count("</script>") == 2
        assert "&lt;b&gt;arun&lt;/b&gt;" in html and "&lt;i&gt;&amp;&lt;/i&gt;" in html

    def test_its_data_hold_every_text_once_in_words(self):
        html = GuidanceExplorer(states()).page()
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
        assert len(set(data["words"])) == len(data["words"])
        numbers, scores = data["guides"][3]["texts"][0][2]
        assert [data["words"][number] for number in numbers[::2]] == text("humor_difference", -0.4, 2)["tokens"]
        assert numbers[1::2] == [80, 0, -80, 20] and scores == [100, -1]
        assert data["guides"][1]["kind"] == [0, 0, 1]

    def test_loads_nothing_and_stays_small(self):
        many = [guide(c, p, s) for c in SCORED for p in ("logistic", "difference", "principal") for s in GRIDS]
        html = GuidanceExplorer(states(*many)).page()
        assert not re.search(r"""(src|href)=|https?://|url\(|@import""", html)
        assert len(html.encode()) < 100_000

    def test_the_text_form_is_short(self):
        assert repr(GuidanceExplorer(states())).splitlines() == [
            "Guidance explorer: 4 guides, 3 prompts; highest PNES (null):",
            "  truth: 0.31 (0.08) by difference, residual, layers 1, 2",
            "  humor: 0.31 (0.08) by difference, residual, layers 1, 2",
        ]

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"guides": []}, "no guide or no prompt"),
            ({"guides": [guide(), guide()]}, "is there twice"),
            ({"guides": [guide("polite")]}, "for a concept without a score"),
            ({"guides": [guide() | {"perplexity": [1.0]}]}, "every list must have 5 strengths"),
            ({"prompts": ["one"]}, "every strength must have 1 texts"),
            ({"concepts": [{"name": "truth", "title": "T"}]}, "a text needs 1 scores"),
        ],
    )
    def test_states_that_do_not_fit_are_refused(self, change, sentence):
        with pytest.raises(Refusal, match=sentence):
            GuidanceExplorer(states() | change)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SHOWN = """() => [...document.querySelectorAll('.said p')].map((said) => said.innerText.trim())"""


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        missing = "no chromium on this machine: the page is not looked at (apt-get install chromium)"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """The explorer twice on one page, without any network."""
    html = GuidanceExplorer(states()).page()
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><title>whole</title>{html}{html}")
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    context.close()
    assert not problems


class TestBrowser:
    def test_keyboard_prompt_and_choices_move_the_picture(self, page):
        slider = page.locator("input[type=range]").first
        slider.focus()
        slider.press("Home")
        assert page.evaluate(SHOWN)[:2] == ["truth_difference <i>&</i> s0 p0", "truth_difference <i>&</i> s-0.4 p0"]
        slider.press("ArrowRight")
        assert page.evaluate(SHOWN)[1] == "truth_difference <i>&</i> s-0.1 p0"
        page.locator("select").first.select_option(index=1)
        assert page.evaluate(SHOWN)[1] == "truth_difference <i>&</i> s-0.1 p1"
        page.locator("[data-choice=site]").nth(1).check()
        assert page.evaluate(SHOWN)[1] == "truth_difference <i>&</i> s-1 p1"
        page.locator("[data-choice=concept]").nth(1).check()  # has one guide only, of the other site
        assert page.evaluate(SHOWN)[1] == "humor_difference <i>&</i> s-0.1 p1"
        page.wait_for_function("document.querySelector('.reading').innerText.startsWith('Humor')")
        assert page.evaluate(SHOWN)[2:] == ["truth_difference <i>&</i> s0 p0", "truth_difference <i>&</i> s0.1 p0"]

    def test_words_marks_and_numbers_are_those_that_python_draws(self, page):
        before = page.locator(".guidance-panel").first.inner_html()
        slider = page.locator("input[type=range]").first
        slider.focus()
        slider.press("ArrowLeft")
        slider.press("ArrowRight")
        drawn = page.locator(".guidance-panel").first

        def shape(html):
            return page.evaluate(
                """html => { const at = document.createElement('div'); at.innerHTML = html;
                return [...at.querySelectorAll('.w, td, .fill, i, polyline, polygon, path, rect')].map((e) =>
                [e.tagName, [...e.classList].sort().join(' '), e.tagName === 'SPAN' ? e.innerText : e.textContent,
                 e.style.cssText.replace(/0(?=%)|[. ]/g, ''), e.getAttribute('points'), e.getAttribute('d')]); }""",
                html,
            )

        assert shape(drawn.inner_html()) == shape(before)

    def test_nothing_that_a_text_says_is_run(self, page):
        page.locator("select").first.select_option(index=1)
        assert page.title() == "whole" and page.locator(".said b, .said i").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


class FakeModel:
    """Answers when the test allows it; the first answers of `errors` fail."""

    def __init__(self, *errors):
        self.errors, self.asked, self.go = list(errors), [], threading.Semaphore(0)

    def answer(self, concept, probe, site, strength, layers, positions, prompt):
        self.asked.append((concept, probe, site, round(strength, 3), layers, positions, prompt))
        assert self.go.acquire(timeout=10)
        if self.errors:
            raise self.errors.pop(0)
        return {
            "tokens": ["live", f"<b>{strength:.2f}</b>"], "tint": [99, -99], "plain": ["still"], "plain_tint": [0],
            "scores": {"truth": 0.75, "humor": None}, "plain_scores": {"truth": 0.5, "humor": None},
            "perplexity": 8.0, "plain_perplexity": 4.0, "top": [("<sep>", 0.5), ("sure", 0.25)],
        }  # fmt: skip


class TestLive:
    def test_both_faces_are_offered_and_only_one_in_a_book(self, monkeypatch):
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        assert len(GuidanceExplorer(states(), live=FakeModel)._repr_mimebundle_()) == 3
        assert len(GuidanceExplorer(states())._repr_mimebundle_()) == 2
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert len(GuidanceExplorer(states(), live=FakeModel)._repr_mimebundle_()) == 2

    def test_nothing_is_loaded_before_a_control_moves(self):
        def never():
            raise AssertionError("the model was loaded")

        view = GuidanceView(states(), never)
        assert "recorded" in view.status.value and "truth_difference" in view.picture.value

    def test_a_moved_strength_is_answered_by_the_model(self):
        model = FakeModel()
        view = GuidanceView(states(), lambda: model)
        view.strength.value = 0.2
        assert "Computing" in view.status.value
        model.go.release()
        wait_for(lambda: "live, " in view.status.value)
        assert model.asked == [("truth", "difference", "residual", 0.2, (1, 2), "all", PROMPTS[0])]
        shown = view.picture.value
        assert "&lt;b&gt;0.20&lt;/b&gt;" in shown and "<b>0.20</b>" not in shown and "&lt;sep&gt; <b>50 %</b>" in shown
        assert "strength +0.2: perplexity of good answers 8.00 (unguided 4.00)" in shown
        assert '<td class="after">75</td>' in shown and '<td class="after">–</td>' in shown
        assert 'class="now" d="M83.3 ' in shown  # a third of the way from 0.1 to 0.4

    def test_the_newest_request_wins(self):
        model = FakeModel()
        view = GuidanceView(states(), lambda: model)
        for strength in (0.1, 0.2, 0.3, 0.4):
            view.strength.value = strength
        wait_for(lambda: model.asked)
        model.go.release()  # of the first, which is overtaken
        wait_for(lambda: len(model.asked) == 2)
        assert "live" not in view.status.value and "0.10</b>" not in view.picture.value
        model.go.release()
        wait_for(lambda: "live, " in view.status.value)
        assert [asked[3] for asked in model.asked] == [0.1, 0.4], "those between are never begun"
        assert "0.40&lt;/b&gt;" in view.picture.value

    def test_other_guides_bring_their_own_strengths_and_layers(self):
        model = FakeModel()
        view = GuidanceView(states(), lambda: model)
        view.strength.value = 0.2
        view.site.value = "norm"
        assert (view.strength.min, view.strength.max, view.strength.value) == (-2, 2, 1)
        view.concept.value = "humor"
        assert view.site.options == (("residual stream", "residual"),) and view.strength.value == pytest.approx(0.2)
        view.layers.value = (0,)
        model.go.release(9)
        wait_for(lambda: "live, " in view.status.value)
        assert model.asked[-1] == ("humor", "difference", "residual", 0.2, (0,), "all", PROMPTS[0])
        assert "curves below are those of layers 1, 2" in view.picture.value

    def test_an_error_is_shown_escaped_and_then_forgotten(self):
        model = FakeModel(Refusal("the prompt is <empty>"))
        model.go.release(2)
        view = GuidanceView(states(), lambda: model)
        view.prompt.value = " "
        wait_for(lambda: "Refusal: the prompt is &lt;empty&gt;" in view.status.value)
        assert "alert" in view.status.value and "truth_difference" in view.picture.value, "the picture before stays"
        view.prompt.value = "why ?"
        wait_for(lambda: "live, " in view.status.value)

    def test_a_model_that_cannot_be_made_and_no_layers_at_all_are_told(self):
        def broken():
            raise OSError("no weights here")

        view = GuidanceView(states(), broken)
        view.strength.value = 0.1
        wait_for(lambda: "OSError: no weights here" in view.status.value)
        view.layers.value = ()
        wait_for(lambda: "choose at least one layer" in view.status.value)

    def test_an_error_in_showing_is_told_too(self):
        told = []
        Newest(lambda request: request, lambda answer: 1 / answer, told.append).ask(0)
        wait_for(lambda: told)
        assert isinstance(told[0], ZeroDivisionError)


class ShownConfig(Config):
    seed: int = 0


@experiment(version=1)
def write_states(config: ShownConfig) -> Outcome:
    """What `write_explorer` records, in small."""
    made = [guide(), guide("humor", "logistic", "norm")]
    kinds = [{name: g[name] for name in ("concept", "probe", "site")} for g in made]
    rows = [k | {"chosen": "1 2", "accuracy": 0.9, "pnes": 0.31, "null_pnes": 0.08} for k in kinds]
    lines = {"texts": [], "tradeoff": [], "layers": [], "null": []}
    for g, k in zip(made, kinds, strict=True):
        for at, strength in enumerate(g["strengths"]):
            measured = {name: values[at] for name, values in g["scores"].items()}
            lines["tradeoff"].append(
                k | {"strength": strength, **measured, "perplexity": g["perplexity"][at], "parse_rate": 1.0}
            )
            lines["null"].append({"site": k["site"], "concept": k["concept"], "strength": strength, "low": 0.4,
                                  "high": 0.6})  # fmt: skip
            for prompt, said in enumerate(g["texts"][at]):
                joined = {name: " ".join(map(str, said[name])) for name in ("tokens", "tint", "scores")}
                lines["texts"].append(k | {"strength": strength, "prompt": prompt, **joined})
        lines["layers"] += [k | {"layer": n, "accuracy": value} for n, value in enumerate(g["by_layer"])]
    curves = {name: pd.DataFrame(found).to_dict("list") for name, found in lines.items()}
    curves["prompts"] = {"prompt": [0, 1, 2], "text": PROMPTS}
    curves["concepts"] = {"concept": list(SCORED), "title": [name.capitalize() for name in SCORED]}
    return Outcome(rows, curves)


def test_states_come_from_a_recorded_run(tmp_path, monkeypatch):
    monkeypatch.setenv("NTF_STORE", str(tmp_path / "data"))
    table = sweep(write_states, [ShownConfig()], workers=0)
    expected = states(guide(), guide("humor", "logistic", "norm"))
    assert recorded_states(table) == expected
    GuidanceExplorer(recorded_states(table))
    both = sweep(write_states, [ShownConfig(), ShownConfig(seed=1)], workers=0)
    with pytest.raises(Refusal, match="one run of write_explorer"):
        recorded_states(both)


# --- figures

CONCEPTS, PROBES, SEEDS = ("truth", "humor", "random"), ("logistic", "difference", "principal"), range(3)


@pytest.fixture(scope="module")
def tables():
    """Invented runs: truth is guided by every probe, humor against its sign, random labels not at all."""
    noise = np.random.default_rng(0)
    effects = {"truth": 0.3, "humor": -0.2, "random": 0.0}
    layers, tradeoff, cells, cross, bands = [], [], [], [], []
    for seed in SEEDS:
        for concept in CONCEPTS:
            about = {"seed": seed, "concept": concept}
            for probe in PROBES:
                for site, grid in GRIDS.items():
                    kind = about | {"probe": probe, "site": site}
                    layers += [kind | {"layer": n, "held_out": 0.5 + 0.1 * n + 0.01 * noise.normal()} for n in range(3)]
                    for strength in grid:
                        x = strength / max(grid)
                        tradeoff.append(kind | {"top": 2, "strength": strength, "perplexity": 4 * np.exp(2 * x * x),
                                                "score": 0.5 + effects[concept] * np.tanh(3 * x)})  # fmt: skip
                    cells.append(kind | {"pnes": abs(effects[concept]), "pnes_pick": noise.random(), "pnes_95": 0.05,
                                         "accuracy": 0.8})  # fmt: skip
            for strength in GRIDS["norm"]:
                humor = 0.5 + effects[concept] * strength / 4 + 0.001 * seed * strength
                cross.append(about | {"strength": strength, "perplexity": 4.0, "truth": 0.5, "humor": humor})
        bands += [
            {"seed": seed, "site": site, "top": 2, "scored": scored, "strength": s, "low": 0.48, "high": 0.52,
             "perplexity": 4.0 + abs(s)}
            for site, grid in GRIDS.items() for scored in SCORED for s in grid
        ]  # fmt: skip
    flips = [
        {"seed": seed, "share": q, "cosine": 1 - 2 * q, "compliance": 0.2 * (1 - 2 * q), "appropriateness": 0.01}
        for seed in SEEDS for q in (0.1, 0.5, 0.9)
    ]  # fmt: skip
    return {name: pd.DataFrame(rows) for name, rows in
            {"layers": layers, "tradeoff": tradeoff, "cells": cells, "cross": cross, "bands": bands,
             "flips": flips}.items()}  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def titles(figure):
    return [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes if axes.get_visible()]


class TestFigures:
    def test_a_panel_a_concept_and_a_line_a_probe_and_site(self, tables):
        figure = guidance_figures.detection_by_layer(tables["layers"])
        figure.canvas.draw()
        assert titles(figure) == list(CONCEPTS)
        assert len(figure.axes[0].lines) == len(PROBES) * len(GRIDS) + 1  # and chance

    def test_curves_stand_beside_their_null(self, tables):
        figure = guidance_figures.tradeoff_curves(tables["tradeoff"], tables["bands"], "residual", 2, CONCEPTS)
        figure.canvas.draw()
        truth = figure.axes[0]
        line = next(line for line in truth.lines if line.get_label() == "difference in means")
        assert list(line.get_xdata()) == [-2, -1, 0, 1, 2]
        assert line.get_ydata()[-1] == pytest.approx(0.5 + 0.3 * np.tanh(3))
        assert truth.collections[0].get_label() == "random directions"

    def test_pnes_stands_beside_its_null(self, tables):
        figure = guidance_figures.pnes_by_concept(tables["cells"])
        figure.canvas.draw()
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(CONCEPTS)
        guidance_figures.detector_against_guide(tables["cells"]).canvas.draw()

    def test_the_matrix_says_what_is_sure(self, tables):
        figure = guidance_figures.cross_effect_matrix(tables["cross"], SCORED)
        figure.canvas.draw()
        written = [found.get_text() for found in figure.axes[0].texts]
        assert written == ["+0.00", "+0.30*", "+0.00", "−0.20*", "+0.00", "+0.00"]

    def test_one_seed_claims_nothing(self, tables):
        one = {name: table[table["seed"] == 0] for name, table in tables.items()}
        figure = guidance_figures.cross_effect_matrix(one["cross"], SCORED)
        assert not any("*" in found.get_text() for found in figure.axes[0].texts)
        for made in (
            guidance_figures.detection_by_layer(one["layers"]),
            guidance_figures.tradeoff_curves(one["tradeoff"], one["bands"], "norm", 2, CONCEPTS),
            guidance_figures.pnes_by_concept(one["cells"]),
            guidance_figures.sign_flip(one["flips"]),
        ):
            made.canvas.draw()

    def test_the_sweep_of_shares_and_the_fits(self, tables):
        figure = guidance_figures.sign_flip(tables["flips"])
        figure.canvas.draw()
        assert titles(figure)[0] == "cosine with compliance"
        one = tables["tradeoff"].query("seed == 0 and probe == 'logistic' and site == 'norm'")
        figure = guidance_figures.fitted_curves(dict(iter(one.groupby("concept", sort=False))))
        figure.canvas.draw()
        told = [found.get_text() for found in figure.axes[0].texts]
        assert told[0].startswith("R² = 0.9") or told[0] == "R² = 1.00"
        assert figure.axes[2].texts[0].get_text() == "flat"
