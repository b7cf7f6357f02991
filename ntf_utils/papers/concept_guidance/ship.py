"""Writes the small model that the book ships for the live explorer: `python -m ntf_utils.papers.concept_guidance.ship`.

A normal model folder of transformers (safetensors, tokenizer), with the guides beside it. The model is that of a
recorded run of `write_explorer`, so that page and live view show the same.
"""

import json
import sys
from pathlib import Path

from ntf_utils.data.persona import save_tokenizer
from ntf_utils.papers.concept_guidance.explorer_run import ExplorerConfig, Shown, write_explorer
from ntf_utils.papers.concept_guidance.live import SHIPPED
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store


def ship(config: ExplorerConfig, folder: Path = SHIPPED) -> None:
    """Write the model, its tokenizer, and the directions and units of all cells of a config into `folder`."""
    shown = Shown(config)
    shown.guides.network.to("cpu").save_pretrained(folder)
    save_tokenizer(folder)
    guides = folder / "guides"
    guides.mkdir(parents=True, exist_ok=True)
    units = {}
    for concept, probe, site, _ in config.cells:
        made, unit = shown.made(concept, probe, site)
        made.directions.save(guides / f"{concept}_{probe}_{site}.safetensors")
        units[site] = unit.tolist()
    about = {"config.json": config.as_dict(), "units.json": units}
    for name, content in about.items():
        (guides / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        ship(Store().newest_config(write_explorer))
    except Refusal as refusal:
        sys.exit(str(refusal))
