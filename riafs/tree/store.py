"""A RIA store: which datasets it holds, under which ids and aliases, and how each is opened.

Invariants: one Dataset object per dataset and mount, however it was reached; a dataset that cannot be opened fails
alone.
"""

import logging
import os
import re
from collections.abc import Sequence

from riafs.content.annex import AnnexContents
from riafs.content.branch import AnnexBranch
from riafs.content.special_remotes import KeyLocations
from riafs.errors import NotInStore, RiafsError, SourceNotFound
from riafs.formats.annex import parse_dataset_version, parse_store_version
from riafs.formats.names import valid_name
from riafs.git.object_source import repository_place
from riafs.git.repository import Repository
from riafs.storage.protocol import Item, ItemKind, Storage
from riafs.tree.dataset import Dataset, RefWatch
from riafs.tree.dataset_files import read_layout_version
from riafs.tree.subdatasets import RegisteredDatasets
from riafs.tree.tools import StoreTools

log = logging.getLogger(__name__)

_DATASET_PATH = re.compile(rb"([^/]+)/([^/]+)")
_SPLIT = 3  # characters of an id that name the first directory
ALIASES = b"alias"
DATASET_SIGNS = (b"HEAD", b"annex/objects", b"archives")
"""What a dataset has: a bare repository, or objects, or an archive."""


class Store:
    """The store in `storage`. Opened with `open`, which looks at its version file."""

    def __init__(self, storage: Storage, tools: StoreTools) -> None:
        self.storage = storage
        self._tools = tools
        self._datasets: dict[bytes, Dataset] = {}
        self._followed_aliases: set[bytes] = set()
        self._watch = RefWatch(storage)
        self.subdatasets = RegisteredDatasets(self, tools.git.gits, tools.instead_of)

    @classmethod
    async def open(cls, storage: Storage, tools: StoreTools) -> "Store":
        """The store in `storage`. Raises SourceNotFound where there is none, StoreDenied, StoreTimeout, StoreError."""
        store = cls(storage, tools)
        text = await read_layout_version(storage)
        version = parse_store_version(text)
        if await store._is_dataset() and not await store._has_datasets():
            raise SourceNotFound(f"{storage.name} is the directory of a dataset, not a store")
        if text is None and not await store._has_datasets():
            raise SourceNotFound(
                f"{storage.name} is not a RIA store: it has neither a ria-layout-version file nor datasets"
            )
        if not version.known:
            log.warning("%s: %s; it is shown as it is", storage.name, version.reason)
        return store

    async def _is_dataset(self) -> bool:
        """Whether the root itself looks like a dataset."""
        return any(await self.storage.stat_objects(b"", DATASET_SIGNS))

    async def _has_datasets(self) -> bool:
        """Whether anything in the place of a dataset looks like one."""
        paths = await self.dataset_paths()
        signs = [path + b"/" + sign for path in paths for sign in DATASET_SIGNS]
        return any(await self.storage.stat_objects(b"", signs))

    # -- which datasets -----------------------------------------------------------------------------------------------

    async def prefixes(self) -> list[bytes]:
        """The directories of the root that hold datasets, by the first characters of their ids."""
        if self.storage.listing is None:
            return []
        items = [item for item in await self.storage.listing.list(b"") if len(os.fsdecode(item.name)) == _SPLIT]
        return await self._directories(b"", items)

    async def dataset_paths(self) -> list[bytes]:
        """The store's path of every dataset directory, sorted by id; none where the store cannot list them."""
        if self.storage.listing is None:
            return []
        firsts = await self.prefixes()
        found = []
        for first, items in zip(firsts, await self.storage.listing.list_each(firsts), strict=True):
            found += await self._directories(first + b"/", [item for item in items if valid_name(item.name)])
        return sorted(found)

    async def _directories(self, above: bytes, items: Sequence[Item]) -> list[bytes]:
        """The paths of directories among `items`, and of links to some."""
        found = []
        for item in items:
            path = above + item.name
            if item.kind is ItemKind.DIRECTORY or (item.kind is ItemKind.LINK and await self._is_directory(path)):
                found.append(path)
        return found

    async def _is_directory(self, link: bytes) -> bool:
        try:
            return (await self.storage.stat(link)).kind is ItemKind.DIRECTORY
        except RiafsError as error:
            log.warning("%s is left out: %s", os.fsdecode(link), error)
            return False

    async def path_of_id(self, identifier: bytes) -> bytes:
        """The store's path for a dataset id. Raises SourceNotFound."""
        text = os.fsdecode(identifier)
        path = os.fsencode(f"{text[:_SPLIT]}/{text[_SPLIT:]}")
        if len(text) > _SPLIT and b"/" not in identifier:
            try:
                if (await self.storage.stat(path)).kind is ItemKind.DIRECTORY:
                    return path
            except NotInStore:
                pass
        raise SourceNotFound(f"store {self.storage.name} has no dataset with the id {text}")

    async def path_of_alias(self, alias: bytes) -> bytes:
        """The store's path for an alias. Raises SourceNotFound."""
        [path] = await self.resolve_aliases([ALIASES + b"/" + alias])
        if isinstance(path, NotInStore):
            raise SourceNotFound(f"store {self.storage.name} has no dataset with the alias {os.fsdecode(alias)}")
        if isinstance(path, RiafsError):
            raise path
        if not self.is_dataset(path):
            raise SourceNotFound(f"alias {os.fsdecode(alias)} of store {self.storage.name} leads to no dataset")
        return path

    async def resolve_aliases(self, aliases: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        """The store's path that each of `aliases` (store's paths below ``alias``) leads to, or why it leads nowhere.

        Of a dataset whose directory is a link out of the store an alias may know that other place.
        """
        if self.storage.links is None:
            return await self._followed(aliases)
        found = list(await self.storage.links.resolve_each(aliases))
        away = [index for index, alias in enumerate(aliases) if await self._leads_away(alias, found[index])]
        if away:
            paths = await self.dataset_paths()
            places = {(await self.storage.stat(path)).path_identity: path for path in paths}
            for index in away:
                identity = (await self.storage.stat(aliases[index])).path_identity
                nothing = f"alias {os.fsdecode(aliases[index])} of store {self.storage.name} leads to no dataset"
                found[index] = places.get(identity) or SourceNotFound(nothing)
        return found

    async def _followed(self, aliases: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        """`aliases` themselves where the server follows their links, and does not say where they lead."""
        statuses = await self.storage.stat_objects(b"", aliases)
        signs = await self.storage.stat_objects(
            b"", [alias + b"/" + sign for alias in aliases for sign in DATASET_SIGNS]
        )
        found: list[bytes | RiafsError] = []
        for index, (alias, status) in enumerate(zip(aliases, statuses, strict=True)):
            if any(signs[index * len(DATASET_SIGNS) : (index + 1) * len(DATASET_SIGNS)]):
                self._followed_aliases.add(alias)
            missing = NotInStore(f"{self.storage.name}/{os.fsdecode(alias)} does not exist")
            found.append(missing if status is None else alias)
        return found

    def is_dataset(self, path: bytes) -> bool:
        """Whether a store's path is that of a dataset: by its id, or an alias that the server follows by itself."""
        return is_dataset_path(path) or path in self._followed_aliases

    async def dataset_at(self, path: bytes) -> bytes | None:
        """The store's path of the dataset that a store's path leads to, through an alias or another link, if any."""
        [found] = await self.resolve_aliases([path])
        return found if isinstance(found, bytes) and self.is_dataset(found) else None

    async def alias_directories(self) -> list[bytes]:
        """The store's paths of ``alias`` and the directories below it."""
        found = [ALIASES]
        if self.storage.listing is None:
            return found
        for above in found:  # it grows meanwhile
            [items] = await self.storage.listing.list_each([above])
            names = [item.name for item in items if item.kind is ItemKind.DIRECTORY and valid_name(item.name)]
            found += [above + b"/" + name for name in names]
        return found

    async def _leads_away(self, alias: bytes, found: bytes | RiafsError) -> bool:
        """Whether an alias is a link out of the store that may be followed."""
        if found != alias:
            return False
        [status] = await self.storage.stat_objects(b"", [alias])
        return status is not None and status.kind is ItemKind.LINK

    # -- datasets -----------------------------------------------------------------------------------------------------

    async def dataset(self, path: bytes) -> Dataset:
        """The dataset at the store's path `path`, opened at most once. Raises StoreError, GitError, …"""
        known = self._datasets.get(path)
        if known is None:
            opened = await self._open(path)
            known = self._datasets.setdefault(path, opened)  # another task may have been faster
            self._tools.counters.datasets_opened += known is opened
        return known

    async def _stored_elsewhere(self, identifier: bytes) -> KeyLocations | None:
        """The places of a dataset's content in this store, by its id (see content/special_remotes)."""
        try:
            return (await self.dataset(await self.path_of_id(identifier))).contents.stored_locations
        except RiafsError:
            return None

    async def _open(self, path: bytes) -> Dataset:
        identifier = path.replace(b"/", b"")
        name = os.fsdecode(identifier)
        version = parse_dataset_version(await read_layout_version(self.storage, path))
        if not version.known:
            log.warning("dataset %s in %s: %s", name, self.storage.name, version.reason)
        place = await repository_place(self.storage, path, self._tools.mirror)
        repository = Repository(place, self._tools.git, name, self._tools.seconds)
        contents = AnnexContents(
            self.storage,
            path,
            identifier,
            version.layout,
            AnnexBranch(repository),
            self._tools.content,
            self._stored_elsewhere,
        )
        return Dataset(
            path=path,
            identifier=identifier,
            name=name,
            storage=self.storage,
            repository=repository,
            contents=contents,
            subdatasets=self.subdatasets,
            watch=self._watch,
            listings=self._tools.listings,
            times=self._tools.times,
            checkouts=self._tools.checkouts,
            changes=self._tools.changes,
            counters=self._tools.counters,
        )


def is_dataset_path(path: bytes) -> bool:
    """Whether a store's path has the form of a dataset's: three characters of the id, then the rest."""
    match = _DATASET_PATH.fullmatch(path)
    return match is not None and len(os.fsdecode(match[1])) == _SPLIT
