"""From a key to verified bytes, for one dataset.

Locations are tried in this order: loose objects (in four directories that may have them), archives, chunks and
encrypted objects of special remotes, members of annexed archives. One that is damaged, unreadable or of the wrong size
is skipped. If none is left, the reader gets an error that names all that were tried.
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
from riafs.content.directory_walk import DirectoryWalk
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
"""How many annexed archives may lie within one another."""


@dataclass(frozen=True, slots=True)
class ContentTools:
    """Shared by all datasets of a mount."""

    verifier: Verifier
    archives: ArchiveTools
    decryptor: Decryptor


class _AnyOf:
    """A checker for any of several keys, of which a VURL key has the content."""

    def __init__(self, checkers: Sequence[Checker]) -> None:
        self._checkers = checkers

    def update(self, data: Buffer) -> None:
        for each in self._checkers:
            each.update(data)

    def matches(self) -> bool:
        return any(each.matches() for each in self._checkers)


class AnnexContents:
    """The keys of the dataset at the store's path `dataset`; `identifier` is its id, by which remotes name it.

    `elsewhere` finds the locations of other datasets of the store.
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
            branch, identifier, self.stored_locations, elsewhere, self._storage_uuid, tools.decryptor
        )
        self._problems: LRUCache[bytes, str] = LRUCache(_MAX_PROBLEMS)
        self.walk = None if storage.ahead is None else DirectoryWalk(storage.ahead)
        """Fetches small files before a program that goes through a directory opens them."""

    # -- locations ----------------------------------------------------------------------------------------------------

    def stored_keys(self) -> StoredKeys:
        """All keys that are stored, whether a file uses them or not."""
        return StoredKeys(self._storage, self._objects, self._archives)

    async def has_any(self) -> bool:
        """Whether there are any objects or archives, judged without reading them."""
        if self._storage.listing is not None and any(await self._storage.listing.list_each([self._objects])):
            return True
        return any(await self._storage.stat_objects(self._dataset, ARCHIVE_PATHS))

    def stored_locations(self, key: Key) -> Iterator[Location]:
        """The locations of `key` in this directory, as a loose object or in an archive."""
        name = key.file_name
        below = [directory + b"/" + name + b"/" + name for directory in object_directories(key, self._layout)]
        for path in below:
            yield LooseObject(self._storage, self._objects, path)
        for archive in ARCHIVE_PATHS:
            yield ArchivedObject(self._archives, archive, below)

    async def special_locations(self, key: Key) -> list[Location]:
        """The other locations of `key` in the store that the git-annex branch names."""
        return await self._special_locations(key, _MOST_NESTED)

    async def _special_locations(self, key: Key, nested: int) -> list[Location]:
        found = await self._storages.locations(key)
        if nested:
            found += [
                LinkedMember(key, link, lambda archive: self._all_locations(archive, nested - 1), self._archive_tools)
                for link in archive_links(await self._branch.urls(key))
            ]
        return found

    async def _all_locations(self, key: Key, nested: int) -> list[Location]:
        return [*self.stored_locations(key), *await self._special_locations(key, nested)]

    async def storage_forms(self, key: Key, remote: SpecialRemote) -> list[Location]:
        """The locations of `key`, chunked or encrypted, in this directory as the special remote `remote`."""
        return await self._storages.forms(key, remote)

    async def _storage_uuid(self) -> bytes | None:
        try:
            return configured_uuid(await self._storage.read_file(self._dataset + b"/config", _MAX_CONFIG))
        except RiafsError:
            return None

    def likely_object(self, key: Key) -> bytes:
        """The store's path where the object of `key` mostly is."""
        return self._objects + b"/" + likely_path(key.file_name, self._layout)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def open(self, key: Key, user: Callable[[], str]) -> RangedBytes:
        """Verified content of `key`. `user` describes the file for messages (path, dataset, commit).

        Raises MissingContent, CorruptContent, EncryptedContent, StoreDenied, StoreTimeout, …: one line that names the
        locations tried.
        """
        attempt = _Attempt(key, self.verifier)
        return self._watched(await self._verified(attempt, self.stored_locations(key), user), key, user)

    async def find(self, key: Key, user: Callable[[], str]) -> RangedBytes:
        """As `open`, but a loose object that has to be verified as a whole is only found now, and verified at the
        first read. Raises as `open`.
        """
        attempt = _Attempt(key, self.verifier)
        locations = self.stored_locations(key)
        for location in locations:
            if not isinstance(location, LooseObject):
                locations = itertools.chain((location,), locations)
                break
            found = await attempt.opened(location)
            if found is not None:
                if self.verifier.proves_whole(key, found.source.size):
                    return self._deferred(attempt, found, locations, user)
                return self._watched(await self._verified(attempt, locations, user, found), key, user)
        return self._watched(await self._verified(attempt, locations, user), key, user)

    def _deferred(
        self, attempt: "_Attempt", found: UnverifiedContent, locations: Iterator[Location], user: Callable[[], str]
    ) -> RangedBytes:
        unused = [found]

        async def open_source() -> RangedBytes:
            if unused:
                content = await self._verified(attempt, locations, user, unused.pop())
            else:  # verifying has failed before; there may be another copy by now
                again = _Attempt(attempt.key, self.verifier)
                content = await self._verified(again, self.stored_locations(attempt.key), user)
            return self._watched(content, attempt.key, user)

        def discard() -> None:
            for opened in unused:
                opened.source.close()

        return DeferredBytes(found.source.size, open_source, discard)

    async def _verified(
        self,
        attempt: "_Attempt",
        locations: Iterator[Location],
        user: Callable[[], str],
        found: UnverifiedContent | None = None,
    ) -> RangedBytes:
        """Verified content that was `found`, or from one of `locations`, else from others. Raises as `open`."""
        content, key = None, attempt.key
        try:
            claim = await self.claim(key)
            if found is not None:
                content = await attempt.admitted(found, claim)
            if content is None:
                content = await attempt.at_any(locations, claim)
            if content is None:
                content = await attempt.at_any(await self.special_locations(key), claim)
        except RiafsError as problem:  # the git-annex branch cannot be read
            attempt.problems.append(problem)
        if content is None:
            raise self._report(key, attempt.failure(user()))
        return content

    def _watched(self, content: RangedBytes, key: Key, user: Callable[[], str]) -> RangedBytes:
        if isinstance(content, MemoryBytes):
            return content  # reading it cannot fail

        def failed(problem: RiafsError) -> RiafsError:
            shown = key.serialised.decode(errors="replace")
            return self._report(key, _same_kind(problem, f"{user()}: key {shown} cannot be read: {problem}"))

        return content.reported(failed) if isinstance(content, WatchedBytes) else ErrorReporting(content, failed)

    def _report(self, key: Key, problem: RiafsError) -> RiafsError:
        """Count, log and remember a problem; returns it."""
        counters = self.verifier.counters
        counters.keys_missing += isinstance(problem, MissingContent)
        if self._problems.get(key.serialised) != str(problem):
            log.error("%s", problem)
        self._problems[key.serialised] = str(problem)
        problem.reported = True
        return problem

    async def claim(self, key: Key) -> Claim:
        """How bytes of `key` are checked. Raises GitError if that needs the git-annex branch and it cannot be read."""
        if key.backend != b"VURL":
            return Claim(key.serialised, lambda: checker(key))
        equivalents = await self._branch.equivalents(key)

        def any_equivalent() -> Checker | None:
            checkers = [each for each in map(checker, equivalents) if each is not None]
            return _AnyOf(checkers) if checkers else None

        return Claim(key.serialised, any_equivalent)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def size(self, key: Key) -> int | None:
        """The size of the stored content, for keys without a size; None if there is none."""
        for location in self.stored_locations(key):
            try:
                opened = await location.open()
            except RiafsError:
                continue
            opened.source.close()
            return opened.source.size
        return None

    async def executable(self, file_names: Sequence[bytes]) -> Sequence[bool]:
        """For each key with one of these file names, whether it is a loose object with an executable bit."""
        if self._storage.modes is None:
            return [False] * len(file_names)
        paths = [likely_path(name, self._layout) for name in file_names]
        try:
            return await self._storage.modes.executable_each(self._objects, paths)
        except (OutsideStore, StoreDenied):  # raised again when the content is read
            return [False] * len(paths)

    async def attributes(self, key: Key, name: str | None = None) -> Mapping[str, bytes]:
        """``where`` (the location that would be read), ``verified`` (``yes``, ``no``), ``error`` (the last problem).

        `name`: only this attribute is needed; nothing is looked up for others.
        """
        if name not in (None, "where", "verified", "error"):
            return {}
        known: dict[str, bytes] = {}
        problem = self._problems.get(key.serialised)
        if problem is not None:
            known["error"] = problem.encode()
        attempt, memory = _Attempt(key, self.verifier), self.verifier.memory
        for location in self.stored_locations(key):
            opened = await attempt.opened(location)
            if opened is not None:
                opened.source.close()
                known["where"] = opened.location.encode()
                if name in (None, "verified"):
                    remembered = opened.evidence is not None and await memory.is_good(opened.evidence, key.serialised)
                    good = remembered or opened.checked_as == key.serialised
                    known["verified"] = b"yes" if good else b"no"
                return known
        try:
            special = await self.special_locations(key)
        except RiafsError as unreadable:  # the git-annex branch
            return {"error": os.fsencode(str(unreadable))} | known | {"where": b"nowhere found"}
        for location in special:
            if await _is_there(location):
                return known | {"where": os.fsencode(location.name), "verified": b"no"}
        return known | {"where": b"nowhere found"}


async def _is_there(location: Location) -> bool:
    """Whether there is anything at `location`, without decrypting or decoding it."""
    try:
        if isinstance(location, RemoteObject | LinkedMember):
            source = await location.peek()
        else:
            source = (await location.open()).source
    except RiafsError:
        return False
    source.close()
    return True


def _forget(location: Location) -> bool:
    """Whether content may be right when it is opened again: it was read as an earlier mount knew it."""
    return isinstance(location, LooseObject) and location.forget()


class _Attempt:
    """The search of one reader through the locations of a key."""

    def __init__(self, key: Key, verifier: Verifier) -> None:
        self.key = key
        self.verifier = verifier
        self.problems: list[RiafsError] = []
        self._probed: list[Location] = []

    async def opened(self, location: Location) -> UnverifiedContent | None:
        """The content at `location`, None if its size is wrong or it is remembered as damaged."""
        self._probed.append(location)
        damage: CorruptContent | None = None
        for _ in range(2):
            try:
                opened = await location.open()
            except NotInStore:
                return None
            except RiafsError as problem:
                self._met(problem)
                return None
            damage = self._known_bad(opened)
            if damage is None:
                return opened
            opened.source.close()
            if not _forget(location):
                break
        assert damage is not None
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
            problem = f"the copy of key {shown} in {opened.location} has {size} bytes"
            if opened.evidence is None or not self.verifier.memory.is_bad(opened.evidence, key):
                self.verifier.counters.keys_corrupt += 1
                log.error("%s; this copy is not used", problem)
            if opened.evidence is not None:
                self.verifier.memory.remember_bad(opened.evidence, key)
            return CorruptContent(problem)
        if opened.evidence is not None and self.verifier.memory.is_bad(opened.evidence, key):
            return CorruptContent(f"the copy of key {shown} in {opened.location} is damaged")
        return None

    async def at(self, location: Location, claim: Claim) -> RangedBytes | None:
        """Verified content from `location`, None if another one has to be tried."""
        opened = await self.opened(location)
        return None if opened is None else await self.admitted(opened, claim)

    async def admitted(self, opened: UnverifiedContent, claim: Claim) -> RangedBytes | None:
        """Verified content that was opened, None if another location has to be tried."""
        try:
            content = await self.verifier.admit(opened, claim)
        except RiafsError as problem:
            if isinstance(problem, CorruptContent) and _forget(self._probed[-1]):
                again = await self.opened(self._probed.pop())
                return None if again is None else await self._admitted_again(again, claim)
            self._met(problem)
            return None
        self.verifier.counters.keys_healed += any(isinstance(each, CorruptContent) for each in self.problems)
        return content

    async def _admitted_again(self, opened: UnverifiedContent, claim: Claim) -> RangedBytes | None:
        """The same for what the store itself has now, after what was known of it had been wrong."""
        try:
            return await self.verifier.admit(opened, claim)
        except RiafsError as problem:
            self._met(problem)
            return None

    async def at_any(self, locations: Iterable[Location], claim: Claim) -> RangedBytes | None:
        """Verified content from the first of `locations` that has it."""
        for location in locations:
            content = await self.at(location, claim)
            if content is not None:
                return content
        return None

    def failure(self, user: str) -> RiafsError:
        """The error to raise: of the most informative kind among the problems, with all of them in its message."""
        key = self.key.serialised.decode(errors="replace")
        kinds = (EncryptedContent, StoreTimeout, StoreDenied, CorruptContent, RiafsError)
        for kind in kinds:
            for problem in self.problems:
                if isinstance(problem, kind):
                    reasons = "; ".join(dict.fromkeys(map(str, self.problems)))
                    return _same_kind(problem, f"{user}: key {key} cannot be read: {reasons}")
        return MissingContent(
            f"{user}: key {key} is not in the store; looked at {', '.join(location.name for location in self._probed)}"
        )


def _same_kind(problem: RiafsError, message: str) -> RiafsError:
    """An error of the kind of `problem`."""
    kind = EncryptedContent if isinstance(problem, EncryptedArchive) else type(problem)
    return kind(message)
