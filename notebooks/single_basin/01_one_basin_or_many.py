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
# # One basin or many
#
# An ensemble of neural networks averages the predictions of several of them. It works best when its members have been trained from different initialisations: a **deep ensemble** {cite:p}`lakshminarayanan2017simple`. Such members lie in different **basins** of the loss: on the straight line between the weights of two of them the training loss rises to a barrier (see {doc}`../linear_mode_connectivity/01_where_it_holds`). Is that necessary? A single basin is large, and there are cheap ways to find several networks in it.
#
# Lion et al. {cite:p}`lion2024basin` ask how good an ensemble can be whose members all lie in one basin. We could read their abstract, a one-line summary and a summary by others. Their tables, settings and exact recipes are unknown to us: what follows tests the statements of the abstract with recipes of our own.
#
# **Question of this page:** at equal numbers of members, how much worse is an ensemble in one basin, and what does it lack? {doc}`02_the_price_of_connectivity` tightens and loosens the tie between members step by step. {doc}`03_distilling_other_basins` asks whether one basin could hold a good ensemble after all, if only one knew where to look.

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
from ntf_utils.measures import barriers, calibration
from ntf_utils.papers.single_basin import effects
from ntf_utils.papers.single_basin.ensembles import Job, train_ensembles
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.basin_figures import between_members, by_number_of_members, member_planes

use_style()
court = Court("single_basin", profile)


def box(claim, **judged):
    """The box of a claim; where divergence leaves nothing to compare, that is the reason for no verdict."""
    if all(len(found) for found in judged["effects"].values()):
        return claim_box(court.judge(claim, **judged), court.claims.claims[claim])
    return claim_box(court.not_tested(claim, "too little is left to compare"), court.claims.claims[claim])


# %% [markdown]
# ## What is compared
#
# All ensembles have the same number of members, of one architecture, trained on the same images with the same recipe. What tells them apart is where members start:
#
# - **deep**: independent initialisations and orders of the data;
# - **branch**: one network, trained up to a *spawn step* and then copied; the copies go on with different orders. (Others call such members stochastic weights.)
# - **constrained**: one initialisation, different orders from the first step on, and a second term in the loss: the cross-entropy at a random place on the line to another member, which keeps the valley between them open;
# - **snapshot**: one network, trained on at a constant learning rate; a member every few epochs.
#
# Between the ends of the scale stands the control **clones**: one network, several times. It must have no barrier and no diversity.
#
# Here is how branches and constrained members are made:

# %% tags=["hide-output"]
display(Code(inspect.getsource(Job.branch) + "\n" + inspect.getsource(Job.constrained), language="python"))

# %% [markdown]
# ## How good: probabilities, tempered
#
# An ensemble says the mean of its members' *probabilities*. Its negative log-likelihood (NLL) depends on how good it is and on how sure of itself; to compare the first, every ensemble gets one temperature, fitted on images that it is neither trained nor tested on {cite:p}`ashukha2020pitfalls`. Unless "raw" is said, NLL means that. The raw one and the Brier score have a section of their own below.

# %% tags=["hide-output"]
functions = (calibration.ensemble, calibration.tempered, calibration.expected_calibration_error)
display(Code("\n\n".join(inspect.getsource(function) for function in functions), language="python"))

# %% [markdown]
# ## How connected: jointly
#
# Three networks can be connected pair by pair and still have a hill in their midst. So we look at the lines between all pairs, at the centroid of all members, and at random weighted means of them, and call the largest rise of the training loss found anywhere the **joint barrier**. Below a tenth of the deep ensemble's, we say **one basin**; the bound is ours.

# %% tags=["hide-output"]
display(Code(inspect.getsource(barriers.joint_connectivity), language="python"))

# %% [markdown]
# ## The ensembles
#
# Three tiers, from the parameters above: **objects** and **clothes**, on which everything is judged, and **contrast**, a small convolutional network on more pixels. One run is one seed: a complete set of ensembles on its own draw of training images. All comparisons are made within a seed.

# %%
tables = parameters.by_tier(sweep(train_ensembles, parameters.runs()))
print(effects.lost(list(tables.values())))
effects.summary(tables["objects"], ["deep", "clones", "branch", "constrained", "snapshot"])

# %% [markdown]
# Performance stands left, connectivity right: `gap` is the NLL above the deep ensemble's, with half its 95 % interval; `diversity` is the share of test images on which two members disagree, over the members' error; `pairs` (mean), `centroid` and `joint` are barriers, in nats of training loss. Branches and constrained ensembles have a number: the share of training made together, and the weight of the term.

# %%
effects.summary(tables["clothes"], ["deep", "clones", "branch", "constrained", "snapshot"])

# %%
effects.summary(tables["contrast"], ["deep", "clones", "branch", "constrained", "snapshot"])

# %% mystnb={"figure": {"name": "fig-basin-lines", "caption": "Training loss on the straight lines between members, mean over all pairs. Thin lines are seeds. Dotted: the control, clones of one network."}, "image": {"alt": "A panel a data set: between members of the deep ensemble the loss rises to a high bump; between branches and between constrained members it stays flat; between clones it is constant."}}
shown = ("deep", "branch", "constrained", "clones")
_ = between_members({tier: effects.lines_between(table, shown) for tier, table in tables.items()})

# %% mystnb={"figure": {"name": "fig-basin-planes", "caption": "Training loss in the plane through the first three members (dots) of some ensembles of one seed, objects."}, "image": {"alt": "Contour maps: three members of the deep ensemble sit in three separate pits; permuted members in pits that lie closer; branches and distilled students share one pit."}}
first = tables["objects"][tables["objects"]["seed"] == 0]
if plane:
    _ = member_planes(curves(first, "planes"), curves(first, "corners"))

# %% tags=["remove-input"]
provenance(list(tables.values()), profile)

# %% [markdown]
# ## Worse, at equal numbers
#
# The claim has two halves that only together mean something: the one-basin ensembles have to be worse, and they have to *be* in one basin. A gate asks that single members are alike in quality, so that the difference is one of ensembles.

# %% tags=["remove-input"]
judged = {tier: tables[tier] for tier in ("objects", "clothes")}
gates = effects.gates(list(judged.values()))
measures = {
    "branch": lambda table: effects.above_deep(table, "branch"),
    "constrained": lambda table: effects.above_deep(table, "constrained"),
    "error": lambda table: 100 * effects.above_deep(table, "branch", "error"),
    "basin": effects.least_connected,
}
examples = min(tables[tier]["n_test"].iloc[0] or 10_000 for tier in judged)
box("C1", effects=effects.by_tier(judged, measures), rests_on=judged.values(), gates=gates, examples=int(examples))

# %% mystnb={"figure": {"name": "fig-basin-sizes", "caption": "Test NLL of the first members of an ensemble, by how many there are: mean over seeds."}, "image": {"alt": "A panel a data set: the line of the deep ensemble falls steadily with the number of members; those of branches and constrained members flatten early; the line of clones is flat."}}
sizes = {tier: curves(table, "sizes") for tier, table in tables.items()}
_ = by_number_of_members(sizes, ["deep", "constrained", "branch", "snapshot", "distilled", "clones"])

# %% tags=["remove-input"]
provenance(list(tables.values()), profile)

# %% [markdown]
# ## What is missing: diversity
#
# Members of one basin make the same mistakes. We compare how often two members disagree, relative to how often one of them is wrong.

# %%
for tier, table in tables.items():
    ratios = {name: effects.diversity_ratio(table, name).mean() for name in effects.CONFINED}
    print(f"{tier:<9} diversity of deep over that of", ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))

# %% tags=["remove-input"]
box("C3", effects=effects.by_tier(judged, {"": effects.diversity_ratio}), rests_on=judged.values(), gates=gates)

# %% [markdown]
# ## Calibration
#
# The same test on the Brier score, on the NLL without temperature scaling and on the expected calibration error (ECE) of the raw probabilities, each time with the better of branch and constrained. These are several measures of one thing, each also read alone, so Holm's rule {cite:p}`holm1979simple` widens the intervals. The tables show the ECE after temperature scaling as well: there is little left of it in any ensemble.

# %%
shown = ["deep", "clones", "branch", "constrained", "snapshot"]
effects.summary(tables["objects"], shown, effects.CALIBRATION)

# %%
effects.summary(tables["clothes"], shown, effects.CALIBRATION)

# %% tags=["remove-input"]
measures = {
    name: (lambda table, column=column: effects.above_deep(table, "better", column))
    for name, column in (("brier", "brier"), ("raw", "nll"), ("ece", "ece"))
}
box("C8", effects=effects.by_tier(judged, measures), rests_on=judged.values(), gates=gates)

# %% [markdown]
# ## Implementation details that matter
#
# - **Average probabilities.** The ensembling script of a well-known study of weight matching interpolates log-probabilities: a geometric mean, another ensemble.
# - **A temperature for each ensemble, not for each network.** Fitted on held-out training images, never on test images. Without it, an ensemble that is merely less sure of itself looks better.
# - **Noise in every training.** Students (page 3) have to see something else than the images that their teachers have learned by heart; noise on the inputs does that. Noise also makes better networks. If only the students had it, part of what looks like distillation would be augmentation, so every member of every ensemble is trained with the same noise.
# - **The term is weighed against the loss.** Constrained members descend $(1-w)L + w L_\text{between}$. A term that is added on top, with a weight above 1, acts as a higher learning rate: in trial runs it diverged before it connected anything.
# - **Equal updates, not equal cost.** The connectivity term asks for a second gradient at every update: constrained members cost about twice as much as others. Where they are still worse, that only sharpens the finding.
# - **No batch norm.** All networks here do without, so a mixture of weights needs no new statistics. (Where there is some, `joint_connectivity` takes them anew at every point.)
# - **A member in common.** The first member of deep, branch and snapshot ensembles is the same network: it narrows the paired differences and favours nobody.
#
# **How the sizes were chosen.** Learning rates, noise, numbers of updates and the weight of the students' connectivity term were settled in trial runs on seeds from 1000; the verdicts rest on seeds from 0. On scikit-learn's digits nearly nothing separates the ensembles: any one of them is nearly right.
#
# **Try it.** Set `noise` of `objects` to 0: do members still disagree as much? Set `members` to 10: does the deep ensemble's lead grow?
