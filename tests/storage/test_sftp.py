"""A store behind the sftp program of OpenSSH, and behind servers that lie: one failure each, and never a hang."""

import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.counters import Counters
from riafs.errors import (
    BadAnswer,
    BadSource,
    MissingProgram,
    NotInStore,
    OutsideStore,
    RiafsError,
    ShortRead,
    SourceNotFound,
    StoreDenied,
    StoreTimeout,
    StoreUnreachable,
    TooLarge,
)
from riafs.formats.sources import RiaUrl
from riafs.storage.protocol import ItemKind
from riafs.storage.sftp import SftpStorage
from riafs.storage.ssh import SshHost, SshOptions, failure
from riafs.tasks import Background, ungrouped
from tests.conformance.ranged import CHECKS, CONTENT, Check
from tests.storage import lying_sftp

SERVER = "/usr/lib/openssh/sftp-server"
needs_server = pytest.mark.skipif(not os.path.exists(SERVER), reason=f"{SERVER} is not installed")


def store_at(root: Path, host: str = "server") -> RiaUrl:
    return RiaUrl("ssh", host, os.fsencode(root), None, None, None)


def running(command: str) -> SshOptions:
    """An ssh that runs `command` here, whatever host it is asked for."""
    return SshOptions(("sh", "-c", command, "ssh"))


@asynccontextmanager
async def connected(
    root: Path, command: str = f"exec {SERVER}", seconds: float = 20, counters: Counters | None = None
) -> AsyncIterator[SftpStorage]:
    with ungrouped():
        async with trio.open_nursery() as nursery:
            storage = await SftpStorage.connect(
                store_at(root), running(command), seconds, counters or Counters(), Background(nursery)
            )
            try:
                yield storage
            finally:
                storage.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "directory").mkdir(parents=True)
    (root / "directory" / "one").write_bytes(b"1")
    (root / "file").write_bytes(b"content")
    (root / "program").write_bytes(b"")
    (root / "program").chmod(0o755)
    (root / "in").symlink_to("file")
    (root / "into").symlink_to("directory")
    (root / "out").symlink_to("../secret")
    (root / "out-directory").symlink_to("..")
    (root / "dangling").symlink_to("nothing")
    os.mkfifo(root / "fifo")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


# -- the real server --------------------------------------------------------------------------------------------------


@needs_server
async def test_status(root: Path) -> None:
    async with connected(root) as storage:
        found = await storage.stat(b"file")
        assert (found.kind, found.size, found.executable) == (ItemKind.FILE, 7, False)
        assert found.mtime_ns == int((root / "file").stat().st_mtime) * 1_000_000_000
        assert (await storage.stat(b"program")).executable
        assert (await storage.stat(b"")).kind is ItemKind.DIRECTORY
        assert (await storage.stat(b"fifo")).kind is ItemKind.OTHER
        assert (await storage.stat(b"in")).path_identity == found.path_identity
        with pytest.raises(NotInStore, match=r"ria\+ssh://server.*none does not exist"):
            await storage.stat(b"none")
        with pytest.raises(OutsideStore, match="leads out of the store"):
            await storage.stat(b"out")
        few = await storage.stat_objects(b"", [b"file", b"none", b"in", b"directory/one"])
        assert [each and each.kind for each in few] == [ItemKind.FILE, None, ItemKind.LINK, ItemKind.FILE]
        assert await storage.stat_objects(b"none", [b"file"]) == [None]
        with pytest.raises(OutsideStore):
            await storage.stat_objects(b"out-directory", [b"secret"])
        assert await storage.executable_each(b"", [b"program", b"file", b"none"]) == [True, False, False]


@needs_server
async def test_listing(root: Path) -> None:
    for number in range(1000):
        (root / "directory" / f"many{number}").touch()
    async with connected(root) as storage:
        kinds = {item.name: item.kind for item in await storage.list(b"")}
        assert kinds == {
            b"directory": ItemKind.DIRECTORY,
            b"file": ItemKind.FILE,
            b"program": ItemKind.FILE,
            b"fifo": ItemKind.OTHER,
        } | dict.fromkeys((b"in", b"into", b"out", b"out-directory", b"dangling"), ItemKind.LINK)
        with pytest.raises(OutsideStore):
            await storage.list(b"out-directory")
        first, none, same = await storage.list_each([b"directory", b"none", b"into"])
        assert (len(first), none, len(same)) == (1001, (), 1001)


@needs_server
async def test_links(root: Path) -> None:
    async with connected(root) as storage:
        assert await storage.read_link(b"out") == b"../secret"
        inside, same, outside, dangling = await storage.resolve_each([b"in", b"into/one", b"out", b"dangling"])
        assert (inside, same) == (b"file", b"directory/one")
        assert isinstance(outside, OutsideStore)
        assert isinstance(dangling, NotInStore)


@needs_server
async def test_small_files(root: Path) -> None:
    async with connected(root) as storage:
        assert await storage.read_file(b"in", 7) == b"content"
        with pytest.raises(TooLarge):
            await storage.read_file(b"file", 6)
        for name in (b"fifo", b"directory", b"none"):
            with pytest.raises(NotInStore):
                await storage.read_file(name, 10)
        with pytest.raises(OutsideStore):
            await storage.open(b"out")


@needs_server
@pytest.mark.parametrize("check", CHECKS)
async def test_files_are_ranged_bytes(root: Path, check: Check) -> None:
    (root / "file").write_bytes(CONTENT)
    async with connected(root) as storage:
        file = await storage.open(b"file")
        await check(file)
        file.close()


@needs_server
async def test_large_reads_are_many_requests(root: Path) -> None:
    content = os.urandom(5_000_001)
    (root / "file").write_bytes(content)
    async with connected(root) as storage:
        file = await storage.open(b"file")
        assert await file.read(0, len(content)) == content
        assert bytes(await file.read(4_999_990, 100)) == content[4_999_990:]
        file.close()


@needs_server
async def test_a_changed_file_has_another_version(root: Path) -> None:
    os.utime(root / "file", (1, 1))
    async with connected(root) as storage:
        file = await storage.open(b"file")
        before = file.version
        assert bytes(await file.read(0, 7)) == b"content"
        assert file.version is before
        (root / "file").write_bytes(b"CONTENT")
        os.utime(root / "file", (2, 2))
        await file.look()
        assert file.version != before
        (root / "file").write_bytes(b"C")
        with pytest.raises(ShortRead):
            await file.read(0, 7)


@needs_server
async def test_a_lost_connection_is_made_again(root: Path) -> None:
    async with connected(root) as storage:
        file = await storage.open(b"file")
        for _ in range(3):
            connection = await storage.session.connection()
            connection.process.kill()
            assert bytes(await file.read(0, 7)) == b"content"
            assert await storage.session.connection() is not connection


@needs_server
async def test_more_files_than_handles(root: Path) -> None:
    async with connected(root) as storage:
        connection = await storage.session.connection()
        assert connection.limits.handles > 1000
        connection.limits = type(connection.limits)(handles=20)
        files = [await storage.open(b"file") for _ in range(10)]
        for file in files:
            assert bytes(await file.read(0, 7)) == b"content"
        open_there = len(os.listdir(f"/proc/{connection.process.pid}/fd"))
        assert open_there < 12
        for file in files:
            file.close()


@needs_server
async def test_roots(root: Path, expected_warnings: Callable[..., None]) -> None:
    for path, text in ((root / "none", "does not exist"), (root / "file", "is not a directory")):
        with pytest.raises(SourceNotFound, match=text):
            async with connected(path):
                pass
    linked = root.parent / "linked"
    linked.symlink_to(root)
    async with connected(linked) as storage:
        assert await storage.read_file(b"file", 10) == b"content"


# -- no server --------------------------------------------------------------------------------------------------------


async def fails(kind: type[RiafsError], text: str, root: Path, command: str, seconds: float = 5) -> None:
    began = time.monotonic()
    with pytest.raises(kind, match=text):
        async with connected(root, command, seconds):
            pass
    assert time.monotonic() - began < seconds + 3


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ("ssh: Could not resolve hostname server: Name or service not known", StoreUnreachable, "Could not resolve"),
        ("ssh: connect to host server port 22: Connection refused", StoreUnreachable, "Connection refused"),
        ("me@server: Permission denied (publickey).", StoreDenied, "Permission denied.*try once by hand: ssh server"),
        ("Host key verification failed.", StoreDenied, "does not know the host's key"),
        ("subsystem request failed on channel 0", StoreDenied, "offers no sftp"),
        ("", StoreUnreachable, "ended without a message"),
    ],
)
async def test_reasons(
    root: Path, said: str, kind: type[RiafsError], text: str, expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("server")
    await fails(kind, text, root, f"echo {shlex.quote(said)} >&2; exit 255")


async def test_a_login_script_that_prints(root: Path, expected_warnings: Callable[..., None]) -> None:
    expected_warnings("server")
    await fails(BadAnswer, "login script", root, "echo Welcome to this server; sleep 20")


async def test_a_silent_server(root: Path, expected_warnings: Callable[..., None]) -> None:
    expected_warnings("server")
    await fails(StoreUnreachable, "did not answer within 0.3 s", root, "exec sleep 20", 0.3)


async def test_no_ssh(root: Path, expected_warnings: Callable[..., None]) -> None:
    expected_warnings("not installed")
    options = SshOptions(("/nonexistent",))
    async with trio.open_nursery() as nursery:
        with pytest.raises(MissingProgram, match="nonexistent is not installed"):
            await SftpStorage.connect(store_at(root), options, 5, Counters(), Background(nursery))


async def test_after_a_failure_others_fail_at_once(
    root: Path, tmp_path: Path, expected_warnings: Callable[..., None], mock_clock: trio.testing.MockClock
) -> None:
    expected_warnings("ended without a message", "can be reached again", "closed")
    marker = tmp_path / "tried"
    command = f"echo >>{marker}; [ -e {tmp_path}/up ] && exec {sys.executable} -m tests.storage.lying_sftp honest"
    (tmp_path / "up").touch()
    async with connected(root, command) as storage:
        (await storage.session.connection()).process.kill()
        (tmp_path / "up").unlink()
        for _ in range(5):
            with pytest.raises(StoreUnreachable, match="since"):
                await storage.stat(b"file")
        assert len(marker.read_text().splitlines()) == 2
        assert storage.session.away_since is not None
        mock_clock.jump(1.1)
        with pytest.raises(StoreUnreachable):
            await storage.stat(b"file")
        assert len(marker.read_text().splitlines()) == 3
        (tmp_path / "up").touch()
        mock_clock.jump(31)
        assert (await storage.stat(b"file")).size == 7
        assert storage.session.away_since is None


# -- servers that lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lie", "kind"), lying_sftp.LIES.items())
async def test_lies(root: Path, lie: str, kind: type[RiafsError], expected_warnings: Callable[..., None]) -> None:
    """Each is one failure within the deadline."""
    expected_warnings("server")
    began = time.monotonic()
    command = f"exec {sys.executable} -m tests.storage.lying_sftp {lie}"
    with pytest.raises(kind):
        await read_everything(root, command)
    assert time.monotonic() - began < 4


async def read_everything(root: Path, command: str) -> None:
    async with connected(root, command, 1.0) as storage:
        await storage.list(b"")
        file = await storage.open(b"file")
        try:
            await file.read(0, 7)
        finally:
            file.close()


async def test_a_hung_server_is_left_behind(root: Path, tmp_path: Path) -> None:
    """What hangs costs one request its deadline, and others get a new connection."""
    command = f"exec {sys.executable} -m tests.storage.lying_sftp hang-at-secret"
    async with connected(root, command, 1.0) as storage:
        with pytest.raises(StoreTimeout):
            await storage.read_file(b"secret", 10)
        assert await storage.read_file(b"file", 10) == b"content"


# -- command lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "arguments"),
    [
        ("h", ["--", "h", "sftp"]),
        ("u@h:22", ["-p", "22", "-l", "u"]),
        ("[::1]:2222", ["-p", "2222"]),
        ("[::1]", ["--", "::1", "sftp"]),
    ],
)
def test_command_lines(host: str, arguments: list[str]) -> None:
    line = SshHost.of(store_at(Path("/s"), host)).subsystem(SshOptions(), "sftp")
    assert line[0] == "ssh"
    at = line.index(arguments[0])
    assert line[at : at + len(arguments)] == arguments
    assert line[line.index("--") + 1 :][1:] == ["sftp"]
    assert "BatchMode=yes" in line


@pytest.mark.parametrize("host", ["u:secret@h", "-oProxyCommand=x", "-u@h", ""])
def test_refused_hosts(host: str) -> None:
    with pytest.raises(BadSource) as caught:
        SshHost.of(store_at(Path("/s"), host))
    assert "secret" not in str(caught.value)


def test_messages_have_no_control_characters() -> None:
    assert "\x1b" not in str(failure(SshHost(None, "h", None), b"\x1b[31mred\x1b[0m\n"))
