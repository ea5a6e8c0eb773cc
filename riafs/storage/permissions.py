"""The modes of new files and directories of a dataset, the same as git and git-annex set.

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
"""The modes that programs request, before umask and sharing."""
_OCTAL = re.compile(rb"0*([0-7]{3})")
_GROUP = frozenset((b"group", b"true", b"1", b"yes", b"on"))
_EVERYBODY = frozenset((b"all", b"world", b"everybody", b"2"))


@dataclass(frozen=True, slots=True)
class Sharing:
    """The setting core.sharedRepository. `shared`: the bits that a file must have, None where nothing is added;
    `exact`: it has no others.
    """

    shared: int | None
    exact: bool = False

    def adjusted(self, mode: int) -> int:
        """The type and permissions for a new file or directory that was created with `mode`."""
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

    def apply(self, descriptor: int) -> None:
        """Set the mode of the new file or directory that is open as `descriptor`. Raises OSError."""
        mode = os.fstat(descriptor).st_mode
        wanted = self.adjusted(mode)
        if wanted != mode:
            os.fchmod(descriptor, stat.S_IMODE(wanted))


UNSHARED = Sharing(None)
"""Only the umask decides."""


def object_mode(*, executable: bool) -> int:
    """The mode that a new object is created with: writable by no user."""
    return 0o555 if executable else 0o444


def with_executable(mode: int, *, executable: bool) -> int:
    """The permissions in `mode` with an executable bit beside each read bit, or without any executable bit."""
    mode &= 0o666
    return mode | ((mode & 0o444) >> 2 if executable else 0)


def parse_sharing(settings: Iterable[tuple[bytes, bytes | None]]) -> Sharing:
    """The sharing in a repository's configuration: (name, value) pairs, of which the last of a name counts."""
    value = b"umask"
    for name, text in settings:
        if name == b"core.sharedrepository":
            value = b"true" if text is None else text.lower()
    if octal := _OCTAL.fullmatch(value):
        return Sharing(int(octal[1], 8) & 0o666 | 0o600, exact=True)
    if value in _GROUP:
        return Sharing(0o660)
    return Sharing(0o664) if value in _EVERYBODY else UNSHARED
