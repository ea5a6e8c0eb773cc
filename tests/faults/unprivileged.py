"""Reading a store as the user ``nobody``: what ``tests/faults/test_broken_store.py`` starts as root.

Everything is imported before the rights are given up: the interpreter may lie where ``nobody`` cannot look.
"""

import errno
import logging
import os
from pathlib import Path

import trio

from riafs.errors import RiafsError
from tests.behaviour.drivers import opened
from tests.faults import sabotage


def main(store: str) -> None:
    """Print how reading the annexed file fails, and what the neighbour's file holds."""
    logging.disable()
    os.umask(0o077)
    trio.run(_read, Path(store))


async def _read(store: Path) -> None:
    await trio.to_thread.run_sync(len, "")
    sabotage.another_user()
    async with opened(store) as shown:
        try:
            await shown.read(b"one/annexed")
        except RiafsError as error:
            print(type(error).__name__, errno.errorcode[error.errno])
        print((await shown.read(b"neighbour/file")).decode())
