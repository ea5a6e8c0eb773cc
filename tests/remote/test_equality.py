"""The test store read over ssh and over http equals the local one: every name, size, mode, time and byte.

http tells no permissions: there, locked files that are executable in the store are not.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from riafs.errors import RiafsError
from riafs.tree.protocol import Kind
from tests.behaviour.drivers import Driver, Status, opened
from tests.plugins.log_hygiene import Announce
from tests.remote.places import KINDS, Place, place
from tests.stores.manifest import Dataset, Stores, Type

DEADLINE = 30.0
SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Shown:
    """One path, but for its inode number, which depends on the name of the store. Times are in seconds, as in sftp."""

    status: Status
    content: str | None
    """SHA-256 of a file, the text of a link, the names in a directory, or the errno of reading it."""

    def without_executable(self) -> "Shown":
        return replace(self, status=replace(self.status, executable=False))


async def walked(shown: Driver, top: bytes) -> AsyncIterator[tuple[bytes, Shown]]:
    """Everything below a directory, by path."""
    waiting = [top]
    for path in waiting:  # grows meanwhile
        status = await shown.stat(path)
        status = replace(status, inode=0, mtime_ns=status.mtime_ns // SECOND * SECOND)
        try:
            content = await content_of(shown, path, status.kind)
        except (RiafsError, OSError) as error:
            content = f"errno {error.errno}"
        yield path, Shown(status, content)
        if status.kind is Kind.DIRECTORY and content is not None and not content.startswith("errno"):
            waiting += [path + b"/" + name for name in await shown.ls(path)]


async def content_of(shown: Driver, path: bytes, kind: Kind) -> str:
    if kind is Kind.DIRECTORY:
        return repr(sorted(await shown.ls(path)))
    if kind is Kind.LINK:
        return repr(await shown.readlink(path))
    return hashlib.sha256(await shown.read(path)).hexdigest()


def tops(dataset: Dataset) -> list[bytes]:
    """The paths of a dataset's versions in a mount of the store."""
    base = b"by-id/" + dataset.id.encode()
    return [base, *(base + b"@" + ref.encode().replace(b"/", b"%2F") for ref in dataset.refs[1:])]


@pytest.fixture(scope="module", params=KINDS)
def store_place(
    request: pytest.FixtureRequest, stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with place(request.param, stores.path, tmp_path_factory.mktemp("servers")) as made:
        yield made


@pytest.mark.long  # as tests/integration/test_against_clones.py, with modes, errors and all versions
async def test_every_dataset_equals_the_local_one(
    store_place: Place, stores: Stores, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    locked = {(row.dataset, row.path) for row in stores.rows if row.type is Type.LOCKED}
    wrong: list[tuple[str, bytes, object, object]] = []
    seen = 0
    async with opened(stores.path) as local, store_place.opened(deadline=DEADLINE, cache=tmp_path) as remote:
        for dataset in stores.datasets:
            for top in tops(dataset):
                expected = {path: shown async for path, shown in walked(local, top)}
                found = {path: shown async for path, shown in walked(remote, top)}
                seen += len(expected)
                for path in expected.keys() | found.keys():
                    one, other = expected.get(path), found.get(path)
                    if (
                        store_place.kind == "http"
                        and one is not None
                        and (dataset.name, path[len(top) + 1 :]) in locked
                    ):
                        one = one.without_executable()
                    if one != other:
                        wrong.append((dataset.name, path, one, other))
    assert not wrong, "\n".join(map(repr, wrong[:5]))
    assert seen > len(stores.rows)


async def test_root_lists_the_same_names_where_the_server_can_list(
    stores: Stores, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    for kind in KINDS:
        with place(kind, stores.path, tmp_path_factory.mktemp("servers"), autoindex=True) as made:
            async with opened(stores.path) as local, made.opened(deadline=DEADLINE, cache=tmp_path) as remote:
                for path in (b"", b"by-id"):
                    assert sorted(await remote.ls(path)) == sorted(await local.ls(path)), (kind, path)


async def test_real_mount_equals_the_local_object(
    store_place: Place, stores: Stores, tmp_path: Path, fuse: None, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    names = ("basic", "arc-mixed", "chunk-crypt", "layout1")
    with store_place.mounted(tmp_path, deadline=DEADLINE) as mount:
        async with opened(stores.path) as local:
            for name in names:
                [top, *_] = tops(stores.dataset(name))
                expected = {path: shown.content async for path, shown in walked(local, top)}
                found = {path: shown.content async for path, shown in walked(mount.driver, top)}
                assert found == expected
