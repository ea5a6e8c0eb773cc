"""From a key to verified bytes, for one dataset.

Order of places: loose objects (four candidate directories), archives, special forms (chunks, encryption). A place
that is damaged, unreadable or of the wrong size is passed over, and the next one tried; only when none is left the
reader gets an error, which says what was tried.
"""

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from riafs.archive.archive import ArchiveTools
from riafs.content.archive_members import LinkedMember
from riafs.content.branch import AnnexBranch
from riafs.content.locations import ARCHIVE_PATHS, ArchivedObject, DatasetArchives, Location, LooseObject, StoredKeys
from riafs.content.openpgp import Decryptor
from riafs.content.special_remotes import FindDataset, RemoteObject, StoreRemotes
from riafs.content.verified_bytes import WatchedBytes
from riafs.content.verifying import Checker, Claim, UnverifiedContent, Verifier
from riafs.errors import (
    CorruptContent,
    EncryptedArchive,
    EncryptedContent,
    MissingContent,
    NotInStore,
    OutsideStore,
    RiafsError,
    StoreDenied,
    StoreTimeout,
)
from riafs.formats.annex import Layout, likely_path, object_directories
from riafs.formats.annexlogs import archive_links
from riafs.formats.digests import checker
from riafs.formats.keys import Key
from riafs.formats.specialremotes import SpecialRemote, configured_uuid
from riafs.storage.bytesource import Buffer, DeferredBytes, ErrorReporting, MemoryBytes, RangedBytes
from riafs.storage.deadline import exhaust_request
from riafs.storage.protocol import Storage

log = logging.getLogger(__name__)

_MAX_PROBLEMS = 1000
_MAX_CONFIG = 8 << 20
_MOST_NESTED = 3
"""Annexed archives within one another that are gone through for a member."""


@dataclass(frozen=True, slots=True)
class ContentTools:
    """What all datasets of a mount share."""

    verifier: Verifier
    archives: ArchiveTools
    decryptor: Decryptor


class _AnyOf:
    """Content is good if it is that of any of several keys (VURL)."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        self._checkers = checkers

    def update(self, data: Buffer) -> None:
        for each in self._checkers:
            each.update(data)

    def matches(self) -> bool:
        return any(each.matches() for each in self._checkers)


class AnnexContents:
    """The keys of the dataset at the store's path `dataset`; `identifier` is its id, by which remotes name it.

    `elsewhere` finds the stored keys of other directories of the store.
    """

    def __init__(
        self,
        storage: Storage,
        dataset: bytes,
        identifier: bytes,
        layout: Layout,
        branch: AnnexBranch,
        tools: ContentTools,
        elsewhere: FindDataset,
    ) -> None:
        self._storage = storage
        self._dataset = dataset
        self._objects = dataset + b"/annex/objects"
        self._layout = layout
        self._branch = branch
        self.verifier = tools.verifier
        self._archive_tools = tools.archives
        self._archives = DatasetArchives(storage, dataset, tools.archives)
        self._storages = StoreRemotes(
            branch, identifier, self.stored_places, elsewhere, self._storage_uuid, tools.decryptor
        )
        self._problems: LRUCache[bytes, str] = LRUCache(_MAX_PROBLEMS)

    # -- places -------------------------------------------------------------------------------------------------------

    def stored_keys(self) -> StoredKeys:
        """Every key that is stored, used by a file or not."""
        return StoredKeys(self._storage, self._objects, self._archives)

    async def has_any(self) -> bool:
        """Whether anything is stored at all, as far as directories and the presence of an archive tell."""
        if self._storage.listing is not None and any(await self._storage.listing.list_each([self._objects])):
            return True
        return any(await self._storage.stat_objects(self._dataset, ARCHIVE_PATHS))

    def stored_places(self, key: Key) -> Iterator[Location]:
        """Where the bytes stored under `key` may lie, loose or in an archive."""
        name = key.file_name
        below = [directory + b"/" + name + b"/" + name for directory in object_directories(key, self._layout)]
        for path in below:
            yield LooseObject(self._storage, self._objects, path)
        for archive in ARCHIVE_PATHS:
            yield ArchivedObject(self._archives, archive, below)

    async def special_places(self, key: Key) -> list[Location]:
        """Where else `key` may be in the store, by what the git-annex branch says: see content/special_remotes."""
        return await self._special_places(key, _MOST_NESTED)

    async def _special_places(self, key: Key, nested: int) -> list[Location]:
        found = await self._storages.places(key)
        if nested:
            found += [
                LinkedMember(key, link, lambda archive: self._all_places(archive, nested - 1), self._archive_tools)
                for link in archive_links(await self._branch.urls(key))
            ]
        return found

    async def _all_places(self, key: Key, nested: int) -> list[Location]:
        return [*self.stored_places(key), *await self._special_places(key, nested)]

    async def storage_forms(self, key: Key, remote: SpecialRemote) -> list[Location]:
        """Where the storage `remote`, which is this directory, may have `key` in another form than plain."""
        return await self._storages.forms(key, remote)

    async def _storage_uuid(self) -> bytes | None:
        try:
            return configured_uuid(await self._storage.read_file(self._dataset + b"/config", _MAX_CONFIG))
        except RiafsError:
            return None

    # -- reading ------------------------------------------------------------------------------------------------------

    async def open(self, key: Key, user: Callable[[], str]) -> RangedBytes:
        """Verified content of `key`; `user` tells for messages who wants it (path, dataset, commit).

        Raises MissingContent, CorruptContent, EncryptedContent, StoreDenied, StoreTimeout, …: one line that names the
        places tried.
        """
        attempt = _Attempt(key, self.verifier)
        return self._watched(await self._verified(attempt, self.stored_places(key), user), key, user)

    async def find(self, key: Key, user: Callable[[], str]) -> RangedBytes:
        """The same, but an object that lies in the store as a file, and is served only after the whole of it was
        verified, is found now and verified at the first read: see storage/bytesource.
        """
        attempt = _Attempt(key, self.verifier)
        places = self.stored_places(key)
        for place in places:
            if not isinstance(place, LooseObject):
                places = itertools.chain((place,), places)
                break
            found = await attempt.opened(place)
            if found is not None:
                if self.verifier.proves_whole(key, found.source.size):
                    return self._unread(attempt, found, places, user)
                return self._watched(await self._verified(attempt, places, user, found), key, user)
        return self._watched(await self._verified(attempt, places, user), key, user)

    def _unread(
        self, attempt: "_Attempt", found: UnverifiedContent, places: Iterator[Location], user: Callable[[], str]
    ) -> RangedBytes:
        left: list[UnverifiedContent] = [found]

        async def begin() -> RangedBytes:
            if left:
                content = await self._verified(attempt, places, user, left.pop())
            else:  # that has failed; another copy may have come since
                again = _Attempt(attempt.key, self.verifier)
                content = await self._verified(again, self.stored_places(attempt.key), user)
            return self._watched(content, attempt.key, user)

        def leave() -> None:
            for opened in left:
                opened.source.close()

        return DeferredBytes(found.source.size, begin, leave)

    async def _verified(
        self,
        attempt: "_Attempt",
        places: Iterator[Location],
        user: Callable[[], str],
        found: UnverifiedContent | None = None,
    ) -> RangedBytes:
        """Content from what was `found`, from one of `places`, or from elsewhere in the store. Raises as `open`."""
        content, key = None, attempt.key
        try:
            claim = await self.claim(key)
            if found is not None:
                content = await attempt.admitted(found, claim)
            if content is None:
                content = await attempt.at_any(places, claim)
            if content is None:
                content = await attempt.at_any(await self.special_places(key), claim)
        except RiafsError as problem:  # the git-annex branch cannot be read
            attempt.problems.append(problem)
        if content is None:
            raise self._report(key, attempt.failure(user()))
        return content

    def _watched(self, content: RangedBytes, key: Key, user: Callable[[], str]) -> RangedBytes:
        if isinstance(content, MemoryBytes):
            return content  # nothing can go wrong with it any more

        def failed(problem: RiafsError) -> RiafsError:
            shown = key.serialised.decode(errors="replace")
            return self._report(key, _same_kind(problem, f"{user()}: key {shown} cannot be read: {problem}"))

        return content.reported(failed) if isinstance(content, WatchedBytes) else ErrorReporting(content, failed)

    def _report(self, key: Key, problem: RiafsError) -> RiafsError:
        """`problem`, after it was counted, logged and remembered."""
        counters = self.verifier.counters
        counters.keys_missing += isinstance(problem, MissingContent)
        if self._problems.get(key.serialised) != str(problem):
            log.error("%s", problem)
        self._problems[key.serialised] = str(problem)
        problem.reported = True
        return problem

    async def claim(self, key: Key) -> Claim:
        """What the bytes of `key` must be. Raises GitError where only the git-annex branch could tell."""
        if key.backend != b"VURL":
            return Claim(key.serialised, lambda: checker(key))
        equivalents = await self._branch.equivalents(key)

        def any_equivalent() -> Checker | None:
            checkers = [each for each in map(checker, equivalents) if each is not None]
            return _AnyOf(checkers) if checkers else None

        return Claim(key.serialised, any_equivalent)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def size(self, key: Key) -> int | None:
        """Bytes of a key that does not tell its size, None where it is not in the store."""
        for place in self.stored_places(key):
            try:
                opened = await place.open()
            except RiafsError:
                continue
            opened.source.close()
            return opened.source.size
        return None

    async def executable(self, file_names: Sequence[bytes]) -> Sequence[bool]:
        """Which of the keys with these file names are loose objects with an executable bit."""
        if self._storage.modes is None:
            return [False] * len(file_names)
        paths = [likely_path(name, self._layout) for name in file_names]
        try:
            return await self._storage.modes.executable_each(self._objects, paths)
        except (OutsideStore, StoreDenied):  # raised again when the content is read
            return [False] * len(paths)

    async def attributes(self, key: Key, name: str | None = None) -> Mapping[str, bytes]:
        """``where`` (place that would be read), ``verified`` (``yes``, ``no``), ``error`` (what went wrong last).

        `name`: the only attribute that is wanted; for another one nothing is looked for.
        """
        if name not in (None, "where", "verified", "error"):
            return {}
        known: dict[str, bytes] = {}
        problem = self._problems.get(key.serialised)
        if problem is not None:
            known["error"] = problem.encode()
        attempt, memory = _Attempt(key, self.verifier), self.verifier.memory
        for place in self.stored_places(key):
            opened = await attempt.opened(place)
            if opened is not None:
                opened.source.close()
                known["where"] = opened.place.encode()
                if name in (None, "verified"):
                    remembered = opened.evidence is not None and await memory.is_good(opened.evidence, key.serialised)
                    good = remembered or opened.checked_as == key.serialised
                    known["verified"] = b"yes" if good else b"no"
                return known
        try:
            special = await self.special_places(key)
        except RiafsError as unreadable:  # the git-annex branch
            return {"error": os.fsencode(str(unreadable))} | known | {"where": b"nowhere found"}
        for place in special:
            if await _is_there(place):
                return known | {"where": os.fsencode(place.name), "verified": b"no"}
        return known | {"where": b"nowhere found"}


async def _is_there(place: Location) -> bool:
    """Whether anything is at `place`, as far as can be told without decrypting or decoding it."""
    try:
        source = await place.peek() if isinstance(place, RemoteObject | LinkedMember) else (await place.open()).source
    except RiafsError:
        return False
    source.close()
    return True


class _Attempt:
    """One reader's way through the places of a key."""

    def __init__(self, key: Key, verifier: Verifier) -> None:
        self.key = key
        self.verifier = verifier
        self.problems: list[RiafsError] = []
        self._probed: list[Location] = []

    async def opened(self, place: Location) -> UnverifiedContent | None:
        """What lies at `place` if it can be the key's content, judged by its size and by what is remembered of it."""
        self._probed.append(place)
        try:
            opened = await place.open()
        except NotInStore:
            return None
        except RiafsError as problem:
            self._met(problem)
            return None
        damage = self._known_bad(opened)
        if damage is None:
            return opened
        opened.source.close()
        self.problems.append(damage)
        return None

    def _met(self, problem: RiafsError) -> None:
        self.problems.append(problem)
        if isinstance(problem, StoreTimeout):
            exhaust_request()

    def _known_bad(self, opened: UnverifiedContent) -> CorruptContent | None:
        key, size = self.key.serialised, opened.source.size
        shown = key.decode(errors="replace")
        if self.key.size not in (None, size):
            problem = f"the copy of key {shown} in {opened.place} has {size} bytes"
            if opened.evidence is None or not self.verifier.memory.is_bad(opened.evidence, key):
                self.verifier.counters.keys_corrupt += 1
                log.error("%s; this copy is not used", problem)
            if opened.evidence is not None:
                self.verifier.memory.remember_bad(opened.evidence, key)
            return CorruptContent(problem)
        if opened.evidence is not None and self.verifier.memory.is_bad(opened.evidence, key):
            return CorruptContent(f"the copy of key {shown} in {opened.place} is damaged")
        return None

    async def at(self, place: Location, claim: Claim) -> RangedBytes | None:
        """Content from `place`, None if another place has to be tried."""
        opened = await self.opened(place)
        return None if opened is None else await self.admitted(opened, claim)

    async def admitted(self, opened: UnverifiedContent, claim: Claim) -> RangedBytes | None:
        """Content from what was opened, None if another place has to be tried."""
        try:
            content = await self.verifier.admit(opened, claim)
        except RiafsError as problem:
            self._met(problem)
            return None
        self.verifier.counters.keys_healed += any(isinstance(each, CorruptContent) for each in self.problems)
        return content

    async def at_any(self, places: Iterable[Location], claim: Claim) -> RangedBytes | None:
        """Content from the first of `places` that has it."""
        for place in places:
            content = await self.at(place, claim)
            if content is not None:
                return content
        return None

    def failure(self, user: str) -> RiafsError:
        """Why nothing could be read, as the most telling of the problems met."""
        key = self.key.serialised.decode(errors="replace")
        kinds = (EncryptedContent, StoreTimeout, StoreDenied, CorruptContent, RiafsError)
        for kind in kinds:
            for problem in self.problems:
                if isinstance(problem, kind):
                    reasons = "; ".join(dict.fromkeys(map(str, self.problems)))
                    return _same_kind(problem, f"{user}: key {key} cannot be read: {reasons}")
        return MissingContent(
            f"{user}: key {key} is not in the store; looked at {', '.join(place.name for place in self._probed)}"
        )


def _same_kind(problem: RiafsError, message: str) -> RiafsError:
    """A failure with the errno of `problem`."""
    kind = EncryptedContent if isinstance(problem, EncryptedArchive) else type(problem)
    return kind(message)
