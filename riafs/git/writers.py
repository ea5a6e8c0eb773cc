"""Children that write one large object each into a file.

Owns how many there are. A child that reads from a dead disk cannot be killed: whoever waited for it goes on at his
deadline, and it counts until the kernel lets it end, so that a dead store cannot fill the machine with such children.
"""

from collections.abc import Mapping, Sequence
from subprocess import DEVNULL

import trio

from riafs.tasks import start_detached

MOST = 8


class Writers:
    """One per mount."""

    def __init__(self) -> None:
        self._room = trio.Semaphore(MOST)

    async def run(self, command: Sequence[str], environment: Mapping[str, str], output: int) -> int:
        """Wait for room, then for a child that writes to the descriptor `output`; its return code.

        One that is given up is killed.
        """
        await self._room.acquire()
        try:
            child = await trio.lowlevel.open_process(
                list(command), stdin=DEVNULL, stdout=output, stderr=DEVNULL, env=dict(environment)
            )
        except BaseException:
            self._room.release()
            raise
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
            start_detached(self._count_until_gone, child)

    async def _count_until_gone(self, child: trio.Process) -> None:
        try:
            await child.wait()
        finally:
            self._room.release()
