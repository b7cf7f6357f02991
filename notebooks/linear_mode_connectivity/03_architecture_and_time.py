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
# # Architecture and time
#
# Convolutional networks are said to lack linear mode connectivity where fully connected ones have it {cite:p}`frankle2020linear`. But a convolutional layer differs from a dense one in two ways: each unit sees few pixels, and units share their weights. This page separates the two. Then it asks *when* the valley is chosen.
#
# **Question of this page:** is it sparsity or weight sharing, and how long do two copies have to go together before noise can no longer part them?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
inits: int = 12  # initialisations a setting
orders: int = 2  # copies of each initialisation, on differently ordered data
dataset: str = "fashion_mnist"  # digits (embedded), mnist, fashion_mnist, cifar10 or cifar100; on digits nothing contrasts
pooling: int = 2  # 28 x 28 pixels become 14 x 14: four times as many settings fit into the budget
n_train: int = 2000  # images; 0 takes all
n_test: int = 1000  # one is worth 0.1 points; 0 takes all
width: int = 128  # hidden units of a layer
steps: int = 1860  # updates: 60 epochs, after which the networks of both rates below misfit less than 1 %
batch: int = 64  # images an update
learning_rate: float = 0.03  # the baseline, peak of a cosine; momentum is 0.9
high_rate: float = 0.1  # the highest rate of the pilot at which a two-layer network still fits its images
points: int = 11  # positions on a path; the highest point lies near the middle
scored: int = 2000  # training images on which barriers are measured; 0 takes all
architectures: list = ["dense", "local", "convolutional", "random_sparse", "shuffled"]  # one hidden layer, equally many units
architecture_rates: list = [0.02, 0.05, 0.1]  # enclose the loss of equal_loss for every architecture
equal_loss: float = 0.05  # nats
channels: int = 8  # units at each of the 7 x 7 positions, so 392 hidden units
kernel: int = 5  # side of the square that a unit sees
stride: int = 2
padding: int = 2
layers: int = 1  # receptive layers
spawns: list = [0.0, 0.01, 0.03, 0.1, 0.2, 0.4]  # shares of the training that the copies of a pair make together
tiles: int = 6  # test images of each class in the explorer
large: list = []  # resnet20 and vit take a GPU
large_dataset: str = "cifar10"
large_width: int = 16  # channels of a resnet20's first group; numbers a token of a vit
large_rates: list = [0.1]
large_steps: int = 20000
large_inits: int = 5

# %% tags=["remove-input"]
from ntf_utils.papers.linear_mode_connectivity.studies import ConnectivityParameters, TimeParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), TimeParameters, also=ConnectivityParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

import pandas as pd
from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.models.receptive import ReceptiveLayer
from ntf_utils.papers.linear_mode_connectivity import effects
from ntf_utils.papers.linear_mode_connectivity.connectivity import measure_connectivity
from ntf_utils.papers.linear_mode_connectivity.live import LivePairs, recorded_states
from ntf_utils.runs import curves, sweep
from ntf_utils.show import BarrierExplorer, claim_box, provenance, use_style
from ntf_utils.show.barrier_figures import along_the_path, relative_over

use_style()
court = Court("linear_mode_connectivity", profile)


def box(claim, **judged):
    return claim_box(court.judge(claim, **judged), court.claims.claims[claim])


def only(table, **values):
    """The rows of one setting."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


# %% [markdown]
# ## One layer, five ways to look
#
# All networks have one hidden layer with equally many units, and a dense head. **Dense** units see the whole image. **Local** units see a square of it, each position with weights of its own. **Convolutional** units see the same squares and share their weights. Two controls: **random sparse** units see as many pixels as local ones, from anywhere; **shuffled** is convolutional, on pixels in a fixed random order. Every layer is initialised by the number of inputs that a unit really sees: a dense layer's fan-in would start the sparse ones too small, and confound sparsity with scale.

# %% tags=["hide-output"]
display(Code(inspect.getsource(ReceptiveLayer.respond), language="python"))

# %%
table = sweep(measure_connectivity, parameters.by_architecture())
print(effects.lost([table]))
effects.summary(table, ["architecture", "learning_rate"])

# %% mystnb={"figure": {"name": "fig-architecture", "caption": "Relative barrier by architecture, a panel a learning rate. Dots: initialisations; bars: mean with its 95 % interval. Green: connected. Dashed: independent networks; dotted: the same order."}, "image": {"alt": "Panels of r for five architectures at rising learning rates: the dense network rises first, sparse ones stay low, convolutional ones lie between."}}
panels = {f"rate {rate:g}": rows for rate, rows in table.groupby("learning_rate")}
_ = relative_over(panels, dict.fromkeys(panels, "architecture"))

# %% mystnb={"figure": {"name": "fig-paths-architecture", "caption": "Training loss along the path at the highest of these learning rates, by architecture."}, "image": {"alt": "Five panels of loss against position: a high bump between copies for the dense network, a lower one for the convolutional ones, nearly none for the sparse ones."}}
fastest = only(table, learning_rate=max(architecture_rates))
_ = along_the_path({name.replace("_", " "): curves(rows, "paths") for name, rows in fastest.groupby("architecture", sort=False)}, columns=5)

# %% tags=["remove-input"]
provenance(table, profile)

# %% [markdown]
# ## Equal rate or equal loss
#
# A learning rate that is high for one architecture is low for another: at equal rate a sparse network has gone less far. So there are two comparisons, and they need not agree: at equal learning rate and updates (the highest rate above), and at equal training loss, each architecture at the rate that gets it there. For the second, $r$ is read off for each initialisation between the two rates whose losses enclose the target.

# %%
at_rate = {name: effects.relative(rows) for name, rows in fastest.groupby("architecture", sort=False)}
at_loss = {name: effects.at_equal_loss(rows, equal_loss) for name, rows in table.groupby("architecture", sort=False)}
columns = {f"r at rate {max(architecture_rates):g}": at_rate, f"r at loss {equal_loss:g}": at_loss}
pd.DataFrame({title: {name: found.mean() for name, found in by_name.items()} for title, by_name in columns.items()}).assign(
    inits=pd.Series({name: len(found) for name, found in at_loss.items()})
).round(3)

# %% tags=["remove-input"]
compared = ("dense", "local", "convolutional")
gates = effects.gates([table[table["architecture"].isin(compared)]])
gates["loss_within_reach"] = min(len(at_loss[name]) for name in compared) > 0.75 * inits


def gap(found, one, other):
    return (found[one] - found[other]).dropna()


def judge_or_say(claim, judged):
    """The box of a claim; where nothing could be compared, that is the reason for no verdict."""
    if all(len(values) for values in judged.values()):
        return box(claim, effects=judged, rests_on=table, gates=gates)
    reason = f"at {equal_loss:g} nats there is nothing to compare"
    return claim_box(court.not_tested(claim, reason), court.claims.claims[claim])


judge_or_say(
    "C3a",
    {
        "equal_rate": gap(at_rate, "convolutional", "dense"),
        "equal_loss": gap(at_loss, "convolutional", "dense"),
    },
)

# %% tags=["remove-input"]
judge_or_say(
    "C3b",
    {
        "sparsity_rate": gap(at_rate, "local", "dense"),
        "sharing_rate": gap(at_rate, "convolutional", "local"),
        "sparsity_loss": gap(at_loss, "local", "dense"),
        "sharing_loss": gap(at_loss, "convolutional", "local"),
    },
)

# %% [markdown]
# The two controls say what the comparison is about. Random sparse beside local: does it matter that the pixels lie together? Shuffled beside convolutional: does it matter that they are neighbours in the image? Their rows stand in the tables above, with no verdict: the paper makes no claim about them that we know of.

# %% [markdown]
# ## When the valley is chosen
#
# Two copies can go a part of the way together: one network is trained up to a **spawn step**, then copied with its optimiser's memory and its place in the schedule, and the copies go on with different orders {cite:p}`frankle2020linear`.

# %%
spawned = sweep(measure_connectivity, parameters.by_spawn())
print(effects.lost([spawned]))
effects.summary(spawned, "spawn_step")

# %% mystnb={"figure": {"name": "fig-spawn", "caption": "Relative barrier against the update at which two copies part, at the high learning rate. Dots: initialisations; bars: mean with its 95 % interval."}, "image": {"alt": "Chart of r against the spawn step: it falls steadily and enters the green band well before half of the training."}}
title = f"copies part at update (of {steps:,})"
_ = relative_over({title: spawned}, {title: "spawn_step"})

# %% mystnb={"figure": {"name": "fig-paths-spawn", "caption": "Training loss along the path by the update at which the copies part."}, "image": {"alt": "Panels of loss against position, a panel a spawn step: the bump between copies melts away the later they part."}}
_ = along_the_path({f"update {step}": curves(rows, "paths") for step, rows in spawned.groupby("spawn_step")}, columns=3)

# %%
bounded = {step: effects.stays_below(effects.relative(rows), effects.CONNECTED) for step, rows in spawned.groupby("spawn_step")}
first = next((step for step, below in bounded.items() if below), None)
print("first spawn step whose interval of r lies below 0.05:", first, "" if first is None else f"({100 * first / steps:.0f} % of training)")

# %% tags=["remove-input"]
provenance(spawned, profile)

# %% tags=["remove-input"]
latest = only(spawned, spawn_step=spawned["spawn_step"].max())
box(
    "C7",
    effects={"trend": effects.rank_correlation(spawned, "spawn_step"), "stable": effects.relative(latest)},
    rests_on=spawned,
    gates=effects.gates([spawned]),
)

# %% [markdown]
# ## The explorer
#
# Pick a setting and a pair of networks, and walk from one to the other. Each tile is a test image that no network was trained on; it shows what the network at this point calls it. In Jupyter, **Train** trains new networks in that setting and gives a finer path, and **show the images** shows the pixels, where the data set is at hand.

# %% tags=["remove-input"]
baseline = sweep(measure_connectivity, parameters.baseline())
shown = {
    f"rate {learning_rate:g}": baseline,
    f"rate {high_rate:g}": only(spawned, spawn_step=0),
    f"rate {high_rate:g}, parted at {latest['spawn_step'].iloc[0]}": latest,
} | {
    name.replace("_", " "): only(fastest, architecture=name) for name in ("dense", "local", "convolutional")
}
recorded = {title: curves(rows, "predictions") for title, rows in shown.items()}
whole = {title: curve for title, curve in recorded.items() if curve["kind"].nunique() == 3}  # none lost to divergence
states = recorded_states(whole, curves(baseline, "classes")["name"])
display(BarrierExplorer(states, live=lambda: LivePairs.of({title: shown[title] for title in whole}, tiles)))

# %% tags=["remove-input"]
provenance(list(shown.values()), profile)

# %% [markdown]
# ## Larger networks
#
# A ResNet-20 and a small ViT on the whole of CIFAR-10, with augmentation, need a GPU: `profiles/gpu.yaml` runs them. No verdict rests on them.

# %%
if large:
    larger = sweep(measure_connectivity, parameters.larger())
    print(effects.lost([larger]))
    display(effects.summary(larger, ["architecture", "learning_rate"]))
else:
    print("not part of this profile")

# %% [markdown]
# ## Implementation details that matter
#
# - **True fan-in.** A unit that sees 25 pixels is initialised for 25 inputs, also at the border of the image for the padded ones.
# - **The fields belong to the architecture.** Which pixels a random sparse unit sees is drawn once, for all networks: two networks with different masks have no meaningful line between them.
# - **Shared weights are counted once.** Ties are made in the forward pass (one weight, used at all positions), so gradients add up by themselves; so are the distances of weights.
# - **Batch norm** is not part of the base experiments. Where there is some, its statistics are taken anew at every point of a path, as a plain average over training images. The first author's later code resets two-dimensional batch norm only, and keeps an exponential average that is dominated by the last few batches.
# - **Precision.** Paths are measured in full 32 bits: in that code evaluation runs under autocast, whose rounding is as large as a small barrier.
# - **What goes on with a spawned copy.** Momentum, the place in the schedule and the epoch's position go on; only the order changes, from the very next batch.
#
# ## What was easy, what was hard, what the paper leaves open
#
# **Easy.** The phenomenon. It shows in the smallest network one can think of, within seconds, and its size moves smoothly with the learning rate. The control with equal orders is exactly 0.
#
# **Hard.** Finding data. On scikit-learn's digits nothing contrasts: networks are connected nearly everywhere, or they diverge. And a fair comparison of architectures: at equal learning rate and at equal loss they rank differently, so a sentence such as "convolutional networks lack connectivity" needs the second half of it.
#
# **Left open.**
#
# - What the paper found: its experiments, its factors and the directions of their effects are unknown to us. The list of factors is an inference from the abstract and from the model names in an early state of the first author's later code.
# - Which form of the barrier it uses, and on which loss or error.
# - A convolutional network sits nearer to the learning rate at which it diverges than a local one of the same size; a comparison at equal distance from that edge is not made here.
# - Everything that needs larger networks on a laptop: networks with batch norm or residual connections, long training on whole data sets.
#
# **Try it.** Set `layers` to 2: do convolutional networks still rank as they do? Set `spawns` to `[0.0, 0.001, 0.002, 0.005]`: is there a first moment before which nothing has been decided?
