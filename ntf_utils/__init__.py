"""Claim by Claim: ten deep-learning papers, each claim measured again and judged.

The package is a house of floors, and imports point down only: 0 `runs`, `claims`;
1 `models`, `data`; 2 `training`, `measures`; 3 `papers`; 4 `show`; on top the command line.
"""

from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parents[1]  # the repository: notebooks/ and data/ lie beside the package
