"""File names for what has names that no file can have.

As the Arvados clients show them: an empty name and ``.`` are ``_``, ``..`` is ``__``, a ``/`` is the cluster's
substitute or ``_``, and so is a NUL. A name that is taken, or longer than a file's can be, has the uuid behind it.
"""

from collections.abc import Iterable

from riafs.formats.names import MAX_NAME, valid_name

_WHOLE = {"": "_", ".": "_", "..": "__"}


def file_names(named: Iterable[tuple[bytes, str]], slash: str = "_") -> list[bytes]:
    """The file name for each (uuid, name), in their order: who comes first has the plain name.

    >>> file_names([(b"u1", "a/b"), (b"u2", "a_b"), (b"u3", "..")])
    [b'a_b', b'a_b (u2)', b'__']
    """
    taken: set[bytes] = set()
    found = []
    for uuid, name in named:
        shown = file_name(name, slash)
        while shown in taken or not valid_name(shown):
            suffix = b" (" + uuid + b")"
            shown = _cut(shown, MAX_NAME - len(suffix)) + suffix
        taken.add(shown)
        found.append(shown)
    return found


def file_name(name: str, slash: str = "_") -> bytes:
    """`name` without what no file name has; it may still be too long."""
    return _WHOLE.get(name, name).replace("/", slash or "_").replace("\0", "_").encode("utf-8", "replace")


def _cut(name: bytes, length: int) -> bytes:
    """At most `length` bytes, no character cut in two."""
    return name if len(name) <= length else name[:length].decode("utf-8", "ignore").encode()
