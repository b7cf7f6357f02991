"""What runs will cost, judged by the recorded runs of the same experiment."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable

from ntf_utils.runs.config import Config
from ntf_utils.runs.experiment import Experiment
from ntf_utils.runs.record import Record
from ntf_utils.runs.store import Store


class Costs:
    """Seconds that a run of an experiment takes, learned from records."""

    def __init__(self, store: Store, experiment: Experiment) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)
        for record in store.records(experiment.name):
            if record.version == experiment.version:
                self.learn(record)

    def learn(self, record: Record) -> None:
        """Take a finished run into account."""
        self._seconds[_apart_from_seed(record.config)].append(record.provenance.seconds)

    def of(self, config: Config) -> float | None:
        """The median of the runs that differ in the seed only, else that of all runs; None without any."""
        alike = self._seconds.get(_apart_from_seed(config.model_dump(mode="json")))
        known = alike or [seconds for group in self._seconds.values() for seconds in group]
        return statistics.median(known) if known else None

    def total(self, configs: Iterable[Config]) -> float | None:
        """Seconds of all these runs, one after the other; None where nothing is known."""
        seconds = [self.of(config) for config in configs]
        return None if None in seconds else sum(seconds)


def _apart_from_seed(config: dict) -> str:
    return json.dumps({name: value for name, value in config.items() if name != "seed"}, sort_keys=True)
