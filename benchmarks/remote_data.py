"""Stores behind sshd and nginx with a long line in front, and the peers that read them over the same line."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import mounts, stores
from benchmarks.bench import Bench
from benchmarks.stores import Annexed
from riafs.formats.annex import hash_mixed
from tests.remote.proxy import Line, Proxy, proxy
from tests.remote.servers import HOST, Nginx, SshServer, WebSettings, git_http_backend, nginx, sshd

DIRECTORIES_WIDE, EACH = 500, 100
SMALL_SIZE = 20_000
_PIECE = 1 << 24


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is read."""

    large: int
    """Bytes of the one large file."""
    wide: int
    """Directories of 100 files in the dataset that is only listed."""
    small: int
    """Directories of 100 files of 20 kB."""


def sizes(bench: Bench) -> Sizes:
    """For this run."""
    return Sizes(bench.sized(1 << 30, 1 << 27), bench.sized(DIRECTORIES_WIDE, 50), bench.sized(100, 10))


def store(bench: Bench) -> Path:
    """The store with three datasets: ``large``, ``wide`` and ``small``."""
    size = sizes(bench)
    place = bench.data / f"remote-{size.large >> 20}-{size.wide}-{size.small}"

    def build(root: Path) -> None:
        stores.make_store(root)
        key = _write_large(root / "large", size.large)
        with stores.new_dataset(root, place, 1, "large") as dataset:
            dataset.commit("main", [_KeyOnly("large", key)])
        name = os.fsdecode(key)
        directory = root / stores.dataset_path(1) / "annex/objects" / os.fsdecode(hash_mixed(key)) / name
        directory.mkdir(parents=True)
        (root / "large").rename(directory / name)
        with stores.new_dataset(root, place, 2, "wide") as dataset:
            files = list(stores.files(size.wide, EACH, 12))
            dataset.commit("main", files)
            dataset.log_locations(files)
        with stores.new_dataset(root, place, 3, "small") as dataset:
            files = list(stores.files(size.small, EACH, SMALL_SIZE))
            dataset.keep(files)
            dataset.commit("main", files)
            dataset.log_locations(files)

    return stores.build_once(place, build)


class _KeyOnly(Annexed):
    """A file whose `data` are its key: its content is too large for memory."""

    @property
    def key(self) -> bytes:
        return self.data


def large_object(store: Path) -> Path:
    """Where the large file's content is."""
    [found] = (store / stores.dataset_path(1) / "annex/objects").glob("*/*/*/*")
    return found


def _write_large(path: Path, size: int) -> bytes:
    """Write the large file's content; its key."""
    digest = hashlib.md5()
    with open(path, "wb") as file:
        for _ in range(0, size, _PIECE):
            data = os.urandom(_PIECE)
            digest.update(data)
            file.write(data)
    return b"MD5E-s%d--%s.dat" % (size, digest.hexdigest().encode())


@dataclass(frozen=True, slots=True)
class Servers:
    """sshd and nginx for the store, each with a line in front."""

    store: Path
    size: int
    """Of the large file."""
    ssh: SshServer
    web: Nginx
    ssh_line: Proxy
    web_line: Proxy
    long: bool
    """Whether clients go through the lines; if not, directly."""

    def ssh_command(self) -> tuple[str, ...]:
        """The user's ssh."""
        return self.ssh.command_through(self.ssh_line.port) if self.long else self.ssh.command

    def web_port(self) -> int:
        """Where clients connect to."""
        return self.web_line.port if self.long else self.web.port

    def url(self, kind: str, alias: str) -> str:
        """The source of a dataset for riafs."""
        if kind == "ssh":
            return f"{self.ssh.url(self.store)}#~{alias}"
        return f"ria+http://{HOST}:{self.web_port()}/{self.store.name}#~{alias}"

    def words(self, kind: str) -> tuple[str, ...]:
        """What ``riafs mount`` needs beside it."""
        return ("--ssh-command", shlex.join(self.ssh_command())) if kind == "ssh" else ()

    def object_url(self) -> str:
        """The large file's content on the web server."""
        path = large_object(self.store).relative_to(self.store.parent)
        return f"http://{HOST}:{self.web_port()}/{path}"

    def transferred(self) -> int:
        """Bytes over both lines so far, in both directions."""
        lines = (self.ssh_line, self.web_line)
        return sum(line.bytes_to_client + line.bytes_to_server for line in lines)

    def content_requests(self) -> int:
        """Requests for content that reached the servers so far."""
        opened = self.ssh.sftp_log.read_text(errors="replace").count('\nopen "')
        return opened + len(self.web.requests("annex/objects"))

    # -- peers

    def remote_word(self) -> tuple[str, ...]:
        """``ssh … HOST`` as far as the host."""
        return (*self.ssh_command(), "-p", str(self.ssh.port), "-l", self.ssh.user, "--", HOST)

    def sshfs(self, data: Path) -> AbstractContextManager[Path]:
        """The store by sshfs with its own defaults. Raises CalledProcessError."""
        address = f"{self.ssh.user}@{HOST}:{self.store}"
        words = ("-f", "-p", str(self.ssh.port), "-o", f"ssh_command={' '.join(self.ssh_command())}", address)
        return mounts.peer(data, "sshfs", *words)

    def rclone(self, data: Path) -> AbstractContextManager[Path]:
        """The directory of the large file by ``rclone mount`` with its own defaults."""
        url = self.object_url().rpartition("/")[0]
        return mounts.peer(data, "rclone", "mount", f":http,url='{url}/':", "--read-only")

    @contextmanager
    def datalad(self, working: Path) -> Iterator[dict[str, str]]:
        """An environment in which DataLad's ssh is that of `ssh_command`."""
        programs = working / "bin"
        programs.mkdir()
        script = programs / "ssh"
        script.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {shlex.join(self.ssh_command()[1:])} "$@"\n')
        script.chmod(0o755)
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {**os.environ, "PATH": path, "HOME": str(working), "GIT_TERMINAL_PROMPT": "0"}


@contextmanager
def served(bench: Bench, store: Path, size: int) -> Iterator[Servers]:
    """The servers, with lines that are not used yet."""
    directory = bench.data / "servers"
    shutil.rmtree(directory, ignore_errors=True)
    with ExitStack() as stack:
        ssh = stack.enter_context(sshd(directory / "sshd"))
        backend = stack.enter_context(git_http_backend(directory / "git", store.parent))
        settings = WebSettings(git_backend=backend.port, autoindex=True)
        web = stack.enter_context(nginx(directory / "nginx", store.parent, settings))
        lines = [stack.enter_context(proxy(port)) for port in (ssh.port, web.port)]
        yield Servers(store, size, ssh, web, *lines, long=False)


def line(servers: Servers, round_trip: float, rate: float = Line().rate) -> Servers:
    """The same over a line of `round_trip` seconds more, of `rate` bytes a second; 0: without one."""
    for each in (servers.ssh_line, servers.web_line):
        each.set(round_trip=round_trip, rate=rate)
    return Servers(
        servers.store, servers.size, servers.ssh, servers.web, servers.ssh_line, servers.web_line, long=round_trip > 0
    )


def clone(servers: Servers, working: Path, alias: str, files: int) -> tuple[float, float]:
    """Seconds that ``datalad clone`` takes over ssh, and seconds a file of ``datalad get`` for so many files."""
    with servers.datalad(working) as environment:

        def datalad(directory: Path, *words: str) -> float:
            began = time.perf_counter()
            command = ["datalad", "-l", "error", *words]
            subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, check=True)
            return time.perf_counter() - began

        identity = ["git", "config", "--global"]
        for name, value in (("user.name", "b"), ("user.email", "b@b")):
            subprocess.run([*identity, name, value], env=environment, check=True)
        cloned = datalad(working, "clone", f"{servers.ssh.url(servers.store)}#~{alias}", "clone")
        got = 0.0
        if files:
            names = [f"d00000/{name}" for name in sorted(os.listdir(working / "clone/d00000"))[:files]]
            got = datalad(working / "clone", "get", *names) / len(names)
    return cloned, got
