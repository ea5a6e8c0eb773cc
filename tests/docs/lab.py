"""The stores of the documents' examples: everything in them is the same on every machine."""

from pathlib import Path

from tests.push.conftest import with_annex
from tests.small import (
    EPOCH,
    Executable,
    Files,
    Link,
    Locked,
    Pointer,
    Registered,
    SmallDataset,
    SmallStore,
    key_of,
    noise,
)

TABLE = b"subject,age\n01,34\n02,29\n"
ARCHIVED = b"kept in the archive\n"
HEALED = b"one of two copies is damaged\n"
DAMAGED = b"the only copy is damaged\n"
MISSING = b"in no place\n"


def build_for_readme(path: Path) -> SmallStore:
    """The store of the README's session: one dataset with a git-annex branch, a tag, and two commits."""
    store = SmallStore.make(path)
    study = store.dataset("study")
    author = "Ada Lovelace <ada@example.org>"
    first, second = (b"participant\tage\nsub-01\t34\nsub-02\t%d\n" % age for age in (92, 29))
    scan = noise(3_100_000)
    files: Files = {
        b".gitattributes": b"*.tsv annex.largefiles=nothing\n",
        b"participants.tsv": first,
        b"sub-01/t1.nii.gz": Locked(key_of(scan, b".nii.gz")),
    }
    tagged = study.commit(files, message="First scans", author=author)
    study.git("tag", "v1.0", tagged)
    corrected = {**files, b"participants.tsv": second}
    study.commit(corrected, time=EPOCH + 86400, message="Age of sub-02 corrected", author=author)
    study.put(key_of(scan, b".nii.gz"), scan)
    with_annex(study)
    return store


def build(path: Path) -> SmallStore:
    """The store that docs/use/semantics.md describes."""
    store = SmallStore.make(path)
    scans = store.dataset("scans", {b"t1.txt": b"first scan\n"})
    registered = scans.git("rev-parse", "main")
    scans.commit({b"t1.txt": b"second scan\n"}, time=EPOCH + 60)
    study = store.dataset("study")
    study.git("tag", "v1.0", study.commit(_study(scans, registered, b"1.0")))
    study.git("tag", "v2.0", study.commit(_study(scans, registered, b"2.0"), ref="refs/heads/next", time=EPOCH + 3600))
    _fill(study)
    store.dataset("empty")
    return store


def _study(scans: SmallDataset, registered: str, version: bytes) -> Files:
    modules = f'[submodule "scans"]\n\tpath = scans\n\turl = ./scans\n\tdatalad-id = {scans.id}\n'
    return {
        b".gitmodules": modules.encode(),
        b"VERSION": version + b"\n",
        b"run.sh": Executable(b"#!/bin/sh\necho running\n"),
        b"locked.csv": Locked(key_of(TABLE, b".csv")),
        b"unlocked.csv": Pointer(key_of(TABLE, b".csv")),
        b"latest": Link(b"locked.csv"),
        b"away": Link(b"/nonexistent/elsewhere"),
        b"scans": Registered(registered),
        b"lost": Registered("34" * 20),
        b"keys/archived.txt": Locked(key_of(ARCHIVED, b".txt")),
        b"keys/damaged.txt": Locked(key_of(DAMAGED, b".txt")),
        b"keys/healed.txt": Locked(key_of(HEALED, b".txt")),
        b"keys/missing.txt": Locked(key_of(MISSING, b".txt")),
    }


def _fill(study: SmallDataset) -> None:
    study.put(key_of(TABLE, b".csv"), TABLE)
    study.put(key_of(DAMAGED, b".txt"), DAMAGED.upper())
    study.put(key_of(HEALED, b".txt"), HEALED.upper())
    study.archive({key_of(ARCHIVED, b".txt"): ARCHIVED, key_of(HEALED, b".txt"): HEALED})
