"""Lists of members that are saved: opened without parsing, made again when anything about them is wrong."""

import os
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.archive import archive as archive_module
from riafs.archive import index as saved
from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.index import PAGE, IndexDirectory, read_columns, write_columns
from riafs.errors import DamagedIndex
from riafs.formats.sevenzip.streams import ELEMENTS
from tests.archive.conftest import Pack, content_of, file_bytes, open_archive, tools_with
from tests.archive.headers import File, stored_archive

if TYPE_CHECKING:
    from riafs.formats.columns import Column

FILES = [File(b"%03x/%d" % (number % 256, number), b"content %d" % number) for number in range(3000)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "index"
    path.mkdir()
    return path


@pytest.fixture
def indexed(spool: Path, directory: Path) -> ArchiveTools:
    return tools_with(spool, indexes=IndexDirectory(os.fsencode(directory)))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One element for each time that an archive's own list of members was read."""
    calls: list[object] = []
    real = archive_module.read_listing

    async def counted(*arguments: object) -> object:
        calls.append(arguments)
        return await real(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(archive_module, "read_listing", counted)
    return calls


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "many.7z"
    made.write_bytes(stored_archive(FILES))
    return made


async def check(archive: Archive) -> None:
    for file in FILES[::97]:
        assert await content_of(archive, file.name) == file.content
    assert archive.find(b"nothing") is None


async def test_the_second_time_nothing_is_parsed(path: Path, indexed: ArchiveTools, parsed: list[object]) -> None:
    for _ in range(3):
        await check(await open_archive(path, indexed))
    assert len(parsed) == 1


async def test_a_saved_list_says_what_a_parsed_one_says(pack: Pack, indexed: ArchiveTools, spool: Path) -> None:
    contents: dict[bytes, bytes | None] = {b"d": None, b"e": b"", b"d/x": b"1" * 999, b"\xff": b"2" * 9, b"y": b"33"}
    made = pack(contents, "-mx5", "-ms=2f")
    plain = (await open_archive(made, tools_with(spool))).listing
    await open_archive(made, indexed)
    loaded = (await open_archive(made, indexed)).listing
    assert list(loaded) == list(plain)
    assert [loaded.find(name) for name in contents] == [plain.find(name) for name in contents]
    assert [loaded.folder(number) for number in range(2)] == [plain.folder(number) for number in range(2)]
    assert [loaded.streams_of(number) for number in range(2)] == [plain.streams_of(number) for number in range(2)]


async def test_a_changed_archive_is_parsed_again(path: Path, indexed: ArchiveTools, parsed: list[object]) -> None:
    await open_archive(path, indexed)
    path.write_bytes(stored_archive([File(b"other", b"one")]))
    assert await content_of(await open_archive(path, indexed), b"other") == b"one"
    assert len(parsed) == 2


def zero(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(len(data) - at)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


@pytest.mark.parametrize("damage", [zero, flip, cut])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.02, 0.3, 0.5, 0.7, 0.9])
async def test_a_damaged_index_never_gives_wrong_bytes(
    path: Path, directory: Path, indexed: ArchiveTools, damage: Callable[[bytes, int], bytes], share: float
) -> None:
    await open_archive(path, indexed)
    [index] = directory.iterdir()
    data = index.read_bytes()
    index.write_bytes(damage(data, int(share * len(data))))
    try:
        await check(await open_archive(path, indexed))
    except DamagedIndex:
        found = await open_archive(path, indexed)
        await found.forget()
        await check(await open_archive(path, indexed))


async def test_an_index_that_is_damaged_while_it_is_used_is_noticed(
    path: Path, directory: Path, indexed: ArchiveTools
) -> None:
    archive = await open_archive(path, indexed)
    [index] = directory.iterdir()
    os.truncate(index, PAGE)
    with pytest.raises(DamagedIndex):
        all(archive.find(file.name) for file in FILES)


async def test_the_index_of_another_archive_is_not_taken(
    path: Path, directory: Path, indexed: ArchiveTools, tmp_path: Path, parsed: list[object]
) -> None:
    other = tmp_path / "other.7z"
    other.write_bytes(stored_archive([File(b"other", b"one")]))
    await open_archive(path, indexed)
    [first] = directory.iterdir()
    await open_archive(other, indexed)
    [second] = [each for each in directory.iterdir() if each != first]
    shutil.copyfile(first, second)
    assert await content_of(await open_archive(other, indexed), b"other") == b"one"
    assert len(parsed) == 3


async def test_links_fifos_and_directories_in_place_of_an_index_are_passed_over(
    path: Path, directory: Path, indexed: ArchiveTools, tmp_path: Path
) -> None:
    await open_archive(path, indexed)
    [index] = directory.iterdir()
    target = tmp_path / "target"
    index.rename(target)
    for make in (lambda: index.symlink_to(target), lambda: os.mkfifo(index), index.mkdir):
        make()
        await check(await open_archive(path, indexed))
        if index.is_dir():
            index.rmdir()
        else:
            index.unlink()


async def test_an_unwritable_or_missing_directory_costs_nothing_but_the_index(path: Path, spool: Path) -> None:
    await check(await open_archive(path, tools_with(spool, indexes=IndexDirectory(b"/nonexistent/index"))))


async def test_an_encrypted_list_of_members_is_not_saved(pack: Pack, spool: Path, directory: Path) -> None:
    tools = tools_with(spool, indexes=IndexDirectory(os.fsencode(directory)), password="secret")
    await open_archive(pack({b"private": b"x" * 99}, "-psecret", "-mhe=on"), tools)
    assert list(directory.iterdir()) == []


async def test_two_daemons_share_an_index(path: Path, spool: Path, directory: Path, parsed: list[object]) -> None:
    first, second = (tools_with(spool, indexes=IndexDirectory(os.fsencode(directory))) for _ in range(2))
    await check(await open_archive(path, first))
    await check(await open_archive(path, second))
    assert len(parsed) == 1


def test_files_unused_for_longest_go(directory: Path) -> None:
    indexes = IndexDirectory(os.fsencode(directory), bound=6 * PAGE)
    columns: dict[str, tuple[str, Column]] = {"starts": ("Q", array("Q", range(100)))}
    for number in range(6):
        assert indexes.save(b"%d" % number, b"kind", columns)
        os.utime(indexes.path(b"%d" % number, b"kind"), (number, number))
        if number == 2:
            os.utime(indexes.path(b"0", b"kind"), (1000, 1000))
    assert indexes.load(b"5", b"kind", {"starts": "Q"}) is not None
    assert indexes.load(b"0", b"kind", {"starts": "Q"}) is not None
    assert indexes.load(b"1", b"kind", {"starts": "Q"}) is None


def test_what_a_killed_daemon_left_is_removed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / ".new-abandoned").write_bytes(b"half")
    (directory / ".new-fresh").write_bytes(b"half")
    os.utime(directory / ".new-abandoned", (1, 1))
    IndexDirectory(os.fsencode(directory)).save(b"name", b"kind", {"starts": ("Q", array("Q"))})
    assert not (directory / ".new-abandoned").exists()
    assert (directory / ".new-fresh").exists()


@given(
    st.lists(st.integers(0, (1 << 64) - 1), max_size=50),
    st.lists(st.integers(0, (1 << 32) - 1), max_size=50),
    st.binary(max_size=3 * 64),
)
def test_columns_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, wide: list[int], narrow: list[int], raw: bytes
) -> None:
    path = os.fsencode(tmp_path_factory.mktemp("columns") / "file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, "PAGE", 64)
        patch.setattr("riafs.formats.columns.PAGE", 64)
        columns: dict[str, tuple[str, Column]] = {
            "wide": ("Q", array("Q", wide)), "narrow": ("I", array("I", narrow)), "raw": ("B", raw),
        }  # fmt: skip
        write_columns(path, b"name", columns)
        read = read_columns(path, b"name", {"wide": "Q", "narrow": "I", "raw": "B"})
        assert (list(read["wide"]), list(read["narrow"]), bytes(read["raw"])) == (wide, narrow, raw)
        assert [read["wide"][position] for position in range(len(wide))] == wide
        assert bytes(read["raw"][5:70]) == raw[5:70]
        assert list(read["narrow"][3:-2]) == narrow[3:-2]


def test_every_wrong_byte_of_a_file_is_noticed_or_does_not_matter(directory: Path) -> None:
    path = os.fsencode(directory / "file")
    values = array("Q", range(20))
    write_columns(path, b"name", {"starts": ("Q", values)})
    whole = (directory / "file").read_bytes()
    used = [*range(200), *range(PAGE, PAGE + 200)]
    for position in used:
        (directory / "file").write_bytes(flip(whole, position))
        try:
            found = list(read_columns(path, b"name", {"starts": "Q"})["starts"])
        except DamagedIndex:
            continue
        assert found == list(values)


def test_all_columns_of_a_listing_have_a_type() -> None:
    assert set(ELEMENTS.values()) == {"B", "I", "Q"}


async def test_archives_without_identity_are_not_saved(directory: Path, indexed: ArchiveTools, path: Path) -> None:
    source = file_bytes(path)
    source.version = None
    await check(await Archive.open(source, indexed, None))
    assert list(directory.iterdir()) == []
