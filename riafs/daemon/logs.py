"""Where a mount's messages go: standard error, its own file, syslog, or nowhere; and the last ones, kept for users.

Invariant: no password, token or signature leaves through a handler that is set up here; redaction comes last.
"""

import json
import logging
import logging.handlers
import os
import re
import sys
import time
from collections import deque
from dataclasses import dataclass
from io import TextIOWrapper

from riafs.errors import RiafsError, StoreDenied, UsageError
from riafs.settings import Settings
from riafs.storage.temporary import private_directory, private_opener

KEPT_LINES = 200
_FILE_BYTES = 10 << 20
_OLD_FILES = 2
_SYSLOG = "/dev/log"
_SECRETS = (
    (re.compile(r"(?<=://)[^/\s@]*@"), "***@"),
    (re.compile(r"(?i)(authorization\s*[:=]\s*)(?:\w+ )?[^\s,;\"']+"), r"\1***"),
    (re.compile(r"(\+A)[0-9a-f]{40}@[0-9a-f]{8}"), r"\1***"),
)


def redact(text: str) -> str:
    """`text` without user and password in URLs, Authorization headers, and the signatures of Keep locators."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class TextFormatter(logging.Formatter):
    """``2026-11-21T03:44:17Z WARNING riafs.tree: message``."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """One message, followed by the lines of its traceback if it has one."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (seconds since the epoch), level, logger, message, and traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class _LastLines:
    """A stream that keeps the first line of each of the last messages; tracebacks are in the log."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)

    def write(self, message: str) -> None:
        self.lines.append(message.partition("\n")[0])


class RecentErrors(logging.StreamHandler[_LastLines]):
    """The last warnings and errors of a mount, one line each: the text of ``.riafs/errors``."""

    def __init__(self) -> None:
        super().__init__(_LastLines())
        self.setLevel(logging.WARNING)
        self.setFormatter(TextFormatter())

    def lines(self) -> tuple[str, ...]:
        """Oldest first."""
        return tuple(self.stream.lines)


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where a mount's log may lie: the directory for logs, and the mountpoint that gives the file its name."""

    directory: str
    mountpoint: str

    @property
    def path(self) -> str:
        """The file for ``log = auto``: the mountpoint as systemd escapes paths, near enough to be recognised."""
        name = self.mountpoint.strip("/").replace("-", "\\x2d").replace("/", "-") or "-"
        return f"{self.directory}/{name}.log"


def set_up(settings: Settings, place: LogPlace) -> RecentErrors:
    """Send all messages where `settings` says. Raises UsageError where a file that was asked for cannot be written."""
    root = logging.getLogger()
    root.setLevel(settings.log_level.upper())
    recent = RecentErrors()
    handler = _handler(settings, place)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    for one in (handler, recent):
        root.addHandler(one)
    logging.captureWarnings(capture=True)
    return recent


def tear_down(recent: RecentErrors) -> None:
    """Take away and close the handlers of `set_up`; what was kept stays readable."""
    root = logging.getLogger()
    for handler in root.handlers[root.handlers.index(recent) - 1 : root.handlers.index(recent) + 1]:
        root.removeHandler(handler)
        handler.close()
    logging.captureWarnings(capture=False)


def _handler(settings: Settings, place: LogPlace) -> logging.Handler:
    if settings.log == "none":
        return logging.NullHandler()
    if settings.log == "syslog":
        return _syslog()
    if settings.log != "auto":
        return _named_file(settings.log)
    return logging.StreamHandler(sys.stderr) if settings.foreground else _own_file(place)


def _own_file(place: LogPlace) -> logging.Handler:
    """The mount's own file; where there can be none, syslog; where there is none either, nothing."""
    try:
        private_directory(place.directory)
        return _file(place.path)
    except (StoreDenied, OSError):
        pass
    try:
        return _syslog()
    except RiafsError:
        return logging.NullHandler()


def _named_file(path: str) -> logging.Handler:
    try:
        return _file(path)
    except OSError as error:
        raise UsageError(f"cannot write the log {path}: {error.strerror}") from error


def _file(path: str) -> logging.Handler:
    return _PrivateFile(path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8")


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """Names of files are in it, so only its user can read it."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, opener=private_opener)


def _syslog() -> logging.Handler:
    if not os.path.exists(_SYSLOG):
        raise UsageError(f"cannot log to syslog: there is no {_SYSLOG}")
    try:
        handler = logging.handlers.SysLogHandler(_SYSLOG, facility=logging.handlers.SysLogHandler.LOG_DAEMON)
    except OSError as error:
        raise UsageError(f"cannot log to syslog: {error.strerror}") from error
    handler.ident = f"riafs[{os.getpid()}]: "
    return handler
