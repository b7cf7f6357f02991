"""Runs: configs, outcomes, records, the store, sweeps; and what becomes of them under bad luck."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toy_experiments import SquareConfig, square

from ntf_utils.refusal import Refusal
from ntf_utils.runs import (
    Commit,
    Config,
    Outcome,
    RunFailed,
    Store,
    check_parameters,
    curves,
    experiment,
    key_of,
    make_record,
    runs_behind,
    sweep,
)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Store:
    """Every test has a store of its own, which is also the default one."""
    monkeypatch.setenv("NTF_STORE", str(tmp_path / "data"))
    for name in ("NTF_RECORDED_ONLY", "NTF_FRESH_SINCE", "NTF_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    return Store()


def starts(trace: Path) -> list[int]:
    """The seeds of the runs that really started, sorted."""
    return sorted(int(line.split()[0]) for line in trace.read_text().splitlines())


def path_of(store: Store, config: SquareConfig) -> Path:
    return store.root / "runs" / "square" / f"{key_of(square, config)}.json"


# configs and parameters


def test_config_refuses_in_one_sentence():
    with pytest.raises(Refusal, match=r"^SquareConfig: seed must be greater than or equal to 0 \(got -1\)$"):
        SquareConfig(seed=-1)
    with pytest.raises(Refusal, match=r"^SquareConfig: unknown field 'sede': did you mean 'seed'\?$"):
        SquareConfig(sede=1)
    with pytest.raises(Refusal, match=r"power must be a valid number.*got 'x'"):
        SquareConfig(power="x")
    with pytest.raises(Refusal, match="power must be a finite number"):
        SquareConfig(power=float("inf"))


def test_but_validates_again_and_keeps_the_rest():
    config = SquareConfig(seed=3).but(power=1)
    assert (config.seed, config.power) == (3, 1.0)
    with pytest.raises(Refusal, match="power must be greater than 0"):
        config.but(power=0)


def test_key_depends_on_every_part():
    key = key_of(square, SquareConfig())
    assert key == key_of(square, SquareConfig(power=2))  # an int for a float is the same config
    assert key != key_of(square, SquareConfig(seed=1))
    assert len(key) == 16 and int(key, 16) >= 0


class OtherParameters(Config):
    depth: int = 1


def test_parameters_are_checked_by_name_and_value():
    cell = {
        "seed": 1,
        "power": 3,
        "In": ["…"],
        "Out": {},
        "_private": 1,
        "np": np,
        "Path": Path,
        "exit": print,
    }
    assert check_parameters(cell, SquareConfig) == SquareConfig(seed=1, power=3.0)
    with pytest.raises(Refusal, match="unknown parameter 'sedes': did you mean 'seed'"):
        check_parameters({"sedes": 1}, SquareConfig)
    with pytest.raises(Refusal, match="seed must be"):
        check_parameters({"seed": "many"}, SquareConfig)


def test_parameters_of_other_notebooks_are_ignored():
    assert check_parameters({"seed": 1, "depth": 2}, SquareConfig, also=[OtherParameters]).seed == 1


def test_checking_cell_can_be_run_again_beside_later_variables():
    source = "p = check_parameters(globals(), SquareConfig)"
    later = {"seed": 1, "effects": [1, 2], "In": ["", source, "effects = …", source]}
    assert check_parameters(later, SquareConfig).seed == 1


# outcomes


def test_outcome_rounds_to_six_digits_and_takes_numpy():
    rows = [{"loss": np.float32(1 / 3), "hits": np.int64(7), "solved": np.bool_(True), "name": "a", "at": None}]
    outcome = Outcome(rows, {"c": {"x": np.arange(2), "y": np.array([1 / 3, 2 / 3])}})
    assert outcome.rows == [{"loss": 0.333333, "hits": 7, "solved": True, "name": "a", "at": None}]
    assert outcome.curves == {"c": {"x": [0, 1], "y": [0.333333, 0.666667]}}
    assert type(outcome.rows[0]["solved"]) is bool


@pytest.mark.parametrize(
    ("rows", "lines", "sentence"),
    [
        ([], {}, "at least one row"),
        ([{"a": 1}, {"b": 1}], {}, r"rows\[1\] has other columns"),
        ([{"loss": float("nan")}], {}, r"rows\[0\].loss is nan"),
        ([{"loss": [1]}], {}, r"rows\[0\].loss is a list"),
        ([{"loss": np.zeros(2)}], {}, r"rows\[0\].loss is a ndarray"),
        ([{"a": 1}], {"c": {"x": [1], "y": []}}, "curve 'c' has columns of unequal length"),
        ([{"a": 1}], {"c": {"x": [np.inf]}}, "curves.c.x is inf"),
    ],
)
def test_outcome_refuses(rows, lines, sentence):
    with pytest.raises(Refusal, match=sentence):
        Outcome(rows, lines)


# experiments


def test_experiment_is_called_named_and_pickled_by_reference():
    assert (square.name, square.version, square.config_type) == ("square", 1, SquareConfig)
    assert square(SquareConfig(seed=1)).rows[0]["value"] == 1.77778
    assert pickle.loads(pickle.dumps(square)) is square


def test_experiment_must_be_importable_and_typed():
    with pytest.raises(Refusal, match="top level"):

        @experiment()
        def local(config: SquareConfig) -> Outcome: ...


# records and the store


def test_record_reads_back_and_is_text_for_review(store):
    config = SquareConfig(seed=2)
    record = make_record(square, config, Commit.current())
    store.put(record)
    assert store.get(square, config) == record
    assert store.find(record.key[:6]) == record
    assert store.verify() == []
    text = path_of(store, config).read_text()
    assert '  {"value": 5.44444, "member": 0},\n' in text
    assert '   "step": [0, 1, 2],\n' in text
    about = record.provenance
    assert about.threads == 1 and about.peak_memory_mb > 10 and about.finished.tzinfo
    for private in (os.uname().nodename, os.path.expanduser("~/"), str(Path.cwd())):
        assert private not in text


def damage_truncate(path: Path):
    path.write_text(path.read_text()[:300])


def damage_flip(path: Path):
    path.write_text(path.read_text().replace("5.44444", "5.44445"))


def damage_bytes(path: Path):
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


def damage_schema(path: Path):
    path.write_text(json.dumps({"schema": 99}))


def damage_empty(path: Path):
    path.write_text("")


def damage_by_copying(path: Path):
    other = make_record(square, SquareConfig(seed=5), Commit())
    path.write_text(other.text())


DAMAGES = [damage_truncate, damage_flip, damage_bytes, damage_schema, damage_empty, damage_by_copying]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_named_and_made_again(store, damage, caplog):
    config = SquareConfig(seed=2)
    table = sweep(square, [config])
    path = path_of(store, config)
    damage(path)
    assert len(store.verify()) == 1 and str(path) in store.verify()[0]
    with caplog.at_level(logging.WARNING):
        assert list(store.records()) == []
        again = sweep(square, [config])
    assert str(path) in caplog.text and "damaged" in caplog.text
    assert again.equals(table)
    assert store.verify() == []


def test_find_refuses_none_and_many(store):
    with pytest.raises(Refusal, match="no record in"):
        store.find("abc")
    sweep(square, [SquareConfig(seed=seed) for seed in range(2)], workers=0)
    with pytest.raises(Refusal, match="2 records"):
        store.find("")


def test_commit_names_the_code_and_whether_it_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr("ntf_utils.runs.record.ROOT", tmp_path)
    assert Commit.current() == Commit(commit="unknown", dirty=None)
    git("init")
    assert Commit.current().commit == "unknown"  # nothing committed yet
    (tmp_path / "ntf_utils").mkdir()
    (tmp_path / "ntf_utils" / "a.py").write_text("")
    git("add", "-A")
    git("commit", "-m", "first")
    (tmp_path / "README.md").write_text("a change elsewhere does not count")
    clean = Commit.current()
    assert len(clean.commit) == 40 and clean.dirty is False
    (tmp_path / "ntf_utils" / "a.py").write_text("changed = True")
    assert Commit.current() == Commit(commit=clean.commit, dirty=True)
    monkeypatch.setenv("PATH", "")
    assert Commit.current().commit == "unknown"


# sweeps


def test_sweep_gives_a_tidy_table_in_order_and_computes_once(tmp_path):
    trace = tmp_path / "trace"
    configs = [SquareConfig(seed=seed, trace=str(trace)) for seed in (3, 1, 2, 1)]
    table = sweep(square, configs, workers=2)
    assert list(table.columns) == ["key", *SquareConfig.model_fields, "value", "member"]
    assert table["seed"].tolist() == [3, 3, 1, 1, 2, 2]
    assert starts(trace) == [1, 2, 3]
    assert sweep(square, configs, workers=2).equals(table)
    sweep(square, [*configs, SquareConfig(seed=4, trace=str(trace))])
    assert starts(trace) == [1, 2, 3, 4]


def test_workers_and_this_process_agree(store):
    configs = [SquareConfig(seed=seed) for seed in range(3)]
    elsewhere = sweep(square, configs, workers=2)
    assert sweep(square, configs, store=Store(store.root / "here"), workers=0).equals(elsewhere)


def test_empty_sweep_is_an_empty_table():
    assert sweep(square, []).empty


def test_sweep_refuses_another_experiments_config():
    with pytest.raises(Refusal, match="square takes a SquareConfig, not a OtherParameters"):
        sweep(square, [OtherParameters()])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_run_is_named_and_the_others_are_recorded(store, workers):
    configs = [SquareConfig(seed=seed, fate="raise" if seed == 1 else "well") for seed in range(4)]
    with pytest.raises(RunFailed, match="square failed with seed=1, fate='raise': ZeroDivisionError: no luck") as it:
        sweep(square, configs, workers=workers)
    assert "toy_experiments.py" in it.value.__notes__[0]
    assert len(list(store.records())) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_what_an_experiment_refuses_is_a_refusal(workers):
    configs = [SquareConfig(fate="refuse"), SquareConfig(seed=1)]
    with pytest.raises(Refusal, match="square failed with fate='refuse': no data here"):
        sweep(square, configs, workers=workers)
    with pytest.raises(Refusal, match=r"rows\[0\].value is nan"):
        sweep(square, [SquareConfig(fate="nan")])


def test_a_worker_that_dies_costs_its_run_only(store):
    configs = [SquareConfig(seed=seed, fate="die" if seed in (0, 2) else "well") for seed in range(5)]
    with pytest.raises(RunFailed, match=r"worker process ended with status 9.*2 runs failed, 3 were recorded"):
        sweep(square, configs, workers=2)
    assert len(list(store.records())) == 3


def test_no_write_permission_is_refused_before_any_run(tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        with pytest.raises(Refusal, match=f"cannot write records to {place}.*set NTF_STORE"):
            sweep(square, [SquareConfig(trace=str(trace))], store=Store(place))
    assert not trace.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_store_still_serves_its_records(store):
    sweep(square, [SquareConfig()])
    folder = store.root / "runs" / "square"
    folder.chmod(0o500)
    assert len(sweep(square, [SquareConfig()])) == 2
    with pytest.raises(Refusal, match="cannot write records"):
        sweep(square, [SquareConfig(seed=1)])
    folder.chmod(0o700)


def test_full_disk_is_one_sentence(monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match=r"cannot write .*json: No space left on device"):
        sweep(square, [SquareConfig()])
    assert not list(Store().root.rglob("*.tmp"))


def test_recorded_only_never_trains(monkeypatch):
    sweep(square, [SquareConfig()])
    monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
    assert len(sweep(square, [SquareConfig()])) == 2
    with pytest.raises(Refusal, match=r"record missing: square with seed=1 and 1 more; run `make reproduce PAPER="):
        sweep(square, [SquareConfig(seed=seed) for seed in range(3)])


def test_fresh_since_makes_old_records_missing(tmp_path, monkeypatch):
    trace = tmp_path / "trace"
    config = SquareConfig(trace=str(trace))
    sweep(square, [config])
    monkeypatch.setenv("NTF_FRESH_SINCE", str(time.time() - 60))
    sweep(square, [config])
    assert starts(trace) == [0]
    monkeypatch.setenv("NTF_FRESH_SINCE", str(time.time() + 2))
    sweep(square, [config])
    assert starts(trace) == [0, 0]


@pytest.mark.parametrize("workers", ["many", "-1"])
def test_bad_number_of_workers(monkeypatch, workers):
    monkeypatch.setenv("NTF_WORKERS", workers)
    with pytest.raises(Refusal, match="number of workers"):
        sweep(square, [SquareConfig()])


def test_curves_in_long_form():
    configs = [SquareConfig(seed=seed, power=power) for power in (1, 2) for seed in range(2)]
    table = sweep(square, configs, workers=0)
    lines = curves(table, "growth")
    assert list(lines.columns) == ["key", "seed", "power", "step", "value"]
    assert len(lines) == 4 * 3
    assert list(curves(table[table["key"] == table["key"][0]], "growth").columns) == [
        "key",
        "seed",
        "step",
        "value",
    ]
    assert {record.key for record in runs_behind(table)} == set(table["key"])
    with pytest.raises(Refusal, match="square records no curve 'groth'; it has growth"):
        curves(table, "groth")


# bad luck

SWEEP_SCRIPT = """
import sys
from toy_experiments import SquareConfig, square
from ntf_utils.runs import sweep
sweep(square, [SquareConfig(seed=s, pause=0.1, trace=sys.argv[1]) for s in range(8)], workers=2)
"""


def start_sweep(trace: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP_SCRIPT, str(trace)], env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("runs_before", [1, 4])
def test_kill_9_loses_at_most_the_runs_in_flight(store, tmp_path, runs_before):
    trace = tmp_path / "trace"
    process = start_sweep(trace)
    wait_for(lambda: trace.exists() and len(trace.read_text().splitlines()) >= runs_before)
    time.sleep(0.02 * runs_before)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    wait_for(lambda: not any(alive(int(line.split()[1])) for line in trace.read_text().splitlines()), 60)

    assert store.verify() == []
    finished = {record.config["seed"] for record in store.records()}
    assert len(finished) >= len(starts(trace)) - 2  # two workers, so two in flight
    before = starts(trace)
    table = sweep(square, [SquareConfig(seed=s, pause=0.1, trace=str(trace)) for s in range(8)], workers=2)
    assert table["seed"].unique().tolist() == list(range(8))
    again = starts(trace)
    for seed in before:
        again.remove(seed)
    assert again == sorted(set(range(8)) - finished)
    assert store.verify() == []


def test_ctrl_c_keeps_finished_runs_and_says_one_sentence(store, tmp_path):
    trace = tmp_path / "trace"
    process = start_sweep(trace)
    wait_for(lambda: trace.exists() and len(trace.read_text().splitlines()) >= 4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "square interrupted: " in errors.splitlines()[-1] and "run again to go on" in errors
    assert len(list(store.records())) >= 2 and store.verify() == []


def test_two_sweeps_of_the_same_runs_at_once(store, tmp_path):
    both = [start_sweep(tmp_path / "trace") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert store.verify() == []
    assert len(list(store.records())) == 8
    assert not list(store.root.rglob("*.tmp"))


def test_a_script_without_a_main_guard_can_sweep(tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(SWEEP_SCRIPT.replace("pause=0.1, ", "").replace("range(8)", "range(2)"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, script, tmp_path / "trace"], env=environment, check=True)
    assert starts(tmp_path / "trace") == [0, 1]
