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
# # The price of connectivity
#
# {doc}`01_one_basin_or_many` compared ensembles in one basin with deep ones. Between these two ends there is a continuum, and one can move along it in at least three ways: by the moment at which branches part, by the weight of the connectivity term, and by a permutation of hidden units, which moves networks closer without changing what they say.
#
# **Question of this page:** does every step towards connectivity cost performance, and can a permutation have the one without the other?

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
dataset: str = ""  # "" for each tier's own; digits (embedded) needs no files, but is too easy to show a gap
members: int = 5  # of every ensemble
temperature: float = 4.0  # of distillation; teachers that are sure of themselves tell little at 1
share: float = 0.9  # of the students' loss that comes from the teacher
points: int = 11  # positions on each line between two members
mixtures: int = 20  # random weighted means of all members at which the loss is looked at too
plane: int = 21  # points on each side of the loss planes
tiles: int = 4  # test images of each class in the explorer
objects: dict = {  # CIFAR-10 at 8 x 8 pixels, a perceptron
    "seeds": 8, "dataset": "cifar10", "pooling": 4, "n_train": 2000, "n_held": 1000, "n_test": 0,  # 0 takes all
    "architecture": "perceptron", "width": 128, "depth": 3,  # two hidden layers: with one, a basin is hard to leave
    "noise": 0.5,  # standard deviation of noise on every input, in every training: students need it, so all have it
    "steps": 450, "batch": 64, "learning_rate": 0.03,  # peak of a cosine; momentum is 0.9
    "spawns": [0.0, 0.05, 0.2, 0.5, 0.8], "spawn": 0.2,  # shares of training made together; the one claims are about
    "weights": [0.1, 0.5, 0.9], "weight": 0.5, "drawn": [0.5, 0.9, 1.0],  # of the connectivity term
    "snapshot_rate": 0.01, "snapshot_steps": 90,
    "student_steps": 900, "student_rate": 0.1, "student_weight": 0.2, "scored": 500,
}
clothes: dict = {  # Fashion-MNIST at 14 x 14 pixels, a perceptron
    "seeds": 5, "dataset": "fashion_mnist", "pooling": 2, "n_train": 2000, "n_held": 1000, "n_test": 0,
    "architecture": "perceptron", "width": 128, "depth": 3, "noise": 0.3,
    "steps": 900, "batch": 64, "learning_rate": 0.1,
    "spawns": [0.0, 0.05, 0.2, 0.5], "spawn": 0.2, "weights": [0.5], "weight": 0.5, "drawn": [],
    "snapshot_rate": 0.03, "snapshot_steps": 90,
    "student_steps": 1800, "student_rate": 0.1, "student_weight": 0.2, "scored": 500,  # 900 steps teach too little
}
contrast: dict = {  # CIFAR-10 at 16 x 16 pixels, a small convolutional network: shown, not judged
    "seeds": 3, "dataset": "cifar10", "pooling": 2, "n_train": 2000, "n_held": 1000, "n_test": 5000,
    "architecture": "convolutional", "width": 8, "layers": 2, "noise": 0.3,
    "steps": 450, "batch": 64, "learning_rate": 0.05,
    "spawns": [0.0, 0.2, 0.5], "spawn": 0.2, "weights": [0.5], "weight": 0.5, "drawn": [],
    "snapshot_rate": 0.01, "snapshot_steps": 90,
    "students": ["distilled", "same_basin", "no_teacher", "mean_teacher"],
    "student_steps": 900, "student_rate": 0.05, "student_weight": 0.2, "scored": 300,
}

# %% tags=["remove-input"]
from ntf_utils.papers.single_basin.studies import BasinParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), BasinParameters)

# %% tags=["hide-input"]
import inspect

from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.measures import matching
from ntf_utils.papers.single_basin import effects
from ntf_utils.papers.single_basin.ensembles import train_ensembles
from ntf_utils.papers.single_basin.live import LiveEnsembles, recorded_states
from ntf_utils.runs import sweep
from ntf_utils.show import BasinExplorer, claim_box, provenance, use_style
from ntf_utils.show.basin_figures import sweep_panels, trade_off
from ntf_utils.training.objectives import Connected

use_style()
court = Court("single_basin", profile)


def box(claim, **judged):
    """The box of a claim; where divergence leaves nothing to compare, that is the reason for no verdict."""
    if all(len(found) for found in judged["effects"].values()):
        return claim_box(court.judge(claim, **judged), court.claims.claims[claim])
    return claim_box(court.not_tested(claim, "too little is left to compare"), court.claims.claims[claim])


# %% [markdown]
# ## The connectivity term
#
# At every update each member gets a partner and a random place on the line to it, and the loss there counts as well as the loss at the member itself:

# %% tags=["hide-output"]
display(Code(inspect.getsource(Connected), language="python"))

# %% [markdown]
# With weight 0, a **constrained** ensemble is one that branches at the very first step. We also use the term the other way round: **drawn** ensembles start from independent initialisations, as a deep one (which is their weight 0), and the term has to draw the members together.

# %%
tables = parameters.by_tier(sweep(train_ensembles, parameters.runs()))
print(effects.lost(list(tables.values())))
effects.summary(tables["objects"], ["deep", "drawn", "branch", "constrained"])

# %%
effects.summary(tables["clothes"], ["deep", "branch", "constrained"])

# %% mystnb={"figure": {"name": "fig-basin-sweeps", "caption": "Joint barrier (above) and NLL above the deep ensemble's (below) as members are tied more tightly, from left to right in each panel. Dots: seeds; bars: mean with its 95 % interval. Dashed: deep ensemble; green: one basin."}, "image": {"alt": "Columns of two panels: as branches part later, the joint barrier falls and the NLL rises; as the weight of the connectivity term grows the barrier falls too, while the NLL changes less."}}
panels = {"branch, objects": "branch", "branch, clothes": "branch", "constrained, objects": "constrained", "drawn, objects": "drawn"}
_ = sweep_panels({title: tables["clothes" if "clothes" in title else "objects"] for title in panels}, panels)

# %% tags=["remove-input"]
provenance(list(tables.values()), profile)

# %% [markdown]
# For each seed we take the rank correlation, over the settings, of joint barrier and NLL: $-1$ where every step towards connectivity costs. We judge the NLL of the ensemble, not only its gain over single members: a tie may cost diversity, or make the members themselves worse, and the price is the same.

# %%
print("rank correlation of the joint barrier with the NLL, and with the gain over single members")
for name, table, strategy in (
    ("branch, objects", tables["objects"], "branch"), ("branch, clothes", tables["clothes"], "branch"),
    ("constrained, objects", tables["objects"], "constrained"), ("drawn, objects", tables["objects"], "drawn"),
):
    price, diversity = (effects.price(table, strategy, column).mean() for column in ("calibrated", "gain"))
    print(f"{name:<22} {price:+.2f}  {diversity:+.2f}")

# %% tags=["remove-input"]
judged = {tier: tables[tier] for tier in ("objects", "clothes")}
gates = effects.gates(list(judged.values()))
box(
    "C2",
    effects={
        "spawn_objects": effects.price(tables["objects"], "branch"),
        "spawn_clothes": effects.price(tables["clothes"], "branch"),
        "constrained_objects": effects.price(tables["objects"], "constrained"),
        "drawn_objects": effects.price(tables["objects"], "drawn"),
    },
    rests_on=judged.values(),
    gates=gates,
)

# %% [markdown]
# ## All strategies on one map
#
# Performance against connectivity, for everything in this chapter. What one would like lies at the lower left: as good as a deep ensemble, in one basin.

# %% mystnb={"figure": {"name": "fig-basin-map", "caption": "Test NLL above the deep ensemble's against the joint barrier, means over seeds with the 95 % interval of the paired difference. Lines join the settings of one strategy. Green: one basin."}, "image": {"alt": "A panel a data set. The deep ensemble lies at the lower right. Branches and constrained ensembles lie in the green band on the left, higher up. Distilled students lie in the green band close to the level of the deep ensemble."}}
_ = trade_off(tables)

# %% tags=["remove-input"]
provenance(list(tables.values()), profile)

# %% [markdown]
# ## Permuting towards one basin
#
# Hidden units have no names: put those of one network into another order, and the weights move while the function stays. Weight matching {cite:p}`ainsworth2023git` looks for the order in which a network lies closest to another one. If the deep ensemble's members were in one basin *but for the names of their units*, matching would bring them there, at no cost at all: a permuted ensemble predicts exactly what the deep one does.

# %% tags=["hide-output"]
display(Code(inspect.getsource(matching.match_weights), language="python"))

# %%
effects.summary(tables["objects"], ["deep", "permuted", "distilled"])

# %%
effects.summary(tables["clothes"], ["deep", "permuted", "distilled"])

# %% [markdown]
# In terms of accuracy the claim would be empty; it is one about barriers. Distillation (page 3) is there for comparison.

# %% tags=["remove-input"]
matched = all((table["strategy"] == "permuted").any() for table in judged.values())
measures = {
    "helps": lambda table: effects.relative(table, "permuted", "barrier"),
    "partly": lambda table: effects.relative(table, "permuted"),
    "distilled": lambda table: effects.of(table, "distilled", "joint") - effects.of(table, "permuted", "joint"),
}
if matched:
    shown = box("C4", effects=effects.by_tier(judged, measures), rests_on=judged.values(), gates=gates)
else:
    reason = "units are matched for perceptrons only, and this profile has another architecture"
    shown = claim_box(court.not_tested("C4", reason), court.claims.claims["C4"])
shown

# %% [markdown]
# ## The explorer
#
# Choose what ties the members together, and move the slider. The curve is the mean loss on the lines between members of one seed's ensemble; the tiles are test images with the votes of its members. In Jupyter, type any other setting and press **Train**; **show the images** shows the pixels, where the data set is at hand.

# %% tags=["remove-input"]
first = tables["objects"][tables["objects"]["seed"] == 0]
display(BasinExplorer(recorded_states(first), live=lambda: LiveEnsembles.of(first)))

# %% tags=["remove-input"]
provenance(first, profile)

# %% [markdown]
# ## Implementation details that matter
#
# - **Signed rises.** Barriers are largest values and never below 0. The rises at the centroid and at random mixtures have a sign; in ensembles with a strong term the centroid often lies *below* its members: the middle of the basin is its best part.
# - **Partners go round.** A member's partner changes at every update, by a random step round the ensemble: no member is ever its own partner, and over time all pairs are asked for.
# - **No gradient is lost.** Both ends of a line feel the loss between them. In a stack of members that is one gather, whose gradient flows back to both.
# - **Matching starts from the first member.** All others are matched to it, pair by pair; pairs of others are only brought together by way of it.
# - **Settings of a sweep share what they can.** Branches of every spawn time are copies of one and the same run; constrained and drawn ensembles of all weights are trained as one stack, with the same partners and places.
#
# **Try it.** Set `width` of `objects` to 512: does matching bring wide networks into one basin? Set `drawn` to `[0.5, 1.0]` and `steps` to 1800: does patience draw the members together?
