"""The command line, used as a user does: exit status, and one sentence for what goes wrong."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import toy_experiments
from nbformat.v4 import new_code_cell, new_notebook
from toy_experiments import SquareConfig, square

from ntf_utils import ROOT
from ntf_utils.commands import main
from ntf_utils.commands.replay import differences, in_order
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Commit, Outcome, Record, Store, key_of, make_record, registry, sweep
from ntf_utils.runs.duration import seconds_of

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
    importlib.import_module("torch")  # as `replay` does: a record's platform names what torch makes of the processor
    monkeypatch.setenv("NTF_STORE", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(toy_experiments.__file__).parent}")  # for the kernels
    for name in ("RECORDED_ONLY", "FRESH_SINCE", "WORKERS", "DEADLINE", "ENGINE", "SLURM", "SLURM_PROFILE", "QUIET"):
        monkeypatch.setenv(f"NTF_{name}", "")  # and forget what a command sets
    return Store()


@pytest.fixture
def chapter(tmp_path, monkeypatch) -> Path:
    """A chapter of two notebooks, one of which knows `depth`, with a smoke profile."""
    folder = tmp_path / "notebooks" / "toy"
    (folder / "profiles").mkdir(parents=True)
    write_notebook(folder / "01_one.ipynb", PARAMETERS, CHECK, SWEEP)
    write_notebook(folder / "02_two.ipynb", "depth: int = 1", "print('depth', depth)")
    (folder / "profiles" / "smoke.yaml").write_text(PROFILE)
    monkeypatch.setattr(sys.modules["ntf_utils.commands.reproduce"], "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(sys.modules["ntf_utils.commands.reproduce"], "OUTPUT", tmp_path / "_runs")
    return folder


def write_notebook(path: Path, parameters: str, *codes: str) -> None:
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, codes)]
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
    assert "(recorded on" not in out  # on its own machine, where no tolerance helps


def test_replay_passes_over_stale_records(store, capsys, monkeypatch):
    sweep(square, [SquareConfig()])
    monkeypatch.setattr(square, "version", 2)
    code, out, _ = call(capsys, "replay")
    assert code == 0 and "stale" in out and "recorded with v1, the code is v2" in out
    monkeypatch.delitem(registry, "square")
    assert "the experiment is gone" in call(capsys, "replay")[1]


def test_replay_keeps_to_its_budget(store, capsys, monkeypatch):
    monkeypatch.setattr("ntf_utils.runs.worker.time.perf_counter", iter(range(0, 1000, 20)).__next__)  # 20 s a run
    sweep(square, [SquareConfig(seed=seed) for seed in range(3)], workers=0)
    monkeypatch.undo()
    monkeypatch.setenv("NTF_STORE", str(store.root))
    assert "2 of 3 records replayed, 0 drifted" in call(capsys, "replay", "--budget", "50s")[1]


def test_replay_passes_over_records_whose_data_are_not_here(store, capsys, monkeypatch):
    monkeypatch.setattr(SquareConfig, "data_fingerprint", lambda config: "photographs")
    sweep(square, [SquareConfig(seed=seed) for seed in range(3)], workers=0)

    def absent(config):
        raise Refusal("the photographs are not here")

    monkeypatch.setattr(square, "function", absent)
    code, out, _ = call(capsys, "replay")
    assert code == 0 and "0 of 3 records replayed, 0 drifted" in out
    assert out.count("the photographs are not here") == 1


def test_replay_passes_over_runs_whose_models_would_have_to_be_trained(store, capsys, monkeypatch):
    sweep(square, [SquareConfig(seed=seed) for seed in range(3)], workers=0)
    monkeypatch.setattr(square, "at_hand", lambda config: config.seed == 2)
    code, out, _ = call(capsys, "replay")
    assert code == 0 and "1 of 3 records replayed, 0 drifted" in out
    assert out.count("what they build on is not in the cache") == 1


def test_replay_refuses_an_unknown_experiment(capsys):
    assert call(capsys, "replay", "--experiment", "sqare") == (
        2,
        "",
        "error: no experiment 'sqare': did you mean 'square'?\n",
    )


def test_the_cheapest_of_each_experiment_comes_first():
    def record(experiment: str, seconds: float, seed: int):
        made = make_record(square, SquareConfig(seed=seed), Commit())
        about = made.provenance.model_copy(update={"seconds": seconds})
        return made.model_copy(update={"experiment": experiment, "provenance": about})

    cheap = [record("cheap", seconds, seed) for seed, seconds in enumerate([1.0, 2.0, 3.0])]
    dear = [record("dear", 5.0, 3)]
    assert in_order(dear + cheap[::-1]) == [cheap[0], dear[0], *cheap[1:]]


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


def test_reproduce_checks_names_and_values_before_anything_runs(chapter, store, capsys, monkeypatch):
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("ran"))
    (chapter / "profiles" / "gpu.yaml").write_text("sedes: 3\n")
    toy = ("reproduce", "toy")
    for arguments, sentence in [
        ([*toy, "--profile", "gpu"], "toy has no parameter 'sedes': did you mean 'seeds'?"),
        ([*toy, "-p", "dept", "3"], "toy has no parameter 'dept': did you mean 'depth'?"),
        (
            ["reproduce", "all", "-p", "power", "x"],
            "toy/01_one: Parameters: power must be a valid number, unable to parse string as a number (got 'x')",
        ),
        ([*toy, "-p", "depth"], "-p takes a name and a value, not only 'depth'"),
        (["reproduce", "tyo"], "no chapter 'tyo' in notebooks/: did you mean 'toy'?"),
        (
            [*toy, "--profile", "paper"],
            f"toy has no profile paper: {chapter}/profiles/paper.yaml does not exist",
        ),
    ]:
        assert call(capsys, *arguments) == (2, "", f"error: {sentence}\n")


def test_reproduce_shows_the_last_sentence_only(chapter, store, capsys):
    write_notebook(chapter / "01_one.ipynb", PARAMETERS, "1 / 0")
    code, _, err = call(capsys, "reproduce", "toy")
    assert code == 1 and err.endswith("error: toy/01_one: ZeroDivisionError: division by zero\n")


# a budget, an engine


SLOW_SWEEP = "table = sweep(square, [SquareConfig(seed=seed, pause=0.4, power=p.power) for seed in range(p.seeds)])\n"


def test_reproduce_within_a_budget_tells_done_from_more_to_do(chapter, store, capsys):
    write_notebook(chapter / "01_one.ipynb", PARAMETERS, CHECK, SLOW_SWEEP)
    code, out, err = call(capsys, "reproduce", "toy", "-p", "seeds", "100", "--budget", "16s", "--workers", "1")
    assert code == 3, err
    assert "toy/01_one: square out of time: " in out and "of 100 missing runs are recorded" in out
    assert "toy: not begun 02_two" in out and "Traceback" not in err and "runs |" not in err
    made = len(list(store.records()))
    assert 0 < made < 100
    assert call(capsys, "reproduce", "toy", "-p", "seeds", str(made), "--budget", "10m")[0] == 0
    assert len(list(store.records())) == made


def test_reproduce_refuses_what_is_no_duration_and_what_no_job_can_ask(chapter, capsys):
    toy = ("reproduce", "toy")
    for arguments, sentence in [
        ([*toy, "--budget", "soon"], "a duration is written 90s, 10m or 1h30m, not 'soon'"),
        ([*toy, "--memory", "-1"], "Slurm: memory_gb must be greater than 0 (got -1.0)"),
    ]:
        assert call(capsys, *arguments) == (2, "", f"error: {sentence}\n")


def test_a_profile_says_what_a_job_needs_and_flags_say_otherwise(chapter, capsys, monkeypatch):
    (chapter / "profiles" / "gpu.yaml").write_text("seeds: 1\nslurm: {gpus: 1, minutes: 90, memory_gb: 16}\n")
    say = "import json\nfrom ntf_utils.runs import Slurm\nprint(json.dumps(Slurm.current().as_dict()))"
    write_notebook(chapter / "01_one.ipynb", PARAMETERS, CHECK, say)
    shown = chapter.parents[1] / "_runs" / "gpu" / "toy" / "01_one.ipynb"
    flags = ("--engine", "slurm", "--job-time", "2h", "--partition", "long")
    assert call(capsys, "reproduce", "toy", "--profile", "gpu", *flags)[0] == 0
    asked = json.loads(nbformat.read(shown, 4).cells[-1].outputs[0].text)
    assert (asked["gpus"], asked["minutes"], asked["memory_gb"], asked["partition"]) == (1, 120, 16, "long")
    (chapter / "profiles" / "gpu.yaml").write_text("slurm: {gpu: 1}\n")
    code, _, err = call(capsys, "reproduce", "toy", "--profile", "gpu")
    assert code == 2 and err.endswith("Slurm: unknown field 'gpu': did you mean 'gpus'?\n")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("0.5m", 30), ("1 h", 3600)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


# replay elsewhere


def elsewhere(store: Store, **changes) -> None:
    """Make the one record look as if made on another machine, or by an older version that named none."""
    (record,) = store.records()
    about = record.provenance.model_copy(update=changes)
    config = SquareConfig(**record.config)
    rows = [row | {"value": row["value"] * 1.01} for row in record.rows]
    store.put(Record.of(square, config, Outcome(rows, record.curves), about))


@pytest.mark.parametrize("changes", [{"cpu": "Another CPU"}, {"cpu": None}, {"torch": "1.0"}])
def test_replay_on_another_machine_reports_and_does_not_fail(store, capsys, changes):
    sweep(square, [SquareConfig(seed=1)])
    elsewhere(store, **changes)
    code, out, _ = call(capsys, "replay", "--budget", "1m")
    assert code == 0 and "differs  square" in out and "0 drifted, 1 differ on this other machine" in out
    assert "rows[0].value: recorded" in out


def test_replay_on_the_same_machine_is_exact_whatever_the_tolerance(store, capsys, monkeypatch):
    sweep(square, [SquareConfig(seed=1)])
    monkeypatch.setattr(square, "tolerance", 0.5)
    elsewhere(store)
    code, out, _ = call(capsys, "replay")
    assert code == 1 and "DRIFTED  square" in out
    elsewhere(store, cpu="Another CPU")
    assert "close    square" in call(capsys, "replay")[1]


def test_older_records_without_a_processor_stay_to_the_letter(store):
    sweep(square, [SquareConfig(seed=1)])
    elsewhere(store, cpu=None)
    (path,) = (store.root / "runs").rglob("*.json")
    text = path.read_text()
    assert '"cpu":' not in text and store.verify() == []
    (record,) = store.records()
    assert record.text() == text


# filters, export, import, prune


def test_runs_list_takes_filters(store, capsys):
    sweep(square, [SquareConfig(seed=seed, power=power) for seed in range(3) for power in (1, 2)], workers=0)
    listed = call(capsys, "runs", "list", "square", "--where", "seed=1")[1]
    assert listed.count("seed=1") == 2 and "seed=0" not in listed
    assert "1 runs" in call(capsys, "runs", "list", "--where", "seed=1", "--where", "power=2.0")[1]
    assert call(capsys, "runs", "list", "--where", "device=tpu")[1].startswith("no such run recorded")
    for text, sentence in [("seed", "--where takes NAME=VALUE, not 'seed'"),
                           ("sede=1", "no record has a 'sede': did you mean 'seed'?")]:  # fmt: skip
        assert call(capsys, "runs", "list", "--where", text) == (2, "", f"error: {sentence}\n")


def test_runs_export(store, tmp_path, capsys):
    sweep(square, [SquareConfig(seed=seed) for seed in range(3)], workers=0)
    capsys.readouterr()
    path = tmp_path / "runs.csv"
    assert call(capsys, "runs", "export", str(path), "square", "--where", "seed=2")[:2] == (0, f"{path}: 2 lines\n")
    table = pd.read_csv(path)
    assert table["config.seed"].tolist() == [2, 2] and table["value"].tolist() == [5.44444] * 2
    assert {"key", "experiment", "member", "provenance.seconds", "config.strengths"} <= set(table.columns)
    assert call(capsys, "runs", "export", str(tmp_path / "runs.xls"))[2].startswith("error: a table is written to a")


def test_runs_export_to_parquet(store, tmp_path, capsys):
    sweep(square, [SquareConfig(seed=seed) for seed in range(3)], workers=0)
    path = tmp_path / "runs.parquet"
    code, _, err = call(capsys, "runs", "export", str(path))
    if find_spec("pyarrow") is None:
        assert (code, err.count("\n")) == (2, 1) and "requirements-parquet.txt" in err
    else:
        assert code == 0 and sorted(pd.read_parquet(path)["config.seed"]) == [0, 0, 1, 1, 2, 2]


def pack(kind: str, folder: Path, to: Path) -> Path:
    """The folder as an archive of that kind."""
    if kind == "folder":
        return folder
    return Path(shutil.make_archive(str(to), {"tar.gz": "gztar", "zip": "zip"}[kind], folder))


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
def test_runs_import_merges_what_verifies_and_names_the_rest(store, tmp_path, capsys, kind):
    theirs = Store(tmp_path / "theirs")
    configs = [SquareConfig(seed=seed) for seed in range(5)]
    sweep(square, configs, store=theirs, workers=0)
    sweep(square, configs[:2], workers=0)
    paths = {config.seed: theirs.root / "runs" / "square" / f"{key_of(square, config)}.json" for config in configs}
    changed = Record.read(paths[1])
    rows = [row | {"value": 7.0} for row in changed.rows]
    theirs.put(Record.of(square, configs[1], Outcome(rows, changed.curves), changed.provenance))
    paths[3].write_text(paths[3].read_text().replace("0.", "1.", 1))  # a wrong number
    paths[4].rename(paths[4].with_name("notes.json"))
    (theirs.root / "verdicts").mkdir()
    (theirs.root / "verdicts" / "c1.json").write_text("{}")
    code, out, _ = call(capsys, "runs", "import", str(pack(kind, theirs.root, tmp_path / "archive")))
    assert code == 1 and out.endswith("1 records added, 1 already here, 3 refused\n")
    assert f"{paths[3].name}: its checksum does not fit its content" in out
    assert "notes.json: not a record by its name" in out and "c1.json" not in out
    assert f"{paths[1].name}: the store has other results for the same run" in out
    assert store.verify() == [] and {record.config["seed"] for record in store.records()} == {0, 1, 2}
    assert store.get(square, configs[1]).rows[0]["value"] == 1.77778


def test_runs_import_refuses_what_is_no_archive_and_does_not_reach_outside(store, tmp_path, capsys):
    (tmp_path / "text.tar").write_text("no archive")
    (tmp_path / "empty").mkdir()
    for name, sentence in [("text.tar", "cannot read"), ("nowhere.zip", "cannot read"), ("empty", "holds no record")]:
        code, _, err = call(capsys, "runs", "import", str(tmp_path / name))
        assert code == 2 and sentence in err and err.count("\n") == 1
    record = make_record(square, SquareConfig(), Commit())
    with tarfile.open(tmp_path / "evil.tar", "w") as file:
        content = record.text().encode()
        member = tarfile.TarInfo(f"../../square/{record.key}.json")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("runs/square/0123456789abcdef.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    capsys.readouterr()
    assert call(capsys, "runs", "import", str(tmp_path / "evil.tar"))[1].startswith("1 records added")
    assert [path.name for path in tmp_path.rglob(f"{record.key}.json")] == [f"{record.key}.json"]
    assert store.verify() == []


def test_runs_prune_deletes_what_no_notebook_and_no_verdict_uses(chapter, store, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["ntf_utils.commands.use"], "NOTEBOOKS", chapter.parent)
    sweep(square, [SquareConfig(seed=seed) for seed in range(6)], workers=0)
    behind = key_of(square, SquareConfig(seed=4))
    verdict = store.root / "verdicts" / "toy" / "laptop" / "c1.json"
    verdict.parent.mkdir(parents=True)
    verdict.write_text(json.dumps({"runs": [behind]}))
    litter = store.root / "runs" / "square" / ".half.tmp"
    litter.write_text("")
    os.utime(litter, (0, 0))
    code, out, _ = call(capsys, "runs", "prune")
    assert code == 0 and "3 unused records and 1 files of dead runs; --delete removes them" in out
    assert len(list(store.records())) == 6 and litter.exists()
    assert "3 unused records and 1 files of dead runs deleted" in call(capsys, "runs", "prune", "--delete")[1]
    assert {record.config["seed"] for record in store.records()} == {0, 1, 4} and not litter.exists()
    write_notebook(chapter / "01_one.ipynb", PARAMETERS.replace("2 ", "9 "), CHECK, SWEEP)
    code, out, err = call(capsys, "runs", "prune", "--delete")
    assert code == 2 and "nobody can tell what toy/01_one uses" in err and len(list(store.records())) == 3
