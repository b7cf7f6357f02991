"""Bad luck for store and local engine: kills, a full disk, a read-only store, flipped bits, a clock set back.

After each, `runs verify` is clean or names the file, and the finished sweep equals the undisturbed one.
"""

import os
import random
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from toy_experiments import SquareConfig, square
from toy_training import ToyTrainingConfig, train_stack

from ntf_utils.refusal import Refusal
from ntf_utils.runs import Commit, OutOfTime, Store, key_of, make_record, sweep
from ntf_utils.runs.attempt import cut_short, held, locked
from ntf_utils.runs.local import visible_devices
from ntf_utils.runs.record import Record
from ntf_utils.runs.timebox import GRACE, set_deadline, time_left
from ntf_utils.runs.worker import Worker

KILLS = 20


@pytest.fixture(autouse=True)
def store(in_memory, monkeypatch) -> Store:
    for name in ("NTF_RECORDED_ONLY", "NTF_FRESH_SINCE", "NTF_WORKERS", "NTF_DEADLINE", "NTF_ENGINE"):
        monkeypatch.setenv(name, "")
    return Store(in_memory / "data")


def undisturbed(configs: list[SquareConfig], tmp_path: Path) -> pd.DataFrame:
    return sweep(square, configs, store=Store(tmp_path / "undisturbed"), workers=0)


# kills


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_parent_and_workers_killed_at_random_moments(store, tmp_path):
    seed = int(time.time())
    chance = random.Random(seed)
    configs = [SquareConfig(seed=n, pause=0.03) for n in range(150)]
    kills = {"parent": 0, "worker": 0}
    while sum(kills.values()) < KILLS:
        parent = os.fork()
        if parent == 0:
            try:
                sweep(square, configs, store=store, workers=2)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.0, 1.0))
        workers = children_of(parent)
        victim = "worker" if workers and chance.random() < 0.5 else "parent"
        os.kill(chance.choice(workers) if victim == "worker" else parent, signal.SIGKILL)
        kills[victim] += 1
        if victim == "worker":  # the sweep goes on with another; now and then it gets the time to do so
            time.sleep(chance.uniform(0.0, 0.5))
            os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert store.verify() == [], f"seed {seed}"
    assert min(kills.values()) > 0
    assert len(list(store.records())) > 5, "the kills came before any work"
    assert sweep(square, configs, store=store, workers=2).equals(undisturbed_without_pause(configs, tmp_path))


def undisturbed_without_pause(configs: list[SquareConfig], tmp_path: Path) -> pd.DataFrame:
    """The pause is part of the config, and so of key and table, but not of the result."""
    quick = undisturbed([config.but(pause=0) for config in configs], tmp_path)
    keys = {config.seed: key_of(square, config) for config in configs}
    return quick.assign(pause=configs[0].pause, key=quick["seed"].map(keys))


def test_two_sweeps_share_the_runs_and_make_none_twice(store, tmp_path):
    trace = tmp_path / "trace"
    configs = [SquareConfig(seed=n, pause=0.2, trace=str(trace)) for n in range(8)]
    both = []
    for _ in range(2):
        both.append(os.fork())
        if both[-1] == 0:
            try:
                sweep(square, configs, store=store, workers=2)
            finally:
                os._exit(0)
    for pid in both:
        assert os.waitpid(pid, 0)[1] == 0
    assert sorted(int(line.split()[0]) for line in trace.read_text().splitlines()) == list(range(8))
    assert store.verify() == [] and len(list(store.records())) == 8


def test_a_lock_tells_of_work_of_dead_ends_and_of_nothing(tmp_path):
    lock = tmp_path / "runs" / "a.lock"
    assert not held(lock) and not cut_short(lock)
    with locked(lock, wait=False) as mine:
        assert mine and held(lock) and not cut_short(lock)
        with locked(lock, wait=False) as twice:
            assert not twice
    assert not lock.exists()
    with pytest.raises(ZeroDivisionError), locked(lock, wait=False):
        raise ZeroDivisionError
    assert cut_short(lock)
    with pytest.raises(OutOfTime), locked(lock, wait=True):
        raise OutOfTime("put off")
    assert not lock.exists()


# disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB, where root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk: mounting one takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_then_a_read_only_one(small_disk, tmp_path, workers):
    store = Store(small_disk / "data")
    configs = [SquareConfig(seed=n) for n in range(6)]
    sweep(square, configs[:2], store=store, workers=0)
    (small_disk / "ballast").write_bytes(b"x" * fill(small_disk))
    with pytest.raises(Refusal, match=r"cannot write .*No space left on device"):
        sweep(square, configs, store=store, workers=workers)
    assert store.verify() == [] and not list(store.root.rglob("*.tmp"))
    assert len(list(store.records())) >= 2

    remount(small_disk, "ro,size=1m")
    assert len(sweep(square, configs[:2], store=store, workers=workers)) == 4
    with pytest.raises(Refusal, match=r"cannot write records to .*Read-only file system.*set NTF_STORE"):
        sweep(square, configs, store=store, workers=workers)
    assert store.verify() == []

    remount(small_disk, "rw,size=1m")
    assert sweep(square, configs, store=store, workers=workers).equals(undisturbed(configs, tmp_path))
    assert store.verify() == []


def fill(place: Path) -> int:
    """Bytes that are free, all of them."""
    about = os.statvfs(place)
    return about.f_bavail * about.f_frsize


def test_every_flipped_bit_is_found(store):
    config = SquareConfig(seed=2)
    sweep(square, [config], store=store)
    (path,) = (store.root / "runs" / "square").glob("*.json")
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        assert len(store.verify()) == 1 and str(path) in store.verify()[0], bytes(content)


# time


def test_a_clock_set_back(store, monkeypatch, tmp_path):
    trace = tmp_path / "trace"
    config = SquareConfig(trace=str(trace))
    record = make_record(square, config, Commit())
    in_two_days = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    late = record.provenance.model_copy(update={"finished": in_two_days})
    store.put(Record.of(square, config, square(config), late))
    starts = len(trace.read_text().splitlines())
    assert store.verify() == [] and len(sweep(square, [config], store=store)) == 2
    assert len(trace.read_text().splitlines()) == starts  # a record is a record
    monkeypatch.setenv("NTF_FRESH_SINCE", str(time.time()))
    sweep(square, [config], store=store)
    assert len(trace.read_text().splitlines()) == starts + 1  # but not one made since, whatever its date
    monkeypatch.setenv("NTF_FRESH_SINCE", "")
    set_deadline(60)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 50 < time_left() < 60


@pytest.mark.parametrize("workers", [0, 2])
def test_a_budget_begins_what_fits_and_says_what_is_left(store, workers):
    configs = [SquareConfig(seed=n, pause=0.3) for n in range(40)]
    sweep(square, configs[:1], store=store, workers=0)  # known to take 0.3 s
    set_deadline(4)
    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"square out of time: \d+ of 39 missing .* recorded, \d+ left, about \d+ s"):
        sweep(square, configs, store=store, workers=workers)
    assert time.monotonic() - began < 4 + GRACE + 1
    assert store.verify() == [] and 1 < len(list(store.records())) < 40
    set_deadline(0.1)
    with pytest.raises(OutOfTime, match="square out of time: 0 of"):
        sweep(square, configs, store=store, workers=workers)


def test_a_budget_ends_a_run_that_nobody_knew_to_be_long(store):
    set_deadline(1)
    began = time.monotonic()
    with pytest.raises(OutOfTime, match="0 of 1 missing runs are recorded, 1 left, at a cost nobody has recorded yet"):
        sweep(square, [SquareConfig(pause=60)], store=store)
    assert time.monotonic() - began < 10


def test_a_long_run_passes_from_one_budget_to_the_next(store, tmp_path):
    trace = tmp_path / "trace"
    config = ToyTrainingConfig(steps=200, pause=0.01, trace=str(trace))
    budgets = 0
    while not store.get(train_stack, config):
        set_deadline(1)
        budgets += 1
        try:
            sweep(train_stack, [config], store=store, workers=0)
        except OutOfTime:
            assert budgets < 50
    assert budgets > 1 and trace.stat().st_size == 200  # no step was made twice
    rows = store.get(train_stack, config).rows
    assert rows == make_record(train_stack, config.but(pause=0, trace=""), Commit()).rows


# devices


def test_one_worker_a_device(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f2a")
    seen = []
    begin = Worker.__init__

    def noted(self, store, commit, place, device):
        seen.append((place, device))
        begin(self, store, commit, place, device)

    monkeypatch.setattr(Worker, "__init__", noted)
    trace = tmp_path / "devices"
    configs = [SquareConfig(seed=n, devices=str(trace), pause=0.2, fate="die" if n == 0 else "well") for n in range(4)]
    with pytest.raises(RuntimeError, match="the worker process ended"):
        sweep(square, configs, store=store)
    assert sorted(seen)[:2] == [(0, "3"), (0, "3")] and set(seen) == {(0, "3"), (1, "GPU-8f2a")}
    assert set(trace.read_text().split()) == {"3", "GPU-8f2a"}


@pytest.mark.parametrize(
    ("named", "devices"), [("", []), ("-1", []), ("0", ["0"]), ("2, 0", ["2", "0"]), ("1,-1,2", ["1"])]
)
def test_visible_devices(named, devices, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_devices() == devices


def test_without_a_quiet_setting_a_terminal_sees_runs_workers_and_time_left(store, monkeypatch, capsys):
    from ntf_utils.runs.cost import Costs
    from ntf_utils.runs.progress import Progress

    configs = [SquareConfig(seed=n, pause=0.1) for n in range(5)]
    sweep(square, configs[:1], store=store, workers=0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for name in ("CI", "NTF_QUIET"):
        monkeypatch.setenv(name, "")
    progress = Progress("square", configs[1:], Costs(store, square), workers=2)
    progress.started(0, configs[1])
    progress.started(1, configs[2])
    progress.ended(0, configs[1], done=True)
    told = capsys.readouterr().err
    assert "1 of 4 runs" in told and "3 left, about 0 s" in told and "worker 1: idle" in told
    assert "worker 2: seed=2, pause=0.1" in told
    monkeypatch.setenv("CI", "true")
    Progress("square", configs, None, workers=2).ended(0, configs[0], done=True)
    assert capsys.readouterr().err == ""


def test_costs_are_those_of_the_same_settings(store):
    from ntf_utils.runs.cost import Costs

    sweep(square, [SquareConfig(seed=1), SquareConfig(seed=2, pause=0.3)], store=store, workers=0)
    costs = Costs(store, square)
    assert costs.of(SquareConfig(seed=5)) < 0.1 < 0.3 <= costs.of(SquareConfig(seed=7, pause=0.3))
    assert costs.total([SquareConfig(seed=n, pause=0.3) for n in range(3)]) > 0.89
    assert Costs(Store(store.root / "empty"), square).total([SquareConfig()]) is None
