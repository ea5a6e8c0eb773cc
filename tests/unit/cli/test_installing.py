"""What comes with an installation: the links for mount(8), the unit, and commands of the README that can be read."""

import shutil
import subprocess
from pathlib import Path

import pytest

from riafs.cli import installhelper, main
from riafs.cli.installhelper import closed_to_others
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
    monkeypatch.setattr(installhelper, "closed_to_others", lambda _: iter(barriers))
    monkeypatch.setattr(installhelper, "installed_program", lambda: "/bin/sh")
    monkeypatch.setattr(installhelper, "DIRECTORY", str(tmp_path))
    assert main.run("riafs", ["install-helper"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == len(barriers)
    assert ("/root is closed to them" in said) == bool(barriers)
    assert (tmp_path / "mount.riafs").readlink() == Path("/bin/sh")
    assert main.run("riafs", ["install-helper", "--remove"]) == 0
    assert not (tmp_path / "mount.riafs").is_symlink()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["riafs@.service", "riafs@lab.service"])
def test_the_unit_passes_systemd_analyze(tmp_path: Path, name: str) -> None:
    shutil.copy(PROJECT / "packaging" / "riafs@.service", tmp_path / name)
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_commands_of_the_readme_are_found() -> None:
    found = commands((PROJECT / "README.md").read_text())
    assert "pipx install ." in found
    assert found[0].startswith("sudo apt install")
    assert found[-1].startswith("sudo rm -rf /opt/riafs")
