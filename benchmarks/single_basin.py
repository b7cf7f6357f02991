"""Speed of the chapter on single basins: an ensemble of K members trained and evaluated, and what a member costs.

Beside ours stand a plain loop, one nn.Module with torch.optim.SGD after the other, and, where it is installed,
TorchUncertainty's deep-ensemble wrapper, which trains all members on the same batches. Images are random: no time
depends on what they show.
"""

import importlib
import math
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.linear_mode_connectivity import BATCH, CLASSES, DEVICE, IMAGES, finished, plain_training, shuffled
from benchmarks.timing import Measure, interleaved, median_ratio
from ntf_utils.measures.barriers import member_logits
from ntf_utils.measures.calibration import ensemble, nll
from ntf_utils.models.receptive import Perceptron
from ntf_utils.training.members import MemberRecipe, stack, train_members

CASES = {"MLP 64-64-64-10": ((1, 8, 8), 64), "MLP 192-128-128-10": ((3, 8, 8), 128)}  # digits; the chapter's
MEMBER_STEPS, TESTED = 1000, 2000
RATE = 0.01


def measure() -> list[Measure]:
    wrapper = torch_uncertainty()
    return [line for name in CASES for members in (1, 5, 20) for line in compare(name, members, wrapper)]


def compare(case: str, members: int, wrapper: Callable | None) -> list[Measure]:
    """The cost of a member, and ours beside the others', for an ensemble of so many."""
    shape, width = CASES[case]
    generator = torch.Generator().manual_seed(0)
    images, tested = (torch.randn(count, *shape, generator=generator).to(DEVICE) for count in (IMAGES, TESTED))
    labels, truth = (torch.arange(len(part), device=DEVICE) % CLASSES for part in (images, tested))
    steps = max(20, MEMBER_STEPS // members)
    template = Perceptron(shape, width, 3, CLASSES).to(DEVICE)
    state = stack([Perceptron(shape, width, 3, CLASSES).to(DEVICE) for _ in range(members)])
    recipe = MemberRecipe(steps, BATCH, RATE, schedule="constant")
    nets = [plain(math.prod(shape), width).to(DEVICE) for _ in range(members)]

    def ours() -> float:
        trained = train_members(template, state, images, labels, recipe, range(members), stacked=members > 1)
        return score(member_logits(template, trained.state, tested), truth)

    def loop() -> float:
        for seed, net in enumerate(nets):
            plain_training(net, images, labels, steps, seed)
        with torch.no_grad():
            return score(torch.stack([net(tested) for net in nets]), truth)

    rivals: dict[str, Callable[[], object]] = {"ours": ours, "loop": loop}
    if wrapper is not None and members > 1:
        rivals["wrapper"] = partial(wrapped, wrapper, nets, images, labels, tested, truth, steps)
    seconds = interleaved({name: partial(finished, run) for name, run in rivals.items()}, rounds=5)
    name = f"{case}, ensemble of {members}"
    cost = 1000 * statistics.median(seconds["ours"]) / members / steps
    # a stack must not cost; it gains only where networks are small and many
    target = "at least 0.85"
    found = [
        Measure(f"{name}: a member's update, evaluation included", cost, "ms"),
        Measure(f"{name}: a plain loop / ours", median_ratio(seconds, "loop", "ours"), "", target),
    ]
    if "wrapper" in rivals:
        ratio = median_ratio(seconds, "wrapper", "ours")
        found.append(Measure(f"{name}: TorchUncertainty's wrapper / ours", ratio, "", target))
    return found


def plain(inputs: int, width: int) -> nn.Module:
    """What a user would write."""
    hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, CLASSES))


def score(logits: Tensor, labels: Tensor) -> float:
    """NLL of the ensemble, or of its only member."""
    said = ensemble(logits) if len(logits) > 1 else logits[0].log_softmax(-1)
    return float(nll(said, labels))


def torch_uncertainty() -> Callable | None:
    """Its function that makes an ensemble of networks; None where it is not installed."""
    try:
        importlib.import_module("ntf_utils.data.torchvision_door")  # it imports torchvision
        return importlib.import_module("torch_uncertainty.methods").deep_ensembles
    except ImportError as problem:
        print(f"TorchUncertainty is not installed ({problem}): its rows are left out")
        return None


def wrapped(
    wrapper: Callable, nets: list[nn.Module], images: Tensor, labels: Tensor, tested: Tensor, truth: Tensor, steps: int
) -> float:
    """The same with TorchUncertainty: one optimiser for all members, which see the same batches."""
    together = wrapper(nets)
    optimiser = torch.optim.SGD(together.parameters(), lr=RATE, momentum=0.9)
    for _, rows in zip(range(steps), shuffled(0), strict=False):
        optimiser.zero_grad()
        # the mean over members would give each a K-th of the gradient
        (len(nets) * F.cross_entropy(together(images[rows]), labels[rows].repeat(len(nets)))).backward()
        optimiser.step()
    with torch.no_grad():
        return score(together(tested).view(len(nets), len(tested), CLASSES), truth)
