"""Durations as people write them: `90`, `90s`, `2m`, `1h30m`."""

import re

from ntf_utils.refusal import Refusal

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])")


def seconds_of(text: str) -> float:
    """A duration in seconds; a bare number is seconds.

    Raises:
        Refusal: not a duration above 0.
    """
    written = text.strip().replace(" ", "")
    plain = re.fullmatch(r"\d+(\.\d+)?", written)
    whole = f"{written}s" if plain else written
    seconds = sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(whole)) if _FORM.fullmatch(whole) else 0
    if seconds <= 0:
        raise Refusal(f"a duration is written 90s, 10m or 1h30m, not {text!r}")
    return seconds


def in_words(seconds: float) -> str:
    """To two units, e.g. `48 s`, `12 min`, `3 h 20 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
