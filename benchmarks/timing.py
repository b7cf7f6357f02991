"""Timing of alternatives side by side, and the report of what was measured where."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # decide the speed of fp32 and bf16 products


def interleaved(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival in each round, the rivals taking turns; two rounds before are not counted.

    Counts CPU time of this process: with one thread that is the time it takes on an idle machine, and other
    programs' turns on a busy one are left out.
    """
    seconds = {name: [] for name in rivals}
    for round_ in range(-2, rounds):
        for name, run in rivals.items():
            began = time.process_time()
            run()
            if round_ >= 0:
                seconds[name].append(time.process_time() - began)
    return seconds


def median_ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds of one rival's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


@dataclass(frozen=True)
class Measure:
    """One line of the report. `target` is e.g. "at most 1.25"; empty where the figure is for comparison."""

    name: str
    value: float
    unit: str
    target: str = ""

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        side, bound = self.target.rsplit(" ", 1)
        bound = float(bound.replace(",", ""))
        return "met" if (self.value <= bound if side == "at most" else self.value >= bound) else "missed"


def table(measures: list[Measure]) -> str:
    """The measures as aligned text."""
    rows = [("measure", "value", "unit", "target", "")]
    rows += [(m.name, f"{m.value:,.4g}", m.unit, m.target, m.verdict) for m in measures]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def report(measures: list[Measure]) -> dict:
    """What was measured, with which versions and on what kind of CPU, ready for JSON."""
    return {
        "measures": [asdict(m) | {"value": float(f"{m.value:.4g}"), "verdict": m.verdict} for m in measures],
        "method": "one thread; median CPU time of rounds in which the rivals take turns",
        "cpu": cpu() | {"threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "mambapy")},
    }


def cpu() -> dict:
    """The CPU's name and its telling flags, as far as /proc/cpuinfo knows them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"model": platform.machine(), "flags": []}
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = known.get("flags", "").split()
    return {
        "model": known.get("model name", platform.machine()),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
    }
