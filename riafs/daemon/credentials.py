"""Secrets that a mount needs, and where they are found: the password of encrypted archives, access to Arvados.

A secret comes from a private file (an option), a variable or a systemd credential. It is never asked for, never in an
argument list and never in a message.

For Arvados the places are those of its own clients: ``ARVADOS_…`` variables win over the first
``arvados/settings.conf`` below ``$CONFIGURATION_DIRECTORY``, ``$XDG_CONFIG_HOME`` and ``$XDG_CONFIG_DIRS``. Before both
comes riafs' own option ``token-file``, between them a systemd credential. A token that was configured for one cluster
is not sent to another.
"""

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from riafs.errors import UsageError

_VARIABLE = "RIAFS_ARCHIVE_PASSWORD"
_OF_ARCHIVES = "riafs-archive-password"
_OF_ARVADOS = "arvados-api-token"
"""Names of systemd credentials."""
_MAX_SECRET = 4096
_MAX_SETTINGS = 1 << 20
_TRUE = frozenset(("1", "t", "true", "y", "yes"))

log = logging.getLogger(__name__)


def archive_password(path: str, environment: Mapping[str, str]) -> str | None:
    """The password in the file `path`, which only the user may read; without a path, the one in the environment or in
    ``$CREDENTIALS_DIRECTORY``; None where there is none. One newline at its end is no part of it. Raises UsageError."""
    if path:
        return _read_password(path, private=True)
    if _VARIABLE in environment:
        return environment[_VARIABLE]
    credential = _systemd_credential(environment, _OF_ARCHIVES)
    return None if credential is None else _read_password(credential, private=False)


def _read_password(path: str, *, private: bool) -> str:
    try:
        return _read_secret(path, "password", private=private).removesuffix(b"\n").decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the password in {path} is not UTF-8") from error


def _systemd_credential(environment: Mapping[str, str], name: str) -> str | None:
    """The path of a credential that systemd has passed to this service; None where it has not."""
    path = os.path.join(environment.get("CREDENTIALS_DIRECTORY", "/nonexistent"), name)
    return path if os.path.exists(path) else None


def _read_secret(path: str, kind: str, *, private: bool) -> bytes:
    """The content of a small file. `private`: refuse a file that other users can read; systemd protects its credentials
    itself, if need be with an access list, which makes the group's bits say more than they mean."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if private and (status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid())):
                raise UsageError(f"{path} holds a {kind}: it must be yours and have mode 0600")
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SECRET:
                raise UsageError(f"{path} is no file with a {kind}")
            return file.read(_MAX_SECRET)
    except OSError as error:
        raise UsageError(f"cannot read the {kind} in {path}: {error.strerror}") from error


# -- Arvados ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArvadosAccess:
    """What requests to a cluster are made with."""

    token: str | None = field(repr=False)
    insecure: bool
    """Whether certificates are not checked (``ARVADOS_API_HOST_INSECURE``)."""
    keep_services: tuple[str, ...]
    """URLs of block servers, where the environment names some instead of the cluster."""


def arvados_access(environment: Mapping[str, str], token_file: str, host: str | None) -> ArvadosAccess:
    """The access to the cluster at `host` (``host[:port]``), None for block servers without a cluster.

    Raises UsageError for a token file that cannot be read, is not the user's alone, or holds no token.
    """
    known = {**_settings_file(environment), **_variables(environment)}
    configured = known.get("ARVADOS_API_HOST", "")
    same = host is None or not configured or _plain(configured) == _plain(host)
    if not same:
        log.info("the token for %s is not used for %s", configured, host)
    services = known.get("ARVADOS_KEEP_SERVICES") or known.get("ARVADOS_KEEP_PROXY") or ""
    return ArvadosAccess(
        token=_token(environment, token_file, known if same else {}),
        insecure=same and known.get("ARVADOS_API_HOST_INSECURE", "").lower() in _TRUE,
        keep_services=tuple(services.split()) if same else (),
    )


def proxies(environment: Mapping[str, str]) -> Mapping[str, str]:
    """``http``, ``https`` → URL of the proxy, ``no`` → hosts without one, as the usual variables have them.

    ``HTTP_PROXY`` in capitals is not looked at: in a web server's program it is what a client sent.
    """
    found = {name: environment.get(f"{name}_proxy") or "" for name in ("http", "https", "no")}
    for name in ("https", "no"):
        found[name] = found[name] or environment.get(f"{name.upper()}_PROXY", "")
    return {name: value for name, value in found.items() if value}


def _plain(host: str) -> str:
    return host.lower().removesuffix(":443")


def _token(environment: Mapping[str, str], token_file: str, known: Mapping[str, str]) -> str | None:
    if token_file:
        return _read_token(token_file, private=True)
    if environment.get("ARVADOS_API_TOKEN") and known:
        return _checked(known["ARVADOS_API_TOKEN"], "ARVADOS_API_TOKEN")
    credential = _systemd_credential(environment, _OF_ARVADOS)
    if credential is not None:
        return _read_token(credential, private=False)
    configured = known.get("ARVADOS_API_TOKEN")
    return _checked(configured, "arvados/settings.conf") if configured else None


def _read_token(path: str, *, private: bool) -> str:
    return _checked(_read_secret(path, "token", private=private).decode("ascii", "replace").strip(), path)


def _checked(token: str, where: str) -> str:
    """A token goes into a header, so it has neither blanks nor line ends."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{where} holds nothing that can be a token")
    return token


# -- the files and variables of Arvados' own clients ------------------------------------------------------------------


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("ARVADOS_") and value}


def _settings_file(environment: Mapping[str, str]) -> dict[str, str]:
    """What the first ``settings.conf`` says; a warning where others may read the token in it."""
    for path in _candidates(environment):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                mode = os.fstat(file.fileno()).st_mode
                found = parse_settings(file.read(_MAX_SETTINGS))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            log.warning("cannot read %s: %s; it is left out", path, error.strerror)
            continue
        if mode & 0o077 and "ARVADOS_API_TOKEN" in found:
            log.warning("%s holds a token and can be read by others: chmod 600 %s", path, path)
        return found
    return {}


def _candidates(environment: Mapping[str, str]) -> Iterator[str]:
    home = environment.get("HOME", "/nonexistent")
    bases = environment.get("CONFIGURATION_DIRECTORY", "").split(":")
    bases.append(environment.get("XDG_CONFIG_HOME") or f"{home}/.config")
    bases += (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    yield from (f"{base}/arvados/settings.conf" for base in bases if base.startswith("/"))


def parse_settings(text: str) -> dict[str, str]:
    """The ``KEY=value`` lines of a ``settings.conf``: no quoting, ``#`` comments, white space at the end is cut.

    A value may hold a ``=``.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith("#"):
            found[name.strip()] = value.rstrip()
    return found
