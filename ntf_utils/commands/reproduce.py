"""`reproduce`: run a chapter's notebooks through papermill, with a profile's parameters.

It does what `papermill -f profiles/<profile>.yaml` does, after checking the parameter names of the
whole chapter; so both make the same records.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import papermill
import typer
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from ntf_utils import ROOT
from ntf_utils.claims import Profile
from ntf_utils.refusal import Refusal, nearest

NOTEBOOKS = ROOT / "notebooks"
OUTPUT = ROOT / "_runs"


def reproduce(
    paper: Annotated[str, typer.Argument(help="A folder of notebooks/, or `all`.")],
    profile: Annotated[Profile, typer.Option(help="Whose parameters; laptop: the notebooks' own.")] = "laptop",
    fresh: Annotated[bool, typer.Option("--fresh", help="Make every run again, recorded or not.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes; default a core each.")] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="A parameter, over the profile's.")
    ] = None,
) -> None:
    """Run a chapter's notebooks; recorded runs are not made again, so it goes on where it stopped."""
    chapters = _chapters(paper)
    overrides = dict(_parameter(text) for text in parameters or [])
    plans = {chapter: _parameters(chapter, profile) | overrides for chapter in chapters}
    for chapter, values in plans.items():
        check_names(chapter, values)
    _set_environment(profile, fresh, workers)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of names that other notebooks know
    try:
        well = [_run_chapter(chapter, profile, values) for chapter, values in plans.items()]
    except KeyboardInterrupt:
        raise Refusal("interrupted; finished runs are recorded, the same command goes on") from None
    raise typer.Exit(not all(well))


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
        if name not in known:
            raise Refusal(f"{chapter.name} has no parameter {name!r}: {nearest(name, known)}")


def _notebooks(chapter: Path) -> list[Path]:
    return sorted(chapter.glob("*.ipynb"))


def _set_environment(profile: Profile, fresh: bool, workers: int | None) -> None:
    """What the kernels shall know; they inherit it."""
    if workers is not None:
        os.environ["NTF_WORKERS"] = str(workers)
    if profile == "smoke":  # proves that the code runs: always trained, never beside the real records
        os.environ.setdefault("NTF_STORE", str(OUTPUT / profile / "data"))
    if fresh or profile == "smoke":
        os.environ["NTF_FRESH_SINCE"] = str(int(time.time()))


def _run_chapter(chapter: Path, profile: Profile, values: dict[str, Any]) -> bool:
    """Run the notebooks in order, up to the first that fails; later ones rest on it."""
    for notebook in _notebooks(chapter):
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
            print(f"error: {name}: {_last_sentence(error)}", file=sys.stderr)
            return False
        print(f"{name}: {time.perf_counter() - start:.0f} s, {os.path.relpath(output)}")
    return True


def _last_sentence(error: Exception) -> str:
    if isinstance(error, DeadKernelError):
        return "the kernel died (out of memory?); finished runs are recorded"
    return error.evalue if error.ename == "Refusal" else f"{error.ename}: {error.evalue}"
