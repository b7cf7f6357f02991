# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
# %% [markdown]
# # Which concepts, which probes
#
# {doc}`02_guiding` made guides and measured them. The paper goes on to compare: some concepts are easy to guide and others are not, some are confused with their neighbours, and the probe that reads a concept best is not the one that guides best.
#
# **Question of this page:** what decides how well a guide works: the concept, the probe, the model?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
seeds: int = 5  # worlds, each with its own corpus and model
layers: int = 4  # of the Llama that is guided
width: int = 128  # 0.8 million parameters: small enough to ship one
heads: int = 4
length: int = 96  # words of a training document, about five turns
steps: int = 2400  # updates; the pilot's gates are passed from about 2,000 on
batch: int = 12  # documents an update; many small updates learn this text sooner than few large ones
learning_rate: float = 2e-3  # peak of a cosine
examples: int = 512  # labelled answers a probe is fitted to, as in the authors' code
few: int = 128  # of the second fit that claim C9 asks for
history: int = 2  # earlier turns of the same speaker before each labelled answer
prompts: int = 64  # of each kind, without history; half pick the cell, half report
replies: int = 48  # good answers whose perplexity says how fluent the guided model is
tops: list = [1, 2, 4]  # numbers of guided layers
norm_strengths: list = [0.25, 0.5, 1.0, 2.0, 4.0]  # at the norm, in median lengths of an activation; both signs
residual_strengths: list = [0.05, 0.1, 0.2, 0.4, 0.8]  # in the residual stream
nulls: int = 8  # random directions a cell
shares: list = [0.1, 0.3, 0.5, 0.7, 0.9]  # of harmful prompts among the examples of the appropriateness vector
flip_site: str = "residual"  # where those vectors guide
flip_top: int = 1
small_layers: int = 3  # of the smaller model that stands beside the larger one
small_width: int = 96
small_steps: int = 2100  # at 1,800 it had not learned creativity

# %% tags=["remove-input"]
from ntf_utils.papers.concept_guidance.any_model import AnyModelParameters
from ntf_utils.papers.concept_guidance.studies import GuidanceParameters, WhichParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), WhichParameters, also=[*GuidanceParameters.__subclasses__(), AnyModelParameters])

# %% tags=["hide-input"]
import inspect

import pandas as pd
from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.papers.concept_guidance import effects, sign_flip
from ntf_utils.papers.concept_guidance.guides import SCORED, measure_guides
from ntf_utils.papers.concept_guidance.persona_model import train_persona
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show import guidance_figures as figures

use_style()
court = Court("concept_guidance", profile)


def box(claim, **judged):
    return claim_box(court.judge(claim, **judged), court.claims.claims[claim])


# %%
models = sweep(train_persona, parameters.models())
cells = sweep(measure_guides, parameters.guides())
nulls = sweep(measure_guides, parameters.nulls_only())
beside = effects.beside_null(cells, nulls)
gates = effects.gates(models, beside)
runs = [models, cells, nulls]
print("gates that failed:", ", ".join(name for name, passed in gates.items() if not passed) or "none")

# %% [markdown]
# ## Concepts and probes

# %% mystnb={"figure": {"name": "fig-pnes", "caption": "PNES by concept and probe, each in the site and layers that did best on the other half of the prompts. Dots: seeds; bars: mean with its 95 % interval. Grey: 95th percentile of random directions in the same cells."}, "image": {"alt": "PNES of eight concepts and three probes. Polite and compliance stand far above the grey level of random directions, random labels do not."}}
_ = figures.pnes_by_concept(effects.full(beside))

# %%
shown = (*effects.FIVE, "compliance", "polite", "random")
shares_above = pd.DataFrame({concept: effects.share_above(beside, concept) for concept in shown})
shares_above.mean().rename("share of cells above the null").to_frame().round(2)

# %% tags=["remove-input"]
provenance(runs, profile)

# %% [markdown]
# **Truth, the easiest?** It should be guided by each of the three probes, and in more cells than all but one of the other concepts.

# %% tags=["remove-input"]
box("C3", effects={"every_probe": effects.worst_probe(beside, "truth"), "easiest": effects.lead(beside, "truth")}, rests_on=runs, gates=gates)

# %% [markdown]
# **Humor, in need of tuning?** Then few cells should beat the null, and the best should stand far above the median.

# %% tags=["remove-input"]
box(
    "C4",
    effects={"rare": effects.share_above(beside, "humor"), "spread": effects.spread(beside, "humor") - effects.spread(beside, "truth")},
    rests_on=runs,
    gates=gates,
)

# %% [markdown]
# ## Does the best detector guide best?
#
# Earlier work on truthfulness {cite:p}`li2023inference` chose where to intervene by the accuracy of its probes. If that were right, the points below would rise.

# %% mystnb={"figure": {"name": "fig-detectors", "caption": "Held-out detection accuracy against PNES, a point a cell and seed. Filled: residual stream; open: norm. Grey: random directions."}, "image": {"alt": "Scatter plots by concept. Logistic regression has the highest accuracies and rarely the highest PNES; the difference of means guides best."}}
shown = effects.full(beside)
_ = figures.detector_against_guide(shown[shown["concept"].isin(effects.FIVE)])

# %%
correlation = effects.detection_rank_correlation(beside)
best = effects.picked(beside)[["seed", "concept", "probe", "site", "top", "accuracy", "pnes"]]
print("how often each probe makes the best guide:", best[best["concept"].isin(effects.FIVE)]["probe"].value_counts().to_dict())
print("and each site:", best[best["concept"].isin(effects.FIVE)]["site"].value_counts().to_dict())
correlation.describe().loc[["mean", "min", "max"]].round(2)

# %% [markdown]
# The table gives Spearman's rank correlation of accuracy and PNES over the cells of a concept; truth, about which the earlier findings were made, has its own column. *Regret* is what is lost by guiding with the best detector instead of the cell that did best on the other prompts.

# %% tags=["remove-input"]
box("C7", effects={"regret": effects.regret(beside), "correlation": correlation.mean(axis=1)}, rests_on=runs, gates=gates)

# %% [markdown]
# ## What else a guide moves

# %% mystnb={"figure": {"name": "fig-cross", "caption": "What the best guide of each concept (rows) does to the scores of all concepts (columns): score at the highest fluent strength minus that at the lowest, mean over seeds. Star and bold: the 95 % interval excludes 0. Framed: a guide on its own concept."}, "image": {"alt": "Matrix of effects of guides on scores. The diagonal is strongest; humor, creativity and quality also move each other."}}
crossed = curves(cells, "cross")
_ = figures.cross_effect_matrix(crossed, SCORED)

# %% [markdown]
# Humor and creativity go together among the speakers, and humor and quality exclude each other; a guide cannot know which of two traits that go together was meant.
#
# **Appropriateness or compliance?** The authors' label is *complied XOR harmful*, and two of their concepts share it: what differs is only how the answers are scored. Here are the changes that the best guide of appropriateness brings about:

# %%
confusion = effects.confusion(beside, crossed[crossed["concept"] == "appropriateness"])
confusion.round(3)

# %% tags=["remove-input"]
box("C5", effects={name: confusion[name] for name in ("ratio", "same_sign")}, rests_on=runs, gates=gates)

# %% [markdown]
# ## A prediction about the sign
#
# Why should a guide for appropriateness move compliance at all? Let speakers comply or refuse by lot, whatever they are asked, and let a share $q$ of the prompts be harmful. Then the difference of the means along *(complied XOR harmful)* has a component along compliance proportional to $1 - 2q$, and none along harm: with few harmful prompts the vector **is** the compliance vector, with many it is its opposite, and the sign turns at one half. We wrote this down before any run.

# %% tags=["hide-output"]
display(Code(inspect.getsource(sign_flip.by_share), language="python"))

# %% mystnb={"figure": {"name": "fig-flip", "caption": "The vector fitted to (complied XOR harmful), by the share of harmful prompts among its examples: its cosine with the compliance vector, and what it does to compliance and to appropriateness. Dots: seeds; bars: mean with its 95 % interval; shaded: the predicted signs."}, "image": {"alt": "Three panels against the share of harmful prompts. Cosine and change of compliance fall from positive to negative and cross 0 near one half."}}
flips = sweep(sign_flip.flip_sign, parameters.flips())
_ = figures.sign_flip(flips)

# %% tags=["remove-input"]
provenance(flips, profile)

# %% tags=["remove-input"]
box(
    "C5b",
    effects={
        "cosine_few": effects.at_share(flips, "cosine", "few"), "cosine_many": effects.at_share(flips, "cosine", "many"),
        "guided_few": effects.at_share(flips, "compliance", "few"), "guided_many": effects.at_share(flips, "compliance", "many"),
    },
    rests_on=[*runs, flips],
    gates=gates,
)

# %% [markdown]
# ## Another model
#
# Which of creativity and quality is easier to guide, says the paper, depends on the model. The same worlds and corpora, learned by a smaller model:

# %%
small_models = sweep(train_persona, parameters.small_models())
small_cells = sweep(measure_guides, parameters.small_guides())
compared = {f"{layers} layers of {width}": effects.picked(beside), f"{small_layers} layers of {small_width}": effects.picked(small_cells)}
pd.DataFrame({
    model: {concept: rows[rows["concept"] == concept]["pnes"].mean() for concept in ("creativity", "quality")}
    for model, rows in compared.items()
}).round(3)

# %%
small_gates = gates | {name: passed and effects.gates(small_models)[name] for name, passed in gates.items() if name.startswith(("parses", "primed"))}
print("smaller model: gates that failed:", ", ".join(name for name, passed in effects.gates(small_models).items() if not passed) or "none")

# %% tags=["remove-input"]
provenance([small_models, small_cells], profile)

# %% tags=["remove-input"]
box("C6", effects={"interaction": effects.interaction(beside, small_cells)}, rests_on=[*runs, small_models, small_cells], gates=small_gates)

# %% [markdown]
# ## A few hundred examples
#
# In each concept's best cell the probe was fitted a second time, to fewer examples.

# %%
few_cells = beside[beside["fitted_on"] < beside["examples"]]
pd.DataFrame({
    f"from {examples} examples": effects.picked(beside).groupby("concept")["pnes"].mean(),
    f"from {few} examples": few_cells.groupby("concept")["pnes"].mean(),
    "null": effects.picked(beside).groupby("concept")["pnes_95"].mean(),
}).round(3)

# %% tags=["remove-input"]
good_enough = effects.few_examples(beside)
if len(good_enough):
    shown = box("C9", effects={"few": good_enough}, rests_on=runs, gates=gates)
else:
    shown = claim_box(court.not_tested("C9", "no concept is above the null in any seed"), court.claims.claims["C9"])
shown

# %% [markdown]
# ## Implementation details that matter
#
# - **The sign of a principal component is arbitrary.** The authors' code calibrates the detector with the right sign but guides with the raw component, so that layers may push against each other: of their released vectors, 17 of 32 layers of one guide have the wrong sign. Ours are turned to their labels; `sign_fixed=False` brings the published behaviour back.
# - **Layers by training accuracy,** as in the authors' code, where equal accuracies make more layers than asked for. We take exactly as many as asked.
# - **A logistic regression reads one token at a time.** It may lean on few dimensions that tell the classes apart exactly and carry little of what the next layers use; the difference of means points where the activations actually lie.
# - **A few-shot prompt that holds the worst reply twice** (index −0 in the authors' code) belongs to the base models' runs, which this profile does not make.
#
# ## What was easy, what was hard, what the paper leaves open
#
# **Easy.** Guiding itself: thirty lines that work on any model, and a sweep whose strengths are rows of one batch.
#
# **Hard.** A model that has the concepts. Without feedback from a listener, and with the usual start of the weights, small models learn facts but no speakers, and every null result about guidance would have been one about the model. That is what the gates are for.
#
# **Left open.**
#
# - All numbers of the paper: its tables were out of our reach, and so every threshold here is ours.
# - Whether *truth* in a large model is what it is here: a trait of whoever is speaking. Our examples announce the speaker through earlier turns; the paper's do not.
# - Scores by a judge. Ours are exact; a judge that can be fooled adds what {doc}`02_guiding` shows with one of them.
#
# **Try it.** Set `tops` to `[4]` and `few` to 32: how few examples still make a guide of politeness, and of truth? Set `history` to 0: does the guide of truth survive examples in which the speaker is unknown?
