"""Writes the networks that the book ships for the live explorer: `python -m ntf_utils.papers.clip_guided_3dqa.ship`.

The networks are those of a recorded run of `write_room_explorer`, so that page and live view show the same. Weights are
kept in half precision: the folder stays small, and answers are hardly touched.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ntf_utils.models.dual_encoder import RoomTeacher
from ntf_utils.papers.clip_guided_3dqa.answering import Job
from ntf_utils.papers.clip_guided_3dqa.explorer_run import RoomExplorerConfig, trained, write_room_explorer
from ntf_utils.papers.clip_guided_3dqa.live import SHIPPED
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store
from ntf_utils.runs.atomic import replacing, write_atomically
from ntf_utils.training.device import default_device

TEXT_TOWER = ("embed.", "positions", "layers.", "norm.")


def ship(config: RoomExplorerConfig, folder: Path = SHIPPED) -> None:
    """Write a network an arm, the text tower, and what is needed to use them, into `folder`.

    Raises:
        Refusal: the teacher is not the chapter's own, or the folder cannot be written.
    """
    shapes = {}
    for arm in config.arms:
        job = Job(config.of(arm), default_device())
        if not isinstance(job.teacher, RoomTeacher):
            raise Refusal("networks that read CLIP's words are not shipped: leave the teacher's folder empty")
        network = trained(job)
        shapes[arm] = asdict(network.shape)
        _save(network.state_dict(), folder / f"{arm}.safetensors")
    tower = job.teacher.network
    _save({name: value for name, value in tower.state_dict().items() if name.startswith(TEXT_TOWER)},
          folder / "words.safetensors")  # fmt: skip
    about = {
        "arms": list(config.arms), "answers": list(job.world.answers), "points": config.network.points,
        "crop": config.network.crop,
        "answer_loss": config.network.answer_loss,
        "words": {"longest": tower.longest, "dimension": tower.dimension, "width": config.network.teacher.width,
                  "text_width": tower.word_width, "size": tower.size},
        "shapes": shapes, "config": config.model_dump(mode="json"),
    }  # fmt: skip
    write_atomically(folder / "config.json", json.dumps(about, indent=1) + "\n")


def _save(state: dict[str, Tensor], path: Path) -> None:
    halves = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous() for name, value in state.items()
    }
    try:
        with replacing(path) as temporary:
            save_file(halves, temporary)
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    try:
        ship(Store().newest_config(write_room_explorer))
    except Refusal as refusal:
        sys.exit(str(refusal))
