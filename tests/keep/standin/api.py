"""The API server of a stand-in cluster."""

import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Iterable
from typing import Any

from tests.keep.standin.discovery import discovery_document
from tests.keep.standin.manifests import RefusedManifest, check_manifest, with_locators
from tests.keep.standin.records import CLUSTER, USER, Record, Records, choose, kind_of, set_manifest
from tests.keep.standin.serving import Handler, Server
from tests.keep.standin.signatures import EMPTY, LOCATOR, Signer

TOKEN = "v2/zzzzz-gj3su-standintoken001/standintokenstandintokenstandintokenstandintoken12"
_TEXT = ("uuid", "count", "include", "alt", "api_token", "cluster_id")


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiServer(Server):
    """Answers for `records`. `services`: URLs of keepstores."""

    def __init__(self, port: int, tls: ssl.SSLContext, records: Records, signer: Signer, services: list[str]) -> None:
        self.records = records
        self.signer = signer
        self.services = services
        self.service_type = "disk"
        self.tokens = {TOKEN}
        self.most_items = 1000
        self.replication = 2
        self.slash = ""
        self.lock = threading.Lock()
        super().__init__(port, ApiHandler, tls)

    def service_records(self) -> list[Record]:
        """The keepstores, as the API lists them."""
        return [_service(number, url, self.service_type) for number, url in enumerate(self.services)]


def _service(number: int, url: str, kind: str) -> Record:
    parts = urllib.parse.urlsplit(url)
    return {
        "uuid": f"{CLUSTER}-bi6l4-{number:015d}",
        "kind": "arvados#keepService",
        "service_host": parts.hostname,
        "service_port": parts.port,
        "service_ssl_flag": parts.scheme == "https",
        "service_type": kind,
        "read_only": False,
    }


class ApiHandler(Handler):
    """Requests to the API server."""

    server: ApiServer

    def label(self) -> str:
        """See Handler."""
        path = re.sub(r"[a-z0-9]{5}-[a-z0-9]{5}-[a-z0-9]{15}", "UUID", self.url_path)
        return re.sub(r"[0-9a-f]{32}\+[0-9]+", "HASH", path).removeprefix("/arvados/v1/")

    def serve(self) -> None:
        """See Handler."""
        method, data = self._understand()
        server = self.server
        if self.url_path == "/discovery/v1/apis/arvados/v1/rest":
            return self.json(
                discovery_document(server.url, CLUSTER, server.signer.ttl, server.replication, server.most_items)
            )
        if self.url_path == "/arvados/v1/config":
            return self.json(self._config())
        if not self.url_path.startswith("/arvados/v1/"):
            return self.json({"errors": ["Path not found"]}, 404)
        if self.token() not in server.tokens:
            return self.json({"errors": ["//railsapi.internal Not logged in"]}, 401)
        try:
            with server.lock:
                answer = self._route(method, self.url_path.removeprefix("/arvados/v1/").split("/"), data)
        except Refused as error:
            return self.json({"errors": [str(error)], "error_token": "standin"}, error.status)
        return self.json(answer)

    def _understand(self) -> tuple[str, dict[str, Any]]:
        """The method that is meant, and the body's JSON; parameters go into `query`."""
        body = self.read_body()
        data: dict[str, Any] = {}
        if body and "json" in self.headers.get("Content-Type", ""):
            data = json.loads(body)
        elif body:
            self.query |= urllib.parse.parse_qsl(body.decode(), keep_blank_values=True)
        method = self.query.pop("_method", self.headers.get("X-Http-Method-Override") or self.command).upper()
        for name, value in self.query.items():
            if name not in _TEXT and isinstance(value, str):
                self.query[name] = _json_or_text(value)
        for name in ("filters", "select", "order", "limit", "ensure_unique_name"):
            if name in data:
                self.query[name] = data.pop(name)
        return method, data

    def _config(self) -> dict[str, Any]:
        signer = self.server.signer
        return {
            "ClusterID": CLUSTER,
            "API": {"MaxItemsPerResponse": self.server.most_items, "MaxRequestSize": 134217728},
            "Collections": {
                "BlobSigning": signer.enabled,
                "BlobSigningTTL": f"{signer.ttl}s",
                "DefaultReplication": self.server.replication,
                "ForwardSlashNameSubstitution": self.server.slash,
            },
            "StorageClasses": {"default": {"Default": True, "Priority": 0}},
            "Services": {"Controller": {"ExternalURL": self.server.url}},
        }

    # -- what is asked for --------------------------------------------------------------------------------------------

    def _route(self, method: str, parts: list[str], data: dict[str, Any]) -> Any:
        match parts:
            case ["vocabulary"]:
                return {"strict_tags": False, "tags": {}}
            case ["keep_services"] | ["keep_services", "accessible"]:
                return self._all_of(self.server.service_records(), "keepService")
            case ["users", "current"]:
                return self.server.records.tables["users"][USER]
            case ["groups", "contents"]:
                return self._page(self._contents(self.query.get("uuid")), "object")
            case ["groups", owner, "contents"]:
                return self._page(self._contents(owner), "object")
            case ["groups", "shared"]:
                return self._shared()
            case [table] if table in self.server.records.tables:
                return self._list(table) if method == "GET" else self._create(table, data)
            case [table, uuid, *action] if table in self.server.records.tables:
                return self._one(method, table, uuid, action, data)
        raise Refused(404, "Path not found")

    def _list(self, table: str) -> Any:
        records = self.server.records.tables[table].values()
        wanted = bool(self.query.get("include_trash"))
        return self._page((each for each in records if wanted or not each.get("is_trashed")), table[:-1])

    def _contents(self, owner: str | None) -> Iterable[Record]:
        for table in ("collections", "groups"):
            for record in self.server.records.tables[table].values():
                if owner in (None, record["owner_uuid"]) and not record.get("is_trashed"):
                    yield record

    def _shared(self) -> Any:
        """The projects of other users, and those users."""
        tables = self.server.records.tables
        others = [
            each
            for each in tables["groups"].values()
            if each["owner_uuid"] in tables["users"] and each["owner_uuid"] != USER
        ]
        page = self._page(others, "group")
        owners = {each["owner_uuid"] for each in page["items"]}
        return {**page, "included": [tables["users"][uuid] for uuid in sorted(owners)]}

    def _all_of(self, items: list[Record], kind: str) -> dict[str, Any]:
        return {"kind": f"arvados#{kind}List", "items": items, "items_available": len(items), "offset": 0, "limit": 100}

    def _page(self, records: Iterable[Record], kind: str) -> dict[str, Any]:
        chosen = choose(records, self.query, self.server.most_items)
        items = [self._shown(record, listing=True) for record in chosen.items]
        page = {"kind": f"arvados#{kind}List", "offset": chosen.offset, "limit": chosen.limit, "items": items}
        return page if self.query.get("count") == "none" else {**page, "items_available": chosen.total}

    def _shown(self, record: Record, *, listing: bool = False) -> Record:
        select = self.query.get("select")
        shown = dict(record)
        if listing and "manifest_text" not in (select or ()):
            shown.pop("manifest_text", None)
        if "manifest_text" in shown:
            token = self.token()
            shown["manifest_text"] = with_locators(
                shown["manifest_text"], lambda locator: self.server.signer.sign(locator, token)
            )
        shown.setdefault("kind", kind_of(record["uuid"]))
        return {name: value for name, value in shown.items() if name in select or name == "kind"} if select else shown

    # -- one record ---------------------------------------------------------------------------------------------------

    def _one(self, method: str, table: str, uuid: str, action: list[str], data: dict[str, Any]) -> Record:
        records = self.server.records
        record = records.collection(uuid) if table == "collections" else records.tables[table].get(uuid)
        if record is None or (record.get("is_trashed") and not self.query.get("include_trash") and not action):
            raise Refused(404, "Path not found")
        if method in ("PUT", "PATCH"):
            self._update(table, record, data)
        elif method == "DELETE" or action == ["trash"]:
            record |= {"is_trashed": True, "modified_at": record["modified_at"]}
        elif action == ["untrash"]:
            record["is_trashed"] = False
        return self._shown(record)

    def _create(self, table: str, data: dict[str, Any]) -> Record:
        attributes = self._attributes(table, data)
        text = attributes.pop("manifest_text", "")
        self._check(table, text)
        if table != "links" and attributes.get("name"):
            attributes["name"] = self._free_name(table, attributes["name"], attributes.get("owner_uuid") or USER)
        given = {name: value for name, value in attributes.items() if value is not None}
        manifest = {"manifest_text": text} if table == "collections" else {}
        return self._shown(self.server.records.add(table, **given, **manifest))

    def _update(self, table: str, record: Record, data: dict[str, Any]) -> None:
        attributes = self._attributes(table, data)
        text = attributes.pop("manifest_text", None)
        record |= attributes
        if text is not None:
            self._check(table, text)
            set_manifest(record, text)

    def _attributes(self, table: str, data: dict[str, Any]) -> dict[str, Any]:
        one = table[:-1]
        given = self.query.get(one, data.get(one, data))
        own = ("uuid", "kind", "etag", "select", "portable_data_hash")
        return {name: value for name, value in given.items() if name not in own}

    def _check(self, table: str, text: str) -> None:
        if table != "collections":
            return
        try:
            check_manifest(text)
        except RefusedManifest as error:
            raise Refused(422, f"#<Collection> Manifest text {error}") from error
        for word in set(re.findall(r"(?<= )\S+", text)):
            if LOCATOR.fullmatch(word) and not word.startswith(EMPTY) and self.server.signer.check(word, self.token()):
                raise Refused(403, "//railsapi.internal Permission denied")

    def _free_name(self, table: str, name: str, owner: str) -> str:
        records = self.server.records.tables[table].values()
        taken = any(each["name"] == name and each["owner_uuid"] == owner and not each["is_trashed"] for each in records)
        if taken and not self.query.get("ensure_unique_name"):
            raise Refused(409, "//railsapi.internal: name already in use")
        return f"{name} ({len(records)})" if taken else name


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
