"""The modes of new files and directories of a dataset, as git and git-annex give them.

Files and directories are created with the modes that any program asks for (0444, 0666, 0777), so that the kernel
applies the umask, or the directory's default access control list. Then ``core.sharedRepository`` is applied, as in
git's ``adjust_shared_perm``: ``group`` adds the group's bits, ``all`` also the others', an octal number is the mode
itself; directories become setgid, so that their files keep their group. Objects are never writable.
"""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

FILE_MODE = 0o666
DIRECTORY_MODE = 0o777
"""What programs ask for, before umask and sharing."""
_OCTAL = re.compile(rb"0*([0-7]{3})")
_GROUP = frozenset((b"group", b"true", b"1", b"yes", b"on"))
_EVERYBODY = frozenset((b"all", b"world", b"everybody", b"2"))


@dataclass(frozen=True, slots=True)
class Sharing:
    """`shared`: the bits that a file must have, None where nothing is added; `exact`: and no others."""

    shared: int | None
    exact: bool = False

    def adjusted(self, mode: int) -> int:
        """The type and permissions that a new file or directory gets which was made with `mode`."""
        if self.shared is None:
            return mode
        added = self.shared if mode & 0o200 else self.shared & 0o555
        if mode & 0o100:
            added |= (added & 0o444) >> 2
        mode = (mode & ~0o777 if self.exact else mode) | added
        if stat.S_ISDIR(mode):
            mode |= (mode & 0o444) >> 2
            mode |= stat.S_ISGID if mode & 0o060 else 0
        return mode

    def settle(self, descriptor: int) -> None:
        """Give what was just made, and is open as `descriptor`, the modes that the dataset asks for. Raises OSError."""
        mode = os.fstat(descriptor).st_mode
        wanted = self.adjusted(mode)
        if wanted != mode:
            os.fchmod(descriptor, stat.S_IMODE(wanted))


UNSHARED = Sharing(None)
"""The umask decides alone."""


def object_mode(*, executable: bool) -> int:
    """What a new object is made with: writable by nobody."""
    return 0o555 if executable else 0o444


def with_executable(mode: int, *, executable: bool) -> int:
    """`mode` with the executable bits of all who can read, or without any; nobody can write who could not before."""
    mode &= 0o666
    return mode | ((mode & 0o444) >> 2 if executable else 0)


def parse_sharing(settings: Iterable[tuple[bytes, bytes | None]]) -> Sharing:
    """From a repository's configuration: (name, value) pairs, of which the last of a name counts."""
    value = b"umask"
    for name, text in settings:
        if name == b"core.sharedrepository":
            value = b"true" if text is None else text.lower()
    if octal := _OCTAL.fullmatch(value):
        return Sharing(int(octal[1], 8) & 0o666 | 0o600, exact=True)
    if value in _GROUP:
        return Sharing(0o660)
    return Sharing(0o664) if value in _EVERYBODY else UNSHARED
