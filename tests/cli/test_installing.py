"""What comes with an installation: the links for mount(8), the unit, and commands of the README that can be read."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from riafs.cli import install_helper, main
from riafs.cli.install_helper import closed_to_others, with_prunefs
from riafs.daemon.mountpoint import unmount
from riafs.daemon.mounts import Mount
from riafs.errors import MountpointError, UsageError
from tests.docs.installing import commands
from tests.fuse.mounting import PROJECT


def test_what_others_cannot_reach_is_found(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    program = tmp_path / "real" / "riafs"
    program.write_text("")
    (tmp_path / "bin").symlink_to("real")

    def closed(path: Path) -> list[Path]:
        return [
            Path(found) for found in closed_to_others(str(path)) if Path(found) not in (tmp_path, *tmp_path.parents)
        ]

    assert closed(tmp_path / "bin" / "riafs") == [tmp_path / "bin", tmp_path / "real"]
    (tmp_path / "real").chmod(0o755)
    assert closed(program) == []
    program.chmod(0o640)
    assert closed(program) == [program]
    assert not list(closed_to_others("/bin/sh"))


@pytest.mark.parametrize("barriers", [[], ["/root"]])
def test_install_helper_warns_where_others_cannot_reach_riafs(
    barriers: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install_helper, "closed_to_others", lambda _: iter(barriers))
    monkeypatch.setattr(install_helper, "installed_program", lambda: "/bin/sh")
    monkeypatch.setattr(install_helper, "DIRECTORY", str(tmp_path))
    assert main.run("riafs", ["install-helper"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == len(barriers)
    assert ("/root is closed to other users" in said) == bool(barriers)
    assert (tmp_path / "mount.riafs").readlink() == Path("/bin/sh")
    assert main.run("riafs", ["install-helper", "--remove"]) == 0
    assert not (tmp_path / "mount.riafs").is_symlink()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["riafs@.service", "riafs@lab.service"])
def test_the_unit_passes_systemd_analyze(tmp_path: Path, name: str) -> None:
    shutil.copy(PROJECT / "packaging" / "riafs@.service", tmp_path / name)
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands_of_the_page_on_installing_are_found() -> None:
    found = commands((PROJECT / "docs/use/installing.md").read_text())
    assert "pipx install ." in found
    assert found[0].startswith("sudo apt install")
    assert found[-1].startswith("sudo rm -rf /opt/riafs")


@pytest.mark.parametrize(
    ("without", "having"),
    [
        ('PRUNEFS="NFS nfs"\n', 'PRUNEFS="NFS nfs fuse.riafs"\n'),
        ('# PRUNEFS="x"\n PRUNEFS = "nfs"\nNAME="/tmp"', '# PRUNEFS="x"\n PRUNEFS = "nfs fuse.riafs"\nNAME="/tmp"'),
        ('PRUNEFS=""\n', 'PRUNEFS="fuse.riafs"\n'),
    ],
)  # fmt: skip
def test_prunefs_gets_the_type_and_loses_it_again(without: str, having: str) -> None:
    assert with_prunefs(without, present=True) == with_prunefs(having, present=True) == having
    assert with_prunefs(having, present=False) == with_prunefs(without, present=False) == without


def test_prunefs_is_added_where_there_is_none_and_left_alone_where_it_is_odd() -> None:
    assert with_prunefs('PRUNEPATHS="/tmp"', present=True) == 'PRUNEPATHS="/tmp"\nPRUNEFS = "fuse.riafs"\n'
    assert with_prunefs("", present=False) == ""
    with pytest.raises(UsageError, match="left alone"):
        with_prunefs("PRUNEFS=nfs\n", present=True)


def test_install_helper_changes_the_configuration_of_updatedb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = tmp_path / "updatedb.conf"
    monkeypatch.setattr(install_helper, "UPDATEDB", str(configuration))
    assert main.run("riafs", ["install-helper", "--prunefs"]) == 0
    assert "there is no" in capsys.readouterr().err
    assert not configuration.exists()
    configuration.write_text('PRUNEFS="nfs"\n')
    configuration.chmod(0o640)
    assert main.run("riafs", ["install-helper", "--prunefs"]) == 0
    assert configuration.read_text() == 'PRUNEFS="nfs fuse.riafs"\n'
    assert configuration.stat().st_mode & 0o777 == 0o640
    assert main.run("riafs", ["install-helper", "--prunefs", "--remove"]) == 0
    assert configuration.read_text() == 'PRUNEFS="nfs"\n'
    assert list(tmp_path.iterdir()) == [configuration]


def test_another_user_s_mount_is_said_to_be_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    mount = Mount("/mnt/x", "0:99", "fuse.riafs", "/store", 54321, writable=False)
    with pytest.raises(MountpointError, match=r"/mnt/x is the mount of uid 54321: only that user and root"):
        unmount(mount)
    with pytest.raises(MountpointError, match="the mount of user root"):
        unmount(replace(mount, owner=0))
