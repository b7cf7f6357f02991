"""How numbers, intervals and criteria are written, the same in boxes, scorecard and plain text."""

import math
from collections.abc import Iterable

from ntf_utils.claims import Region

STANDINGS = {
    "verified": "read in the paper",
    "secondhand": "quoted by others",
    "memory": "from memory, unchecked",
    "unknown": "not known to us",
}


def number(value: float) -> str:
    """At most three significant digits below 100, whole numbers above, with a true minus sign."""
    if value == 0:
        return "0"
    digits = max(0, min(4, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text.replace("-", "−")


def quantity(value: float, unit: str = "") -> str:
    """A number with its unit, e.g. `−1.2 pp`."""
    return f"{number(value)} {unit}".strip()


def interval(estimate: float, low: float, high: float, unit: str = "") -> str:
    """An estimate with its interval, to two digits of the half-width, e.g. `0.40 pp [−1.25, 2.05]`."""
    half = (high - low) / 2
    digits = max(0, min(4, 1 - math.floor(math.log10(half)))) if half > 0 else 2
    middle, start, end = (f"{value:.{digits}f}".replace("-", "−") for value in (estimate, low, high))
    return f"{middle} {unit}".rstrip() + f" [{start}, {end}]"


def criterion(holds: Region, unit: str = "") -> str:
    """The region in words, e.g. `within [−5, 5] pp` or `above 95 %`."""
    for name, ends in (("within", holds.within), ("outside", holds.outside)):
        if ends:
            return f"{name} [{number(ends[0])}, {number(ends[1])}] {unit}".strip()
    if holds.above is not None:
        return f"above {quantity(holds.above, unit)}"
    return f"below {quantity(holds.below, unit)}"


def numbers_run(values: Iterable[int]) -> str:
    """Whole numbers as short runs, e.g. `0–4, 7`."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def duration(seconds: float) -> str:
    """A time a reader can grasp, e.g. `48 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{number(round(seconds, 1 if seconds < 10 else 0))} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
