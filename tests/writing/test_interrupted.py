"""A push that was killed between the move of the refs and that of the overlay's rows, and work that went on then."""

from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.cli import main
from riafs.daemon import pushing
from riafs.errors import Busy
from riafs.overlay.overlay import opened
from tests.push.conftest import STAMP, content, sound, tree
from tests.push.conftest import dataset as dataset
from tests.small import SmallDataset
from tests.writing.test_commands import changed, store_of

IDENT = STAMP.ident.decode()


def push(overlay: Path, *words: str) -> int:
    return main.run("riafs", ["push", "--overlay", str(overlay), *words])


@pytest.fixture
def killed_push(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A push that ends after its last step in the store."""

    async def end(*_: object) -> None:
        raise Busy("killed here")

    def run(overlay: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(pushing, "_show", end)
            assert push(overlay) == 2

    return run


def left(overlay: Path, dataset: SmallDataset) -> list[bytes]:
    with opened(str(overlay)) as kept:
        assert kept.announced(dataset.id.encode()) is None
        return [change.path for base in kept.datasets() for change in kept.changes(base.dataset)]


def test_what_was_changed_after_a_killed_push_is_no_conflict_with_it(
    dataset: SmallDataset, tmp_path: Path, killed_push: Callable[[Path], None]
) -> None:
    store, overlay = store_of(dataset), tmp_path / "over"
    changed(store, overlay, {b"one/tool": b"first", b"one/new.dat": b"first", b"one/gone.dat": b"x"}, b"one/link")
    killed_push(overlay)
    assert tree(dataset)[b"tool"][1] == b"first"
    changed(store, overlay, {b"one/tool": b"second", b"one/new.dat": b"second"}, b"one/gone.dat")
    assert push(overlay) == 0
    assert tree(dataset)[b"tool"] == ("100755", b"second")
    assert content(dataset, b"new.dat") == b"second"
    assert not {b"gone.dat", b"link"} & tree(dataset).keys()
    assert dataset.git("rev-list", "--count", "main") == "3"
    assert left(overlay, dataset) == []
    sound(dataset)


def test_the_same_push_again_makes_no_other_commit(
    dataset: SmallDataset, tmp_path: Path, killed_push: Callable[[Path], None]
) -> None:
    overlay = changed(store_of(dataset), tmp_path / "over", {b"one/tool": b"first"}, b"one/link")
    killed_push(overlay)
    commit = dataset.git("rev-parse", "main")
    assert push(overlay) == 0
    assert dataset.git("rev-parse", "main") == commit
    assert left(overlay, dataset) == []


def test_what_is_new_is_never_taken_for_what_was_pushed(
    dataset: SmallDataset, tmp_path: Path, killed_push: Callable[[Path], None]
) -> None:
    """Not even where the database has forgotten the numbers of rows and versions."""
    store, overlay = store_of(dataset), tmp_path / "over"
    changed(store, overlay, {b"one/new.dat": b"first"})
    killed_push(overlay)
    changed(store, overlay, {}, b"one/new.dat")
    changed(store, overlay, {b"one/new.dat": b"second"})
    assert push(overlay) == 0
    assert content(dataset, b"new.dat") == b"second"
    assert left(overlay, dataset) == []


def test_others_may_have_pushed_in_between(
    dataset: SmallDataset, tmp_path: Path, killed_push: Callable[[Path], None]
) -> None:
    store, overlay = store_of(dataset), tmp_path / "over"
    changed(store, overlay, {b"one/tool": b"first"})
    killed_push(overlay)
    other = changed(store, tmp_path / "other", {b"one/code/other": b"other"})
    assert push(other) == 0
    changed(store, overlay, {b"one/tool": b"second"})
    assert push(overlay) == 0
    assert tree(dataset)[b"tool"][1] == b"second"
    assert tree(dataset)[b"code/other"][1] == b"other"


def test_a_push_that_came_to_nothing_is_forgotten(
    dataset: SmallDataset, tmp_path: Path, killed_push: Callable[[Path], None]
) -> None:
    store, overlay = store_of(dataset), tmp_path / "over"
    before = dataset.git("rev-parse", "main")
    changed(store, overlay, {b"one/tool": b"first"})
    killed_push(overlay)
    dataset.git("update-ref", "refs/heads/main", before)
    changed(store, overlay, {b"one/code/more": b"more"})
    assert push(overlay) == 0
    assert tree(dataset)[b"tool"][1] == b"first"
    assert tree(dataset)[b"code/more"][1] == b"more"


def test_a_damaged_announcement_is_named(
    dataset: SmallDataset, tmp_path: Path, killed_push: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    overlay = changed(store_of(dataset), tmp_path / "over", {b"one/tool": b"first"})
    killed_push(overlay)
    [file] = overlay.glob("announced-*")
    file.write_text("{")
    assert push(overlay) == 2
    assert str(file) in capfd.readouterr().err
    file.unlink()
    assert push(overlay) == 0
