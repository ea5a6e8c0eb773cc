"""A store and sabotaged mounts of it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, mounted
from tests.small import SmallStore

MountWith = Callable[..., AbstractContextManager[Mounted]]


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def mount_with(fuse: None, store: SmallStore, tmp_path: Path) -> MountWith:
    """``mount_with(sabotage, *words)``: a mount of the store in which that is broken; None breaks nothing."""

    @contextmanager
    def mount(sabotage: str | None = None, *words: str) -> Iterator[Mounted]:
        command = ("-m", "tests.faults.sabotage", sabotage) if sabotage else ("-m", "riafs.cli.main")
        with mounted(store.path, tmp_path / "mount", *words, command=command) as made:
            yield made

    return mount
