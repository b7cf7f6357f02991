"""The command line, used as a user does: exit status, and one sentence for what goes wrong."""

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import toy_experiments
from nbformat.v4 import new_code_cell, new_notebook
from toy_experiments import SquareConfig, square

from ntf_utils import ROOT
from ntf_utils.commands import main
from ntf_utils.commands.replay import differences, within_budget
from ntf_utils.runs import Commit, Store, make_record, registry, sweep

PARAMETERS = "seeds: int = 2  # runs\npower: float = 2.0"
CHECK = """
from ntf_utils.runs import Config, check_parameters, curves, sweep
from toy_experiments import SquareConfig, square

class Parameters(Config):
    seeds: int
    power: float

class Others(Config):
    depth: int

p = check_parameters(globals(), Parameters, also=[Others])
"""
SWEEP = """
table = sweep(square, [SquareConfig(seed=seed, power=p.power) for seed in range(p.seeds)])
len(table)
"""
PROFILE = "# papermill 01_one.ipynb out.ipynb -f profiles/smoke.yaml\nseeds: 3\npower: 3\ndepth: 2\n"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("NTF_STORE", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(toy_experiments.__file__).parent}")  # for the kernels
    for name in ("NTF_RECORDED_ONLY", "NTF_FRESH_SINCE", "NTF_WORKERS"):
        monkeypatch.setenv(name, "")  # and forget what a command sets
    return Store()


@pytest.fixture
def chapter(tmp_path, monkeypatch) -> Path:
    """A chapter of two notebooks, one of which knows `depth`, with a smoke profile."""
    folder = tmp_path / "notebooks" / "toy"
    (folder / "profiles").mkdir(parents=True)
    write_notebook(folder / "01_one.ipynb", PARAMETERS, CHECK + SWEEP)
    write_notebook(folder / "02_two.ipynb", "depth: int = 1", "print('depth', depth)")
    (folder / "profiles" / "smoke.yaml").write_text(PROFILE)
    monkeypatch.setattr(sys.modules["ntf_utils.commands.reproduce"], "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(sys.modules["ntf_utils.commands.reproduce"], "OUTPUT", tmp_path / "_runs")
    return folder


def write_notebook(path: Path, parameters: str, code: str) -> None:
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell(code)]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `python -m ntf_utils <arguments>`."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


# runs


def test_runs_list_show_verify(store, capsys):
    assert call(capsys, "runs", "list")[:2] == (0, f"no runs recorded in {store.root}\n")
    key = sweep(square, [SquareConfig(seed=seed) for seed in range(2)], workers=0)["key"][0]
    assert "square" in call(capsys, "runs", "list")[1] and "2 runs" in call(capsys, "runs", "list")[1]
    assert "seed=1" in call(capsys, "runs", "list", "square")[1]
    path = store.root / "runs" / "square" / f"{key}.json"
    assert call(capsys, "runs", "show", key[:8])[:2] == (0, path.read_text())
    assert call(capsys, "runs", "show", "zz")[::2] == (
        2,
        f"error: no record in {store.root / 'runs'} with a key that starts with 'zz'\n",
    )
    assert call(capsys, "runs", "verify")[0] == 0
    path.write_text("{")
    code, out, _ = call(capsys, "runs", "verify")
    assert code == 1 and f"{path}: not JSON" in out


def test_as_a_module(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ntf_utils", "runs", "show", "zz"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no record") and done.stderr.count("\n") == 1


# replay


def test_replay_agrees_with_itself(store, capsys):
    sweep(square, [SquareConfig(seed=seed) for seed in range(3)], workers=0)
    code, out, _ = call(capsys, "replay")
    assert code == 0 and "3 of 3 records replayed, 0 drifted" in out


def test_replay_names_what_drifted(store, capsys, monkeypatch):
    sweep(square, [SquareConfig(seed=1)])
    before = square.function

    def drifted(config):
        return before(config.but(power=config.power * 1.0001))

    monkeypatch.setattr(square, "function", drifted)
    code, out, _ = call(capsys, "replay")
    assert code == 1 and "DRIFTED" in out and "rows[0].value: recorded 1.77778, now 1.77788" in out
    monkeypatch.setattr(square, "tolerance", 1e-3)
    assert call(capsys, "replay")[0] == 0


def test_replay_passes_over_stale_records(store, capsys, monkeypatch):
    sweep(square, [SquareConfig()])
    monkeypatch.setattr(square, "version", 2)
    code, out, _ = call(capsys, "replay")
    assert code == 0 and "stale" in out and "recorded with v1, the code is v2" in out
    monkeypatch.delitem(registry, "square")
    assert "the experiment is gone" in call(capsys, "replay")[1]


def test_replay_refuses_an_unknown_experiment(capsys):
    assert call(capsys, "replay", "--experiment", "sqare") == (
        2,
        "",
        "error: no experiment 'sqare': did you mean 'square'?\n",
    )


def test_within_budget_takes_one_of_each_experiment_first():
    def record(experiment: str, seconds: float, seed: int):
        made = make_record(square, SquareConfig(seed=seed), Commit())
        about = made.provenance.model_copy(update={"seconds": seconds})
        return made.model_copy(update={"experiment": experiment, "provenance": about})

    cheap = [record("cheap", seconds, seed) for seed, seconds in enumerate([1.0, 2.0, 3.0])]
    dear = [record("dear", 5.0, 3)]
    assert within_budget(dear + cheap[::-1], 8.5) == [cheap[0], dear[0], cheap[1]]
    assert within_budget(dear + cheap, 4) == cheap[:2]


def test_differences_are_complete():
    old = make_record(square, SquareConfig(), Commit())
    assert differences(old, old, 0) == []
    fewer = old.model_copy(update={"rows": old.rows[:1]})
    assert differences(old, fewer, 0) == [
        "rows[1].member is recorded or computed, not both",
        "rows[1].value is recorded or computed, not both",
    ]
    bent = old.model_copy(update={"curves": {"growth": {"step": [0, 1, 2], "value": [0.0, 0.5, 1.0]}}})
    assert [sentence.split(":")[0] for sentence in differences(old, bent, 0)] == [
        "curves.growth.value[1]",
        "curves.growth.value[2]",
    ]


# reproduce


def test_reproduce_makes_the_records_that_papermill_makes(chapter, store, tmp_path, capsys, monkeypatch):
    code, out, err = call(capsys, "reproduce", "toy", "--profile", "smoke", "--workers", "2")
    assert code == 0, err
    assert "toy/01_one" in out and "toy/02_two" in out
    assert nbformat.read(tmp_path / "_runs/smoke/toy/01_one.ipynb", 4)["metadata"]["papermill"]["duration"] > 0
    ours = {record.key: record.rows for record in store.records()}
    assert len(ours) == 3

    monkeypatch.setenv("NTF_STORE", str(tmp_path / "other"))
    arguments = ["-f", chapter / "profiles" / "smoke.yaml", "--no-progress-bar"]
    command = [
        sys.executable,
        "-m",
        "papermill",
        chapter / "01_one.ipynb",
        tmp_path / "out.ipynb",
        *arguments,
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert {record.key: record.rows for record in Store().records()} == ours


def test_reproduce_goes_on_where_it_stopped_unless_fresh(chapter, store, capsys):
    call(capsys, "reproduce", "toy", "-p", "seeds", "1")
    (first,) = store.records()
    assert first.config["seed"] == 0 and first.config["power"] == 2
    assert call(capsys, "reproduce", "toy")[0] == 0
    again = {record.config["seed"]: record for record in store.records()}
    assert again[0] == first and len(again) == 2


def test_reproduce_checks_names_before_anything_runs(chapter, store, capsys, monkeypatch):
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("ran"))
    (chapter / "profiles" / "gpu.yaml").write_text("sedes: 3\n")
    toy = ("reproduce", "toy")
    for arguments, sentence in [
        ([*toy, "--profile", "gpu"], "toy has no parameter 'sedes': did you mean 'seeds'?"),
        ([*toy, "-p", "dept", "3"], "toy has no parameter 'dept': did you mean 'depth'?"),
        ([*toy, "-p", "depth"], "-p takes a name and a value, not only 'depth'"),
        (["reproduce", "tyo"], "no chapter 'tyo' in notebooks/: did you mean 'toy'?"),
        (
            [*toy, "--profile", "paper"],
            f"toy has no profile paper: {chapter}/profiles/paper.yaml does not exist",
        ),
    ]:
        assert call(capsys, *arguments) == (2, "", f"error: {sentence}\n")


def test_reproduce_shows_the_last_sentence_only(chapter, store, capsys):
    code, _, err = call(capsys, "reproduce", "all", "-p", "seeds", "x")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: toy/01_one: Parameters: seeds must be a valid integer")
    assert "Traceback" not in err and "02_two" not in err
    write_notebook(chapter / "01_one.ipynb", PARAMETERS, "1 / 0")
    code, _, err = call(capsys, "reproduce", "toy")
    assert code == 1 and err.endswith("error: toy/01_one: ZeroDivisionError: division by zero\n")
