"""The block servers of a cluster, as it lists them or as the environment names them."""

from collections.abc import Sequence
from dataclasses import dataclass

from riafs.arvados.api import ApiServer, Record
from riafs.errors import StoreError

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
