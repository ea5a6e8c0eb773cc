"""A Keep source with the names that the behaviours are about, and the two drivers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.behaviour import shown_store as made
from tests.behaviour.drivers import Driver
from tests.fuse.mounting import Mounted, mounted
from tests.keep.making import KeptStore
from tests.keep.shown import shown


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptStore:
    """The source; never written to."""
    store = KeptStore(tmp_path_factory.mktemp("kept"))
    store.write("main.manifest", _files())
    for other in ("sub", "by-id", "nested"):
        store.write(other, {b"inside": b"registered version"})
    damaged = made.DAMAGED
    digest = store.put(damaged)[:32]
    store.volumes[0].path(digest).write_bytes(damaged.upper())
    return store


def _files() -> dict[bytes, bytes]:
    return {
        b"version": b"second\n",
        b"empty": b"",
        b"locked": made.SMALL,
        b"unlocked": made.SMALL,
        b"unlocked-executable": made.SMALL,
        b"medium": made.MEDIUM,
        b"archived": made.ARCHIVED,
        b"damaged": made.DAMAGED,
        b"deep/er/and/deeper": b"down here",
        b"deep/locked": made.SMALL,
        **{b"names/" + name: b"content of " + name for name in made.ODD_NAMES},
        **{b"many/%04d" % number: b"%d" % number for number in range(1500)},
    }


@pytest.fixture(scope="session")
def kept_mount(kept: KeptStore, fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A mount of it."""
    with mounted(kept.source, tmp_path_factory.mktemp("kept-mount")) as mount:
        yield mount


@pytest.fixture(params=["object", "mount"])
async def driver(request: pytest.FixtureRequest, kept: KeptStore, tmp_path: Path) -> AsyncIterator[Driver]:
    """Both ways to look at it, one after the other."""
    if request.param == "mount":
        yield request.getfixturevalue("kept_mount").driver
        return
    async with shown(kept.source) as object_driver:
        yield object_driver
