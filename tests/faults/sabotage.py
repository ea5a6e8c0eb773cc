"""The command ``riafs`` with something broken in it: ``python -m tests.faults.sabotage NAME WORD…``.

Each function here breaks one thing in this process, before the mount's process is forked from it.
"""

import os
import resource
import sys
import threading
from collections.abc import Sequence

import pyfuse3
import trio

from riafs.cli import main
from riafs.git.catfile import CatFile
from riafs.git.writing import RefUpdate, RefWriter
from riafs.storage import openat
from riafs.storage.local_file import FileBytes
from riafs.tree.commit_directory import CommitDirectory
from riafs.vfs.filesystem import FileSystem

BAD = "bad"
"""What has this in its name meets the fault."""


def bug_in_lookup() -> None:
    """Looking up a bad name is a bug."""
    lookup = FileSystem.lookup

    async def broken(self: FileSystem, parent: int, name: bytes) -> object:
        if BAD.encode() in name:
            raise ValueError("a bug")
        return await lookup(self, parent, name)

    FileSystem.lookup = broken  # type: ignore[method-assign,assignment]  # that is the sabotage


def bug_in_each_layer() -> None:
    """Listing, opening and reading have bugs: `FileSystem.readdir`, `CommitDirectory.open`, `FileBytes.read`."""
    bug_in_lookup()

    async def broken(*_: object) -> None:
        raise KeyError("a bug")

    CommitDirectory.open = broken  # type: ignore[method-assign,assignment]  # that is the sabotage
    FileSystem.attribute = broken  # type: ignore[method-assign,assignment]  # likewise
    FileSystem.readdir = broken  # type: ignore[method-assign,assignment]  # likewise


def store_gone_before_refs_move() -> None:
    """The dataset's directory in the variable THAT_GOES is renamed, once, when a push has done all but moving the refs.

    (A whole store may be renamed: it is held open.)
    """
    move = RefWriter.move
    store = os.environ["THAT_GOES"]

    async def gone(self: RefWriter, updates: Sequence[RefUpdate]) -> None:
        RefWriter.move = move  # type: ignore[method-assign]  # only once
        os.rename(store, f"{store}.gone")
        await move(self, updates)

    RefWriter.move = gone  # type: ignore[method-assign,assignment]  # that is the sabotage


def hanging_store() -> None:
    """Opening and listing what has a bad path never ends, and files are never in the page cache."""
    opened, cached = openat.open_beneath, openat.open_beneath_cached

    def hang(directory: int, path: bytes, flags: int) -> int:
        if BAD.encode() in path:
            threading.Event().wait(600)
        return opened(directory, path, flags)

    openat.open_beneath = hang
    openat.open_beneath_cached = lambda directory, path, flags: (  # type: ignore[assignment]  # likewise
        None if BAD.encode() in path else cached(directory, path, flags)
    )


def hanging_objects() -> None:
    """Every object, loose or in an archive, hangs as soon as it is opened, and so does git."""
    hanging_store()
    opened, batch = openat.open_beneath, CatFile._exchange

    def hang(directory: int, path: bytes, flags: int) -> int:
        if b"/annex/objects/" in path or b"archive" in path:
            threading.Event().wait(600)
        return opened(directory, path, flags)

    async def hang_batch(self: CatFile, requests: Sequence[bytes], limit: int) -> object:
        if any(b"git-annex" in each or BAD.encode() in each for each in requests):
            await trio.sleep_forever()
        return await batch(self, requests, limit)

    openat.open_beneath = hang
    openat.open_beneath_cached = lambda directory, path, flags: None  # type: ignore[assignment,return-value]  # likewise
    CatFile._exchange = hang_batch  # type: ignore[method-assign,assignment]  # likewise


def hanging_git() -> None:
    """git does not answer for repositories with a file ``hang``."""
    batch = CatFile._exchange

    async def hang(self: CatFile, requests: Sequence[bytes], limit: int) -> object:
        if os.path.exists(os.path.join(self._environment["GIT_OBJECT_DIRECTORY"], "..", "hang")):
            await trio.sleep_forever()
        return await batch(self, requests, limit)

    CatFile._exchange = hang  # type: ignore[method-assign,assignment]  # that is the sabotage


def hanging_reads() -> None:
    """Opening works, reading of what has a bad path never ends."""
    read = FileBytes.read_blocking

    def hang(self: FileBytes, offset: int, length: int) -> object:
        if BAD in self.name:
            threading.Event().wait(600)
        return read(self, offset, length)

    FileBytes.read_blocking = hang  # type: ignore[method-assign,assignment]  # that is the sabotage
    FileBytes._read_cached = lambda *_: None  # type: ignore[method-assign,assignment]  # likewise


def each_task_fails_once() -> None:
    """Every background task, with what RIAFS_FAILURE in the environment names."""
    from tests.faults import tasks

    tasks.fail_once_each(os.environ["RIAFS_FAILURE"])


def no_thread_at_first() -> None:
    """The first thread for each purpose cannot be started."""
    from tests.faults import tasks

    tasks.start_no_thread_at_first()


def few_descriptors() -> None:
    """At most 64 open files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def another_user() -> None:
    """Not root but ``nobody``, with /dev/fuse open to everybody."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def unknown_pyfuse3() -> None:
    """A pyfuse3 of a version that riafs does not know."""
    pyfuse3.__version__ = "9.0.0"


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    sys.exit(main.run("riafs", sys.argv[2:]))
