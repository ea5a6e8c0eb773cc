"""Sources as a user writes them: RIA stores, Keep places with manifests, Arvados clusters, plain paths.

``ria+{file,ssh,http,https}://[user[:password]@]host[:port]/path/to/store[#(<id>|~<alias>)[@<version>]]`` is read as
DataLad reads it: the fragment begins at the first ``#``, the version at the first ``@`` in it, the path is
percent-decoded and the fragment is not. ``url.<base>.insteadOf`` is applied by `rewrite`.

``keep+file://VOLUME[,VOLUME…]?manifests=WHERE[&tree=FILE][#NAME]``, ``keep+http://SERVER[,SERVER…]?…``,
``keep+https://…`` and ``arvados://HOST[:PORT][?tree=FILE][#UUID|#HASH]``: paths are percent-decoded after they were
split (a comma in a volume's path is written ``%2C``), the fragment is taken as it is. WHERE is a directory of manifest
files, one manifest file, ``-`` for standard input, or the locator of a manifest that is stored in Keep. None of them
can hold a token: user names and passwords are refused.

Text is `str` only here, at the edge; names on disk are bytes, non-ASCII text in the file system's encoding with
surrogate escapes. Passwords never appear in messages.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote_to_bytes

from riafs.errors import BadSource, MalformedLocator
from riafs.formats.locators import Locator, is_identifier, parse_locator
from riafs.formats.names import valid_name

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
KEEP_SCHEMES = ("file", "http", "https")
STANDARD_INPUT = b"-"
_KEEP = re.compile(
    r"keep\+(?P<scheme>[^:/]*)://(?P<places>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?", re.DOTALL
)
_ARVADOS = re.compile(
    r"arvados://(?P<host>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?", re.DOTALL
)
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
_SAFE = "/:@+~=!$'()*;-._[] "


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
        fragment = "" if label is None else "#" + os.fsdecode(label)
        version = "" if self.version is None else "@" + os.fsdecode(self.version)
        return redact(f"ria+{self.scheme}://{self.host or ''}{os.fsdecode(self.path)}") + fragment + version


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A source after ``insteadOf``."""

    url: str
    reason: str
    """Why a rule that matches was not applied, to be logged; empty otherwise."""


# -- RIA stores and plain paths ---------------------------------------------------------------------------------------


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


def parse_ria_source(text: str) -> RiaUrl:
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
    return RiaUrl("file", None, _on_disk(text, path), dataset, alias, version)


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
    path = unquote_to_bytes(_on_disk(text, quoted))
    if not path.startswith(b"/"):
        raise _bad(text, "has no absolute path to a store")
    if b"\0" in path:
        raise _bad(text, "has a NUL in its path")
    return path.rstrip(b"/") or b"/"


def _fragment(text: str, fragment: str | None) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Dataset id, alias and version."""
    if fragment is None:
        return None, None, None
    label, at, version = _on_disk(text, fragment).partition(b"@")
    if at and not version:
        raise _bad(text, "has nothing after the '@'")
    if label.startswith(b"~"):
        alias = label[1:]
        if not all(map(valid_name, alias.split(b"/"))):
            raise _bad(text, f"names the impossible alias {os.fsdecode(label)!r}")
        return None, alias, version or None
    if not (valid_name(label[:_SPLIT_AT]) and valid_name(label[_SPLIT_AT:])):
        name = os.fsdecode(label)
        raise _bad(text, f"names the impossible dataset id {name!r}; an alias is written #~{name or 'alias'}")
    return label, None, version or None


def _split_path(text: str) -> tuple[str, str | None]:
    path, mark, fragment = text.rpartition("#")
    continues = not fragment.startswith("~") and "/" in fragment.partition("@")[0]
    return (text, None) if not mark or continues else (path, fragment)


@dataclass(frozen=True, slots=True)
class KeepUrl:
    """Block servers or volumes, and the manifests of what is stored there."""

    scheme: str
    """One of KEEP_SCHEMES."""
    places: tuple[bytes, ...]
    """``file``: paths of volumes; else ``host[:port]``. At least one, each once."""
    manifests: bytes
    """A path, STANDARD_INPUT, or a locator; paths may be relative until `from_here`."""
    tree: bytes | None
    """The path of a composed tree's file, which then is what the mount shows."""
    collection: bytes | None
    """The name or portable data hash of the one collection that is shown."""

    @property
    def local(self) -> bool:
        """Whether no other machine is needed."""
        return self.scheme == "file"

    @property
    def manifest_locator(self) -> Locator | None:
        """The locator, where the manifest itself is stored in Keep."""
        try:
            return parse_locator(self.manifests)
        except MalformedLocator:
            return None

    def from_here(self, directory: bytes) -> "KeepUrl":
        """This source with relative paths made absolute, from `directory`."""
        own = self.manifests == STANDARD_INPUT or self.manifest_locator is not None
        manifests = self.manifests if own else _absolute(directory, self.manifests)
        return replace(self, manifests=manifests, tree=_absolute_or_none(directory, self.tree))

    def __str__(self) -> str:
        """The source as it can be given again."""
        places = ",".join(_quoted(place, "") for place in self.places)
        locator = self.manifest_locator
        shown = f"manifests={_quoted(self.manifests if locator is None else locator.unsigned, ',')}"
        tree = "" if self.tree is None else f"&tree={_quoted(self.tree, ',')}"
        fragment = "" if self.collection is None else "#" + os.fsdecode(self.collection)
        return f"keep+{self.scheme}://{places}?{shown}{tree}{fragment}"


@dataclass(frozen=True, slots=True)
class ArvadosUrl:
    """A cluster, or one collection or project of it."""

    host: str
    """``host[:port]`` of the API server, always with TLS."""
    identifier: bytes | None
    """A collection's or project's uuid, or a portable data hash."""
    tree: bytes | None = None
    """The path of a composed tree's file, which then is what the mount shows."""

    @property
    def local(self) -> bool:
        """Whether no other machine is needed."""
        return False

    def from_here(self, directory: bytes) -> "ArvadosUrl":
        """This source with relative paths made absolute, from `directory`."""
        return replace(self, tree=_absolute_or_none(directory, self.tree))

    def __str__(self) -> str:
        """The source as it can be given again."""
        tree = "" if self.tree is None else f"?tree={_quoted(self.tree, ',')}"
        return f"arvados://{self.host}{tree}" + ("" if self.identifier is None else "#" + self.identifier.decode())


# -- Keep and Arvados -------------------------------------------------------------------------------------------------


def parse_keep_url(text: str) -> KeepUrl:
    """The source that a ``keep+…://`` URL names. Raises BadSource."""
    match = _KEEP.fullmatch(text)
    if match is None or match["scheme"] not in KEEP_SCHEMES:
        raise _bad(text, "is no Keep URL (keep+file://, keep+http://, keep+https://)")
    places = tuple(_place(text, match["scheme"], part) for part in match["places"].split(","))
    if len(set(places)) < len(places):
        raise _bad(text, "names a place twice")
    options = _query(text, match["query"] or "", ("manifests", "tree"))
    if "manifests" not in options:
        raise _bad(text, "does not say where the manifests are (?manifests=DIR)")
    collection, tree = _collection(text, match["fragment"]), options.get("tree")
    _check_tree(text, tree, collection)
    return KeepUrl(match["scheme"], places, options["manifests"], tree, collection)


def parse_arvados_url(text: str) -> ArvadosUrl:
    """The source that an ``arvados://`` URL names. Raises BadSource."""
    match = _ARVADOS.fullmatch(text)
    if match is None:
        raise _bad(text, "is no Arvados URL (arvados://HOST, arvados://HOST#UUID)")
    host = _server(text, match["host"])
    if match["path"] not in ("", "/"):
        raise _bad(text, "has a path; a collection or project is named as arvados://HOST#UUID")
    tree = _query(text, match["query"] or "", ("tree",)).get("tree")
    if match["fragment"] is None:
        return ArvadosUrl(host, None, tree)
    identifier = _on_disk(text, match["fragment"])
    if not is_identifier(identifier):
        raise _bad(text, "names no uuid of a collection or project and no portable data hash after the '#'")
    _check_tree(text, tree, identifier)
    return ArvadosUrl(host, identifier)


def _check_tree(text: str, tree: bytes | None, named: bytes | None) -> None:
    if tree is not None and named is not None:
        raise _bad(text, "has both tree= and a '#', but can only show one of them")


def _absolute(directory: bytes, path: bytes) -> bytes:
    return os.path.normpath(os.path.join(directory, path))


def _absolute_or_none(directory: bytes, path: bytes | None) -> bytes | None:
    return None if path is None else _absolute(directory, path)


def _place(text: str, scheme: str, part: str) -> bytes:
    if scheme != "file":
        return _server(text, part).encode()
    path = unquote_to_bytes(_on_disk(text, part))
    if b"\0" in path:
        raise _bad(text, "has a NUL in a volume's path")
    if not path.startswith(b"/"):
        raise _bad(text, "has a volume without an absolute path" if path else "has an empty name of a volume")
    return os.path.normpath(path)


def _server(text: str, authority: str) -> str:
    if "@" in authority:
        raise _bad(text, "has a user or password; tokens come from the environment, settings.conf or token-file")
    match = _SERVER.fullmatch(authority)
    if match is None or match["host"].startswith("-"):
        raise _bad(text, "has no valid host" if authority else "names no host")
    if match["port"] and not 0 < int(match["port"]) < 1 << 16:
        raise _bad(text, f"has the impossible port {match['port']}")
    return authority


def _query(text: str, query: str, known: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name not in known:
            raise _bad(text, f"has the unknown part {name!r} after the '?' (known: {', '.join(known)})")
        if name in found:
            raise _bad(text, f"has {name}= twice")
        if not equals or not value:
            raise _bad(text, f"has nothing after {name}")
        found[name] = unquote_to_bytes(_on_disk(text, value))
        if b"\0" in found[name]:
            raise _bad(text, f"has a NUL in {name}")
    return found


def _collection(text: str, fragment: str | None) -> bytes | None:
    if fragment is None:
        return None
    name = _on_disk(text, fragment)
    if not name or b"/" in name or name in (b".", b".."):
        raise _bad(text, "names no possible collection after the '#'")
    return name


def _quoted(path: bytes, also_safe: str) -> str:
    """Percent-encoded where it has to be; other text stays as people read it."""
    text = os.fsdecode(path)
    keep = _SAFE + also_safe
    return "".join(
        each if each in keep or (each.isprintable() and not each.isascii()) else quote(os.fsencode(each))
        for each in text
    )


Source = RiaUrl | KeepUrl | ArvadosUrl


def parse_source(text: str) -> Source:
    """The source that `text` names. Raises BadSource."""
    if text.partition("://")[0] == "arvados":
        return parse_arvados_url(text)
    return parse_keep_url(text) if _names_keep(text) else parse_ria_source(text)


def _names_keep(text: str) -> bool:
    scheme = text.partition("://")[0]
    return scheme == "arvados" or scheme.startswith("keep+")


def _on_disk(text: str, part: str) -> bytes:
    """A part of the source `text`, as names on disk are. Raises BadSource."""
    try:
        encoded = os.fsencode(part)
    except UnicodeEncodeError as error:
        raise _bad(text, "has characters that no file name can have") from error
    if b"\0" in encoded:
        raise _bad(text, "has a NUL")
    return encoded


def _bad(text: str, what: str) -> BadSource:
    """Passwords are left out, and of sources of Keep, which have no users, everything before an ``@``."""
    shown = re.sub(r"(://[^?#]*?)[^/,?#]*@", r"\1***@", text) if _names_keep(text) else redact(text)
    return BadSource(f"source {shown!r} {what}")
