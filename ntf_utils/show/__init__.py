"""What the reader sees: figure style, claim boxes, provenance lines, scorecard, statistics and explorers.

Nothing here trains or measures; it shows tables, records and verdicts that the floors below made.
"""

from ntf_utils.show.barrier_explorer import BarrierExplorer
from ntf_utils.show.basin_explorer import BasinExplorer
from ntf_utils.show.boxes import ClaimBox, claim_box
from ntf_utils.show.chapters import PAPERS, chapters
from ntf_utils.show.depth_explorer import DepthExplorer
from ntf_utils.show.guidance_explorer import GuidanceExplorer
from ntf_utils.show.locality_explorer import LocalityExplorer
from ntf_utils.show.path_explorer import PathExplorer
from ntf_utils.show.provenance import provenance
from ntf_utils.show.room_explorer import RoomExplorer
from ntf_utils.show.scorecard import recorded_profiles, scorecard
from ntf_utils.show.statistics import (
    benchmark_figures,
    estimated_costs,
    package_versions,
    profile_costs,
    run_statistics,
    software_of_runs,
)
from ntf_utils.show.style import COLOURS, use_style

__all__ = [
    "COLOURS", "PAPERS", "BarrierExplorer", "BasinExplorer", "ClaimBox", "DepthExplorer", "GuidanceExplorer",
    "LocalityExplorer", "PathExplorer", "RoomExplorer", "benchmark_figures", "chapters", "claim_box", "estimated_costs",
    "package_versions", "profile_costs", "provenance", "recorded_profiles", "run_statistics", "scorecard",
    "software_of_runs", "use_style",
]  # fmt: skip
