"""Toy experiments for the tests of runs and commands; a module, so that workers can import it."""

import os
import time
from pathlib import Path

from pydantic import Field

from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, experiment


class SquareConfig(Config):
    seed: int = Field(0, ge=0)
    power: float = Field(2.0, gt=0)
    strengths: tuple[float, ...] = (0.0, 1.0)
    pause: float = 0.0  # seconds
    trace: str = ""  # a file that gets a line for each run that really starts
    devices: str = ""  # a file that gets the CUDA_VISIBLE_DEVICES of each run that really starts
    fate: str = "well"  # or "raise", "refuse", "nan", "die"


@experiment(version=1)
def square(config: SquareConfig) -> Outcome:
    """The seed to a power, slowly if asked."""
    if config.trace:
        with Path(config.trace).open("a") as file:
            file.write(f"{config.seed} {os.getpid()}\n")
    if config.devices:
        with Path(config.devices).open("a") as file:
            file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    time.sleep(config.pause)
    print("an experiment may print")
    if config.fate == "raise":
        raise ZeroDivisionError("no luck")
    if config.fate == "refuse":
        raise Refusal("no data here")
    if config.fate == "die":
        os._exit(9)
    value = float("nan") if config.fate == "nan" else (config.seed + 1 / 3) ** config.power
    curve = {"step": [0, 1, 2], "value": [0.0, value / 2, value]}
    return Outcome(rows=[{"value": value, "member": member} for member in (0, 1)], curves={"growth": curve})
