"""The test stores hold what their manifest says: DataLad's clones are the witnesses."""

import hashlib
import os
import stat
from pathlib import Path

from tests.stores.manifest import Expect, Row, Stores, Type

FILES = {Type.LOCKED, Type.UNLOCKED, Type.GIT}


def differences(clone: Path, row: Row) -> str | None:
    """What is wrong with a row in a clone."""
    path = os.path.join(os.fsencode(clone), row.path)
    if row.type is Type.LINK:
        return None if os.readlink(path) and stat.S_ISLNK(row.mode) else "no link"
    if not os.path.isfile(path):
        return "no content"
    with open(path, "rb") as file:
        content = file.read()
    return None if (len(content), hashlib.sha256(content).hexdigest()) == (row.size, row.sha256) else "other bytes"


def test_clones_have_the_files_of_the_manifest(stores: Stores, clones: Path) -> None:
    wrong = []
    for dataset in stores.datasets:
        for row in stores.rows_of(dataset.name) if dataset.clonable else ():
            if row.expect.cloned and row.type is not Type.SUBMODULE:
                found = differences(clones / dataset.name, row)
                wrong += [(dataset.name, row.path, row.key, found)] if found else []
    assert wrong == []


def test_clones_lack_what_only_riafs_reads(stores: Stores, clones: Path) -> None:
    found = []
    for dataset in stores.datasets:
        for row in stores.rows_of(dataset.name) if dataset.clonable else ():
            if not row.expect.cloned and row.type in FILES and differences(clones / dataset.name, row) is None:
                found.append((dataset.name, row.path, row.expect))
    assert found == []


def test_every_expectation_occurs(stores: Stores) -> None:
    assert {row.expect for row in stores.rows} == set(Expect)
