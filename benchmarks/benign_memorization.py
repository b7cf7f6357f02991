"""Speed of the chapter on benign memorization: views of a batch, and one update against what it cannot do without.

Beside ours stands what a user would write: torchvision's transforms on single images, as the published code has them,
in this process and in a DataLoader with two workers. The floor of an update is its convolutions and products alone,
forwards and backwards, on inputs that lie there. Images are random: no time depends on what they show.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import Measure, interleaved, median_ratio
from ntf_utils.data.torchvision_door import transforms
from ntf_utils.models.encoders import build_encoder
from ntf_utils.models.projection import Projector
from ntf_utils.papers.benign_memorization.memorization import LAYOUT, Network, as_unit, label_loss
from ntf_utils.training.views import apply_views, draw_views

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMAGES, WORKERS = 1024, 2
# side, width, projector and batch of the laptop; on a GPU the authors'
SIDE, WIDTH, HIDDEN, BATCH, ENCODER = (16, 16, 1024, 64, "resnet8") if DEVICE == "cpu" else (
    32, 64, 65_536, 256, "resnet18"
)  # fmt: skip


def measure() -> list[Measure]:
    return [*augmentation(), *updates()]


class Pictures(Dataset):
    """Single images through torchvision's transforms, the published code's `full`."""

    def __init__(self, pixels: Tensor):
        self.pixels = pixels.permute(0, 2, 3, 1).numpy()  # as torchvision holds CIFAR
        jitter = transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)
        self.transform = transforms.Compose([
            transforms.ToPILImage(), transforms.RandomResizedCrop(pixels.shape[-1]), transforms.RandomHorizontalFlip(),
            transforms.RandomApply([jitter], p=0.8), transforms.RandomGrayscale(p=0.2), transforms.ToTensor(),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: int) -> Tensor:
        return self.transform(self.pixels[place])


def augmentation() -> list[Measure]:
    """A view of each of some images: processor time of one process, and images a second by the clock."""
    pixels = torch.randint(256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8)
    there, source = pixels.to(DEVICE), torch.Generator().manual_seed(0)
    alone = Pictures(pixels)

    def ours() -> None:
        for some in there.split(BATCH):
            apply_views(as_unit(some), draw_views(len(some), SIDE, 1.0, source).to(some.device))

    def one_by_one() -> None:
        for some in range(0, IMAGES, BATCH):
            torch.stack([alone[place] for place in range(some, min(some + BATCH, IMAGES))]).to(DEVICE)

    rivals = {"ours": partial(finished, ours), "torchvision": partial(finished, one_by_one)}
    seconds = interleaved(rivals, rounds=5)
    # two workers that stay: what starting them costs is not counted
    loader = DataLoader(alone, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)

    def fetched() -> None:
        for some in loader:
            some.to(DEVICE)

    clock = {"ours": rivals["ours"], "loader": partial(finished, fetched)}
    rates = {name: IMAGES / statistics.median(by_the_clock(run, rounds=5)) for name, run in clock.items()}
    name = f"views of {SIDE} x {SIDE} on {DEVICE}"
    return [
        Measure(f"{name}: torchvision in one process / ours", median_ratio(seconds, "torchvision", "ours"), "",
                "at least 1"),
        Measure(f"{name}: ours / DataLoader with {WORKERS} workers, by the clock", rates["ours"] / rates["loader"], "",
                "at least 1"),
        Measure(f"{name}: ours", rates["ours"], "images/s"),
        Measure(f"{name}: DataLoader with {WORKERS} workers", rates["loader"], "images/s"),
    ]  # fmt: skip


def by_the_clock(run: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round; one before is not counted."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found[1:]


def updates() -> list[Measure]:
    """One update on views that are drawn anew, one on views that lie there, and the floor."""
    encoder = build_encoder(ENCODER, 3, WIDTH)
    network = Network(encoder, Projector(encoder.outputs, HIDDEN, 10)).to(DEVICE, memory_format=LAYOUT)
    optimiser = torch.optim.Adam(network.parameters(), fused=True)
    pixels = torch.randint(256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8, device=DEVICE)
    labels, source = torch.arange(BATCH, device=DEVICE) % 10, torch.Generator().manual_seed(0)
    products = floor(network, as_unit(pixels).contiguous(memory_format=LAYOUT))

    def update(inputs: Tensor) -> None:
        loss = label_loss(network(inputs.contiguous(memory_format=LAYOUT)), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def anew() -> None:
        update(apply_views(as_unit(pixels), draw_views(BATCH, SIDE, 1.0, source).to(pixels.device)))

    rivals = {"anew": anew, "frozen": lambda: update(as_unit(pixels)), "floor": products}
    seconds = interleaved({name: partial(finished, run) for name, run in rivals.items()}, rounds=15)
    name = f"{ENCODER} of width {WIDTH}, batch {BATCH}, on {DEVICE}"
    return [
        Measure(f"{name}: update / its convolutions and products", median_ratio(seconds, "frozen", "floor"), "",
                "at most 3"),
        Measure(f"{name}: with new views / with frozen ones", median_ratio(seconds, "anew", "frozen"), "",
                "at most 1.5"),
        Measure(f"{name}: one update with new views", 1000 * statistics.median(seconds["anew"]), "ms"),
    ]  # fmt: skip


def floor(network: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """All convolutions and products of a network with their gradients, on inputs as large as its own."""
    calls: list[tuple[nn.Module, Tensor]] = []
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [
        layer.register_forward_hook(lambda module, given, out: calls.append((module, given[0].detach())))
        for layer in layers
    ]
    network(inputs)
    for hook in hooks:
        hook.remove()

    def run() -> None:
        for place, (module, given) in enumerate(calls):
            weight = module.weight.detach().requires_grad_()
            given = given.detach().requires_grad_(place > 0)  # images need no gradient
            if isinstance(module, nn.Conv2d):
                out = F.conv2d(given, weight, None, module.stride, module.padding)
            else:
                out = F.linear(given, weight)
            out.backward(torch.ones_like(out))

    return run


def finished(run: Callable[[], object]) -> None:
    """Runs, and waits for a GPU: its work counts too."""
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
