"""A real mount of the test stores shows what the manifest and DataLad's clones say, file by file."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fuse.mounting import mounted
from tests.remote.here import SshHere, needs_sftp_server
from tests.stores.manifest import UNKNOWN_SIZE, Dataset, Expect, Row, Stores, Type

pytestmark = pytest.mark.usefixtures("fuse")

REFUSED = {
    Expect.MISSING: errno.EIO,
    Expect.WEB: errno.EIO,
    Expect.CORRUPT: errno.EIO,
    Expect.PASSWORD: errno.EACCES,
}

NEEDS_NO_PASSWORD = "empty.dat"
"""An empty member of an archive has no stream that could be encrypted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a program sees of a path."""

    mode: int
    size: int
    sha256: str | None


@pytest.fixture(scope="module", params=["local", pytest.param("ssh", marks=needs_sftp_server)])
def mount(request: pytest.FixtureRequest, stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The store with all datasets, mounted from a directory, and from another machine."""
    source, options = str(stores.path), ()
    if request.param == "ssh":
        source = f"ria+ssh://store.example.org{quote(source)}"
        options = SshHere.make(tmp_path_factory.mktemp("ssh")).options
    with mounted(source, tmp_path_factory.mktemp("mount"), *options) as running:
        yield os.fsencode(running.path)


def versions(stores: Stores) -> Iterator[tuple[Dataset, str, bytes]]:
    """Every dataset and ref of the manifest, with the name of its directory below ``by-id``."""
    for dataset in stores.datasets:
        for ref in dataset.refs:
            yield dataset, ref, os.fsencode(f"{dataset.id}@{ref.replace('%', '%25').replace('/', '%2F')}")


def located(stores: Stores, mount: bytes) -> Iterator[tuple[Row, bytes]]:
    """Every row of the manifest with its path in the mount."""
    for dataset, ref, name in versions(stores):
        for row in stores.rows_of(dataset.name, ref):
            yield row, os.path.join(mount, b"by-id", name, row.path)


def content(path: bytes) -> bytes:
    """All bytes of a file, or the text of a link."""
    if os.path.islink(path):
        return os.readlink(path)
    with open(path, "rb") as file:
        return file.read()


def failure(path: bytes) -> int:
    """The errno with which reading fails; 0 where it does not."""
    try:
        content(path)
    except OSError as error:
        return error.errno or -1
    return 0


def walk(root: bytes, below: bytes = b"") -> Iterator[bytes]:
    """Paths of all files and links, and of directories that are empty, without ``.git`` at the top."""
    with os.scandir(os.path.join(root, below)) as listing:
        entries = [entry for entry in listing if below or entry.name != b".git"]
    if below and not entries:
        yield below
    for entry in entries:
        path = os.path.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from walk(root, path)
        else:
            yield path


def report(wrong: Sequence[object]) -> None:
    """Fail with what is wrong, one a line."""
    assert not wrong, "\n" + "\n".join(map(repr, wrong))


def test_every_path_has_type_mode_and_size(stores: Stores, mount: bytes) -> None:
    wrong = []
    for row, path in located(stores, mount):
        seen = os.lstat(path)
        mode = stat.S_IFDIR | 0o555 if row.type is Type.SUBMODULE else row.mode
        expected = mode if stat.S_ISLNK(mode) else mode | stat.S_IWUSR  # the manifest has what may be read and run
        size_is_right = row.type is Type.SUBMODULE or row.size in {seen.st_size, UNKNOWN_SIZE}
        if seen.st_mode != expected or not size_is_right:
            wrong.append((row.dataset, row.ref, row.path, oct(seen.st_mode), oct(expected), seen.st_size, row.size))
    report(wrong)


def test_every_readable_file_has_its_bytes(stores: Stores, mount: bytes) -> None:
    wrong = []
    for row, path in located(stores, mount):
        if row.type is not Type.SUBMODULE and row.expect.readable:
            failed = failure(path)
            if failed or hashlib.sha256(content(path)).hexdigest() != row.sha256:
                wrong.append((row.dataset, row.ref, row.path, row.key, row.expect, errno.errorcode.get(failed)))
    report(wrong)


def test_what_cannot_be_read_fails_with_its_errno(stores: Stores, mount: bytes) -> None:
    wrong = []
    # Decoded content is kept by key: what one dataset has behind a password may be known from another.
    known = {row.key for row in stores.rows if row.expect.readable}
    for row, path in located(stores, mount):
        if row.type is not Type.SUBMODULE and not row.expect.readable and row.name != NEEDS_NO_PASSWORD:
            if row.expect is Expect.PASSWORD and row.key in known:
                continue
            failed = failure(path)
            if failed != REFUSED[row.expect]:
                wrong.append((row.dataset, row.ref, row.path, row.expect, errno.errorcode.get(failed, failed)))
    report(wrong)


def test_directories_list_what_the_manifest_has_and_nothing_else(stores: Stores, mount: bytes) -> None:
    wrong = []
    for dataset, ref, name in versions(stores):
        rows = stores.rows_of(dataset.name, ref)
        good = {row.path for row in rows if row.type is Type.SUBMODULE and row.expect is Expect.OK}
        found = outside(walk(os.path.join(mount, b"by-id", name)), good)
        difference = found ^ ({row.path for row in rows} - good)
        wrong += [(dataset.name, ref, difference)] if difference else []
    report(wrong)


def outside(paths: Iterable[bytes], directories: set[bytes]) -> set[bytes]:
    """The paths that are in none of the directories."""
    return {path for path in paths if not any(path.startswith(directory + b"/") for directory in directories)}


def test_the_dataset_without_a_version_is_its_first_one(stores: Stores, mount: bytes) -> None:
    wrong = []
    for dataset in stores.datasets:
        place = os.path.join(mount, os.fsencode(dataset.alias or f"by-id/{dataset.id}"))
        for row in stores.rows_of(dataset.name) if dataset.refs else ():
            if not os.path.lexists(os.path.join(place, row.path)):
                wrong.append((dataset.name, row.path))
    report(wrong)


def test_the_root_lists_aliases_and_by_id_all_datasets(stores: Stores, mount: bytes) -> None:
    assert {os.fsencode(d.alias) for d in stores.datasets if d.alias} <= set(os.listdir(mount))
    assert {os.fsencode(d.id) for d in stores.datasets if d.refs} <= set(os.listdir(os.path.join(mount, b"by-id")))


def test_subdatasets_appear_at_their_registered_commit(stores: Stores, mount: bytes) -> None:
    checked = 0
    for row, path in located(stores, mount):
        if row.type is Type.SUBMODULE and row.expect is Expect.OK:
            below = [other for other in stores.rows if other.commit == row.gitlink]
            assert below
            for other in below:
                assert other.type is Type.SUBMODULE or failure(os.path.join(path, other.path)) == 0
            assert not os.path.exists(os.path.join(path, b"later.txt"))
            checked += 1
    assert checked >= 2


def test_submodules_that_lead_nowhere_are_empty_directories(stores: Stores, mount: bytes) -> None:
    found = [os.listdir(path) for row, path in located(stores, mount) if row.gitlink and row.expect is Expect.MISSING]
    assert found == [[]] * 4


def test_mount_and_clone_agree(stores: Stores, clones: Path, mount: bytes) -> None:
    wrong: list[object] = []
    for dataset in (dataset for dataset in stores.datasets if dataset.clonable):
        theirs, ours = os.fsencode(clones / dataset.name), os.path.join(mount, b"by-id", os.fsencode(dataset.id))
        unlike = {row.path for row in stores.rows_of(dataset.name) if not row.expect.cloned}
        submodules = {row.path for row in stores.rows_of(dataset.name) if row.type is Type.SUBMODULE}
        paths = outside(walk(theirs), submodules)
        wrong += [
            (dataset.name, "names", path) for path in paths ^ outside(walk(ours), submodules) if path not in submodules
        ]
        for path in paths - unlike - submodules:
            one, other = look(os.path.join(theirs, path)), look(os.path.join(ours, path))
            wrong += [(dataset.name, path, one, other)] if one != other else []
    report(wrong)


def look(path: bytes) -> Seen:
    """What a program sees of a file, links of git-annex followed, without the write bits of a work tree.

    git-annex keeps no executable bit of a locked file in a clone, so only pointer files and git's own have one.
    """
    annexed = os.path.islink(path) and b"/annex/objects/" in os.readlink(path)
    about = os.stat(path) if annexed or not os.path.islink(path) else os.lstat(path)
    text = content(os.path.realpath(path) if annexed else path)
    mode = about.st_mode if stat.S_ISLNK(about.st_mode) else about.st_mode & ~0o333
    return Seen(mode, len(text), hashlib.sha256(text).hexdigest())
