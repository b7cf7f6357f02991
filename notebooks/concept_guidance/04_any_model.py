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
# # Any language model
#
# So far everything was measured on a model of our own making. The code does not care: it reads and guides any causal language model of Hugging Face's transformers, by name or from a folder. This page shows how, and holds the experiment as the paper ran it, with its models and data sets.
#
# **Question of this page:** how do you guide your own model, and what do the paper's models do?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
models: list = []  # names on the Hugging Face hub, or local folders; none on a laptop
base_models: list = []  # those of `models` that have not learned to chat: they see six dialogues first, and answer in a line
judge: str = "mistralai/Mistral-7B-v0.1"  # scores the texts; the authors' judge of all but truth
concepts: list = ["truthfulness", "appropriateness", "compliance", "humor", "creativity", "quality"]
source_folder: str = ""  # local copies of the data sets: oasst1.jsonl, truthful_qa.jsonl, toxic-completions.jsonl; "" asks the hub
precision: str = "float16"  # float32, bfloat16 or float16
quantize: int = 0  # 4 or 8 bits a weight through bitsandbytes; 0 for none
data_seeds: int = 1  # draws of examples and prompts
pretrained_sites: list = ["norm"]  # where to guide: norm, residual; the norm is the authors' choice
pretrained_tops: list = [8, 16]  # numbers of guided layers; 16 in the authors' code
pretrained_strengths: list = [8, 16, 32, 64, 96, 128, 192, 256]  # both signs; the authors' README, for Mistral
pretrained_unit: str = "absolute"  # lengths as they are, or in "median" lengths of an activation
pretrained_examples: int = 512  # as in the authors' code, like the next three
pretrained_prompts: int = 64
pretrained_replies: int = 128
new_tokens: int = 196
at_once: int = 16  # texts in a batch

# %% tags=["remove-input"]
from ntf_utils.papers.concept_guidance.any_model import AnyModelParameters
from ntf_utils.papers.concept_guidance.studies import GuidanceParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), AnyModelParameters, also=GuidanceParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

import matplotlib.pyplot as plt
import torch
from IPython.display import Code, display

from ntf_utils.models import dialogues, guidance
from ntf_utils.papers.concept_guidance import any_model
from ntf_utils.papers.concept_guidance.live import SHIPPED, LiveGuides
from ntf_utils.runs import curves, sweep
from ntf_utils.show import provenance, use_style
from ntf_utils.show.guidance_figures import detection_by_layer, detector_against_guide, pnes_by_concept, tradeoff_curves

use_style()


def by_concept(table):
    """Accuracy by layer, and the trade-off curves of the largest number of layers at each site."""
    named = {name: curves(table, name).assign(concept=lambda lines: lines.get("concept", table["concept"].iloc[0]))
             for name in ("layers", "tradeoff", "band")}
    shown = list(dict.fromkeys(table["concept"]))
    top = max(table["top"])
    yield detection_by_layer(named["layers"])
    for site in dict.fromkeys(table["site"]):
        yield tradeoff_curves(named["tradeoff"], named["band"], site, top, shown)


# %% [markdown]
# ## Your own model, in a few lines
#
# The small model of this book lies in a normal model folder, so it can stand for any other. Loading takes weights from safetensors only, never from pickles, and runs no code that comes with a model.

# %%
from ntf_utils.models.causal import load_causal
from ntf_utils.models.guidance import generate, guided

network, tokenizer = load_causal(SHIPPED)  # or "mistralai/Mistral-7B-Instruct-v0.1", or your folder
directions, unit = LiveGuides(SHIPPED).directions("polite", "difference", "residual")  # or guidance.Directions.load(file)

prompts = [dialogues.dialogue(tokenizer, "how do i fix the boat ?")] * 3
tokens, mask = dialogues.encode(tokenizer, prompts)
strengths = torch.tensor([-0.4, 0.0, 0.4])[:, None] * unit  # a row a strength: one batch holds them all
with guided(network, directions, directions.top(2), strengths):
    written = generate(network, tokens, mask, 14, stop=tokenizer.eos_token_id)
for text in tokenizer.batch_decode(written.tokens, skip_special_tokens=True):
    print(text)

# %% [markdown]
# Directions of your own come from a probe: read the activations of labelled texts, fit, and keep the vectors with what they belong to. These are all the steps:

# %%
from ntf_utils.measures.concept_probes import accuracy, fit_probe, token_rows

asked = ["how do i fix the boat ?", "how do i paint the door ?"] * 8
whole = [dialogues.dialogue(tokenizer, prompt, answer) for prompt, answer in zip(
    asked, ["gladly just fix the boat before noon .", "well just paint the door before noon ."] * 8, strict=True)]
tokens, mask, answers = dialogues.encode_answers(tokenizer, [dialogues.dialogue(tokenizer, p) for p in asked], whole)
read = guidance.activations(network, tokens, mask, site="residual")  # [texts, tokens, layers, width]; zero at padding
rows, labels, texts = token_rows(read, answers, torch.tensor([1, 0] * 8))
probe = fit_probe("difference", rows, labels, texts)
mine = guidance.Directions(probe.vectors, "gladly", "difference", "residual", "persona", accuracy(probe, rows, labels, texts))
print(mine.vectors.shape, mine.top(1))

# %% [markdown]
# Where the layers lie is known for the families below. For any other model, `path="model.layers[*].input_layernorm"` says it, to `activations` and `guided` alike.

# %%
print(", ".join(sorted(guidance.FAMILIES)))

# %% [markdown]
# ## The paper's models and data
#
# `guide_any_model` fits the same probes on TruthfulQA {cite:p}`lin2022truthfulqa`, OpenAssistant {cite:p}`kopf2023openassistant` and ToxicCompletions, guides other prompts, and has the answers scored by a local language model. Data, token positions, probes, guide and perplexity are those of the authors' code; the judge's wording, and its use for truth too, are ours:

# %% tags=["hide-output"]
print(any_model.__doc__)
display(Code(inspect.getsource(any_model.guide_any_model.function) + "\n\n" + inspect.getsource(any_model.Judge), language="python"))

# %%
runs = parameters.guides()
if not runs:
    print("no model is named in this profile: see `models`")
for model in parameters.models:
    table = sweep(any_model.guide_any_model, [run for run in runs if run.model == model])
    print(model)
    shown = ["accuracy", "judge_accuracy", "reach", "reach_95", "pnes", "pnes_95"]
    display(table[table["picked"]].groupby("concept")[shown].mean().round(3))
    _ = pnes_by_concept(table), detector_against_guide(table), *by_concept(table)
    plt.show()
    display(provenance(table, profile))

# %% [markdown]
# No verdict rests on these runs: in every profile the claims are judged on the persona model, where scores are exact. None has been made for this book; `profiles/paper.yaml` names the paper's four models and says what that costs.
#
# ## Implementation details that matter
#
# - **Which token comes first in an answer** is found from the token numbers. The authors' code counts the tokens of an empty answer and takes two off, which holds for some tokenizers only.
# - **Truth and informativeness are swapped** in the authors' scoring of TruthfulQA: the mean of one is stored under the name of the other, so what was reported as truth may be informativeness. We score truth only.
# - **The replies that measure fluency** overlap with the training examples of the quality probe in the authors' code. Here no prompt is used twice.
# - **An invalid judgement** of compliance silently falls back to the data set's own label there. Ours compares the probabilities of *yes* and *no*, so there is always one.
# - **Few-shot turns** of the authors' base models are picked with the index −0, which takes the worst reply twice.
# - **Tensors or tuples.** Blocks of transformers put out tensors in new versions and tuples in old ones; the hooks take both, and are removed whatever happens inside the `with`.
# - **The key-value cache** holds guided keys and values. One that was filled under another strength is refused, and texts with and without a cache are the same (tested).
# - **Overflow is reported.** Where half precision overflows, the row is marked instead of filled with nonsense.
# - **Norms stay unquantised** in 4 and 8 bits. Fit and guide at the same precision.
#
# **Try it.** Put a folder of your own into `models` and into `judge`, a file `truthful_qa.jsonl` with the columns `question`, `best_answer` and `incorrect_answers` into a folder, name that in `source_folder`, and set `concepts` to `["truthfulness"]`. Fluency needs replies in OpenAssistant's format: `oasst1.jsonl` beside it.
