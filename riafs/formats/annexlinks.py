"""How a tree says that a file is annexed, as git-annex writes it: the text of a locked link and of a pointer file."""

from riafs.formats.hashdirs import hash_mixed
from riafs.formats.keys import Key


def locked_target(key: Key, path: bytes) -> bytes:
    """The target of the link at `path` (from the dataset's top), without a line end.

    The hash directories are those of a working tree: mixed case, of the unescaped key.
    """
    up = b"../" * path.count(b"/")
    name = key.file_name
    return b"%b.git/annex/objects/%b/%b/%b" % (up, hash_mixed(key.serialised), name, name)


def pointer_text(key: Key) -> bytes:
    """The content of an unlocked file in git."""
    return b"/annex/objects/" + key.file_name + b"\n"
