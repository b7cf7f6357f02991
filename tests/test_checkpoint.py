"""Checkpoints: a run that is killed and goes on ends, bit by bit, as one that was left alone."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_training import SUBJECTS, ToyTrainingConfig, train_image_net, train_stack

from ntf_utils.papers.benign_memorization.memorization import MemorizeConfig, memorize_labels
from ntf_utils.papers.linear_mode_connectivity.connectivity import ConnectivityConfig, measure_connectivity
from ntf_utils.papers.next_token_pitfalls.adder import AdderConfig, train_adder
from ntf_utils.papers.next_token_pitfalls.path_finder import PathFinderConfig, train_path_finder
from ntf_utils.papers.random_teachers.checkpoints import PruneConfig, prune_iteratively
from ntf_utils.papers.random_teachers.distillation import DistilConfig, distil_student
from ntf_utils.runs import Commit, Config, Experiment, OutOfTime, Store, make_record
from ntf_utils.runs.timebox import set_deadline
from ntf_utils.runs.worker import record_run
from ntf_utils.training.checkpoint import Checkpoints

KILLS = 7


@pytest.fixture(autouse=True)
def store(in_memory, monkeypatch) -> Store:
    monkeypatch.setenv("NTF_CHECKPOINT_SECONDS", "0")  # after every step
    monkeypatch.setenv("NTF_DEADLINE", "")
    monkeypatch.setenv("NTF_FRESH_SINCE", "")
    return Store(in_memory / "data")


def left_over(store: Store) -> list[Path]:
    return [path for path in (store.root / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_run_killed_at_random_steps_ends_as_if_left_alone(name, store, tmp_path):
    trace = tmp_path / "trace"
    config = ToyTrainingConfig(trace=str(trace))
    seed = int(time.time())
    arguments = f"{name!r}, {str(store.root)!r}, {str(trace)!r}, {KILLS}, {seed}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code = f"import toy_training; toy_training.main({arguments})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)

    steps = trace.stat().st_size
    assert config.steps < steps <= config.steps + 2 * KILLS, f"seed {seed}"  # only the steps in flight were lost
    killed = store.get(SUBJECTS[name], config)
    alone = make_record(SUBJECTS[name], config, Commit())
    assert (killed.key, killed.rows, killed.curves) == (alone.key, alone.rows, alone.curves), f"seed {seed}"
    assert left_over(store) == []


@pytest.mark.parametrize(
    ("experiment", "config"),
    [
        (train_path_finder, PathFinderConfig(layers=2, width=16, heads=2, steps=24, batch=8, test_graphs=64, looks=4,
                                             probes=2, query="shuffled", stop_when_solved=False)),
        (train_path_finder, PathFinderConfig(layers=2, width=16, heads=2, steps=24, batch=8, test_graphs=64, looks=4,
                                             train_graphs=16, patience=5, stop_when_solved=False)),
        (train_adder, AdderConfig(layers=2, width=16, heads=2, steps=24, batch=16, test_sums=64, looks=4)),
    ],
    ids=["fresh graphs", "fixed graphs", "adder"],
)  # fmt: skip
def test_chapter_one_goes_on_where_it_was_stopped(experiment, config, store, monkeypatch):
    assert stops_of(experiment, config, store, monkeypatch) == 3  # after steps 7, 14 and 21


@pytest.mark.parametrize("architecture", ["perceptron", "resnet20"])
@pytest.mark.parametrize("spawn_step", [0, 5])
def test_stacked_members_go_on_where_they_were_stopped(architecture, spawn_step, store, monkeypatch):
    """Perceptrons in one stack and residual networks with batch norm one by one, some with a common beginning."""
    config = ConnectivityConfig(
        dataset="digits", pooling=2, n_train=64, n_test=0, architecture=architecture, width=4, norm="batch", inits=2,
        batch=16, steps=12, spawn_step=spawn_step, points=3, scored=32,
    )  # fmt: skip
    assert stops_of(measure_connectivity, config, store, monkeypatch) > spawn_step / 5


@pytest.mark.parametrize("encoder", ["vgg11", "resnet20"])
def test_students_and_pruned_networks_go_on_where_they_were_stopped(encoder, store, monkeypatch):
    """Two rounds of distillation with looks on the way; a student, and then rounds of pruning in three arms."""
    small = {
        "dataset": "digits", "n_train": 64, "n_probe": 64, "n_test": 32, "neighbours": 3, "probe_updates": 3,
        "encoder": encoder, "width": 2, "hidden": 8, "bottleneck": 4, "outputs": 8, "steps": 10, "batch": 16,
    }  # fmt: skip
    assert stops_of(distil_student, DistilConfig(**small, looks=2, rounds=2), store, monkeypatch) == 2
    if encoder == "vgg11":
        pruning = PruneConfig(**small | {"steps": 2}, levels=1, tune_steps=4, tune_batch=16, rewind_steps=1)
        assert stops_of(prune_iteratively, pruning, store, monkeypatch) >= 3


def test_memorising_goes_on_where_it_was_stopped(store, monkeypatch):
    """Ever new views, and looks on the way."""
    config = MemorizeConfig(
        dataset="digits", pool=1, n_train=20, n_bank=30, n_test=20, neighbours=3, width=2, hidden=8, steps=16, batch=10,
        looks=2, by_layer=True,
    )  # fmt: skip
    assert stops_of(memorize_labels, config, store, monkeypatch) == 2


def stops_of(experiment: Experiment, config: Config, store: Store, monkeypatch) -> int:
    """Make a run that is stopped after every seven steps, until it is recorded; it must equal one left alone."""
    stops = 0
    while not store.get(experiment, config):
        monkeypatch.setattr("ntf_utils.training.checkpoint.must_stop", stop_at(7))
        try:
            record_run(experiment, config, Commit(), store)
        except OutOfTime:
            stops += 1
    record, alone = store.get(experiment, config), make_record(experiment, config, Commit())
    assert (record.key, record.rows, record.curves) == (alone.key, alone.rows, alone.curves)
    assert left_over(store) == []
    return stops


def stop_at(question: int):
    """A `must_stop` that says yes at the question of that number."""
    answers = iter([False] * (question - 1) + [True])
    return lambda: next(answers)


def test_short_runs_and_runs_outside_a_sweep_leave_nothing(store, monkeypatch):
    monkeypatch.setenv("NTF_CHECKPOINT_SECONDS", "3600")
    monkeypatch.setattr("ntf_utils.training.checkpoint._save", lambda *_: pytest.fail("wrote"))
    record_run(train_stack, ToyTrainingConfig(steps=5), Commit(), store)
    monkeypatch.setenv("NTF_CHECKPOINT_SECONDS", "0")
    make_record(train_stack, ToyTrainingConfig(steps=5), Commit())
    assert left_over(store) == []


def checkpoint_of(store: Store, config: ToyTrainingConfig, steps: int, monkeypatch) -> Path:
    """Begin a run, stop it after some steps, and return the folder of its checkpoints."""
    monkeypatch.setattr("ntf_utils.training.checkpoint.must_stop", stop_at(steps))
    with pytest.raises(OutOfTime, match=f"out of time after step {steps}"):
        record_run(train_image_net, config, Commit(), store)
    monkeypatch.undo()
    monkeypatch.setenv("NTF_CHECKPOINT_SECONDS", "0")
    return store.lock_path(train_image_net, config).with_suffix("")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(damage, both, store, tmp_path, monkeypatch, caplog):
    trace = tmp_path / "trace"
    config = ToyTrainingConfig(steps=20, trace=str(trace))
    folder = checkpoint_of(store, config, 10, monkeypatch)
    assert sorted(path.name for path in folder.iterdir()) == ["01.older.safetensors", "01.safetensors"]
    for path in folder.iterdir():
        if both or "older" not in path.name:
            damage(path)
    with caplog.at_level(logging.WARNING):
        record_run(train_image_net, config, Commit(), store)
    assert f"{folder / '01.safetensors'} is damaged" in caplog.text
    assert trace.stat().st_size == 10 + (20 if both else 11)
    assert store.get(train_image_net, config).rows == make_record(train_image_net, config, Commit()).rows


def test_a_checkpoint_of_another_torch_is_not_taken(store, tmp_path, monkeypatch, caplog):
    trace = tmp_path / "trace"
    config = ToyTrainingConfig(steps=20, trace=str(trace))
    checkpoint_of(store, config, 10, monkeypatch)
    monkeypatch.setattr("ntf_utils.training.checkpoint._made_with", lambda: {"torch": "1.0", "device": "cpu"})
    record_run(train_image_net, config, Commit(), store)
    assert "the run begins again" in caplog.text and trace.stat().st_size == 30


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(store, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ntf_utils.training.checkpoint.save_file", full)
    record_run(train_image_net, ToyTrainingConfig(steps=3), Commit(), store)
    assert "No space left on device" in caplog.text and "the run goes on" in caplog.text
    assert store.verify() == [] and len(list(store.records())) == 1


def test_seconds_of_all_attempts_add_up(store, monkeypatch):
    config = ToyTrainingConfig(steps=20, pause=0.02)
    checkpoint_of(store, config, 15, monkeypatch)
    record_run(train_image_net, config, Commit(), store)
    assert store.get(train_image_net, config).provenance.seconds > 20 * 0.02


def test_a_deadline_stops_the_loop_in_good_order(store, tmp_path):
    trace = tmp_path / "trace"
    config = ToyTrainingConfig(steps=1000, pause=0.01, trace=str(trace))
    set_deadline(0.3)
    with pytest.raises(OutOfTime, match="out of time after step"):
        record_run(train_stack, config, Commit(), store)
    assert 1 <= trace.stat().st_size < 50
    assert len(left_over(store)) == 2  # a checkpoint and the one before it, and no lock


def test_a_finished_loop_is_not_made_again(store, monkeypatch):
    """Where a later loop of the same run is cut short, the first one is restored as it ended."""
    from ntf_utils.runs.attempt import attempting

    weights = torch.zeros(3)
    with attempting(store.root / "cache" / "runs" / "x"):
        first = Checkpoints({"weights": weights})
        assert (first.resume(), first.ended) == (0, False)
        weights += 1
        first.after(4)
        weights += 1
        assert first.end(4) == 4
        Checkpoints({"weights": torch.ones(1)}).after(2)
    again = torch.zeros(3)
    with attempting(store.root / "cache" / "runs" / "x"):
        first, second = Checkpoints({"weights": again}), Checkpoints({"weights": torch.ones(1)})
        assert (first.resume(), first.ended) == (4, True) and again.tolist() == [2, 2, 2]
        assert (second.resume(), second.ended) == (2, False)


def test_what_cannot_be_kept_is_an_error_of_the_experiment(store):
    from ntf_utils.runs.attempt import attempting

    class Odd:
        def state_dict(self):
            return {"file": object()}

        def load_state_dict(self, state): ...

    with attempting(store.root / "x"), pytest.raises(TypeError, match="a checkpoint cannot hold a object"):
        Checkpoints({"odd": Odd()}).after(1)
