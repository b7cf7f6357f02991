"""Records: one finished run as text that a person can review and a program can trust."""

import hashlib
import json
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from ntf_utils import ROOT, __version__
from ntf_utils.refusal import explain
from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment, Outcome, Scalar


class Damaged(ValueError):
    """A record file that cannot be trusted; the message says why."""


class Commit(BaseModel):
    """The code a run was made with: commit hash, and whether `ntf_utils/` had uncommitted changes."""

    model_config = ConfigDict(frozen=True)

    commit: str = "unknown"
    dirty: bool | None = None

    @classmethod
    def current(cls) -> Self:
        """Ask git; "unknown" without git or outside the repository."""
        if not (ROOT / ".git").exists():  # installed elsewhere: the folder above may be another project's
            return cls()
        try:
            return cls(commit=_git("rev-parse", "HEAD"), dirty=bool(_git("status", "--porcelain", "--", "ntf_utils")))
        except (OSError, subprocess.CalledProcessError):
            return cls()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Provenance(BaseModel):
    """Where a record comes from. Never a host name, a user name or a path.

    `cpu` is the processor's model, which decides the last digits of a product; older records lack it.
    `seconds` is wall time, that of earlier attempts included whose work it went on with. `peak_memory_mb` is the
    largest resident size of the process so far (MiB), so an upper bound for a run that shared its process.
    `finished` is UTC, to the second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str
    dirty: bool | None
    ntf_utils: str
    python: str
    torch: str | None
    numpy: str | None
    platform: str
    cpu: str | None = None
    device: str
    threads: int
    precision: str | None
    seconds: float
    peak_memory_mb: int
    finished: datetime

    @classmethod
    def now(cls, commit: Commit, config: Config, seconds: float) -> Self:
        """The provenance of a run that has just finished in this process after `seconds`."""
        torch = sys.modules.get("torch")  # never imported here: floor 0 runs without it
        capability = f" {torch.backends.cpu.get_cpu_capability()}" if torch else ""
        on_gpu = torch is not None and torch.cuda.is_initialized()
        return cls(
            commit=commit.commit,
            dirty=commit.dirty,
            ntf_utils=__version__,
            python=platform.python_version(),
            torch=_version("torch"),
            numpy=_version("numpy"),
            platform=f"{platform.system()} {platform.machine()}{capability}",
            cpu=_cpu_model(),
            device=torch.cuda.get_device_name() if on_gpu else "cpu",
            threads=torch.get_num_threads() if torch else 1,
            precision=getattr(config, "precision", None),
            seconds=float(f"{seconds:.3g}"),
            peak_memory_mb=_peak_memory_mb(),
            finished=datetime.now(UTC).replace(microsecond=0),
        )

    def same_machine(self, other: Self) -> bool:
        """Whether the same code gives the same digits in both places: processor, device and versions are known
        and equal. Where the processor is not recorded nobody can tell, so the answer is no."""
        decisive = ("python", "torch", "numpy", "platform", "cpu", "device", "threads")
        return self.cpu is not None and all(getattr(self, name) == getattr(other, name) for name in decisive)

    @model_serializer(mode="wrap")
    def _as_recorded(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `cpu` where the record lacks it, so that an older record is written as it was read."""
        return {name: value for name, value in write(self).items() if name != "cpu" or value is not None}


@cache
def _cpu_model() -> str:
    """The processor's model as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _peak_memory_mb() -> int:
    """Largest resident size of this process so far, in MiB."""
    try:  # Linux's getrusage counts the parent's size at the fork as the child's own
        status = Path("/proc/self/status").read_text().split()
        return round(int(status[status.index("VmHWM:") + 1]) / 1024)
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Record(BaseModel):
    """One run: what was asked, what came out, and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    layout: Literal[1] = Field(1, alias="schema")
    experiment: str
    version: int
    config: dict[str, Any]
    data: str
    key: str
    rows: list[dict[str, Scalar]]
    curves: dict[str, dict[str, list[Scalar]]]
    provenance: Provenance
    checksum: str = ""

    @classmethod
    def of(cls, experiment: Experiment, config: Config, outcome: Outcome, provenance: Provenance) -> Self:
        """The record of a finished run."""
        record = cls(
            experiment=experiment.name,
            version=experiment.version,
            config=config.model_dump(mode="json"),
            data=config.data_fingerprint(),
            key=key_of(experiment, config),
            rows=outcome.rows,
            curves=outcome.curves,
            provenance=provenance,
        )
        content = record.model_dump(mode="json", by_alias=True)
        return record.model_copy(update={"checksum": _checksum(content)})

    def text(self) -> str:
        """The file's text: one line a field, a row, a curve's column."""
        content = self.model_dump(mode="json", by_alias=True)
        depth = {"config": 1, "rows": 1, "curves": 2, "provenance": 1}
        lines = [f' "{name}": {_json(value, depth.get(name, 0), 1)}' for name, value in content.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record file and check it.

        Raises:
            Damaged: unreadable, not JSON, not this schema, or checksum, key or place do not fit the content.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            record = cls.model_validate(content)
        except OSError as error:
            raise Damaged(error.strerror) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise Damaged("not JSON") from None
        except ValidationError as error:
            raise Damaged(f"not a record of schema 1 ({explain(error).split('; ')[0][:200]})") from None
        if record.checksum != _checksum(content):
            raise Damaged("its checksum does not fit its content")
        expected = _key(record.experiment, record.version, record.config, record.data)
        if record.key != expected or (path.parent.name, path.stem) != (record.experiment, record.key):
            raise Damaged(f"its content belongs to {record.experiment}/{expected}.json")
        return record


def key_of(experiment: Experiment, config: Config) -> str:
    """The content address of a run: 16 hex digits of experiment, version, config and data."""
    values = config.model_dump(mode="json")
    return _key(experiment.name, experiment.version, values, config.data_fingerprint())


def _key(experiment: str, version: int, config: dict, data: str) -> str:
    return _digest({"experiment": experiment, "version": version, "config": config, "data": data})[:16]


def _checksum(content: dict) -> str:
    return _digest({name: value for name, value in content.items() if name != "checksum"})


def _digest(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _json(value: Any, depth: int, indent: int) -> str:
    """JSON with one line an item for the outer `depth` levels, the inner ones compact."""
    if depth == 0 or not value:
        return json.dumps(value, ensure_ascii=False)
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {_json(v, depth - 1, indent + 1)}" for k, v in value.items()]
    else:
        items = [_json(v, depth - 1, indent + 1) for v in value]
    start, end = ("{", "}") if isinstance(value, dict) else ("[", "]")
    return f"{start}\n{pad}" + f",\n{pad}".join(items) + f"\n{' ' * indent}{end}"
