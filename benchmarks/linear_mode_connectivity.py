"""Speed of chapter two: many small networks trained in one job, and the curves between them.

Beside ours stands what a user would write: one nn.Module after the other with torch.optim.SGD, and for a curve a deep
copy of the network and a pass over the data at every alpha. Images are random: no time depends on what they show.
"""

import copy
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.timing import Measure, interleaved, median_ratio
from ntf_utils.measures.barriers import alphas, paths
from ntf_utils.models.receptive import Perceptron, ReceptiveNet
from ntf_utils.training.members import MemberRecipe, stack, stack_pays, train_members

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMAGES, BATCH, CLASSES = 2000, 64, 10
PATHS, EVALUATED_AT_ONCE = 8, 1024
ALPHAS = alphas(11)


@dataclass(frozen=True)
class Case:
    """One architecture, ours and as a user would write it; `member_steps`: work enough to drown what is done once."""

    name: str
    shape: tuple[int, int, int]
    ours: Callable[[], nn.Module]
    plain: Callable[[], nn.Module]
    member_steps: int

    def images(self) -> Tensor:
        return torch.randn(IMAGES, *self.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def perceptron(name: str, side: int, width: int, depth: int, member_steps: int) -> Case:
    shape = (1, side, side)
    sizes = [side * side, *[width] * (depth - 1)]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    plain = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, CLASSES))
    return Case(name, shape, lambda: Perceptron(shape, width, depth, CLASSES), lambda: again(plain), member_steps)


def convolution(name: str, side: int, kernel: int, stride: int, member_steps: int) -> Case:
    shape = (1, side, side)
    first = nn.Conv2d(1, 8, kernel, stride, kernel // 2)
    units = first(torch.zeros(1, *shape)).numel()
    plain = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(units, CLASSES))
    sizes = (8, kernel, stride, kernel // 2, CLASSES)
    return Case(name, shape, lambda: ReceptiveNet("convolutional", shape, *sizes), lambda: again(plain), member_steps)


def again(net: nn.Module) -> nn.Module:
    """A copy with weights of its own."""
    fresh = copy.deepcopy(net)
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return fresh


TINY = perceptron("MLP 64-64-10", 8, 64, 2, 3200)
USUAL = perceptron("MLP 196-128-10", 14, 128, 2, 1280)
WIDE = perceptron("MLP 784-512-10", 28, 512, 2, 640)
CNN = convolution("CNN 14x14, 5x5/2", 14, 5, 2, 1280)


def measure() -> list[Measure]:
    return [*members(), *curves()]


def members() -> list[Measure]:
    """Our training, by the way that `stack_pays` chooses, beside a plain loop over the same networks."""
    found = compare(TINY, 64, "at least 3")
    for case in (TINY, WIDE, CNN):
        for count in (1, 8, 32, 128):
            found += compare(case, count, "at least 0.95")
    return found


def compare(case: Case, count: int, target: str) -> list[Measure]:
    images, labels = case.images(), torch.arange(IMAGES, device=DEVICE) % CLASSES
    template = case.ours().to(DEVICE)
    state = {name: value.to(DEVICE) for name, value in stack([case.ours() for _ in range(count)]).items()}
    nets = [case.plain().to(DEVICE) for _ in range(count)]
    steps = max(10, case.member_steps // count)
    recipe = MemberRecipe(steps, BATCH, 0.01, schedule="constant")
    way = "stacked" if stack_pays(template, count, images[:1], BATCH) else "looped"

    def loop() -> None:
        for seed, net in enumerate(nets):
            plain_training(net, images, labels, steps, seed)

    ours = partial(train_members, template, state, images, labels, recipe, range(count))
    seconds = interleaved({"ours": partial(finished, ours), "loop": partial(finished, loop)}, rounds=5)
    rate = count * steps / statistics.median(seconds["ours"])
    name = f"{case.name}, {count} members"
    return [
        Measure(f"{name}, {way}: a plain loop / ours", median_ratio(seconds, "loop", "ours"), "", target),
        Measure(f"{name}: members trained for 1000 steps", rate / 1000, "per second"),
    ]


def plain_training(net: nn.Module, images: Tensor, labels: Tensor, steps: int, seed: int) -> None:
    """What a user would write for one network."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _, rows in zip(range(steps), shuffled(seed), strict=False):
        optimiser.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimiser.step()


def shuffled(seed: int) -> Iterator[Tensor]:
    """[batch] rows, epoch after epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(IMAGES, generator=generator)
        yield from order[: IMAGES // BATCH * BATCH].to(DEVICE).split(BATCH)


def curves() -> list[Measure]:
    """Loss and error at 11 alphas, beside a deep copy and a pass at each, through a DataLoader and by plain slices."""
    found = []
    for case in (TINY, USUAL, CNN):
        images, labels = case.images(), torch.arange(IMAGES, device=DEVICE) % CLASSES
        template = case.ours().to(DEVICE)
        starts, ends = (stack([case.ours().to(DEVICE) for _ in range(PATHS)]) for _ in range(2))
        a, b = case.plain().to(DEVICE), case.plain().to(DEVICE)
        data = DataLoader(TensorDataset(images, labels), batch_size=EVALUATED_AT_ONCE)
        slices = list(zip(images.split(EVALUATED_AT_ONCE), labels.split(EVALUATED_AT_ONCE), strict=True))
        rivals = {
            "ours": partial(paths, template, starts, ends, ALPHAS, images, labels),
            "loader": partial(curve_by_copies, a, b, data),
            "slices": partial(curve_by_copies, a, b, slices),
        }
        seconds = interleaved({name: partial(finished, run) for name, run in rivals.items()}, rounds=7)
        ratios = {name: PATHS * median_ratio(seconds, name, "ours") for name in ("loader", "slices")}
        each = 1000 * statistics.median(seconds["ours"]) / PATHS
        found += [
            Measure(f"{case.name}: deep copy and DataLoader pass per alpha / ours", ratios["loader"], "", "at least 5"),
            Measure(f"{case.name}: deep copy and pass by slices per alpha / ours", ratios["slices"], ""),
            Measure(f"{case.name}: curve of 11 alphas on {IMAGES} images", each, "ms"),
        ]
    return found


def curve_by_copies(a: nn.Module, b: nn.Module, batches: DataLoader | list) -> list[tuple[float, float]]:
    """Loss and error at each alpha, as a user would write it."""
    found = []
    ends = a.state_dict(), b.state_dict()
    for alpha in ALPHAS.tolist():
        net = copy.deepcopy(a)
        net.load_state_dict({name: (1 - alpha) * ends[0][name] + alpha * ends[1][name] for name in ends[0]})
        net.eval()
        loss = wrong = 0.0
        with torch.no_grad():
            for images, labels in batches:
                logits = net(images)
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                wrong += (logits.argmax(dim=1) != labels).sum().item()
        found.append((loss / IMAGES, wrong / IMAGES))
    return found


def finished(run: Callable[[], object]) -> None:
    """Runs, and waits for a GPU: its work counts too."""
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
