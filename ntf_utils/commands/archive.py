"""Records made elsewhere: an archive or a folder of them, merged into the store after every one has been checked."""

import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store
from ntf_utils.runs.record import Damaged, Record

PLACE = re.compile(r"(?:^|/)([A-Za-z_]\w*)/([0-9a-f]{16}\.json)$")  # <experiment>/<key>.json, wherever it lies
LARGEST = 64 * 2**20  # bytes of a record; a file above is none


def merge(archive: Path, store: Store) -> tuple[int, int, list[str]]:
    """Add the archive's records to the store. A whole record that is already there stays as it is.

    Returns:
        Records added, records that were there with the same results, and a sentence for each that was refused.

    Raises:
        Refusal: the archive cannot be read or holds no record; the store cannot be written.
    """
    added, known, refused = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in _files(archive):
            place = PLACE.search(name)
            if content is None or not place:
                refused.append(f"{name}: not a record by its {'size' if place else 'name'}")
                continue
            path = Path(folder, *place.groups())
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            try:
                record = Record.read(path)
            except Damaged as reason:
                refused.append(f"{name}: {reason}")
                continue
            ours = store.whole(record.experiment, record.key)
            if ours is None:
                store.put(record, content.decode())
                added += 1
            elif (ours.rows, ours.curves) == (record.rows, record.curves):
                known += 1
            else:
                refused.append(f"{name}: the store has other results for the same run, made by {_made_by(ours)}")
    if not (added or known or refused):
        raise Refusal(f"{archive} holds no record: they lie in it as <experiment>/<key>.json")
    return added, known, refused


def _made_by(record: Record) -> str:
    return f"commit {record.provenance.commit[:7]} on {record.provenance.platform}"


def _files(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    """(name, content) of the JSON files in a `runs` folder, or in all of it where there is no such folder; None for
    content that is too large. Links and devices are passed over: nothing outside the archive is read."""
    try:
        if archive.is_dir():
            for path in sorted(archive.rglob("*.json")):
                if path.is_file() and not path.is_symlink() and _is_for_us(name := str(path.relative_to(archive))):
                    yield name, path.read_bytes() if path.stat().st_size <= LARGEST else None
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for info in file.infolist():
                    if _is_for_us(info.filename):
                        yield info.filename, file.read(info) if info.file_size <= LARGEST else None
        else:
            with tarfile.open(archive) as file:
                for member in file:
                    if member.isfile() and _is_for_us(member.name):
                        whole = member.size <= LARGEST
                        yield member.name, file.extractfile(member).read() if whole else None
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or "cut off"
        raise Refusal(f"cannot read {archive}: {reason}") from None


def _is_for_us(name: str) -> bool:
    """Verdicts and benchmarks lie beside the records of a store, and are none."""
    folders = Path(name).parts[:-1]
    return name.endswith(".json") and not {"verdicts", "benchmarks"} & set(folders)
