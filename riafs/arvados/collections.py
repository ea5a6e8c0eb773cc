"""Collections as the API server knows them: their records, and their manifests with permissions to read the blocks.

A manifest is fetched when somebody wants it; whether a collection has changed is asked for all of them at once, without
manifests.
"""

import json
from collections.abc import Collection as Sized
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from riafs.arvados.api import ApiServer, Record
from riafs.errors import NotInStore, StoreError
from riafs.storage.temporary import SpilledText

_BATCH = 1000
_STATE = ("uuid", "portable_data_hash", "modified_at")
_MANIFEST = "manifest_text"
_REPLICATION = "replication_desired"
_OTHERS = ("owner_uuid", "name", "created_at", "properties", "file_count", "file_size_total", _REPLICATION)


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What tells two versions of a collection apart."""

    hash: bytes
    """Portable data hash."""
    modified_at: str


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection with its manifest."""

    identifier: bytes
    """Its uuid, or where it was asked for by its portable data hash, that."""
    state: CollectionState
    manifest: bytes | SpilledText
    """The text, with permissions for this user."""
    shown: bytes
    """The record as JSON, without the manifest."""
    replication: int | None
    """How many copies of its blocks it asks for, if it does."""

    @property
    def mtime_ns(self) -> int:
        """Time of the last change; 0 where a portable data hash has none."""
        return nanoseconds(self.state.modified_at)


async def fetch_collection(api: ApiServer, identifier: bytes, spill: bytes) -> CollectionRecord:
    """The collection with that uuid or portable data hash. Its manifest is kept in the directory `spill`.

    Raises NotInStore, StoreDenied, StoreError, StoreTimeout, OutOfMemory.
    """
    record, text = await api.get_with(f"collections/{identifier.decode('ascii')}", _MANIFEST, spill)
    if record.get("is_trashed") is True:
        raise NotInStore(f"collection {identifier.decode()} of {api.host} is in the trash")
    return _record(identifier, record, text)


async def fetch_shown(api: ApiServer, uuid: bytes) -> bytes:
    """The record of a collection as JSON, without its manifest. Raises as `fetch_collection`."""
    found = await api.all("collections", [_among([uuid])], ())
    return _shown(found[0]) if found else b"{}\n"


async def fetch_several(api: ApiServer, uuids: Sequence[bytes]) -> list[CollectionRecord]:
    """Those of the collections that the server has, with one request if its answer can hold them.

    Raises as `fetch_collection`.
    """
    found = await api.all("collections", [_among(uuids)], (*_STATE, _MANIFEST, *_OTHERS))
    return [_record(item["uuid"].encode(), item) for item in found if isinstance(item.get(_MANIFEST), str)]


async def fetch_states(api: ApiServer, uuids: Sized[bytes]) -> Mapping[bytes, CollectionState]:
    """uuid → state now, for those that the server still has. One request for each thousand. Raises as
    `fetch_collection`."""
    wanted = sorted(uuids)
    found: dict[bytes, CollectionState] = {}
    for start in range(0, len(wanted), _BATCH):
        records = await api.all("collections", [_among(wanted[start : start + _BATCH])], _STATE)
        found |= {record["uuid"].encode(): state_of(record) for record in records}
    return found


def _among(uuids: Sequence[bytes]) -> Sequence[object]:
    return ["uuid", "in", [uuid.decode("ascii") for uuid in uuids]]


def state_of(record: Record) -> CollectionState:
    """The state in a record. Raises StoreError for a record without one."""
    data_hash = record.get("portable_data_hash")
    if not isinstance(data_hash, str) or not data_hash.isascii():
        raise StoreError(f"the record of collection {record.get('uuid')!r} has no portable data hash")
    return CollectionState(data_hash.encode(), str(record.get("modified_at") or ""))


def nanoseconds(text: str) -> int:
    """A time of the API (``2026-01-01T00:00:00.123456789Z``) since the epoch; 0 for what is none.

    >>> nanoseconds("1970-01-01T00:00:02.000000003Z")
    2000000003
    """
    whole, _, fraction = text.removesuffix("Z").partition(".")
    try:
        seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
        return seconds * 10**9 + int(f"{fraction[:9]:0<9}")
    except ValueError:
        return 0


def _record(identifier: bytes, record: Record, text: SpilledText | None = None) -> CollectionRecord:
    manifest = record.get(_MANIFEST)
    if not isinstance(manifest, str):
        raise StoreError(f"the record of collection {identifier.decode()} has no manifest")
    copies = record.get(_REPLICATION)
    return CollectionRecord(
        identifier,
        state_of(record),
        manifest.encode("utf-8", "surrogatepass") if text is None else text,
        _shown(record),
        copies if isinstance(copies, int) else None,
    )


def _shown(record: Record) -> bytes:
    shown = {name: value for name, value in record.items() if name not in (_MANIFEST, "unsigned_manifest_text")}
    return json.dumps(shown, indent=2, sort_keys=True).encode() + b"\n"
