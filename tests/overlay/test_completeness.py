"""Overlays of which a part was lost, cut off, replaced or not copied: refused as they are, and recovered."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import OverlayDamaged, OverlayFailed, UsageError
from riafs.overlay.completeness import DIRECTORIES
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.overlay import Overlay, opened, recorded_source
from riafs.overlay.recovery import recover
from riafs.overlay.stat import Ownership
from tests.overlay.disk import DiskLower
from tests.overlay.walking import Walker

FILES = {b"new": b"new" * 1000, b"sub/inner": b"inner" * 500, b"big": b"HERE"}
OLD = b"o" * 5000


async def changed(base: Path, *, closes: bool) -> None:
    """New files, a directory, and a few bytes in a file of the commit; killed unless it `closes`."""
    overlay = Overlay(f"{base}/overlay", Counters())
    overlay.belong_to("ria+file:///srv/store")
    engine = OverlayFileSystem(overlay, DiskLower(os.fsencode(base / "lower")), Ownership(0, 0))
    await engine.attach()
    walker = Walker(engine)
    await walker.mkdir(b"sub")
    for path, data in FILES.items():
        await walker.write(path, data, 100 if path == b"big" else 0)
    overlay.journal.commit()
    if not closes:
        os.kill(os.getpid(), signal.SIGKILL)
    engine.close()
    overlay.close()


def make(base: Path, *, closes: bool) -> Path:
    (base / "lower").mkdir(parents=True)
    (base / "lower/big").write_bytes(OLD)
    child = os.fork()
    if not child:
        try:
            trio.run(partial(changed, base, closes=closes))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return base / "overlay"


def content(base: Path) -> dict[bytes, bytes]:
    """What an overlay shows."""
    return trio.run(_content, base)


async def _content(base: Path) -> dict[bytes, bytes]:
    overlay = Overlay(f"{base}/overlay", Counters())
    engine = OverlayFileSystem(overlay, DiskLower(os.fsencode(base / "lower")), Ownership(0, 0))
    await engine.attach()
    tree = await Walker(engine).tree()
    engine.close()
    overlay.close()
    return {path: data for path, (kind, _, data) in tree.items() if kind == "file"}


WHOLE = {b"new": FILES[b"new"], b"sub/inner": FILES[b"sub/inner"], b"big": OLD[:100] + b"HERE" + OLD[104:]}


def remove(*names: str) -> Callable[[Path], object]:
    return lambda overlay: [(overlay / name).unlink(missing_ok=True) for name in names]


def foreign(overlay: Path) -> None:
    (overlay / "overlay.sqlite").unlink()
    with sqlite3.connect(overlay / "overlay.sqlite") as database:
        database.execute("CREATE TABLE bookmarks (url)")
    database.close()


def of_another(overlay: Path) -> None:
    other = make(overlay.parent / "other", closes=True)
    shutil.copy(other / "overlay.sqlite", overlay / "overlay.sqlite")


def cut(name: str) -> Callable[[Path], object]:
    def halve(overlay: Path) -> None:
        os.truncate(overlay / name, (overlay / name).stat().st_size // 2)

    return halve


def fifo(name: str) -> Callable[[Path], object]:
    def put(overlay: Path) -> None:
        (overlay / name).unlink(missing_ok=True)
        os.mkfifo(overlay / name)

    return put


def link(name: str, target: str) -> Callable[[Path], object]:
    def put(overlay: Path) -> None:
        (overlay / name).rename(overlay.parent / "elsewhere")
        (overlay / name).symlink_to(target)

    return put


def data_file(overlay: Path, size: int) -> Path:
    return next(each for each in (overlay / "data").iterdir() if each.stat().st_size == size)


DATABASE = ("overlay.sqlite", "overlay.sqlite-wal", "overlay.sqlite-shm")
CLOSED: dict[str, Callable[[Path], object]] = {
    "missing": remove(*DATABASE),
    "missing with its copy": remove(*DATABASE, "copy.sqlite"),
    "missing with all but data": remove(*DATABASE, "copy.sqlite", "state"),
    "a fifo": fifo("overlay.sqlite"),
    "a fifo as its log": fifo("overlay.sqlite-wal"),
    "a fifo as the state": fifo("state"),
    "a link as the state": link("state", "../elsewhere"),
    "a link to nothing as the state": link("state", "nothing"),
    "empty": lambda overlay: (overlay / "overlay.sqlite").write_bytes(b""),
    "no database": lambda overlay: (overlay / "overlay.sqlite").write_bytes(b"no database at all\n" * 400),
    "foreign": foreign,
    "of another overlay": of_another,
    "cut off": cut("overlay.sqlite"),
    "no state": remove("state"),
    "damaged state": lambda overlay: (overlay / "state").write_bytes(b"x" * 69),
    "no data": lambda overlay: shutil.rmtree(overlay / "data"),
    "a data file missing": lambda overlay: data_file(overlay, 3000).unlink(),
    "a data file cut off": lambda overlay: os.truncate(data_file(overlay, 2500), 7),
    "a data file too many": lambda overlay: (overlay / "data/ffff").write_bytes(b"whose?"),
}
KILLED: dict[str, Callable[[Path], object]] = {
    "no log": remove("overlay.sqlite-wal", "overlay.sqlite-shm"),
    "empty log": lambda overlay: os.truncate(overlay / "overlay.sqlite-wal", 0),
    "log cut off": lambda overlay: os.truncate(overlay / "overlay.sqlite-wal", 32 + 4120),
    "copied without state and log": remove("state", "overlay.sqlite-wal", "overlay.sqlite-shm"),
}
CASES = [(name, True) for name in CLOSED] + [(name, False) for name in KILLED]


def all_data(directory: Path) -> set[bytes]:
    return {path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "closes"), CASES)
def test_a_loss_is_refused_told_and_recovered_with_all_data(tmp_path: Path, name: str, closes: bool) -> None:
    overlay = make(tmp_path, closes=closes)
    (CLOSED if closes else KILLED)[name](overlay)
    there = (
        {path.name: path.read_bytes() for path in (overlay / "data").iterdir()} if (overlay / "data").exists() else {}
    )
    for _ in range(2):
        with pytest.raises(OverlayDamaged, match=rf"not complete: .*riafs overlay recover {overlay}"):
            Overlay(str(overlay), Counters())
    assert {path.name: path.read_bytes() for path in (overlay / "data").glob("*")} == there

    target = tmp_path / "recovered"
    recovered = recover(str(overlay), str(target))
    shown = content(tmp_path)
    kept = all_data(overlay / "data") | all_data(target)
    assert set(there.values()) <= kept
    assert {path: data for path, data in shown.items() if path in recovered.named} == {
        path: WHOLE[path] for path in shown if path in recovered.named
    }
    names = {path.removeprefix(b"study/") for path in recovered.named}
    assert all(shown[path] == WHOLE[path] for path in names)
    assert {Path(place).read_bytes() for place in recovered.numbered} <= kept
    assert shown[b"big"] in (OLD, WHOLE[b"big"])
    assert shown == content(tmp_path)  # and opened once more


PUT: dict[str, Callable[[Path], object]] = {
    "a file": lambda place: place.write_bytes(b"a file"),
    "a fifo": os.mkfifo,
    "a link out": lambda place: place.symlink_to("../outside"),
    "a link to nothing": lambda place: place.symlink_to("nothing"),
}


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("name", DIRECTORIES)
def test_what_is_no_directory_of_the_overlay_is_told_and_moved_away(tmp_path: Path, name: str, put: str) -> None:
    overlay, place = make(tmp_path, closes=True), tmp_path / "overlay" / name
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/1").write_bytes(b"not ours")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(tmp_path / "moved")
    PUT[put](place)
    for _ in range(2):
        with pytest.raises(OverlayDamaged, match=rf"not complete: its {name} is no directory of this user; "):
            Overlay(str(overlay), Counters())
    recovered = recover(str(overlay), str(tmp_path / "recovered"))
    assert os.path.lexists(tmp_path / "recovered" / name.replace("/", "-"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "outside").iterdir()} == {"1": b"not ours"}
    assert content(tmp_path) == ({b"big": OLD} if name == "data" else WHOLE)
    assert sorted(recovered.lost) == ([b"study/" + path for path in sorted(WHOLE)] if name == "data" else [])


@pytest.mark.parametrize("name", ["missing", "empty", "no database", "foreign", "cut off", "of another overlay"])
def test_names_come_from_the_copy_of_the_last_closing(tmp_path: Path, name: str) -> None:
    overlay = make(tmp_path, closes=True)
    CLOSED[name](overlay)
    recovered = recover(str(overlay), str(tmp_path / "recovered"))
    assert (sorted(recovered.named), recovered.numbered, recovered.lost) == (
        [b"study/big", b"study/new", b"study/sub/inner"], [], []
    )  # fmt: skip
    assert content(tmp_path) == WHOLE
    assert recorded_source(str(overlay)) == "ria+file:///srv/store"


def test_without_any_database_all_data_gets_numbers(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    CLOSED["missing with its copy"](overlay)
    recovered = recover(str(overlay), str(tmp_path / "recovered"))
    assert (recovered.named, recovered.lost) == ([], [])
    found = sorted(Path(place).read_bytes().lstrip(b"\0") for place in recovered.numbered)
    assert found == sorted(FILES.values())
    assert content(tmp_path) == {b"big": OLD}


def test_what_is_lost_is_told_by_name(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    data_file(overlay, 3000).unlink()
    os.truncate(data_file(overlay, 2500), 7)
    recovered = recover(str(overlay), str(tmp_path / "recovered"))
    assert sorted(recovered.lost) == [b"study/new", b"study/sub/inner"]
    assert content(tmp_path) == {b"big": WHOLE[b"big"], b"sub/inner": FILES[b"sub/inner"][:7]}


def test_a_kill_is_no_loss(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=False)
    (overlay / "data/77").write_bytes(b"made right before the kill, in no row yet")
    assert content(tmp_path) == WHOLE
    assert not (overlay / "data/77").exists()


def test_an_overlay_of_riafs_before_there_was_a_state_is_taken_over(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    remove("state", "copy.sqlite")(overlay)
    with sqlite3.connect(overlay / "overlay.sqlite") as database:
        database.execute("DELETE FROM setting WHERE name IN ('identity', 'commits')")
    database.close()
    assert content(tmp_path) == WHOLE
    assert content(tmp_path) == WHOLE
    CLOSED["missing"](overlay)
    with pytest.raises(OverlayDamaged):
        Overlay(str(overlay), Counters())


def test_a_new_directory_is_an_overlay_without_changes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # a first mount that was killed before it had a database
    with pytest.raises(OverlayFailed, match="is no overlay"):
        recorded_source(str(tmp_path))
    Overlay(str(tmp_path), Counters()).close()
    with opened(str(tmp_path)) as overlay:
        assert overlay.datasets() == []


def test_recovering_takes_nothing_that_is_there(tmp_path: Path) -> None:
    overlay = make(tmp_path, closes=True)
    CLOSED["missing"](overlay)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        recover(str(overlay), str(tmp_path / "there"))
