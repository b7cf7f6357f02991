"""Speed of the chapter on random teachers: nearest neighbours, and one update of a distillation.

Beside ours stands what a user would write: scikit-learn's nearest neighbours, and an update that fetches its images
through a torchvision DataLoader and asks the teacher anew, as the published code does. Features and images are random:
no time depends on what they show.
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import Measure, interleaved, median_ratio
from ntf_utils.data.torchvision_door import transforms
from ntf_utils.measures.probing import converged_probe, knn_predict
from ntf_utils.models.encoders import build_encoder
from ntf_utils.models.projection import ProjectionHead
from ntf_utils.papers.random_teachers.distillation import LAYOUT, Network, distillation_loss, frozen

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES, IMAGES = 10, 2048


def measure() -> list[Measure]:
    return [*nearest(), *linear(), *updates()]


def nearest() -> list[Measure]:
    """The vote of 20 neighbours: the laptop's size on a CPU, the paper's on a GPU."""
    bank, queries, size = (5000, 2000, 64) if DEVICE == "cpu" else (50_000, 10_000, 512)
    features, asked = torch.randn(bank, size, device=DEVICE), torch.randn(queries, size, device=DEVICE)
    labels = torch.arange(bank, device=DEVICE) % CLASSES
    plain = features.cpu().numpy(), labels.cpu().numpy(), asked.cpu().numpy()

    def scikit_learn() -> object:
        known = KNeighborsClassifier(20, algorithm="brute").fit(plain[0], plain[1])
        return known.predict(plain[2])

    rivals = {"ours": lambda: knn_predict(features, labels, asked), "scikit-learn": scikit_learn}
    seconds = interleaved({name: partial(finished, run) for name, run in rivals.items()}, rounds=7)
    name = f"k-NN, {bank:,} x {queries:,} x {size} on {DEVICE}"
    return [
        Measure(f"{name}: scikit-learn / ours", median_ratio(seconds, "scikit-learn", "ours"), "", "at least 1"),
        Measure(f"{name}: ours", 1000 * statistics.median(seconds["ours"]), "ms"),
    ]


def linear() -> list[Measure]:
    """The converged probe with its choice among penalties."""
    features, labels = torch.randn(5000, 128, device=DEVICE), torch.arange(5000, device=DEVICE) % CLASSES
    seconds = interleaved({"ours": partial(finished, lambda: converged_probe(features, labels, CLASSES))}, rounds=3)
    return [Measure("converged probe, 5,000 x 128, four penalties", statistics.median(seconds["ours"]), "s")]


class Pictures(Dataset):
    """Single images through torchvision's transforms, as its data sets hand them out."""

    def __init__(self, pixels: Tensor):
        self.pixels = pixels.permute(0, 2, 3, 1).numpy()  # as torchvision holds CIFAR
        normalise = transforms.Normalize([0.49, 0.48, 0.45], [0.25, 0.24, 0.26])
        self.transform = transforms.Compose([transforms.ToPILImage(), transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: int) -> Tensor:
        return self.transform(self.pixels[place])


def updates() -> list[Measure]:
    """One update at the laptop's size (on a GPU at the paper's), from kept features and images on the device."""
    width, head, batch, count = (16, (512, 64, 1024), 32, 10) if DEVICE == "cpu" else (64, (2048, 256, 65_536), 256, 8)
    student, teacher = network(width, head), frozen(network(width, head))
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    images = (pixels.to(DEVICE).float() / 64 - 2).contiguous(memory_format=LAYOUT)
    with torch.no_grad():
        taught = torch.cat([teacher.squeeze(some) for some in images.split(256)])
    optimiser = torch.optim.AdamW(student.parameters(), weight_decay=0.0, fused=True)
    loader = DataLoader(Pictures(pixels), batch_size=batch, shuffle=True)

    def move(squeezed: Tensor, logits: Tensor) -> None:
        loss = distillation_loss(student.head.expand(squeezed), logits)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def ours() -> None:
        for rows in torch.randperm(IMAGES)[: count * batch].to(DEVICE).split(batch):
            with torch.no_grad():
                logits = teacher.head.expand(taught[rows])
            move(student.squeeze(images[rows]), logits)

    def fetched() -> None:
        for _, some in zip(range(count), loader, strict=False):
            shown = some.to(DEVICE)
            with torch.no_grad():
                logits = teacher(shown)
            move(student.squeeze(shown), logits)

    def plain() -> None:
        for rows in torch.randperm(IMAGES)[: count * batch].to(DEVICE).split(batch):
            with torch.no_grad():
                logits = teacher(images[rows])
            move(student.squeeze(images[rows]), logits)

    rivals = {"ours": ours, "loader": fetched, "teacher anew": plain}
    seconds = interleaved({name: partial(finished, run) for name, run in rivals.items()}, rounds=5)
    name = f"distillation, VGG11 of width {width}, batch {batch}, on {DEVICE}"
    return [
        Measure(
            f"{name}: DataLoader and teacher anew / ours", median_ratio(seconds, "loader", "ours"), "", "at least 1"
        ),
        Measure(f"{name}: teacher anew / ours", median_ratio(seconds, "teacher anew", "ours"), "", "at least 1"),
        Measure(f"{name}: one update", 1000 * statistics.median(seconds["ours"]) / count, "ms"),
    ]


def network(width: int, head: tuple[int, int, int]) -> Network:
    encoder = build_encoder("vgg11", 3, width)
    return Network(encoder, ProjectionHead(encoder.outputs, *head)).to(DEVICE, memory_format=LAYOUT)


def finished(run: Callable[[], object]) -> None:
    """Runs, and waits for a GPU: its work counts too."""
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
