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
# # A student of noise
#
# Take a network with random weights. Freeze it and call it the teacher. Take a second network that starts next to it, the student, and train it to say what the teacher says, on images without labels. There is nothing to learn: the teacher knows nothing about images, and where the student starts at the teacher, it has solved the task before the first update. Sarnthein et al. {cite:p}`sarnthein2023random` report that the student nonetheless ends with features that are much better than the teacher's.
#
# **Question of this page:** does it, under several ways of reading the features, and is it the images that do it? {doc}`02_where_it_comes_from` varies what the effect could depend on, {doc}`03_what_the_checkpoint_is_good_for` asks what the student's weights are good for.
#
# The abstract that this book started from is the paper's first version. The second one drops "highly" before "transferable", and says of the student's checkpoint that it "lies on the border of linear basins" where the first says that SGD "becomes stable" from there. We judge the numbers of the second.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
seeds: int = 5  # teachers; every arm has the same ones
few: int = 3  # arms of heads, sizes, transfer and children have the first so many
first_seed: int = 0  # settings were chosen on seeds from 1000 on
dataset: str = "cifar10"  # digits (embedded), mnist, fashion_mnist, cifar10 or cifar100; students learn and are probed on it
other: str = "fashion_mnist"  # for the transfer; framed in black to 32 x 32 and repeated in three channels
n_train: int = 5000  # images without labels that a student sees; 0 takes all
n_probe: int = 5000  # labelled training images of a probe; 0 takes all
n_test: int = 2000  # one is worth 0.05 points; 0 takes all
neighbours: int = 20  # the paper's
probe_updates: int = 1950  # of the paper's probe: its 10 epochs of CIFAR-10
encoder: str = "vgg11"  # without batch norm, as in the paper
width: int = 16  # channels of the first convolution; the paper's 64 give embeddings of 512, these of 128
hidden: int = 512  # the paper's head is 2048, 2048, 256, 65536
bottleneck: int = 64
outputs: int = 1024
locality: float = 0.1  # not the paper's 1e-10: there rounding decides, see the second page
steps: int = 1600  # updates, 10 epochs; in trial runs students of 800 had hardly overtaken their teacher
batch: int = 32  # the paper's is 256; in trial runs small batches got further in the same time
learning_rate: float = 0.001  # the paper's, AdamW without weight decay; twice it did harm in a trial run
precision: str = "fp32"  # bf16 for the encoder on a GPU
looks: int = 4  # times at which students are probed on their way
line: int = 15  # points on the line from teacher to student, and a fifth of the way beyond both
tiles: int = 3  # test images of each class that the explorer shows

# %% tags=["remove-input"]
from ntf_utils.papers.random_teachers.studies import NoiseParameters, TeacherParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), NoiseParameters, also=TeacherParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

from IPython.display import Code, display

from ntf_utils.claims import Court
from ntf_utils.measures import probing
from ntf_utils.models.projection import ProjectionHead
from ntf_utils.papers.random_teachers import distillation, effects
from ntf_utils.papers.random_teachers.distillation import distil_student, probe_pixels
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.teacher_figures import over_training

use_style()
court = Court("random_teachers", profile)
examples = parameters.examples  # test images behind an accuracy


def box(claim, **judged):
    return claim_box(court.judge(claim, examples=examples, **judged), court.claims.claims[claim])


def source(*shown):
    display(Code("\n".join(inspect.getsource(one) for one in shown), language="python"))


# %% [markdown]
# ## The game
#
# Teacher and student have the same architecture: an encoder $g$, here a VGG11 {cite:p}`simonyan2015very` without batch norm, and a projection head $h$ like DINO's {cite:p}`caron2021emerging`, whose last layer has far more outputs than there are classes. The head ends in a bottleneck: its features are divided by their norm, and each output's weights by theirs.

# %% tags=["hide-output"]
source(ProjectionHead)

# %% [markdown]
# The teacher stays at $\theta_T$. With $\tilde\theta$ a second random start, the student begins at
#
# $$\theta_S(\alpha) = \frac{(1-\alpha)\,\theta_T + \alpha\,\tilde\theta}{\sqrt{\alpha^2 + (1-\alpha)^2}}$$
#
# and minimises the cross-entropy between the two softmax distributions, without temperature, centering, labels or augmentation. The **locality** $\alpha$ says how near to the teacher it begins: 0 at the teacher, 1 independently of it.

# %% tags=["hide-output"]
source(distillation.near, distillation.distillation_loss)

# %% [markdown]
# Afterwards the heads are thrown away, and labels come in for the first time: a probe reads the encoder's embeddings of training images and is scored on test images. A single probe can mislead, so there are three:
#
# - the **paper's**: a linear layer on raw features, AdamW, a fixed number of updates. It gets further on features of larger scale, and a student's features do grow;
# - a **converged** one: logistic regression on standardised features, fitted to its optimum, with the penalty chosen on held-out training images. Scale and patience cannot matter to it, so it is our first probe;
# - **k nearest neighbours**: the paper's vote of the 20 nearest by Euclidean distance. Nothing is trained. (With cosine similarity and weighted votes {cite:p}`wu2018unsupervised`, k-NN gives other numbers; the table has them.)

# %% tags=["hide-output"]
source(probing.converged_probe, probing.adamw_probe, probing.knn_predict)

# %% [markdown]
# ## What comes out
#
# Each seed is a teacher, a second start and an order of the images. All arms of a seed share them, so every comparison is within a seed. Three levels stand beside every number: the teacher's, the same probe on raw pixels, and chance.

# %%
main = sweep(distil_student, parameters.main())
noise = sweep(distil_student, parameters.noise())
pixel_rows = sweep(probe_pixels, parameters.pixels())
pixels = pixel_rows[pixel_rows["dataset"] == dataset]
print("pixels:", {name: f"{100 * pixels[probe].iloc[0]:.1f} %" for probe, name in effects.NAMES.items()})
print(f"shuffled labels: {100 * pixels['shuffled'].iloc[0]:.1f} %, chance {100 * pixels['chance'].iloc[0]:.0f} %")
effects.summary(main.assign(inputs="images"), "inputs")

# %% [markdown]
# `S-T` is what the student S gains over its teacher T under the converged probe, in points, with the half-width of its interval; then teacher → student in percent under each probe (`adamw` is the paper's).

# %% mystnb={"figure": {"name": "fig-teacher-training", "caption": "Probe accuracy over the student's updates. Solid blue: students of images; dashed grey: students of noise, the control; thin lines are seeds, thick lines their mean. Red: the teachers, with the interval of their mean; dotted black: a probe on raw pixels; dotted grey: chance."}, "image": {"alt": "Three panels, a probe each, accuracy against updates. The students of images dip or stay at first and then climb above the teachers' line; the students of noise fall below it and stay there."}}
looks, noisy = curves(main, "learning"), curves(noise, "learning")
_ = over_training(looks[looks["round"] == 1], noisy, main, pixels)

# %% tags=["remove-input"]
provenance([main, noise, pixel_rows], profile)

# %% tags=["remove-input"]
gates = effects.gates([main, noise], pixel_rows)
box(
    "C1",
    effects={"converged": effects.gain(main), "protocol": effects.gain(main, "adamw")},
    rests_on=[main, pixels],
    gates=gates,
)

# %% [markdown]
# The claim asks for two points under both probes. Those on the next pages ask what the gain depends on, and need only that there is one. They rested on this claim at first; when the recorded runs left it open, none of them could be judged. Since then they rest on a gate of their own: the whole interval of the gain lies above 0 under both probes. `claims.yaml` keeps the old wording.

# %%
print("the gain is told from none:", effects.gain_exists(main))

# %% [markdown]
# The two probes measure different things. How much of the gain under the paper's probe is feature scale alone, the scales tell: the spread of the embeddings, teacher and student.

# %%
print(f"spread of the embeddings: teacher {main['scale_teacher'].mean():.3f}, student {main['scale_student'].mean():.3f}")
print(f"distance of the student's encoder from the teacher's: {main['moved'].mean():.2f} of the teacher's norm")

# %% tags=["remove-input"]
box("C3", effects={"knn": effects.gain(main, "knn")}, rests_on=[main, pixels], gates=gates)

# %% [markdown]
# ## Against the pixels
#
# A random encoder throws information away: at this width, its features are worth less than the pixels that they were computed from. Does the student make up for that?

# %%
for probe, name in effects.NAMES.items():
    above = effects.scores(main, probe) - 100 * pixels[probe].iloc[0]
    print(f"{name:<24} student minus pixels {above.mean():+.1f} points, from {above.min():+.1f} to {above.max():+.1f}")

# %% tags=["remove-input"]
above = effects.scores(main) - 100 * pixels["converged"].iloc[0]
box("C2", effects={"pixels": above}, rests_on=[main, pixels], gates=gates)

# %% [markdown]
# ## The control: noise
#
# Same teacher, same start, same head, same number of updates. Only the images are replaced by as many draws of Gaussian noise, one standard deviation a pixel like the images (the paper's is unknown). If the gain came from the training as such, say from larger weights, noise would show it too.

# %%
effects.summary(noise, "inputs")

# %% tags=["remove-input"]
box(
    "C6",
    effects={
        "protocol": -effects.gain(noise, "adamw"),
        "converged": -effects.gain(noise),
    },
    rests_on=[noise, pixels],
    gates=gates,
)

# %% [markdown]
# ## Once more?
#
# If a student beats its teacher, its own student might beat it again. For the second round the student is frozen, and a new one starts near to it, as before.

# %%
for probe, name in effects.NAMES.items():
    first, second = effects.gain(main, probe), effects.restart_gain(main, probe)
    print(f"{name:<24} first round {first.mean():+.1f} points, second {second.mean():+.1f} (from {second.min():+.1f} to {second.max():+.1f})")

# %% tags=["remove-input"]
box(
    "C13",
    effects={"converged": effects.restart_gain(main), "protocol": effects.restart_gain(main, "adamw")},
    rests_on=main,
    gates={"gain_exists": effects.gain_exists(main)},
)

# %% [markdown]
# ## Implementation details that matter
#
# - **Weight norm that is none.** In the published code, from a commit of December 2022 to its head, the last layer computes its normalised weights and then multiplies by the weights without it. Which state of the code made the paper's figures is unknown. Ours divides by the norm; `weight_norm=False` does what the published code does, and {doc}`02_where_it_comes_from` compares the two.
# - **Nothing is augmented**, so the teacher's bottleneck features of all images are computed once. The published code computes the teacher anew at every step.
# - **The last checkpoint.** Its summaries are the best epoch on the test probe, and so are its checkpoints: both flatter. Every number here is from the last update, and what a probe chooses, it chooses on training images.
# - **Loss in fp32.** What the student has to gain is tiny: its loss lies a small fraction of a nat above the teacher's entropy, less than bf16 can tell apart. {doc}`02_where_it_comes_from` prints it.
# - **Two conventions of k-NN.** A Euclidean vote on raw features is not a cosine vote with weights; numbers of one cannot be set beside numbers of the other.
#
# **How the sizes were chosen.** Width, batch, learning rate and updates were picked in trial runs on seeds from 1000 on; the verdicts rest on seeds from 0. A single subset of images is used: intervals speak about teachers and orders, not about other images.
#
# **Try it.** Set `steps` to 400: where is the student on its way? Set `width` to 8: does the noise still harm under the converged probe?
