"""python -m benchmarks [--json PATH] [--record]: measures, prints a table, keeps the figures if asked to."""

import argparse
import json
from pathlib import Path

import torch

from benchmarks import (
    benign_memorization,
    clip_guided_3dqa,
    concept_guidance,
    linear_mode_connectivity,
    next_token_pitfalls,
    random_teachers,
    single_basin,
    sweeps,
)
from benchmarks.timing import report, table

CHAPTERS = {
    "next_token_pitfalls": next_token_pitfalls.measure,
    "linear_mode_connectivity": linear_mode_connectivity.measure,
    "single_basin": single_basin.measure,
    "concept_guidance": concept_guidance.measure,
    "random_teachers": random_teachers.measure,
    "benign_memorization": benign_memorization.measure,
    "clip_guided_3dqa": clip_guided_3dqa.measure,
    "sweeps": sweeps.measure,
}
RECORDS = Path(__file__).parent.parent / "data" / "benchmarks"  # the book prints these


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write all figures to this file")
    parser.add_argument("--record", action="store_true", help="also store them for the book")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reports = {}
    for chapter, measure in CHAPTERS.items():
        measures = measure()
        reports[chapter] = report(measures)
        print(f"{chapter} ({reports[chapter]['cpu']['model']}, one thread)\n{table(measures)}")
    if arguments.json:
        write(arguments.json, reports)
    if arguments.record:
        RECORDS.mkdir(parents=True, exist_ok=True)
        for chapter, found in reports.items():
            write(RECORDS / f"{chapter}.json", found)


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
