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
# # Distilling other basins into one
#
# An ensemble in one basin lacks the diversity of a deep one. That can mean two things: the basin does not *hold* such diverse networks, or training in the basin does not *find* them. Lion et al. {cite:p}`lion2024basin` tell the two apart by distillation {cite:p}`hinton2015distilling`: take one network as starting point, make copies of it, and let each copy learn from the predictions of *its own* member of a deep ensemble, a network from another basin.
#
# **Question of this page:** do the students stay in their basin, do they become as good an ensemble as the deep one, and is it really the other basins that help?

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
from ntf_utils.papers.single_basin import effects
from ntf_utils.papers.single_basin.ensembles import Job, taught_by, train_ensembles
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.basin_figures import agreement_matrix, closing_the_gap
from ntf_utils.training.objectives import Distilling

use_style()
court = Court("single_basin", profile)


def box(claim, **judged):
    """The box of a claim; where divergence leaves nothing to compare, that is the reason for no verdict."""
    if all(len(found) for found in judged["effects"].values()):
        return claim_box(court.judge(claim, **judged), court.claims.claims[claim])
    return claim_box(court.not_tested(claim, "too little is left to compare"), court.claims.claims[claim])


# %% [markdown]
# ## Students and their teachers
#
# All students start from the common trunk of the branches, at the spawn step, and are trained with noise on their inputs like everybody else. They descend the usual distillation loss, and a weak connectivity term:

# %% tags=["hide-output"]
display(Code(inspect.getsource(Distilling) + "\n\n" + inspect.getsource(Job.taught), language="python"))

# %% [markdown]
# That distilled networks are better than others of their size is old news, so "the students are good" proves nothing by itself. Every other explanation gets an ensemble of its own, with equal starting point, updates, learning rate and noise:

# %% tags=["hide-output"]
display(Code(inspect.getsource(taught_by), language="python"))

# %% [markdown]
# - **no teacher**: is it just longer training?
# - **same-basin teachers** (the branches): is it just distillation?
# - **one teacher** (the second deep member) for all, and the **mean of all teachers** for all: is it better members, rather than different ones?
# - **no connectivity term**: would the students leave the basin?

# %%
tables = parameters.by_tier(sweep(train_ensembles, parameters.runs()))
print(effects.lost(list(tables.values())))
students = ["distilled", "unbound", "mean_teacher", "one_teacher", "same_basin", "no_teacher"]
effects.summary(tables["objects"], ["deep", "clones", "branch", "constrained", *students])

# %%
effects.summary(tables["clothes"], ["deep", "clones", "branch", "constrained", *students])

# %%
effects.summary(tables["contrast"], ["deep", "clones", "branch", "constrained", *students])

# %% mystnb={"figure": {"name": "fig-basin-closure", "caption": "Left: how far each kind of student lies below the branch ensemble in NLL; dashed is the deep ensemble, so the distance between the two vertical lines is the gap. Right: joint barrier, relative to the deep ensemble's; green is one basin. Dots: seeds; bars: mean with its 95 % interval."}, "image": {"alt": "Rows of students for each data set. Distilled students come near the dashed line and stay in the green band. Same-basin teachers stay near zero. The mean teacher lies between."}}
_ = closing_the_gap(tables, students)

# %% tags=["remove-input"]
provenance(list(tables.values()), profile)

# %% [markdown]
# ## Closing the gap, inside the basin
#
# The reference is the **branch** ensemble: it starts where the students start, so that only the teaching differs. **Closure** is the share of its gap to the deep ensemble that students make up for: 0 is branch, 1 is deep. A harder reference is the better of branch and constrained, seed by seed; but where that one is nearly as good as the deep ensemble itself, a share of the difference means little. The second half of the claim is that the students lie in one basin, centroid and random mixtures included.

# %%
for tier, table in tables.items():
    shares = {name: effects.closure(table, name).mean() for name in students if name in set(table["strategy"])}
    harder, above = effects.closed(table, "distilled", "better").mean(), effects.above_deep(table, "better").mean()
    print(f"{tier}: mean closure by")
    print("\n".join(f"    {name.replace('_', ' '):<13} {share:5.2f}" for name, share in shares.items()))
    print(f"    distilled, from the better of branch and constrained: {harder:.4f} of {above:.4f} nats")

# %% tags=["remove-input"]
judged = {tier: tables[tier] for tier in ("objects", "clothes")}
gates = effects.gates(list(judged.values()))
measures = {
    "closure": lambda table: effects.closure(table, "distilled"),
    "basin": lambda table: effects.relative(table, "distilled"),
}
box("C5", effects=effects.by_tier(judged, measures), rests_on=judged.values(), gates=gates)

# %% [markdown]
# ## Without other basins
#
# The paper conjectures that what a basin holds is not easily found without learning from other basins. Two controls try: more training from the same start, and teachers from the same basin. Each may close less than half of what distillation closes.

# %% tags=["remove-input"]
measures = {
    kind: (lambda table, kind=kind: effects.closed(table, "distilled") / 2 - effects.closed(table, kind))
    for kind in ("same_basin", "no_teacher")
}
box("C6", effects=effects.by_tier(judged, measures), rests_on=judged.values(), gates=gates)

# %% [markdown]
# ## Better members or different ones
#
# Students of the mean teacher all learn the same, and learn it from the best source there is: the deep ensemble itself. What they close, they close by being better networks. What distilled students close beyond that, they close by being different ones.

# %% tags=["remove-input"]
measures = {
    name: (lambda table, kind=kind: (effects.closed(table, "distilled") - effects.closed(table, kind)).dropna())
    for name, kind in (("mean", "mean_teacher"), ("one", "one_teacher"))
}
box("C5b", effects=effects.by_tier(judged, measures), rests_on=judged.values(), gates=gates)

# %% [markdown]
# ## Who learned from whom
#
# If students really find the functions of other basins again, each must say what *its* teacher says, more often than what the other teachers say, on images that neither was trained on. The first deep member is no such teacher: it is what the students' common trunk becomes by itself, so all of them are like it from the start. The first row and column are shown, and left out of the effect.

# %% mystnb={"figure": {"name": "fig-basin-agreement", "caption": "Share of test images, in percent, on which a student says what a deep member says; mean over seeds. On the diagonal, each student's own teacher. The first deep member is the continuation of the students' own trunk."}, "image": {"alt": "Square matrices, one a data set, with a brighter diagonal."}}
_ = agreement_matrix({tier: curves(table, "agreement") for tier, table in tables.items()})

# %% tags=["remove-input"]
def own_minus_others(table):
    return 100 * (effects.of(table, "distilled", "own_teacher") - effects.of(table, "distilled", "other_teachers"))


examples = min(tables[tier]["n_test"].iloc[0] or 10_000 for tier in judged)
found = effects.by_tier(judged, {"": own_minus_others})  # without the first pair it takes three members
box("C7", effects=found, rests_on=judged.values(), gates=gates, examples=int(examples))

# %% tags=["remove-input"]
provenance(list(tables.values()), profile)

# %% [markdown]
# ## Another architecture
#
# The rows of **contrast** show a small convolutional network. No verdict rests on it: it has few seeds. On a GPU the same comparison is made between a ResNet-20 and a small ViT.

# %% tags=["remove-input"]
both = [tables["objects"], tables["contrast"]]
difference = (effects.closure(tables["objects"], "distilled") - effects.closure(tables["contrast"], "distilled")).dropna()
if profile in ("gpu", "paper") and len(difference):
    shown = box("C9", effects={"closure": difference}, rests_on=both, gates=effects.gates(both))
else:
    shown = claim_box(court.not_tested("C9"), court.claims.claims["C9"])
shown

# %% [markdown]
# ## Implementation details that matter
#
# - **Noise for students and teachers.** Teachers that fit their training images say little there beyond the label. On noisy copies of them, each teacher errs in a way of its own, and that is what a student can learn.
# - **Long enough.** Students with too few updates close nothing: on clothes, with half the updates given here, trial runs found no closure at all. A negative result with a short training would have been one about training.
# - **A fast student leaves.** At twice the learning rate the students of the trial runs were as good as the deep ensemble, and had half its joint barrier: they had left the basin. Performance alone would have called that a success.
# - **One teacher is no stranger.** The students' trunk is the beginning of the first deep member. So that one is left out where agreement is counted, and the control with one teacher takes the second.
# - **The factor $T^2$.** It keeps the size of the teacher's gradient when the temperature changes (Hinton et al.).
# - **Ensembles of one kind are trained as one stack**; teachers are asked, at every update, on the very inputs of their students.
#
# ## What was easy, what was hard, what the paper leaves open
#
# **Easy.** The gap between one basin and many shows with small networks, within seconds, on real images.
#
# **Hard.** Fair controls. Noise alone, longer training alone and a better teacher alone each improve students, and each could pass for knowledge from other basins.
#
# **Left open.**
#
# - What the paper measured: its tables, architectures, numbers of members and all recipes are unknown to us.
# - How its constrained ensembles are made, and from where they start. From one initialisation our term keeps members together; from independent ones it cannot, within this budget, bring them into one basin.
# - Whether the students' ensemble would still be as good as the deep one with long training on whole data sets.
#
# **Try it.** Set `student_weight` of `objects` to 0 and to 0.9: what do freedom and constraint cost? Set `temperature` to 1: how much of the closure is left?
