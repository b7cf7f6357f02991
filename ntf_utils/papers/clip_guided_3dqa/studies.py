"""What each notebook of the chapter may be asked for, and the runs that follow from it.

A parameters class lists the names of a notebook's `parameters` cell, without defaults: the cell is the one home of the
laptop values, and `profiles/*.yaml` override them.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ntf_utils.papers.clip_guided_3dqa.answering import AnswerConfig
from ntf_utils.papers.clip_guided_3dqa.defects import DefectConfig
from ntf_utils.papers.clip_guided_3dqa.detection import DetectConfig
from ntf_utils.papers.clip_guided_3dqa.explorer_run import RoomExplorerConfig
from ntf_utils.papers.clip_guided_3dqa.pretraining import Arm
from ntf_utils.papers.clip_guided_3dqa.scans import ScansConfig
from ntf_utils.papers.clip_guided_3dqa.teacher import TeacherConfig
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
MAIN = ("blind", "S", "D", "T", "I", "TI", "Sh", "R", "TIx")  # arms of the first page, in the order of its tables


class RoomParameters(Config):
    """What the notebooks share: rooms, teacher, networks and recipes of the main arms.

    `seeds` are counted from `first_seed`; the names are those of `AnswerConfig`, and with "teacher_" before them
    those of `TeacherConfig`.
    """

    profile: Literal["smoke", "laptop", "gpu", "paper"]
    seeds: Count
    first_seed: Size
    pretrain_rooms: Count
    qa_rooms: Count
    val_rooms: Count
    per_template: Count
    val_per_template: Count
    points: Count
    picture: Count
    teacher_folder: str
    teacher_seed: Size
    teacher_rooms: Count
    teacher_unseen: Count
    teacher_steps: Count
    teacher_batch: Count
    teacher_rate: Rate
    dimension: Count
    teacher_width: Count
    pretrain_steps: Count
    pretrain_batch: Count
    pretrain_rate: Rate
    alignment: Annotated[float, Field(ge=0)]
    width: Count
    heads: Count
    feedforward: Count
    crop_width: Count
    answer_steps: Count
    answer_batch: Count
    each: Count
    answer_rate: Rate
    detection: Annotated[float, Field(ge=0)]
    fusion_layers: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.runs()  # a config that cannot be is refused here, before any training
        return self

    def runs(self) -> list[Config]:
        """Every run of the notebook."""
        return [self.teacher(), *self.main()]

    @property
    def counted(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def teacher(self) -> TeacherConfig:
        """The one teacher of all arms and seeds."""
        return TeacherConfig(
            folder=self.teacher_folder, seed=self.teacher_seed, rooms=self.teacher_rooms, unseen=self.teacher_unseen,
            steps=self.teacher_steps, batch=self.teacher_batch, learning_rate=self.teacher_rate,
            picture=self.picture, dimension=self.dimension, width=self.teacher_width,
        )  # fmt: skip

    def arm(self, name: Arm, seed: int, **changes: object) -> AnswerConfig:
        """One arm of one seed."""
        names = (
            "pretrain_rooms", "qa_rooms", "val_rooms", "per_template", "val_per_template", "points", "picture",
            "pretrain_steps", "pretrain_batch", "pretrain_rate", "alignment", "width", "heads", "feedforward",
            "crop_width", "answer_steps", "answer_batch", "each", "answer_rate", "detection", "fusion_layers",
        )  # fmt: skip
        asked = {each: getattr(self, each) for each in names} | changes
        return AnswerConfig(seed=seed, arm=name, teacher=self.teacher(), **asked)

    def arms(self, *names: Arm, **changes: object) -> list[AnswerConfig]:
        """Arms of every seed."""
        return [self.arm(name, seed, **changes) for seed in self.counted for name in names]

    def main(self) -> list[AnswerConfig]:
        """The arms of the first page."""
        return self.arms(*MAIN)


class AnswerParameters(RoomParameters):
    """Of 01_rooms_and_questions. `few_rooms` with questions are a second setting, for `few_seeds` of `few_arms`;
    `scans` and `clip` are folders, and `scan_arms` run on ScanNet, `scan_seeds` of each."""

    few_rooms: Annotated[int, Field(ge=2)]
    few_seeds: Count
    few_arms: tuple[Arm, ...]
    scans: str
    clip: str
    scan_arms: tuple[Literal["blind", "S", "D", "T", "I", "TI", "R"], ...]
    scan_seeds: Count
    scan_size: Literal["laptop", "paper"]

    @model_validator(mode="after")
    def _has_a_teacher(self) -> Self:
        if self.scans and not self.clip:
            raise Refusal("scans is given but not clip: on ScanNet the targets are CLIP's, name its folder in clip")
        return self

    def where_few(self) -> list[AnswerConfig]:
        """Some arms with fewer rooms to learn questions from."""
        return [
            self.arm(arm, seed, qa_rooms=self.few_rooms)
            for seed in self.counted[: self.few_seeds] for arm in self.few_arms
        ]  # fmt: skip

    def runs(self) -> list[Config]:
        return [*super().runs(), *self.where_few()]

    def on_scans(self) -> list[ScansConfig]:
        """The paper's own experiment, where its data are at hand."""
        if not self.scans:
            return []
        return [
            ScansConfig(root=self.scans, clip=self.clip, arm=arm, seed=seed, size=self.scan_size)
            for seed in self.counted[: self.scan_seeds] for arm in self.scan_arms
        ]  # fmt: skip


class SpaceParameters(RoomParameters):
    """Of 02_what_the_scene_vector_knows. `explored`, `shown` and `asked` are what the explorer shows of the first seed:
    arms, rooms of each report, and questions about each room."""

    explored: tuple[Arm, ...]
    shown: Count
    asked: Count

    def explorer(self) -> RoomExplorerConfig:
        """Networks of the first seed with their answers."""
        network = self.arm("TI", self.first_seed)
        return RoomExplorerConfig(network=network, arms=self.explored, shown=self.shown, asked=self.asked)

    def runs(self) -> list[Config]:
        return [*super().runs(), self.explorer()]


class DefectParameters(RoomParameters):
    """Of 03_why_the_released_code_could_not_show_it. Names as in `DefectConfig` and `DetectConfig`; the defects are
    measured on the first `defect_seeds`, detectors trained on the first `detect_seeds`."""

    defect_seeds: Count
    group: Annotated[int, Field(ge=2)]
    detect_seeds: Count
    cloud: Count
    detect_size: Literal["laptop", "paper"]
    proposals: Count
    detect_steps: Count
    detect_batch: Annotated[int, Field(ge=2)]
    detect_rate: Rate
    scene_rate: Rate

    def defects(self) -> list[DefectConfig]:
        """The released variant beside the mended one."""
        return [
            DefectConfig(**self.arm("TI", seed).as_dict(), group=self.group)
            for seed in self.counted[: self.defect_seeds]
        ]  # fmt: skip

    def detectors(self) -> list[DetectConfig]:
        """Detectors with the alignment above them, mended and as released."""
        shared = ("pretrain_rooms", "qa_rooms", "val_rooms", "points", "picture", "alignment", "cloud", "proposals",
                  "detect_steps", "detect_batch", "detect_rate", "scene_rate")  # fmt: skip
        asked = {name: getattr(self, name) for name in shared} | {"size": self.detect_size}
        return [
            DetectConfig(seed=seed, arm=arm, teacher=self.teacher(), **asked)
            for seed in self.counted[: self.detect_seeds] for arm in ("TI", "R")
        ]  # fmt: skip

    def runs(self) -> list[Config]:
        return [self.teacher(), *self.defects(), *self.detectors()]
