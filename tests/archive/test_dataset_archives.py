"""Archives of datasets: few archives are open at once, and a bad one is looked at once."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from riafs.archive import archive
from riafs.archive import archive as opened
from riafs.archive.archive import ArchiveTools
from riafs.content.locations import DatasetArchives
from riafs.counters import Counters
from riafs.errors import MalformedArchive, NotInStore
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from tests.archive.headers import File, stored_archive

PLACE = b"archives/archive.7z"


async def archives_of(root: Path, tools: ArchiveTools, count: int) -> Sequence[DatasetArchives]:
    """Datasets whose archives have a member ``name`` with their number."""
    for number in range(count):
        (root / str(number) / "archives").mkdir(parents=True)
        write(root, number, stored_archive([File(b"name", b"number %d" % number)]))
    storage = await LocalStorage.open_root(os.fsencode(root), Deadline("a store", 10, Counters()))
    return [DatasetArchives(storage, b"%d" % number, tools) for number in range(count)]


def write(root: Path, number: int, data: bytes) -> None:
    new = root / "new"
    new.write_bytes(data)
    new.rename(root / str(number) / os.fsdecode(PLACE))


async def read(archives: DatasetArchives) -> bytes:
    found = await archives.open(PLACE, [b"other", b"name"])
    assert found is not None
    data = bytes(await found.source.read(0, 100))
    found.source.close()
    return data


async def test_few_archives_are_open_and_all_are_read(
    tmp_path: Path, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "MOST", 5)
    tools.open_archives = opened.OpenArchives()
    all_of_them = await archives_of(tmp_path, tools, 40)
    before = len(os.listdir("/proc/self/fd"))
    still_open = await all_of_them[0].open(PLACE, [b"name"])
    assert still_open is not None
    for _ in range(2):
        for number, archives in enumerate(all_of_them):
            assert await read(archives) == b"number %d" % number
            assert len(os.listdir("/proc/self/fd")) <= before + 7
    assert await still_open.source.read(0, 100) == b"number 0"


async def test_a_bad_archive_is_looked_at_once_and_again_when_it_was_replaced(
    tmp_path: Path, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_lists: list[object] = []
    real = archive.read_listing
    monkeypatch.setattr(archive, "read_listing", lambda *given: (read_lists.append(given), real(*given))[1])
    (archives,) = await archives_of(tmp_path, tools, 1)
    whole = stored_archive([File(b"name", b"number 0")])
    write(tmp_path, 0, whole[:-3] + b"\x77" + whole[-2:])
    for _ in range(3):
        with pytest.raises(MalformedArchive):
            await read(archives)
    assert len(read_lists) == 1
    write(tmp_path, 0, whole)
    assert await read(archives) == b"number 0"
    (tmp_path / "0" / os.fsdecode(PLACE)).unlink()
    with pytest.raises(NotInStore):
        await read(archives)
