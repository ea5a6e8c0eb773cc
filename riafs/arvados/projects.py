"""Projects and tags: what they contain, whether that has changed (asked for all of them at once), and file names.

Names become file names as in the Arvados clients: an empty name and ``.`` are ``_``, ``..`` is ``__``, a ``/`` is the
cluster's substitute or ``_``, and so is a NUL. To a name that is taken, or longer than a file's can be, the uuid is
appended.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from riafs.arvados.api import ApiServer, Record
from riafs.arvados.collections import nanoseconds, state_of
from riafs.errors import StoreError
from riafs.formats.names import MAX_NAME, valid_name

_COLLECTION = ("uuid", "name", "owner_uuid", "portable_data_hash", "modified_at")
_PROJECT = ("uuid", "name", "owner_uuid", "modified_at", "group_class")
_PROJECTS = ["group_class", "in", ["project", "filter"]]
_TAGGED = [["link_class", "=", "tag"], ["name", "!=", ""], ["head_uuid", "is_a", "arvados#collection"]]


@dataclass(frozen=True, slots=True)
class Item:
    """A collection or project, and the name it has where it lies."""

    uuid: bytes
    name: str | None
    """None for what is not shown where it lies."""
    owner: bytes
    hash: bytes | None
    """Portable data hash of a collection; None for a project."""
    modified_at: str
    chosen: bool = False
    """Whether it is a filter: a project that holds what its filters choose, wherever that lies."""

    @property
    def mtime_ns(self) -> int:
        """Time of the last change."""
        return nanoseconds(self.modified_at)


async def fetch_home(api: ApiServer) -> bytes:
    """The uuid of this user, which is that of the home project. Raises as ApiServer.get."""
    uuid = (await api.get("users/current")).get("uuid")
    if not isinstance(uuid, str):
        raise StoreError(f"{api.host} does not say who this user is")
    return uuid.encode()


async def fetch_project(api: ApiServer, uuid: bytes) -> Record:
    """The record of a project. Raises as ApiServer.get."""
    return await api.get(f"groups/{uuid.decode('ascii')}")


async def fetch_contents(api: ApiServer, owners: AbstractSet[bytes]) -> list[Item]:
    """What lies directly in the projects `owners`, projects first, each kind by uuid. Raises as ApiServer.get."""
    inside = _inside(owners)
    projects = await api.all("groups", [inside, _PROJECTS], _PROJECT)
    collections = await api.all("collections", [inside], _COLLECTION)
    return [*map(_project, projects), *map(_collection, collections)]


async def fetch_chosen(api: ApiServer, uuid: bytes) -> list[Item]:
    """What a filter chooses, projects first, each kind by uuid. Raises as ApiServer.get."""
    path = f"groups/{uuid.decode('ascii')}/contents"
    projects = await api.all(path, [["uuid", "is_a", "arvados#group"], _PROJECTS], _PROJECT)
    collections = await api.all(path, [["uuid", "is_a", "arvados#collection"]], _COLLECTION)
    return [*map(_project, projects), *map(_collection, collections)]


async def contents_signature(api: ApiServer, owners: AbstractSet[bytes]) -> object:
    """Another value after something in the projects `owners` was made, changed or removed: two requests, whatever they
    hold. Raises as ApiServer.get."""
    inside = _inside(owners)
    return await api.newest("groups", [inside, _PROJECTS]), await api.newest("collections", [inside])


def signature_of(items: Sequence[Item]) -> object:
    """The `contents_signature` of projects that hold `items`."""
    return tuple(
        (len(times), [max(times)] if times else [])
        for times in (
            [item.modified_at for item in items if item.hash is None],
            [item.modified_at for item in items if item.hash is not None],
        )
    )


async def fetch_shared(api: ApiServer) -> list[Item]:
    """The owners of what is shared with this user: people, and projects whose owner this user cannot see.

    Raises as ApiServer.get.
    """
    found: dict[bytes, Item] = {}
    last = ""
    while True:
        after = [["uuid", ">", last]] if last else []
        answer = await api.get(
            "groups/shared", filters=[_PROJECTS, *after], include="owner_uuid", order=["uuid asc"], limit=1000
        )
        items = api.items("groups/shared", answer)
        found |= {item.uuid: item for item in _owners(items, api.items("groups/shared", answer, "included"))}
        if not items or answer.get("items_available") == len(items):
            return sorted(found.values(), key=lambda item: item.uuid)
        last = str(items[-1]["uuid"])


def _owners(items: Sequence[Record], included: Sequence[Record]) -> list[Item]:
    known = {owner["uuid"]: owner for owner in included}
    owners = [known.get(item.get("owner_uuid"), item) for item in items]
    return [_project({**owner, "name": owner.get("name") or owner.get("full_name")}) for owner in owners]


async def fetch_tags(api: ApiServer) -> list[tuple[str, bytes]]:
    """(tag, uuid or portable data hash) for every tagged collection. Raises as ApiServer.get."""
    links = await api.all("links", _TAGGED, ("uuid", "name", "head_uuid"))
    return sorted({(str(link.get("name")), str(link.get("head_uuid")).encode()) for link in links})


async def tags_signature(api: ApiServer) -> object:
    """Another value after a tag was given or taken. Raises as ApiServer.get."""
    return await api.newest("links", _TAGGED)


def _inside(owners: AbstractSet[bytes]) -> Sequence[object]:
    return ["owner_uuid", "in", sorted(owner.decode("ascii") for owner in owners)]


def _project(record: Record) -> Item:
    chosen = record.get("group_class") == "filter"
    return Item(record["uuid"].encode(), *_named(record), None, str(record.get("modified_at") or ""), chosen)


def _collection(record: Record) -> Item:
    return Item(record["uuid"].encode(), *_named(record), state_of(record).hash, str(record.get("modified_at") or ""))


def _named(record: Record) -> tuple[str | None, bytes]:
    name = record.get("name")
    return (name if isinstance(name, str) else None), str(record.get("owner_uuid") or "").encode()


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
