"""The records of a stand-in cluster, and choosing among them as the API's lists do."""

import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.keep.standin.manifests import counts, portable_data_hash, without_signatures

CLUSTER = "zzzzz"
USER = f"{CLUSTER}-tpzed-standinuser0001"
SYSTEM_USER = f"{CLUSTER}-tpzed-000000000000000"
KINDS = {"4zz18": "collection", "j7d0g": "group", "o0j2j": "link", "tpzed": "user", "bi6l4": "keepService"}
_TYPES = {"collections": "4zz18", "groups": "j7d0g", "links": "o0j2j"}
HASH = re.compile(r"[0-9a-f]{32}\+[0-9]+")

Record = dict[str, Any]


def now() -> str:
    """The time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z"


def kind_of(uuid: str) -> str:
    """``arvados#collection`` and its like."""
    return "arvados#" + KINDS.get(uuid[6:11], "object")


@dataclass(slots=True)
class Records:
    """All tables, by uuid. Tests may change them directly."""

    tables: dict[str, dict[str, Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("collections", "groups", "links", "users", "logs"):
            self.tables.setdefault(name, {})
        self.tables["users"][USER] = _user()

    def add(self, table: str, **attributes: Any) -> Record:
        """A new record."""
        tail = "".join(secrets.choice("0123456789abcdefghijklmnopqrstuvwxyz") for _ in range(15))
        uuid, made = f"{CLUSTER}-{_TYPES[table]}-{tail}", now()
        record: Record = {"uuid": uuid, "owner_uuid": USER, "created_at": made, "modified_at": made, "name": None}
        record |= {"modified_by_user_uuid": USER, "properties": {}, "etag": "e", "is_trashed": False, "trash_at": None}
        if table == "collections":
            record |= {"replication_desired": None, "storage_classes_desired": ["default"], "version": 1}
            record |= {"description": None, "delete_at": None, "current_version_uuid": uuid}
        elif table == "groups":
            record |= {"group_class": "project", "can_write": True, "description": None}
        record |= attributes
        if table == "collections":
            set_manifest(record, attributes.get("manifest_text", ""))
        self.tables[table][record["uuid"]] = record
        return record

    def collection(self, identifier: str) -> Record | None:
        """By uuid or portable data hash."""
        known = self.tables["collections"].get(identifier)
        if known is not None or not HASH.fullmatch(identifier):
            return known
        for record in self.tables["collections"].values():
            if record["portable_data_hash"] == identifier and not record["is_trashed"]:
                text = record["manifest_text"]
                return {"uuid": identifier, "portable_data_hash": identifier, "trash_at": None, "manifest_text": text}
        return None


def set_manifest(record: Record, text: str) -> None:
    """Put `text` into a collection's record, whatever it is."""
    bare = without_signatures(text)
    files, size = counts(bare)
    record |= {"manifest_text": bare, "portable_data_hash": portable_data_hash(bare)}
    record |= {"file_count": files, "file_size_total": size, "modified_at": now()}


def _user() -> Record:
    return {
        "uuid": USER,
        "kind": "arvados#user",
        "email": "standin@example.invalid",
        "username": "standin",
        "first_name": "Stand",
        "last_name": "In",
        "full_name": "Stand In",
        "is_active": True,
        "is_admin": False,
        "owner_uuid": SYSTEM_USER,
        "can_write": True,
        "can_manage": True,
        "modified_at": "2026-01-01T00:00:00.000000000Z",
    }


# -- choosing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """A page of a list."""

    items: Sequence[Record]
    total: int
    offset: int
    limit: int


def choose(records: Iterable[Record], query: dict[str, Any], most: int) -> Chosen:
    """What a list request with `query` gets of `records`."""
    found = [record for record in records if all(_holds(record, *each) for each in query.get("filters") or ())]
    order = query.get("order") or ["modified_at desc", "uuid desc"]
    for clause in reversed(order.split(",") if isinstance(order, str) else order):
        name, _, way = clause.strip().partition(" ")
        found.sort(key=lambda record: str(record.get(name.rpartition(".")[2]) or ""), reverse=way.lower() == "desc")
    if query.get("distinct") and query.get("select"):
        found = list({tuple(str(record.get(name)) for name in query["select"]): record for record in found}.values())
    offset, limit = int(query.get("offset") or 0), min(int(query.get("limit") or 100), most)
    return Chosen(found[offset : offset + limit], len(found), offset, limit)


def _holds(record: Record, attribute: str, operator: str, wanted: Any) -> bool:
    table, _, name = attribute.rpartition(".")
    if table and table != KINDS.get(record["uuid"][6:11], "") + "s":
        return True
    have = record.get(name)
    match operator.lower():
        case "=" | "==":
            return bool(have == wanted)
        case "!=":
            return bool(have != wanted)
        case "in":
            return have in wanted
        case "not in":
            return have not in wanted
        case "is_a":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            kind = "arvados#collection" if HASH.fullmatch(have or "") else kind_of(have or "")
            return kind in kinds
        case "like" | "ilike":
            expression = re.escape(wanted).replace("%", ".*").replace("_", ".")
            return re.fullmatch(expression, have or "", re.IGNORECASE | re.DOTALL) is not None
    return have is not None and _compared(have, operator, wanted)


def _compared(have: Any, operator: str, wanted: Any) -> bool:
    return bool({"<": have < wanted, "<=": have <= wanted, ">": have > wanted, ">=": have >= wanted}[operator])
