"""``riafs doctor SOURCE``: what cannot be shown is no "ok", and what is after ``#`` is looked at."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from riafs.archive import child
from riafs.cli.doctor import check_machine, check_source
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

CONTENT = noise(1000)


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def dataset(store: SmallStore) -> SmallDataset:
    made = store.dataset("one", {b"file": Locked(key_of(CONTENT)), b"d/text": b"text"})
    made.put(key_of(CONTENT), CONTENT)
    return made


def told(source: str | Path) -> list[tuple[str, str]]:
    return [(each.state, each.what) for each in check_source(str(source))]


def states(source: str | Path) -> list[str]:
    return [state for state, _ in told(source)]


def test_good_store_is_ok(store: SmallStore, dataset: SmallDataset) -> None:
    assert told(store.path) == [
        ("ok", f"store {store.path}, layout version 1"), ("ok", "1 dataset, 1 with an alias; 1 can be shown"),
    ]  # fmt: skip


@pytest.mark.parametrize("label", ["~one", "ID", "~one@main", "ID@main"])
def test_named_dataset_is_looked_at(store: SmallStore, dataset: SmallDataset, label: str) -> None:
    found = told(f"{store.path}#{label.replace('ID', dataset.id)}")
    commit = dataset.git("rev-parse", "main")[:12]
    what = f"dataset {dataset.id} at refs/heads/main, commit {commit}: at its top files: 1, directories: 1"
    assert found[1:] == [("ok", what)]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("~two", "no dataset with the alias two"),
        ("nothing-with-such-an-id", "no dataset with the id nothing-with-such-an-id"),
        ("~one@v9", "no branch, tag or commit called v9"),
    ],
)
def test_what_is_not_there_is_a_failure(store: SmallStore, dataset: SmallDataset, label: str, reason: str) -> None:
    [(state, what)] = told(f"{store.path}#{label}")
    assert state == "fail"
    assert reason in what


def test_dataset_without_content_is_a_warning(store: SmallStore) -> None:
    made = store.dataset("bare", {b"file": Locked(key_of(CONTENT))})
    assert states(f"{store.path}#{made.id}") == ["ok", "ok", "warn"]


def test_dataset_s_directory_is_no_store(dataset: SmallDataset, store: SmallStore) -> None:
    [(state, what)] = told(dataset.path)
    assert (state, f"did you mean {store.path}#~one?" in what) == ("fail", True)


def test_unreadable_dataset_is_a_failure_by_name(store: SmallStore, dataset: SmallDataset) -> None:
    bad = store.dataset("bad", {b"file": b"x"})
    for path in (bad.path / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"garbage")
    failures = [what for state, what in told(store.path) if state == "fail"]
    assert len(failures) == 1
    assert f"dataset {bad.id} (alias bad) cannot be read: " in failures[0]
    assert told(store.path)[-1] == ("ok", "2 datasets, 2 with an alias; 1 can be shown")
    assert states(f"{store.path}#~bad") == ["fail"]


def test_denied_dataset_is_a_failure(store: SmallStore, dataset: SmallDataset) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (dataset.path / "annex" / "objects").chmod(0)
    assert "fail" in states(store.path)
    assert "fail" in states(f"{store.path}#~one")
    (dataset.path / "annex" / "objects").chmod(0o755)


def test_objects_that_cannot_be_listed_are_a_failure(store: SmallStore, dataset: SmallDataset, tmp_path: Path) -> None:
    objects = dataset.path / "annex" / "objects"
    objects.rename(tmp_path / "elsewhere")
    objects.symlink_to(tmp_path / "elsewhere")
    for source in (str(store.path), f"{store.path}#~one"):
        assert any(state == "fail" and "leads out of the store" in what for state, what in told(source)), told(source)


def test_names_that_are_left_out_are_warnings(store: SmallStore, dataset: SmallDataset) -> None:
    (store.path / "alias" / "away").symlink_to("/nonexistent/abc/def")
    (store.path / "alias" / "broken").symlink_to("../abc/def")
    warnings = [what for state, what in told(store.path) if state == "warn"]
    assert sorted(what.split(" is left out")[0] for what in warnings) == ["alias/away", "alias/broken"]


def test_datasets_that_show_nothing_are_counted_apart(store: SmallStore, dataset: SmallDataset) -> None:
    store.dataset("empty")
    storage = store.dataset("storage")
    for name in ("HEAD", "config"):
        (storage.path / name).unlink()
    for name in ("objects", "refs"):
        shutil.rmtree(storage.path / name)
    found = told(store.path)
    assert ("warn", "datasets without a commit or a git repository, shown empty: 2") in found
    assert found[-1] == ("ok", "3 datasets, 3 with an alias; 1 can be shown")
    assert states(f"{store.path}#~storage") == ["fail"]


def test_store_without_datasets_is_a_failure(store: SmallStore) -> None:
    assert states(store.path) == ["ok", "fail"]


def test_wrong_setting_is_one_failure_beside_the_other_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIAFS_CACHE_SIZE", "plenty")
    found = list(check_machine())
    assert [each.what for each in found if "RIAFS_CACHE_SIZE" in each.what and each.state == "fail"]
    assert any(each.what.startswith("git version") for each in found)


# -- optional libraries -----------------------------------------------------------------------------------------------


def test_complete_machine_has_a_line_for_libarchive_and_the_packages() -> None:
    lines = {each.what: each for each in check_machine()}
    assert any(what.startswith("libarchive 3.") and each.state == "ok" for what, each in lines.items())
    assert lines["Python packages for all methods of archives and all digests of keys"].state == "ok"


def test_missing_libarchive_is_a_warning_that_says_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_LIBRARY", "libarchive.so.nothing")
    monkeypatch.setenv("LIBARCHIVE", "/nonexistent/libarchive.so")
    [found] = [each for each in check_machine() if "libarchive" in each.what]
    assert (found.state, found.advice) == ("warn", "apt install libarchive13")
    assert "annexed archives (tar, zip, …) and members packed with BCJ2 cannot be read" in found.what


@pytest.mark.parametrize(
    ("module", "package", "without"),
    [("pyppmd", "pyppmd", "PPMd cannot be read"), ("skein", "pyskein", "checked by their size only")],
)
def test_missing_package_is_a_warning_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str, without: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]  # as import has it for what is not there
    [found] = [each for each in check_machine() if f"Python package {package}," in each.what]
    assert (found.state, found.advice) == ("warn", f"{sys.executable} -m pip install {package}")
    assert without in found.what
