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
# # How many views
#
# On {doc}`01_memorising_benignly` one frozen view of each image spoilt the embedding, ever new ones improved it. Between one and infinitely many lies a number at which the sign changes.
#
# **Question of this page:** how many views does it take? And why can a network not store each view by itself? The paper's reason is that there is no room for it {cite:p}`anagnostidis2023curious`; an arm that gives every view a label of its own puts that to the test.

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
counts: list = [1, 4, 8, 32]  # frozen views of an image, all with its one label
own_counts: list = [1, 8, 32]  # frozen views with a label each
same_class: int = 8  # other images of an image's class in the place of its views
same_class_images: int = 256  # and how many images have such
tight_width: int = 2  # a network of so few weights that its room ends within these counts
tight_hidden: int = 16
tight_images: int = 64
tight_counts: list = [1, 4, 16]
tight_passes: int = 200  # times that it sees every view

# %% tags=["remove-input"]
from ntf_utils.papers.benign_memorization.studies import MemoryParameters, ViewsParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), ViewsParameters, also=MemoryParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

import pandas as pd
from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.papers.benign_memorization import effects, memorization
from ntf_utils.papers.benign_memorization.memorization import memorize_labels
from ntf_utils.runs import sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.memorization_figures import against_capacity, against_count, arms_apart

use_style()
court = Court("benign_memorization", profile)
examples = parameters.examples  # test images behind an accuracy


def box(claim, **judged):
    return claim_box(court.judge(claim, examples=examples, **judged), court.claims.claims[claim])


# %% [markdown]
# ## From one view to many
#
# Views of each image are drawn once and kept; every update shows one of them, picked at random. All arms have equally many updates, so with more views each is seen less often.

# %%
_ = sweep(memorize_labels, parameters.runs())  # all of this page at once, so that no core waits
augmented = sweep(memorize_labels, parameters.augmented())
frozen = sweep(memorize_labels, parameters.by_count())
by_count = effects.with_count(pd.concat([frozen, augmented]))
chance = 100 / float(augmented["classes"].iloc[0])
counted = {f"{count} frozen": rows for count, rows in frozen.groupby("views")}
effects.summary(counted | {"ever new": augmented})

# %% mystnb={"figure": {"name": "fig-counts", "caption": "Left: share of the labels memorised, against the number of distinct views of each image; below the dashed line an arm has not memorised. Right: change of k-NN by training; above the line at 0 memorising was benign. The dotted red line marks where the mean changes its sign. Dots: seeds; bars: mean with its 95 % interval."}, "image": {"alt": "Two panels against the number of views on a logarithmic axis. Memorisation stays near complete; the change of k-NN rises from below zero to above it."}}
_ = against_count(by_count)

# %% tags=["remove-input"]
provenance(by_count, profile)

# %% tags=["remove-input"]
gates = effects.gates(augmented, frozen=frozen, tables=(by_count,))
one_view = frozen[frozen["views"] == min(counts)]
box(
    "C5",
    effects={
        "order": effects.rank_correlation(by_count, "count", "knn"),
        "few": effects.change(one_view),
        "many": effects.change(augmented),
    },
    rests_on=by_count,
    gates=gates,
)

# %% [markdown]
# ## A label for every view
#
# Now the views stay as they are, and only their labels change: each view draws its own. Nothing is left that merging the views of an image could help with; the only way is to store them one by one.

# %%
own = sweep(memorize_labels, parameters.by_own_count())
independent = pd.concat([frozen[frozen["views"] == 1], own]) if 1 in own_counts else own
summaries = {f"{views} views, own labels": rows for views, rows in independent.groupby("views")}
effects.summary(summaries)

# %% [markdown]
# ### How much room is there?
#
# An estimate of ours. A label drawn from $C$ classes carries $\log_2 C$ bits, so $M$ independent labels need $M \log_2 C$ of them. A weight is worth about two bits: that is what a single linear unit can store {cite:p}`cover1965geometrical`, and for deep networks no more than a rough guide. With shared labels $M$ is the number of images, with independent ones images times views.

# %%
BITS_A_WEIGHT = 2
tight = sweep(memorize_labels, parameters.tight())
for name, table in (("the chapter's network", independent), ("a tight network", tight)):
    first = table.iloc[0]
    room = BITS_A_WEIGHT * first["parameters"]
    asked = effects.bits_to_store(table)
    print(f"{name}: {first['parameters']:,} weights, room for about {room:,} bits; asked for {asked.min():,.0f} to {asked.max():,.0f}")
print((100 * tight.groupby("labels")["memorised"].mean()).round(1).rename("tight network: memorised, %").to_string())

# %% mystnb={"figure": {"name": "fig-capacity", "caption": "Share of independent labels that are memorised against their number. Left: the chapter's network, all arms with equally many updates; right: a network of few weights that sees every label equally often, however many there are. Dash-dotted: what two bits a weight would allow; dots: seeds; bars: mean with its 95 % interval; dotted grey: chance."}, "image": {"alt": "Two panels, memorised share against the number of labels on a logarithmic axis. Both fall; the left one long before its capacity line, the right one near it."}}
_ = against_capacity({"equal updates": independent, "few weights, equal passes": tight}, BITS_A_WEIGHT, chance)

# %% tags=["remove-input"]
provenance([independent, tight], profile)

# %% tags=["remove-input"]
most = max(own_counts)
fewest, last = (independent[independent["views"] == views] for views in (min(own_counts), most))
shared = frozen[frozen["views"] == most]
box(
    "C7",
    effects={
        "falls": effects.difference(fewest, last, "memorised"),
        "gap": effects.difference(shared, last, "memorised"),
    },
    rests_on=[independent, shared],
    gates=gates,
)

# %% [markdown]
# Two things can be short: room and time. The chapter's network has room for far more labels than it was asked for, so what stops it within these updates is *time*: independent labels cost it much more updates than shared ones. The tight network is where room itself runs out. The paper's argument is about room; its statement as a theorem is unknown to us.
#
# ## Are the views special?
#
# If views work because they show the same thing, other images that show the same *kind* of thing should work as well, or better. The authors' code has such an arm: each image is replaced by other images of its class, none of which serves twice, and these carry its one random label. They know something that augmentation does not, the class itself. What the paper concludes is unknown to us: the box below judges what one would expect of that arm, not a sentence of the paper.

# %% tags=["hide-output"]
display(Code(inspect.getsource(memorization.same_class_views), language="python"))

# %%
same_class_rows = sweep(memorize_labels, parameters.by_same_class())
as_many = sweep(memorize_labels, parameters.as_many())
kinds = {
    "augmented views": as_many, "images of the class": same_class_rows, "ever new views": augmented,
}  # fmt: skip
print(f"{parameters.others} of them for each image")
effects.summary(kinds)

# %% mystnb={"figure": {"name": "fig-same-class", "caption": "Change of k-NN by training with as many augmented views of an image and other images of its class, and with ever new views. Dots: seeds; bars: 95 % interval of the mean; the line at 0 is the random start."}, "image": {"alt": "Three lines of dots about zero, one for each kind of views."}}
_ = arms_apart(kinds, ["malign", "control", "benign"])

# %% tags=["remove-input"]
provenance(kinds.values(), profile)

# %% tags=["remove-input"]
gates = effects.gates(frozen=pd.concat([frozen, as_many]), same_class=same_class_rows, tables=tuple(kinds.values()))
box(
    "C9",
    effects={"same_count": effects.difference(same_class_rows, as_many)},
    rests_on=[same_class_rows, as_many],
    gates=gates,
)

# %% [markdown]
# ## Implementation details that matter
#
# - **Frozen views in the published code** are drawn by seeding torch's global generator with the sum of the image's pixels. Images of equal sum share their draws, and so does everything else that asks that generator. Ours have generators of their own.
# - **One flag needs another.** `fullfixed_n` returns a view's number beside the image, and the training loop breaks unless `--fullfixed-labels` says `same` or `random`. The README does not mention it.
# - **Other images, untransformed.** The published arm feeds pixels from 0 to 255, and evaluates on pixels from 0 to 1. Ours are from 0 to 1 in both.
# - **Memory.** Frozen views are kept as bytes. What they take is computed before they are drawn, and a number that does not fit is refused.
#
# ## What was easy, what was hard, what the paper leaves open
#
# **Easy.** The two regimes. Some two hundred small images and a network of a hundred thousand weights show them within half a minute on one core.
#
# **Hard.** Memorising under strong augmentation: within minutes only a mild one is memorised, and an arm that has not memorised proves nothing. A random start that is too bad hides the malign side, since there is nothing to spoil.
#
# **Left open.**
#
# - Every number of the paper, and how it reads its layers.
# - Its theorem on capacity: our estimate is no substitute.
# - Why invariance to views turns out to be what tells classes apart. The abstract says itself that a theory of this is missing.
#
# **Try it.** Set `n_train` and `same_class_images` to 64 and `same_class` to 32: do more images of the class help? Set `counts` to `[1, 2, 4, 8, 16, 32, 64]`: where does the sign change? Set `tight_passes` to 800: does the tight network's line move?
