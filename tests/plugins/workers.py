"""Running the suite in several processes: pytest-xdist's workers share a temporary directory and take turns.

A test with the mark ``alone`` measures times that a neighbour would spoil: while it runs, no other worker runs a test.
Such tests come last, so that workers wait for one another at the end only.
"""

import fcntl
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_TEMPORARY, _HOME = "riafs_temporary", "riafs_home"
_TURNS = pytest.StashKey["Turns"]()


class Turns:
    """Locks of the workers of one run: tests run beside others, or alone.

    Who wants to be alone holds `gate` while waiting for the tests of others to end, so that no new ones begin.
    """

    def __init__(self, directory: Path) -> None:
        self._gate, self._tests = (os.open(directory / name, os.O_RDWR | os.O_CREAT) for name in ("gate", "tests"))

    def close(self) -> None:
        os.close(self._gate)
        os.close(self._tests)

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Wait until the test may run. Locks are given back explicitly: children of a test may have inherited them."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._tests, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._tests, fcntl.LOCK_UN)


def is_worker(config: pytest.Config) -> bool:
    """Whether this is one of several processes that run tests."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """In a worker: use what it shares with the others. This comes before it gets a private home of its own."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    if given:
        tempfile.tempdir = given[_TEMPORARY]  # not that below the controller's home, which is closed to other users
        turns = config.stash[_TURNS] = Turns(Path(given[_HOME]))
        config.add_cleanup(turns.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controller: tell a worker its temporary directory and its private home."""
    node.workerinput[_TEMPORARY] = tempfile.gettempdir()
    node.workerinput[_HOME] = os.environ["HOME"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that run alone come last."""
    if is_worker(config):
        items.sort(key=_is_alone)  # otherwise in their order


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the clocks of timeouts
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Take turns with the other workers."""
    turns = item.config.stash.get(_TURNS, None)
    if turns is None:
        return (yield)
    with turns.turn(alone=_is_alone(item)):
        return (yield)
