"""The two hash directories under which git-annex and ORA keep an object, and the order in which to try them.

Both are made from the MD5 of a serialised key without its chunk fields. git-annex hashes the key itself, DataLad's ORA
hashes its escaped form; they differ for keys with ``/ : % &`` (URL, VURL, WORM), so that both have to be tried.
"""

import hashlib

from riafs.formats.keys import Key, escape
from riafs.formats.layout import Layout

_ALPHABET = b"0123456789zqjxkmvwgpfZQJXKMVWGPF"
# Two letters for 11 bits of the hash: letters are 5 bits each, taken every 6 bits, the later one written first.
_LETTERS = tuple(bytes((_ALPHABET[(bits >> 6) & 31], _ALPHABET[bits & 31])) for bits in range(1 << 11))
_MASK = (1 << 11) - 1


def hash_lower(name: bytes) -> bytes:
    """The lower-case directories of layout 1 and of the git-annex branch, for example ``e43/794``."""
    return _lower(_digest(name))


def hash_mixed(name: bytes) -> bytes:
    """The mixed-case directories of layout 2 and of a working tree, for example ``F4/53``."""
    return _mixed(_digest(name))


def object_directories(key: Key, first: Layout) -> tuple[bytes, ...]:
    """Where below ``annex/objects`` the directory of `key` may be, likeliest first, two or four without repeats.

    The dataset's own layout `first` comes before the other one, ORA's hash of the escaped key before git-annex's.
    """
    serialised = key.unchunked().serialised
    escaped = escape(serialised)
    digest = _digest(escaped)
    lower, mixed = _lower(digest), _mixed(digest)
    if escaped == serialised:
        return (lower, mixed) if first is Layout.LOWER else (mixed, lower)
    plain = _digest(serialised)
    lowers, mixeds = (lower, _lower(plain)), (mixed, _mixed(plain))
    ordered = lowers + mixeds if first is Layout.LOWER else mixeds + lowers
    return tuple(dict.fromkeys(ordered))


def likely_path(file_name: bytes, layout: Layout) -> bytes:
    """Where below ``annex/objects`` ORA puts the object of the key with that file name, which is no chunk's."""
    digest = _digest(file_name)
    return b"%b/%b/%b" % (_lower(digest) if layout is Layout.LOWER else _mixed(digest), file_name, file_name)


def _digest(name: bytes) -> bytes:
    return hashlib.md5(name, usedforsecurity=False).digest()


def _lower(digest: bytes) -> bytes:
    text = digest[:3].hex().encode()
    return text[:3] + b"/" + text[3:]


def _mixed(digest: bytes) -> bytes:
    word = int.from_bytes(digest[:4], "little")
    return _LETTERS[word & _MASK] + b"/" + _LETTERS[(word >> 12) & _MASK]
