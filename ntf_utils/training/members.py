"""Many networks of one architecture trained in one job, each with its own start, data order, schedule and labels.

The parameters of all members are stacked, [members, ...], and one batched step (`torch.func`) moves them all; where
a plain loop over the members is faster, `stack_pays` says so and the members are trained one by one, by the same
rules. Which images a member sees at which step depends on its order seed and the step alone (`BatchOrder`): nothing
that looks at a member on the way can change its data, and a run that is cut short goes on from its checkpoint as if
it had not been. Two members that are compared are in the same call, hence in the same stack: batched and single
products round differently, and early in training that alone can drive two equal networks apart.
"""

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from ntf_utils.measures.barriers import cross_entropy
from ntf_utils.models.stages import call, is_staged
from ntf_utils.refusal import Refusal
from ntf_utils.training.checkpoint import Checkpoints

# read by cuBLAS at its start, and needed for equal products on equal input
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

State = dict[str, Tensor]  # name of a parameter or buffer -> [members, ...]
Augment = Callable[[Tensor, torch.Generator], Tensor]  # images [n, channels, height, width] -> the same shape
Rates = Tensor | float  # the learning rates [members] of a stack, or that of a member alone

Objective = Callable[["Lesson"], Tensor]  # -> [members] what each member descends, in nats

GATHERED_AHEAD = 2**28  # largest number of floats that is gathered once for all steps (1 GiB)


@dataclass(frozen=True)
class MemberRecipe:
    """How to train; a tuple gives each member its own value.

    Attributes:
        steps: updates, of the whole schedule also when a run starts later. batch: images a step.
        learning_rate: its peak. warmup: share of the steps in which it rises linearly from 0.
        schedule: after the warm-up: "constant", or down to 0 along half a "cosine" or a straight line.
        optimiser: "sgd" with `momentum`, or "adam" with `betas` (and torch's epsilon, 1e-8).
        weight_decay: added to the gradient.
    """

    steps: int
    batch: int
    learning_rate: float | tuple[float, ...]
    warmup: float | tuple[float, ...] = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    optimiser: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def learning_rates(self, members: int) -> Tensor:
        """[steps, members] learning rate of each update.

        Raises:
            Refusal: a tuple that is not as long as there are members.
        """
        peak, warmup = _per_member(self.learning_rate, members), _per_member(self.warmup, members)
        done = torch.arange(self.steps, dtype=torch.float64)[:, None] / self.steps
        left = ((1 - done) / (1 - warmup).clamp_min(1e-9)).clamp(0, 1)  # 1 at the end of the warm-up, 0 at the end
        falls = {"constant": torch.ones_like, "linear": torch.clone, "cosine": _half_cosine}
        rising = (done + 1 / self.steps) / warmup.clamp_min(1e-9)
        return (peak * torch.where(done < warmup, rising.clamp_max(1), falls[self.schedule](left))).float()


def _half_cosine(left: Tensor) -> Tensor:
    return 0.5 - 0.5 * torch.cos(math.pi * left)


def _per_member(value: float | Sequence[float], members: int) -> Tensor:
    given = torch.as_tensor(value, dtype=torch.float64)
    if given.dim() and len(given) != members:
        raise Refusal(f"{len(given)} values were given for {members} members: give one, or one for each")
    return given.expand(members)


@dataclass(frozen=True)
class Training:
    """Members at some step of their training, with all that is needed to go on.

    Attributes:
        state: parameters and buffers. moments: the optimiser's, one dict for each. step: updates made.
    """

    state: State
    moments: tuple[State, ...] = ()
    step: int = 0

    def pick(self, members: Sequence[int]) -> "Training":
        """Some of the members, in the order given; naming one twice forks it."""
        rows = torch.as_tensor(members)
        return replace(self, state=_rows(self.state, rows), moments=tuple(_rows(m, rows) for m in self.moments))


def _rows(state: State, rows: Tensor) -> State:
    return {name: value[rows.to(value.device)] for name, value in state.items()}


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        end: the members after the last step.
        losses: [steps made, members] training loss of each batch, in nats, before its update.
        diverged: [members] whether the loss was not finite at some step, or was at the end (mean over the last
            tenth of the steps) no better than that of a uniform guess: such a member has found no solution.
        saved: step -> the members as they were after that many updates, for `save_at`.
    """

    end: Training
    losses: Tensor
    diverged: Tensor
    saved: dict[int, Training] = field(default_factory=dict)

    @property
    def state(self) -> State:
        return self.end.state


@dataclass(frozen=True)
class Lesson:
    """What an objective sees of one update (`ntf_utils/training/objectives.py` has some).

    Attributes:
        step: updates made before it.
        members: places, in the job, of the members that are trained together; one only where they are looped.
        labels: [members, batch]. logits: [members, batch, classes] what the members say.
        state: the members' weights, [members, ...]; the loss is differentiated by the parameters among them.
        ask: weights of as many networks of the same architecture -> their logits [members, batch, classes] on each
            member's inputs. `teaching=True` asks in evaluation mode, e.g. teachers that are not trained.
    """

    step: int
    members: Sequence[int]
    labels: Tensor
    logits: Tensor
    state: State
    ask: Callable[..., Tensor]


def stack(models: Sequence[nn.Module]) -> State:
    """Parameters and persistent buffers of networks of one architecture, [members, ...], as copies.

    Raises:
        Refusal: no networks, or networks of unequal shape.
    """
    if not models:
        raise Refusal("there is no network to stack")
    states = [model.state_dict() for model in models]
    for place, state in enumerate(states):
        for name in states[0].keys() | state.keys():
            first, this = (tuple(s[name].shape) if name in s else "none" for s in (states[0], state))
            if first != this:
                raise Refusal(f"members must have equal shapes: {name} is {first} in member 0, {this} in {place}")
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


def unstack(state: State, member: int) -> State:
    """One member's state dict, as views, e.g. for `load_state_dict`."""
    return {name: value[member] for name, value in state.items()}


class BatchOrder:
    """Which images each member sees at each step: a new permutation every epoch, the incomplete last batch left out.

    A function of (seed, step) alone. Members with equal seeds see equal batches, on every device.

    Raises:
        Refusal: fewer images than a batch needs.
    """

    def __init__(self, images: int, batch: int, seeds: Sequence[int]):
        if not 1 <= batch <= images:
            raise Refusal(f"a batch of {batch} cannot be drawn from {images} images")
        self.images, self.batch, self.seeds = images, batch, list(seeds)
        self.steps_an_epoch = images // batch
        self._epoch, self._permutations = -1, torch.empty(0)

    def rows(self, step: int) -> Tensor:
        """[members, batch] rows of the data at an update, counted from 0, on the CPU."""
        epoch, place = divmod(step, self.steps_an_epoch)
        return self.epoch(epoch)[:, place]

    def epoch(self, epoch: int) -> Tensor:
        """[members, steps an epoch, batch]."""
        if epoch != self._epoch:
            drawn = {seed: self._permutation(seed, epoch) for seed in set(self.seeds)}
            self._epoch, self._permutations = epoch, torch.stack([drawn[seed] for seed in self.seeds])
        return self._permutations

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        order = torch.randperm(self.images, generator=generator(seed, epoch))
        return order[: self.steps_an_epoch * self.batch].view(self.steps_an_epoch, self.batch)


def generator(seed: int, moment: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one seed at one moment (an epoch, a step), so that none needs to be carried along."""
    return torch.Generator(device).manual_seed((seed * 2_654_435_761 + moment * 40_503 + 1) % 2**63)


def train_members(
    template: nn.Module,
    members: State | Training,
    images: Tensor,
    labels: Tensor,
    recipe: MemberRecipe,
    order_seeds: Sequence[int],
    *,
    save_at: Sequence[int] = (),
    augment: Augment | None = None,
    objective: Objective | None = None,
    stacked: bool | None = None,
    report: Callable[[], None] | None = None,
) -> Trained:
    """Trains all members and leaves what was given untouched.

    Args:
        template: a network of the members' architecture, on their device; its own weights are not used. It is in
            training mode during the steps and has its old mode afterwards.
        members: what `stack` gives, or a `Training` to go on from (a spawned run: `pick` its members, and give new
            order seeds).
        images: [n, channels, height, width] floats on that device.
        labels: [n], or [members, n] where each member has its own.
        order_seeds: one for each member; equal seeds give equal order.
        save_at: numbers of updates after which to keep the members.
        augment: applied to each member's batch with a generator of its order seed and the step.
        objective: what is descended instead of the cross-entropy to the labels. Losses and divergence are told by
            the cross-entropy all the same, so that they can be compared.
        stacked: None chooses by `stack_pays`.
        report: called before every update of the stack, or of each network; what it raises ends the training.

    Raises:
        Refusal: sizes that do not fit together, or a batch larger than the data.
    """
    begun = members if isinstance(members, Training) else Training(members)
    count = len(next(iter(begun.state.values())))
    if len(order_seeds) != count:
        raise Refusal(f"{count} members need as many order seeds (got {len(order_seeds)})")
    if labels.shape[-1] != len(images) or (labels.dim() == 2 and len(labels) != count):
        raise Refusal(f"{count} members on {len(images)} images cannot have labels of shape {tuple(labels.shape)}")
    if begun.step >= recipe.steps:
        raise Refusal(f"there is nothing left to train after {begun.step} of {recipe.steps} steps")
    if not all(begun.step <= step <= recipe.steps for step in save_at):
        raise Refusal(f"members between {begun.step} and {recipe.steps} steps cannot be saved after {max(save_at)}")
    job = _Job(
        template, images, labels.expand(count, -1), recipe, list(order_seeds), set(save_at), augment, report, objective
    )
    if stacked is None:
        stacked = stack_pays(template, count, images[:1], recipe.batch)
    with _mode(template, training=True), deterministic():
        return job.together(begun) if stacked else job.one_by_one(begun)


def stack_pays(template: nn.Module, members: int, image: Tensor, batch: int) -> bool:
    """Whether the members train faster as one stack than one by one.

    Stacking saves a fixed time for each member and step, about 0.15 ms on a CPU; but a stack of large networks, or
    of large activations, leaves the processor's cache, while one network alone stays in it. The bounds were measured
    on one thread with batches of 64 (`benchmarks/linear_mode_connectivity.py`). On a GPU, where we could not measure,
    all but convolutions are stacked: there the fixed time is what small networks spend, and stacked convolutions
    are grouped ones, which cuDNN is slow at.

    Args:
        image: [1, channels, height, width] any one, on the template's device.
    """
    if members == 1:
        return False
    if image.device.type != "cpu":
        return not any(isinstance(module, nn.Conv2d) for module in template.modules())
    parameters = sum(parameter.numel() for parameter in template.parameters())
    return parameters <= min(8_000 * members, 80_000) and batch * _widest(template, image) <= 2**16


@torch.no_grad()
def _widest(template: nn.Module, image: Tensor) -> int:
    """Activations of the largest layer for one image."""
    sizes = []

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        sizes.append(output.numel())

    hooks = [module.register_forward_hook(note) for module in template.modules()]
    try:
        with _mode(template, training=False):
            template(image)
            if is_staged(template):
                sizes.append(template.respond(template.see(image)).numel())
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


@dataclass(frozen=True)
class _Job:
    """What all members of a call share, and what tells them apart."""

    template: nn.Module
    images: Tensor
    labels: Tensor
    recipe: MemberRecipe
    order_seeds: list[int]
    save_at: set[int]
    augment: Augment | None
    report: Callable[[], None] | None = None
    objective: Objective | None = None

    def together(self, begun: Training) -> Trained:
        """All members as one stack."""
        training = _copied(begun, self.recipe, self.template)
        stages = self.stages

        def forward(inputs: Tensor) -> Tensor:
            return batched(training.state, inputs)

        batched = vmap(lambda own, inputs: call(self.template, own, inputs, *stages), randomness="different")
        parameters = [training.state[name].requires_grad_() for name in training.moments[0]]
        moments = [list(moment.values()) for moment in training.moments]
        return self._run(training, range(len(self.order_seeds)), forward, parameters, moments)

    def one_by_one(self, begun: Training) -> Trained:
        """One member after the other: each stays in the processor's cache until it is done."""
        return _joined([self._alone(begun, member) for member in range(len(self.order_seeds))])

    def _alone(self, begun: Training, member: int) -> Trained:
        training = _copied(begun.pick([member]), self.recipe, self.template)
        net = copy.deepcopy(self.template)
        for name, own in (*net.named_parameters(), *net.named_buffers()):
            if name in training.state:  # the network works on the state's own memory
                own.data = training.state[name][0]
        stages = [net if stage == "forward" else getattr(net, stage) for stage in self.stages]

        def forward(inputs: Tensor) -> Tensor:
            inputs = inputs[0]
            for stage in stages:
                inputs = stage(inputs)
            return inputs[None]

        own = dict(net.named_parameters())
        moments = [[moment[name][0] for name in own] for moment in training.moments]
        return self._run(training, [member], forward, list(own.values()), moments)

    def _run(
        self,
        training: Training,
        members: Sequence[int],
        forward: Callable[[Tensor], Tensor],
        parameters: list[Tensor],
        moments: list[list[Tensor]],
    ) -> Trained:
        """Trains members of the job, in place.

        Args:
            training: their state.
            members: their places in the lists of the job.
            forward: inputs [members, batch, ...] -> logits [members, batch, classes].
            parameters, moments: what an update changes: the tensors of `training`, or views into them.
        """
        recipe, first = self.recipe, training.step
        update = {"sgd": _sgd, "adam": _adam}[recipe.optimiser]
        rates = recipe.learning_rates(len(self.order_seeds))[:, list(members)]
        rates = rates.to(self.images.device) if len(members) > 1 else rates[:, 0].tolist()
        losses = torch.zeros(recipe.steps - first, len(members), device=self.images.device)
        saved = _Saved()
        checkpoints = Checkpoints({
            "state": training.state, "losses": losses, "saved": saved,
            **{f"moment {place}": moment for place, moment in enumerate(training.moments)},
        })  # fmt: skip
        done = first + checkpoints.resume()
        for step, (inputs, targets) in enumerate(self._batches(members, done), start=done):
            if step in self.save_at:
                saved[step] = _snapshot(training, step)
            if self.report is not None:
                self.report()
            logits = forward(inputs)
            loss = descended = cross_entropy(logits, targets).mean(dim=1)
            if self.objective is not None:
                weights = self._weights(training, parameters)
                descended = self.objective(Lesson(step, members, targets, logits, weights, partial(self._ask, inputs)))
            gradients = torch.autograd.grad(descended.sum(), parameters)
            with torch.no_grad():
                losses[step - first] = loss
                update(recipe, parameters, gradients, moments, rates[step], step + 1)
            checkpoints.after(step + 1 - first)
        checkpoints.end(recipe.steps - first)
        end = _snapshot(training, recipe.steps)
        if recipe.steps in self.save_at:
            saved[recipe.steps] = end
        losses = losses.cpu()
        return Trained(end, losses, _diverged(losses, self.classes), dict(saved))

    def _weights(self, training: Training, parameters: list[Tensor]) -> State:
        """The weights as a stack, differentiable where the update differentiates: of a looped member too."""
        names = list(training.moments[0])
        if parameters[0].dim() == training.state[names[0]].dim():
            return training.state
        return training.state | {name: value[None] for name, value in zip(names, parameters, strict=True)}

    def _ask(self, inputs: Tensor, state: State, teaching: bool = False) -> Tensor:
        """[members, batch, classes] what other networks of the architecture say; see `Lesson`. Their running
        statistics are left as they are."""
        kept = {name: value if name in self._parameter_names else value.clone() for name, value in state.items()}
        forward = vmap(lambda own, seen: call(self.template, own, seen, *self.stages), randomness="different")
        with _mode(self.template, training=not teaching):
            return forward(kept, inputs)

    @cached_property
    def _parameter_names(self) -> set[str]:
        return {name for name, _ in self.template.named_parameters()}

    @cached_property
    def classes(self) -> int:
        """How many the network tells apart."""
        with torch.no_grad(), _mode(self.template, training=False):
            return self.template(self.images[:1]).shape[-1]

    @cached_property
    def seen(self) -> Tensor | None:
        """What a staged network sees of all images, where that never changes and is not too large to hold."""
        if self.augment is not None or not is_staged(self.template):
            return None
        size = self.template.see(self.images[:1]).numel() * len(self.images)
        return self.template.see(self.images) if size <= GATHERED_AHEAD else None

    @property
    def stages(self) -> tuple[str, ...]:
        return ("forward",) if self.seen is None else ("respond", "conclude")

    def _batches(self, members: Sequence[int], first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs [members, batch, ...] and labels [members, batch] of each step."""
        seeds, device = [self.order_seeds[m] for m in members], self.images.device
        order = BatchOrder(len(self.images), self.recipe.batch, seeds)
        labels = self.labels[list(members)] if len(members) < len(self.labels) else self.labels
        data = self.images if self.seen is None else self.seen
        for step in range(first, self.recipe.steps):
            rows = order.rows(step).to(device, non_blocking=True)
            inputs = data[rows]
            if self.augment is not None:
                draws = [generator(seed, -1 - step, device) for seed in seeds]  # the order's moments are 0, 1, ...
                inputs = torch.stack([self.augment(own, draw) for own, draw in zip(inputs, draws, strict=True)])
            yield inputs, labels.gather(1, rows)


def _sgd(
    recipe: MemberRecipe,
    parameters: list[Tensor],
    gradients: Sequence[Tensor],
    moments: list[list[Tensor]],
    rates: Rates,
    update: int,
) -> None:
    """v <- momentum v + g; w <- w - rate v, as torch.optim.SGD."""
    if recipe.weight_decay:
        gradients = torch._foreach_add(gradients, parameters, alpha=recipe.weight_decay)
    (velocity,) = moments
    torch._foreach_mul_(velocity, recipe.momentum)
    torch._foreach_add_(velocity, gradients)
    _move(parameters, velocity, rates)


def _adam(
    recipe: MemberRecipe,
    parameters: list[Tensor],
    gradients: Sequence[Tensor],
    moments: list[list[Tensor]],
    rates: Rates,
    update: int,
) -> None:
    """As torch.optim.Adam; `update` counts from 1."""
    if recipe.weight_decay:
        gradients = torch._foreach_add(gradients, parameters, alpha=recipe.weight_decay)
    mean, square = moments
    first, second = recipe.betas
    torch._foreach_lerp_(mean, gradients, 1 - first)
    torch._foreach_mul_(square, second)
    torch._foreach_addcmul_(square, gradients, gradients, 1 - second)
    spread = torch._foreach_sqrt(square)
    torch._foreach_div_(spread, math.sqrt(1 - second**update))
    torch._foreach_add_(spread, 1e-8)
    _move(parameters, torch._foreach_div(mean, spread), rates / (1 - first**update))


def _move(parameters: list[Tensor], along: Sequence[Tensor], rates: Rates) -> None:
    if isinstance(rates, float):
        torch._foreach_add_(parameters, along, alpha=-rates)
        return
    for parameter, direction in zip(parameters, along, strict=True):
        parameter.addcmul_(direction, rates.view(-1, *[1] * (direction.dim() - 1)), value=-1)


def _copied(begun: Training, recipe: MemberRecipe, template: nn.Module) -> Training:
    """The same training in memory of its own, with the optimiser's moments at 0 if it has none yet."""
    copied = _snapshot(begun, begun.step)
    if copied.moments:
        return copied
    kept = 1 if recipe.optimiser == "sgd" else 2
    names = [name for name, _ in template.named_parameters()]
    moments = tuple({name: torch.zeros_like(copied.state[name]) for name in names} for _ in range(kept))
    return replace(copied, moments=moments)


def _snapshot(training: Training, step: int) -> Training:
    parts = (training.state, *training.moments)
    copied = [{name: value.detach().clone() for name, value in part.items()} for part in parts]
    return Training(copied[0], tuple(copied[1:]), step)


def _diverged(losses: Tensor, classes: int) -> Tensor:
    tail = losses[-max(1, len(losses) // 10) :].mean(dim=0)
    return ~losses.isfinite().all(dim=0) | ~(tail < math.log(classes))


def _joined(runs: list[Trained]) -> Trained:
    def join(trainings: list[Training]) -> Training:
        states = [[t.state for t in trainings], *zip(*(t.moments for t in trainings), strict=True)]
        joined = [{name: torch.cat([s[name] for s in part]) for name in part[0]} for part in states]
        return Training(joined[0], tuple(joined[1:]), trainings[0].step)

    return Trained(
        join([run.end for run in runs]),
        torch.cat([run.losses for run in runs], dim=1),
        torch.cat([run.diverged for run in runs]),
        {step: join([run.saved[step] for run in runs]) for step in runs[0].saved},
    )


class _Saved(dict[int, Training]):
    """Step -> members, in a form that a checkpoint can keep."""

    def state_dict(self) -> dict[int, list[State]]:
        return {step: [training.state, *training.moments] for step, training in self.items()}

    def load_state_dict(self, kept: dict[int, list[State]]) -> None:
        self.clear()
        self.update({step: Training(parts[0], tuple(parts[1:]), step) for step, parts in kept.items()})


@contextmanager
def _mode(template: nn.Module, training: bool) -> Iterator[None]:
    was = template.training
    template.train(training)
    try:
        yield
    finally:
        template.train(was)


@contextmanager
def deterministic() -> Iterator[None]:
    """Equal input gives equal output, in full fp32: without this, two runs of one order end apart on a GPU."""
    was = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    filled = torch.utils.deterministic.fill_uninitialized_memory
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0])
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = was[1]
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
