"""The store that the behaviours are about, and the two drivers."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.behaviour import shown_store
from tests.behaviour.drivers import Driver, opened
from tests.fuse.mounting import Mounted, mounted


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> shown_store.ShownStore:
    """The store; never written to."""
    return shown_store.build(tmp_path_factory.mktemp("shown") / "store")


@pytest.fixture(scope="session")
def shown_mount(
    shown: shown_store.ShownStore, fuse: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mounted]:
    """A mount of it."""
    with mounted(shown.path, tmp_path_factory.mktemp("shown-mount")) as mount:
        yield mount


@pytest.fixture(params=["object", "mount"])
async def driver(request: pytest.FixtureRequest, shown: shown_store.ShownStore) -> AsyncIterator[Driver]:
    """Both ways to look at it, one after the other."""
    if request.param == "mount":
        yield request.getfixturevalue("shown_mount").driver
        return
    async with opened(shown.path) as object_driver:
        yield object_driver
