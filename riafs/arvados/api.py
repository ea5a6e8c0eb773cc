"""Requests to an Arvados API server: JSON over HTTPS, tried again while that can help, within a deadline.

Lists are gone through by keyset (order by uuid, each page begins after the last uuid), until a page has all that are
left: servers give fewer records than were asked for where they are large. What a server says in an error is shown with
control characters, tokens and signatures replaced: servers, and proxies before them, may quote what they were sent.
"""

import json
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

import trio

from riafs import memory
from riafs.counters import Counters
from riafs.errors import (
    BadAnswer,
    NotInStore,
    OutOfMemory,
    RiafsError,
    ShortRead,
    StoreDenied,
    StoreError,
    StoreTimeout,
    TooLarge,
)
from riafs.formats.recordtext import RecordReader
from riafs.storage.deadline import exhaust_request, time_left
from riafs.storage.http import PIECE, Answer, Http, Incoming, Request, bearer
from riafs.storage.temporary import SpilledText

log = logging.getLogger(__name__)

Record = Mapping[str, Any]

_MAX_ANSWER = 64 << 20
"""Bytes of an answer that are kept in memory; a manifest, which has no bound, is kept on disk."""
_PARSED = 8
"""How much more memory a list takes than its JSON, at most but for lists of nothing."""
_LONG_QUERY = 2000
_PAGE = 1000
_MAX_PAGES = 10_000
_TRY_AGAIN = frozenset((408, 423, 429, 500, 502, 503, 504))
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 8.0
_MOST_TRIES = 8
_SHOWN = 200
_SIGNATURE = re.compile(r"\+[AR][0-9A-Za-z-]{8,}(@[0-9a-f]*)?")
_KINDS = {"collections": "collection", "groups": "project", "users": "user"}
"""What the lists of the API hold."""
_OK = 200
_LARGE_ANSWER = 1 << 16


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a cluster tells about itself."""

    cluster: str
    """Five characters that its uuids begin with."""
    signature_seconds: float
    """How long a permission to read a block lasts."""
    replication: int | None
    """How many copies of its blocks a collection gets that asks for no number."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The API server of a cluster. `host`: ``host[:port]``; `seconds`: for a request with all its tries."""

    host: str
    http: Http
    token: str | None = field(repr=False)
    seconds: float
    counters: Counters

    async def discovery(self) -> Discovery:
        """Raises StoreError, StoreTimeout where no Arvados cluster answers."""
        answer = await self._json("discovery/v1/apis/arvados/v1/rest", {}, "discovery document")
        try:
            seconds, copies = answer.get("blobSignatureTtl", 1209600), answer.get("defaultCollectionReplication")
            return Discovery(str(answer["uuidPrefix"]), float(seconds), None if copies is None else int(copies))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.host} does not answer as an Arvados API server does") from error

    async def slash_substitute(self) -> str:
        """What stands for a ``/`` in names (``ForwardSlashNameSubstitution`` of the cluster's configuration); empty
        where it says nothing, or cannot be read.
        """
        try:
            collections = (await self.get("config")).get("Collections")
        except RiafsError as error:  # names are shown all the same
            log.info("the cluster's ForwardSlashNameSubstitution is not known: %s", error)
            return ""
        told = collections.get("ForwardSlashNameSubstitution") if isinstance(collections, dict) else None
        return told if isinstance(told, str) and "/" not in told and "\0" not in told else ""

    async def get(self, path: str, **parameters: object) -> Record:
        """The record at `path` (``collections/UUID``).

        Raises NotInStore where there is none that this user can see, StoreDenied, StoreError, StoreTimeout.
        """
        return await self._json(f"arvados/v1/{quote(path, safe='/+')}", parameters, path.partition("?")[0])

    async def get_with(self, path: str, name: str, spill: bytes) -> tuple[Record, SpilledText | None]:
        """The same, and apart from it the text of its member `name`, which may be large: it is kept in the directory
        `spill`. None where it has no such text. Raises as `get`, OutOfMemory."""
        kept: list[SpilledText] = []

        def take(incoming: Incoming) -> Answer:
            text = SpilledText(spill, f"an answer of {self.host}")
            reader = RecordReader(name, text.append)
            if incoming.status != _OK:
                return _whole(incoming)
            try:
                while part := incoming.read(PIECE):
                    reader.feed(part)
                    if reader.size > _MAX_ANSWER:
                        raise TooLarge(f"{path} of {self.host}: the answer has more than {_MAX_ANSWER} bytes")
                reader.finish()
            except ValueError:
                return Answer(incoming.status, incoming.headers, b"")
            kept[:] = [text] if reader.found else []
            return Answer(incoming.status, incoming.headers, bytes(reader.rest))

        url = f"arvados/v1/{quote(path, safe='/+')}"
        return await self._json(url, {}, path, take), kept[0] if kept else None

    async def all(self, path: str, filters: Sequence[Any], select: Sequence[str]) -> list[Record]:
        """Every record of the list at `path` that `filters` let through, in the order of their uuids.

        Raises as `get`.
        """
        found: list[Record] = []
        limit = _PAGE
        for _ in range(_MAX_PAGES):
            after = [["uuid", ">", found[-1]["uuid"]]] if found else []
            named = {"select": list(select)} if select else {}
            try:
                answer = await self.get(path, filters=[*filters, *after], order=["uuid asc"], limit=limit, **named)
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            page = self.items(path, answer)
            found += page
            if not page or answer.get("items_available") == len(page):
                return found
        raise StoreError(f"{self.host}: {path} has no end")

    async def newest(self, path: str, filters: Sequence[Any]) -> object:
        """What is another value after records that `filters` let through were made, changed or removed: how many there
        are, and which was changed last. Raises as `get`."""
        order = ["modified_at desc", "uuid desc"]
        answer = await self.get(path, filters=filters, select=["uuid", "modified_at"], order=order, limit=1)
        return answer.get("items_available"), [item.get("modified_at") for item in self.items(path, answer)]

    def items(self, path: str, answer: Record, name: str = "items") -> list[Record]:
        """The records in an answer. Raises StoreError where it holds something else."""
        items = answer.get(name)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise StoreError(f"{self.host}: {path} is no list of records")
        if not all(isinstance(item.get("uuid"), str) for item in items):
            raise StoreError(f"{self.host}: {path} has records without a uuid")
        return items

    # -- one request --------------------------------------------------------------------------------------------------

    async def _json(self, path: str, parameters: Mapping[str, object], name: str, take: "Take | None" = None) -> Record:
        answer = await self._patiently(self._request(path, parameters, name), take or _whole)
        good = answer.status == _OK
        try:
            found = await _parsed(answer.body, f"{name} of {self.host}") if good else None
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{name} of {self.host}: the answer is not JSON") from error
        if good and isinstance(found, dict):
            return found
        raise self._refusal(answer, name)

    def _request(self, path: str, parameters: Mapping[str, object], name: str) -> Request:
        query = urlencode(
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in parameters.items()}
        )
        url = f"https://{self.host}/{path}"
        named = f"{name} of {self.host}"
        headers = {"Accept": "application/json", **bearer(self.token)}
        if len(query) <= _LONG_QUERY:
            return Request(named, f"{url}?{query}" if query else url, headers=headers)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return Request(named, url, "POST", headers, f"_method=GET&{query}".encode())

    async def _patiently(self, request: Request, take: "Take") -> Answer:
        """The first answer that is worth looking at, or the last one. Raises what went wrong last.

        The deadline is for answers to begin; one that goes on coming is not cut.
        """
        seconds = time_left(self.seconds)
        if not seconds:
            raise StoreTimeout(f"{request.name} is not asked, as something else did not answer")
        end = trio.current_time() + seconds
        wait = _FIRST_WAIT
        for _ in range(_MOST_TRIES):
            delay = wait
            answer, problem = await self._asked(request, take, max(end - trio.current_time(), _FIRST_WAIT))
            if answer is not None:
                if answer.status not in _TRY_AGAIN:
                    return answer
                problem = StoreError(f"{request.name}: status {answer.status}")
                delay = _retry_after(answer) or wait
            if trio.current_time() + delay >= end:
                break
            log.info("%s; asked again", problem)
            await trio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - so that clients do not come together
            wait = min(2 * wait, _LONGEST_WAIT)
        self.counters.store_timeouts += 1
        exhaust_request()
        raise StoreTimeout(f"{problem} (tried for {self.seconds:g} s)")

    async def _asked(self, request: Request, take: "Take", seconds: float) -> tuple[Answer | None, RiafsError | None]:
        """An answer, or what may pass. Raises what does not."""
        self.counters.api_requests += 1
        try:
            return await self.http.exchange(replace(request, seconds=seconds), take), None
        except OutOfMemory:
            raise
        except RiafsError as error:
            if not (error.retryable or isinstance(error, ShortRead)):
                raise
            return None, error

    def _refusal(self, answer: Answer, name: str) -> RiafsError:
        def said(words: str) -> str:
            return f"{name} of {self.host}: {words}; status {answer.status}{_reason(answer.body, self.token)}"

        match answer.status:
            case 401 if self.token:
                return StoreDenied(said("the token is not accepted: is the token right, and has it not expired?"))
            case 401:
                return StoreDenied(said("there is no token: set ARVADOS_API_TOKEN or token-file"))
            case 403:
                return StoreDenied(said("this token may not do that"))
            case 404:
                kind = _KINDS.get(name.partition("/")[0], "thing")
                return NotInStore(said(f"no such {kind}, or this token may not see it"))
        if answer.status in _TRY_AGAIN:
            return StoreError(said("the server cannot answer at the moment"))
        return BadAnswer(said("the server refuses the request"))


Take = Callable[[Incoming], Answer]


def _whole(incoming: Incoming) -> Answer:
    """In a worker thread: all of an answer. Raises TooLarge, OutOfMemory, and as Incoming.read."""
    memory.ensure(min(incoming.length or 0, _MAX_ANSWER), "an answer of an API server")
    return Answer(incoming.status, incoming.headers, incoming.read_all(_MAX_ANSWER))


async def _parsed(text: bytes, name: str) -> object:
    if len(text) >= _LARGE_ANSWER:
        memory.ensure(_PARSED * len(text), name)
    return json.loads(text) if len(text) < _LARGE_ANSWER else await trio.to_thread.run_sync(json.loads, text)


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 0.0


def _reason(body: bytes, token: str | None) -> str:
    """What the server says of an error, fit for one line of a log that others may read."""
    try:
        errors = json.loads(body)["errors"]
        text = "; ".join(str(error) for error in errors)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    for secret in (token, token.rpartition("/")[2]) if token else ():
        text = text.replace(secret, "…") if secret else text
    text = _SIGNATURE.sub("+A…", text)[:_SHOWN]
    shown = "".join(character if character.isprintable() else " " for character in text)
    return f" ({shown})" if shown else ""


_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class KeepService:
    """A block server. `uuid` decides in which order servers are asked for a block."""

    uuid: bytes
    url: str
    """Root, with a ``/`` at its end."""
    kind: str
    """``disk``, ``proxy``, or ``gateway:…``, which is only asked where a hint names it."""


async def fetch_services(api: ApiServer) -> list[KeepService]:
    """The servers that this user can reach. Raises StoreError for a list that names none, and as ApiServer.get."""
    answer = await api.get("keep_services/accessible")
    found = [_service(api.host, item) for item in api.items("keep_services", answer)]
    if not found:
        raise StoreError(f"{api.host} lists no block servers for this user")
    return found


def named_services(urls: Sequence[str]) -> list[KeepService]:
    """The servers in ``ARVADOS_KEEP_SERVICES``, which have no uuids of their own."""
    return [
        KeepService(b"00000-bi6l4-%015d" % number, url if url.endswith("/") else f"{url}/", "proxy")
        for number, url in enumerate(urls)
    ]


def _service(host: str, record: Record) -> KeepService:
    name, port = record.get("service_host"), record.get("service_port")
    uuid = record.get("uuid")
    if not (isinstance(name, str) and isinstance(uuid, str) and isinstance(port, int) and 0 < port <= _MAX_PORT):
        raise StoreError(f"{host} lists a block server without host, port or uuid")
    if not name or not name.isascii() or not name.isprintable() or set(name) & set("/?#@ "):
        raise StoreError(f"{host} lists a block server with an impossible host")
    scheme = "https" if record.get("service_ssl_flag") else "http"
    shown = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return KeepService(uuid.encode(), f"{scheme}://{shown}:{port}/", str(record.get("service_type") or "disk"))
