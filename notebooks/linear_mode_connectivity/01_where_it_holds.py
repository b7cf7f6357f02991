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
# # Where linear mode connectivity holds
#
# Train the same network twice, from the same initial weights, on the same images in a different order. You get two solutions $a$ and $b$. Now walk from one to the other in a straight line, $(1-\alpha)\,a + \alpha\,b$, and look at the training loss on the way. If it never rises above the line that joins the two ends, the solutions are **linearly mode connected**: SGD's noise has moved them about in one valley. If it rises, the noise has sent them into different ones {cite:p}`frankle2020linear`.
#
# Altıntaş et al. {cite:p}`altintas2023disentangling` ask what decides between the two, in networks as small as possible: optimisation, architecture or data. We could read their abstract and the beginning of their introduction, not their experiments; so every direction that we test is a hypothesis whose source the claim names, and none of their numbers is known to us.
#
# **Question of this page:** how is connectivity measured so that a zero is a zero and a barrier is a barrier, and where does the smallest network have it? {doc}`02_what_breaks_it` changes one thing at a time, {doc}`03_architecture_and_time` takes the architecture apart and asks when the valley is chosen.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
inits: int = 16  # initialisations; a share "above 80 %" needs 14 or more to be told from 80 %
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
rates: list = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]  # learning rates; at the highest, networks begin to fail
plane: int = 25  # points on each side of the loss planes

# %% tags=["remove-input"]
from ntf_utils.papers.linear_mode_connectivity.studies import ConnectivityParameters, HoldsParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), HoldsParameters, also=ConnectivityParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.measures import barriers
from ntf_utils.papers.linear_mode_connectivity import effects
from ntf_utils.papers.linear_mode_connectivity.connectivity import Job, measure_connectivity
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.barrier_figures import along_the_path, loss_planes, relative_over

use_style()
court = Court("linear_mode_connectivity", profile)


def box(claim, **judged):
    return claim_box(court.judge(claim, **judged), court.claims.claims[claim])


# %% [markdown]
# ## The barrier
#
# The **barrier** $B$ of a path is the largest rise of the loss above the chord, the straight line between the losses of the two ends {cite:p}`entezari2022role`:

# %% tags=["hide-output"]
display(Code(inspect.getsource(barriers.barrier), language="python"))

# %% [markdown]
# $B$ alone says little: networks with large losses have large barriers. We divide it by $B_\text{indep}$, the barrier between networks that share nothing but the setting, and call the ratio $r = B / B_\text{indep}$. At $r = 0$ the noise does not matter, at $r = 1$ a common initialisation is worth nothing. Two copies count as **connected** where $r < 0.05$ and the error on the path rises by less than two points; both bounds are ours, and stand in `claims.yaml`.
#
# Two controls come from the same job as every measurement:
#
# - **independent networks**, the control that must show a barrier: without one, $r$ means nothing;
# - **the same start in the same order**, the control that must not: the two networks must be equal to the last bit. It catches what has gone wrong elsewhere: evaluation that draws from the training loader's generator, or unseeded orders.
#
# The unit of repetition is the initialisation. All copies of all initialisations are trained in one stack:

# %% tags=["hide-output"]
display(Code(inspect.getsource(Job.train) + "\n" + inspect.getsource(Job.pairs), language="python"))

# %% [markdown]
# ## The smallest network, over its learning rates
#
# A perceptron with one hidden layer, no batch norm, no augmentation, no dropout, no residual connections. Only the learning rate changes.

# %%
table = sweep(measure_connectivity, parameters.by_rate())
print(effects.lost([table]))
effects.summary(table, "learning_rate")

# %% [markdown]
# `B` is the barrier in nats between copies of one initialisation, `B_indep` that between independent networks, `inits` counts the initialisations that are left. A network counts as diverged when its loss stops being a number, or ends no better than a uniform guess: it is no solution, so it has no path. The table reports it, the verdicts leave it out.

# %% mystnb={"figure": {"name": "fig-paths-rate", "caption": "Training loss on the straight line between two networks, by learning rate. Solid: copies of one initialisation, trained on different orders; dashed: independent networks; dotted: copies trained in the same order. Thin lines are initialisations, thick lines their mean."}, "image": {"alt": "Panels of loss against position on the path, a panel a learning rate. At low rates the line between copies is flat; from a tenth on it rises in the middle; independent networks have a high barrier at every rate."}}
by_rate = {f"learning rate {rate:g}": rows for rate, rows in table.groupby("learning_rate")}
_ = along_the_path({title: curves(rows, "paths") for title, rows in by_rate.items()}, columns=5)

# %% mystnb={"figure": {"name": "fig-rates", "caption": "Relative barrier against the learning rate. Dots: initialisations; bars: mean with its 95 % interval. Green: what counts as connected. Dashed: independent networks; dotted: the same order."}, "image": {"alt": "Chart of r against the learning rate: close to 0 at low rates, leaving the green band between two and five hundredths, and rising towards 1."}}
_ = relative_over({"two-layer perceptron": table}, {"two-layer perceptron": "learning_rate"})

# %% tags=["remove-input"]
provenance(table, profile)

# %% [markdown]
# ## A decade of learning rates
#
# The paper's one-line summary calls two-layer perceptrons robust. We read that as: one can choose the learning rate freely within at least a factor of ten, and the copies stay connected. For each initialisation we take the longest run of neighbouring rates at which it is connected and learns, that is, classifies four of five training images rightly. Without the last condition the claim could not fail: networks that hardly move stay together. How much depends on that bound, the last lines of the output say.

# %%
within_bounds = table.assign(connected=effects.connected(table)).groupby("learning_rate")["connected"].mean()
print("share connected, by learning rate:", {f"{rate:g}": round(share, 2) for rate, share in within_bounds.items()})
decades = {bound: effects.connected_decades(table, largest_error=bound) for bound in (0.2, 0.1, 0.05)}
wide_enough = {bound: (found > 1 - 1e-9).astype(int) for bound, found in decades.items()}
for bound, found in decades.items():
    print(f"training error below {100 * bound:.0f} %: {found.mean():.2f} decades on average; "
          f"a whole one in {wide_enough[bound].sum()} of {len(found)} initialisations")

# %% tags=["remove-input"]
gates = effects.gates([table])
box("C1", effects={"decade": wide_enough[0.2]}, rests_on=table, gates=gates)

# %% [markdown]
# ## Minimal networks suffice
#
# Batch norm, augmentation, dropout and residual connections all add noise, or change what a straight line means. None is needed to see both faces of the phenomenon.

# %% tags=["remove-input"]
baseline, high = (table[table["learning_rate"] == rate] for rate in (learning_rate, high_rate))
box(
    "C8",
    effects={"connected": effects.relative(baseline), "broken": effects.relative(high)},
    rests_on=[baseline, high],
    gates=effects.gates([baseline, high]),
)

# %% [markdown]
# ## The valley from above
#
# Two solutions and their common initialisation span a plane. At the baseline's rate both solutions lie on one valley floor; at the high rate a ridge stands between them.

# %% mystnb={"figure": {"name": "fig-planes", "caption": "Training loss in the plane through two copies (A and B) and the initialisation that they share, at the baseline's learning rate and at the high one. White line: the path."}, "image": {"alt": "Two contour maps. Left, low rate: the two solutions lie close together in one basin. Right, high rate: the line between them crosses a ridge."}}
planes = {
    f"learning rate {rate:g}": (curves(rows, "plane"), curves(rows, "corners"))
    for rate, rows in ((learning_rate, baseline), (high_rate, high))
}
_ = loss_planes(planes)

# %% tags=["remove-input"]
provenance([baseline, high], profile)

# %% [markdown]
# ## Is it only a matter of names?
#
# Hidden units have no names: permute them, and the function stays while the weights move. Networks from different initialisations can be brought closer by matching their units {cite:p}`entezari2022role,ainsworth2023git`. If SGD's noise swapped units between two copies of *one* initialisation, their barrier would be of that kind. Weight matching says whether it is:

# %%
shown = {
    "units left in place": (high["fixed_share"], high["moved_fixed_share"]),
    "barrier as it is, nats": (high["barrier"], high["reference"]),
    "barrier after matching, nats": (high["matched_barrier"], high["matched_reference"]),
}
for name, (copies, strangers) in shown.items():
    print(f"{name:<30} copies {copies.astype(float).mean():.3f}   independent {strangers.astype(float).mean():.3f}")

# %% [markdown]
# Copies keep nearly all of their units where they were, and matching takes away the smaller part of their barrier: most of it is a real ridge. Between independent networks it takes most of the barrier away.

# %% [markdown]
# ## Implementation details that matter
#
# - **Chord, not mean of the ends.** Frankle et al. measure from the mean of the two ends, Entezari et al. from the chord; the paper's choice is unknown to us. With ends of equal loss the two agree. Each row holds both (`barrier`, `endpoint_mean`), and the signed excess at the midpoint, since a largest value is never negative and noise pushes it up.
# - **The maximum of the gap.** The first author's later code (`gsaltintas/lmc`) subtracts the chord *at the highest point of the raw curve*. With unequal ends, a real bump is then reported as 0.
# - **One stack for both halves of a pair.** Batched and single products round differently, and early in training a difference in the last digit can grow. The control with equal orders is exactly 0 because both copies are trained in one job.
# - **Orders that nothing else can touch.** In the same code a measurement during training once advanced the training loader's generator (fixed in a commit marked critical). Here the order is a function of a seed and the step.
# - **No default seed.** There, all seeds default to 42: whoever forgets one trains identical networks and finds perfect connectivity. Our control with independent networks would show it.
# - **Several initialisations.** A replication with one run of each network found its ResNet-20 stable from the start, against Frankle et al.; one initialisation cannot tell.
#
# **How the sizes were chosen.** Data, width, steps, learning rates and criteria were settled in trial runs on initialisations numbered 1000 to 1007; the verdicts rest on other initialisations, counted from 0.
#
# **Try it.** Set `batch` to 256: how far up does the connected range now reach? Set `dataset` to `digits`: where is $B_\text{indep}$ still large enough for $r$ to mean something?
