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
# # Where it memorises
#
# {doc}`01_memorising_benignly` trained networks to say random labels, and judged them by their embedding, the output of the encoder. But a label that is said at the end must have been put in somewhere. The paper's answer is a division of labour: the encoder's layers hold features, and only the very last layers memorise {cite:p}`anagnostidis2023curious`.
#
# **Question of this page:** in which layer can one first read the random labels, and in which the true ones? And what becomes of the features if only some of the labels are random?

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
noises: list = [0.0, 0.5, 1.0]  # shares of random labels
projectors: list = [128, 1024, 4096]  # widths of the projector, shown with the first `few` seeds
explored_images: int = 128  # digits, whose pictures a page may hold, that the explorer's two networks memorise
explored_steps: int = 3000  # their updates
explored_width: int = 8

# %% tags=["remove-input"]
from ntf_utils.papers.benign_memorization.studies import DepthParameters, MemoryParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), DepthParameters, also=MemoryParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

import pandas as pd
from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.papers.benign_memorization import effects, memorization
from ntf_utils.papers.benign_memorization.live import LiveMemory, recorded_states
from ntf_utils.papers.benign_memorization.memorization import memorize_labels
from ntf_utils.runs import curves, sweep
from ntf_utils.show import DepthExplorer, claim_box, provenance, use_style
from ntf_utils.show.memorization_figures import against_noise, against_projector, by_layer

use_style()
court = Court("benign_memorization", profile)
examples = parameters.examples  # test images behind an accuracy


def box(claim, **judged):
    return claim_box(court.judge(claim, examples=examples, **judged), court.claims.claims[claim])


# %% [markdown]
# ## Two votes in every layer
#
# Each layer's activations, averaged over the places of the image, are read by nearest neighbours twice.
#
# - **True labels**: test images ask the bank, as on the first page. How much does this layer know of what images show?
# - **Random labels**: the memorised views ask one another. A view may not ask the views of its own image: an invariant layer would find those, and they carry its label. So a right vote means that *other* images, which share nothing but the drawn number, have come near. That is memorising, and nothing else.

# %% tags=["hide-output"]
display(Code(inspect.getsource(memorization.Job.layers), language="python"))

# %%
_ = sweep(memorize_labels, parameters.runs())  # all of this page at once, so that no core waits
augmented = sweep(memorize_labels, parameters.augmented())
plain = sweep(memorize_labels, parameters.plain())
chance = 100 / float(augmented["classes"].iloc[0])
layers = {"benign": curves(augmented, "layers"), "malign": curves(plain, "layers")}
names = {"benign": "augmented", "malign": "as they are"}
for arm, found in layers.items():
    gained, noise = effects.layer_change(found).mean(), effects.random_labels(found).mean()
    print(names[arm])
    print(pd.DataFrame({"change of true, points": gained, "random, %": noise}).round(1).T.to_string())

# %% mystnb={"figure": {"name": "fig-layers", "caption": "Left: k-NN with true labels on test images, layer by layer; right: k-NN of the random labels among the memorised views, without those of an image's own. Solid blue: augmented; dashed red: images as they are; dotted grey, the control: both before training. The vertical line is where the encoder ends. Bands: 95 % interval of the mean; dotted light: chance."}, "image": {"alt": "Two panels over the layers from stem to logits. On the left the augmented network stays above the start until the encoder ends and drops at the logits. On the right both networks are at chance in the early layers and climb steeply before the logits."}}
_ = by_layer(layers, names, chance)

# %% tags=["remove-input"]
provenance([augmented, plain], profile)

# %% tags=["remove-input"]
true_labels = sweep(memorize_labels, parameters.with_true_labels())
gates = effects.gates(augmented, plain, tables=(augmented, plain))
box("C3", effects=effects.separation(layers["benign"], chance), rests_on=augmented, gates=gates)

# %% [markdown]
# `rise` and `fall` are differences of *changes*: before training, too, ten logits are worth less than an embedding, so the start is subtracted layer by layer. `clean` takes the encoder's worst layer, its output included.
#
# Both networks start to say the random labels at the same depth. What differs is what the true labels find there: in the augmented network the layers that memorise still know the images better than at the start, in the other they do not.
#
# ### How wide is the projector?
#
# The authors' projector has 65,536 units, ours far fewer. Where labels are stored may depend on where there is room:

# %%
by_projector = pd.concat([augmented, sweep(memorize_labels, parameters.by_projector())])
read = curves(by_projector, "layers")
ends = read[(read["when"] == "end") & (read["layer"] == effects.encoder_output(read))]
ends = ends.assign(random=100 * ends["random"].astype(float), true=100 * ends["true"].astype(float))
effects.summary({f"{width:,} units": rows for width, rows in by_projector.groupby("hidden")})

# %% mystnb={"figure": {"name": "fig-projector", "caption": "k-NN in the embedding of augmented networks, against the width of the projector behind it: of the random labels among memorised views (dashed red) and of the true ones on test images (solid blue). Dots: seeds; bars: mean with its 95 % interval; dotted grey: chance."}, "image": {"alt": "Two curves against the projector's width on a logarithmic axis."}}
_ = against_projector(ends, chance)

# %% tags=["remove-input"]
provenance(by_projector, profile)

# %% [markdown]
# No verdict rests on this figure.
#
# ## The explorer
#
# Walk through the layers with one image, and look at what is nearest to it among the other memorised images. CIFAR's pictures may not be part of a page, so these networks have memorised digits, which are far easier to tell apart: a good part of what is near by digit was near at the start. In Jupyter, **Train** memorises the same labels with the strength of augmentation that the slider says.

# %% tags=["remove-input"]
explored = sweep(memorize_labels, parameters.explored())
DepthExplorer(recorded_states(explored), live=lambda: LiveMemory.of(explored))

# %% tags=["remove-input"]
provenance(explored, profile)

# %% [markdown]
# ## Some labels right, some random
#
# The other way to ask is to mix in true labels. The head, the network's own answer, must suffer from random ones; the embedding, if it is learnt from views and not from labels, should hardly notice.

# %%
by_noise = pd.concat([true_labels, sweep(memorize_labels, parameters.by_noise()), augmented])
by_noise = by_noise.sort_values(["noise", "seed"])
print((100 * by_noise.groupby("noise")[["memorised", "knn", "head"]].mean()).round(1).to_string())
effects.summary({f"{100 * share:.0f} % random": rows for share, rows in by_noise.groupby("noise")})

# %% mystnb={"figure": {"name": "fig-noise", "caption": "Test accuracy against the share of random labels: k-NN on the embedding (solid blue) and the network's own head (dashed red). Dots: seeds; bars: mean with its 95 % interval; dotted grey: k-NN before training, and chance, where the head must end."}, "image": {"alt": "Two falling curves: the head falls to chance, the k-NN falls less and stays above its start."}}
_ = against_noise(by_noise, chance)

# %% tags=["remove-input"]
provenance(by_noise, profile)

# %% tags=["remove-input"]
gates = effects.gates(noisy=by_noise)
box("C4", effects={"kept": effects.kept(by_noise)}, rests_on=by_noise, gates=gates)

# %% [markdown]
# ## Implementation details that matter
#
# - **Layers are averaged over places.** The published network can hand out six activations, but no script that probes them is published; averaging is our choice. The last of the encoder's is then the embedding itself.
# - **Leave one image out.** Without it, invariance alone gives a perfect vote on random labels in every layer.
# - **Random labels are right by chance.** With as many classes, one label in that many is true; the share of random labels is that of labels that were drawn.
# - **One start for all.** Before training, arms of a seed are one network, read once; a test and a gate see to it.
#
# **Try it.** Set `projectors` to `[16, 1024, 16384]`: does the embedding get cleaner? Set `noises` to `[0.0, 0.25, 0.75, 1.0]`: is the loss of the embedding even?
