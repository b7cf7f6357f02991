"""`reproduce`: run a chapter's notebooks through papermill, with a profile's parameters.

It does what `papermill -f profiles/<profile>.yaml` does, after checking the names and values of the whole
chapter's parameters; so both make the same records.
"""

import json
import logging
import math
import os
import sys
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import nbformat
import papermill
import typer
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ntf_utils import ROOT
from ntf_utils.claims import Profile
from ntf_utils.refusal import Refusal, nearest
from ntf_utils.runs import RESERVED, Slurm
from ntf_utils.runs.duration import seconds_of
from ntf_utils.runs.timebox import set_deadline, time_left

NOTEBOOKS = ROOT / "notebooks"
OUTPUT = ROOT / "_runs"
CLOSING = 6.0  # seconds of a budget, at most a quarter, kept for runs that stop and a kernel that writes its notebook

Engine = Literal["local", "slurm"]


class End(Enum):
    """How a chapter came out."""

    DONE = "done"
    FAILED = "failed"
    MORE_TO_DO = "more to do"


def reproduce(
    paper: Annotated[str, typer.Argument(help="A folder of notebooks/, or `all`.")],
    profile: Annotated[Profile, typer.Option(help="Whose parameters; laptop: the notebooks' own.")] = "laptop",
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every run again, recorded or not.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Runs at once; default one a GPU, else a core; on Slurm a job a run.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Stop in good order within this time, e.g. 10m.")] = None,
    engine: Annotated[Engine, typer.Option(help="Where runs are made.")] = "local",
    partition: Annotated[str | None, typer.Option(help="Slurm: the partition.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Slurm: GPUs a job.")] = None,
    job_time: Annotated[str | None, typer.Option(help="Slurm: time limit of a job, e.g. 4h.")] = None,
    memory: Annotated[float | None, typer.Option(help="Slurm: GB a job.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="A parameter, over the profile's.")
    ] = None,
) -> None:
    """Run a chapter's notebooks; recorded runs are not made again, so it goes on where it stopped.

    Exit status 3 where the budget ended before the work: the same command goes on.
    """
    closes = time.monotonic() + seconds_of(budget) if budget else math.inf
    chapters = _chapters(paper)
    overrides = dict(_parameter(text) for text in parameters or [])
    plans = {chapter: _parameters(chapter, profile) | overrides for chapter in chapters}
    for chapter, values in plans.items():
        check_names(chapter, values)
        check_values(chapter, values)
    _set_environment(profile, fresh, workers)
    os.environ["NTF_ENGINE"] = engine
    os.environ["NTF_SLURM"] = json.dumps(_asked_of_slurm(partition, gpus, job_time, memory))
    if budget:
        set_deadline(closes - time.monotonic() - min(CLOSING, seconds_of(budget) / 4))
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of names that other notebooks know
    try:
        ends = [_run_chapter(chapter, profile, values) for chapter, values in plans.items()]
    except KeyboardInterrupt:
        raise Refusal("interrupted; finished runs are recorded, the same command goes on") from None
    finally:
        os.environ.pop("NTF_DEADLINE", None)
    raise typer.Exit(1 if End.FAILED in ends else 3 if End.MORE_TO_DO in ends else 0)


def _asked_of_slurm(
    partition: str | None, gpus: int | None, job_time: str | None, memory: float | None
) -> dict[str, Any]:
    """What the flags ask for, checked before any notebook starts."""
    minutes = math.ceil(seconds_of(job_time) / 60) if job_time else None
    asked = {"partition": partition, "gpus": gpus, "minutes": minutes, "memory_gb": memory}
    asked = {name: value for name, value in asked.items() if value is not None}
    Slurm(**asked)
    return asked


def _chapters(paper: str) -> list[Path]:
    known = sorted({path.parent for path in NOTEBOOKS.glob("*/*.ipynb") if ".ipynb_" not in str(path)})
    names = [path.name for path in known]
    if paper != "all" and paper not in names:
        raise Refusal(f"no chapter {paper!r} in notebooks/: {nearest(paper, names)}")
    return known if paper == "all" else [NOTEBOOKS / paper]


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refusal(f"-p takes a name and a value, not only {name!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _parameters(chapter: Path, profile: Profile) -> dict[str, Any]:
    """The profile's parameters for a chapter; none for laptop."""
    if profile == "laptop":
        return {}
    path = chapter / "profiles" / f"{profile}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise Refusal(f"{chapter.name} has no profile {profile}: {path} does not exist") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise Refusal(f"{path} must hold `name: value` lines")
    return content


def check_names(chapter: Path, values: dict[str, Any]) -> None:
    """Refuse a parameter that no notebook of the chapter has in its `parameters` cell."""
    known = {name for notebook in _notebooks(chapter) for name in papermill.inspect_notebook(notebook)}
    for name in values:
        if name not in known | RESERVED:
            raise Refusal(f"{chapter.name} has no parameter {name!r}: {nearest(name, known)}")


def check_values(chapter: Path, values: dict[str, Any]) -> None:
    """Refuse an impossible value before any notebook runs, by each notebook's own checking cell."""
    if not values:
        return  # what the notebooks say themselves is tested with them
    asked = os.environ.get("NTF_SLURM_PROFILE")
    for notebook in _notebooks(chapter):
        cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
        kernel: dict[str, Any] = {}
        for cell in cells:
            if "parameters" in cell.metadata.get("tags", []):
                exec(cell.source, kernel)
                kernel |= values
            elif "check_parameters(" in cell.source:
                try:
                    exec(cell.source, kernel)
                    Slurm.current()
                except Refusal as refusal:
                    raise Refusal(f"{chapter.name}/{notebook.stem}: {refusal}") from None
                break
    os.environ.pop("NTF_SLURM_PROFILE", None)  # of a profile's `slurm:` lines, which each kernel sets for itself
    if asked is not None:
        os.environ["NTF_SLURM_PROFILE"] = asked


def _notebooks(chapter: Path) -> list[Path]:
    return sorted(chapter.glob("*.ipynb"))


def _set_environment(profile: Profile, fresh: bool, workers: int | None) -> None:
    """What the kernels shall know; they inherit it."""
    if not sys.stderr.isatty():  # the kernels cannot know: their bars would fill a log
        os.environ["NTF_QUIET"] = "1"
    if workers is not None:
        os.environ["NTF_WORKERS"] = str(workers)
    if profile == "smoke":  # proves that the code runs: always trained, never beside the real records
        os.environ.setdefault("NTF_STORE", str(OUTPUT / profile / "data"))
    if fresh or profile == "smoke":
        os.environ["NTF_FRESH_SINCE"] = str(int(time.time()))


def _run_chapter(chapter: Path, profile: Profile, values: dict[str, Any]) -> End:
    """Run the notebooks in order, up to the first that fails or for which no time is left; later ones rest on it."""
    notebooks = _notebooks(chapter)
    for position, notebook in enumerate(notebooks):
        if time_left() <= 0:
            return _out_of_time(chapter, notebooks[position:])
        output = OUTPUT / profile / chapter.name / notebook.name
        output.parent.mkdir(parents=True, exist_ok=True)
        name = f"{chapter.name}/{notebook.stem}"
        print(f"{name} ({profile}) …", file=sys.stderr)
        start = time.perf_counter()
        try:
            papermill.execute_notebook(
                notebook, output, values, cwd=chapter, progress_bar=False, stderr_file=sys.stderr,
                extra_arguments=["--log-level=CRITICAL"],  # the kernel's own log is not for the reader
            )  # fmt: skip
        except (PapermillExecutionError, DeadKernelError) as error:
            if getattr(error, "ename", "") == "OutOfTime":
                print(f"{name}: {error.evalue}")
                return _out_of_time(chapter, notebooks[position + 1 :])
            print(f"error: {name}: {_last_sentence(error)}", file=sys.stderr)
            return End.FAILED
        print(f"{name}: {time.perf_counter() - start:.0f} s, {os.path.relpath(output)}")
    return End.DONE


def _out_of_time(chapter: Path, unbegun: list[Path]) -> End:
    """Name the notebooks that were not begun; what their sweeps lack is known when they run."""
    if unbegun:
        print(f"{chapter.name}: not begun {', '.join(notebook.stem for notebook in unbegun)}")
    return End.MORE_TO_DO


def _last_sentence(error: Exception) -> str:
    if isinstance(error, DeadKernelError):
        return "the kernel died (out of memory?); finished runs are recorded"
    return error.evalue if error.ename == "Refusal" else f"{error.ename}: {error.evalue}"
