"""Scans of real rooms and questions about them: ScanNet, ScanRefer and ScanQA, from a folder that you fetch yourself.

Their licences do not let anybody else hand them out. The folder is the `data/` of ScanQA's own repository, so whoever
has prepared that can point here (formats: ATR-DBI/ScanQA docs/dataset.md and daveredrum/ScanRefer data/scannet):

    scannet/scannet_data/SCENE_{aligned_vert,ins_label,aligned_bbox}.npy   made by their batch_load_scannet_data.py
    scannet/meta_data/scannetv2_SPLIT.txt                                  names of the scans
    scannet/scans/SCENE/SCENE.txt                                          optional: the type of the room
    ScanRefer_filtered_SPLIT.json                                          descriptions of single things
    qa/ScanQA_v1.0_SPLIT.json                                              questions
    top_imgs/SPLIT/SCENE.jpg                                               optional: pictures from above

Preparing keeps 50,000 points of a scan, drawn without a seed, so no two folders hold the same points.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import AliasChoices, BaseModel, Field, ValidationError

from ntf_utils.data.scenes import Caption, Question, Scene
from ntf_utils.refusal import Refusal, explain

Split = Literal["train", "val", "test_w_obj", "test_wo_obj"]

# Rows of the published files. ScanQA's validation file was counted; the other numbers are those that users report
# (zlccccc/3DVG-Transformer issue 2 for ScanRefer). Those of the test files are unknown to us and not checked.
QUESTIONS = {"train": 25_563, "val": 4_675}
DESCRIPTIONS = {"train": 36_665, "val": 9_508}

_FETCH = {
    "scannet": "sign ScanNet's terms of use (github.com/ScanNet/ScanNet), put its scans under scannet/scans and run "
    "ScanQA's data/scannet/batch_load_scannet_data.py",
    "qa": "fetch the questions by the link in github.com/ATR-DBI/ScanQA, docs/dataset.md, into qa/",
    "ScanRefer": "ask for the descriptions by the form in github.com/daveredrum/ScanRefer and put them beside qa/",
}

# names of the classes that the labels of ScanNet count in, from 1: the 40 of NYU Depth v2
NYU40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop",
)  # fmt: skip

# How ScanQA's score.py sorts questions, the first phrase that occurs (with this case) deciding.
_KINDS = {
    "Where": "place", "How many": "number", "What color": "colour", "What is the color": "colour",
    "What shape": "object nature", "What type": "object nature", "What kind": "object nature", "What is": "object",
}  # fmt: skip

_Text = Annotated[str, Field(min_length=1)]


class _Row(BaseModel):
    scene_id: _Text


class _Asked(_Row):
    """A row of ScanQA. Its page says `object_id`, its files say `object_ids`; test files have neither, nor answers."""

    question_id: _Text
    question: _Text
    object_ids: list[int] = Field(validation_alias=AliasChoices("object_ids", "object_id"))
    answers: list[_Text] = Field(min_length=1)


class _AskedInTest(_Asked):
    object_ids: list[int] = Field((), validation_alias=AliasChoices("object_ids", "object_id"))
    answers: list[_Text] = ()


class _Described(_Row):
    """A row of ScanRefer, whose numbers are strings in the published files."""

    object_id: int
    ann_id: int
    description: _Text


_AnyRow = TypeVar("_AnyRow", bound=_Row)


def question_kind(text: str) -> str:
    """What a question of ScanQA is about: place, number, colour, object nature, object or other."""
    return next((kind for phrase, kind in _KINDS.items() if phrase in text), "other")


class ScanNetFolder:
    """The three data sets in a folder of ScanQA's layout.

    Args:
        root: the folder.
        counted: whether the number of rows must be that of the published files.

    Raises:
        Refusal: no such folder, in one sentence that says what to fetch and where.
    """

    def __init__(self, root: str | Path, counted: bool = True) -> None:
        self.root = Path(root).expanduser()
        self.counted = counted
        if not self.root.is_dir():
            raise Refusal(
                f"there is no folder {self.root}: ScanNet, ScanRefer and ScanQA are not ours to hand out; "
                + "; ".join(_FETCH.values())
            )
        self._boxes: dict[str, tuple[np.ndarray, np.ndarray, tuple[str, ...]]] = {}
        self._descriptions: dict[str, dict[str, list[_Described]]] = {}

    def names(self, split: Literal["train", "val"]) -> list[str]:
        """The scans of a split that ScanRefer describes, sorted; for the paper's pre-training."""
        return sorted(self._described(split))

    def scene(self, name: str, split: Literal["train", "val"] | None = None) -> Scene:
        """A scan with all its points.

        Args:
            name: e.g. `scene0000_00`.
            split: with it come ScanRefer's descriptions and, where there is one, the picture from above ("top").

        Raises:
            Refusal: a file is missing or of another shape; a scan without points.
        """
        vertices = self._array(name, "aligned_vert", columns=9)
        labels = self._array(name, "ins_label")
        if not len(vertices):
            raise Refusal(f"{self._place(name, 'aligned_vert')} holds no points: prepare the scan {name} again")
        if len(labels) != len(vertices):
            raise Refusal(
                f"{name} has {len(vertices):,} points but {len(labels):,} instance labels: prepare the scan again"
            )
        boxes, ids, classes = self._things(name)
        # the labels count things from 1, the boxes from 0; things of classes that nobody asks about have no box
        row_of = np.full(max(int(labels.max()), int(ids.max(initial=0)) + 1) + 1, -1)
        row_of[ids + 1] = np.arange(len(ids))
        return Scene(
            name=name,
            points=vertices[:, :3].astype(np.float32),
            colours=(vertices[:, 3:6] / 255).astype(np.float32),
            instance=row_of[labels.astype(np.int64)],
            boxes=boxes,
            classes=classes,
            kind=self._kind(name),
            views=self._views(name, split),
            captions=self._captions(name, split),
        )

    def scenes(self, split: Literal["train", "val"]) -> Iterator[Scene]:
        """The described scans of a split, one after the other: all at once they take gigabytes."""
        return (self.scene(name, split) for name in self.names(split))

    def questions(self, split: Split, objects: bool = True) -> list[Question]:
        """ScanQA's questions, in the order of the file. Test files hold no answers and no objects.

        Args:
            objects: whether to look up the things asked about, as rows in the scene's boxes; this needs the scans.
                A thing whose class has no boxes is left out.

        Raises:
            Refusal: the file is missing, is no JSON, or has another number of rows; a row lacks a field.
        """
        kind = _AskedInTest if split.startswith("test") else _Asked
        rows = self._rows(self.root / "qa" / f"ScanQA_v1.0_{split}.json", kind, "qa", QUESTIONS.get(split))
        return [
            Question(
                scene=row.scene_id,
                text=row.question,
                answers=tuple(row.answers),
                objects=self._rows_of(row.scene_id, row.object_ids) if objects else (),
                template=question_kind(row.question),
            )
            for row in rows
        ]

    def fingerprint(self, *splits: Split) -> str:
        """What the data are, for the key of a run: the bytes of the questions and descriptions, the scans' sizes."""
        digest = sha256()
        files = [self.root / "qa" / f"ScanQA_v1.0_{split}.json" for split in splits]
        files += [self.root / f"ScanRefer_filtered_{split}.json" for split in splits]
        for file in files:
            digest.update(file.read_bytes() if file.exists() else b"")
        for file in sorted((self.root / "scannet" / "scannet_data").glob("*.npy")):
            digest.update(f"{file.name} {file.stat().st_size};".encode())
        return f"scannet {digest.hexdigest()[:16]}"

    # things and descriptions

    def _things(self, name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """[k, 6] boxes, [k] object numbers of ScanNet, and k names of classes."""
        if name not in self._boxes:
            table = self._array(name, "aligned_bbox", columns=8)
            classes = table[:, 6].astype(np.int64)
            if not np.isin(classes, range(1, len(NYU40) + 1)).all():
                raise Refusal(
                    f"{self._place(name, 'aligned_bbox')}: the seventh column is a class of 1 to {len(NYU40)} "
                    f"(got {classes.min()} to {classes.max()})"
                )
            names = tuple(NYU40[number - 1] for number in classes)
            self._boxes[name] = table[:, :6].astype(np.float32), table[:, 7].astype(np.int64), names
        return self._boxes[name]

    def _rows_of(self, name: str, objects: list[int]) -> tuple[int, ...]:
        if not objects:
            return ()
        row_of = {number: row for row, number in enumerate(self._things(name)[1].tolist())}
        return tuple(row_of[number] for number in objects if number in row_of)

    def _captions(self, name: str, split: str | None) -> tuple[Caption, ...]:
        if split is None:
            return ()
        rows = self._described(split).get(name, [])
        found = [(row.description, self._rows_of(name, [row.object_id])) for row in rows]
        return tuple(Caption(text, place[0]) for text, place in found if place)

    def _described(self, split: str) -> dict[str, list[_Described]]:
        """ScanRefer's rows by scan."""
        if split not in self._descriptions:
            file = self.root / f"ScanRefer_filtered_{split}.json"
            found: dict[str, list[_Described]] = {}
            for row in self._rows(file, _Described, "ScanRefer", DESCRIPTIONS.get(split)):
                found.setdefault(row.scene_id, []).append(row)
            self._descriptions[split] = found
        return self._descriptions[split]

    # files

    def _kind(self, name: str) -> str | None:
        """The room type of ScanNet, in lower case, where the scan's own text file is there."""
        file = self.root / "scannet" / "scans" / name / f"{name}.txt"
        if not file.exists():
            return None
        lines = (line.partition(" = ") for line in file.read_text(encoding="utf-8").splitlines())
        return next((value.strip().lower() for key, _, value in lines if key.strip() == "sceneType"), None)

    def _views(self, name: str, split: str | None) -> dict[str, np.ndarray]:
        file = self.root / "top_imgs" / str(split) / f"{name}.jpg"
        if split is None or not file.exists():
            return {}
        try:
            with Image.open(file) as picture:
                return {"top": np.array(picture.convert("RGB"))}
        except (OSError, UnidentifiedImageError) as error:
            raise Refusal(f"{file} is no picture: render it again") from error

    def _place(self, name: str, part: str) -> Path:
        return self.root / "scannet" / "scannet_data" / f"{name}_{part}.npy"

    def _array(self, name: str, part: str, columns: int | None = None) -> np.ndarray:
        """A prepared array: [n, columns] numbers, or [n]."""
        file = self._place(name, part)
        if not file.exists():
            raise Refusal(f"there is no {file}: {_FETCH['scannet']}")
        try:
            found = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Refusal(f"{file} is no array of numbers: prepare the scan {name} again") from error
        wanted = "[n]" if columns is None else f"[n, {columns}]"
        if found.ndim != (1 if columns is None else 2) or (columns and found.shape[1] != columns):
            raise Refusal(f"{file} must be {wanted} (got {list(found.shape)})")
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise Refusal(f"{file} holds NaN or infinity: prepare the scan {name} again")
        return found

    def _rows(self, file: Path, kind: type[_AnyRow], source: str, count: int | None) -> list[_AnyRow]:
        """The rows of a JSON file, each checked; a fault is told with file, row and field."""
        if not file.exists():
            raise Refusal(f"there is no {file}: {_FETCH[source]}")
        try:
            found: Any = json.loads(file.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise Refusal(f"{file} is no JSON ({error}): fetch it again") from error
        if not isinstance(found, list):
            raise Refusal(f"{file} must be a list of rows (got {type(found).__name__})")
        rows = []
        for index, row in enumerate(found):
            try:
                rows.append(kind.model_validate(row))
            except ValidationError as error:
                raise Refusal(f"{file}, row {index}: {explain(error)}") from error
        if self.counted and count is not None and len(rows) != count:
            raise Refusal(f"{file} has {len(rows):,} rows, the published one {count:,}: fetch it again")
        return rows
