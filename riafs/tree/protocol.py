"""The tree protocol: what a mount shows, as directories and entries, before there are inode numbers.

A `Directory` is one directory *at one version*: its entries, their order and their content never change. A directory
whose content does change over time (the store's root, a dataset that follows a branch) is `renewable`: asked with
`renewed`, it answers with its present version. Positions count from 0 in the directory's own fixed order.
``tests/conformance/directory.py`` is the suite that an implementation has to pass.

What only some directories can do are protocols of their own: `Verifiable` and `VerifiableTop` for content that can be
checked part by part (see content/copies), `Committed` and `Unborn` for datasets that changes may be laid over.
"""

import enum
from collections.abc import AsyncGenerator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from riafs.content.copies import Part
from riafs.git.kept_objects import KeptObjects
from riafs.storage.bytesource import RangedBytes

UNKNOWN_SIZE = -1


class Kind(enum.Enum):
    """What an entry is to a program that calls stat."""

    FILE = "file"
    LINK = "link"
    DIRECTORY = "directory"
    FIFO = "fifo"
    """This and what follows: only among local changes, as git has none of them."""
    SOCKET = "socket"
    CHARACTER = "character device"
    BLOCK = "block device"


@dataclass(frozen=True, slots=True)
class Origin:
    """What the source has at an entry, as changes over it remember it: made by the tree, read by the source's pusher.
    All that is between them compares the two tokens, and looks at the mode.
    """

    mode: int
    """0o40000 for a directory, 0o120000 where the source has a link (as for a locked annexed file), 0o100644 or
    0o100755 for a file; others as the source has them."""
    version: bytes
    """Without spaces; of git the name of the object in hex digits."""
    content: bytes
    """Names the content wherever it is, so that it stays equal over a move; empty where `version` does."""


_ORIGIN_MODES = {Kind.DIRECTORY: 0o40000, Kind.LINK: 0o120000}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    name: bytes
    kind: Kind
    size: int
    """Bytes of a file or of a link's target; 0 for a directory; UNKNOWN_SIZE where only reading tells."""
    executable: bool
    mtime_ns: int
    version: bytes
    """Equal versions under one name have equal content; used when a directory is renewed."""

    @property
    def origin(self) -> Origin:
        """What the source has here."""
        mode = _ORIGIN_MODES.get(self.kind, 0o100755 if self.executable else 0o100644)
        return Origin(mode, self.version.hex().encode(), b"")

    @property
    def is_registered(self) -> bool:
        """Whether this is a directory that only the source's own tools move and remove, as a subdataset is."""
        return False


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a look-up: the entry, and its position, or None for a name that is not listed (``hcp@v1``)."""

    position: int | None
    entry: Entry


@dataclass(frozen=True, slots=True)
class Versions:
    """A listing reduced to what tells two versions of a directory apart."""

    of: Mapping[bytes, bytes]
    """name → version of the listed entries, in the order of their positions."""
    directories: Set[bytes]
    """The names of those that are directories."""


class Directory(Protocol):
    """One directory at one version."""

    @property
    def renewable(self) -> bool:
        """Whether `renewed` can ever answer with something new."""

    @property
    def mtime_ns(self) -> int:
        """Modification time shown where this directory is a mount's root, in nanoseconds since the epoch."""

    async def entries(self, start: int) -> Sequence[Entry]:
        """Some entries from position `start` on, at least one unless `start` is the end; as many as come cheaply."""

    async def prepare(self, start: int) -> None:
        """The directories among the entries from position `start` on are likely to be listed next, one after the other:
        what is cheaper to read for several at once may be read now. Failures come up when they are listed.
        """

    async def find(self, name: bytes) -> Found:
        """The entry of that name, listed or not. Raises NoSuchName, NotThereYet for a name that would not be listed."""

    async def versions(self) -> Versions:
        """The versions of all listed entries; cheaper than `entries`."""

    async def directory(self, entry: Entry) -> "Directory":
        """The directory of `entry` (of kind DIRECTORY)."""

    async def open(self, entry: Entry) -> RangedBytes:
        """The content of `entry` (of kind FILE). Raises MissingContent, CorruptContent, EncryptedContent, …"""

    async def target(self, entry: Entry) -> bytes:
        """The text of `entry` (of kind LINK)."""

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """``user.riafs.`` attributes of `entry`: short name (``key``, ``commit``) → value.

        `name`: the only one that is wanted, so that what costs more than a look-up may be left out.
        """

    async def own_attributes(self) -> Mapping[str, bytes]:
        """``user.riafs.`` attributes of this directory where it is a mount's root."""

    async def renewed(self, turn: int) -> "Directory | None":
        """The present version of this directory, or None if that is still this one.

        `turn` is the same number for all directories asked in one round, so that an implementation can look at the
        store once for all of them. It is negative, and never the same, where a directory is asked by itself and what
        was seen in the last round is not enough.
        """


@runtime_checkable
class Verifiable(Protocol):
    """A directory that knows what its files are made of."""

    async def parts(self, entry: Entry) -> Sequence[Part]:
        """The parts of the file `entry`, in order, some perhaps several times. Reads no content."""


@runtime_checkable
class VerifiableTop(Protocol):
    """The top of a dataset or collection, which may store more than its files use: keys of other versions."""

    @property
    def holds_parts(self) -> bool:
        """Whether `stored_parts` gives any: not where one version or a folder is shown."""

    def stored_parts(self) -> AsyncGenerator[Part, None]:
        """All parts that are stored for it, used by a file or not. Raises what listing them raises."""


@dataclass(frozen=True, slots=True)
class DatasetPosition:
    """A directory of a commit."""

    dataset: bytes
    """The dataset's id."""
    commit: bytes
    """Hex digits."""
    path: bytes
    """From the dataset's top; ``""`` for the top itself."""


@runtime_checkable
class Committed(Protocol):
    """A directory of a dataset at a commit."""

    @property
    def dataset_position(self) -> DatasetPosition:
        """Which dataset, which commit, where in it."""

    async def branch(self) -> bytes | None:
        """The branch that changes here are for (``refs/heads/main``): the one that is followed, of a subdataset its
        HEAD's; None where there is none. Raises what reading refs raises.
        """

    def forget(self) -> None:
        """Read modes anew: those of locked files are their objects', which a push changes without a commit."""

    async def at_commit(self, commit: bytes) -> Directory:
        """The top of the same dataset at `commit`, to be renewed as this is. Raises MissingObject, …"""

    async def keep_in(self, kept: KeptObjects, name: bytes) -> None:
        """Keep what the commit consists of, as `name`. Raises as KeptObjects.keep."""


@runtime_checkable
class Unborn(Protocol):
    """A dataset that has no commit to show, as a directory."""

    @property
    def dataset_id(self) -> bytes:
        """The dataset's id."""

    async def shown_at(self, commit: bytes) -> Directory:
        """The top of the dataset at `commit` all the same. Raises MissingObject, …"""
