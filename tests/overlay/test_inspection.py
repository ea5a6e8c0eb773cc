"""Data files that are not what was written: found when an overlay is opened, behind it, and before a push."""

import os
import random
import shutil
import sqlite3
import zlib
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import OverlayDamaged, OverlayFailed
from riafs.overlay import inspection
from riafs.overlay.data_files import checksum, crc32_of_zeros
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.overlay import Overlay
from riafs.overlay.stat import Ownership
from tests.overlay.disk import DiskLower
from tests.overlay.many import multiply
from tests.overlay.test_completeness import WHOLE, content, data_file, make
from tests.overlay.walking import Walker
from tests.plugins.log_hygiene import Announce

Act = Callable[[Overlay, Walker], Awaitable[object]]


def run(base: Path, act: Act) -> None:
    """Open the overlay that `make` has made, and close it."""

    async def main() -> None:
        overlay = Overlay(f"{base}/overlay", Counters())
        engine = OverlayFileSystem(overlay, DiskLower(os.fsencode(base / "lower")), Ownership(0, 0))
        await engine.attach()
        try:
            await act(overlay, Walker(engine))
        finally:
            engine.close()
            overlay.close()

    trio.run(main)


async def check(overlay: Overlay, _: Walker | None = None) -> None:
    """As a push does."""
    await overlay.inspector.check(list(overlay.changes(b"study")))


async def is_refused(walker: Walker, path: bytes) -> bool:
    try:
        await walker.read(path)
    except OverlayFailed:
        return True
    return False


def link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/passwd")


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    times = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (link, "cannot be used"),
    "fifo": (fifo, "not a regular file"),
    "missing": (Path.unlink, "No such file"),
    "cut off": (lambda file: os.truncate(file, 100), "has 100 bytes instead of 3000"),
    "bit flipped": (flip, "has other bytes than were written"),
    "another's": (lambda file: shutil.copy(data_file(file.parent.parent, 2500), file), "has 2500 bytes instead"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_happens_to_a_file_meanwhile_is_not_pushed_and_told_by_name(tmp_path: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    overlay = make(tmp_path, closes=True)

    async def act(opened: Overlay, walker: Walker) -> None:
        await check(opened)
        damage(data_file(overlay, 3000))
        with trio.fail_after(20), pytest.raises(OverlayDamaged, match=rf"were written to new \(.*{said}.*restore"):
            await check(opened)
        assert name == "bit flipped" or await is_refused(walker, b"new")
        await walker.write(b"fresh", WHOLE[b"new"])
        await walker.engine.rename(*await walker.at(b"fresh"), *await walker.at(b"new"))
        await check(opened)
        assert await walker.read(b"new") == WHOLE[b"new"]

    run(tmp_path, act)


def test_two_files_that_were_exchanged_are_found(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    run(tmp_path, lambda _, walker: walker.write(b"twin", b"N" * 3000))
    one, two = (each for each in (overlay / "data").iterdir() if each.stat().st_size == 3000)
    one.rename(overlay / "kept")
    two.rename(one)
    (overlay / "kept").rename(two)

    async def act(opened: Overlay, _: Walker) -> None:
        with pytest.raises(OverlayDamaged, match=r"new \(.*twin \("):
            await check(opened)

    run(tmp_path, act)


@pytest.mark.parametrize("name", ["link", "fifo", "missing", "cut off", "another's"])
def test_what_is_no_data_file_is_found_when_an_overlay_is_opened(tmp_path: Path, name: str) -> None:
    overlay = make(tmp_path, closes=True)
    DAMAGES[name][0](data_file(overlay, 3000))
    with pytest.raises(OverlayDamaged, match=r"the data of 1 is (missing|too short)"):
        Overlay(str(overlay), Counters())


def test_a_flipped_bit_from_before_is_found_behind_the_mount(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("has other bytes than were written to new")
    overlay = make(tmp_path, closes=True)
    flip(data_file(overlay, 3000))

    async def act(opened: Overlay, _: Walker) -> None:
        await opened.inspector.compare_touched()
        with pytest.raises(OverlayDamaged, match="other bytes"):
            await check(opened)

    run(tmp_path, act)


def test_a_copied_overlay_is_as_good_as_the_first(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    shutil.copytree(overlay, tmp_path / "copied")
    shutil.rmtree(overlay)
    (tmp_path / "copied").rename(overlay)

    async def act(opened: Overlay, _: Walker) -> None:
        await opened.inspector.compare_touched()
        await check(opened)

    run(tmp_path, act)
    assert content(tmp_path) == WHOLE


def test_checksums_follow_every_kind_of_writing(tmp_path: Path) -> None:
    """Also where a process ends in the middle: a recorded checksum is always that of the file."""
    make(tmp_path, closes=True)
    seed = random.Random(7)

    async def act(overlay: Overlay, walker: Walker) -> None:
        engine = walker.engine
        for turn in range(60):
            path = seed.choice([b"new", b"big", b"sub/inner", b"other%d" % (turn % 5)])
            handle = await walker.open(path, os.O_RDWR | os.O_CREAT)
            for _ in range(seed.randrange(3)):
                if seed.random() < 0.3:
                    inode = (await walker.stat(path)).inode
                    await engine.setattr(inode, size=seed.choice([0, 10, 3000, 200_000]))
                else:
                    await engine.write(handle, seed.choice([0, 100, 3000, 150_000]), seed.randbytes(700))
            if seed.random() < 0.7:
                engine.release(handle)
            overlay.journal.before_commit()
            overlay.journal.commit()
            if turn % 10 == 0:
                await overlay.inspector.compute_checksums()
                overlay.journal.before_commit()
                overlay.journal.commit()
            await check(overlay)
            for data, length, crc, *_ in overlay.journal.run("SELECT * FROM checksum").fetchall():
                if overlay.rows.written(data) == length:
                    assert zlib.crc32(Path(os.fsdecode(overlay.files.name(data))).read_bytes()[:length]) == crc

    run(tmp_path, act)


def test_every_file_gets_a_checksum_in_the_end(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)

    async def act(opened: Overlay, walker: Walker) -> None:
        await walker.write(b"holes", b"end", 300 << 20)
        await walker.write(b"holes", b"begin")
        await opened.inspector.compute_checksums()

    run(tmp_path, act)
    with closing(sqlite3.connect(overlay / "overlay.sqlite")) as database:
        sql = "SELECT count(*) FROM node LEFT JOIN checksum USING (data) WHERE data <> 0 AND length IS NOT written"
        assert database.execute(sql).fetchone() == (0,)
    flip_at = data_file(overlay, (300 << 20) + 3)
    with open(flip_at, "r+b") as file:
        file.seek(100 << 20)
        file.write(b"\1")

    async def act_again(opened: Overlay, _: Walker) -> None:
        with pytest.raises(OverlayDamaged, match=r"holes \("):
            await check(opened)

    run(tmp_path, act_again)


def test_holes_count_as_the_zeros_they_are(tmp_path: Path) -> None:
    for count in (0, 1, 7, 4096, 123_457):
        assert crc32_of_zeros(count, zlib.crc32(b"front")) == zlib.crc32(b"front" + bytes(count))
    with open(tmp_path / "file", "w+b") as file:
        file.write(b"front")
        file.seek(1 << 20)
        file.write(b"behind")
        file.truncate(3 << 20)
        file.flush()
        assert checksum(file.fileno(), 3 << 20) == zlib.crc32((tmp_path / "file").read_bytes())


def test_checksums_do_not_count_after_a_riafs_that_knows_none(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    flip(data_file(overlay, 3000))  # as the other riafs wrote it, for its user
    with closing(sqlite3.connect(overlay / "overlay.sqlite")) as database:
        database.execute("UPDATE setting SET value = value + 1 WHERE name = 'commits'")
        database.commit()
    run(tmp_path, check)


def test_an_overlay_of_a_riafs_without_checksums_is_taken_over(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    with closing(sqlite3.connect(overlay / "overlay.sqlite")) as database:
        database.executescript("DROP TABLE checksum; DELETE FROM setting WHERE name IN ('numbers', 'seen')")
    run(tmp_path, lambda opened, _: opened.inspector.compute_checksums())
    assert content(tmp_path) == WHOLE
    flip(data_file(overlay, 3000))

    async def act(opened: Overlay, _: Walker) -> None:
        with pytest.raises(OverlayDamaged, match="other bytes"):
            await check(opened)

    run(tmp_path, act)


def damage_database(overlay: Path) -> None:
    """An index that has lost its entries: every row can still be read."""
    with closing(sqlite3.connect(overlay / "overlay.sqlite")) as database:
        [(root,)] = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'named'").fetchall()
        [(size,)] = database.execute("PRAGMA page_size").fetchall()
    with open(overlay / "overlay.sqlite", "r+b") as file:
        file.seek((root - 1) * size + 3)  # the number of cells of a leaf
        file.write(b"\0\1")


def test_a_damaged_database_is_found_by_sqlite_itself(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    damage_database(overlay)
    with pytest.raises(OverlayDamaged, match=r"overlay.sqlite is damaged: .*riafs overlay recover"):
        Overlay(str(overlay), Counters())


# -- large overlays ---------------------------------------------------------------------------------------------------


def test_what_is_looked_at_after_a_loss_of_power_is_told_while_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = make(tmp_path, closes=True)
    multiply(overlay, 600)
    with closing(sqlite3.connect(overlay / "overlay.sqlite")) as database, database:
        database.execute("UPDATE setting SET value = 'another boot' WHERE name = 'boot'")
    monkeypatch.setattr(inspection, "_STEPS", 1000)
    heard: list[str] = []
    Overlay(str(overlay), Counters(), doing=heard.append).close()
    assert f"the database of {overlay} is being checked" in heard
    assert f"the files of {overlay} are being compared (512 so far)" in heard


def test_large_overlays_are_looked_at_behind_the_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = make(tmp_path, closes=True)
    multiply(overlay, 300)
    monkeypatch.setattr(inspection, "AT_START", 0)

    async def act(opened: Overlay, walker: Walker) -> None:
        assert opened.inspector.unknown == {}
        await walker.engine.unlink(*await walker.at(b"many-7"))
        await walker.write(b"many-8", b"more", 5000)
        await walker.write(b"late", b"late")
        await opened.inspector.finish()
        assert opened.inspector.is_done
        await check(opened)
        assert await walker.read(b"late") == b"late"

    run(tmp_path, act)
    assert len(content(tmp_path)) == len(WHOLE) + 300


def test_what_a_killed_process_left_is_removed_behind_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = make(tmp_path, closes=False)
    (overlay / "data/77").write_bytes(b"in no row yet")
    monkeypatch.setattr(inspection, "AT_START", 0)

    async def act(opened: Overlay, walker: Walker) -> None:
        await walker.write(b"at once", b"written before it was looked for")
        await opened.inspector.finish()

    run(tmp_path, act)
    assert not (overlay / "data/77").exists()
    assert content(tmp_path) == WHOLE | {b"at once": b"written before it was looked for"}


@pytest.mark.parametrize("name", ["database", "missing", "cut off", "too many"])
def test_an_overlay_that_is_found_damaged_behind_the_mount_takes_no_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce, name: str
) -> None:
    expected_warnings("is not complete")
    overlay = make(tmp_path, closes=True)
    if name == "database":
        damage_database(overlay)
    elif name == "too many":
        (overlay / "data/99").write_bytes(b"whose?")
    else:
        DAMAGES[name][0](data_file(overlay, 3000))
    before = (overlay / "copy.sqlite").read_bytes()
    monkeypatch.setattr(inspection, "AT_START", 0)

    async def act(opened: Overlay, walker: Walker) -> None:
        with pytest.raises(OverlayDamaged):
            await opened.inspector.finish()
        with pytest.raises(OverlayFailed, match="riafs overlay recover"):
            await walker.write(b"anything", b"more")
        with pytest.raises(OverlayDamaged):
            await opened.inspector.check([])
        if name != "database":
            assert await walker.read(b"sub/inner") == WHOLE[b"sub/inner"]

    run(tmp_path, act)
    assert (overlay / "copy.sqlite").read_bytes() == before
    monkeypatch.undo()
    with pytest.raises(OverlayDamaged):
        Overlay(str(overlay), Counters())


def test_opening_reads_no_more_of_a_larger_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in SQLite's own steps, as time depends on what else the machine does."""
    overlay = make(tmp_path, closes=True)
    monkeypatch.setattr(inspection, "AT_START", 0)

    def steps() -> int:
        counted = [0]

        def count() -> int:
            counted[0] += 1
            return 0

        connect = sqlite3.connect

        def counting(*arguments: object, **named: object) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **named)  # type: ignore[call-overload]
            connection.set_progress_handler(count, 10)
            return connection

        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", counting)
            Overlay(str(overlay), Counters()).close()
        return counted[0]

    first = steps()
    multiply(overlay, 2000)
    steps()  # its numbers are looked for once, as another program has made them
    assert steps() < first + 50
