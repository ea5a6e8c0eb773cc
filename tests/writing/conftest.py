"""A store that is mounted with an overlay of its own for each test, and the two drivers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.behaviour import shown_store
from tests.fuse.mounting import mounted
from tests.writing.drivers import Driver, WritableMount, writable


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> shown_store.ShownStore:
    """Never written to by these tests."""
    return shown_store.build(tmp_path_factory.mktemp("written") / "store")


@pytest.fixture(params=["object", "mount"])
async def driver(
    request: pytest.FixtureRequest, store: shown_store.ShownStore, tmp_path: Path
) -> AsyncIterator[Driver]:
    """Both ways to change it, one after the other."""
    if request.param == "object":
        async with writable(store.path, tmp_path / "overlay") as driven:
            yield driven
        return
    request.getfixturevalue("fuse")
    with mounted(store.path, tmp_path, "--overlay", str(tmp_path / "overlay")) as mount:
        yield WritableMount(mount.path)
