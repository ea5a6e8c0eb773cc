"""Which modes new files and directories of a dataset get: the umask's, or what ``core.sharedRepository`` asks for.

As git and git-annex have it: ``group`` adds the group's bits, ``all`` also the others', an octal number says the mode
itself; directories become setgid, so that what is made in them keeps their group. Objects are never writable.
"""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

_OCTAL = re.compile(rb"0?[0-7]{3}")
_GROUP = frozenset((b"group", b"true", b"1", b"yes", b"on"))
_EVERYBODY = frozenset((b"all", b"world", b"everybody", b"2"))


@dataclass(frozen=True, slots=True)
class Sharing:
    """`shared`: the bits that a file must have, None where the umask decides; `exact`: and no others."""

    shared: int | None
    exact: bool
    umask: int

    def object_mode(self, *, executable: bool) -> int:
        """Of an object: readable by whom the dataset is shared with, writable by nobody."""
        mode = self.file_mode() & 0o444
        return mode | (mode >> 2 if executable else 0)

    def file_mode(self) -> int:
        """Of other files."""
        plain = 0o666 & ~self.umask
        if self.shared is None:
            return plain
        return self.shared if self.exact else plain | self.shared

    def directory_mode(self) -> int:
        """Of directories, with the bit that keeps their group where the dataset is shared."""
        mode = self.file_mode()
        mode |= (mode & 0o444) >> 2
        return mode if self.shared is None else mode | stat.S_ISGID


def parse_sharing(settings: Iterable[tuple[bytes, bytes | None]], umask: int) -> Sharing:
    """From a repository's configuration: (name, value) pairs, of which the last of a name counts."""
    value = b"umask"
    for name, text in settings:
        if name == b"core.sharedrepository":
            value = b"true" if text is None else text.lower()
    if _OCTAL.fullmatch(value):
        return Sharing(int(value, 8) & 0o666 | 0o600, exact=True, umask=umask)
    if value in _GROUP:
        return Sharing(0o660, exact=False, umask=umask)
    return Sharing(0o664 if value in _EVERYBODY else None, exact=False, umask=umask)


def current_umask() -> int:
    """This process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
