"""Where the token for a cluster comes from, and where it does not go.

Where the password of encrypted archives comes from, and when a file with one is refused.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.daemon import credentials
from riafs.daemon.credentials import ArvadosAccess, archive_password, arvados_access, parse_settings
from riafs.errors import UsageError

HOST = "cluster.example"


def settings(directory: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    """The environment of a user with these settings."""
    path = directory / "arvados" / "settings.conf"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(mode)
    return {"XDG_CONFIG_HOME": str(directory)}


def token_file(directory: Path, content: bytes, mode: int = 0o600, name: str = "token") -> str:
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_variables_win_over_the_settings_file(tmp_path: Path) -> None:
    environment = settings(tmp_path, f"ARVADOS_API_HOST={HOST}\nARVADOS_API_TOKEN=file=1 \n# comment\n\n")
    assert arvados_access(environment, "", HOST).token == "file=1"
    variables = {"ARVADOS_API_TOKEN": "variable", "ARVADOS_API_HOST_INSECURE": "Yes"}
    assert arvados_access({**environment, **variables}, "", HOST) == ArvadosAccess("variable", True, ())


def test_token_file_wins_and_must_be_private(tmp_path: Path) -> None:
    environment = {"ARVADOS_API_TOKEN": "variable"}
    assert arvados_access(environment, token_file(tmp_path, b"v2/own/secret\n"), HOST).token == "v2/own/secret"
    with pytest.raises(UsageError, match="0600") as caught:
        arvados_access(environment, token_file(tmp_path, b"secret", 0o640), HOST)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"a b", b"\xff", b"x" * 5000])
def test_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="token"):
        arvados_access({}, token_file(tmp_path, content), HOST)


def test_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the token"):
        arvados_access({}, str(tmp_path / "none"), HOST)


def test_systemd_credential_is_found(tmp_path: Path) -> None:
    token_file(tmp_path, b"credential\n", 0o440, "arvados-api-token")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert arvados_access(environment, "", HOST).token == "credential"
    assert arvados_access({**environment, "ARVADOS_API_TOKEN": "variable"}, "", HOST).token == "variable"


def test_token_for_one_cluster_is_not_sent_to_another() -> None:
    environment = {"ARVADOS_API_HOST": "other.example", "ARVADOS_API_TOKEN": "t", "ARVADOS_API_HOST_INSECURE": "1"}
    assert arvados_access(environment, "", HOST) == ArvadosAccess(None, False, ())
    assert arvados_access(environment, "", "Other.example:443").token == "t"
    assert arvados_access(environment, "", None).token == "t"


def test_settings_that_others_can_read_are_reported(tmp_path: Path, expected_warnings: object) -> None:
    assert callable(expected_warnings)
    expected_warnings("can be read by others: chmod 600")
    assert arvados_access(settings(tmp_path, "ARVADOS_API_TOKEN=t\n", 0o644), "", HOST).token == "t"


def test_token_is_not_shown() -> None:
    assert "hidden" not in repr(ArvadosAccess("hidden", False, ()))


def test_keep_services_may_be_named() -> None:
    environment = {"ARVADOS_KEEP_SERVICES": "http://a/ http://b/", "ARVADOS_KEEP_PROXY": "http://c/"}
    assert arvados_access(environment, "", HOST).keep_services == ("http://a/", "http://b/")


def test_settings_lines() -> None:
    assert parse_settings("A=1\n#B=2\nno line\nC = x=y  \n") == {"A": "1", "C": " x=y"}


def test_a_settings_file_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("settings.conf: Is a directory; it is left out")
    (tmp_path / "arvados" / "settings.conf").mkdir(parents=True)
    assert credentials._settings_file({"XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": "/nonexistent"}) == {}


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
