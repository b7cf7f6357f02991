"""Three defects of the published code, measured: as released, and with each of them mended.

1. The scene layer attends across the batch. Its scene token sees copies of itself, so z_scene is one vector for all
   scenes, and the alignment has no gradient into what lies below it.
2. Pre-trained weights are looked for under names that no network of the code has: none is loaded.
3. While answering, objects attend to objects of the other scenes in the batch: an answer hangs on its neighbours.

Read in AlexDelitzas/3D-VQA at 774f5a9: models/pretrain_module.py, qa_module.py and model_utils.py. Whether the paper's
numbers were made with this state of the code is unknown to us.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ntf_utils.data.rooms import NOUNS, room_scene
from ntf_utils.measures.retrieval import spread
from ntf_utils.models.detector import DetectorShape, PointSceneEncoder
from ntf_utils.models.loading import TRUNK, Loaded, load_weights
from ntf_utils.models.scene_encoder import SceneEncoder, SceneLayer, SceneQA
from ntf_utils.papers.clip_guided_3dqa.answering import AnswerConfig
from ntf_utils.papers.clip_guided_3dqa.answering import Job as AnswerJob
from ntf_utils.papers.clip_guided_3dqa.detection import Clouds
from ntf_utils.papers.clip_guided_3dqa.pretraining import Aims, fresh_encoder, pretrain
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Outcome, experiment
from ntf_utils.training.device import default_device
from ntf_utils.training.members import generator

VARIANTS = {"fixed": "TI", "released": "R"}  # variant -> arm
END_TO_END = 8  # rooms whose points are read for the gradients end to end
CLOUD = 1024  # points of each
REGROUP = -4  # moment of a seed's generator


class DefectConfig(AnswerConfig):
    """Both variants of one seed; the attributes are those of the arm TI.

    Attributes:
        group: rooms of a batch while answering is tested; the published evaluation has 16.
    """

    group: int = Field(16, ge=2)

    @model_validator(mode="after")
    def _compares_both(self) -> Self:
        if self.arm != "TI":
            raise Refusal(f"the defects are measured on the arm TI, as released and mended (got {self.arm})")
        return self

    def variant(self, arm: str) -> AnswerConfig:
        """What the arm trains."""
        return AnswerConfig(**{name: getattr(self, name) for name in AnswerConfig.model_fields} | {"arm": arm})


@experiment(version=1, tolerance=2.0, resumable=True)
def measure_defects(config: DefectConfig) -> Outcome:
    """Measures the three defects, with the arms' own networks, rooms and teacher.

    Row, for each variant: gradient_*: norm of the gradient of the alignment alone at the proposals' encoder, at the
    start; end_to_end_*: the same at the point encoder of a detector with the scene layer above it; spread_*: mean
    distance of z_scene from its mean over unseen rooms, after pre-training; loaded_*: tensors that answering took over
    from pre-training, of `of`; trunk_*: tensors taken over from weights under DepthContrast's names, of `trunk_of`;
    changed_*: percentage of answers that change when the same rooms are put into other batches.
    gradient_ratio, spread_ratio: released over fixed. loaded: by the published filter.
    Curve "gradients": network, part, variant, norm.
    """
    row: dict[str, float] = {}
    lines: list[dict] = []
    for variant, arm in VARIANTS.items():
        job = AnswerJob(config.variant(arm), default_device())
        aims = Aims.of(job.config, job.world.pretrain, job.teacher, job.device)
        for name, norms in (("proposals given", given(job, aims)), ("end to end", end_to_end(job, aims))):
            about = {"network": name, "variant": variant}
            lines += [about | {"part": part, "norm": norm} for part, norm in norms.items()]
        encoder, network = fresh_encoder(job.config).to(job.device), job.fresh()
        pretrain(job.config, job.world, encoder, job.teacher)
        loaded = load_weights(network.encoder, encoder.state_dict(), released=variant == "released")
        job.train(network)
        trunk = depthcontrast(job, released=variant == "released")
        row |= {
            f"gradient_{variant}": norm_at(lines, "proposals given", variant, ("crops", "boxes")),
            f"end_to_end_{variant}": norm_at(lines, "end to end", variant, ("set abstraction", "propagation")),
            f"spread_{variant}": spread_of(job, encoder),
            f"loaded_{variant}": loaded.tensors, "of": loaded.of,
            f"trunk_{variant}": trunk.tensors, "trunk_of": trunk.of,
            f"changed_{variant}": changed(job, network, config.group),
        }  # fmt: skip
    for name in ("gradient", "end_to_end", "spread"):
        row[f"{name}_ratio"] = row[f"{name}_released"] / row[f"{name}_fixed"]
    row["loaded"] = row["loaded_released"]
    return Outcome([row], {"gradients": {name: [line[name] for line in lines] for name in lines[0]}})


def given(job: AnswerJob, aims: Aims) -> dict[str, float]:
    """Gradient of the alignment at each part of the arms' encoder at its start, from pre-training's first batch."""
    config = job.config
    encoder = fresh_encoder(config).to(job.device).train()
    rows = torch.arange(min(config.pretrain_batch, config.pretrain_rooms), device=job.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # of dropout
        encoded = encoder(*job.world.pretrain.proposals.to(job.device).at(rows).seen)
    below = {"crops": [encoder.proposals.points, encoder.proposals.merge], "boxes": [encoder.proposals.box]}
    return reached(aims.loss(encoded.scene, rows, 0), below | scene_parts(encoder.scene))


def end_to_end(job: AnswerJob, aims: Aims) -> dict[str, float]:
    """The same for a detector with the scene layer above its proposals."""
    config = job.config
    scenes = [room_scene(room, CLOUD) for room in job.world.pretrain.rooms[:END_TO_END]]
    clouds = Clouds.of(scenes, NOUNS).to(job.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PointSceneEncoder(DetectorShape(), config.shape(), clouds.mean_sizes(len(NOUNS)))
        network.to(job.device).train()
        encoded, _ = network(clouds.points, clouds.features)
    rows = torch.arange(len(clouds), device=job.device)
    found = network.detector
    below = {
        "set abstraction": [found.down], "propagation": [found.up], "votes": [found.vote], "proposals": [found.group],
    }  # fmt: skip
    return reached(aims.loss(encoded.scene, rows, 0), below | scene_parts(network.scene))


def scene_parts(layer: SceneLayer) -> dict[str, list[nn.Module | nn.Parameter]]:
    """The parts of a scene layer, from the proposals up."""
    inner = layer.layer
    return {
        "projection": [layer.project], "scene token": [layer.token], "attention": [inner.self_attn],
        "feed-forward": [inner.linear1, inner.linear2, inner.norm1, inner.norm2], "head": [layer.head],
    }  # fmt: skip


def reached(loss: Tensor, parts: Mapping[str, Sequence[nn.Module | nn.Parameter]]) -> dict[str, float]:
    """Norm of a loss's gradient at each part."""
    weights = {
        name: [w for one in some for w in ([one] if isinstance(one, nn.Parameter) else one.parameters())]
        for name, some in parts.items()
    }
    every = [weight for some in weights.values() for weight in some]
    slopes = iter(torch.autograd.grad(loss, every, allow_unused=True))
    return {
        name: sum(float(slope.square().sum()) for _ in some if (slope := next(slopes)) is not None) ** 0.5
        for name, some in weights.items()
    }


def norm_at(lines: Sequence[Mapping], network: str, variant: str, parts: Sequence[str]) -> float:
    """Norm of the gradient at some parts together."""
    wanted = [line["norm"] for line in lines
              if (line["network"], line["variant"]) == (network, variant) and line["part"] in parts]  # fmt: skip
    return sum(norm**2 for norm in wanted) ** 0.5


def depthcontrast(job: AnswerJob, released: bool) -> Loaded:
    """What a point encoder takes over from weights that carry DepthContrast's prefix before its own names."""
    network = PointSceneEncoder(DetectorShape(), job.config.shape(), torch.ones(len(NOUNS), 3)).detector.down
    saved = {TRUNK + name: value.clone() for name, value in network.state_dict().items()}
    return load_weights(network, saved, released=released)


@torch.no_grad()
def spread_of(job: AnswerJob, encoder: SceneEncoder) -> float:
    """Mean distance of z_scene from its mean over unseen rooms; in fp64, where equal vectors differ by less."""
    shown = job.seen(job.world.val["iid"])
    z = copy.deepcopy(encoder).double().eval()(shown.crops.double(), shown.boxes.double(), shown.present).scene
    return spread(z)


@torch.no_grad()
def changed(job: AnswerJob, network: SceneQA, group: int) -> float:
    """Percentage of answers about unseen rooms that differ between two ways to put the same rooms into batches."""
    network.eval()
    rooms, questions = job.world.val["iid"], job.questions["iid"]
    shown = job.seen(rooms)
    count = len(shown) // group * group
    said = []
    for turn in range(2):
        order = torch.randperm(count, generator=generator(job.config.seed, REGROUP - turn)).to(job.device)
        best = torch.full((len(questions),), -1, device=job.device)
        for rows in order.split(group):
            mine = torch.isin(questions.rooms, rows).nonzero()[:, 0]
            place = torch.full((len(shown),), -1, device=job.device)
            place[rows] = torch.arange(len(rows), device=job.device)
            encoded = network.encoder(*shown.at(rows).seen)
            heard = network.fusion(encoded.at(place[questions.rooms[mine]]), *questions.said(mine))
            best[mine] = heard.answers.argmax(dim=1)
        said.append(best)
    asked = said[0] >= 0
    return 100 * (said[0] != said[1])[asked].float().mean().item()
