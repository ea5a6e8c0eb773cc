"""The password of encrypted archives: from a file, a variable or a systemd credential; never asked for, never in an
argument list."""

import os
import stat
from collections.abc import Mapping

from riafs.errors import UsageError

VARIABLE = "RIAFS_ARCHIVE_PASSWORD"
CREDENTIAL = "riafs-archive-password"
_MAX_BYTES = 4096


def archive_password(path: str, environment: Mapping[str, str]) -> str | None:
    """The password in the file `path`, which must be nobody else's; without a path, the one in the environment or in
    ``$CREDENTIALS_DIRECTORY``; None where there is none. One newline at its end is no part of it. Raises UsageError."""
    if path:
        return _read(path, private=True)
    if VARIABLE in environment:
        return environment[VARIABLE]
    credential = os.path.join(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent"), CREDENTIAL)
    return _read(credential, private=False) if os.path.exists(credential) else None


def _read(path: str, *, private: bool) -> str:
    """systemd sees to it itself that nobody else reads its credentials, with an access list where it has to."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if private and (status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid())):
                raise UsageError(f"{path} holds a password: it must be yours and have mode 0600")
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                raise UsageError(f"{path} is no file with a password")
            return file.read(_MAX_BYTES).removesuffix(b"\n").decode()
    except OSError as error:
        raise UsageError(f"cannot read the password of archives in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the password in {path} is not UTF-8") from error
