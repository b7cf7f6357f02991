"""Arrays that are dear to make and cheap to keep: made once, found again on disk by what they were made from.

They lie under the store's cache folder, which may be deleted at any time: the cache only saves time. A file is written
in one step, so that of two writers of the same arrays the later one wins, and nobody reads half.
"""

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ntf_utils.runs import Store
from ntf_utils.runs.atomic import replacing

log = logging.getLogger(__name__)


def cached_arrays(
    name: str, about: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays from the disk, or made now.

    Args:
        name: folder of the cache. about: all that decides the arrays, as plain values. make: makes them, by name.
    """
    path = cached_file(name, about, "npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, zipfile.BadZipFile, KeyError) as problem:
        log.warning("the cached file %s is damaged (%s): made again", path, problem)
    made = dict(make())
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **made)
    except OSError as error:
        log.warning("cannot keep %s (%s): the next run makes it again", path, error.strerror)
    return made


def cached_file(name: str, about: Mapping[str, Any], ending: str) -> Path:
    """Where something lies that is decided by `about`."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    return Store().root / "cache" / name / f"{digest}.{ending}"
