"""Sources as a user writes them: RIA URLs, plain paths, and ``url.<base>.insteadOf`` applied to either.

``ria+{file,ssh,http,https}://[user[:password]@]host[:port]/path/to/store[#(<id>|~<alias>)[@<version>]]``, read as
DataLad reads it: the fragment begins at the first ``#``, the version at the first ``@`` in it, the path is
percent-decoded and the fragment is not. Text is `str` only here, at the edge; what names something in a store is bytes,
non-ASCII text in the file system's encoding with surrogate escapes. Passwords never appear in messages.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote_to_bytes

from riafs.errors import BadSource
from riafs.formats.names import valid_name
from riafs.formats.text import on_disk

SCHEMES = ("file", "ssh", "http", "https")
_KNOWN = "ria+file, ria+ssh, ria+http, ria+https, keep+file, keep+http, keep+https, arvados"
_SPLIT_AT = 3
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/#?]*)(?P<path>[^#]*)(?:#(?P<fragment>.*))?", re.DOTALL
)
_HOST = re.compile(
    r"(?:(?P<user>[^@\s]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:\[\]\s]+)(?::(?P<port>\d{0,5}))?", re.DOTALL
)
_PASSWORD = re.compile(r"(://[^/@:#]*):(?!\d*(?:[/#]|$)).*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RiaUrl:
    """A store, or one dataset of it, possibly at a version. At most one of `dataset` and `alias` is given."""

    scheme: str
    """One of SCHEMES."""
    host: str | None
    """``[user[:password]@]host[:port]``; None for ``file``."""
    path: bytes
    """The store's root, as it is on disk; absolute, except where a plain relative path was given."""
    dataset: bytes | None
    alias: bytes | None
    """Without the ``~``; components are valid names."""
    version: bytes | None
    """A branch, tag or commit; only where a dataset or alias is named."""

    @property
    def local(self) -> bool:
        """Whether no other machine is needed."""
        return self.scheme == "file"

    def __str__(self) -> str:
        """The source for messages, without a password."""
        label = self.dataset if self.alias is None else b"~" + self.alias
        fragment = "" if label is None else "#" + _text(label)
        version = "" if self.version is None else "@" + _text(self.version)
        return redact(f"ria+{self.scheme}://{self.host or ''}{_text(self.path)}") + fragment + version


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A source after ``insteadOf``."""

    url: str
    reason: str
    """Why a rule that matches was not applied, to be logged; empty otherwise."""


def parse_ria_url(text: str) -> RiaUrl:
    """The source that a ``ria+…://`` URL names. Raises BadSource."""
    match = _URL.fullmatch(text)
    if match is None or not match["scheme"].startswith("ria+"):
        raise _bad(text, "is no RIA URL (ria+file://, ria+ssh://, ria+http://, ria+https://)")
    scheme = match["scheme"].removeprefix("ria+")
    if scheme not in SCHEMES:
        raise _bad(text, f"has the unknown scheme ria+{scheme} (known: file, ssh, http, https)")
    host = None if scheme == "file" else _host(text, match["authority"])
    path = _path(text, scheme, match["path"])
    dataset, alias, version = _fragment(text, match["fragment"])
    return RiaUrl(scheme, host, path, dataset, alias, version)


def parse_source(text: str) -> RiaUrl:
    """The source that a RIA URL or a plain path, with or without a fragment, names. Raises BadSource.

    In a plain path ``#`` may be part of a directory's name: the fragment begins at the last one, unless what follows it
    can only be more of the path (a ``/`` before any ``@``, and no ``~``). A store whose path is still misread this way
    can be given as ``ria+file://`` with ``%23``. Nothing in a plain path is percent-decoded, and it may be relative.
    """
    match = _URL.fullmatch(text)
    if match is not None:
        if not match["scheme"].startswith("ria+"):
            raise _bad(text, f"has the unknown scheme {match['scheme']} (known: {_KNOWN})")
        return parse_ria_url(text)
    path, fragment = _split_path(text)
    dataset, alias, version = _fragment(text, fragment)
    if not path:
        raise _bad(text, "names no store")
    return RiaUrl("file", None, on_disk(path, partial(_bad, text)), dataset, alias, version)


def rewrite(url: str, rules: Sequence[tuple[str, str]]) -> Rewritten:
    """`url` after the ``insteadOf`` rules (base, prefix) that git's configuration holds, applied once.

    As in DataLad the rule with the longest prefix wins, and where different bases have that prefix none does.
    """
    matching = [(base, prefix) for base, prefix in rules if prefix and url.startswith(prefix)]
    if not matching:
        return Rewritten(url, "")
    longest = max((prefix for _, prefix in matching), key=len)
    bases = {base for base, prefix in matching if prefix == longest}
    if len(bases) > 1:
        reason = f"insteadOf = {redact(longest)} is configured for {len(bases)} different URLs, so none is used"
        return Rewritten(url, reason)
    return Rewritten(bases.pop() + url[len(longest) :], "")


def redact(url: str) -> str:
    """`url` with its password, if it has one, replaced by ``***``; rather too much than too little."""
    return _PASSWORD.sub(r"\1:***@", url)


def _host(text: str, authority: str) -> str:
    """The authority if it is one that may be given to ssh or a HTTP client: no option, no blanks, a possible port."""
    match = _HOST.fullmatch(authority)
    if match is None or not authority.isprintable():
        raise _bad(text, "names no host" if not authority else "has no valid host")
    if authority.startswith("-") or match["host"].startswith("-"):
        raise _bad(text, "has a host that begins with '-'")
    if match["port"] and not 0 < int(match["port"]) < 1 << 16:
        raise _bad(text, f"has the impossible port {match['port']}")
    return authority


def _path(text: str, scheme: str, quoted: str) -> bytes:
    if "?" in quoted:
        raise _bad(text, "has a query; a '?' in a path is written %3F")
    if not quoted and scheme.startswith("http"):
        return b"/"
    path = unquote_to_bytes(on_disk(quoted, partial(_bad, text)))
    if not path.startswith(b"/"):
        raise _bad(text, "has no absolute path to a store")
    if b"\0" in path:
        raise _bad(text, "has a NUL in its path")
    return path.rstrip(b"/") or b"/"


def _fragment(text: str, fragment: str | None) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Dataset id, alias and version."""
    if fragment is None:
        return None, None, None
    label, at, version = on_disk(fragment, partial(_bad, text)).partition(b"@")
    if at and not version:
        raise _bad(text, "has nothing after the '@'")
    if label.startswith(b"~"):
        alias = label[1:]
        if not all(map(valid_name, alias.split(b"/"))):
            raise _bad(text, f"names the impossible alias {_text(label)!r}")
        return None, alias, version or None
    if not (valid_name(label[:_SPLIT_AT]) and valid_name(label[_SPLIT_AT:])):
        raise _bad(
            text, f"names the impossible dataset id {_text(label)!r}; an alias is written #~{_text(label) or 'alias'}"
        )
    return label, None, version or None


def _split_path(text: str) -> tuple[str, str | None]:
    path, mark, fragment = text.rpartition("#")
    continues = not fragment.startswith("~") and "/" in fragment.partition("@")[0]
    return (text, None) if not mark or continues else (path, fragment)


def _text(on_disk: bytes) -> str:
    return os.fsdecode(on_disk)


def _bad(text: str, what: str) -> BadSource:
    return BadSource(f"source {redact(text)!r} {what}")
