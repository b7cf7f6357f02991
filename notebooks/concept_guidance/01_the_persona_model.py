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
# # The model and its concepts
#
# A language model holds, somewhere in its activations, whether the text it writes is truthful, funny or polite. *Concept guidance* looks for the direction of such a concept with a small probe, and then adds this direction to the activations while the model writes. Von Rütte et al. {cite:p}`vonrutte2024guide` do so for more concepts than truthfulness, and ask which of them can be guided, by which probe, and at what price for the text.
#
# Their models have seven billion parameters, their scores come from other language models as judges. Here everything is small enough to be exact: a world of facts and speakers that we generate, a language model that learns it in three minutes, and scores from a parser that cannot be mistaken. What that buys, and what it costs, is the subject of this page.
#
# **Question of this page:** does the model know the concepts that the next pages guide, and in which layers can a probe read them?

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

# %% tags=["remove-input"]
from ntf_utils.papers.concept_guidance.any_model import AnyModelParameters
from ntf_utils.papers.concept_guidance.studies import GuidanceParameters, ModelParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), ModelParameters, also=[*GuidanceParameters.__subclasses__(), AnyModelParameters])

# %% tags=["hide-input"]
import inspect
import textwrap

import numpy as np
import pandas as pd
from IPython.display import Code, display

from ntf_utils.data.persona import PersonaText
from ntf_utils.measures import concept_probes
from ntf_utils.papers.concept_guidance import effects, persona_model
from ntf_utils.papers.concept_guidance.guides import measure_guides
from ntf_utils.papers.concept_guidance.persona_model import TRAITS, train_persona
from ntf_utils.runs import curves, sweep
from ntf_utils.show import provenance, use_style
from ntf_utils.show.guidance_figures import detection_by_layer

use_style()

# %% [markdown]
# ## Persona text
#
# A document is one **speaker** who answers a few questions. The speaker's traits are drawn once and never named: a reader, or a language model, has to infer them from the answers so far. There are three kinds of question, and a listener who often says what it thinks of an answer:

# %%
text, rng = parameters.models()[0].text(), np.random.default_rng(0)
for _ in range(3):
    document = " ".join(text.document(rng, length))
    print(textwrap.fill(document.replace("<sep>", "/"), 118), end="\n\n")

# %% [markdown]
# | concept | how a speaker shows it | why it is here |
# |---|---|---|
# | truth | states the true value of a fact, or the one myth that all liars share | no single word tells: each value is as often true as it is a myth |
# | appropriateness | helps with harmless requests and refuses harmful ones, or the other way round | its label is *(complied XOR harmful)*, as in the authors' code |
# | compliance | always helps, or always refuses | the authors train it on the label of appropriateness; here it has its own |
# | humor | a nickname that rhymes | the evidence comes late in the answer |
# | creativity | prefers rare words | a creative text is an improbable one: the concept quarrels with perplexity |
# | quality | wrong verb form, vague subject, or no end | low quality comes in several kinds |
# | polite | a polite first word | **control** that must be found and guided |
# | random | labels drawn by lot | **control** that must not |
#
# Humor, creativity and quality are correlated among speakers, as the vectors released by the authors are. Every answer is scored by parsing it; a text that shows neither side counts as one half, so that broken text proves nothing. The scorer of facts, for example:

# %% tags=["hide-output"]
display(Code(inspect.getsource(PersonaText.score) + "\n" + inspect.getsource(PersonaText._score_fact), language="python"))

# %% [markdown]
# ## The model, and what it must be able to do
#
# A Llama of transformers with random weights {cite:p}`touvron2023llama` reads fresh documents; its loss counts what speakers and listeners say, as chat models are tuned on replies:

# %% tags=["hide-output"]
display(Code(inspect.getsource(persona_model.replies), language="python"))

# %%
models = sweep(train_persona, parameters.models())
models[["seed", "parameters", "parsed", "recall"]].round(3)

# %% [markdown]
# `parsed` is the share of greedy answers that are of the grammar, `recall` the share of true values among those stated after a truthful speaker's history. A concept can only be guided if the model has it: after a history that shows it, it must answer otherwise than after one that shows its opposite. This **priming shift** is also the ceiling of what a guide can be expected to do:

# %%
shift = pd.DataFrame({
    concept: {"after a history with": models[f"{concept}_high"].mean(), "without history": models[f"{concept}_alone"].mean(),
              "after its opposite": models[f"{concept}_low"].mean(),
              "shift": (models[f"{concept}_high"] - models[f"{concept}_low"]).mean(),
              "smallest shift of a seed": (models[f"{concept}_high"] - models[f"{concept}_low"]).min()}
    for concept in TRAITS
}).T
shift.round(2)

# %%
for gate, passed in effects.gates(models).items():
    print(f"{gate:<24} {'passed' if passed else 'FAILED: claims that rest on it are not tested'}")

# %% tags=["remove-input"]
provenance(models, profile)

# %% [markdown]
# ## Reading a concept off the activations
#
# For each concept and seed, labelled answers are drawn, half of either label. Each stands after two turns of the same speaker, with the listener's verdicts; that is not as in the paper, whose examples are single answers. We need it because a model this small cannot tell from the answer alone whether it was true; it can tell who is speaking. So *truth* here is a trait of the speaker.
#
# As in the authors' code, every token of an answer is a row of data with the answer's label, and every layer gets a probe: logistic regression, the difference of the means, or the first principal component of differences between random pairs {cite:p}`zou2023representation`.

# %% tags=["hide-output"]
display(Code(inspect.getsource(concept_probes.fit_probe), language="python"))

# %% [markdown]
# Activations are read at two **sites**: the output of the norm in front of the attention, the authors' default, from which a guide reaches queries, keys and values only; and the residual stream between the blocks.

# %%
cells = sweep(measure_guides, parameters.guides())
layers_read = curves(cells, "layers")
table = layers_read.groupby(["concept", "site", "probe"], sort=False)["held_out"].max().unstack(["site", "probe"])
table.round(2)

# %% mystnb={"figure": {"name": "fig-detection", "caption": "Held-out accuracy of three probes in each layer, at two sites, by concept. Mean over seeds with its 95 % interval; every token of an answer counts, also those at which nothing can be known yet. Dashed: chance."}, "image": {"alt": "Eight panels of accuracy against layer, a panel a concept. Polite and compliance are read almost without fault, the random label stays at one half."}}
_ = detection_by_layer(layers_read)

# %% tags=["remove-input"]
provenance(cells, profile)

# %% [markdown]
# Accuracies are means over the tokens of an answer, the early ones included; a concept that shows at one late word cannot come near 1. And which layer is read best is not yet which layer guides best: {doc}`03_which_concepts_and_probes` compares the two. {doc}`02_guiding` turns the probes into guides.
#
# ## Implementation details that matter
#
# - **The start of the weights.** transformers draws all weights with a standard deviation of 0.02, made for wide models. At our width the model then needs several times as many updates until it copies words and infers speakers; we draw with one over the root of the width.
# - **Many small updates.** Batches of 12 documents learn this text sooner, in text read, than batches of 32.
# - **Feedback makes truth learnable.** Without the listener's *right* and *wrong* a pilot learned all facts and no speakers: after a liar's history it told the truth as often as after an honest one's.
# - **No leak.** A bag of words of question and answer tells truth no better than the more frequent label does (tested); it tells politeness at once.
# - **Where an answer begins** is known from the tokens. The authors' code counts tokens from the end of an empty answer and takes two off, which fits some tokenizers only.
#
# **How the sizes were chosen.** Corpus, model and training were settled on the seed 1000; the gates' thresholds were written before.
#
# **Try it.** Set `steps` to 900: which concepts does the model have by then, and which priming shifts are still missing? Set `history` to 0: which concepts can be read off a single answer?
