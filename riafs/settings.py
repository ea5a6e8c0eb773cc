"""What a mount is set to: one table of options, four sources, one frozen value.

Owns what the values of `riafs.options` are and the order in which they win: ``/etc/riafs/config.toml``,
``$XDG_CONFIG_HOME/riafs/config.toml``, ``RIAFS_*``, then flags and ``-o`` options in the order they were given.
The only reader of ``os.environ``. Values are kept as text until they have won, so each is parsed in one way only.
Programs that mount(8) starts may have neither HOME nor PATH; `complete_environment` fills in both.
"""

import math
import os
import pwd
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from riafs.errors import UsageError
from riafs.options import LOG_WORDS, OPTIONS, Kind, Option

Value = bool | int | float | str | tuple[str, ...]

FALLBACK_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEM_CONFIG = "/etc/riafs/config.toml"
MAX_CONFIG_BYTES = 1 << 20
MAX_SIZE = 1 << 60
AUTO = "auto"
MAX_ID = 2**32 - 2  # (uid_t)-1 means "no user" to the kernel


_PREFIX = "RIAFS_"
_NO_OPTIONS = ("RIAFS_ARCHIVE_PASSWORD", "RIAFS_SOURCE", "RIAFS_MOUNTPOINT")
_NEARLY = 0.85
_BY_FIELD = {option.field: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a mount runs with. One field per row of `OPTIONS`; sizes in bytes, durations in seconds, shares in per
    cent."""

    allow_other: bool
    allow_root: bool
    uid: int
    gid: int
    file_mode: int
    dir_mode: int
    overlay: str
    """Where changes are kept; empty for a mount that is only read."""
    allow_links: tuple[str, ...]
    """Directories outside of a store that links in it may lead into."""
    noexec: bool
    refresh: float
    verify: str
    checkout: bool
    times: str
    cache_dir: str
    cache_size: int
    cache_min_free: float
    cache_memory: int
    block_size: int
    archive_dictionary: int
    archive_password_file: str
    token_file: str
    per_server: int
    per_volume: int
    keep_memory: int
    lenient_manifests: bool
    follow_k_hints: bool
    readahead: int
    deadline: float
    ssh_command: str
    foreground: bool
    auto_unmount: bool
    log: str
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True)
class Given:
    """The text given for an option, and its origin: a file, a variable, or the command line."""

    name: str
    text: str
    origin: str


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings, and for each option in the table's order the text that won and where it came from."""

    settings: Settings
    winners: tuple[Given, ...]


@dataclass(frozen=True, slots=True)
class Directories:
    """Where a user's mounts keep things on this machine. Nothing here exists before it is needed."""

    cache: str
    runtime: str
    log: str


def find_option(name: str) -> Option:
    """The option of that name, dashes and underscores being equal. Raises UsageError with the nearest name."""
    option = _BY_FIELD.get(name.replace("-", "_"))
    if option is None:
        raise UsageError(f"unknown option {name!r}{_nearest(name)}")
    return option


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name.replace("-", "_"), _BY_FIELD, n=1)
    return f"; did you mean {_BY_FIELD[near[0]].name!r}?" if near else ""


def load(environment: Mapping[str, str], given: Iterable[Given]) -> Effective:
    """The settings that win. Raises UsageError for an unknown key, a bad value, or options that exclude each other.

    `given` is the command line's, later ones over earlier ones.
    """
    won = {option.field: Given(option.name, _default(option, environment), "default") for option in OPTIONS}
    for one in _all_given(environment, given):
        option = find_option(one.name)
        parse_value(option, one)  # what loses must be right as well, or it surprises later
        won[option.field] = _added(won[option.field], one) if option.kind is Kind.PATHS else one
    values: dict[str, Any] = {name: parse_value(_BY_FIELD[name], one) for name, one in won.items()}
    settings = Settings(**values)
    _check_together(settings)
    return Effective(settings, tuple(won[field.name] for field in fields(Settings)))


def _added(before: Given, given: Given) -> Given:
    """What a repeatable option comes to when it is given once more."""
    texts = [before.text, given.text] if before.text and given.text else [given.text]
    return Given(given.name, ":".join(texts), given.origin)


def _all_given(environment: Mapping[str, str], given: Iterable[Given]) -> Iterator[Given]:
    yield from read_config(SYSTEM_CONFIG)
    yield from _own_config(environment)
    yield from _in_variables(environment)
    yield from given


def _own_config(environment: Mapping[str, str]) -> list[Given]:
    """What the user's own file says. A mount does not depend on a home that cannot be read: then it is left out."""
    path = user_config(environment)
    try:
        return read_config(path)
    except UsageError as error:
        if isinstance(error.__cause__, OSError):
            import logging  # needed for nothing else: commands that ask a mount start quickly

            logging.getLogger(__name__).warning("%s; it is left out", error)
            return []
        raise


def _in_variables(environment: Mapping[str, str]) -> Iterator[Given]:
    """What ``RIAFS_*`` variables say. One that is nearly an option's is a mistake, others are ignored."""
    known = {option.variable: option for option in OPTIONS}
    for name, text in environment.items():
        if name in known:
            yield Given(known[name].name, text, name)
        elif name.startswith(_PREFIX) and name not in _NO_OPTIONS:
            import difflib

            near = difflib.get_close_matches(name, known, 1, _NEARLY)
            if near:
                raise UsageError(f"the variable {name} is no option; did you mean {near[0]}?")


def _default(option: Option, environment: Mapping[str, str]) -> str:
    if option.default is not None:
        return option.default
    found = {"uid": str(os.getuid()), "gid": str(os.getgid())}
    return found[option.name] if option.name in found else directories(environment).cache


def _check_together(settings: Settings) -> None:
    if settings.allow_other and settings.allow_root:
        raise UsageError("allow-other and allow-root exclude each other")
    if settings.allow_other and os.getuid() not in (0, settings.uid):
        raise UsageError("allow-other with another user's uid is for root only")


# -- values -----------------------------------------------------------------------------------------------------------

_WORDS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
_SIZE = re.compile(r"([0-9]{1,19})([kKmMgGtT]?)", re.ASCII)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_NUMBER = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?", re.ASCII)


def parse_value(option: Option, given: Given) -> Value:
    """The value of `given`. Raises UsageError that names the option, its origin and what it takes."""
    readers = {
        Kind.FLAG: _read_flag,
        Kind.SIZE: _read_size,
        Kind.SECONDS: _read_number,
        Kind.PERCENT: _read_percent,
        Kind.PATH: _read_path,
        Kind.CHOICE: _read_choice,
        Kind.ID: _read_id,
        Kind.COUNT: _read_count,
        Kind.MODE: _read_mode,
        Kind.LOG: _read_log,
        Kind.FILE: _read_file,
        Kind.OVERLAY: _read_overlay,
        Kind.PATHS: _read_paths,
        Kind.COMMAND: _read_command,
    }
    value = readers[option.kind](option, given.text)
    if value is None:
        raise UsageError(f"{option.name} ({given.origin}) takes {_taken(option)}, not {given.text!r}")
    return value


def _taken(option: Option) -> str:
    low, high = option.bounds
    return {
        Kind.FLAG: "yes or no",
        Kind.SIZE: "a number of bytes, or one with K, M, G or T" + _size_bounds(option),
        Kind.SECONDS: f"a number of seconds from {low:g} to {high:g}",
        Kind.PERCENT: f"a share from {low:g}% to {high:g}%",
        Kind.PATH: "the absolute path of a directory",
        Kind.CHOICE: " or ".join(option.choices),
        Kind.ID: "a number",
        Kind.COUNT: f"a number from {low:g} to {high:g}",
        Kind.MODE: "an octal mode up to 777",
        Kind.LOG: "auto, syslog, none or the absolute path of a file",
        Kind.FILE: "the absolute path of a file, or nothing",
        Kind.OVERLAY: "the absolute path of a directory, auto, or nothing",
        Kind.COMMAND: "a program and its arguments, quoted as for a shell",
        Kind.PATHS: "absolute paths of directories with : between (one in a path is written \\:), or nothing",
    }[option.kind]


def _size_bounds(option: Option) -> str:
    low, high = option.bounds
    return "" if math.isinf(high) else f", from {low:.0f} to {high:.0f} bytes"


def _read_flag(_option: Option, text: str) -> bool | None:
    return _WORDS.get(text.lower())


def _read_size(option: Option, text: str) -> int | None:
    low, high = option.bounds
    found = _SIZE.fullmatch(text)
    size = int(found[1]) << _SHIFT[found[2].lower()] if found else MAX_SIZE + 1
    return size if low <= size <= min(high, MAX_SIZE) else None


def _read_number(option: Option, text: str) -> float | None:
    low, high = option.bounds
    return float(text) if _NUMBER.fullmatch(text) and low <= float(text) <= high else None


def _read_percent(option: Option, text: str) -> float | None:
    return _read_number(option, text.removesuffix("%"))


def _read_path(_option: Option, text: str) -> str | None:
    return os.path.normpath(text) if text.startswith("/") and "\0" not in text else None


def _read_choice(option: Option, text: str) -> str | None:
    return text if text in option.choices else None


def _read_id(_option: Option, text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) and int(text) <= MAX_ID else None


def _read_count(option: Option, text: str) -> int | None:
    low, high = option.bounds
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) and low <= int(text) <= high else None


def _read_mode(_option: Option, text: str) -> int | None:
    found = re.fullmatch(r"(?:0o?)?([0-7]{1,3})", text, re.ASCII)
    return int(found[1], 8) if found else None


def _read_log(option: Option, text: str) -> str | None:
    return text if text in LOG_WORDS else _read_path(option, text)


def _read_file(option: Option, text: str) -> str | None:
    return text if not text else _read_path(option, text)


def _read_overlay(option: Option, text: str) -> str | None:
    return text if text in ("", AUTO) else _read_path(option, text)


def _read_paths(option: Option, text: str) -> tuple[str, ...] | None:
    paths = [_read_path(option, part.replace("\\:", ":")) for part in re.split(r"(?<!\\):", text) if part]
    return tuple(dict.fromkeys(path for path in paths if path is not None)) if None not in paths else None


def _read_command(_option: Option, text: str) -> str | None:
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    return text if words and text.isprintable() and not words[0].startswith("-") else None


def show_value(option: Option, value: Value) -> str:
    """The text that `parse_value` reads as `value`."""
    if option.kind is Kind.FLAG:
        return "yes" if value else "no"
    if option.kind is Kind.MODE:
        return f"{value:03o}"
    if option.kind is Kind.PERCENT:
        return f"{value:g}%"
    if isinstance(value, tuple):
        return ":".join(path.replace(":", "\\:") for path in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_settings(settings: Settings) -> dict[str, str]:
    """Option name → text that reads as its value, in the table's order."""
    return {option.name: show_value(option, getattr(settings, option.field)) for option in OPTIONS}


def typed_settings(settings: Settings) -> dict[str, bool | int | float | str | list[str]]:
    """Option name → value as JSON has it: sizes in bytes, durations in seconds, shares in per cent; modes as text."""
    return {option.name: _typed(option, getattr(settings, option.field)) for option in OPTIONS}


def _typed(option: Option, value: Value) -> bool | int | float | str | list[str]:
    if isinstance(value, tuple):
        return list(value)
    return show_value(option, value) if option.kind is Kind.MODE else value


# -- files ------------------------------------------------------------------------------------------------------------


def read_config(path: str) -> list[Given]:
    """The options of one ``config.toml``; none where there is no such file. Raises UsageError."""
    import tomllib

    try:
        with open(path, "rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise UsageError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        table = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    return [Given(name, _toml_text(path, name, value), path) for name, value in table.items()]


def _toml_text(path: str, name: str, value: object) -> str:
    option = find_option_in(path, name)
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if option.kind is Kind.MODE:
            return f"{value:o}"  # TOML's own 0o555
        case int() | float():
            return str(value)
        case str():
            return value
        case list() if option.kind is Kind.PATHS and all(isinstance(each, str) for each in value):
            return ":".join(each.replace(":", "\\:") for each in value)
    raise UsageError(f"{path}: {name} takes {_taken(option)}")


def find_option_in(path: str, name: str) -> Option:
    """`find_option`, with the file named in the failure."""
    try:
        return find_option(name)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


# -- this machine -----------------------------------------------------------------------------------------------------


def version() -> str:
    """The version of riafs from the package's metadata, or ``unknown`` where it runs without having been installed."""
    from importlib import metadata  # a tenth of a command's start-up time

    try:
        return metadata.version("riafs")
    except metadata.PackageNotFoundError:
        return "unknown"


def complete_environment() -> Mapping[str, str]:
    """The environment, with PATH and HOME where mount(8) left them out (seen with util-linux 2.38).

    PATH is set for this process too, since programs are looked up by it.
    """
    if not os.environ.get("PATH"):
        os.environ["PATH"] = FALLBACK_PATH
    environment = dict(os.environ)
    if not environment.get("HOME"):
        home = _home()
        if home is not None:
            os.environ["HOME"] = environment["HOME"] = home
    return environment


def _home() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def user_config(environment: Mapping[str, str]) -> str:
    """The path of the user's own ``config.toml``, whether it exists or not."""
    configured = environment.get("XDG_CONFIG_HOME", "")
    base = configured if configured.startswith("/") else f"{environment.get('HOME', '/nonexistent')}/.config"
    return f"{base}/riafs/config.toml"


def directories(environment: Mapping[str, str]) -> Directories:
    """Where this user's mounts keep things: the system's places for root, the user's own (XDG) for others."""
    if os.getuid() == 0:
        return Directories(cache="/var/cache/riafs", runtime="/run/riafs", log="/var/log/riafs")
    runtime = runtime_directory(os.getuid(), environment)
    if not environment.get("HOME", "").startswith("/"):
        return Directories(cache=f"{runtime}/cache", runtime=runtime, log=f"{runtime}/log")
    import platformdirs

    dirs = platformdirs.PlatformDirs("riafs")
    return Directories(cache=dirs.user_cache_dir, runtime=runtime, log=dirs.user_log_dir)


def overlays_directory(environment: Mapping[str, str]) -> str:
    """The default directory for overlays. Raises UsageError where this user has no directory that lasts."""
    if os.getuid() == 0:
        place = "/var/lib/riafs"
    elif environment.get("HOME", "").startswith("/"):
        import platformdirs

        place = platformdirs.PlatformDirs("riafs").user_data_dir
    else:
        raise UsageError("this user has no home directory to keep changes in; name a directory with --overlay DIR")
    return f"{place}/overlays"


def overlay_directory(source: str, environment: Mapping[str, str]) -> str:
    """The default overlay for `source`, in its full form. Raises UsageError where this user has no directory that
    lasts.
    """
    import hashlib  # it loads OpenSSL, which commands that ask a mount can do without

    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", source.rpartition("/")[2])[:40].strip("-.")
    return f"{overlays_directory(environment)}/{readable}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:12]}"


def runtime_directory(uid: int, environment: Mapping[str, str]) -> str:
    """Where the control sockets of that user's mounts lie."""
    if uid == 0:
        return "/run/riafs"
    own = environment.get("XDG_RUNTIME_DIR", "")
    if uid == os.getuid() and own.startswith("/"):
        return f"{own}/riafs"
    login = f"/run/user/{uid}"
    return f"{login}/riafs" if os.path.isdir(login) else f"/tmp/riafs-{uid}"  # noqa: S108 - checked where it is made
