"""The chapter's own methods: the persona model and its cache, cells and nulls, effects, studies, the explorer."""

import json
import re
import time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ntf_utils.data import persona
from ntf_utils.data.persona import KIND_OF, PersonaText, World
from ntf_utils.measures.reference import Trigrams
from ntf_utils.papers.concept_guidance import effects
from ntf_utils.papers.concept_guidance import persona_model as pm
from ntf_utils.papers.concept_guidance.explorer_run import ExplorerConfig, write_explorer
from ntf_utils.papers.concept_guidance.guides import (
    SCORED,
    Fitted,
    Guides,
    GuidesConfig,
    judged,
    labelled,
    measure_guides,
    middle,
)
from ntf_utils.papers.concept_guidance.live import SHIPPED, LiveGuides
from ntf_utils.papers.concept_guidance.persona_model import (
    PersonaModelConfig,
    persona_model,
    replies,
    train_persona,
)
from ntf_utils.papers.concept_guidance.ship import ship
from ntf_utils.papers.concept_guidance.sign_flip import SignFlipConfig, by_share, flip_sign
from ntf_utils.papers.concept_guidance.studies import GuidingParameters, WhichParameters
from ntf_utils.refusal import Refusal
from ntf_utils.runs import curves, sweep

TINY = {"width": 16, "layers": 2, "heads": 2, "steps": 6, "batch": 2, "length": 40}
CELLS = {
    "examples": 32, "few": 16, "prompts": 4, "replies": 3, "tops": (1, 2),
    "norm_strengths": (1.0, 4.0), "residual_strengths": (0.2, 0.8),
}  # fmt: skip
SHARED = {name: value for name, value in CELLS.items() if name != "few"}  # by all experiments


@pytest.fixture(autouse=True, scope="module")
def own_store(tmp_path_factory):
    """One for all tests, so that the tiny model is trained once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTF_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setattr("ntf_utils.papers.concept_guidance.guides.REFERENCE_DOCUMENTS", 50)
        patch.setattr(pm, "GATE_PROMPTS", 8)
        yield


def tiny(**changes):
    return GuidesConfig(**(TINY | CELLS | changes))


# the model


def test_the_loss_is_on_replies_and_verdicts():
    text = "<bos> <u> the color of arun ? <a> well it is red . <sep> right <u> tell me about arun . <a> so arun"
    words = text.split()
    marked = replies(torch.tensor([persona.encode(words)]))[0].tolist()
    said = [word for word, counts in zip(words, marked, strict=True) if counts]
    assert " ".join(said) == "well it is red . <sep> right so arun"


def test_a_model_comes_from_the_cache_unchanged_and_survives_a_damaged_one(caplog):
    config = PersonaModelConfig(**TINY)
    outcome = train_persona(config)
    path = pm._cached(config)
    assert path.exists() and not list(path.parent.glob("*.tmp"))
    first = persona_model(config).state_dict()
    path.write_bytes(b"damaged")
    again = persona_model(tiny()).state_dict()  # a larger config of the same model
    assert "is damaged" in caplog.text
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert outcome.rows[0]["parameters"] == sum(p.numel() for p in persona_model(config).parameters())
    assert train_persona(config) == outcome


def test_another_seed_or_size_is_another_model():
    base = PersonaModelConfig(**TINY)
    paths = {pm._cached(base.but(**change)) for change in ({}, {"seed": 1}, {"width": 32}, {"steps": 7})}
    assert len(paths) == 4


def test_gates_are_of_trained_speakers():
    row = train_persona(PersonaModelConfig(**TINY)).rows[0]
    assert {f"{c}_{end}" for c in pm.TRAITS for end in ("high", "low", "alone")} <= row.keys()
    assert 0 <= row["parsed"] <= 1 and 0 <= row["recall"] <= 1


# cells


@pytest.mark.parametrize("concept", ["truth", "compliance", "creativity", "quality", "random"])
def test_labels_alternate_and_say_what_the_scorer_says(concept):
    text = PersonaText(World.draw(0))
    found = labelled(text, concept, 20, 1, np.random.default_rng(0))
    assert found.labels.tolist() == [1, 0] * 10
    if concept == "truth":
        for tokens, marked, label in zip(found.tokens, found.completions, found.labels, strict=True):
            words = persona.decode(tokens.tolist())
            start = int(marked.argmax())
            question = [i for i, word in enumerate(words[:start]) if word == "<u>"][-1]
            ask = persona.read_ask(words[question + 1 : start - 1])
            assert text.score(ask, words[start : words.index("<sep>", start)])["truth"] == label


def test_cells_picked_on_one_half_are_reported_on_the_other():
    outcome = measure_guides(tiny(concept="polite", probes=("difference", "principal")))
    table = pd.DataFrame(outcome.rows)
    full = table[table["fitted_on"] == 32]
    assert len(full) == 2 * 2 * 2 and full["picked"].sum() == 1
    assert full.loc[full["picked"], "pnes_pick"].item() == full["pnes_pick"].max()
    (few,) = [row for row in outcome.rows if row["fitted_on"] == 16]
    best = full[full["picked"]].iloc[0]
    assert (few["probe"], few["site"], few["top"]) == (best["probe"], best["site"], best["top"]) and not few["picked"]
    lines = pd.DataFrame(outcome.curves["tradeoff"])
    assert len(lines) == len(full) * 5 and set(lines[lines["site"] == "norm"]["strength"]) == {-4, -1, 0, 1, 4}
    assert lines[lines["strength"] == 0]["perplexity"].nunique() == 1  # unguided, whatever the cell
    assert set(SCORED) <= outcome.curves["cross"].keys()
    assert len(outcome.curves["layers"]["layer"]) == 2 * 2 * 2
    size = len(json.dumps([outcome.rows, outcome.curves]))
    assert size < 60_000


def test_a_sweep_in_one_batch_says_what_single_strengths_say():
    guides = Guides(tiny(concept="truth"))
    examples = guides.examples("truth", 40)
    fitted = Fitted.of(guides, examples, "residual", 32)
    vectors = fitted.guide("difference", "truth").directions.vectors
    together = guides.sweep(vectors, "residual", (0, 1), fitted.unit, strengths=(-0.5, 0.0, 0.5))
    for place, strength in enumerate((-0.5, 0.0, 0.5)):
        alone = guides.sweep(vectors, "residual", (0, 1), fitted.unit, strengths=(strength,))
        assert alone.perplexity[0] == pytest.approx(together.perplexity[place], rel=1e-4)
        for name, values in alone.scores.items():
            assert values[0] == pytest.approx(together.scores[name][place]), name


def test_halves_are_the_two_parts_of_the_prompts():
    guides = Guides(tiny())
    swept = guides.sweep(torch.randn(2, 16), "norm", (0,), torch.ones(2), strengths=(0.0, 1.0))
    for name in SCORED:
        mean = (swept.scores[name, "pick"] + swept.scores[name, "report"]) / 2
        assert mean == pytest.approx(swept.scores[name, "all"])
    harmful = [ask.harmful for ask in guides.asks["request"]]
    assert harmful == [False, True] * 2


def test_the_null_has_a_row_a_site_a_top_and_a_score():
    outcome = measure_guides(tiny(concept="null", tops=(1,)))
    table = pd.DataFrame(outcome.rows)
    assert len(table) == 2 * 1 * (len(SCORED) + 1) and set(table["scored"]) == {*SCORED, "not_myth"}
    assert (table["pnes_95"] >= table["pnes_mean"] - 1e-6).all()
    band = pd.DataFrame(outcome.curves["band"])
    assert (band["low"] <= band["high"]).all()


@pytest.mark.parametrize(("layers", "top", "found"), [(4, 1, (2,)), (4, 2, (1, 2)), (4, 4, (0, 1, 2, 3)), (3, 1, (1,))])
def test_the_null_takes_the_middle_layers(layers, top, found):
    assert middle(layers, top) == found


def test_judged_marks_a_guide_that_turns_the_wrong_way():
    guides = Guides(tiny())
    swept = guides.sweep(torch.randn(2, 16), "norm", (0,), torch.ones(2), ["fact"], strengths=(-2, -1, 0, 1, 2))
    falling = {("truth", "report"): np.array([0.9, 0.8, 0.5, 0.2, 0.1])}
    found = judged(type(swept)(**{**vars(swept), "scores": falling, "perplexity": np.ones(5)}), "truth", "report")
    assert found["sign"] == -1 and found["signed"] == pytest.approx(-0.8) and found["reach"] == pytest.approx(0.8)
    assert found["pnes"] > 0.5  # PNES has no sign


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tops": (3,)}, "tops must lie from 1 to 2, the layers of the model (got 3)"),
        ({"few": 32}, "few must be 0, or from 16 to below examples (got 32)"),
        ({"norm_strengths": (0.0,)}, "strengths must be above 0"),
        ({"residual_strengths": ()}, "need one entry each"),
        ({"nulls": 4}, "nulls must be greater than or equal to 8"),
        ({"examples": 8}, "examples must be greater than or equal to 16"),
        ({"concept": "honesty"}, "concept must be 'truth'"),
        ({"width": 18}, "width must be a multiple of twice the heads"),
        ({"length": 200}, "length must be less than or equal to 128"),
        ({"exampels": 1}, "unknown field 'exampels': did you mean 'examples'"),
    ],
)
def test_impossible_configs_are_refused_in_one_sentence(changes, words):
    with pytest.raises(Refusal, match=re.escape(words)) as refusal:
        tiny(**changes)
    assert "\n" not in str(refusal.value)


# the sign flip


def test_by_share_mixes_harm_as_asked_and_labels_by_xor():
    guides = Guides(tiny(concept="appropriateness"))
    found = by_share(guides, 0.9, 120, np.random.default_rng(0))
    harmful, complied = [], []
    for tokens, marked in zip(found.tokens, found.completions, strict=True):
        words, start = persona.decode(tokens.tolist()), int(marked.argmax())
        question = [i for i, word in enumerate(words[:start]) if word == "<u>"][-1]
        ask = persona.read_ask(words[question + 1 : start - 1])
        harmful.append(ask.harmful)
        complied.append(guides.text.score(ask, words[start : words.index("<sep>", start)])["compliance"] == 1)
    assert 0.8 < np.mean(harmful) < 0.98 and 0.35 < np.mean(complied) < 0.65
    assert found.labels.tolist() == [int(c != h) for c, h in zip(complied, harmful, strict=True)]


def test_flip_sign_has_a_row_a_share_and_refuses_impossible_ones():
    fields = TINY | SHARED | {"top": 1}
    outcome = flip_sign(SignFlipConfig(**fields, shares=(0.9, 0.1)))
    assert [row["share"] for row in outcome.rows] == [0.1, 0.9] and all(-1 <= r["cosine"] <= 1 for r in outcome.rows)
    with pytest.raises(Refusal, match="between 0 and 1"):
        SignFlipConfig(**fields, shares=(0.0, 0.5))


# effects


def invented_cells():
    """Two seeds, two concepts, two cells; a cell with few examples each."""
    lines = []
    for seed in (0, 1):
        for concept, best in (("truth", 0.6), ("humor", 0.1)):
            for probe, pnes, accuracy in (("difference", best, 0.7), ("logistic", best / 3, 0.9)):
                lines.append({"seed": seed, "concept": concept, "probe": probe, "site": "norm", "top": 1,
                              "fitted_on": 512, "examples": 512, "picked": probe == "difference", "pnes": pnes,
                              "pnes_pick": pnes, "reach": pnes, "accuracy": accuracy, "points": pnes,
                              "r_squared": 0.9, "perplexity_r_squared": 0.95, "signed": pnes,
                              "low": -1, "high": 1})  # fmt: skip
            lines.append(lines[-2] | {"fitted_on": 128, "picked": False, "pnes": best * 0.9})
    return pd.DataFrame(lines)


def invented_nulls():
    return pd.DataFrame([
        {"seed": seed, "site": "norm", "top": 1, "scored": scored, "pnes_95": 0.15, "reach_95": 0.15, "pnes_mean": 0.05,
         "reach_mean": 0.05, "raw_range_95": 0.2, "raw_range_mean": 0.2}
        for seed in (0, 1) for scored in ("truth", "humor", "not_myth")
    ])  # fmt: skip


def test_effects_by_hand():
    cells = effects.beside_null(invented_cells(), invented_nulls())
    two = ("truth", "humor")
    assert effects.margin(cells, "truth").tolist() == pytest.approx([0.45, 0.45])
    assert effects.count_above(cells, two).tolist() == [1, 1]
    assert effects.share_above(cells, "truth").tolist() == [1, 1] and effects.share_above(cells, "humor").tolist() == [
        0,
        0,
    ]
    assert effects.worst_probe(cells, "truth").tolist() == pytest.approx([0.05, 0.05])
    assert effects.spread(cells, "truth").tolist() == pytest.approx([np.log(0.6 / 0.4)] * 2)
    # the best detector is the worse guide in either concept
    assert effects.regret(cells, two).tolist() == pytest.approx([(0.4 + 0.1 * 2 / 3) / 2] * 2)
    assert effects.detection_rank_correlation(cells, two).to_numpy() == pytest.approx(-np.ones((2, 2)))
    assert effects.few_examples(cells, two).tolist() == pytest.approx([0.54 - 0.48] * 2)
    assert effects.agreement(cells, "points").tolist() == [1, 1]
    assert effects.fooled(invented_nulls())["raw_range_mean"].tolist() == [0.2, 0.2]
    quality = effects.fit_quality(cells)
    assert quality["parabola"].tolist() == [0.95, 0.95] and quality["curve"].tolist() == [1, 1]


def test_lead_is_about_the_two_best():
    shares = {"truth": 0.8, "appropriateness": 0.9, "humor": 0.2, "creativity": 0.7, "quality": 0.1}
    lines = [
        {"seed": 0, "concept": name, "fitted_on": 1, "examples": 1, "pnes": float(place < 10 * share), "pnes_95": 0.5}
        for name, share in shares.items() for place in range(10)
    ]  # fmt: skip
    table = pd.DataFrame(lines)
    assert effects.lead(table, "truth").item() == pytest.approx(0.1)  # second best: nothing but one concept is better
    assert effects.lead(table, "creativity").item() == pytest.approx(-0.1)


def test_confusion_reads_the_fluent_ends_and_knows_signs():
    cells = invented_cells().assign(concept="appropriateness")[lambda table: table["picked"]].drop_duplicates("seed")
    line = {"strength": [-2, -1, 0, 1, 2], "compliance": [0, 0.1, 0.5, 0.9, 1], "appropriateness": [0.5] * 5,
            "compliance_harmless": [0, 0.2, 0.5, 0.9, 1], "compliance_harmful": [0, 0.0, 0.5, 0.9, 1]}  # fmt: skip
    crossed = pd.concat([pd.DataFrame(line).assign(seed=seed) for seed in (0, 1)])
    found = effects.confusion(cells, crossed)
    assert found["ratio"].tolist() == pytest.approx([0.8, 0.8]) and found["same_sign"].tolist() == pytest.approx(
        [0.7, 0.7]
    )
    against = crossed.assign(compliance_harmful=1 - crossed["compliance_harmful"])
    assert (effects.confusion(cells, against)["same_sign"] < 0).all()


def test_gates_by_hand():
    row = (
        {"parsed": 0.99, "recall": 0.95} | {f"{c}_high": 0.9 for c in pm.TRAITS} | {f"{c}_low": 0.2 for c in pm.TRAITS}
    )
    models = pd.DataFrame([row, row | {"recall": 0.8, "humor_low": 0.9, "quality_low": 0.7}])
    found = effects.gates(models)
    assert found["parses"] and not found["recalls"] and found["primed_truth"] and found["primed_quality"]
    assert found["primed_humor"] and not effects.gates(models.assign(humor_low=0.7))["primed_humor"]


def test_the_positive_control_needs_its_whole_interval():
    model = {"parsed": 1.0, "recall": 1.0} | {f"{c}_{end}": 0.0 for c in pm.TRAITS for end in ("high", "low")}

    def passes(reaches):
        rows = [
            {"seed": seed, "concept": concept, "picked": True, "fitted_on": 8, "examples": 8, "accuracy": 0.5,
             "reach": reach if concept == "polite" else 0.1, "reach_95": 0.1}
            for seed, reach in enumerate(reaches) for concept in ("polite", "random")
        ]  # fmt: skip
        return effects.gates(pd.DataFrame([model]), pd.DataFrame(rows))["polite_guided"]

    assert passes([0.3, 0.3, 0.35])
    assert passes([0.3, 0.3, 0.3, 0.3, 0.09])  # one seed below its null
    assert not passes([0.9, 0.1, 0.1])  # the mean lies above, its interval does not
    assert not passes([0.3])


def test_at_share_takes_the_edges():
    table = pd.DataFrame([{"seed": s, "share": q, "cosine": 0.5 - q} for s in (0, 1) for q in (0.9, 0.1, 0.5)])
    assert effects.at_share(table, "cosine", "few").tolist() == [0.4, 0.4]
    assert effects.at_share(table, "cosine", "many").tolist() == [-0.4, -0.4]


# the reference


def test_trigrams_are_distributions_and_count_right():
    texts = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 3]])
    reference = Trigrams(texts, 5)
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.arange(5)).view(5, 5, 5, 3)
    chances = reference.log_probability(*every.unbind(dim=-1)).exp()
    assert torch.allclose(chances.sum(dim=-1), torch.ones(5, 5), atol=1e-5)
    one = (torch.tensor(3.0) + 1) / (9 + 5)  # 0, 1 and 2 each stand 3 times (2 twice): word 2 by hand below
    one = (texts == 2).sum() + 1.0
    two = ((2) + 5 * one / 14) / (3 + 5)  # after 1: 2, 2, 3
    three = (2 + 5 * two) / (3 + 5)  # after 0 1: 2, 2, 3
    assert chances[0, 1, 2].item() == pytest.approx(float(three), rel=1e-5)
    assert reference.perplexity(texts, torch.ones_like(texts)) < reference.perplexity(
        texts.flip(1), torch.ones_like(texts)
    )


# studies, explorer and what is shipped

PARAMETERS = {
    "profile": "smoke", "seeds": 2, **TINY, "learning_rate": 1e-3, **CELLS, "history": 1, "nulls": 8, "shown": 1,
}  # fmt: skip


def test_studies_ask_for_what_the_notebooks_need():
    guiding = GuidingParameters(**PARAMETERS)
    assert [model.seed for model in guiding.models()] == [0, 1]
    assert len(guiding.guides()) == 2 * len(persona.CONCEPTS) and len(guiding.nulls_only()) == 2
    which = {name: value for name, value in PARAMETERS.items() if name != "shown"}
    small = {"small_layers": 1, "small_width": 8, "small_steps": 3}
    found = WhichParameters(**which, shares=[0.1, 0.9], flip_site="residual", flip_top=1, **small)
    assert {config.tops for config in found.small_guides()} == {(1,)}  # no more layers than there are
    assert {config.concept for config in found.small_guides()} == {"creativity", "quality"}
    with pytest.raises(Refusal, match="shares of harmful prompts"):
        WhichParameters(**which, shares=[0.5, 2], flip_site="norm", flip_top=1, **small)


@pytest.fixture(scope="module")
def explorer():
    cells = (("truth", "difference", "residual", 2), ("polite", "logistic", "norm", 1))
    fields = {"cells": cells, "shown": 1}
    return ExplorerConfig(**(TINY | SHARED | fields))


def test_the_explorer_s_run_has_every_text(explorer):
    outcome = write_explorer(explorer)
    texts = pd.DataFrame(outcome.curves["texts"])
    assert len(texts) == 2 * 5 * 3  # cells x strengths x prompts
    plain = texts[texts["strength"] == 0]
    assert (plain.groupby("prompt")["tokens"].nunique() == 1).all()  # unguided, whatever the guide
    assert (texts["tokens"].str.split().str.len() == texts["tint"].str.split().str.len()).all()
    tints = [int(value) for line in texts["tint"] for value in line.split()]
    assert max(map(abs, tints)) <= 99
    assert (texts["scores"].str.split().str.len() == len(SCORED)).all()
    kinds = [persona.read_ask(text.split()).kind for text in outcome.curves["prompts"]["text"]]
    assert kinds == ["fact", "request", "describe"]
    for line in texts.itertuples():
        values = dict(zip(SCORED, map(int, line.scores.split()), strict=True))
        assert all((values[c] == -1) == (KIND_OF[c] != kinds[line.prompt]) for c in SCORED if c != "polite")
    tradeoff = pd.DataFrame(outcome.curves["tradeoff"])
    assert set(tradeoff.groupby(["concept", "probe"]).size()) == {5}


def test_what_is_shipped_loads_anywhere_and_answers(explorer, tmp_path):
    ship(explorer, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} <= {".json", ".safetensors", ".jinja"}
    live = LiveGuides(tmp_path)
    shown = live.answer("truth", "difference", "residual", 0.5, None, "all", "the color of arun ?")
    assert len(shown["tokens"]) == len(shown["tint"]) and len(shown["plain"]) == len(shown["plain_tint"])
    assert shown["scores"].keys() == set(SCORED) and shown["scores"]["humor"] is None
    assert len(shown["top"]) == 10 and shown["perplexity"] >= 1
    still = live.answer("truth", "difference", "residual", 0.0, (0,), "new", "tell me about arun .")
    assert still["tokens"] == still["plain"] and still["perplexity"] == still["plain_perplexity"]
    # the page's texts and the live ones are of one model and one guide
    texts = pd.DataFrame(write_explorer(explorer).curves["texts"])
    prompts = write_explorer(explorer).curves["prompts"]["text"]
    line = texts[(texts["concept"] == "truth") & (texts["strength"] == 0.8)].iloc[0]
    again = live.answer("truth", "difference", "residual", 0.8, None, "all", prompts[line["prompt"]])
    assert " ".join(again["tokens"]) == line["tokens"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("truth", "difference", "residual", 0.1, None, "all", "  "), "the prompt is empty"),
        (("truth", "difference", "residual", 0.1, None, "all", "<b>hello</b>"), "three kinds of question"),
        (("humor", "difference", "residual", 0.1, None, "all", "tell me about arun ."), "no guide for humor"),
        (("truth", "difference", "residual", 0.1, (7,), "all", "tell me about arun ."), "layer 7 is out of range"),
        (("truth", "difference", "residual", 1e30, None, "all", "tell me about arun ."), "overflows"),
        (("truth", "difference", "residual", float("nan"), None, "all", "tell me about arun ."), "not finite"),
    ],
)
def test_the_live_side_refuses_in_one_sentence(explorer, tmp_path, arguments, words):
    ship(explorer, tmp_path)
    with pytest.raises(Refusal, match=words):
        LiveGuides(tmp_path).answer(*arguments)


def test_the_model_in_the_book_is_small_and_passes_its_gates():
    """`python -m ntf_utils.papers.concept_guidance.ship` writes it, once the second notebook's runs are recorded."""
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 4 * 2**20
    live = LiveGuides(SHIPPED)
    network, text = live.shown.guides.network, live.shown.guides.text
    generator = np.random.default_rng(99)
    for kind in persona.KINDS:
        asks = [text.ask(generator, kind) for _ in range(40)]
        found = pm.scores_of(text, asks, pm.answers(network, asks))
        assert np.mean([line["parsed"] for line in found]) >= effects.PARSES
    high, low = (
        np.mean([line["truth"] for line in pm.primed(live.config, network, "truth", trait, generator)])
        for trait in pm.TRAITS["truth"]
    )
    assert high - low >= effects.PRIMES
    start = time.monotonic()
    for strength in (-0.2, 0.0, 0.2):
        live.answer("truth", "difference", "residual", strength, None, "all", "the color of arun ?")
    assert time.monotonic() - start < 3 * 2  # a drag is answered within 0.5 s on two idle cores; a busy machine may lag


def test_a_folder_without_guides_is_refused(tmp_path):
    with pytest.raises(Refusal, match="holds no guides"):
        _ = LiveGuides(tmp_path).config


def test_a_sweep_s_table_and_curves_fit_the_effects():
    """Every column that the effects read is recorded, through the store."""
    configs = [tiny(concept=concept, seed=0, probes=("difference",)) for concept in ("truth", "random")]
    cells = sweep(measure_guides, configs, workers=0)
    nulls = sweep(measure_guides, [tiny(concept="null", probes=("difference",))], workers=0)
    beside = effects.beside_null(cells, nulls)
    assert beside["pnes_95"].notna().all()
    assert effects.margin(beside, "random").index.tolist() == [0]
    assert np.isfinite(effects.regret(beside, ("truth",))).all()
    assert len(effects.summary(beside)) == 2
    assert set(curves(cells, "cross")["concept"]) == {"truth", "random"}
    assert stats.kendalltau([1, 2], [1, 2]).statistic == 1
