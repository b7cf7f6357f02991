"""Small labelled images: scikit-learn's digits (embedded), MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

The files lie under `NTF_DATA` (default `data/cache`) as torchvision lays them, and torchvision downloads what is
missing. They are read here, not by torchvision: each file once, its md5 checked on the very bytes that are used,
and only the part that is asked for. A whole set stays in memory as uint8, on the device where it is wanted.
"""

import os
import pickle
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import md5, sha256
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ntf_utils import ROOT
from ntf_utils.refusal import Refusal, nearest

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
Part = Literal["train", "test"]

DIGITS_MD5 = "7696c07daa6d85010f8268703ab8b067"  # of the 1,797 images, then the labels, a byte a value
DIGITS_TEST = 360  # of 1,797; the other 1,437 train
DIGITS_SPLIT = 0  # seed of that split
ANSWER_WITHIN = 5.0  # seconds for a download server to answer, else this machine counts as offline
STALLED_AFTER = 30.0  # seconds without a byte, after which a download is given up


@dataclass(frozen=True, eq=False)
class Images:
    """A set of labelled images, or a part of one.

    Args:
        name: one of `DATASETS`.
        pixels: [n, channels, height, width] uint8, black is 0, white is 255.
        labels: [n] int64, below len(classes).
        classes: the classes' names.

    Raises:
        ValueError: pixels or labels of another shape or type.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8:
            raise ValueError(
                f"pixels must be uint8 [n, channels, height, width], not {self.pixels.dtype} {list(self.pixels.shape)}"
            )
        if self.labels.shape != self.pixels.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 [{len(self.pixels)}], not {self.labels.dtype} {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | Tensor) -> "Images":
        """The images at `rows`: a slice, [k] indices or an [n] mask."""
        return Images(self.name, self.pixels[rows], self.labels[rows], self.classes)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on a device."""
        return Images(self.name, self.pixels.to(device), self.labels.to(device), self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        return tuple(self.pixels.shape[1:])

    @cached_property
    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """[channels] float64 mean and standard deviation of all pixels in 0..255, exact: from counts of levels."""
        level = torch.arange(256, dtype=torch.float64)
        counts = [torch.bincount(channel.flatten(), minlength=256).cpu() for channel in self.pixels.unbind(1)]
        share = torch.stack(counts).double() / (self.pixels.numel() / self.pixels.shape[1])  # [channels, 256]
        mean = share @ level
        return mean, (share * (level - mean[:, None]).square()).sum(1).sqrt()


@dataclass(frozen=True)
class _Files:
    """The files of one set in torchvision's layout; each table gives a file's name its md5."""

    torchvision: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    server: str  # one address of the download, to see whether it answers
    about: dict[str, str] = field(default_factory=dict)  # the file that names the classes
    classes: tuple[str, ...] = ()  # where no file names them

    @property
    def md5s(self) -> dict[str, str]:
        return self.about | self.train | self.test

    @property
    def place(self) -> Path:
        return _data_folder() / self.folder

    def read(self, part: Part) -> Iterator[np.ndarray]:
        """The bytes of each file of a part, the file about the classes first, their md5s checked."""
        for file, digest in (self.about | (self.train if part == "train" else self.test)).items():
            yield _read(self.place / file, digest)


# CIFAR's md5s are torchvision's. Of MNIST and Fashion-MNIST torchvision knows those of the .gz files; these here
# are the md5s of what they hold.
_FILES = {
    "mnist": _Files(
        torchvision="MNIST",
        folder="MNIST/raw",
        train={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        },
        test={
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        server="https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
        classes=tuple("0123456789"),
    ),
    "fashion_mnist": _Files(
        torchvision="FashionMNIST",
        folder="FashionMNIST/raw",
        train={
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        },
        test={
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
        server="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "cifar10": _Files(
        torchvision="CIFAR10",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        server="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        about={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    ),
    "cifar100": _Files(
        torchvision="CIFAR100",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        server="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        about={"meta": "7973b15100ade9c7d40fb424638fde48"},
    ),
}


def load_images(name: str, part: Part) -> Images:
    """The training or the test part of a set, on the CPU.

    Digits have no official parts: they are split once and for all, stratified, into 1,437 and 360 images, and
    their 17 levels are spread over 0..255.

    Raises:
        Refusal: no such set or part; not on disk and not to be downloaded; a truncated or altered file.
    """
    _check_name(name)
    if part not in ("train", "test"):
        raise Refusal(f"unknown part {part!r} of {name}: {nearest(str(part), ('train', 'test'))}")
    if name == "digits":
        return _load_digits(part)
    check_images(name)
    return _load_cifar(name, part) if _FILES[name].about else _load_idx(name, part)


def check_images(name: str) -> None:
    """Makes sure that a set's files are there; downloads the missing ones. Whether they are whole, loading checks.

    Raises:
        Refusal: no such set, or not on disk and not to be downloaded, with the three ways out.
    """
    _check_name(name)
    if name == "digits":
        return
    files = _FILES[name]
    missing = [file for file in files.md5s if not (files.place / file).is_file()]
    if not missing:
        return
    try:
        _download(files, missing)
    except (OSError, HTTPException, RuntimeError) as problem:  # no network, a full disk; an archive with a wrong md5
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise Refusal(
            f"{name} is not under {_data_folder()} (no {files.folder}/{missing[0]}) and cannot be downloaded "
            f"({reason}): set NTF_DATA to a folder that holds it, or go online for the download, "
            "or run with -p dataset digits"
        ) from None


def images_fingerprint(name: str) -> str:
    """What identifies a set in a record, e.g. "cifar10 1f0c3a5b7d9e2468": from its official md5s, without its files.

    Raises:
        Refusal: no such set.
    """
    _check_name(name)
    parts = [DIGITS_MD5, f"split {DIGITS_SPLIT}"] if name == "digits" else _FILES[name].md5s.values()
    return f"{name} {sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def stratified_subset(images: Images, size: int, seed: int) -> Images:
    """`size` images drawn without replacement, every class in its share of the whole set (Sainte-Laguë's rounding).

    The images come in an order in which every beginning is stratified too, so for one seed a smaller subset is
    the beginning of a larger one.

    Raises:
        Refusal: fewer than one image, or more than there are.
    """
    if not 1 <= size <= len(images):
        raise Refusal(
            f"a subset of {size:,} images cannot be drawn from the {len(images):,} of {images.name}: "
            f"give a size from 1 to {len(images):,}"
        )
    rows = _stratified_order(images.labels.cpu(), seed)[:size]
    return images[rows.to(images.labels.device)]


def _stratified_order(labels: Tensor, seed: int) -> Tensor:
    """[n] rows in a random order in which every beginning holds the classes in their shares."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    position = torch.empty(len(labels), dtype=torch.float64)
    for kind in labels.unique():
        at = (labels[shuffled] == kind).nonzero().flatten()
        # image k = 0, 1, ... of the n of a class belongs at (k + 1/2) / n of the way
        position[at] = (torch.arange(len(at), dtype=torch.float64) + 0.5) / len(at)
    return shuffled[position.argsort(stable=True)]  # images at the same position stay shuffled


def tile_rows(labels: Tensor, a_class: int) -> Tensor:
    """Rows of the first `a_class` images of each class, class by class."""
    return torch.cat([(labels == kind).nonzero().flatten()[:a_class] for kind in labels.unique()])


def pooled(images: Images, factor: int) -> Images:
    """Every `factor` x `factor` block of pixels replaced by its mean, rounded to the nearest level.

    Raises:
        Refusal: the factor is below 1 or does not divide height and width.
    """
    _, height, width = images.shape
    if factor < 1 or height % factor or width % factor:
        raise Refusal(f"images of {height} x {width} pixels cannot be pooled by {factor}: it must divide both")
    small = [F.avg_pool2d(some.float(), factor).round().to(torch.uint8) for some in images.pixels.split(1000)]
    return Images(images.name, torch.cat(small), images.labels, images.classes)


def framed(images: Images, side: int, channels: int) -> Images:
    """Images set in the middle of a black square of `side` x `side` pixels; grey ones repeated in every channel.

    Raises:
        Refusal: images that are larger than the square, or coloured ones where fewer channels are asked for.
    """
    own, height, width = images.shape
    if max(height, width) > side:
        raise Refusal(f"images of {height} x {width} pixels do not fit into {side} x {side}")
    if own not in (1, channels):
        raise Refusal(f"images of {own} channels cannot be shown in {channels}")
    left, top = (side - width) // 2, (side - height) // 2
    pixels = F.pad(images.pixels, (left, side - width - left, top, side - height - top))
    return Images(images.name, pixels.expand(-1, channels, -1, -1).contiguous(), images.labels, images.classes)


def as_floats(pixels: Tensor, like: Images) -> Tensor:
    """Standardised pixels, for networks.

    Args:
        pixels: [..., channels, height, width] uint8, or floats in 0..255.
        like: the images whose mean and standard deviation, channel by channel, become 0 and 1: the training images.

    Returns:
        [..., channels, height, width] float32 on the pixels' device; 0 in a channel that is constant in `like`.
    """
    mean, std = (moment[:, None, None] for moment in like.mean_and_std)
    std = torch.where(std > 0, std, torch.inf)
    floats = pixels.to(torch.float32, copy=True)
    return floats.sub_(mean.to(floats)).div_(std.to(floats))


def _check_name(name: str) -> None:
    if name not in DATASETS:
        raise Refusal(f"unknown data set {name!r}: {nearest(str(name).lower(), DATASETS)}")


def _data_folder() -> Path:
    """Where the files lie: NTF_DATA, by default data/cache of the repository."""
    return Path(os.environ.get("NTF_DATA") or ROOT / "data" / "cache").expanduser()


def _load_digits(part: Part) -> Images:
    """Digits from scikit-learn's own package data."""
    from sklearn.datasets import load_digits  # takes a second, which no other set needs

    digits = load_digits()
    levels, labels = digits.images.astype(np.uint8), torch.from_numpy(digits.target.astype(np.int64))
    found = md5(levels.tobytes() + digits.target.astype(np.uint8).tobytes()).hexdigest()
    if found != DIGITS_MD5:
        raise Refusal(f"scikit-learn's digits are not the usual ones (md5 {found}, not {DIGITS_MD5}): install it anew")
    order = _stratified_order(labels, DIGITS_SPLIT)
    rows = (order[:DIGITS_TEST] if part == "test" else order[DIGITS_TEST:]).sort().values
    pixels = torch.from_numpy(levels).to(torch.float32).mul_(255 / 16).round_().to(torch.uint8)  # 0..16 -> 0..255
    return Images("digits", pixels[rows, None], labels[rows], tuple("0123456789"))


def _read(path: Path, digest: str) -> np.ndarray:
    """A file's bytes, after its md5 has been checked."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as problem:
        raise Refusal(f"cannot read {path}: {problem.strerror or problem}") from None
    found = md5(content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise Refusal(
            f"{path} is truncated or altered ({content.size:,} bytes with md5 {found}, not {digest}): "
            "delete it, and it is downloaded anew, or put the original there"
        )
    return content


def _load_idx(name: str, part: Part) -> Images:
    """MNIST and Fashion-MNIST: idx files, which open with a magic number and the sizes, four bytes each."""
    pixels, labels = _FILES[name].read(part)
    return Images(
        name,
        torch.from_numpy(pixels[16:]).view(-1, 1, 28, 28),
        torch.from_numpy(labels[8:].astype(np.int64)),
        _FILES[name].classes,
    )


def _load_cifar(name: str, part: Part) -> Images:
    """CIFAR: pickles, which are safe to open because their md5s are known."""
    kind = b"fine_label" if name == "cifar100" else b"label"
    # opened one by one, to hold little at once; text as bytes, which is ten times as fast
    about, *batches = (pickle.loads(content.data, encoding="bytes") for content in _FILES[name].read(part))
    pixels = torch.cat([torch.from_numpy(batch[b"data"]) for batch in batches])  # [n, 3 * 32 * 32]
    labels = torch.tensor([label for batch in batches for label in batch[kind + b"s"]])
    classes = tuple(word.decode() for word in about[kind + b"_names"])
    return Images(name, pixels.view(-1, 3, 32, 32), labels, classes)


def _download(files: _Files, missing: list[str]) -> None:
    """Puts the missing files in place, each whole or not at all, also where several processes download at once.

    Raises:
        OSError: offline, a server that stalls, a folder that cannot be written.
        RuntimeError: what was downloaded is not what torchvision expects.
    """
    if not _answers(files.server):
        raise OSError("no answer from its server")
    from ntf_utils.data.torchvision_door import datasets  # takes seconds, which only a download needs

    files.place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(suffix=".tmp", dir=files.place) as fresh, _impatient_sockets():
        getattr(datasets, files.torchvision)(fresh, download=True)
        for file in missing:
            os.replace(Path(fresh) / files.folder / file, files.place / file)


def _answers(address: str) -> bool:
    """Whether a server answers within `ANSWER_WITHIN` seconds.

    Asked in a thread of its own, because looking up a name knows no time limit.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(address, method="HEAD"), timeout=ANSWER_WITHIN).close()
        except HTTPError:
            pass  # it answers; what it thinks of the question, the download will tell
        except (OSError, HTTPException):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN)
    return answered.is_set()


@contextmanager
def _impatient_sockets() -> Iterator[None]:
    """torchvision sets no time limit for a server's silence: a stalled download would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_AFTER)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
