"""A whole stand-in cluster: an API server, keepstores, and the settings that clients reach it with."""

import ssl
from pathlib import Path

from tests.keep.standin.api import TOKEN, ApiServer
from tests.keep.standin.certificates import make_certificate
from tests.keep.standin.keepstore import Keepstore, Volume
from tests.keep.standin.records import Record, Records
from tests.keep.standin.signatures import Signer


class Cluster:
    """Runs from `start` to `stop`, in threads of this process. `keepstores` volumes lie in `directory`."""

    def __init__(self, directory: Path, keepstores: int = 2, *, ttl: int = 336 * 3600, signing: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.records = Records()
        self.signer = Signer(signing, ttl)
        volumes = [Volume(directory / f"keep{number}") for number in range(keepstores)]
        self.keepstores = [Keepstore(0, volume, self.signer) for volume in volumes]
        tls = _server_context(directory)
        self.certificate = directory / "cert.pem"
        self.api = ApiServer(0, tls, self.records, self.signer, [each.url for each in self.keepstores])

    @property
    def host(self) -> str:
        """``host:port`` of the API server."""
        return f"127.0.0.1:{self.api.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """How Arvados clients are told."""
        return {"ARVADOS_API_HOST": self.host, "ARVADOS_API_TOKEN": TOKEN, "ARVADOS_API_HOST_INSECURE": "true"}

    def start(self) -> None:
        """Answer from now on."""
        for server in (self.api, *self.keepstores):
            server.start()

    def stop(self) -> None:
        """End."""
        for server in (self.api, *self.keepstores):
            server.stop()

    def reset(self) -> None:
        """Forget counts, faults and delays."""
        for server in (self.api, *self.keepstores):
            server.shape.faults.clear()
            server.shape.latency = server.shape.bandwidth = 0.0
            server.shape.reset()

    def put(self, content: bytes) -> str:
        """Store a block on every keepstore. Returns its locator, without a signature."""
        return {each.volume.put(content) for each in self.keepstores}.pop()

    def collection(self, name: str | None, manifest: str, **attributes: object) -> Record:
        """A new collection, whatever its manifest is."""
        return self.records.add("collections", name=name, manifest_text=manifest, **attributes)

    def api_requests(self) -> int:
        """How many requests the API server got."""
        return sum(self.api.shape.requests.values())

    def block_requests(self) -> int:
        """How many requests for blocks the keepstores got."""
        return sum(each.shape.requests.get("GET block", 0) for each in self.keepstores)


def _server_context(directory: Path) -> ssl.SSLContext:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    if not certificate.exists():
        make_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
