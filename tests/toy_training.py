"""Three small trainings that keep checkpoints: stacked members, a Transformer, and a net for images.

`python -c "import toy_training; toy_training.main(...)"` makes one of them over and over in child processes, killed at
random steps, until it ends.
"""

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from ntf_utils.data.star_graphs import StarTask, draw_star_graphs
from ntf_utils.models.transformer import Transformer
from ntf_utils.runs import Commit, Config, Outcome, Store, experiment
from ntf_utils.runs.worker import record_run
from ntf_utils.training.checkpoint import Checkpoints
from ntf_utils.training.loop import Lesson, Recipe, train


class ToyTrainingConfig(Config):
    seed: int = 0
    steps: int = 60
    pause: float = 0.0  # seconds a step, so that a kill or a limit finds it at work
    trace: str = ""  # a file that gets a dot a step


def trace_step(config: ToyTrainingConfig) -> None:
    if config.trace:
        with Path(config.trace).open("a") as file:
            file.write(".")
    time.sleep(config.pause)


@experiment(resumable=True)
def train_stack(config: ToyTrainingConfig) -> Outcome:
    """Three members with stacked weights and momentum of their own, each on batches of noisy lines."""
    torch.manual_seed(config.seed)
    nets = [nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(3)]
    weights, _ = stack_module_state(nets)
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    momentum = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    data = torch.Generator().manual_seed(config.seed)
    notes = {"loss": []}

    def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(nets[0], weights, (x,)), y)

    checkpoints = Checkpoints({"weights": weights, "momentum": momentum, "data": data, "notes": notes})
    for step in range(checkpoints.resume() + 1, config.steps + 1):
        x = torch.randn(3, 16, 4, generator=data)
        y = x.sum(dim=2, keepdim=True) + torch.randn(3, 16, 1)  # noise from the global generator
        notes["loss"].append(vmap(loss_of)(weights, x, y).sum().item())
        for name, slope in vmap(grad(loss_of))(weights, x, y).items():
            momentum[name].mul_(0.9).add_(slope)
            weights[name].sub_(0.02 * momentum[name])
        trace_step(config)
        checkpoints.after(step)
    checkpoints.end(config.steps)
    return Outcome([{"weights": digest(weights)}], {"notes": notes})


class Shuffle:
    """Every image once an epoch, in an order drawn for each: the position in it is part of the state."""

    def __init__(self, count: int, seed: int) -> None:
        self.generator, self.count = torch.Generator().manual_seed(seed), count
        self.order, self.position = torch.randperm(count, generator=self.generator), 0

    def next(self, size: int) -> Tensor:
        if self.position + size > self.count:
            self.order, self.position = torch.randperm(self.count, generator=self.generator), 0
        self.position += size
        return self.order[self.position - size : self.position]

    def state_dict(self) -> dict:
        return {"order": self.order, "position": self.position, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.order, self.position = state["order"], state["position"]
        self.generator.set_state(state["generator"])


@experiment(resumable=True)
def train_image_net(config: ToyTrainingConfig) -> Outcome:
    """A convolutional net with batch norm and dropout on scikit-learn's digits, AdamW and a schedule."""
    torch.manual_seed(config.seed)
    digits = load_digits()
    images = torch.tensor(digits.images[:400, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target[:400])
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(288, 10)
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    shuffle = Shuffle(len(images), config.seed)
    parts = {"net": net, "optimiser": optimiser, "schedule": schedule, "shuffle": shuffle}
    checkpoints = Checkpoints(parts)
    for step in range(checkpoints.resume() + 1, config.steps + 1):
        rows = shuffle.next(32)
        loss = F.cross_entropy(net(images[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        trace_step(config)
        checkpoints.after(step)
    checkpoints.end(config.steps)
    right = net.eval()(images).argmax(dim=1) == labels
    return Outcome([{"weights": digest(net.state_dict()), "right": right.float().mean()}])


def digest(tensors: dict[str, Tensor]) -> str:
    """Every bit of the tensors, in a line: a record's six digits would hide a small difference."""
    joined = b"".join(tensors[name].detach().contiguous().numpy().tobytes() for name in sorted(tensors))
    return hashlib.sha256(joined).hexdigest()


@experiment(resumable=True)
def train_toy_transformer(config: ToyTrainingConfig) -> Outcome:
    """The book's own loop for token models, on star graphs."""
    torch.manual_seed(config.seed)
    task = StarTask(degree=2, path_length=3, labels=9)
    model = Transformer(task.vocabulary, task.context, 2, 16, 2)
    data, notes = torch.Generator().manual_seed(config.seed), {"loss": []}

    def next_lesson() -> Lesson:
        trace_step(config)
        graphs = draw_star_graphs(task, 16, data)
        inputs = torch.cat([graphs.prefix(), graphs.path()[:, :-1]], dim=1)
        return Lesson(inputs, graphs.path(), task.prefix_length - 1)

    def look(step: int, loss: float) -> bool:
        notes["loss"].append(loss if step else 0.0)
        return False

    recipe = Recipe(steps=config.steps, learning_rate=3e-3, warmup=10)
    train(model, next_lesson, recipe, look, config.steps, {"data": data, "notes": notes})
    return Outcome([{"weights": digest(model.state_dict())}], {"notes": notes})


SUBJECTS = {"stack": train_stack, "transformer": train_toy_transformer, "images": train_image_net}


def main(name: str, root: str, trace: str, kills: int, seed: int) -> None:
    """Make a run in a child process again and again, kill the first `kills` children at random steps."""
    chance = random.Random(seed)
    subject, config = SUBJECTS[name], ToyTrainingConfig(trace=trace)
    torch.set_num_threads(1)
    while True:
        at = steps_in(trace) + chance.randint(1, 12)
        child = os.fork()
        if child == 0:
            record_run(subject, config, Commit(), Store(root))
            os._exit(0)
        if kills:
            ended, status = 0, 0
            while steps_in(trace) < at and not ended:
                time.sleep(0.0005)
                ended, status = os.waitpid(child, os.WNOHANG)
            if ended:  # by itself, before it could be killed
                if status == 0:
                    return
                continue
            time.sleep(chance.random() * 0.005)
            os.kill(child, signal.SIGKILL)
            kills -= 1
        _, status = os.waitpid(child, 0)
        if status == 0:
            return


def steps_in(trace: str) -> int:
    return os.path.getsize(trace) if os.path.exists(trace) else 0

