"""The commits that changes lie over, kept beside the changes: a store may prune them once its branch is rewritten.

A commit is kept right before the first change of its dataset is made, which waits for that for a moment; what takes
longer (a hundred thousand files), and the commits that datasets are moved to by pushes, are kept in the background.
"""

import logging
from collections.abc import Callable, Iterable

import trio

from riafs.errors import RiafsError
from riafs.git.kept_objects import KeptObjects
from riafs.tree.protocol import OfCommit

log = logging.getLogger(__name__)

_FIRST_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_FORGET_SECONDS = 120.0


class BaseKeeper:
    """Keeps commits in `kept`."""

    def __init__(self, kept: KeptObjects) -> None:
        self._kept = kept
        self._known = kept.names()
        self._asked: dict[bytes, float] = {}
        """Name of a commit → when its dataset was going to be changed."""
        self._lock = trio.Lock()

    async def before_change(self, directory: OfCommit) -> None:
        """Something is going to be changed over this commit."""
        name = _name(directory)
        if name in self._asked or name in self._known:
            return
        self._asked[name] = trio.current_time()
        with trio.move_on_after(_FIRST_SECONDS):
            await self._keep(directory)

    async def _keep(self, directory: OfCommit) -> None:
        name = _name(directory)
        async with self._lock:
            if name in self._known:
                return
            try:
                await directory.keep_in(self._kept, name)
            except RiafsError as error:
                log.info("the commit below changes is not kept: %s", error)
                return
            self._known.add(name)

    async def run(self, changed: Callable[[], Iterable[OfCommit]]) -> None:
        """Keep the commits of all datasets that have changes, and no others, until cancelled."""
        failed: set[bytes] = set()
        while True:
            await trio.sleep(_LOOK_SECONDS)
            wanted = {_name(each): each for each in changed()}
            for name in wanted.keys() - self._known - failed:
                await self._keep(wanted[name])
                if name not in self._known:
                    failed.add(name)
            self._forget(set(wanted))

    def _forget(self, wanted: set[bytes]) -> None:
        now = trio.current_time()
        self._asked = {name: since for name, since in self._asked.items() if now - since < _FORGET_SECONDS}
        if not self._known <= wanted | self._asked.keys():
            self._known &= wanted | self._asked.keys()
            try:
                self._kept.forget_all_but(self._known)
            except OSError as error:
                log.info("what is kept of commits that nothing lies over any more stays: %s", error)


def _name(directory: OfCommit) -> bytes:
    return directory.standing.dataset.hex().encode() + b"-" + directory.standing.commit
