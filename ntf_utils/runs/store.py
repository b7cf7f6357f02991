"""The store: a folder of records, one JSON file a run, safe with many writers and under kill -9."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ntf_utils import ROOT
from ntf_utils.refusal import Refusal
from ntf_utils.runs.atomic import write_atomically
from ntf_utils.runs.attempt import held
from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.record import Damaged, Record, key_of

log = logging.getLogger(__name__)

_STALE = 24 * 3600  # seconds after which nobody is at a file any more
_CLOCKS_DIFFER = 60  # seconds by which the clocks of a cluster's nodes may differ


class Store:
    """Records under `<root>/runs/<experiment>/<key>.json`, verdicts under `<root>/verdicts/`.

    What a run leaves while it is made, its lock and its checkpoints, lies under `<root>/cache/runs/`.

    Args:
        root: the folder; default the environment's NTF_STORE, else `data/` of the repository.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("NTF_STORE") or ROOT / "data").absolute()

    def get(self, experiment: Experiment, config: Config) -> Record | None:
        """The recorded run, or None. A damaged file is named in a warning and counts as missing."""
        return self._read(self._path(experiment.name, key_of(experiment, config)))

    def recorded(self, experiment: Experiment, config: Config) -> Record | None:
        """The recorded run unless NTF_FRESH_SINCE=<unix seconds> asks for it to be made again.

        A record from the future does not count as fresh: somebody has set the clock back since it was made.
        """
        record = self.get(experiment, config)
        since = int(float(os.environ.get("NTF_FRESH_SINCE") or 0))
        if record is None or not since:
            return record
        finished = record.provenance.finished.timestamp()
        return record if since <= finished <= max(time.time(), since) + _CLOCKS_DIFFER else None

    def put(self, record: Record, text: str | None = None) -> None:
        """Write a record in one step; a record of the same key is replaced.

        Args:
            text: the record as somebody else has written it, to be kept to the letter.

        Raises:
            Refusal: the folder cannot be written or the disk is full.
        """
        write_atomically(self._path(record.experiment, record.key), text or record.text())

    def records(self, experiment: str | None = None) -> Iterator[Record]:
        """All whole records, ordered by experiment and key; damaged ones are named in a warning."""
        for path in self._paths(experiment):
            record = self._read(path)
            if record is not None:
                yield record

    def newest_config(self, experiment: Experiment) -> Config:
        """The config of the experiment's run that was recorded last.

        Raises:
            Refusal: there is none.
        """
        newest = max(self.records(experiment.name), key=lambda record: record.provenance.finished, default=None)
        if newest is None:
            raise Refusal(f"no recorded run of {experiment.name}: run its notebook first")
        return experiment.config_type(**newest.config)

    def whole(self, experiment: str, key: str) -> Record | None:
        """The record of that key if its file is there and can be trusted."""
        return self._read(self._path(experiment, key))

    def remove(self, record: Record) -> None:
        """Delete a record, and its folder with the last one.

        Raises:
            Refusal: the file cannot be removed.
        """
        path = self._path(record.experiment, record.key)
        try:
            path.unlink(missing_ok=True)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as error:
            raise Refusal(f"cannot delete {path}: {error.strerror}") from None

    def left_over(self) -> list[Path]:
        """What killed processes have left: half-written files, and locks and checkpoints that nobody has touched for
        a day. None of it is trusted or in the way; a checkpoint only saves time when its run is made after all."""
        old = time.time() - _STALE
        folders = ((self.root / "runs").rglob("*.tmp"), (self.root / "cache" / "runs").rglob("*"))
        files = (path for found in folders for path in found if path.is_file() and path.stat().st_mtime < old)
        return sorted(path for path in files if not (path.suffix == ".lock" and held(path)))

    def find(self, key_prefix: str) -> Record:
        """The one record whose key starts with `key_prefix`.

        Raises:
            Refusal: none, or more than one; or the file is damaged.
        """
        paths = list((self.root / "runs").glob(f"*/{key_prefix}*.json"))
        if len(paths) != 1:
            found = "no record" if not paths else f"{len(paths)} records"
            raise Refusal(f"{found} in {self.root / 'runs'} with a key that starts with {key_prefix!r}")
        try:
            return Record.read(paths[0])
        except Damaged as reason:
            raise Refusal(f"{paths[0]} is damaged: {reason}") from None

    def verify(self) -> list[str]:
        """Read every record; one sentence a file that cannot be trusted. Empty when all is well."""
        problems = []
        for path in self._paths():
            try:
                Record.read(path)
            except Damaged as reason:
                problems.append(f"{path}: {reason}")
        return problems

    def check_writable(self, experiment: Experiment) -> None:
        """Try to write where the experiment's records go; called before any training.

        Raises:
            Refusal: no permission, or the place is not a folder.
        """
        folder = self._path(experiment.name, "").parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            way_out = "set NTF_STORE to a folder that you may write"
            raise Refusal(f"cannot write records to {folder} ({error.strerror}): {way_out}") from None

    def lock_path(self, experiment: Experiment, config: Config) -> Path:
        """The lock of a run, see `attempt.locked`."""
        return self.root / "cache" / "runs" / experiment.name / f"{key_of(experiment, config)}.lock"

    def _path(self, experiment: str, key: str) -> Path:
        return self.root / "runs" / experiment / f"{key}.json"

    def _paths(self, experiment: str | None = None) -> list[Path]:
        return sorted((self.root / "runs").glob(f"{experiment or '*'}/*.json"))

    def _read(self, path: Path) -> Record | None:
        if not path.exists():
            return None
        try:
            return Record.read(path)
        except Damaged as reason:
            log.warning("%s is damaged (%s): counted as missing", path, reason)
            return None
