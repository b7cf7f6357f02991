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
# # Memorising benignly
#
# Give every training image a label drawn by lot. There is nothing to learn but the list itself, and networks are large enough to learn it by heart {cite:p}`zhang2017understanding`. What that does to the features seems clear: a network that stores noise must be worse than one that has done nothing. Anagnostidis et al. {cite:p}`anagnostidis2023curious` report that this holds only without data augmentation. With it, the labels are memorised all the same, and the embedding becomes *better*, as if the network had been trained to see.
#
# **Question of this page:** does the same list of random labels ruin the features when images are shown as they are, and improve them when they are augmented? {doc}`02_where_it_memorises` looks into the layers, {doc}`03_how_many_views` counts the views.
#
# Of the paper we could read the abstract and the authors' code, not the body. None of its numbers is known to us, and every bound in the boxes is ours.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
seeds: int = 5  # each draws its images, labels, views and start; every arm has the same ones
few: int = 3  # arms that the main claims do not rest on have the first so many
first_seed: int = 0  # settings were chosen on seeds from 1000 on
dataset: str = "cifar10"  # digits (embedded), mnist, fashion_mnist, cifar10 or cifar100
pool: int = 2  # 32 x 32 pixels become 16 x 16; the paper's are 32 x 32
n_train: int = 256  # images to memorise; the paper memorises all 50,000
n_bank: int = 2000  # labelled images of the probe, none of which is memorised
n_test: int = 2000  # one is worth 0.05 points; 0 takes all
neighbours: int = 20  # the authors', by cosine, one vote each
encoder: str = "resnet8"  # one block a group in three groups; the authors' is resnet18
width: int = 16  # channels of the first group; the authors' 64 give embeddings of 512, these of 64
hidden: int = 1024  # of the projector; 65,536 in the authors' command
strength: float = 0.45  # of the augmentation; 1, the authors', is not memorised in this time
steps: int = 1400  # updates, 350 epochs; the authors' command runs 10,000 epochs
batch: int = 64  # the authors' is 256; in trial runs small ones got further in the same time
learning_rate: float = 0.003  # Adam, constant as the authors' 0.0003, which is slow here
precision: str = "fp32"  # bf16 for the network on a GPU
looks: int = 4  # times at which networks are read on their way
strengths: list = [0.0, 0.2, 0.6, 1.0]  # beside the main arm's
mixup: float = 0.8  # share of batches whose inputs are mixed, as in the authors' code

# %% tags=["remove-input"]
from ntf_utils.papers.benign_memorization.studies import BenignParameters, MemoryParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), BenignParameters, also=MemoryParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

import pandas as pd
from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.measures import invariance
from ntf_utils.papers.benign_memorization import effects, memorization
from ntf_utils.papers.benign_memorization.memorization import memorize_labels
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.memorization_figures import against_strength, arms_apart, over_training, split_over_training
from ntf_utils.training import views

use_style()
court = Court("benign_memorization", profile)
examples = parameters.examples  # test images behind an accuracy


def box(claim, **judged):
    return claim_box(court.judge(claim, examples=examples, **judged), court.claims.claims[claim])


def source(*shown):
    display(Code("\n".join(inspect.getsource(one) for one in shown), language="python"))


# %% [markdown]
# ## The game
#
# A network is an encoder, whose output is the embedding, and a projector: a wide hidden layer, a ReLU, and one output a class, without biases. Every image gets a label, drawn uniformly and once. The network is trained with a squared error to the one-hot label, until it says the right label on its training images. Labels are random, so one in as many as there are classes is true by accident.

# %% tags=["hide-output"]
source(memorization.drawn_labels, memorization.label_loss)

# %% [markdown]
# **With augmentation** each image is shown in an ever new view, cut out, mirrored, and changed in colour, and all views of an image carry its one label. The authors' set is torchvision's: `RandomResizedCrop`, `RandomHorizontalFlip`, `ColorJitter`, `RandomGrayscale`. Ours does the same to whole batches on their device, and one knob, the strength, scales it. A test compares it with torchvision's functions, image by image.

# %% tags=["hide-output"]
source(views.draw_views, views.apply_views)

# %% [markdown]
# **What the embedding is worth** is read without any training: each test image gets the class that most of its 20 nearest images in a bank have, by cosine. The bank has *true* labels and holds no image that was memorised. The same reading is taken at the random start, after batch norm has seen the images; without that step a trained network is flattered by the comparison.
#
# An arm is called **malign** if memorising made the embedding worse than the random start, and **benign** if it made it better. An arm that has not memorised has done neither.

# %%
_ = sweep(memorize_labels, parameters.runs())  # all of this page at once, so that no core waits
augmented = sweep(memorize_labels, parameters.augmented())
plain = sweep(memorize_labels, parameters.plain())
one_view = sweep(memorize_labels, parameters.frozen(1))
true_labels = sweep(memorize_labels, parameters.with_true_labels())
mixed = sweep(memorize_labels, parameters.with_mixup())
arms = {
    "augmented": augmented, "as they are": plain, "one augmented view": one_view, "mixed inputs": mixed,
    "control: true labels": true_labels,
}  # fmt: skip
chance = 100 / float(augmented["classes"].iloc[0])
effects.summary(arms)

# %% [markdown]
# `memorised %` is the share of training views whose label the network says; then k-NN before → after, the change in points with the half-width of its interval, and the invariance index, which is explained below.

# %% mystnb={"figure": {"name": "fig-memorised", "caption": "Left: share of the labels memorised, on the views that each arm is trained on; below the dashed line an arm has not memorised. Right: accuracy of k-NN with true labels on test images; updates 0 is the random start. Solid blue: augmented; dashed red: images as they are; dash-dotted green, the control: augmented, with true labels. Thin lines are seeds, thick ones their mean; dotted grey: chance."}, "image": {"alt": "Two panels over the updates. Both random-label arms climb to nearly all labels on the left. On the right they part: the augmented arm rises above the start, the other falls below it."}}
names = {"benign": "augmented", "malign": "as they are", "true labels": "control: true labels"}
looks = {"benign": curves(augmented, "learning"), "malign": curves(plain, "learning")}
looks["true labels"] = curves(true_labels, "learning")
_ = over_training(looks, names, chance)

# %% tags=["remove-input"]
provenance([augmented, plain, true_labels], profile)

# %% tags=["remove-input"]
gates = effects.gates(
    augmented, plain, noisy=pd.concat([true_labels, augmented]), tables=(augmented, plain, one_view, true_labels)
)
box(
    "C1",
    effects={"memorised": effects.by_seed(augmented, "memorised"), "change": effects.change(augmented)},
    rests_on=[augmented, true_labels],
    gates=gates,
)

# %% tags=["remove-input"]
box(
    "C2",
    effects={
        "memorised": effects.by_seed(plain, "memorised"),
        "change": effects.change(plain),
        "gap": effects.difference(augmented, plain),
    },
    rests_on=[augmented, plain],
    gates=gates,
)

# %% [markdown]
# Two controls stand behind these boxes. With true labels the same augmented training must improve the embedding, or the probe is blind; with the bank's labels shuffled the vote must stay at chance.

# %%
shuffled = [100 * table["knn_shuffled"].astype(float) for table in arms.values()]
print(f"shuffled bank: {min(map(min, shuffled)):.1f} to {max(map(max, shuffled)):.1f} %, chance {chance:.0f} %")
print(f"true labels: change of k-NN {effects.change(true_labels).mean():+.1f} points")

# %% mystnb={"figure": {"name": "fig-arms", "caption": "Change of k-NN by training, an arm a line: dots are seeds, bars the 95 % interval of the mean. Right of the line at 0 the embedding is better than the random start."}, "image": {"alt": "Five lines of dots: augmented and the control lie right of zero, images as they are and a single frozen view do not."}}
_ = arms_apart(arms, ["benign", "malign", "malign", "control", "true labels"])

# %% tags=["remove-input"]
provenance(arms.values(), profile)

# %% [markdown]
# Augmented pictures alone are not the cause: an arm that sees *one* augmented view of each image, drawn once, is trained on pictures of the same kind, and is no better off than the arm without augmentation. And not any noise on the input helps: **mixed inputs** are what the authors' code calls mixup. It mixes two images and keeps the first one's label whole.
#
# ## Why it can be: the loss splits in two
#
# This derivation is ours and elementary. Let $G$ be a random augmentation, $f$ the network, $y$ the label of $x$, and $\bar f(x) = \mathbb{E}_G f(Gx)$ what the network says on average over views. Then, exactly,
#
# $$\mathbb{E}_G\,\lVert f(Gx) - y\rVert^2 \;=\; \underbrace{\lVert \bar f(x) - y\rVert^2}_{\text{bias}} \;+\; \underbrace{\mathbb{E}_G\,\lVert f(Gx) - \bar f(x)\rVert^2}_{\text{spread}}.$$
#
# The second term knows no labels: it asks only that all views of an image are given one answer, as methods of self-supervised learning do. The first pins every image to a code. The codes are random, but images that carry different ones are pushed apart, so that not all images can be given one answer. An invariance is asked for, and collapse is forbidden; the labels need not mean anything for that. Without augmentation the second term is zero from the start, and the codes are all there is.

# %% tags=["hide-output"]
source(invariance.bias_and_spread, invariance.invariance_index)

# %% mystnb={"figure": {"name": "fig-split", "caption": "The squared error on training views, split into bias (orange, below) and spread (blue, on top); means over seeds. Left: augmented; right: images as they are, which have one view each and so no spread."}, "image": {"alt": "Two panels of stacked areas over the updates. Left, part of the loss is the spread between views; right, there is bias only, and it falls to zero."}}
_ = split_over_training({name: looks[name] for name in ("benign", "malign")}, names)

# %% [markdown]
# Whether the invariance reaches the embedding, and images that nobody trained on, the **invariance index** says: the mean distance between the embeddings of two views of a test image, divided by that between views of two images. 1 means that the embedding sees nothing but the view, 0 that it does not see the view at all. The views are those of the authors' full strength in every arm.

# %%
for name, table in arms.items():
    found = effects.invariance_change(table)
    print(f"{name:<22} change of the invariance index {found.mean():+.3f} (from {found.min():+.3f} to {found.max():+.3f})")

# %% tags=["remove-input"]
moved = effects.invariance_change(augmented)
box(
    "C8",
    effects={"augmented": moved, "contrast": (moved - effects.invariance_change(one_view)).dropna()},
    rests_on=[augmented, one_view],
    gates=gates,
)

# %% [markdown]
# ## The trade-off
#
# What augmentation gives to the features it takes from memorisation: the more views differ, the more the network has to bring under one label. All strengths get the same number of updates; the memorised share is read at a quarter of them, where the weak ones are done and the strong ones are not.

# %%
by_strength = pd.concat([plain, sweep(memorize_labels, parameters.by_strength()), augmented])
by_strength = by_strength.sort_values(["strength", "seed"])
quarter = steps // 4
early = effects.at_step(curves(by_strength, "learning"), quarter)
effects.summary({f"strength {value:g}": rows for value, rows in by_strength.groupby("strength")})

# %% mystnb={"figure": {"name": "fig-trade-off", "caption": "Left: share of the labels memorised, against the augmentation's strength, at a quarter of the updates (dashed) and at the end (solid). Right: k-NN at the end. Strength 0 is the arm without augmentation, 1 the authors' full set. Dots: seeds; bars: mean with its 95 % interval; dotted grey: the random start, and chance."}, "image": {"alt": "Two panels against strength: memorisation falls, k-NN rises from below the random start to well above it."}}
_ = against_strength(by_strength, early, chance, quarter)

# %% tags=["remove-input"]
provenance(by_strength, profile)

# %% tags=["remove-input"]
gates = effects.gates(tables=(by_strength,))
box(
    "C6",
    effects={
        "features": effects.rank_correlation(by_strength, "strength", "knn"),
        "memorised": effects.rank_correlation(early, "strength", "memorised"),
    },
    rests_on=by_strength,
    gates=gates,
)

# %% [markdown]
# Read the right end with care: the strongest arms have not memorised, so they show what augmentation does to features under random labels, not what memorising does. The arms that carry C1 have.
#
# ## Implementation details that matter
#
# - **Batch norm at the start.** An untrained network has running statistics of 0 and 1. Read that way, its k-NN is too low and every change too large. Ours are taken from the bank's images before the first reading.
# - **Views are read in evaluation mode.** The memorised share of ever new views is that of views which training has not seen; of frozen ones, of just those.
# - **Fixed bank.** The authors' code always votes with all clean training images, also where it memorises few. Here every arm has the same bank, and no memorised image is in it.
# - **Pixels from 0 to 1.** The authors do not standardise images; neither do we.
# - **Only a squared error runs.** The published code's cross-entropy reads arguments that do not exist.
# - **A weight decay that does nothing.** Its flag is parsed and never reaches Adam.
# - **Mixup without mixed labels.** The published mixing returns the first image's label and ignores the share, so it corrupts inputs and smooths no labels. `mixup` does the same.
# - **Our strength is not theirs.** The authors' number between 0 and 1 sets RandAugment's, other operations altogether. Ours scales their `full` set.
#
# **How the sizes were chosen.** On seeds from 1000 on. Stride and width of the encoder decided whether the effect shows: with a stem of stride 2, or of half the width, the random start is worth less, and there is less for memorising to spoil. The strength was lowered until the augmented arm memorises in the time given; the number of images, because memorising more takes longer.
#
# **Try it.** Set `strength` to 0.6: better features, but has it memorised? Set `encoder` to `resnet8_medium`, whose stem has stride 2: is the malign arm still malign?
