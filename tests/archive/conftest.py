"""What the archive tests share: the tools of a mount, and archives made by the real 7z."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.extractor import Extractor
from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.disk import TemporaryBlocks
from riafs.counters import Counters
from riafs.formats.sevenzip.cursor import Limits
from riafs.storage import temporary
from riafs.storage.local_file import FileBytes, LocalVersion

SEARCH_PATH = tuple(map(os.fsencode, os.get_exec_path()))

Pack = Callable[..., Path]
Announce = Callable[..., None]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Where decoded members are kept."""
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


def no_room_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room in its directory has none on another disk or in memory either."""
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(temporary, "_ELSEWHERE", ())
    monkeypatch.setattr(temporary, "_IN_MEMORY", -1)


@pytest.fixture
async def tools(spool: Path) -> AsyncIterator[ArchiveTools]:
    tools = tools_with(spool)
    yield tools
    tools.close()


def tools_with(
    spool: Path | None,
    blocks: BlockLimits | None = None,
    search_path: Sequence[bytes] = SEARCH_PATH,
    limits: Limits | None = None,
    spilled: int = 0,
    **options: Any,
) -> ArchiveTools:
    """Tools whose block cache is memory, and a temporary file of `spilled` bytes."""
    directory = b"/nonexistent" if spool is None else os.fsencode(spool)
    temporary = TemporaryBlocks(directory, spilled) if spilled else None
    cache = BlockCache(None, blocks or BlockLimits(), Counters(), temporary)
    return ArchiveTools(limits or Limits(), Extractor(search_path, directory, deadline=60), cache, **options)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """``pack(contents, *switches)``: the archive that 7z makes of names and contents (None: a directory)."""

    def pack(contents: dict[bytes, bytes | None], *switches: str) -> Path:
        tree = os.fsencode(tmp_path / "tree")
        for name, content in contents.items():
            path = os.path.join(tree, name)
            os.makedirs(path if content is None else os.path.dirname(path), exist_ok=True)
            if content is not None:
                Path(os.fsdecode(path)).write_bytes(content)
        return update(tmp_path / "archive.7z", tree, *switches)

    return pack


def update(archive: Path, tree: bytes, *switches: str) -> Path:
    """Put everything in `tree` into the archive."""
    command = ["7z", "u", "-bd", *switches, "--", str(archive), "."]
    subprocess.run(command, cwd=tree, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return archive


def file_bytes(path: Path) -> FileBytes:
    """The archive's file."""
    descriptor = os.open(path, os.O_RDONLY)
    status = os.fstat(descriptor)
    return FileBytes(descriptor, status.st_size, str(path), None, LocalVersion.of(status))


async def open_archive(path: Path, tools: ArchiveTools) -> Archive:
    return await Archive.open(file_bytes(path), tools, os.fsencode(path))


async def content_of(archive: Archive, name: bytes) -> bytes:
    """All bytes of a member, which are as many as the archive says."""
    member = archive.find(name)
    assert member is not None
    opened = await archive.open_member(member)
    assert opened.size == member.size
    data = bytes(await opened.read(0, opened.size))
    assert await opened.read(opened.size // 2, 10) == data[opened.size // 2 :][:10]
    opened.close()
    return data
