"""The training loop for token models: AdamW, warm-up, cosine decay, clipping, and looks at the model on the way."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ntf_utils.training.checkpoint import Checkpoints, Part

IGNORE = -1  # a target that carries no loss


@dataclass(frozen=True)
class Lesson:
    """What a model reads and what it should say.

    Attributes:
        inputs: [batch, time] tokens.
        targets: [batch, time - from_position] the right next token at each position from there on, or IGNORE.
        from_position: first position that is asked for a prediction.
    """

    inputs: Tensor
    targets: Tensor
    from_position: int


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: updates; learning_rate: its peak, reached after `warmup` steps, then a cosine down to a tenth.
        weight_decay, beta2: AdamW's. clip: largest norm of the whole gradient.
        precision: "bf16" runs the forward pass under autocast; weights, loss and update stay in fp32.
        compiler: backend for torch.compile; None runs eagerly.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.0
    beta2: float = 0.98
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compiler: str | None = None

    def learning_rate_at(self, step: int) -> float:
        """Of update `step`, counted from 1."""
        decay = 0.55 + 0.45 * math.cos(math.pi * step / self.steps)
        return self.learning_rate * min(1.0, step / max(1, self.warmup)) * decay


def loss_of(model: nn.Module, lesson: Lesson, precision: str = "fp32") -> Tensor:
    """Mean cross-entropy in nats over the targets that count, computed in fp32."""
    with torch.autocast(lesson.inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(lesson.inputs, lesson.from_position)
    return F.cross_entropy(logits.flatten(0, 1).float(), lesson.targets.flatten(), ignore_index=IGNORE)


def train(
    model: nn.Module,
    next_lesson: Callable[[], Lesson],
    recipe: Recipe,
    look: Callable[[int, float], bool],
    looks: int,
    kept: Mapping[str, Part] | None = None,
) -> int:
    """Trains in place and returns the number of updates made. A run that was cut short goes on where it was.

    Args:
        model: on its device, in training mode.
        next_lesson: a fresh batch on the model's device; its random numbers are its own, so that looking at the
            model can never change the data.
        look: called with the updates made and the last batch's loss, before the first update (loss NaN) and then
            `looks` times, evenly spread; it sees the model in eval mode, and ends the training by returning True.
        kept: what else a checkpoint must hold: the generators behind `next_lesson`, and what `look` notes down.
    """
    forward = torch.compile(model, backend=recipe.compiler) if recipe.compiler else model
    optimiser = torch.optim.AdamW(
        model.parameters(), betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True
    )
    when = {round(recipe.steps * (i + 1) / looks) for i in range(looks)}
    checkpoints = Checkpoints({"model": model, "optimiser": optimiser, **(kept or {})})
    done = checkpoints.resume()
    if checkpoints.ended or (not done and _look(model, look, 0, math.nan)):
        return done
    for step in range(done + 1, recipe.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        loss = loss_of(forward, next_lesson(), recipe.precision)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        if step in when and _look(model, look, step, loss.item()):
            return checkpoints.end(step)
        checkpoints.after(step)
    return checkpoints.end(recipe.steps)


@torch.no_grad()
def _look(model: nn.Module, look: Callable[[int, float], bool], step: int, loss: float) -> bool:
    model.eval()
    stop = look(step, loss)
    model.train()
    return stop
