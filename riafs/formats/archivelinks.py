"""URLs of DataLad's archives remote: content that is a member of an annexed archive.

``dl+archive:KEY#path=dir/a+b%26c.txt&size=3000`` is what ``datalad add-archive-content`` registers (seen with DataLad
1.7.1; the fragment is a form, so that a blank is ``+``). Older ones have the path behind the key, percent-encoded:
``dl+archive:KEY/dir/c.txt#size=3``. On the git-annex branch a colon before it says that a special remote handles it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from riafs.errors import MalformedKey
from riafs.formats.keys import Key, parse_key

_SCHEME = b"dl+archive:"


@dataclass(frozen=True, slots=True)
class ArchiveLink:
    """A member of the archive that the key `archive` holds."""

    archive: Key
    path: bytes
    """As the archive has it, ``/`` between parts."""
    size: int | None
    """Bytes of the member, where the URL says so."""


def archive_links(urls: Iterable[bytes]) -> tuple[ArchiveLink, ...]:
    """What the URLs of a key (``.log.web``) say of archives; others, and those that do not parse, are left out."""
    links = (_link(url.removeprefix(b":")) for url in urls)
    return tuple(dict.fromkeys(link for link in links if link is not None))


def _link(url: bytes) -> ArchiveLink | None:
    if not url.startswith(_SCHEME):
        return None
    name, _, fragment = url.removeprefix(_SCHEME).partition(b"#")
    key, _, old_path = name.partition(b"/")
    form = dict(field.partition(b"=")[::2] for field in fragment.split(b"&"))
    path = unquote_to_bytes(form.get(b"path", b"").replace(b"+", b" ")) or unquote_to_bytes(old_path)
    size = form.get(b"size", b"")
    try:
        archive = parse_key(key)
    except MalformedKey:
        return None
    if not path or b"\0" in path:
        return None
    return ArchiveLink(archive, path, int(size) if size.isdigit() and len(size) < 19 else None)
