"""The live side of the room explorer: the networks that are shipped with the book answer about any room."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ntf_utils import ROOT
from ntf_utils.data.proposals import proposals
from ntf_utils.data.room_language import WORDS, tokenise, words_of
from ntf_utils.data.rooms import Room, room_scene
from ntf_utils.models.dual_encoder import DualEncoder, RoomTeacher
from ntf_utils.models.scene_encoder import SceneQA, SceneShape
from ntf_utils.papers.clip_guided_3dqa.explorer_run import answered
from ntf_utils.refusal import Refusal

SHIPPED = ROOT / "data" / "models" / "rooms"


class LiveRooms:
    """Answers questions about any generated room with the networks of a few arms.

    Implements what `RoomExplorer(live=...)` asks for.

    Args:
        folder: what `python -m ntf_utils.papers.clip_guided_3dqa.ship` writes: `config.json`, the text tower in
            `words.safetensors`, and a network an arm.
    """

    def __init__(self, folder: Path = SHIPPED):
        self.folder = folder
        self._seen: tuple[Room, tuple[Tensor, Tensor]] | None = None  # the last room's crops and boxes

    @classmethod
    def of(cls, folder: str | Path = SHIPPED) -> Self:
        return cls(Path(folder))

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the folder's `config.json` says: arms, answers, their loss, points, crop, and sizes of the networks."""
        try:
            return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise Refusal(
                f"{self.folder} holds no networks for rooms ({problem}): make them with "
                "python -m ntf_utils.papers.clip_guided_3dqa.ship"
            ) from None

    @property
    def arms(self) -> list[str]:
        return self.about["arms"]

    @cached_property
    def networks(self) -> list[SceneQA]:
        """One an arm, in evaluation mode."""
        made = []
        for arm in self.arms:
            shape = self.about["shapes"][arm]
            network = SceneQA(SceneShape(**shape | {"crop": tuple(shape["crop"])}))
            network.load_state_dict(self._weights(arm))
            made.append(network.eval())
        return made

    @cached_property
    def words(self) -> RoomTeacher:
        """The frozen text tower that reads a question; of the image tower nothing is shipped."""
        tower = DualEncoder(len(WORDS), **self.about["words"])
        missing = tower.load_state_dict(self._weights("words"), strict=False)
        if missing.unexpected_keys:
            raise Refusal(f"{self.folder} / words.safetensors is of another network: {missing.unexpected_keys[0]}")
        return RoomTeacher(tower, tokenise)

    def boxes(self, room: Room) -> np.ndarray:
        """[p, 6] the proposals that the networks see in a room."""
        return self._scene(room)[1].numpy()

    def ask(self, room: Room, text: str) -> list[dict[str, Any]]:
        """What each arm answers: answer, sure, looks (a proposal) and share.

        Raises:
            Refusal: a question without words, of more words than the networks read, or a room without things.
        """
        count = len(words_of(text))
        if not count:
            raise Refusal("a question needs words")
        longest = min(self.words.network.longest, *(network.shape.longest for network in self.networks))
        if count > longest:
            raise Refusal(f"a question of {count} words is too long: the networks read {longest}")
        crops, boxes = self._scene(room)
        if not len(boxes):
            raise Refusal(f"nothing was found in {room.name}")
        scenes = crops[None], boxes[None], torch.ones(1, len(boxes), dtype=torch.bool)
        found = []
        for network in self.networks:
            (one,) = answered(network, scenes, self.words.encode_words([text]), self.about["answer_loss"])
            found.append({"answer": self.about["answers"][one.pop("number")], **one})
        return found

    def _scene(self, room: Room) -> tuple[Tensor, Tensor]:
        if self._seen is None or self._seen[0] != room:
            scene = room_scene(room, self.about["points"])
            crops, boxes = proposals(scene, self.about["crop"])
            self._seen = room, (torch.from_numpy(crops), torch.from_numpy(boxes))
        return self._seen[1]

    def _weights(self, name: str) -> dict[str, Tensor]:
        path = self.folder / f"{name}.safetensors"
        try:
            return {key: value.float() for key, value in load_file(path).items()}
        except (OSError, SafetensorError) as problem:
            raise Refusal(f"cannot read {path}: {problem}") from None
