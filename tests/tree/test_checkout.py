"""Files as a checkout has them: the same bytes and sizes as in a clone, also after attributes changed."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from riafs.cli.mount import MountRequest, make_plan
from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.errors import UsageError
from riafs.formats.sources import parse_ria_source
from riafs.settings import Given
from riafs.vfs import assembly
from tests.behaviour.drivers import ObjectDriver
from tests.small import Files, Locked, SmallDataset, SmallStore, key_of

CONTENT = b"annexed\n$Id$\n"
FILES: Files = {
    b".gitattributes": b"*.tsv text eol=crlf\n*.auto text=auto eol=crlf\n[attr]keyword ident\n*.id keyword\n",
    b"a.tsv": b"a\tb\n1\t2\n",
    b"a.auto": b"x\ny\n",
    b"binary.auto": b"x\n\0y\n",
    b"a.id": b"$Id$\n$Id: old $\n",
    b"plain": b"x\n$Id$\n",
    b"empty.tsv": b"",
    b"large.tsv": b"0123456789\n" * 200_000,
    b"annexed.id": Locked(key_of(CONTENT)),
    b"sub/.gitattributes": b"*.txt working-tree-encoding=UTF-16LE text eol=crlf\na.tsv -text\n",
    b"sub/deep/t.txt": "Grüße\n".encode(),
    b"sub/a.tsv": b"kept\n",
    b"other/a.tsv": b"deep\n",
}


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    made = SmallStore.make(tmp_path / "store").dataset("one", FILES)
    made.put(key_of(CONTENT), CONTENT)
    return made


@asynccontextmanager
async def opened(dataset: SmallDataset) -> AsyncIterator[ObjectDriver]:
    source = parse_ria_source(f"{dataset.path.parents[1]}#~one")
    search_path = str(Path(shutil.which("git") or "").parent)
    plan = assembly.Plan(source, 30, Verify.AUTO, None, search_path, checkout=True)
    async with assembly.open_filesystem(plan, Counters()) as filesystem:
        yield ObjectDriver(filesystem)


def clone(dataset: SmallDataset, place: Path) -> dict[bytes, bytes]:
    subprocess.run(["git", "clone", "-q", dataset.path, place], check=True)
    found = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and ".git/" not in str(path)]
    return {bytes(path.relative_to(place)): path.read_bytes() for path in found}


async def test_files_are_those_of_a_clone(dataset: SmallDataset, tmp_path: Path) -> None:
    theirs = clone(dataset, tmp_path / "clone")
    async with opened(dataset) as shown:
        for path, content in theirs.items():
            assert await shown.read(path) == content, path
            assert (await shown.stat(path)).size == len(content), path
        assert await shown.read(b"annexed.id") == CONTENT
    assert theirs[b"sub/deep/t.txt"] == "Grüße\r\n".encode("utf-16-le")


async def test_other_attributes_make_other_files_of_the_same_blobs(dataset: SmallDataset, tmp_path: Path) -> None:
    async with opened(dataset) as shown:
        before = {path: await shown.inode(path) for path in (b"sub/a.tsv", b"other/a.tsv", b"plain")}
        assert await shown.read(b"other/a.tsv") == b"deep\r\n"
        dataset.commit({**FILES, b".gitattributes": b"plain ident\n"}, time=1_800_000_000)
        await shown.filesystem.refresh(_told)
        theirs = clone(dataset, tmp_path / "clone")
        for path, content in theirs.items():
            assert await shown.read(path) == content, path
        assert await shown.read(b"other/a.tsv") == b"deep\n"
        assert before[b"other/a.tsv"] != await shown.inode(b"other/a.tsv")


async def _told(_: object) -> None:
    await trio.lowlevel.checkpoint()


def test_what_can_be_changed_is_shown_as_it_is(dataset: SmallDataset, tmp_path: Path) -> None:
    given = tuple(Given(name, text, "the command line") for name, text in (("checkout", "yes"), ("overlay", "/x")))
    request = MountRequest(str(dataset.path.parents[1]), str(tmp_path), given, ())
    with pytest.raises(UsageError, match="--checkout is for read-only mounts"):
        make_plan(request, os.environ)
