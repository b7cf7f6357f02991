"""Runs: experiments as pure functions of configs, recorded once, swept into tables. No torch here."""

from ntf_utils.refusal import Refusal
from ntf_utils.runs.atomic import write_atomically
from ntf_utils.runs.config import GENERATED, RESERVED, Config, check_parameters
from ntf_utils.runs.experiment import Experiment, Outcome, experiment, registry
from ntf_utils.runs.record import Commit, Provenance, Record, key_of
from ntf_utils.runs.slurm import Slurm
from ntf_utils.runs.store import Store
from ntf_utils.runs.sweep import RunFailed, curves, runs_behind, sweep
from ntf_utils.runs.timebox import OutOfTime
from ntf_utils.runs.worker import make_record

__all__ = [
    "GENERATED", "RESERVED", "Commit", "Config", "Experiment", "OutOfTime", "Outcome", "Provenance", "Record",
    "Refusal", "RunFailed", "Slurm", "Store", "check_parameters", "curves", "experiment", "key_of", "make_record",
    "registry", "runs_behind", "sweep", "write_atomically",
]  # fmt: skip
