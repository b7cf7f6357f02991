"""Labelled texts of concepts: TruthfulQA, OpenAssistant and ToxicCompletions, as von Rütte et al. (2024) use them.

By name from the Hugging Face hub through `datasets`, where that is installed, or from a local file: JSON lines or CSV,
in a folder or alone, with the columns of the hub's data set. No text of them is part of this book.

- humor, creativity, quality: English OpenAssistant replies to a first prompt, sorted by their mean human label; the
  lowest and the highest half of as many as asked for, so extremes only.
- truthfulness: TruthfulQA's best answer (1) and its first incorrect one (0).
- appropriateness and compliance: ToxicCompletions without jailbreaks, annotated by humans. Both concepts have the same
  label, comply XOR toxic; only their scores differ.
"""

import csv
import io
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntf_utils.refusal import Refusal, nearest

LABELS = ("humor", "creativity", "quality")  # of OpenAssistant
SOURCES = {
    **dict.fromkeys(LABELS, "OpenAssistant/oasst1"),
    "truthfulness": "truthfulqa/truthful_qa",
    "appropriateness": "dvruette/toxic-completions",
    "compliance": "dvruette/toxic-completions",
}
SPLITS = {"truthfulqa/truthful_qa": ("generation", "validation")}  # name -> configuration, split; else None, "train"
FEWEST = 8  # texts of either label


@dataclass(frozen=True)
class Example:
    """One labelled text. `toxic` and `compliant` are known for ToxicCompletions only."""

    prompt: str
    completion: str
    label: int
    toxic: bool | None = None
    compliant: bool | None = None


def concept_examples(
    concept: str, source: str | Path | None = None, count: int = 512, fewest: int = FEWEST, seed: int = 0
) -> list[Example]:
    """Labelled texts of a concept, shuffled.

    Args:
        concept: one of `SOURCES`.
        source: a local file (.jsonl, .json, .csv), a folder of such files, or a data set on the hub; None takes the
            paper's.
        count: texts, at most.
        fewest: texts that must be there of either label.
        seed: of the order, and of which prompts are taken.

    Raises:
        Refusal: an unknown concept; no such file; a file without the needed columns; `datasets` is missing; fewer
            than `fewest` texts of a label.
    """
    if concept not in SOURCES:
        raise Refusal(f"unknown concept {concept!r}: {nearest(concept, SOURCES)}")
    name = SOURCES[concept] if source is None else source
    rows = read_rows(name)
    if concept in LABELS:
        found = _open_assistant(rows, concept, count, name)
    elif concept == "truthfulness":
        found = _truthful_qa(rows, count, seed, name)
    else:
        found = _toxic_completions(rows, count, seed, name)
    for label in (0, 1):
        there = sum(example.label == label for example in found)
        if there < fewest:
            raise Refusal(f"{name} has {there} texts of {concept} labelled {label}, but {fewest} are needed")
    random.Random(seed).shuffle(found)
    return found


def split_by_prompt(
    examples: list[Example], held_out: float = 0.2, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Examples to fit on and examples to test on; no prompt is in both.

    Args:
        held_out: share of the prompts; a fifth in the authors' code.
    """
    prompts = sorted({example.prompt for example in examples})
    random.Random(seed).shuffle(prompts)
    kept_back = set(prompts[: round(held_out * len(prompts))])
    return (
        [example for example in examples if example.prompt not in kept_back],
        [example for example in examples if example.prompt in kept_back],
    )


def read_rows(source: str | Path) -> list[dict[str, Any]]:
    """The rows of a data set, by name or from files.

    Raises:
        Refusal: see `concept_examples`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".json", ".csv"))
        if not files:
            raise Refusal(f"the folder {path} holds no .jsonl, .json or .csv file")
        return [row for file in files for row in _file_rows(file)]
    if path.is_file():
        return _file_rows(path)
    if isinstance(source, Path) or str(source).startswith(("/", "./", "../", "~")) or path.suffix:
        raise Refusal(f"no file or folder of texts at {source}")
    return _hub_rows(str(source))


def _file_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if path.suffix == ".json":
            rows = json.loads(text)
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            raise Refusal(f"{path} must be a .jsonl, .json or .csv file")
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise Refusal(f"{path} is damaged: {problem}") from None
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise Refusal(f"{path} must hold a list of objects")
    return rows


def _hub_rows(name: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise Refusal(
            f"{name} comes through the package datasets, which is not installed: pip install datasets, or give a "
            "local .jsonl or .csv file"
        ) from None
    configuration, split = SPLITS.get(name, (None, "train"))
    try:
        return load_dataset(name, configuration, split=split).to_list()
    except Exception as problem:  # of many kinds, by network, name and format
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise Refusal(f"the data set {name} cannot be loaded: {first}") from None


def _open_assistant(rows: list[dict], concept: str, count: int, name: str | Path) -> list[Example]:
    _check_columns(rows, ("message_id", "parent_id", "lang", "text", "labels"), name)
    english = [row for row in rows if row["lang"] == "en"]
    roots = {row["message_id"]: row for row in english if not row["parent_id"]}
    rated = [
        (value, roots[row["parent_id"]]["text"], row["text"])
        for row in english
        if row["parent_id"] in roots and not row.get("deleted") and (value := _rating(row, concept)) is not None
    ]
    rated.sort(key=lambda reply: reply[0])
    count = min(count, len(rated))
    low = count // 2
    return [Example(prompt, text, 0) for _, prompt, text in rated[:low]] + [
        Example(prompt, text, 1) for _, prompt, text in rated[len(rated) - (count - low) :]
    ]


def _rating(row: dict, concept: str) -> float | None:
    """The mean human label of a reply; None where it has none."""
    labels = row["labels"] or {}
    names = list(labels.get("name", ()))
    return float(labels["value"][names.index(concept)]) if concept in names else None


def _truthful_qa(rows: list[dict], count: int, seed: int, name: str | Path) -> list[Example]:
    """The hub's columns, or those of the authors' CSV file, whose lists are parted by semicolons."""
    if rows and "Best Answer" in rows[0]:
        rows = [
            {"question": row["Question"], "best_answer": row["Best Answer"],
             "incorrect_answers": [part.strip() for part in row["Incorrect Answers"].split(";") if part.strip()]}
            for row in rows
        ]  # fmt: skip
    _check_columns(rows, ("question", "best_answer", "incorrect_answers"), name)
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    found = []
    for row in rows:
        if row["best_answer"] and row["incorrect_answers"]:
            found.append(Example(row["question"], row["best_answer"], 1))
            found.append(Example(row["question"], row["incorrect_answers"][0], 0))
    return found[: count - count % 2]


def _toxic_completions(rows: list[dict], count: int, seed: int, name: str | Path) -> list[Example]:
    """Prompts are drawn whole, with all their completions; a jailbreak or a label by machine is left out."""
    _check_columns(
        rows, ("prompt", "completion", "is_toxic", "is_compliant", "jailbreaking", "human_annotation"), name
    )
    by_prompt: dict[str, list[Example]] = {}
    for row in rows:
        if not _flag(row["jailbreaking"]) and _flag(row["human_annotation"]):
            toxic, compliant = _flag(row["is_toxic"]), _flag(row["is_compliant"])
            label = _flag(row["label"]) if "label" in row else toxic != compliant
            example = Example(row["prompt"], row["completion"], int(label), toxic, compliant)
            by_prompt.setdefault(row["prompt"], []).append(example)
    prompts = list(by_prompt.values())
    random.Random(seed).shuffle(prompts)
    return [example for examples in prompts for example in examples][:count]


def _flag(value: object) -> bool:
    """A truth value, also as the text of a CSV file."""
    return value.strip().lower() in ("1", "1.0", "true", "yes") if isinstance(value, str) else bool(value)


def _check_columns(rows: list[Mapping[str, Any]], needed: Iterable[str], name: str | Path) -> None:
    if not rows:
        raise Refusal(f"{name} has no row")
    lacking = [column for column in needed if column not in rows[0]]
    if lacking:
        raise Refusal(f"{name} has no column {', '.join(lacking)}: it is not in the format of the data set")
