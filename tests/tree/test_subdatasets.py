"""Which dataset is shown where one is registered, and what is shown where none can be found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.errors import NoSuchName
from riafs.tree.protocol import Kind
from tests.behaviour.drivers import opened
from tests.small import Registered, SmallDataset, SmallStore

Announce = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def sub(store: SmallStore) -> SmallDataset:
    return store.dataset("sub", {b"file": b"of the subdataset"})


def tip(dataset: SmallDataset) -> str:
    return dataset.git("rev-parse", "main")


def register(store: SmallStore, commit: str, *lines: str, path: str = "s") -> SmallDataset:
    """A superdataset with one subdataset, whose entry in .gitmodules has these lines."""
    text = f'[submodule "any name"]\n\tpath = {path}\n' + "".join(f"\t{line}\n" for line in lines)
    return store.dataset("top", {path.encode(): Registered(commit), b".gitmodules": text.encode(), b"good": b"good"})


async def file_of_sub(store: SmallStore, **options: object) -> bytes:
    async with opened(store.path, **options) as shown:  # type: ignore[arg-type]  # passed through
        return await shown.read(b"top/s/file")


def place(dataset: SmallDataset) -> str:
    return f"{dataset.id[:3]}/{dataset.id[3:]}"


# -- candidates -------------------------------------------------------------------------------------------------------


async def test_id_in_the_same_store(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), f"datalad-id = {sub.id}", "url = ../../nowhere")
    assert await file_of_sub(store) == b"of the subdataset"


@pytest.mark.parametrize(
    "line",
    [
        'datalad-url = "ria+file://{store}#~sub"',
        'datalad-url = "ria+file://{store}#{id}"',
        'datalad-url = "ria+file://{store}#{id}@main"',
        'url = "ria+file://{store}/#~sub"',
        "url = ../../{place}",
        "url = {store}/{place}",
        "url = file://{store}/{place}",
        "url = {store}/{place}/.git",
        "url = {store}/{place}/",
        "url = {store}/alias/sub",
        "url = {store}/alias/sub/.git",
        "url = file://{store}/alias/sub",
        "url = file://localhost{store}/alias/sub/",
        "url = {other}/alias/sub",
        'datalad-url = "ria+file://{other}#~sub"',
        'datalad-url = "ria+ssh://elsewhere/store#{id}"',
        "url = ../sub",
        "url = ../../alias/sub",
        "datalad-url = ../sub",
    ],
)
async def test_url_that_leads_into_the_same_store(store: SmallStore, sub: SmallDataset, line: str) -> None:
    other = store.path.parent / "other"
    other.symlink_to("store")
    register(store, tip(sub), line.format(store=store.path, other=other, id=sub.id, place=place(sub)))
    async with opened(other) as shown:
        assert await shown.read(b"top/s/file") == b"of the subdataset"


async def test_url_relative_to_an_alias_in_a_directory_of_aliases(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), "url = ../sub")
    (store.path / "alias" / "group").mkdir()
    for name in ("top", "sub"):
        (store.path / "alias" / name).rename(store.path / "alias" / "group" / name)
        link = store.path / "alias" / "group" / name
        target = link.readlink()
        link.unlink()
        link.symlink_to(Path("..") / target)
    async with opened(store.path) as shown:
        assert await shown.read(b"group/top/s/file") == b"of the subdataset"


async def test_last_of_two_sections_for_one_path_counts(store: SmallStore, sub: SmallDataset) -> None:
    lines = ["datalad-id = 00000000-0000-0000-0000-000000000000", "url = ./s"]
    register(store, tip(sub), *lines, f'[submodule "new"]\n\tpath = s\n\tdatalad-id = {sub.id}', "url = ./s")
    assert await file_of_sub(store) == b"of the subdataset"


async def test_url_is_rewritten_by_the_user_s_rules(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), 'datalad-url = "ria+ssh://lab/store#~sub"')
    rules = ((f"ria+file://{store.path}", "ria+ssh://lab/store"),)
    assert await file_of_sub(store, instead_of=rules) == b"of the subdataset"


async def test_second_candidate_has_the_commit_that_the_first_lacks(store: SmallStore, sub: SmallDataset) -> None:
    other = store.dataset("other", {b"file": b"something else"})
    register(store, tip(sub), f"datalad-id = {other.id}", f'datalad-url = "ria+file://{store.path}#~sub"')
    assert await file_of_sub(store) == b"of the subdataset"


@pytest.mark.parametrize("line", ["", "url = https://example.org/x", "url = host:path", "datalad-id = ../../etc"])
async def test_subdataset_that_is_not_in_the_store_is_empty(store: SmallStore, sub: SmallDataset, line: str) -> None:
    register(store, tip(sub), line)
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []
        assert b"subdataset s of" in await shown.getxattr(b"top/s", "user.riafs.error")
        assert await shown.getxattr(b"top/s", "user.riafs.commit") == tip(sub).encode()


@pytest.mark.parametrize("form", ["{}", "file://{}", "../../../../outside/{place}", "ria+file://{root}#~sub"])
async def test_place_outside_of_the_store_is_not_looked_at(store: SmallStore, tmp_path: Path, form: str) -> None:
    outside = SmallStore.make(tmp_path / "outside").dataset("sub", {b"file": b"secret"})
    url = form.format(outside.path, place=place(outside), root=tmp_path / "outside")
    register(store, tip(outside), f'url = "{url}"', f'datalad-url = "{url}"')
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []


async def test_commit_that_was_not_pushed_is_named(store: SmallStore, sub: SmallDataset) -> None:
    register(store, "12" * 20, f"datalad-id = {sub.id}")
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []
        reason = await shown.getxattr(b"top/s", "user.riafs.error")
        assert b"registered at commit 1212" in reason
        assert b"which the store does not have" in reason


async def test_registered_object_that_is_no_commit_is_not_shown(store: SmallStore, sub: SmallDataset) -> None:
    register(store, sub.git("rev-parse", "main^{tree}"), f"datalad-id = {sub.id}")
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []


async def test_gitlink_without_gitmodules(store: SmallStore, sub: SmallDataset) -> None:
    store.dataset("top", {b"s": Registered(tip(sub))})
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []


@pytest.mark.parametrize(
    "text", [b"[submodule", b"\0" * 100, b'[submodule "x"]\n\tpath\n', b"[include]\n\tpath = /etc/x\n"]
)
async def test_gitmodules_that_cannot_be_parsed_cost_only_the_subdatasets(
    store: SmallStore, sub: SmallDataset, text: bytes
) -> None:
    store.dataset("top", {b"s": Registered(tip(sub)), b".gitmodules": text, b"good": b"good"})
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []
        assert await shown.read(b"top/good") == b"good"


async def test_damaged_subdataset_is_empty_and_its_neighbours_are_served(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), f"datalad-id = {sub.id}")
    for path in (sub.path / "objects").rglob("??/*"):
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    async with opened(store.path) as shown:
        assert await shown.ls(b"top/s") == []
        assert await shown.read(b"top/good") == b"good"


# -- what is shown ----------------------------------------------------------------------------------------------------


async def test_registered_commit_is_shown_and_not_the_tip(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), f"datalad-id = {sub.id}")
    sub.commit({b"file": b"newer"})
    assert await file_of_sub(store) == b"of the subdataset"


async def test_commit_that_no_ref_reaches_is_shown(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), f"datalad-id = {sub.id}")
    (sub.path / "refs" / "heads" / "main").unlink()
    assert await file_of_sub(store) == b"of the subdataset"


async def test_subdataset_with_other_object_names(store: SmallStore) -> None:
    sub = store.dataset("sub", {b"file": b"by sha256"}, object_format="sha256")
    register(store, tip(sub)[:40], f"datalad-id = {sub.id}")
    async with opened(store.path) as shown:
        assert (await shown.stat(b"top/s")).kind is Kind.DIRECTORY
        await shown.ls(b"top/s")


async def test_nested_subdatasets(store: SmallStore, sub: SmallDataset) -> None:
    text = f'[submodule "x"]\n\tpath = deep/er\n\tdatalad-id = {sub.id}\n'.encode()
    middle = store.dataset("middle", {b"deep/er": Registered(tip(sub)), b".gitmodules": text})
    register(store, tip(middle), f"datalad-id = {middle.id}")
    async with opened(store.path) as shown:
        assert await shown.read(b"top/s/deep/er/file") == b"of the subdataset"


async def test_one_subdataset_in_two_places(store: SmallStore, sub: SmallDataset) -> None:
    older = tip(sub)
    newer = sub.commit({b"file": b"newer"})
    text = "".join(f'[submodule "{name}"]\n\tpath = {name}\n\tdatalad-id = {sub.id}\n' for name in "ab").encode()
    store.dataset("top", {b"a": Registered(older), b"b": Registered(newer), b".gitmodules": text})
    async with opened(store.path) as shown:
        assert await shown.read(b"top/a/file") == b"of the subdataset"
        assert await shown.read(b"top/b/file") == b"newer"
        assert shown.counters.datasets_opened == 2


async def test_dataset_that_contains_itself_at_an_earlier_commit(store: SmallStore) -> None:
    dataset = store.dataset("self", {b"depth": b"0"})
    text = f'[submodule "s"]\n\tpath = s\n\tdatalad-id = {dataset.id}\n'.encode()
    for depth in range(1, 4):
        dataset.commit({b"depth": b"%d" % depth, b"s": Registered(tip(dataset)), b".gitmodules": text})
    async with opened(store.path) as shown:
        assert [await shown.read(b"self" + b"/s" * up + b"/depth") for up in range(4)] == [b"3", b"2", b"1", b"0"]


async def test_another_version_of_a_subdataset(store: SmallStore, sub: SmallDataset) -> None:
    register(store, tip(sub), f"datalad-id = {sub.id}")
    newer = sub.commit({b"file": b"newer"})
    async with opened(store.path) as shown:
        assert await shown.read(b"top/s@main/file") == b"newer"
        assert await shown.read(b"top/s@" + newer[:10].encode() + b"/file") == b"newer"
        assert await shown.ls(b"top") == [b".gitmodules", b"good", b"s"]
        for name in (b"s@none", b"good@main", b"none@main", b"s@"):
            with pytest.raises(NoSuchName):
                await shown.filesystem.lookup(await shown.inode(b"top"), name)
