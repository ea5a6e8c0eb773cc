"""A push makes an ordinary commit: what each kind of change becomes in git, in the annex and in its logs."""

import hashlib
import os
import re
import stat
from pathlib import Path

import pytest

from riafs.overlay.changes import LocalContent
from tests.plugins.log_hygiene import Announce
from tests.push.changes import Below
from tests.push.conftest import (
    FILES,
    LOCKED,
    STORAGE,
    UNLOCKED,
    annex_log,
    changes_over,
    content,
    objects,
    push,
    remote_log,
    request,
    sound,
    state,
    tree,
    with_annex,
)
from tests.small import SmallDataset, SmallStore, key_of, noise

NEW = b"new content\n"


async def test_a_new_file_is_annexed_and_locked(dataset: SmallDataset, below: Below) -> None:
    report = await push(dataset, below, [below.write(b"data/new.txt", NEW)])
    key = key_of(NEW, b".txt")
    mode, link = tree(dataset)[b"data/new.txt"]
    assert mode == "120000"
    assert link.startswith(b"../.git/annex/objects/")
    assert link.endswith(b"/" + key + b"/" + key)
    assert content(dataset, b"data/new.txt") == NEW
    assert re.fullmatch(rb"\d+s 1 %b\n" % STORAGE, annex_log(dataset, key))
    assert report.commit.decode() == dataset.git("rev-parse", "main")
    assert (report.annexed, report.in_git, report.objects_written) == (1, 0, 1)
    sound(dataset)


async def test_everything_else_stays_as_it_is(dataset: SmallDataset, below: Below) -> None:
    before = tree(dataset)
    await push(dataset, below, [below.write(b"data/new.txt", NEW)])
    after = tree(dataset)
    del after[b"data/new.txt"]
    assert after == before


async def test_the_commit_has_one_parent_author_and_message(dataset: SmallDataset, below: Below) -> None:
    await push(dataset, below, [below.write(b"n", NEW)], request("größer\n\nwith a body".encode()))
    assert dataset.git("log", "-1", "--format=%P|%an|%ae|%B", "main") == (
        f"{below.commit}|riafs tests|tests@riafs.invalid|größer\n\nwith a body"
    )


async def test_files_that_git_keeps_are_kept_by_git(dataset: SmallDataset, below: Below) -> None:
    changes = [below.write(b"code/new.py", b"1\n", executable=True), below.write(b"data/.gitignore", b"*.tmp\n")]
    report = await push(dataset, below, changes)
    assert tree(dataset)[b"code/new.py"] == ("100755", b"1\n")
    assert tree(dataset)[b"data/.gitignore"] == ("100644", b"*.tmp\n")
    assert (report.annexed, report.in_git) == (0, 2)


async def test_rules_that_come_with_the_push_hold_for_it(dataset: SmallDataset, below: Below) -> None:
    attributes = b"*.txt annex.largefiles=(largerthan=5)\n*.sha annex.backend=SHA256E\n"
    changes = [
        below.write(b"new/.gitattributes", attributes),
        below.write(b"new/small.txt", b"tiny\n"),
        below.write(b"new/large.txt", b"larger\n"),
        below.write(b"new/x.sha", NEW),
    ]
    await push(dataset, below, changes)
    found = tree(dataset)
    assert found[b"new/small.txt"] == ("100644", b"tiny\n")
    assert found[b"new/large.txt"][0] == "120000"
    assert b"/SHA256E-s%d--%b.sha" % (len(NEW), hashlib.sha256(NEW).hexdigest().encode()) in found[b"new/x.sha"][1]


async def test_configuration_on_the_branch_counts_where_no_attribute_does(tmp_path: Path) -> None:
    plain = SmallStore.make(tmp_path / "store").dataset("plain", {b"a": b"a"})
    config = b"1s annex.backend SHA1\n1s annex.largefiles include=*.bin\n"
    dataset = with_annex(plain, config=config)
    below = changes_over(dataset, tmp_path / "overlay")
    await push(dataset, below, [below.write(b"x.bin", NEW), below.write(b"x.txt", NEW)])
    assert b"/SHA1-s12--" in tree(dataset)[b"x.bin"][1]
    assert tree(dataset)[b"x.txt"] == ("100644", NEW)


async def test_a_dataset_without_annex_is_git_alone(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("plain", {b"a": b"a"})
    below = changes_over(dataset, tmp_path / "overlay")
    await push(dataset, below, [below.write(b"b", NEW)])
    assert tree(dataset) == {b"a": ("100644", b"a"), b"b": ("100644", NEW)}


async def test_a_large_blob_goes_into_git_too(dataset: SmallDataset, below: Below) -> None:
    data = noise(3_000_000)
    await push(dataset, below, [below.write(b"code/big.bin", data)])
    assert tree(dataset)[b"code/big.bin"] == ("100644", data)


async def test_changed_files_keep_their_form(dataset: SmallDataset, below: Below) -> None:
    changes = [
        below.write(b"data/locked.dat", b"other\n"),
        below.write(b"data/unlocked.dat", b"more\n", executable=True),
        below.write(b"tool", b"new tool\n", executable=True),
    ]
    await push(dataset, below, changes)
    found = tree(dataset)
    assert found[b"data/locked.dat"][0] == "120000"
    assert found[b"data/unlocked.dat"] == ("100755", b"/annex/objects/" + key_of(b"more\n") + b"\n")
    assert content(dataset, b"data/locked.dat") == b"other\n"
    assert content(dataset, b"data/unlocked.dat") == b"more\n"


async def test_a_file_of_git_stays_there_where_nothing_says_otherwise(tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(tmp_path / "store").dataset("plain", {b"a": b"a"}))
    below = changes_over(dataset, tmp_path / "overlay")
    await push(dataset, below, [below.write(b"a", NEW), below.write(b"b", NEW)])
    assert tree(dataset)[b"a"] == ("100644", NEW)
    assert b"/SHA256E-s12--" in tree(dataset)[b"b"][1]


async def test_what_is_not_local_comes_from_the_base(dataset: SmallDataset, below: Below) -> None:
    pieces = {2: b"XX", 10: b"YY", 15: b"end"}
    changes = [
        below.put(b"data/locked.dat", below.patched(pieces, len(LOCKED) + 3)),
        below.put(b"tool", below.patched({0: b"T"}, 5)),
    ]
    await push(dataset, below, changes)
    assert content(dataset, b"data/locked.dat") == b"loXXed conYYnt\nend"
    assert content(dataset, b"tool") == b"Tool\n"


async def test_removed_things_are_gone_and_empty_directories_with_them(dataset: SmallDataset, below: Below) -> None:
    await push(dataset, below, [below.remove(b"data/sub/deep.dat"), below.remove(b"code")])
    assert sorted(tree(dataset)) == sorted(path for path in FILES if path not in (b"data/sub/deep.dat", b"code/run.sh"))
    assert key_of(LOCKED).decode() in objects(dataset)


async def test_a_directory_replaced_by_a_file_and_a_file_by_a_directory(dataset: SmallDataset, below: Below) -> None:
    await push(dataset, below, [below.write(b"data", NEW), below.remove(b"tool"), below.write(b"tool/inside", b"x\n")])
    assert [path for path in tree(dataset) if path.startswith((b"data", b"tool"))] == [b"data", b"tool/inside"]


async def test_renames_take_content_along(dataset: SmallDataset, below: Below) -> None:
    changes = [
        below.rename(b"data/locked.dat", b"top.dat"),
        below.rename(b"tool", b"code/tool"),
        below.rename(b"data/unlocked.dat", b"data/u.dat", below.local(b"changed\n")),
    ]
    await push(dataset, below, changes)
    found = tree(dataset)
    assert content(dataset, b"top.dat") == LOCKED
    assert not found[b"top.dat"][1].startswith(b"..")
    assert found[b"code/tool"] == ("100755", b"tool\n")
    assert content(dataset, b"data/u.dat") == b"changed\n"
    assert not {b"data/locked.dat", b"tool", b"data/unlocked.dat"} & found.keys()


@pytest.mark.parametrize("target", [b"other", b"a/b/c"])
async def test_a_renamed_directory_takes_everything_along(dataset: SmallDataset, below: Below, target: bytes) -> None:
    before = tree(dataset)
    changes = [below.rename(b"data", target), below.write(target + b"/unlocked.dat", b"changed\n")]
    await push(dataset, below, changes)
    after = tree(dataset)
    assert {path for path in after if path.startswith(target)} == {
        target + path.removeprefix(b"data") for path in before if path.startswith(b"data/")
    }
    for name in (b"/locked.dat", b"/sub/deep.dat"):
        up = b"../" * (target + name).count(b"/")
        assert after[target + name][1].startswith(up + b".git/annex/objects/")
        assert content(dataset, target + name) == LOCKED
    assert content(dataset, target + b"/unlocked.dat") == b"changed\n"


@pytest.mark.parametrize("target", [b"other", b"an/other"])
@pytest.mark.parametrize("before", [b"an/a", b"zz/z"])
async def test_what_was_taken_out_of_a_renamed_directory_is_not_in_it(
    dataset: SmallDataset, below: Below, target: bytes, before: bytes
) -> None:
    changes = [
        below.rename(b"code", before),
        below.rename(b"data", target),
        below.rename(b"data/locked.dat", b"out.dat"),
        below.rename(b"data/sub", b"sub"),
        below.write(target + b"/sub/new", b"x\n"),
    ]
    await push(dataset, below, changes)
    found = tree(dataset)
    assert {path for path in found if b"dat" in path or b"sub" in path} - {target + b"/sub/new"} == {
        target + b"/unlocked.dat",
        b"sub/deep.dat",
        b"out.dat",
    }
    assert before + b"/run.sh" in found
    sound(dataset)


async def test_a_directory_that_was_removed_and_made_again(dataset: SmallDataset, below: Below) -> None:
    await push(dataset, below, [below.remove(b"data"), below.write(b"data/new.dat", NEW), below.directory(b"data/sub")])
    assert {path for path in tree(dataset) if path.startswith(b"data")} == {b"data/new.dat"}


async def test_what_was_never_written_is_zeros(dataset: SmallDataset, below: Below) -> None:
    short = below.local(b"abc")
    changes = [
        below.put(b"data/locked.dat", LocalContent(b"", ((4, 9),), 9, None, executable=False)),
        below.put(b"n.dat", LocalContent(short.data, ((0, 6),), 6, None, executable=False)),
    ]
    await push(dataset, below, changes)
    assert content(dataset, b"data/locked.dat") == b"lock" + bytes(5)
    assert content(dataset, b"n.dat") == b"abc" + bytes(3)


async def test_two_files_can_change_places(dataset: SmallDataset, below: Below) -> None:
    before = tree(dataset)
    changes = [below.rename(b"tool", b"link"), below.rename(b"link", b"tool")]
    await push(dataset, below, changes)
    assert (tree(dataset)[b"link"], tree(dataset)[b"tool"]) == (before[b"tool"], before[b"link"])


async def test_executable_bits(dataset: SmallDataset, below: Below) -> None:
    changes = [
        below.mode(b"tool", executable=False),
        below.mode(b"data/unlocked.dat", executable=True),
        below.mode(b"data/locked.dat", executable=True),
    ]
    await push(dataset, below, changes)
    found = tree(dataset)
    assert found[b"tool"] == ("100644", b"tool\n")
    assert found[b"data/unlocked.dat"] == ("100755", b"/annex/objects/" + key_of(UNLOCKED) + b"\n")
    assert found[b"data/locked.dat"][0] == "120000"
    assert dataset.object_path(key_of(LOCKED)).stat().st_mode & 0o777 == 0o555


async def test_the_bit_of_an_archived_file_makes_it_an_unlocked_one(dataset: SmallDataset, below: Below) -> None:
    dataset.archive({key_of(LOCKED): LOCKED})
    dataset.object_path(key_of(LOCKED)).unlink()
    await push(dataset, below, [below.mode(b"data/locked.dat", executable=True)])
    assert tree(dataset)[b"data/locked.dat"] == ("100755", b"/annex/objects/" + key_of(LOCKED) + b"\n")


async def test_links_and_empty_directories(dataset: SmallDataset, below: Below) -> None:
    report = await push(dataset, below, [below.link(b"data/l", b"../tool"), below.directory(b"nothing")])
    assert tree(dataset)[b"data/l"] == ("120000", b"../tool")
    assert report.empty_directories == (b"nothing",)


async def test_a_subdataset_is_registered_at_its_new_commit(dataset: SmallDataset, below: Below) -> None:
    await push(dataset, below, [], gitlinks={b"inputs/sub": b"1" * 40})
    assert tree(dataset)[b"inputs/sub"] == ("160000", b"1" * 40)


async def test_nothing_to_push_makes_no_commit(dataset: SmallDataset, below: Below) -> None:
    before = state(dataset)
    report = await push(dataset, below, [])
    assert (report.commit, report.changed) == (below.commit.encode(), 0)
    assert state(dataset) == before


async def test_pushed_again_nothing_happens(dataset: SmallDataset, below: Below) -> None:
    changes = [below.write(b"n", NEW), below.remove(b"tool"), below.rename(b"data", b"d")]
    await push(dataset, below, changes)
    before = state(dataset)
    report = await push(dataset, below, changes)
    assert report.commit.decode() == dataset.git("rev-parse", "main")
    assert report.objects_written == 0
    assert state(dataset) == before


async def test_a_dry_run_writes_nothing(dataset: SmallDataset, below: Below) -> None:
    before = state(dataset)
    report = await push(dataset, below, [below.write(b"n", NEW), below.write(b"code/x", NEW)], request(dry_run=True))
    assert (report.annexed, report.in_git, report.bytes_written) == (1, 1, len(NEW))
    assert state(dataset) == before
    sound(dataset)


async def test_one_content_in_many_files_is_one_object(dataset: SmallDataset, below: Below) -> None:
    report = await push(dataset, below, [below.write(b"f%d.dat" % number, NEW) for number in range(5)])
    assert report.objects_written == 1
    assert content(dataset, b"f4.dat") == NEW


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, 9_000_000])
async def test_sizes(dataset: SmallDataset, below: Below, size: int) -> None:
    data = noise(size)
    await push(dataset, below, [below.write(b"f.dat", data), below.write(b"g.dat", data)])
    assert content(dataset, b"f.dat") == data
    assert dataset.object_path(key_of(data)).stat().st_mode & 0o777 == 0o444
    sound(dataset)


async def test_odd_names(dataset: SmallDataset, below: Below) -> None:
    names = [b"n\new\xff.dat", b"-x", "ä".encode() + b"/" + b"x" * 255, b"a b.\xff\xfe"]
    await push(dataset, below, [below.write(name, name) for name in names])
    assert all(content(dataset, name) == name for name in names)
    sound(dataset)


# -- what is in the store already -------------------------------------------------------------------------------------


async def test_a_good_object_is_not_written_again_and_is_logged(dataset: SmallDataset, below: Below) -> None:
    path = dataset.put(key_of(NEW), NEW)
    inode = path.stat().st_ino
    report = await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert path.stat().st_ino == inode
    assert report.objects_written == 0
    assert b" 1 " + STORAGE in annex_log(dataset, key_of(NEW))


@pytest.mark.parametrize("bad", [b"", NEW[:-1], b"N" + NEW[1:], NEW + b"more"])
async def test_a_bad_object_is_replaced(
    dataset: SmallDataset, below: Below, expected_warnings: Announce, bad: bytes
) -> None:
    expected_warnings("copy is not used")
    path = dataset.put(key_of(NEW), bad)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert path.read_bytes() == NEW


async def test_a_large_bad_object_is_replaced_too(
    dataset: SmallDataset, below: Below, expected_warnings: Announce
) -> None:
    expected_warnings("copy is not used")
    data = noise(2_000_000)
    path = dataset.put(key_of(data), b"x" + data[1:])
    await push(dataset, below, [below.write(b"n.dat", data)])
    assert path.read_bytes() == data


async def test_archived_content_is_not_written_again(dataset: SmallDataset, below: Below) -> None:
    dataset.archive({key_of(NEW): NEW})
    report = await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert report.objects_written == 0
    assert not dataset.object_path(key_of(NEW)).exists()


async def test_a_bad_archived_copy_does_not_count(
    dataset: SmallDataset, below: Below, expected_warnings: Announce
) -> None:
    expected_warnings("copy is not used")
    dataset.archive({key_of(NEW): b"N" + NEW[1:]})
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert content(dataset, b"n.dat") == NEW


async def test_what_another_storage_has_is_written_to_this_one_too(tmp_path: Path) -> None:
    """Else the log of locations would say that it is here."""
    store = SmallStore.make(tmp_path / "store")
    dataset, other = store.dataset("one", FILES), store.dataset("other")
    line = remote_log(dataset) + remote_log(other).replace(STORAGE, b"aaaaaaaa-1111-4222-8333-444455556666")
    dataset.annex_branch({b"uuid.log": b"x y timestamp=1s\n", b"remote.log": line})
    dataset.archive({key_of(LOCKED): LOCKED})
    other.put(key_of(NEW), NEW)
    below = changes_over(dataset, tmp_path / "overlay")
    report = await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert report.objects_written == 1
    assert key_of(NEW).decode() in objects(dataset)


async def test_layout_1_has_lower_case_directories(tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(tmp_path / "store").dataset("lower", FILES, layout="1"))
    below = changes_over(dataset, tmp_path / "overlay")
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    digest = hashlib.md5(key_of(NEW)).hexdigest()
    assert dataset.object_path(key_of(NEW), f"{digest[:3]}/{digest[3:6]}".encode()).read_bytes() == NEW


async def test_repositories_with_sha256_names(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("long", FILES, object_format="sha256")
    with_annex(dataset)
    below = changes_over(dataset, tmp_path / "overlay")
    report = await push(dataset, below, [below.write(b"n.dat", NEW), below.write(b"code/x", NEW)])
    assert len(report.commit) == 64
    assert content(dataset, b"n.dat") == NEW
    sound(dataset)


async def test_chunks(tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(tmp_path / "store").dataset("chunky", FILES), "chunk=1MiB encryption=none")
    below = changes_over(dataset, tmp_path / "overlay")
    data = noise(2_500_000)
    await push(dataset, below, [below.write(b"n.dat", data), below.write(b"empty.dat", b"")])
    key = key_of(data)
    found = objects(dataset)
    parts = [found[key.decode().replace("--", f"-S1048576-C{number}--", 1)] for number in (1, 2, 3)]
    assert b"".join(parts) == data
    assert key.decode() not in found
    assert re.fullmatch(rb"\d+s %b:1048576 3\n" % STORAGE, annex_log(dataset, key, ".log.cnk"))
    again = await push(dataset, below, [below.write(b"m.dat", data)])
    assert again.objects_written == 0


# -- logs and modes ---------------------------------------------------------------------------------------------------


async def test_other_lines_of_a_log_stay(dataset: SmallDataset, below: Below) -> None:
    key = key_of(NEW)
    digest = hashlib.md5(key).hexdigest()
    path = f"{digest[:3]}/{digest[3:6]}/{key.decode()}.log".encode()
    logs = {name: blob_ for name, (_, blob_) in tree(dataset, "git-annex").items()}
    logs[path] = b"9999999999s 0 %b\n1s 1 aaaa-other\n" % STORAGE
    dataset.annex_branch(logs)
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert annex_log(dataset, key) == b"10000000000s 1 %b\n1s 1 aaaa-other\n" % STORAGE
    assert dataset.git("log", "-1", "--format=%s|%P", "git-annex").startswith("update|")


@pytest.mark.parametrize(("shared", "file_mode", "directory_mode"), [("group", 0o444, 0o2775), ("0660", 0o440, 0o2770)])
async def test_shared_repositories_stay_shared(
    dataset: SmallDataset, below: Below, shared: str, file_mode: int, directory_mode: int
) -> None:
    dataset.git("config", "core.sharedRepository", shared)
    old = os.umask(0o022)
    try:
        await push(dataset, below, [below.write(b"n.dat", NEW), below.write(b"x", NEW, executable=True)])
    finally:
        os.umask(old)
    path = dataset.object_path(key_of(NEW))
    assert stat.S_IMODE(path.stat().st_mode) == file_mode
    assert stat.S_IMODE(path.parent.stat().st_mode) == directory_mode
    commit = dataset.git("rev-parse", "main")
    loose = dataset.path / "objects" / commit[:2] / commit[2:]
    assert stat.S_IMODE(loose.stat().st_mode) == file_mode
    assert stat.S_IMODE((dataset.path / "refs" / "heads" / "main").stat().st_mode) & 0o020


async def test_many_objects_become_one_pack(dataset: SmallDataset, below: Below) -> None:
    await push(dataset, below, [below.write(b"code/%d" % number, b"%d" % number) for number in range(150)])
    assert len(list((dataset.path / "objects" / "pack").glob("*.pack"))) == 1
    sound(dataset)


async def test_lists_for_plain_http_are_renewed_where_there_are_any(dataset: SmallDataset, below: Below) -> None:
    dataset.git("tag", "light", "main")
    dataset.git("-c", "user.name=x", "-c", "user.email=x", "tag", "-a", "-m", "x", "annotated", "main")
    dataset.git("pack-refs", "--all")
    dataset.git("repack", "-q")
    dataset.git("update-server-info")
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    written = [(dataset.path / name).read_bytes() for name in ("info/refs", "objects/info/packs")]
    assert dataset.git("rev-parse", "main").encode() in written[0]
    dataset.git("update-server-info", "--force")
    assert [(dataset.path / name).read_bytes() for name in ("info/refs", "objects/info/packs")] == written


async def test_hooks_of_the_store_are_not_run(dataset: SmallDataset, below: Below, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hooks = dataset.path / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-update", "update", "pre-receive"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (hooks / name).chmod(0o755)
    dataset.git("config", "core.fsmonitor", f"touch {canary}")
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert not canary.exists()
    assert content(dataset, b"n.dat") == NEW


async def test_packed_refs_and_a_broken_neighbour_do_not_matter(dataset: SmallDataset, below: Below) -> None:
    dataset.git("pack-refs", "--all")
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    sound(dataset)
    assert content(dataset, b"n.dat") == NEW


@pytest.mark.parametrize(
    ("setting", "forms"),
    [
        (b"true", ("100644", "100755", "100644", "120000")),
        (b"false", ("120000", "120000", "120000", "120000")),
        (b"include=*.dat and largerthan=5", ("100644", "120000", "120000", "120000")),
        (b"mimeencoding=binary", ("120000", "120000", "100644", "120000")),
    ],
)
async def test_new_files_are_unlocked_where_the_dataset_says_so(
    tmp_path: Path, setting: bytes, forms: tuple[str, ...]
) -> None:
    dataset = with_annex(
        SmallStore.make(tmp_path / "store").dataset("one", FILES), config=b"1s annex.addunlocked " + setting
    )
    for data in (LOCKED, UNLOCKED):
        dataset.put(key_of(data), data)
    below = changes_over(dataset, tmp_path / "overlay")
    changes = [
        below.write(b"d/new.dat", NEW),
        below.write(b"d/x.txt", b"text", executable=True),
        below.write(b"d/y.txt", b"\0\1"),
        below.write(b"data/locked.dat", b"other"),
        below.write(b"data/unlocked.dat", b"another"),
    ]
    await push(dataset, below, changes)
    made = tree(dataset)
    assert tuple(made[path][0] for path in (b"d/new.dat", b"d/x.txt", b"d/y.txt", b"data/locked.dat")) == forms
    assert made[b"data/unlocked.dat"][0] == "100644"
    assert content(dataset, b"d/new.dat") == NEW
    sound(dataset)
