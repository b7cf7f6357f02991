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
# # What breaks it
#
# {doc}`01_where_it_holds` left a baseline at which two copies of a two-layer perceptron stay connected, and a learning rate at which they do not. This page changes one thing at a time: first how the network is trained, then what it is trained on, then how deep and wide it is.
#
# **Question of this page:** which of optimisation, data and architecture can break connectivity, each alone?

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
rates: list = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]  # of SGD
warmups: list = [0.1, 0.3, 0.5]  # shares of the updates in which the rate rises; 0 is always there
batches: list = [32, 64, 256]  # images an update; at 16 the high rate misfits a fifth of them
adam_rates: list = [0.001, 0.003, 0.01]  # enclose the loss of equal_loss
equal_loss: float = 0.05  # nats; both optimisers reach it within their rates
label_images: int = 1000  # images with true or random labels: as many as the baseline can learn by heart
sizes: list = [500, 8000]  # other numbers of images; n_train is always there
datasets: list = [["mnist", 2], ["fashion_mnist", 2], ["cifar10", 4]]  # [name, pooling], easiest first, about 196 inputs each
depths: list = [2, 3, 5, 8]  # layers of weights, at the baseline's rate
high_depths: list = [2, 3, 5]  # at the high rate; with 8 layers a third of the pilot's networks diverged
widths: list = [32, 128, 512]  # hidden units

# %% tags=["remove-input"]
from ntf_utils.papers.linear_mode_connectivity.studies import BreaksParameters, ConnectivityParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), BreaksParameters, also=ConnectivityParameters.__subclasses__())

# %% tags=["hide-input"]
import pandas as pd

from ntf_utils.claims import Court
from ntf_utils.papers.linear_mode_connectivity import effects
from ntf_utils.papers.linear_mode_connectivity.connectivity import measure_connectivity
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.barrier_figures import along_the_path, heat_map, relative_over

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
# ## How it is trained
#
# Four parts of the recipe, each changed alone. Warm-up and batch size are tried at the high rate, where there is something to mend.

# %%
by_rate = sweep(measure_connectivity, parameters.by_rate())
by_warmup = sweep(measure_connectivity, parameters.by_warmup())
by_batch = sweep(measure_connectivity, parameters.by_batch())
adam = sweep(measure_connectivity, parameters.adam())
trained = pd.concat([by_rate, by_warmup, by_batch, adam]).drop_duplicates(["key", "seed"])
print(effects.lost([trained]))
effects.summary(trained, ["optimiser", "learning_rate", "warmup", "batch"])

# %% mystnb={"figure": {"name": "fig-optimisation", "caption": "Relative barrier against four parts of the optimisation. Dots: initialisations; bars: mean with its 95 % interval. Green: connected. Dashed: independent networks; dotted: the same order."}, "image": {"alt": "Four panels of r: it rises with the learning rate of SGD and of Adam, falls with the length of the warm-up, and falls with the batch size."}}
_ = relative_over(
    {"SGD": by_rate, "Adam": adam, f"warm-up, rate {high_rate:g}": by_warmup, f"batch, rate {high_rate:g}": by_batch},
    {"SGD": "learning_rate", "Adam": "learning_rate", f"warm-up, rate {high_rate:g}": "warmup",
     f"batch, rate {high_rate:g}": "batch"},
    columns=4,
)

# %% mystnb={"figure": {"name": "fig-paths-optimisation", "caption": "Training loss along the path at the high rate, without and with warm-up, and for three batch sizes."}, "image": {"alt": "Panels of loss against position: the bump between copies shrinks with warm-up and with larger batches."}}
shown = {f"warm-up {share:g}": rows for share, rows in by_warmup.groupby("warmup")}
shown |= {f"batch {size}": rows for size, rows in by_batch.groupby("batch")}
_ = along_the_path({title: curves(rows, "paths") for title, rows in shown.items()})

# %% tags=["remove-input"]
provenance(trained, profile)

# %% [markdown]
# The claim compares several factors and is read factor by factor, so the intervals are widened by Holm's rule {cite:p}`holm1979simple`: the clearest clause has to pass at the strictest level, the next at a milder one, and once a clause fails all later ones fail too. An effect is again one number an initialisation: the rank correlation of its own $r$ with the learning rate, and the difference of its own $r$ between two settings.

# %% tags=["remove-input"]
longest, largest, smallest = by_warmup["warmup"].max(), by_batch["batch"].max(), by_batch["batch"].min()
box(
    "C4",
    effects={
        "rate": effects.rank_correlation(by_rate, "learning_rate"),
        "warm_up": effects.difference(only(by_warmup, warmup=longest), only(by_warmup, warmup=0.0)),
        "batch": effects.difference(only(by_batch, batch=largest), only(by_batch, batch=smallest)),
    },
    rests_on=[by_rate, by_warmup, by_batch],
    gates=effects.gates([by_rate, by_warmup, by_batch]),
)

# %% [markdown]
# ### Adam, at equal loss
#
# Adam and SGD have no common learning rate. So each is tried at several, and compared where their networks end at the same training loss: for each initialisation, $r$ is read off between the two rates whose losses enclose it.

# %%
sgd_there, adam_there = (effects.at_equal_loss(rows, equal_loss) for rows in (by_rate, adam))
print(f"r at a training loss of {equal_loss:g} nats: SGD {sgd_there.mean():.3f} ({len(sgd_there)} initialisations), "
      f"Adam {adam_there.mean():.3f} ({len(adam_there)})")

# %% tags=["remove-input"]
gates = effects.gates([by_rate, adam])
gates["loss_within_reach"] = min(len(sgd_there), len(adam_there)) > 0.75 * inits
adam_effect = (adam_there - sgd_there).dropna()
if len(adam_effect):
    shown = box("C4b", effects={"adam": adam_effect}, rests_on=[by_rate, adam], gates=gates)
else:
    reason = f"no initialisation ends at {equal_loss:g} nats with both optimisers"
    shown = claim_box(court.not_tested("C4b", reason), court.claims.claims["C4b"])
shown

# %% [markdown]
# ## What it is trained on
#
# **Random labels** keep the images and take all structure out of the task: what is left to learn has to be learned by heart. **Harder images** keep the structure. **More images** at equal updates mean fewer visits to each.

# %%
by_labels = sweep(measure_connectivity, parameters.by_labels())
by_dataset = sweep(measure_connectivity, parameters.by_dataset())
by_size = sweep(measure_connectivity, parameters.by_size())
data = pd.concat([by_labels, by_dataset, by_size]).drop_duplicates(["key", "seed"])
print(effects.lost([data]))
effects.summary(data, ["dataset", "pooling", "n_train", "labels", "learning_rate"])

# %% mystnb={"figure": {"name": "fig-data", "caption": "Relative barrier against labels, data set and number of images. Blue: at the baseline's learning rate; orange: at the high one; ÷2 is the side of the squares over which pixels are averaged; the number of images is changed at the high rate only."}, "image": {"alt": "Three panels of r: random labels lie above true ones at both rates, the hardest data set above the easiest, the number of images has a small effect."}}
names = by_dataset["dataset"].str.replace("_mnist", "")
by_image = by_dataset.assign(images=names + [f" ÷{pooling}" for pooling in by_dataset["pooling"]])
two_rates = {"labels": by_labels, "images": by_image}
panels = {
    name: {f"rate {rate:g}": only(rows, learning_rate=rate) for rate in (learning_rate, high_rate)}
    for name, rows in two_rates.items()
}
_ = relative_over(panels | {"number of images": by_size}, {"labels": "labels", "images": "images", "number of images": "n_train"})

# %% mystnb={"figure": {"name": "fig-paths-data", "caption": "Training loss along the path at the baseline's learning rate, by labels and by data set."}, "image": {"alt": "Panels of loss against position: flat between copies on true labels, with a bump on random ones."}}
shown = {f"{labels} labels": rows for labels, rows in only(by_labels, learning_rate=learning_rate).groupby("labels", sort=False)}
shown |= dict(iter(only(by_image, learning_rate=learning_rate).groupby("images", sort=False)))
_ = along_the_path({title: curves(rows, "paths") for title, rows in shown.items()}, columns=5)

# %% tags=["remove-input"]
provenance(data, profile)

# %% tags=["remove-input"]
true_labels, random_labels = (only(by_labels, learning_rate=learning_rate, labels=kind) for kind in ("true", "random"))
kinds = list(dict.fromkeys(by_image["images"]))
easiest, hardest = (only(by_image, learning_rate=learning_rate, images=kinds[end]) for end in (0, -1))
judged = [true_labels, random_labels, easiest, hardest]
box(
    "C5",
    effects={
        "labels": effects.difference(random_labels, true_labels),
        "images": effects.difference(hardest, easiest),
    },
    rests_on=judged,
    gates=effects.gates(judged),
)

# %% [markdown]
# The number of images is not part of that claim: what the abstract calls data we read as which images and which labels. Its effect stands in the table and the figure.

# %% [markdown]
# ## How deep and how wide
#
# No batch norm, no residual connections: only more layers, or wider ones.

# %%
by_depth = sweep(measure_connectivity, parameters.by_depth())
by_width = sweep(measure_connectivity, parameters.by_width())
shape = pd.concat([by_depth, by_width]).drop_duplicates(["key", "seed"])
print(effects.lost([shape]))
effects.summary(shape, ["learning_rate", "depth", "width"])

# %% mystnb={"figure": {"name": "fig-shape", "caption": "Relative barrier against depth, at both learning rates, and against width, at the baseline's."}, "image": {"alt": "Two panels of r against depth and width."}}
depth_lines = {f"rate {rate:g}": only(by_depth, learning_rate=rate) for rate in (learning_rate, high_rate)}
_ = relative_over({"depth": depth_lines, "width": by_width}, {"depth": "depth", "width": "width"})

# %% mystnb={"figure": {"name": "fig-paths-shape", "caption": "Training loss along the path by depth, at the baseline's learning rate. The barrier between independent networks grows with depth too; r is the ratio of the two."}, "image": {"alt": "Panels of loss against position, a panel a depth: both bumps grow with depth."}}
deep = only(by_depth, learning_rate=learning_rate)
_ = along_the_path({f"depth {depth}": curves(rows, "paths") for depth, rows in deep.groupby("depth")})

# %% tags=["remove-input"]
provenance(shape, profile)

# %% tags=["remove-input"]
shallowest, deepest = (only(deep, depth=end) for end in (deep["depth"].min(), deep["depth"].max()))
narrowest, widest = (only(by_width, width=end) for end in (by_width["width"].min(), by_width["width"].max()))
judged = [shallowest, deepest, narrowest, widest]
box(
    "C6",
    effects={
        "depth": effects.difference(deepest, shallowest),
        "width": effects.difference(widest, narrowest),
    },
    rests_on=judged,
    gates=effects.gates(judged),
)

# %% [markdown]
# Depth shows why $B$ and $r$ have to be read together. At the high rate $B$ and $B_\text{indep}$ both change with depth, and their ratio need not follow either: the table above gives all three.

# %% [markdown]
# ## Each family alone
#
# Now the paper's main statement. The baseline is connected. From it we change the learning rate alone, the depth alone, or the labels alone (on as many images as both kinds of labels can be learned on). The settings were named before the runs, one for each family, so nothing is selected. A network that has not learned its images is no evidence, so a gate asks for at most 2 % training error.

# %% tags=["remove-input"]
baseline, high = (only(by_rate, learning_rate=rate) for rate in (learning_rate, high_rate))
broken = [high, deepest, random_labels]
gates = effects.gates([baseline, true_labels, *broken])
gates["fitted"] = effects.fitted(broken)
gates["baseline_connected"] = all(
    effects.stays_below(effects.relative(rows), effects.CONNECTED) for rows in (baseline, true_labels)
)
box(
    "C2",
    effects={
        "optimisation": effects.relative(high),
        "architecture": effects.relative(deepest),
        "data": effects.relative(random_labels),
    },
    rests_on=[baseline, true_labels, *broken],
    gates=gates,
)

# %% mystnb={"figure": {"name": "fig-heat", "caption": "Relative barrier by factor and setting: 0.05 and below counts as connected, 1 is what independent networks have. Hatched: some initialisations were lost to divergence. Copies trained in the same order have 0 in every setting."}, "image": {"alt": "Heat map of r: a row a factor, a cell a setting, with its value written in it."}}
def cells(table, column, name="{:g}", **values):
    return [(name.format(value), rows) for value, rows in only(table, **values).groupby(column, sort=False)]


_ = heat_map({
    "learning rate": cells(by_rate, "learning_rate"),
    "Adam's rate": cells(adam, "learning_rate"),
    f"warm-up at {high_rate:g}": cells(by_warmup, "warmup"),
    f"batch at {high_rate:g}": cells(by_batch, "batch"),
    "labels": cells(by_labels, "labels", "{}", learning_rate=learning_rate),
    f"labels at {high_rate:g}": cells(by_labels, "labels", "{}", learning_rate=high_rate),
    "images": cells(by_image, "images", "{}", learning_rate=learning_rate),
    f"images at {high_rate:g}": cells(by_image, "images", "{}", learning_rate=high_rate),
    f"number at {high_rate:g}": cells(by_size, "n_train"),
    "depth": cells(deep, "depth"),
    f"depth at {high_rate:g}": cells(by_depth, "depth", learning_rate=high_rate),
    "width": cells(by_width, "width"),
})

# %% tags=["remove-input"]
provenance([trained, data, shape], profile)

# %% [markdown]
# ## Implementation details that matter
#
# - **Matched within, compared between.** All hyperparameters, the learning rate included, are equal within a pair. A public run log of another project shows what happens otherwise: with two learning rates in one pair, accuracy at the midpoint falls by 15 points, and that says nothing about noise.
# - **Equal updates.** All settings get the same number of updates. Larger batches and fewer images then mean more epochs; the training error stands in every table.
# - **One data set a setting.** All initialisations of a setting share one draw of images, and of random labels. Intervals are over initialisations: they do not speak about other draws.
# - **The noise of $B_\text{indep}$ is in the interval.** Each initialisation is divided by its own barrier to its two neighbours in a ring of initialisations, not by a common mean.
#
# **Try it.** Add `12` to `depths`: does the baseline's rate still train it, and how many networks diverge? Set `label_images` to 250: are random labels still harder?
