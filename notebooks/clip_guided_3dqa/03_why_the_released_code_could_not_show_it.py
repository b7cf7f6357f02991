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
# # Why the released code could not show it
#
# {doc}`01_rooms_and_questions` measures whether pre-training helps, with code of ours. The authors published theirs {cite:p}`parelli2023clip`, and it runs. Read closely, it has three defects, and any one of them changes what a comparison of "pre-trained" with "from scratch" can say.
#
# **Question of this page:** in the code as it was released, could the pre-training have changed a single answer?
#
# We judge the code, not the paper. Whether the numbers of the paper were made with this state of it, we do not know.

# %% tags=["parameters"]
profile: str = "laptop"  # smoke, laptop, gpu or paper: names the verdicts, see book/rerunning
seeds: int = 5  # sets of rooms, each with a start and an order of its own; all arms share them
first_seed: int = 0  # settings were chosen on seeds from 1000 on
pretrain_rooms: int = 512  # with captions and pictures, without questions; all 64 pairs of class and colour
qa_rooms: int = 320  # with questions; 12 pairs never occur in them
val_rooms: int = 128  # of each report; never trained on
per_template: int = 480  # most questions of each kind in training
val_per_template: int = 200  # and in each report; one of a thousand is worth 0.1 points
points: int = 2048  # of a room's cloud, of which its proposals are cut
picture: int = 48  # pixels a side of a picture from above
teacher_folder: str = ""  # of CLIP, in transformers' or open_clip's format; empty trains the small teacher
teacher_seed: int = 0  # there is one teacher: intervals speak about rooms and starts, not about teachers
teacher_rooms: int = 3072  # of the teacher's own
teacher_unseen: int = 256  # rooms of its gate
teacher_steps: int = 400
teacher_batch: int = 128
teacher_rate: float = 0.003
dimension: int = 128  # of its vectors; CLIP ViT-B/32 has 512
teacher_width: int = 16  # channels of its first convolution
pretrain_steps: int = 600
pretrain_batch: int = 64  # rooms; the published code's is 16
pretrain_rate: float = 0.002  # AdamW's peak; the published 0.0001 has many more updates
alignment: float = 0.1  # weight of the cosines beside the detection losses, the published code's
width: int = 64  # of scene layer and fusion; the paper's is 256
heads: int = 4  # the paper's are 8
feedforward: int = 128  # the paper's is 2048
crop_width: int = 64  # of the network that reads a proposal's points
answer_steps: int = 400
answer_batch: int = 32  # rooms
each: int = 4  # questions about each room of a batch
answer_rate: float = 0.002
detection: float = 1.0  # weight of the detection losses while answering
fusion_layers: int = 2  # the paper's
defect_seeds: int = 3  # of the defects; each trains two networks
group: int = 16  # rooms of a batch when answers are compared; the published evaluation has 16 questions
detect_seeds: int = 3  # of the detectors; each trains two
cloud: int = 1024  # points of a room; the paper's scans have 40,000
detect_size: str = "laptop"  # or paper, the published layers
proposals: int = 32  # of the laptop's size; the paper's has 256
detect_steps: int = 1000  # updates; 600 found clearly fewer things in trial runs
detect_batch: int = 8  # rooms; the paper's is 16
detect_rate: float = 0.01  # Adam's peak for the detector; the published 0.0001 has far more updates
scene_rate: float = 0.002  # and for the scene layer, which collapses at the detector's

# %% tags=["remove-input"]
from ntf_utils.papers.clip_guided_3dqa.studies import DefectParameters, RoomParameters
from ntf_utils.runs import check_parameters

parameters = check_parameters(globals(), DefectParameters, also=RoomParameters.__subclasses__())

# %% tags=["hide-input"]
import inspect

import torch
from IPython.display import Code, display
from torch import nn

from ntf_utils.claims import Court
from ntf_utils.models import loading, scene_encoder
from ntf_utils.papers.clip_guided_3dqa.defects import measure_defects
from ntf_utils.papers.clip_guided_3dqa.detection import train_detector, train_together
from ntf_utils.runs import curves, sweep
from ntf_utils.show import claim_box, provenance, use_style
from ntf_utils.show.defect_figures import consequences, detectors, end_to_end, gradient_bars, losses_on_the_way

use_style()
court = Court("clip_guided_3dqa", profile)


def box(claim, **judged):
    return claim_box(court.judge(claim, **judged), court.claims.claims[claim])


# %% [markdown]
# ## One missing argument
#
# The scene encoder puts a learnt *scene token* before the objects of a room and lets it attend to them in one Transformer layer. What the token has become is the {term}`scene vector`. Here is that layer; `across_batch` makes it what the published code has.

# %% tags=["hide-output"]
display(Code(inspect.getsource(scene_encoder.SceneLayer), language="python"))

# %% [markdown]
# PyTorch's Transformer layer takes its input as [tokens, batch, width], unless it is built with `batch_first=True`. The published code gives it [batch, tokens, width] and leaves the argument out. Nothing fails: the shapes fit. But now the first axis, the scenes of the batch, is what attention runs along. The third chair in the list of one room looks at the third thing in the lists of the other rooms, and the scene token looks at the scene tokens of the other rooms, which are all the same learnt vector.
#
# Four invented rooms with ten random objects each show it. How far apart are the four tokens behind the layer?

# %%
torch.manual_seed(0)
rooms = torch.randn(4, 10, 8)
rooms[:, 0] = torch.randn(8)  # the same scene token in front of every room
for batch_first in (True, False):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    token = layer(rooms)[:, 0]
    print(f"batch_first={batch_first}: tokens differ by up to {(token - token[0]).abs().max():.1f}")

# %% [markdown]
# ## Where the gradient ends
#
# If every room has one vector, no weight below the scene layer can make it better or worse, so the alignment has no gradient there. We measure it in two networks. In the first, the one of all this chapter's arms, objects are given and a small network reads their points and boxes. In the second, as in the paper, a detector finds the objects in the points of the whole room (VoteNet {cite:p}`qi2019deep` on PointNet++ {cite:p}`qi2017pointnetplusplus`). Both are at their random start, and the loss is the {term}`alignment loss` alone, on the first batch of the pre-training.

# %%
measured = sweep(measure_defects, parameters.defects())

# %% mystnb={"figure": {"name": "fig-gradients", "caption": "Norm of the alignment's gradient at each part of two networks, from the points (below) to the scene vector (above). Blue, the control: with the missing argument. Orange, hatched: as released. Bars are means over seeds, dots the seeds."}, "image": {"alt": "Two panels of horizontal bars, one for each part of a network. As released, all parts below the scene layer have a gradient of exactly 0; with the argument added, all have one."}}
_ = gradient_bars(curves(measured, "gradients"))

# %% tags=["remove-input"]
provenance(measured, profile)

# %% [markdown]
# As released, the alignment trains the scene token, the layer that it goes through and the head behind it: they learn one constant vector, the best that a constant can be. Its cosine to the targets is not 0 ({doc}`02_what_the_scene_vector_knows` has it as the floor of all cosines), so the loss falls and warns nobody. The network that reads the points learns from the detection losses only.
#
# ## Weights that never arrive
#
# The second defect lies between the two stages. Training on questions starts from a checkpoint of the pre-training, which a function copies into the new network by name. It keeps only names that contain `module.trunk.0`, and joins what is left of them with a dot *and a space*:

# %%
print(list(loading.released_names({"module.trunk.0.SA_modules.0.weight": None, "scene_encoder.layers.0.norm1.weight": None})))

# %% [markdown]
# Names that contain `module.trunk.0` are those of DepthContrast {cite:p}`zhang2021selfsupervised`, a checkpoint of another project that the point encoder should start from. The code's own pre-training has none, so nothing of it is kept. And what is kept of DepthContrast has names that begin with a space, which no network has. Either load copies **no tensor**, prints "Not found" for each, and goes on.
#
# Our `load_weights` counts, and refuses to go on with nothing.

# %% tags=["hide-output"]
display(Code(inspect.getsource(loading.load_weights), language="python"))

# %% [markdown]
# ## Answers that hang on the batch
#
# The third: the missing argument is there while questions are answered, too. Objects then take part in the attention of whatever rooms share their batch, and the published evaluation shuffles. We train the network on questions both ways, put the same rooms of the test into batches in two different orders, and count the answers that are no longer the same.

# %%
display(consequences(measured))

# %% [markdown]
# The table has means over seeds. "Mended" is the control of each line: the same networks, rooms and steps, with `batch_first=True` and names matched as they are.

# %% tags=["remove-input"]
judged = box(
    "C7",
    effects={
        "gradient": measured.set_index("seed")["gradient_ratio"].astype(float),
        "spread": measured.set_index("seed")["spread_ratio"].astype(float),
        "loaded": measured.set_index("seed")["loaded"].astype(float),
    },
    rests_on=measured,
)
judged

# %% [markdown]
# So the answer to the question of this page is: no. As released, what is called pre-trained is a network from scratch, trained once more with another order of random numbers. The arm R of {doc}`01_rooms_and_questions` runs it like that, beside the mended arms.
#
# ## The whole path, from points to the scene vector
#
# The arms of this chapter are given their objects, because thousands of questions can then be trained on in seconds. The paper's pre-training is longer: a detector that finds the objects, its own losses, and the alignment on top, all trained together. Once, we do that here as well, in PyTorch alone: the published code needs kernels that exist for GPUs only.

# %% tags=["hide-output"]
display(Code(inspect.getsource(train_together), language="python"))

# %%
found = sweep(train_detector, parameters.detectors())
display(detectors(found))

# %% [markdown]
# Acc is the share of things that some proposal overlaps well enough ({term}`Acc@0.25`), {term}`mAP` the mean average precision over classes, {term}`R@1` how often a room's scene vector finds the picture of its own room among 64. The last line is what the chapter's arms are given: groups of points that stand together, found without any network. In rooms whose things keep a distance that is almost perfect; in a real scan it would not be.

# %% mystnb={"figure": {"name": "fig-end-to-end", "caption": "Detectors trained together with the alignment, as it is mended (blue discs) and as released (orange squares), on rooms that training has not seen: things found (left), and what the scene vector knows (right). Marks are seeds, bars 95 % intervals of the mean. Crosses: the same networks before training; dotted: chance."}, "image": {"alt": "Two panels. Left: four scores of detection for both variants and before training. Right: retrieval of the room's picture and centred cosine for both variants, beside chance."}}
_ = end_to_end(found)

# %% tags=["remove-input"]
provenance(found, profile)

# %% mystnb={"figure": {"name": "fig-detection-losses", "caption": "The detection losses over the updates, mended (solid) and as released (dashed); thin lines are seeds, thick ones their mean."}, "image": {"alt": "Four panels with the losses of votes, objectness, boxes and classes, all falling."}}
_ = losses_on_the_way(curves(found, "learning"))

# %% [markdown]
# As released, the detector's weights are equal to the last bit to those of a training without any alignment (`tests/test_scene_detection.py` checks it). So the orange squares on the left are also the control for what the alignment does to detection.
#
# ## Implementation details that matter
#
# - **`batch_first`.** Where: `models/pretrain_module.py` and `models/qa_module.py` of AlexDelitzas/3D-VQA at 774f5a9. The layers that join words and objects (`models/cross_encoder.py`) have the argument, so there the words do see the objects, mixed as these are.
# - **The filter.** Where: `init_model_from_weights` in `models/model_utils.py`. The test for a network of your own is one line: count the tensors that arrived.
# - **Three tests.** A scene's vector must not change with its neighbours in the batch; the alignment's gradient at the first layer must not be 0; the number of loaded tensors must not be 0. `tests/test_scene_encoder.py` has all three, for the mended code and, turned round, for the released one.
# - **Equal vectors in fp64.** In fp32, rounding makes equal vectors differ by about one part in ten million; the spread is therefore taken in double precision.
# - **Two learning rates.** Trained at the detector's rate, the scene layer ended with one vector for all rooms although its gradient was whole. It has a rate of its own.
# - **Seeds on the walls.** Farthest-point sampling spreads points evenly through space, so most of a room's seeds lie on floor and walls and vote for nothing, and so do most proposals. We take several times as many proposals as a room has things, as VoteNet does.
# - **Left out.** The published head also predicts a heading, which is always 0 for boxes along the axes.
#
# ## How the sizes were chosen
#
# On rooms of seeds from 1000 on. The detector's learning rate is a hundred times the published one, because it has far fewer updates; six hundred of them found clearly fewer things than a thousand.
#
# ## What was easy, what was hard, what the paper leaves open
#
# **Easy.** To show the defects: each is one number that is exactly 0.
#
# **Hard.** To notice them. Nothing fails, the loss falls, the cosine is high, and the network answers.
#
# **Left open.** Whether the paper's networks were trained with the code in this state, and so what its tables compare.
#
# **Try it.** Set `group` to 2: do more answers change in a smaller batch? Set `alignment` to 1 and look at the detection losses.
