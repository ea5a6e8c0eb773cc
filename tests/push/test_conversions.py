"""Line ends, encodings, keywords and filters of .gitattributes: a fresh clone of what was pushed is clean."""

from pathlib import Path

import pytest

from riafs.errors import PushRefused
from tests.push.conftest import changes_over, content, push, request, run, state, tree, with_annex
from tests.small import Files, SmallDataset, SmallStore

ATTRIBUTES = b"""\
* annex.largefiles=nothing
*.tsv text eol=crlf
*.txt text
*.auto text=auto
*.u16 working-tree-encoding=UTF-16LE text
*.id ident
*.raw -text
*.lfs filter=lfs
annexed/* annex.largefiles=anything text ident filter=lfs
"""
WRITTEN: dict[bytes, tuple[bytes, bytes]] = {
    b"new.tsv": (b"a\tb\r\n1\t2\r\n", b"a\tb\n1\t2\n"),
    b"new.txt": (b"q\r\nr\r\n", b"q\nr\n"),
    b"guessed.auto": (b"q\r\nr\n", b"q\nr\n"),
    b"binary.auto": (b"q\r\n\0r\n", b"q\r\n\0r\n"),
    b"new.u16": ("n\r\n".encode("utf-16-le"), b"n\n"),
    b"new.id": (b"$Id: 1234 $\r\n", b"$Id$\r\n"),
    b"new.raw": (b"q\r\n", b"q\r\n"),
    b"large.txt": (b"0123456789\r\n" * 200_000, b"0123456789\n" * 200_000),
}


def made(tmp_path: Path, files: Files) -> SmallDataset:
    store = SmallStore.make(tmp_path / "store")
    return with_annex(store.dataset("one", {b".gitattributes": ATTRIBUTES, **files}))


def status_of_fresh_clone(dataset: SmallDataset, place: Path) -> str:
    run(place.parent, "git", "clone", "-q", "-b", "main", dataset.path, place)
    return run(place, "git", "status", "--porcelain")


async def test_a_fresh_clone_is_clean(tmp_path: Path) -> None:
    dataset = made(tmp_path, {b"old.tsv": b"x\ty\n", b"kept.auto": b"crlf\r\n"})
    below = changes_over(dataset, tmp_path / "overlay")
    changes = [below.write(path, data) for path, (data, _) in WRITTEN.items()]
    changes += [below.write(b"old.tsv", b"x\ty\r\nz\tz\r\n"), below.write(b"kept.auto", b"crlf\r\nmore\r\n")]
    changes += [below.write(b"annexed/a.txt", b"$Id: 1 $\r\n")]
    report = await push(dataset, below, changes)
    for path, (_, blob) in WRITTEN.items():
        assert tree(dataset)[path] == ("100644", blob), path
    assert tree(dataset)[b"old.tsv"][1] == b"x\ty\nz\tz\n"
    assert tree(dataset)[b"kept.auto"][1] == b"crlf\r\nmore\r\n"
    assert content(dataset, b"annexed/a.txt") == b"$Id: 1 $\r\n"
    wanted = {path for path, (data, blob) in WRITTEN.items() if data != blob} | {b"old.tsv"}
    assert set(report.converted) == wanted
    assert status_of_fresh_clone(dataset, tmp_path / "clone") == ""
    checked_out = (tmp_path / "clone" / "new.tsv").read_bytes(), (tmp_path / "clone" / "new.u16").read_bytes()
    assert checked_out == (WRITTEN[b"new.tsv"][0], "n\n".encode("utf-16-le"))


async def test_the_blobs_are_those_of_git_add(tmp_path: Path) -> None:
    dataset = made(tmp_path, {b"kept.auto": b"crlf\r\n"})
    below = changes_over(dataset, tmp_path / "overlay")
    written = {path: data for path, (data, _) in WRITTEN.items()} | {b"kept.auto": b"crlf\r\nmore\r\n"}
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", dataset.path, clone)
    for path, data in written.items():
        (clone / path.decode()).write_bytes(data)
    run(clone, "git", "add", ".")
    await push(dataset, below, [below.write(path, data) for path, data in written.items()])
    assert run(clone, "git", "write-tree").strip() == dataset.git("rev-parse", "main^{tree}")


async def test_attributes_that_are_pushed_with_a_file_count(tmp_path: Path) -> None:
    dataset = made(tmp_path, {b"sub/x": b"x"})
    below = changes_over(dataset, tmp_path / "overlay")
    await push(dataset, below, [below.write(b"sub/.gitattributes", b"*.c text\n"), below.write(b"sub/a.c", b"a\r\n")])
    assert tree(dataset)[b"sub/a.c"][1] == b"a\n"


async def test_a_dataset_without_an_annex_has_attributes_too(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", {b".gitattributes": b"* text\n"})
    below = changes_over(dataset, tmp_path / "overlay")
    await push(dataset, below, [below.write(b"a", b"a\r\n")])
    assert tree(dataset)[b"a"][1] == b"a\n"


async def test_who_changed_the_same_text_with_other_line_ends_is_in_no_conflict(tmp_path: Path) -> None:
    dataset = made(tmp_path, {b"a.txt": b"old\n"})
    below = changes_over(dataset, tmp_path / "overlay")
    dataset.commit({b".gitattributes": ATTRIBUTES, b"a.txt": b"new\n"}, time=1_800_000_000)
    await push(dataset, below, [below.write(b"a.txt", b"new\r\n")])
    assert tree(dataset)[b"a.txt"][1] == b"new\n"


async def test_filters_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    dataset = made(tmp_path, {})
    below = changes_over(dataset, tmp_path / "overlay")
    changes = [below.write(b"b.lfs", b"b"), below.write(b"a.txt", b"a"), below.write(b"annexed/c.lfs", b"c")]
    before = state(dataset)
    for wanted in (request(), request(dry_run=True)):
        with pytest.raises(PushRefused, match=r"for b\.lfs \(filter=lfs\); .* --unfiltered"):
            await push(dataset, below, changes, wanted)
    assert state(dataset) == before
    await push(dataset, below, changes, request(unfiltered=True))
    assert tree(dataset)[b"b.lfs"][1] == b"b"


async def test_what_is_not_in_its_encoding_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    dataset = made(tmp_path, {})
    below = changes_over(dataset, tmp_path / "overlay")
    before = state(dataset)
    with pytest.raises(PushRefused, match=r"sub/a\.u16 cannot be pushed: it is not in UTF-16LE"):
        await push(dataset, below, [below.write(b"sub/a.u16", b"odd"), below.write(b"annexed/c", b"c")])
    assert state(dataset) == before


async def test_what_reads_like_a_pointer_is_told(tmp_path: Path) -> None:
    dataset = made(tmp_path, {})
    below = changes_over(dataset, tmp_path / "overlay")
    key = "MD5E-s5--d41d8cd98f00b204e9800998ecf8427e.txt"
    changes = [
        below.write(b"looks", f"/annex/objects/{key}\n".encode()),
        below.link(b"link", f".git/annex/objects/xx/yy/{key}/{key}".encode()),
        below.write(b"annexed/looks", f"/annex/objects/{key}\n".encode()),
    ]
    for wanted in (request(dry_run=True), request()):
        report = await push(dataset, below, changes, wanted)
        assert [(path, pointed.serialised) for path, pointed in report.pointers] == [
            (b"link", key.encode()),
            (b"looks", key.encode()),
        ]
