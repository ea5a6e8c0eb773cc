"""One store behind sshd or nginx, with a line in front that can break: what tests of remote stores open."""

import os
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.formats.sources import parse_ria_source
from riafs.storage.ssh import SshOptions
from riafs.tree.remote import READABLE
from riafs.vfs.assembly import Plan, open_filesystem
from tests.behaviour.drivers import ObjectDriver
from tests.fuse.mounting import Mounted, mounted
from tests.remote.http_faults import FaultLayer, http_faults
from tests.remote.proxy import Proxy, proxy
from tests.remote.servers import Server
from tests.remote.ssh_server import SshServer, sshd
from tests.remote.web_servers import WebSettings, git_http_backend, nginx

KINDS = tuple(kind for kind in ("ssh", "http") if kind in READABLE)


@dataclass(frozen=True, slots=True)
class Place:
    """A store as a client sees it: through `line`, and over http through `layer` as well where it was wanted."""

    kind: str
    """One of KINDS: what can be read."""
    url: str
    server: Server
    line: Proxy
    layer: FaultLayer | None
    ssh_command: tuple[str, ...]

    @asynccontextmanager
    async def opened(
        self, fragment: str = "", *, deadline: float, cache: Path | None = None, verify: Verify = Verify.AUTO
    ) -> AsyncIterator[ObjectDriver]:
        """The filesystem object; `fragment` as ``#~alias@version``. Without `cache` nothing is kept across mounts."""
        kept = None if cache is None else str(cache)
        source = parse_ria_source(f"{self.url}{fragment}")
        plan = Plan(source, deadline, verify, kept, os.environ["PATH"], ssh=SshOptions(self.ssh_command or ("ssh",)))
        async with open_filesystem(plan, Counters(), {b"stats": lambda: "lookups 1\n"}) as filesystem:
            yield ObjectDriver(filesystem)

    @contextmanager
    def mounted(self, directory: Path, *words: str, deadline: float, fragment: str = "") -> Iterator[Mounted]:
        """A real mount, with its cache below `directory`."""
        words = ("--deadline", str(deadline), "--cache-dir", str(directory / "cache"), *self.words, *words)
        with mounted(f"{self.url}{fragment}", directory, *words) as mount:
            yield mount

    @property
    def words(self) -> tuple[str, ...]:
        """What the command line needs for this place."""
        return ("--ssh-command", shlex.join(self.ssh_command)) if self.kind == "ssh" else ()


@contextmanager
def place(
    kind: str, store: Path, directory: Path, *, layered: bool = False, autoindex: bool = False
) -> Iterator[Place]:
    """Servers for the store, below `directory`. `layered`: over http, with `tests.remote.http_faults`."""
    with ExitStack() as stack:
        if kind == "ssh":
            server = stack.enter_context(sshd(directory / "sshd", requests_logged=True))
            line = stack.enter_context(proxy(server.port))
            yield Place(kind, server.url(store), server, line, None, server.command_through(line.port))
            return
        backend = stack.enter_context(git_http_backend(directory / "git", store.parent))
        settings = WebSettings(git_backend=backend.port, autoindex=autoindex)
        web = stack.enter_context(nginx(directory / "nginx", store.parent, settings))
        layer = stack.enter_context(http_faults(web.port)) if layered else None
        line = stack.enter_context(proxy(web.port if layer is None else layer.port))
        url = f"ria+http://127.0.0.1:{line.port}/{store.name}"
        yield Place(kind, url, web, line, layer, ())


def requests_for(place: Place, name: str) -> list[tuple[int, int]]:
    """(offset, length) of every request for bytes of files of that name that reached the server."""
    if isinstance(place.server, SshServer):
        return place.server.reads(name)
    found = []
    for request in place.server.requests(name):  # type: ignore[attr-defined]
        first, _, last = request.range.removeprefix("bytes=").partition("-")
        found.append((int(first or 0), int(last) - int(first) + 1 if last else request.sent))
    return found
