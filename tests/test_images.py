"""Image sets: digits as they are, the others from tiny invented files in the same formats, and never from afar."""

import gzip
import hashlib
import io
import pickle
import socket
import struct
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from urllib.request import urlopen

import numpy as np
import pytest
import torch

from ntf_utils.data import images
from ntf_utils.data.images import (
    DATASETS,
    Images,
    as_floats,
    check_images,
    images_fingerprint,
    load_images,
    pooled,
    stratified_subset,
)
from ntf_utils.data.torchvision_door import datasets
from ntf_utils.refusal import Refusal

FILED = [name for name in DATASETS if name != "digits"]
N_TRAIN, N_TEST = 15, 6  # images of an invented set, N_TRAIN in each of its files
OFFICIAL = images._FILES.copy()
REAL_DATA = images._data_folder()


def md5(content):
    return hashlib.md5(content).hexdigest()


def idx_file(values):
    """MNIST's format: 0, 0, 8 for unsigned bytes, the number of sizes; the sizes; the values."""
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()


class OldPickler(pickle._Pickler):
    """Writes text and bytes alike as strings of Python 2, in which CIFAR was pickled."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        encoded = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(encoded)) + encoded)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def old_pickle(value):
    OldPickler(stream := io.BytesIO(), 2).dump(value)
    return stream.getvalue()


def invented(name):
    """File name -> content of a tiny set in the official format."""
    random = np.random.default_rng(0)
    files, content = OFFICIAL[name], {}
    for part, count in ((files.train, N_TRAIN), (files.test, N_TEST)):
        if files.about:
            kind = "fine_labels" if name == "cifar100" else "labels"
            for file in part:
                labels = random.integers(0, 10, count).tolist()
                batch = {"data": random.integers(0, 256, (count, 3072), np.uint8), kind: labels}
                content[file] = old_pickle(batch | ({"coarse_labels": [0] * count} if name == "cifar100" else {}))
        else:
            shapes = ((count, 28, 28), (count,))
            content |= {
                file: idx_file(random.integers(0, high, shape, np.uint8))
                for file, high, shape in zip(part, (256, 10), shapes, strict=True)
            }
    for file in files.about:
        key = "fine_label_names" if name == "cifar100" else "label_names"
        content[file] = old_pickle({key: [f"kind {i}" for i in range(10)], "coarse_label_names": ["all"]})
    return content


def tell_md5s(monkeypatch, name, content):
    """Takes the invented files for the official ones, here and in torchvision."""
    files = OFFICIAL[name]
    tables = {part: {file: md5(content[file]) for file in getattr(files, part)} for part in ("train", "test", "about")}
    monkeypatch.setitem(images._FILES, name, replace(files, **tables))
    kind = getattr(datasets, files.torchvision)
    if files.about:
        monkeypatch.setattr(kind, "train_list", [*tables["train"].items()])
        monkeypatch.setattr(kind, "test_list", [*tables["test"].items()])
        (about,) = tables["about"].items()
        monkeypatch.setattr(kind, "meta", kind.meta | {"filename": about[0], "md5": about[1]})


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """An empty NTF_DATA, and no server that answers: a test that wants one says so."""
    monkeypatch.setenv("NTF_DATA", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def nobody(request, **options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(images, "urlopen", nobody)


@pytest.fixture(params=FILED)
def on_disk(request, monkeypatch, tmp_path):
    """(name, folder of the files) of a tiny set on disk."""
    content = invented(request.param)
    tell_md5s(monkeypatch, request.param, content)
    folder = tmp_path / OFFICIAL[request.param].folder
    folder.mkdir(parents=True)
    for file, of in content.items():
        (folder / file).write_bytes(of)
    return request.param, folder


@pytest.fixture
def some():
    """200 images in three classes of 100, 60 and 40; no two alike."""
    pixels = torch.arange(200)[:, None] + torch.zeros(1, 16, dtype=torch.int64)
    labels = torch.tensor([0] * 100 + [1] * 60 + [2] * 40)
    return Images("invented", pixels.to(torch.uint8).view(200, 1, 4, 4), labels, ("a", "b", "c"))


# ---- loading


def test_files_are_read_as_torchvision_reads_them(on_disk, tmp_path):
    name, _ = on_disk
    for part in ("train", "test"):
        found = load_images(name, part)
        known = getattr(datasets, OFFICIAL[name].torchvision)(tmp_path, train=part == "train", download=False)
        pixels = torch.as_tensor(known.data)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        assert torch.equal(found.pixels, pixels) and found.pixels.dtype == torch.uint8
        assert found.labels.tolist() == list(known.targets) and found.labels.dtype == torch.int64
        if name != "mnist":  # whose classes torchvision calls "0 - zero"
            assert found.classes == tuple(known.classes)


def test_the_tables_are_torchvisions():
    for name, files in OFFICIAL.items():
        known = getattr(datasets, files.torchvision)
        if files.about:
            tables = (dict(known.train_list), dict(known.test_list), {known.meta["filename"]: known.meta["md5"]})
            assert (files.train, files.test, files.about) == tables, name
            assert (files.folder, files.server) == (known.base_folder, known.url)
        else:
            zipped = [file for file, _ in known.resources]
            assert [f"{file}.gz" for file in files.train | files.test] == zipped
            assert files.server in [mirror + file for mirror in known.mirrors for file in zipped]
            assert files.folder == f"{files.torchvision}/raw" and len(files.classes) == len(known.classes)


def test_digits_are_split_once_and_for_all():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test), train.shape) == (1437, 360, (1, 8, 8))
    assert train.pixels.max() == 255 and train.pixels.unique().numel() == 17
    whole = train.labels.bincount() + test.labels.bincount()
    assert (test.labels.bincount() - whole * 360 / 1797).abs().max() < 1
    together = torch.cat([train.pixels, test.pixels]).flatten(1)
    assert together.unique(dim=0).shape == (1797, 64)  # none is lost, none in both
    # the recorded runs rest on this very split
    split = md5(train.pixels.numpy().tobytes() + train.labels.numpy().tobytes())
    assert split == "41eb8134c8ef7c7582a86b82131638a9"


def test_altered_digits_are_refused(monkeypatch):
    monkeypatch.setattr(images, "DIGITS_MD5", "0" * 32)
    with pytest.raises(Refusal, match="scikit-learn's digits are not the usual ones"):
        load_images("digits", "train")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("fashion-mnist", "did you mean 'fashion_mnist'"),
        ("CIFAR10", "did you mean 'cifar10'"),
        ("imagenet", "known are cifar10, cifar100, digits, fashion_mnist, mnist"),
    ],
)
@pytest.mark.parametrize("ask", [partial(load_images, part="train"), check_images, images_fingerprint])
def test_an_unknown_name_is_refused(ask, given, hint):
    with pytest.raises(Refusal, match=f"unknown data set '{given}': {hint}"):
        ask(given)


def test_an_unknown_part_is_refused():
    with pytest.raises(Refusal, match="unknown part 'tests' of digits: did you mean 'test'"):
        load_images("digits", "tests")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def alter(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, alter])
def test_a_damaged_file_is_refused_by_name_and_kept(on_disk, damage):
    name, folder = on_disk
    files = images._FILES[name]
    for file in files.md5s:
        before = (folder / file).read_bytes()
        damage(folder / file)
        damaged = (folder / file).read_bytes()
        with pytest.raises(Refusal, match=f"{folder / file} is truncated or altered") as refused:
            load_images(name, "test" if file in files.test else "train")
        assert "\n" not in str(refused.value) and (folder / file).read_bytes() == damaged
        (folder / file).write_bytes(before)


def test_only_the_files_of_the_part_are_read(on_disk):
    name, folder = on_disk
    for file in images._FILES[name].train:
        truncate(folder / file)
    assert len(load_images(name, "test")) == N_TEST


def test_an_empty_file_and_a_folder_in_a_files_place_are_refused(on_disk):
    name, folder = on_disk
    file = folder / next(iter(images._FILES[name].test))
    file.write_bytes(b"")
    with pytest.raises(Refusal, match="is truncated or altered"):
        load_images(name, "test")
    file.unlink()
    file.mkdir()
    with pytest.raises(Refusal, match=f"no .*{file.name}"):
        load_images(name, "test")


# ---- absent


WAYS_OUT = ("set NTF_DATA", "go online", "-p dataset digits")


@pytest.mark.parametrize("ask", [partial(load_images, part="train"), check_images])
@pytest.mark.parametrize("name", FILED)
def test_absent_and_offline_is_one_sentence_with_the_three_ways_out(ask, name, tmp_path):
    began = time.monotonic()
    with pytest.raises(Refusal, match=f"^{name} is not under {tmp_path} ") as refused:
        ask(name)
    assert all(way in str(refused.value) for way in WAYS_OUT) and "\n" not in str(refused.value)
    assert time.monotonic() - began < 2 and not any(tmp_path.iterdir())


def test_one_missing_file_is_named(on_disk):
    name, folder = on_disk
    check_images(name)
    file = list(images._FILES[name].md5s)[1]
    (folder / file).unlink()
    with pytest.raises(Refusal, match=f"no {OFFICIAL[name].folder}/{file}"):
        check_images(name)


def test_digits_are_always_there(monkeypatch):
    monkeypatch.setenv("NTF_DATA", "/no/such/folder")
    check_images("digits")
    assert len(load_images("digits", "test")) == 360


def test_data_cache_is_the_default(monkeypatch):
    for unset in (partial(monkeypatch.delenv, "NTF_DATA"), partial(monkeypatch.setenv, "NTF_DATA", "")):
        unset()
        with monkeypatch.context() as within:
            within.setattr(images, "ROOT", images.Path("/no/such/place"))
            with pytest.raises(Refusal, match="mnist is not under /no/such/place/data/cache "):
                check_images("mnist")


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(images, "urlopen", urlopen)
    monkeypatch.setattr(images, "ANSWER_WITHIN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        began = time.monotonic()
        assert not images._answers(address)
        assert time.monotonic() - began < 2
    assert not images._answers(address)  # now nobody listens


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(images, "ANSWER_WITHIN", 0.1)
    def hang(request, timeout):
        threading.Event().wait(20)
        raise TimeoutError

    monkeypatch.setattr(images, "urlopen", hang)
    began = time.monotonic()
    assert not images._answers("http://nowhere.invalid/")
    assert time.monotonic() - began < 2


# ---- downloads, from a server in this process


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; hangs while `goes_on` is not set."""

    goes_on = threading.Event()

    def do_GET(self):
        if self.goes_on.wait(10):
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path_factory):
    """(folder that is served, its address)."""
    monkeypatch.setattr(images, "urlopen", urlopen)
    Handler.goes_on.set()
    folder = tmp_path_factory.mktemp("served")
    http = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    http.handle_error = lambda *_: None  # a client that hangs up is no error
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"http://127.0.0.1:{http.server_port}/"
    Handler.goes_on.set()
    http.shutdown()
    thread.join()
    http.server_close()


def serve(monkeypatch, name, folder, address):
    """Puts a tiny set on the server, as torchvision expects it there; its files."""
    content = invented(name)
    tell_md5s(monkeypatch, name, content)
    kind = getattr(datasets, OFFICIAL[name].torchvision)
    if OFFICIAL[name].about:
        with tarfile.open(folder / kind.filename, "w:gz") as archive:
            for file, of in content.items():
                entry = tarfile.TarInfo(f"{kind.base_folder}/{file}")
                entry.size = len(of)
                archive.addfile(entry, io.BytesIO(of))
        monkeypatch.setattr(kind, "url", address + kind.filename)
        monkeypatch.setattr(kind, "tgz_md5", md5((folder / kind.filename).read_bytes()))
        asked = kind.filename
    else:
        zipped = {f"{file}.gz": gzip.compress(of) for file, of in content.items()}
        for file, of in zipped.items():
            (folder / file).write_bytes(of)
        monkeypatch.setattr(kind, "mirrors", [address])
        monkeypatch.setattr(kind, "resources", [(file, md5(of)) for file, of in zipped.items()])
        asked = next(iter(zipped))
    monkeypatch.setitem(images._FILES, name, replace(images._FILES[name], server=address + asked))
    return content


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar100"])
class TestDownload:
    def test_what_is_missing_is_downloaded_once(self, name, server, monkeypatch, tmp_path):
        content = serve(monkeypatch, name, *server)
        assert len(load_images(name, "train")) == N_TRAIN
        folder = tmp_path / OFFICIAL[name].folder
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == content  # and nothing else
        for path in server[0].iterdir():
            path.unlink()
        assert len(load_images(name, "test")) == N_TEST

    def test_files_that_are_there_are_left_alone(self, name, server, monkeypatch, tmp_path):
        content = serve(monkeypatch, name, *server)
        mine, folder = list(content)[-1], tmp_path / OFFICIAL[name].folder
        folder.mkdir(parents=True)
        (folder / mine).write_bytes(b"mine")
        check_images(name)
        assert (folder / mine).read_bytes() == b"mine" and len([*folder.iterdir()]) == len(content)

    def test_a_broken_download_is_refused_and_leaves_nothing(self, name, server, monkeypatch, tmp_path):
        serve(monkeypatch, name, *server)
        for path in server[0].iterdir():
            truncate(path)
        with pytest.raises(Refusal, match="cannot be downloaded") as refused:
            load_images(name, "train")
        assert all(way in str(refused.value) for way in WAYS_OUT) and "\n" not in str(refused.value)
        assert not any((tmp_path / OFFICIAL[name].folder).iterdir())

    def test_a_download_that_stalls_is_given_up(self, name, server, monkeypatch, tmp_path):
        serve(monkeypatch, name, *server)
        monkeypatch.setattr(images, "STALLED_AFTER", 0.1)
        Handler.goes_on.clear()
        with pytest.raises(Refusal, match=r"cannot be downloaded .*timed out"):
            load_images(name, "train")
        assert socket.getdefaulttimeout() is None and not any((tmp_path / OFFICIAL[name].folder).iterdir())


# ---- the images


def test_images_of_another_shape_or_type_are_refused(some):
    with pytest.raises(ValueError, match="pixels must be uint8"):
        replace(some, pixels=some.pixels.float())
    with pytest.raises(ValueError, match="pixels must be uint8"):
        replace(some, pixels=some.pixels[:, 0])
    with pytest.raises(ValueError, match=r"labels must be int64 \[200\]"):
        replace(some, labels=some.labels[1:])


def test_rows_are_taken_by_slice_mask_and_indices(some):
    assert (len(some), some.shape) == (200, (1, 4, 4))
    for rows in (slice(90, 110), torch.arange(90, 110), (torch.arange(200) - 99.5).abs() < 10):
        taken = some[rows]
        assert taken.pixels[:, 0, 0, 0].tolist() == [*range(90, 110)]
        assert taken.labels.tolist() == [0] * 10 + [1] * 10 and taken.classes == some.classes
    assert some.to("cpu").labels.device.type == "cpu"


def test_a_subset_has_every_class_in_its_share(some):
    for size in (1, 7, 10, 50, 199, 200):
        subset = stratified_subset(some, size, seed=3)
        assert len(subset) == len(subset.pixels) == size
        shares = torch.tensor([0.5, 0.3, 0.2]) * size
        assert (subset.labels.bincount(minlength=3) - shares).abs().max() < 1
        ids = subset.pixels[:, 0, 0, 0].long()
        assert ids.unique().numel() == size and torch.equal(some.labels[ids], subset.labels)
    assert stratified_subset(some, 50, seed=3).labels.bincount().tolist() == [25, 15, 10]


def test_a_subset_is_seeded_and_begins_with_the_smaller_ones(some):
    def ids(size, seed):
        return stratified_subset(some, size, seed).pixels[:, 0, 0, 0].tolist()

    torch.manual_seed(9)
    assert ids(60, 3) == ids(60, 3) != ids(60, 4)
    assert ids(60, 3)[:13] == ids(13, 3)
    assert ids(8, 0) == [44, 157, 193, 57, 64, 118, 19, 163]  # the recorded runs rest on these very draws


def test_every_image_of_a_class_is_equally_likely(some):
    drawn = torch.stack([stratified_subset(some, 20, seed).pixels[:, 0, 0, 0].long() for seed in range(1000)])
    counts = drawn.flatten().bincount(minlength=200)  # expected 100 each
    assert counts.min() > 50 and counts.max() < 150  # five standard deviations


@pytest.mark.parametrize("size", [0, -1, 201])
def test_a_subset_of_impossible_size_is_refused(some, size):
    with pytest.raises(Refusal, match=f"a subset of {size} images cannot be drawn from the 200 of invented"):
        stratified_subset(some, size, seed=0)


def test_pooling_averages_blocks_and_rounds():
    pixels = torch.tensor([[0, 2, 255, 255], [1, 4, 255, 255], [9, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.uint8)
    given = Images("invented", pixels.expand(2500, 2, 4, 4), torch.zeros(2500, dtype=torch.int64), ("a",))
    found = pooled(given, 2)
    assert found.pixels.dtype == torch.uint8 and found.pixels.shape == (2500, 2, 2, 2)
    assert (found.pixels == torch.tensor([[2, 255], [2, 0]])).all()  # of 1.75, 255, 2.25 and 0.25
    assert torch.equal(pooled(given, 1).pixels, given.pixels) and pooled(given, 4).shape == (2, 1, 1)


@pytest.mark.parametrize("factor", [0, 3, 8])
def test_a_factor_that_does_not_divide_is_refused(some, factor):
    with pytest.raises(Refusal, match=f"images of 4 x 4 pixels cannot be pooled by {factor}"):
        pooled(some, factor)


def test_floats_are_standardised_channel_by_channel_by_the_given_images():
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 200, (50, 3, 5, 4), generator=source, dtype=torch.uint8)
    pixels[:, 1] //= 2
    pixels[:, 2] = 7
    like = Images("invented", pixels, torch.zeros(50, dtype=torch.int64), ("a",))
    floats = as_floats(pixels, like)
    assert floats.dtype == torch.float32 and floats.shape == pixels.shape
    torch.testing.assert_close(floats.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(floats.std((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]))
    other = torch.full((2, 4, 3, 5, 4), 30, dtype=torch.uint8)  # two members of four images
    expected = (30 - pixels[:, 0].double().mean()) / pixels[:, 0].double().std(correction=0)
    assert as_floats(other, like).shape == other.shape
    torch.testing.assert_close(as_floats(other, like)[:, :, 0].double().mean(), expected)
    given = pixels.float()
    assert torch.equal(as_floats(given, like), floats) and torch.equal(given, pixels.float())  # left as it was


def test_fingerprints_need_no_files_and_follow_the_md5s(monkeypatch):
    monkeypatch.setattr(images, "_read", lambda *_: pytest.fail("a file is read"))
    found = {name: images_fingerprint(name) for name in DATASETS}
    assert all(text.startswith(f"{name} ") and len(text) == len(name) + 17 for name, text in found.items())
    assert len({text.split()[1] for text in found.values()}) == len(DATASETS)
    for name in FILED:
        for part in ("train", "test"):
            table = dict.fromkeys(getattr(OFFICIAL[name], part), "0" * 32)
            monkeypatch.setitem(images._FILES, name, replace(OFFICIAL[name], **{part: table}))
            assert images_fingerprint(name) != found[name]
    monkeypatch.setattr(images, "DIGITS_SPLIT", 1)
    assert images_fingerprint("digits") != found["digits"]


# ---- the real files, where they are


@pytest.mark.parametrize(
    ("name", "sizes", "mean", "std"),  # of the training pixels in 0..1, as published everywhere
    [
        ("mnist", (60_000, 10_000), [0.1307], [0.3081]),
        ("fashion_mnist", (60_000, 10_000), [0.2860], [0.3530]),
        ("cifar10", (50_000, 10_000), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("cifar100", (50_000, 10_000), [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    ],
)
def test_the_real_files_where_they_are(monkeypatch, name, sizes, mean, std):
    monkeypatch.setenv("NTF_DATA", str(REAL_DATA))
    if not all((OFFICIAL[name].place / file).is_file() for file in OFFICIAL[name].md5s):
        pytest.skip(f"{name} is not on this machine")
    train, test = load_images(name, "train"), load_images(name, "test")
    assert (len(train), len(test)) == sizes and train.shape == test.shape
    assert train.labels.unique().tolist() == test.labels.unique().tolist() == [*range(len(train.classes))]
    for moment, published in zip(train.mean_and_std, (mean, std), strict=True):
        torch.testing.assert_close(moment / 255, torch.tensor(published, dtype=torch.float64), atol=6e-5, rtol=0)
