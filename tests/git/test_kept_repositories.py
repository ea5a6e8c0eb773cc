"""Directories of git objects: locked while they are used, removed when there is too much of them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.errors import StoreTimeout
from riafs.git.kept_repositories import KeptRepository, remove_unused


def made(root: Path, name: str, size: int, age: float) -> KeptRepository:
    kept = KeptRepository(str(root / "store" / name))
    kept.open()
    (Path(kept.place) / "objects/pack/a.pack").write_bytes(bytes(size))
    os.utime(kept.place, (1e9 - age, 1e9 - age))
    return kept


def test_the_oldest_are_removed_first_and_none_in_use(tmp_path: Path) -> None:
    kept = [made(tmp_path, str(number), 1000, number) for number in range(5)]
    for each in kept[:4]:
        each.close()
    remove_unused(str(tmp_path), 3500)
    assert sorted(os.listdir(tmp_path / "store")) == ["0", "1", "4"]
    kept[4].close()
    remove_unused(str(tmp_path), 0)
    assert os.listdir(tmp_path / "store") == []


def test_nothing_is_removed_within_the_limit(tmp_path: Path) -> None:
    made(tmp_path, "one", 1000, 0).close()
    remove_unused(str(tmp_path), 10_000)
    assert os.listdir(tmp_path / "store") == ["one"]
    remove_unused(str(tmp_path / "none"), 0)


def test_opening_and_removing_at_once(tmp_path: Path) -> None:
    """Whoever has opened one has all of it."""

    def open_it(number: int) -> None:
        kept = KeptRepository(str(tmp_path / "store" / str(number % 3)))
        kept.open()
        assert os.path.isdir(f"{kept.place}/objects/pack")
        assert os.path.isdir(f"{kept.place}/fetch/refs")
        kept.close()

    def remove(_: int) -> None:
        remove_unused(str(tmp_path), 0)

    with ThreadPoolExecutor(6) as pool:
        opening = [pool.submit(open_it, number) for number in range(60)]
        removing = [pool.submit(remove, number) for number in range(60)]
        for each in (*opening, *removing):
            each.result()


async def test_one_fetches_at_a_time(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    first, second = made(tmp_path, "one", 0, 0), KeptRepository(str(tmp_path / "store/one"))
    second.open()
    async with first.fetching(5):
        with pytest.raises(StoreTimeout, match="another mount"):
            async with second.fetching(5):
                pass
    async with second.fetching(5):
        pass
    first.close()
    second.close()


async def test_what_a_killed_fetch_left_is_removed(tmp_path: Path) -> None:
    kept = made(tmp_path, "one", 10, 0)
    left = [Path(kept.place) / name for name in ("objects/pack/tmp_pack_x", "fetch/shallow.lock")]
    for path in left:
        path.touch()
    async with kept.fetching(5):
        assert not any(path.exists() for path in left)
    assert (Path(kept.place) / "objects/pack/a.pack").exists()
    kept.close()
