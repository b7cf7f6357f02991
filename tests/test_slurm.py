"""Sweeps on a real Slurm: job arrays over two nodes, a lost node, a cancelled job, a time limit, a deadline."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster, wait_until, why_not
from toy_experiments import SquareConfig, square
from toy_training import ToyTrainingConfig, train_stack

from ntf_utils.refusal import Refusal
from ntf_utils.runs import Commit, OutOfTime, RunFailed, Slurm, Store, make_record, sweep
from ntf_utils.runs.timebox import set_deadline


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = why_not()
    if reason:
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(f"REQUIRE_SLURM=1, but {reason}")
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def store(cluster, in_memory, monkeypatch) -> Store:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    for name in ("RECORDED_ONLY", "FRESH_SINCE", "WORKERS", "DEADLINE", "SLURM", "SLURM_PROFILE"):
        monkeypatch.setenv(f"NTF_{name}", "")
    monkeypatch.setenv("NTF_STORE", str(in_memory / "data"))
    yield Store()
    for job in {line[0] for line in cluster.jobs()}:
        cluster.ask("scancel", job)
    wait_until(lambda: not cluster.jobs(), 30)


def squares(trace: Path, count: int, pause: float) -> list[SquareConfig]:
    return [SquareConfig(seed=seed, pause=pause, trace=str(trace)) for seed in range(count)]


def starts(trace: Path) -> list[int]:
    return sorted(int(line.split()[0]) for line in trace.read_text().splitlines()) if trace.exists() else []


class Background(threading.Thread):
    """A sweep in a thread, so that the test can do harm meanwhile."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__()
        self.call, self.table, self.error = (arguments, options), None, None
        self.start()

    def run(self) -> None:
        try:
            self.table = sweep(*self.call[0], engine="slurm", **self.call[1])
        except Exception as error:
            self.error = error

    def result(self):
        self.join(240)
        assert not self.is_alive(), "the sweep does not end"
        if self.error:
            raise self.error
        return self.table


def test_an_array_over_both_nodes_gives_the_local_table(cluster, store, tmp_path):
    configs = [*squares(tmp_path / "trace", 5, 0.3), *(SquareConfig(fate=fate) for fate in ("raise", "die"))]
    running = Background(square, configs, workers=2)
    nodes = set()
    while running.is_alive():
        nodes |= {node for _, _, _, node in cluster.jobs() if node}
        time.sleep(0.1)
    with pytest.raises(RunFailed, match=r"square failed with .*2 runs failed, 5 were recorded"):
        running.result()
    assert nodes == {"n1", "n2"}
    assert starts(tmp_path / "trace") == [0, 1, 2, 3, 4] and store.verify() == []
    local = sweep(square, configs[:5], store=Store(tmp_path / "local"), workers=0)
    assert sweep(square, configs[:5], engine="slurm").equals(local)


def test_a_lost_node_and_a_cancelled_job_cost_no_run(cluster, store, tmp_path):
    trace = tmp_path / "trace"
    configs = squares(trace, 10, 1.0)
    running = Background(square, configs, workers=2)
    wait_until(lambda: len(starts(trace)) >= 3, 60)
    cluster.kill_node("n1")
    (other,) = {(job, task) for job, task, state, node in cluster.jobs() if node == "n2" and state == "RUNNING"}
    wait_until(lambda: len(starts(trace)) >= 5, 60)
    cluster.ask("scancel", other[0])
    time.sleep(1)
    cluster.start_node("n1")
    while running.is_alive():
        cluster.hurry()
        time.sleep(0.5)
    table = running.result()
    assert table["seed"].unique().tolist() == list(range(10)) and store.verify() == []
    again = starts(trace)
    assert set(again) == set(range(10)) and len(again) <= 10 + 2  # the runs that died with node and job, and no other


def test_a_time_limit_requeues_the_job_which_goes_on_from_its_checkpoint(cluster, store, tmp_path):
    trace = tmp_path / "trace"
    config = ToyTrainingConfig(steps=100, pause=0.1, trace=str(trace))
    running = Background(train_stack, [config], slurm=Slurm(minutes=10))
    wait_until(lambda: trace.exists() and trace.stat().st_size > 20, 240)
    # The warning that comes before a limit, sent now: Slurm's own comes up to a minute early, and so at no known step.
    cluster.ask("scancel", "--signal=USR2", cluster.jobs()[0][0])
    while running.is_alive():
        cluster.hurry()
        time.sleep(0.5)
    table = running.result()
    logs = (store.root / "cache" / "slurm" / "train_stack").glob("*_log.*")
    assert "Requeued job" in "".join(path.read_text() for path in logs)
    assert table["weights"].item() == make_record(train_stack, config.but(pause=0), Commit()).rows[0]["weights"]
    assert trace.stat().st_size == 100 + 100  # the second time by make_record: the job lost no step


def test_a_deadline_leaves_the_rest_and_a_killed_driver_leaves_its_jobs(cluster, store, tmp_path):
    trace = tmp_path / "trace"
    configs = squares(trace, 6, 1.5)  # nine seconds for one job, so more than the deadline on any machine
    set_deadline(4)
    with pytest.raises(OutOfTime, match=r"square out of time: \d of 6 missing runs are recorded"):
        sweep(square, configs, engine="slurm", workers=1)
    os.environ["NTF_DEADLINE"] = ""
    assert not [job for job in cluster.jobs() if job[2] == "PENDING"]

    code = """
import sys
from toy_experiments import SquareConfig, square
from ntf_utils.runs import sweep
sweep(square, [SquareConfig(seed=s, pause=1.5, trace=sys.argv[1]) for s in range(6)], engine="slurm", workers=2)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, "-c", code, str(trace)], env=environment)
    begun = len(starts(trace))
    wait_until(lambda: len(starts(trace)) > begun or driver.poll() is not None, 60)
    driver.kill()
    driver.wait()
    assert len(sweep(square, configs, engine="slurm", workers=2)) == 12
    assert store.verify() == [] and len(starts(trace)) <= 6 + 2


def test_what_the_cluster_refuses_is_one_sentence(cluster, monkeypatch):
    with pytest.raises(Refusal, match=r"sbatch refused the jobs: .*partition"):
        sweep(square, [SquareConfig(seed=1)], engine="slurm", slurm=Slurm(partition="nowhere"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refusal, match="no Slurm here: sbatch and srun are not on the PATH"):
        sweep(square, [SquareConfig(seed=1)], engine="slurm")
