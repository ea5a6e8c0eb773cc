"""``.riafs`` at a mount's root: small files that tell about the mount, and directories. Looked up, never listed.

Their text is made when they are opened, so their size is not known before (stat shows 0, as in /proc).
"""

from collections.abc import Callable, Mapping, Sequence

from riafs.errors import IsADirectoryHere, NoSuchName
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Found, Kind, Versions

NAME = b".riafs"


class VirtualDirectory:
    """``.riafs``: files, name → what makes the text; and directories. See the Directory protocol."""

    renewable = False

    def __init__(
        self, files: Mapping[bytes, Callable[[], str]], directories: Mapping[bytes, Directory], mtime_ns: int
    ) -> None:
        self._files = files
        self._directories = directories
        shown = [
            Entry(name, Kind.FILE, UNKNOWN_SIZE, executable=False, mtime_ns=mtime_ns, version=b"") for name in files
        ]
        shown += [
            Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=mtime_ns, version=b"") for name in directories
        ]
        self._entries = tuple(sorted(shown, key=lambda entry: entry.name))
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory."""
        return self._entries[start:]

    async def prepare(self, start: int) -> None:
        """See Directory."""

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        for position, entry in enumerate(self._entries):
            if entry.name == name:
                return Found(position, entry)
        raise NoSuchName(f"no {name!r} in .riafs")

    async def versions(self) -> Versions:
        """See Directory."""
        versions = {entry.name: entry.version for entry in self._entries}
        return Versions(versions, self._directories.keys())

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        return self._directories[entry.name]

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        if entry.name not in self._files:
            raise IsADirectoryHere(f"{entry.name!r} is a directory")
        return MemoryBytes(self._files[entry.name]().encode(errors="surrogateescape"))

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise NoSuchName(f"{entry.name!r} is no link")

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:  # part of the protocol
        """See Directory."""
        return {}

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {}

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        return None
