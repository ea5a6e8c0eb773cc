"""Where the password of encrypted archives comes from, and when a file with one is refused."""

from pathlib import Path

import pytest

from riafs.daemon.archivepassword import archive_password
from riafs.errors import UsageError


def password_file(directory: Path, content: bytes, mode: int = 0o600, name: str = "password") -> str:
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("content", "password"), [(b"secret", "secret"), (b"s p\n", "s p"), ("ü\n\n".encode(), "ü\n"), (b"", "")]
)
def test_a_file_holds_the_password(tmp_path: Path, content: bytes, password: str) -> None:
    assert archive_password(password_file(tmp_path, content), {"RIAFS_ARCHIVE_PASSWORD": "other"}) == password


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UsageError, match="mode 0600"):
        archive_password(password_file(tmp_path, b"secret", mode), {})


@pytest.mark.parametrize("content", [b"\xff", b"x" * 5000])
def test_a_file_without_a_password_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError):
        archive_password(password_file(tmp_path, content), {})


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        archive_password(str(tmp_path / name), {})


def test_the_environment_and_systemd_are_asked_in_turn(tmp_path: Path) -> None:
    password_file(tmp_path, b"credential\n", 0o440, "riafs-archive-password")
    systemd = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert archive_password("", {**systemd, "RIAFS_ARCHIVE_PASSWORD": "variable"}) == "variable"
    assert archive_password("", systemd) == "credential"
    assert archive_password("", {}) is None
    assert archive_password("", {"CREDENTIALS_DIRECTORY": str(tmp_path / "missing")}) is None
