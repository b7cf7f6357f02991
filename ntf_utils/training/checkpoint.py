"""Checkpoints of a training loop: everything that decides its next step, so that a killed run ends as if it never was.

A loop names its parts once and asks after each step:

    checkpoints = Checkpoints({"model": model, "optimiser": optimiser, "data": generator})
    for step in range(checkpoints.resume() + 1, steps + 1):
        ...
        checkpoints.after(step)

One file holds the tensors (safetensors) and the rest (JSON in its header). It is replaced in one step, and the file
before it is kept beside it, for the case that the last one is damaged. Outside a sweep nothing is kept.
"""

import json
import logging
import os
import random
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ntf_utils.runs.atomic import replacing
from ntf_utils.runs.attempt import current_attempt
from ntf_utils.runs.timebox import OutOfTime, must_stop

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two checkpoints; shorter runs write none
SHARE = 0.02  # of the time that writing may take: slow disks and large models get fewer checkpoints
# NTF_CHECKPOINT_SECONDS takes the place of both.


@runtime_checkable
class Stateful(Protocol):
    """Modules, optimisers and whatever else can tell its state and take it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


Part = Stateful | torch.Generator | np.random.Generator | Tensor | Mapping[str, Tensor | list]


class Checkpoints:
    """The checkpoints of one training loop of the run under way.

    Args:
        parts: name -> what changes while training. Anything with `state_dict` and `load_state_dict`; a torch or
            numpy generator; a tensor; or a mapping of tensors (stacked members) or of lists (notes taken on the
            way), which are filled in place. States hold tensors, numbers, text, None, and lists, tuples and dicts
            of them. The global generators of Python, numpy and torch are always kept too.

    Attributes:
        ended: the loop had come to its end before; `resume` has then restored that end.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        attempt = current_attempt()
        self._attempt, self._path = attempt, attempt.next_file() if attempt else None
        self._parts = dict(parts) | {"global generators": _GlobalGenerators()}
        self._asked = os.environ.get("NTF_CHECKPOINT_SECONDS")
        self._interval = float(self._asked or INTERVAL)
        self._began = self._written = time.monotonic()
        self._before = 0.0  # seconds that earlier attempts spent
        self.ended = False

    def resume(self) -> int:
        """Restore the last whole checkpoint; its step, 0 where there is none."""
        for path in [self._path, _older(self._path)] if self._path else []:
            if not path.exists():
                continue
            try:
                about, states = _read(path)
            except (OSError, ValueError, SafetensorError) as reason:
                log.warning("checkpoint %s is damaged (%s): passed over", path, reason)
                continue
            if about["made_with"] != _made_with():
                log.warning("checkpoint %s was made with %s: the run begins again", path, about["made_with"])
                continue
            for name, part in self._parts.items():
                _restore(part, states[name])
            self.ended = about["ended"]
            self._before = self._attempt.seconds_before = about["seconds"]
            return about["step"]
        return 0

    def after(self, step: int) -> None:
        """Say that update `step` and all that belongs to it are done; writes where it is time.

        Raises:
            OutOfTime: the run has to stop; the checkpoint of this step is written.
        """
        if self._path is None:
            return
        stop = must_stop()
        if stop or time.monotonic() - self._written >= self._interval:
            self._write(step)
        if stop:
            raise OutOfTime(f"out of time after step {step}")

    def end(self, step: int) -> int:
        """Say that the loop is over, and return `step`. A long loop is then not made again when what follows it is
        cut short."""
        long = self._path is not None and (self._path.exists() or time.monotonic() - self._began >= self._interval)
        if long and not self.ended:
            self._write(step, ended=True)
        return step

    def _write(self, step: int, ended: bool = False) -> None:
        began = time.monotonic()
        about = {
            "step": step,
            "ended": ended,
            "seconds": self._before + began - self._began,
            "made_with": _made_with(),
        }
        try:
            _save(self._path, about, {name: _state(part) for name, part in self._parts.items()})
        except OSError as error:
            log.warning("cannot write checkpoint %s (%s): the run goes on", self._path, error.strerror)
        self._written = time.monotonic()
        if not self._asked:
            self._interval = max(INTERVAL, (self._written - began) / SHARE)


def match_layout(optimiser: torch.optim.Optimizer) -> None:
    """Lays the optimiser's moments out in memory as their parameters are; call it after `resume`.

    A checkpoint does not keep the layout, and the fused update goes through memory in its order: with a moment in
    another layout it would take each weight for another.
    """
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class _GlobalGenerators:
    """The generators that code without one of its own draws from."""

    def state_dict(self) -> dict[str, Any]:
        numpy = np.random.get_state(legacy=False)
        state = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            torch.cuda.set_rng_state_all(state["cuda"])


def _made_with() -> dict[str, str]:
    """What must be the same for a run to go on: the key of the run covers the rest."""
    return {"torch": torch.__version__, "device": "cuda" if torch.cuda.is_available() else "cpu"}


def _state(part: Part) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    if isinstance(part, Stateful):
        return part.state_dict()
    return dict(part) if isinstance(part, Mapping) else part


@torch.no_grad()
def _restore(part: Part, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, np.random.Generator):
        part.bit_generator.state = state
    elif isinstance(part, Stateful):
        part.load_state_dict(state)
    elif isinstance(part, Tensor):
        part.copy_(state)
    else:
        for name, inner in part.items():
            if isinstance(inner, list):
                inner[:] = state[name]
            else:
                inner.copy_(state[name])


# The file


def _older(path: Path) -> Path:
    return path.with_name(f"{path.stem}.older{path.suffix}")


def _save(path: Path, about: dict[str, Any], states: dict[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"about": about, "states": _packed(states, tensors)})
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"json": text, "crc32": _crc32(text, tensors)})
        if path.exists():
            path.replace(_older(path))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `_save` wrote; ValueError or SafetensorError where it is not that any more."""
    with safe_open(path, "pt") as file:
        told = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    if told.get("crc32") != _crc32(told.get("json", ""), tensors):
        raise ValueError("its checksum does not fit its content")
    content = json.loads(told["json"])
    return content["about"], _unpacked(content["states"], tensors)


def _crc32(text: str, tensors: dict[str, Tensor]) -> str:
    """Of the text and of the tensors in the order of their names: enough for a disk's errors."""
    sum_ = zlib.crc32(text.encode())
    for name in sorted(tensors):
        sum_ = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), sum_)
    return f"{sum_:08x}"


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON can hold it; tensors and arrays go to `tensors`, and a reference takes their place."""
    if isinstance(value, np.ndarray):
        return {"array": _packed(torch.from_numpy(value.copy()), tensors)}
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[_packed(key, tensors), _packed(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(inner, tensors) for inner in value]}
    if isinstance(value, list):
        return [_packed(inner, tensors) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "array":
        return _unpacked(inner, tensors).numpy()
    if kind == "tuple":
        return tuple(_unpacked(each, tensors) for each in inner)
    return {_unpacked(key, tensors): _unpacked(each, tensors) for key, each in inner}
