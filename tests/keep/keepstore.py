"""Real keepstore processes, each alone on 127.0.0.1 with a directory: they need no API server and no database.

``RIAFS_KEEPSTORE`` names the program. Any token that is not empty will do, as keepstore checks signatures by itself.
"""

import hashlib
import hmac
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from riafs.formats.locators import Locator, parse_locator

PROGRAM = os.environ.get("RIAFS_KEEPSTORE", "")
TOKEN = "v2/zzzzz-gj3su-000000000000000/notasecretnotasecretnotasecretnotasecretnotasecre"
_KEY = "testblobsigningkeytestblobsigningkeytestblobsigningkey00"
_TTL = 336 * 3600

_CONFIG = """\
Clusters:
  zzzzz:
    ManagementToken: testmanagementtokentestmanagementtoken0
    SystemRootToken: testsystemroottokentestsystemroottoken00
    SystemLogs: {{LogLevel: warning}}
    API: {{MaxKeepBlobBuffers: 4}}
    Services:
      Controller: {{ExternalURL: "https://127.0.0.1:9"}}
      Keepstore: {{InternalURLs: {{"{url}": {{}}}}}}
    Collections:
      BlobSigning: {signing}
      BlobSigningKey: {key}
      BlobSigningTTL: 336h
    Volumes:
      zzzzz-nyw5e-000000000000000:
        Driver: Directory
        DriverParameters: {{Root: "{root}"}}
"""


@dataclass(frozen=True, slots=True)
class Keepstore:
    """A running keepstore."""

    url: str
    root: Path
    """Its volume."""

    def put(self, block: bytes) -> Locator:
        """Store a block; the locator in the answer."""
        digest = hashlib.md5(block).hexdigest()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = urllib3.request("PUT", self.url + digest, body=block, headers=headers, retries=False)
        assert answer.status == 200
        return parse_locator(answer.data.strip())

    def file(self, locator: Locator) -> Path:
        """The file of a block."""
        return self.root / locator.digest[:3].decode() / locator.digest.decode()


def signed(block: bytes, expires: int, token: str = TOKEN) -> Locator:
    """A block's locator, signed as keepstore does."""
    digest = hashlib.md5(block).hexdigest()
    text = f"{digest}@{token}@{expires:08x}@{_TTL:x}"
    mac = hmac.new(_KEY.encode(), text.encode(), hashlib.sha1).hexdigest()
    return Locator(digest.encode(), len(block), (f"A{mac}@{expires:08x}".encode(),))


@contextmanager
def keepstores(directory: Path, count: int, *, signing: bool) -> Iterator[Sequence[Keepstore]]:
    """That many keepstores, ready to answer."""
    with ExitStack() as running:
        yield [running.enter_context(_keepstore(directory / str(n), signing=signing)) for n in range(count)]


@contextmanager
def _keepstore(directory: Path, *, signing: bool) -> Iterator[Keepstore]:
    port = _free_port()
    url, root = f"http://127.0.0.1:{port}", directory / "volume"
    root.mkdir(parents=True)
    config = directory / "config.yml"
    config.write_text(_CONFIG.format(url=url, root=root, signing=str(signing).lower(), key=_KEY))
    environment = {**os.environ, "ARVADOS_SERVICE_INTERNAL_URL": url}
    with (directory / "log").open("wb") as output:
        process = subprocess.Popen([PROGRAM, "-config", str(config)], env=environment, stdout=output, stderr=output)
        try:
            _wait_for(port, process, directory / "log")
            yield Keepstore(url + "/", root)
        finally:
            process.terminate()
            process.wait(20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]", output: Path) -> None:
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"keepstore does not answer:\n{output.read_text(errors='replace')}")
