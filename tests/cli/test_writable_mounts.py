"""Which command lines ask for a mount that can be written, and which are refused, before anything is started."""

import os
from pathlib import Path

import pytest

from riafs.cli.main import run
from riafs.cli.mount import MountRequest, fstab_line, make_plan
from riafs.cli.mount_options import fstab_says_writing, is_read_only, says_writing
from riafs.errors import UsageError
from riafs.settings import Given, overlay_directory


def overlay_of(source: str, *words: str, by_mount: bool = False, overlay: str | None = None, home: str = "/h") -> str:
    given = () if overlay is None else (Given("overlay", overlay, "--overlay"),)
    request = MountRequest(source, "/mnt", given, words, by_mount)
    return make_plan(request, {"HOME": home, "PATH": "/bin"}).settings.overlay


def test_a_mount_is_read_only_unless_somebody_says_otherwise() -> None:
    assert overlay_of("/store") == ""
    assert overlay_of("/store", "ro") == ""
    assert overlay_of("/store", overlay="/over") == "/over"
    assert overlay_of("/store", "rw", overlay="/over") == "/over"


def test_rw_takes_a_directory_of_its_own_for_each_source() -> None:
    one, other = overlay_of("/store", "rw"), overlay_of("/store#~alias", "rw")
    assert one != other
    assert one == overlay_of("ria+file:///store", "rw") == overlay_of("/store", overlay="auto")
    assert "/overlays/store-" in one
    assert "/overlays/store-alias-" in other


def test_the_rw_of_mount_itself_does_not_count() -> None:
    assert overlay_of("/store", "rw", by_mount=True) == ""
    assert overlay_of("/store", "rw", by_mount=True, overlay="/over") == "/over"


@pytest.mark.parametrize("source", ["keep+http://server:25107?manifests=/m", "arvados://cluster", "/store#~alias@v1"])
def test_what_cannot_be_changed_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="can only be read"):
        overlay_of(source, "rw")


def test_ro_and_an_overlay_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude"):
        overlay_of("/store", "ro", overlay="/over")


def test_the_last_of_ro_and_rw_counts() -> None:
    assert is_read_only(["rw", "ro"])
    assert not is_read_only(["ro", "rw"])
    assert not is_read_only([])


def test_who_has_no_home_names_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    with pytest.raises(UsageError, match="--overlay DIR"):
        overlay_directory("ria+file:///store", {})


def test_the_line_for_fstab_says_that_changes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    line = fstab_line(MountRequest("/store", "/mnt", (), ("rw",)))
    options = line.split()[3].split(",")
    assert options[0] == "rw"
    assert "overlay=auto" in options
    assert fstab_line(MountRequest("/store", "/mnt", (), ())).split()[3].startswith("ro,")


def test_a_relative_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("riafs", ["mount", str(tmp_path), str(tmp_path), "--overlay", "somewhere"]) == 1
    assert "the absolute path of a directory, auto, or nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "writing"),
    [
        ("-t riafs /store /mnt", False),
        ("-t riafs -o noexec /store /mnt", False),
        ("-a", False),
        ("-t riafs -o rw /store /mnt", True),
        ("-t riafs -o noexec,rw /store /mnt", True),
        ("-t riafs -orw /store /mnt", True),
        ("-t riafs -fno rw /store /mnt", True),
        ("-t riafs --options=rw /store /mnt", True),
        ("-t riafs --options rw /store /mnt", True),
        ("-w -t riafs /store /mnt", True),
        ("--rw -t riafs /store /mnt", True),
        ("--read-write -t riafs /store /mnt", True),
        ("-o rw -r -t riafs /store /mnt", False),
        ("-o log=/rw -t riafs /store /mnt", False),
    ],
)
def test_what_mount_was_told_tells_whether_rw_was_meant(command: str, writing: bool) -> None:
    assert says_writing(command.split()) is writing


@pytest.mark.parametrize(
    ("line", "writing"),
    [
        ("/store /m\\040nt riafs noauto 0 0", False),
        ("/store /m\\040nt riafs defaults 0 0", False),
        ("/store /m\\040nt riafs rw,noauto 0 0", True),
        ("/store /m\\040nt/ riafs noauto,rw", True),
        ("#/store /m\\040nt riafs rw 0 0", False),
        ("/store /other riafs rw 0 0", False),
        ("/store /m\\040nt riafs ro,rw,ro 0 0", False),
        ("/store", False),
    ],
)
def test_the_line_in_fstab_tells_whether_rw_was_meant(line: str, writing: bool, tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text(f"# comment\n\nproc /proc proc defaults 0 0\n{line}\n")
    assert fstab_says_writing("/m nt", str(fstab)) is writing
    assert not fstab_says_writing("/m nt", str(tmp_path / "none"))
