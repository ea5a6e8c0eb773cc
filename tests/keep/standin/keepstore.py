"""A keepstore of a stand-in cluster: blocks in a directory laid out like keepstore's Directory volume."""

import hashlib
import os
import re
import tempfile
from pathlib import Path

from tests.keep.standin.serving import Handler, Server
from tests.keep.standin.signatures import EMPTY, LOCATOR, Signer

BLOCK = 1 << 26


class Volume:
    """``ROOT/abc/abc…``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where a block lies."""
        return self.root / digest[:3] / digest

    def get(self, digest: str) -> bytes | None:
        """A block."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, body: bytes) -> str:
        """Store a block. Returns its locator."""
        digest = hashlib.md5(body).hexdigest()
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f"tmp{digest}", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
        Path(temporary).rename(path)
        return f"{digest}+{len(body)}"

    def digests(self) -> set[str]:
        """All blocks."""
        return {path.name for path in self.root.glob("???/*") if re.fullmatch("[0-9a-f]{32}", path.name)}


class Keepstore(Server):
    """Answers for one volume."""

    def __init__(self, port: int, volume: Volume, signer: Signer) -> None:
        self.volume = volume
        self.signer = signer
        super().__init__(port, KeepHandler)


class KeepHandler(Handler):
    """Requests to a keepstore."""

    server: Keepstore

    def label(self) -> str:
        """See Handler."""
        return "block" if re.match(r"/+[0-9a-f]{32}", self.url_path) else self.url_path

    def serve(self) -> None:
        """See Handler."""
        path = self.url_path.lstrip("/")
        if re.match("[0-9a-f]{32}", path) and self.command in ("GET", "HEAD"):
            self._read(path)
        elif re.match("[0-9a-f]{32}", path) and self.command == "PUT":
            self._write(path)
        else:
            self.read_body()
            self.reply(400, "Bad Request\n")

    def _read(self, locator: str) -> None:
        if not LOCATOR.fullmatch(locator):
            return self.reply(400, "invalid locator\n")
        if self.command == "GET" and "+" not in locator and locator != EMPTY:
            return self.reply(405, "method not allowed\n")
        if self.server.signer.enabled and not self.token():
            return self.reply(401, "no token provided in Authorization header\n")
        wrong = self.server.signer.check(locator, self.token())
        if wrong:
            return self.reply(
                401 if wrong == "expired" else 400, f"{'invalid' if wrong != 'expired' else wrong} signature\n"
            )
        body = self.server.volume.get(locator[:32])
        if body is None:
            return self.reply(404, "file does not exist\n")
        return self.reply(200, body, "application/octet-stream", [("Vary", "X-Keep-Signature")])

    def _write(self, locator: str) -> None:
        if int(self.headers.get("Content-Length") or 0) > BLOCK:
            self.close_connection = True
            return self.reply(413, "request entity too large\n")
        body = self.read_body()
        if hashlib.md5(body).hexdigest() != locator[:32]:
            return self.reply(400, f"content hash did not match specified locator {locator}\n")
        stored = self.server.signer.sign(self.server.volume.put(body), self.token())
        headers = [("X-Keep-Replicas-Stored", "1"), ("X-Keep-Storage-Classes-Confirmed", "default=1")]
        return self.reply(200, stored + "\n", headers=headers)
