"""Remote stores that fail: right bytes or one of our errors, within one deadline, and nothing else is affected.

Each fault has a number, over ssh and over http. *Unaffected* is a file of another dataset that was read before: its
status and its bytes come within milliseconds whatever the line does.
"""

import errno
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from riafs.errors import RiafsError
from riafs.storage.deadline import begin_request, leave_request
from tests.behaviour.drivers import READ_SIZE, ObjectDriver, read_file
from tests.failing import errno_of
from tests.fuse.mounting import run_riafs
from tests.plugins.log_hygiene import Announce
from tests.push.test_refusals import small_disk as small_disk
from tests.remote.http_faults import FAULTS
from tests.remote.lying_sftp import LIES, lying_ssh
from tests.remote.places import KINDS, Place, place, requests_for
from tests.small import EPOCH, Locked, SmallDataset, SmallStore, noise, sha256_key_of
from tests.waiting import eventually_true, pass_time

# Deadlines of 2 s need a machine that does nothing else; the short version is in test_mounts.py and in
# tests/storage/test_sftp.py.
pytestmark = pytest.mark.long

T = TypeVar("T")
DEADLINE = 2.0
LATEST = DEADLINE + 1.0
"""Seconds to an error, on a busy machine."""
BACK_OFF = 10.0
"""Until a store that is there again is asked again: its back-off was at 4 s at most."""
QUICK = 0.010
LARGE = noise(80_000_000, "large")
BIG, SMALL, ARCHIVED, OTHER = (
    noise(6_000_000, "big"),
    noise(50_000, "small"),
    noise(2_000_000, "7z"),
    noise(90_000, "o"),
)
UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EIO}


@dataclass(frozen=True, slots=True)
class Remote:
    """A store and the place where it is."""

    store: SmallStore
    place: Place
    one: SmallDataset
    other: SmallDataset

    def opened(self, cache: Path | None = None, fragment: str = "", deadline: float = DEADLINE):  # noqa: ANN201
        """See Place."""
        return self.place.opened(fragment, deadline=deadline, cache=cache)


def fill(store: SmallStore) -> tuple[SmallDataset, SmallDataset]:
    """Two datasets: one that faults hit, and another."""
    files = {b"big": BIG, b"small": SMALL}
    one = store.dataset(
        "one",
        {name: Locked(sha256_key_of(content)) for name, content in files.items()}
        | {b"git": b"git", b"archived": Locked(sha256_key_of(ARCHIVED)), b"deep/git": b"deep"},
    )
    for content in files.values():
        one.put(sha256_key_of(content), content)
    one.archive({sha256_key_of(ARCHIVED): ARCHIVED}, "-mx1")
    other = store.dataset("other", {b"annexed": Locked(sha256_key_of(OTHER)), b"git": b"other"})
    other.put(sha256_key_of(OTHER), OTHER)
    return one, other


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def remote(kind: str, tmp_path: Path) -> Iterator[Remote]:
    """A store of its own for each test."""
    with remote_at(kind, tmp_path) as made:
        yield made


class remote_at(ExitStack):  # noqa: N801  # a context manager
    """A filled store behind a server of that kind."""

    def __init__(self, kind: str, directory: Path, *, layered: bool = False) -> None:
        super().__init__()
        self._made = kind, directory, layered

    def __enter__(self) -> Remote:  # type: ignore[override]
        kind, directory, layered = self._made
        store = SmallStore.make(directory / "store")
        one, other = fill(store)
        return Remote(store, self.enter_context(place(kind, store.path, directory, layered=layered)), one, other)


async def in_time(call: Awaitable[T], latest: float = LATEST) -> T:
    """What one request gives, or its error, in time. It has one deadline, as requests of the kernel have."""
    begin_request()
    began = time.monotonic()
    try:
        return await call
    finally:
        leave_request()
        taken = time.monotonic() - began
        assert taken < latest, f"{taken:.1f} s"


async def read(shown: ObjectDriver, path: bytes) -> bytes:
    """The content of a file. Each request that it takes ends in time: looking it up, opening it, reading a piece."""
    inode = await in_time(shown.inode(path))
    handle = (await in_time(shown.filesystem.open(inode))).handle
    parts: list[bytes] = []
    try:
        while data := await in_time(shown.filesystem.read(handle, sum(map(len, parts)), READ_SIZE)):
            parts.append(bytes(data))
    finally:
        shown.filesystem.release(handle)
    return b"".join(parts)


async def fails(shown: ObjectDriver, path: bytes) -> RiafsError:
    """The error of reading a file."""
    with pytest.raises(RiafsError) as caught:
        await read(shown, path)
    return caught.value


async def fails_with_others(shown: ObjectDriver, path: bytes) -> None:
    """One of many readers of a server that does not answer may also wait for what another one has asked for."""
    inode = await shown.inode(path)
    try:
        opened = await in_time(shown.filesystem.open(inode), LATEST + DEADLINE)
    except RiafsError:
        return
    with pytest.raises(RiafsError):
        await in_time(shown.filesystem.read(opened.handle, 0, READ_SIZE), LATEST + DEADLINE)
    shown.filesystem.release(opened.handle)


async def right_or_failure(call: Awaitable[bytes], content: bytes) -> bool:
    """Whether the bytes are right; otherwise there is one of our errors."""
    try:
        found = await call
    except RiafsError:
        return False
    assert found == content
    return True


async def know(shown: ObjectDriver) -> None:
    """Read what is to stay unaffected, and look at what is not."""
    assert await read(shown, b"other/annexed") == OTHER
    assert await read(shown, b"other/git") == b"other"
    await in_time(shown.stat(b"one/big"))


async def unaffected(shown: ObjectDriver) -> None:
    """The best of some, as other programs run on this machine."""
    best = 9.0
    for _ in range(5):
        began = time.monotonic()
        await in_time(shown.stat(b"other/annexed"))
        assert await read(shown, b"other/annexed") == OTHER
        best = min(best, time.monotonic() - began)
    assert best < QUICK, f"{best * 1000:.1f} ms"
    assert await in_time(shown.ls(b"other")) == [b"annexed", b"git"]


async def comes_back(shown: ObjectDriver) -> None:
    """The rest of the store is read again without another mount."""
    until = time.monotonic() + BACK_OFF
    while True:
        try:
            assert await read(shown, b"one/big") == BIG
            break
        except RiafsError:
            assert time.monotonic() < until
            await trio.sleep(0.1)
    assert await read(shown, b"one/archived") == ARCHIVED
    assert await read(shown, b"one/deep/git") == b"deep"


# -- 1: unreachable at mount


@pytest.mark.parametrize("fault", ["refused", "no such directory", "mute", "ends at once"])
def test_01_unreachable_at_mount_fails_with_one_line(remote: Remote, tmp_path: Path, fault: str) -> None:
    (tmp_path / "mnt").mkdir()
    remote.place.line.set(
        refuse=fault == "refused", half_open=fault == "mute", reset_after=0 if fault == "ends at once" else 1e99
    )
    url = remote.place.url + ("-absent" if fault == "no such directory" else "")
    words = ("mount", url, tmp_path / "mnt", "--deadline", str(DEADLINE), *remote.place.words)
    began = time.monotonic()
    done = run_riafs(*words, "--cache-dir", tmp_path / "cache")
    assert time.monotonic() - began < DEADLINE + 4  # with the start of the interpreter
    assert done.returncode == 32
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not os.path.ismount(tmp_path / "mnt")


# -- 2: unreachable in the middle


def begin_outage(remote: Remote, fault: str) -> None:
    line = remote.place.line
    if fault == "stalled":
        line.set(half_open=True)
    elif fault == "reset":
        line.set(refuse=True)
        line.cut()
    else:
        remote.place.server.stop()


def end_outage(remote: Remote, fault: str) -> None:
    remote.place.line.heal()
    if fault == "killed":
        remote.place.server.start()


OUTAGES = ["stalled", "reset", "killed"]


@pytest.mark.parametrize("fault", OUTAGES)
async def test_02_outage_is_an_error_in_time_and_ends_without_a_new_mount(
    remote: Remote, fault: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        begin_outage(remote, fault)
        for _ in range(2):
            assert (await fails(shown, b"one/big")).errno in UNREACHABLE
            await unaffected(shown)
        end_outage(remote, fault)
        await comes_back(shown)


@pytest.mark.parametrize("fault", OUTAGES)
async def test_02_file_that_is_open_goes_on_after_the_outage(
    remote: Remote, fault: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    remote.other.commit({b"large": Locked(sha256_key_of(LARGE))})
    remote.other.put(sha256_key_of(LARGE), LARGE)
    async with remote.opened(tmp_path / "cache") as shown:
        handle = (await shown.filesystem.open(await shown.inode(b"other/large"))).handle
        parts = [bytes(await shown.filesystem.read(handle, 0, READ_SIZE))]
        begin_outage(remote, fault)
        with pytest.raises(RiafsError):
            await in_time(shown.filesystem.read(handle, len(LARGE) - 100_000, READ_SIZE))
        end_outage(remote, fault)
        until = time.monotonic() + BACK_OFF
        while sum(map(len, parts)) < len(LARGE):
            try:
                parts.append(bytes(await in_time(shown.filesystem.read(handle, sum(map(len, parts)), READ_SIZE))))
            except RiafsError:
                assert time.monotonic() < until
                await trio.sleep(0.1)
        assert b"".join(parts) == LARGE
        shown.filesystem.release(handle)


async def test_02_short_stall_is_not_noticed_by_readers(remote: Remote, tmp_path: Path) -> None:
    async with remote.opened(tmp_path / "cache", deadline=10) as shown:
        await know(shown)
        remote.place.line.set(half_open=True)

        async def end() -> None:
            await trio.sleep(0.5)
            remote.place.line.heal()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            assert await shown.read(b"one/big") == BIG


async def test_02_lost_connection_to_a_server_that_is_there_is_not_noticed_by_readers(
    remote: Remote, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(tmp_path / "cache", deadline=10) as shown:
        for path, content in ((b"other/annexed", OTHER), (b"one/big", BIG), (b"one/archived", ARCHIVED)):
            remote.place.line.cut()
            assert await shown.read(path) == content


# -- 3: slow


@pytest.mark.parametrize("line", [{"rate": 1.0}, {"round_trip": 5 * DEADLINE}])
async def test_03_slow_line_holds_up_nobody_else(
    remote: Remote, line: dict[str, float], tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        remote.place.line.set(**line)
        async with trio.open_nursery() as nursery:
            for path in (b"one/big", b"one/small", b"one/archived", b"one/big"):
                nursery.start_soon(fails_with_others, shown, path)
            await unaffected(shown)
        await unaffected(shown)
        remote.place.line.heal()
        await comes_back(shown)


async def test_03_slow_line_with_progress_is_waited_for(remote: Remote, tmp_path: Path) -> None:
    """6 MB at 1 MB/s take longer than the deadline of one request."""
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        remote.place.line.set(rate=1e6)
        assert await shown.read(b"one/big") == BIG


async def test_03_hundred_stuck_readers_leave_the_others_alone(
    remote: Remote, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        remote.place.line.set(half_open=True)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(fails_with_others, shown, b"one/big")
            await unaffected(shown)


# -- 4: wrong answers


@pytest.mark.parametrize("fault", FAULTS if "http" in KINDS else ())
async def test_04_wrong_http_answers_give_no_wrong_bytes(
    fault: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    with remote_at("http", tmp_path, layered=True) as remote:
        layer = remote.place.layer
        assert layer is not None
        async with remote.opened(tmp_path / "cache") as shown:
            await know(shown)
            layer.spoil(fault, "annex/objects")
            for path, content in ((b"one/small", SMALL), (b"one/big", BIG)):
                good = await right_or_failure(read(shown, path), content)
                assert good or fault != "200-for-206"
                await unaffected(shown)
            layer.spoil(None)
            await comes_back(shown)


ONCE = ["500", "503", "429", "fewer-bytes", "corrupt", "shorter", "portal"]


@pytest.mark.parametrize("fault", ONCE if "http" in KINDS else ())
async def test_04_answer_that_is_wrong_once_is_asked_for_again(
    fault: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    with remote_at("http", tmp_path, layered=True) as remote:
        layer = remote.place.layer
        assert layer is not None
        async with remote.opened(tmp_path / "cache", deadline=10) as shown:
            await know(shown)
            layer.spoil(fault, "annex/objects", times=1)
            assert await right_or_failure(shown.read(b"one/big"), BIG) or fault in {"corrupt", "portal"}
            assert await shown.read(b"one/big") == BIG


MANY_NAMES = 20.0
"""Seconds until a listing is found to have too many names."""
HONEST = {"none", "short-reads", "no-limits", "huge-limits"}


@pytest.mark.parametrize("lie", LIES)
async def test_04_lying_sftp_server_gives_no_wrong_bytes(lie: str, tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings(".")
    with remote_at("ssh", tmp_path) as remote:
        liar = Place(
            "ssh", f"ria+ssh://liar{remote.store.path}", remote.place.server, remote.place.line, None, lying_ssh(lie)
        )
        began = time.monotonic()
        try:
            async with liar.opened(deadline=DEADLINE, cache=tmp_path / "cache") as shown:
                for path, content in ((b"one/small", SMALL), (b"one/big", BIG), (b"one/archived", ARCHIVED)):
                    began = time.monotonic()
                    good = await right_or_failure(read(shown, path), content)
                    assert good or lie not in HONEST
                for path in (b"", b"by-id"):
                    names = await in_time(shown.ls(path))
                    assert not [name for name in names if b"/" in name or name in {b".", b"..", b""}]
        except RiafsError:
            if lie in HONEST:
                raise
            assert time.monotonic() - began < (MANY_NAMES if lie == "endless-listing" else 2 * LATEST)


@pytest.mark.parametrize("offset", [500, 20_000, 1_000_000])
async def test_04_corrupt_byte_on_the_line(
    remote: Remote, offset: int, tmp_path: Path, expected_warnings: Announce
) -> None:
    """In whatever it falls: a header, a pack of git, content."""
    expected_warnings(".")
    remote.place.line.set(corrupt_at=offset)
    began = time.monotonic()
    try:
        async with remote.opened(tmp_path / "cache") as shown:
            await right_or_failure(read(shown, b"one/big"), BIG)
            remote.place.line.heal()
            remote.place.line.cut()
            await comes_back(shown)
    except RiafsError:
        assert time.monotonic() - began < 2 * LATEST


# -- 5: another file under an open one


@pytest.mark.parametrize("size", [len(BIG), 1_000_000, len(BIG) + 5])
async def test_05_replaced_while_it_is_open_gives_no_mixed_bytes(
    remote: Remote, size: int, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        handle = (await shown.filesystem.open(await shown.inode(b"one/big"))).handle
        first = bytes(await shown.filesystem.read(handle, 0, READ_SIZE))
        assert first == BIG[: len(first)]
        path = remote.one.object_path(sha256_key_of(BIG))
        fresh = path.with_name("fresh")
        fresh.write_bytes(noise(size, "another"))
        os.utime(fresh, (EPOCH + 1000, EPOCH + 1000))
        fresh.rename(path)
        for offset in range(len(first), len(BIG), READ_SIZE):
            part = in_time(shown.filesystem.read(handle, offset, READ_SIZE))
            await right_or_failure(part, BIG[offset : offset + READ_SIZE])
        shown.filesystem.release(handle)
        await right_or_failure(read(shown, b"one/big"), BIG)
        await unaffected(shown)


async def test_05_replaced_by_the_same_is_read_again(
    remote: Remote, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        assert await read(shown, b"one/small") == SMALL
        path = remote.one.object_path(sha256_key_of(BIG))
        path.rename(path.with_name("old"))
        path.write_bytes(BIG)
        assert await read(shown, b"one/big") == BIG


# -- 7: no room for the cache


async def test_07_full_cache_directory_leaves_reading_right(
    remote: Remote, small_disk: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    async with remote.opened(small_disk / "cache") as shown:
        for _ in range(2):
            assert await read(shown, b"one/big") == BIG
            assert await read(shown, b"other/annexed") == OTHER


# -- 9: a damaged cache


def flip(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


DAMAGES: dict[str, Callable[[bytearray], bytearray]] = {
    "flip": flip,
    "truncate": lambda data: data[: len(data) // 2],
    "zero": lambda data: bytearray(len(data)),
    "empty": lambda _: bytearray(),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "swap"])
async def test_09_damaged_cache_is_noticed_and_fetched_again(
    remote: Remote, damage: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    cache = tmp_path / "cache"
    async with remote.opened(cache) as shown:
        assert await read(shown, b"one/big") == BIG
        await know(shown)
    blocks = [path for path in cache.rglob("*") if path.is_file() and "blocks" in str(path) and path.stat().st_size]
    assert sum(path.stat().st_size for path in blocks) > len(BIG)
    if damage == "swap":
        large = [path for path in blocks if path.stat().st_size > 100_000]
        contents = [path.read_bytes() for path in large]
        for path, content in zip(large, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)
    for path in blocks if damage != "swap" else ():
        path.write_bytes(DAMAGES[damage](bytearray(path.read_bytes())))
    async with remote.opened(cache) as shown:
        assert await read(shown, b"one/big") == BIG
        assert await read(shown, b"other/annexed") == OTHER


# -- 11: archives that change


@pytest.mark.parametrize("change", ["truncate", "replace", "remove"])
async def test_11_archive_that_changes_while_it_is_open(
    remote: Remote, change: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    archive = remote.one.path / "archives" / "archive.7z"
    whole = archive.read_bytes()
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        handle = (await shown.filesystem.open(await shown.inode(b"one/archived"))).handle
        first = bytes(await shown.filesystem.read(handle, 0, READ_SIZE))
        assert first == ARCHIVED[: len(first)]
        if change == "truncate":
            os.truncate(archive, len(whole) // 3)
        elif change == "remove":
            archive.unlink()
        else:
            archive.unlink()
            remote.one.archive({sha256_key_of(ARCHIVED): noise(len(ARCHIVED), "another")}, "-mx1")
        for offset in range(len(first), len(ARCHIVED), READ_SIZE):
            part = in_time(shown.filesystem.read(handle, offset, READ_SIZE))
            await right_or_failure(part, ARCHIVED[offset : offset + READ_SIZE])
        shown.filesystem.release(handle)
        await unaffected(shown)
        assert await read(shown, b"one/small") == SMALL
        archive.unlink(missing_ok=True)
        archive.write_bytes(whole)
        await shown.refresh()
        assert await read(shown, b"one/archived") == ARCHIVED


# -- 17 and 18: a store that is written to


async def test_17_new_commit_is_shown_after_a_refresh_and_open_files_keep_their_bytes(
    remote: Remote, tmp_path: Path
) -> None:
    first = remote.one.git("rev-parse", "main")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        handle = (await shown.filesystem.open(await shown.inode(b"one/git"))).handle
        remote.one.commit({b"git": b"newer", b"added": b"added"}, time=EPOCH + 10)
        assert await shown.read_handle(handle) == b"git"
        await shown.refresh()
        assert await shown.read_handle(handle) == b"git"
        assert await in_time(shown.ls(b"one")) == [b"added", b"git"]
        assert await read(shown, b"one/git") == b"newer"
        assert await read(shown, b"one@" + first.encode() + b"/big") == BIG
        shown.filesystem.release(handle)


async def test_17_pinned_commit_stays(remote: Remote, tmp_path: Path) -> None:
    first = remote.one.git("rev-parse", "main")
    async with remote.opened(tmp_path / "cache", f"#~one@{first}") as shown:
        remote.one.commit({b"git": b"newer"}, time=EPOCH + 10)
        remote.one.git("gc", "-q")
        await shown.refresh()
        assert await read(shown, b"git") == b"git"
        assert await read(shown, b"deep/git") == b"deep"
        assert await read(shown, b"big") == BIG


async def test_18_pruned_commit_is_an_error_with_a_reason(
    remote: Remote, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(".")
    orphan = remote.one.commit({b"text": noise(5000), b"d/text": noise(70_000, "d")}, "refs/heads/gone")
    async with remote.opened(tmp_path / "cache") as shown:
        await know(shown)
        top = b"one@" + orphan.encode()
        assert await in_time(shown.ls(top)) == [b"d", b"text"]
        remote.one.git("update-ref", "-d", "refs/heads/gone")
        remote.one.git("reflog", "expire", "--expire=now", "--all")
        remote.one.git("gc", "-q", "--prune=now")
        await right_or_failure(read(shown, top + b"/d/text"), noise(70_000, "d"))
        assert await read(shown, b"one/big") == BIG
        assert await read(shown, b"one/deep/git") == b"deep"


# -- 21: a suspended machine


def test_21_suspended_while_the_server_restarts(remote: Remote, tmp_path: Path, fuse: None) -> None:
    with remote.place.mounted(tmp_path / "mount", deadline=DEADLINE) as mount:
        assert read_file(mount.path / "other" / "annexed") == OTHER
        assert read_file(mount.path / "one" / "small") == SMALL
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            remote.place.line.cut()
            remote.place.server.stop()
            pass_time(2 * DEADLINE)
            remote.place.server.start()
        finally:
            os.kill(mount.pid, signal.SIGCONT)
        began = time.monotonic()
        assert read_file(mount.path / "other" / "annexed") == OTHER
        until = began + BACK_OFF
        while errno_or_content(mount.path / "one" / "big") != BIG:
            assert time.monotonic() < until


def errno_or_content(path: Path) -> bytes | int | None:
    try:
        return read_file(path)
    except OSError as error:
        return error.errno


# -- on a mount, by the kernel


def test_02_outage_under_a_mount(remote: Remote, tmp_path: Path, fuse: None) -> None:
    with remote.place.mounted(tmp_path / "mount", deadline=DEADLINE) as mount:
        assert read_file(mount.path / "other" / "annexed") == OTHER
        os.stat(mount.path / "one" / "big")
        remote.place.line.set(half_open=True)
        began = time.monotonic()
        assert errno_of(lambda: read_file(mount.path / "one" / "big")) in UNREACHABLE
        assert time.monotonic() - began < 2 * LATEST
        assert read_file(mount.path / "other" / "annexed") == OTHER
        remote.place.line.heal()
        until = time.monotonic() + BACK_OFF
        while errno_or_content(mount.path / "one" / "big") != BIG:
            assert time.monotonic() < until


# -- one fetch for many readers


async def test_each_byte_is_fetched_once_for_many_readers(remote: Remote, tmp_path: Path) -> None:
    async with remote.opened(tmp_path / "cache", deadline=20) as shown:
        await know(shown)
        readers = 16

        async def read() -> None:
            assert await shown.read(b"one/big") == BIG

        async with trio.open_nursery() as nursery:
            for _ in range(readers):
                nursery.start_soon(read)
    name = os.fsdecode(sha256_key_of(BIG))
    await eventually_true(lambda: fetched(remote, name) >= len(BIG))
    assert fetched(remote, name) <= len(BIG) + READ_SIZE


def fetched(remote: Remote, name: str) -> int:
    """Bytes of the file that were asked for."""
    return sum(max(0, min(offset + length, len(BIG)) - offset) for offset, length in requests_for(remote.place, name))


async def test_second_mount_asks_for_no_content(remote: Remote, tmp_path: Path) -> None:
    name = os.fsdecode(sha256_key_of(BIG))
    async with remote.opened(tmp_path / "cache", deadline=20) as shown:
        assert await shown.read(b"one/big") == BIG
    await eventually_true(lambda: fetched(remote, name) >= len(BIG))
    before = len(requests_for(remote.place, name))
    async with remote.opened(tmp_path / "cache", deadline=20) as shown:
        assert await shown.read(b"one/big") == BIG
    assert len(requests_for(remote.place, name)) == before
