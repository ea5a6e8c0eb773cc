"""Options after ``-o``: mount(8)'s comma-separated words, its own and riafs'; and whether its user asked for ``rw``.

mount(8) passes backslashes and double quotes through verbatim (seen with util-linux 2.38), so both are understood here:
a backslash makes the next character plain, double quotes make commas plain. It also gives ``-o rw`` to a helper where
its user did not, so the word alone is no wish to write: it is one where the command line of mount(8) has it, or the
line of /etc/fstab by which it mounts.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from riafs.daemon.mounts import unescaped
from riafs.errors import UsageError
from riafs.options import OPTIONS, Kind
from riafs.settings import Given, find_option

# Options of /etc/fstab that mount(8) and systemd use themselves, or that a mount which is nosuid and nodev by
# nature satisfies or overrides. ``dev`` and ``suid`` come from mount.fuse3, which adds them for root.
_GENERIC = re.compile(
    "rw|ro|defaults|remount|default_permissions|_netdev|nofail|loud|silent|strictatime|nostrictatime|async|sync|dirsync"
    "|(no)?(suid|dev|user|users|owner|group|auto|atime|diratime|relatime|lazytime|mand|iversion)"
)
_WORDS = (
    "rw", "ro", "defaults", "remount", "default_permissions", "_netdev", "nofail", "noauto", "auto", "async", "sync",
    "suid", "nosuid", "dev", "nodev", "user", "users", "nouser", "owner", "group", "atime", "noatime", "diratime",
    "nodiratime", "relatime", "norelatime", "exec", "noexec",
)  # fmt: skip
"""Those of mount(8)'s that are worth proposing."""
_GENERIC_WITH_VALUE = frozenset(("comment", "user"))


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options, sorted: riafs' own, and the words that are mount(8)'s, each in the order given."""

    given: tuple[Given, ...]
    words: tuple[str, ...]


def split_options(text: str) -> list[str]:
    """The options in `text` with quoting undone. Raises UsageError for a quote or backslash without an end."""
    found: list[str] = []
    current: list[str] = []
    quoted = False
    characters = iter(text)
    for character in characters:
        if character == "\\":
            current.append(_after_backslash(characters, text))
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            found.append("".join(current))
            current.clear()
        else:
            current.append(character)
    if quoted:
        raise UsageError(f"a double quote in -o has no end: {text}")
    found.append("".join(current))
    return [option for option in found if option]


def _after_backslash(characters: Iterable[str], text: str) -> str:
    for character in characters:
        return character
    raise UsageError(f"-o ends in a backslash: {text}")


def quote_option(option: str) -> str:
    """`option` such that `split_options` gives it back whole."""
    return "".join(f"\\{character}" if character in '\\",' else character for character in option)


def sort_options(texts: Iterable[str], *, sloppy: bool) -> MountOptions:
    """Sort the options of one or more ``-o``. Raises UsageError for an unknown one unless `sloppy` (mount -s).

    For a remount mount(8) adds what the kernel's table says of the mount (``user_id=0``), so nothing is unknown there.
    """
    given: list[Given] = []
    words: list[str] = []
    options = [option for text in texts for option in split_options(text)]
    sloppy = sloppy or "remount" in options
    for option in options:
        if is_generic(option):
            words.append(option)
        elif (own := _own_option(option, sloppy=sloppy)) is not None:
            given.append(own)
    return MountOptions(tuple(given), tuple(words))


def wants_writing(words: Iterable[str]) -> bool:
    """Whether the last of ``ro`` and ``rw`` is ``rw``; mount(8) itself gives ``rw`` where its user gave neither."""
    return [word for word in words if word in ("ro", "rw")][-1:] == ["rw"]


def is_read_only(words: Iterable[str]) -> bool:
    """Whether the last of ``ro`` and ``rw`` is ``ro``."""
    return [word for word in words if word in ("ro", "rw")][-1:] == ["ro"]


def is_generic(option: str) -> bool:
    """Whether `option` (``name`` or ``name=value``) is one that riafs accepts and has nothing to do for."""
    name, equals, _ = option.partition("=")
    if name.startswith(("x-", "X-")):
        return True
    return (name in _GENERIC_WITH_VALUE and bool(equals)) or _GENERIC.fullmatch(option) is not None


def _own_option(option: str, *, sloppy: bool) -> Given | None:
    if option == "exec":
        return Given("noexec", "no", "-o exec")
    name, equals, value = option.partition("=")
    try:
        return _flag(name) if not equals else Given(find_option(name).name, value, f"-o {name}")
    except UsageError:
        if sloppy:
            return None
        if _is_option(name):
            raise
        raise UsageError(f"unknown option -o {name}{_nearest(name)}") from None


def _is_option(name: str) -> bool:
    fields = {option.field for option in OPTIONS}
    plain = name.replace("-", "_")
    return plain in fields or plain.removeprefix("no_") in fields


def _nearest(name: str) -> str:
    flags = [option.field for option in OPTIONS if option.kind is Kind.FLAG]
    spellings = [*(option.field for option in OPTIONS), *(f"no_{field}" for field in flags), *_WORDS]
    near = difflib.get_close_matches(name.replace("-", "_"), spellings, 1)
    return f"; did you mean -o {near[0]}?" if near else ""


def _flag(name: str) -> Given:
    """An option without a value: a flag, or its negative, ``no_`` before its name."""
    plain = name.replace("-", "_")
    positive = plain.removeprefix("no_")
    option = find_option(positive)
    if option.kind is not Kind.FLAG:
        raise UsageError(f"-o {name} needs a value: {name}={option.placeholder}")
    return Given(option.name, "yes" if positive == plain else "no", f"-o {name}")


_ANCESTORS = 4
"""mount.fuse3 and a shell may be between mount(8) and riafs."""
_FLAGS = frozenset(("-w", "--rw", "--read-write"))


def asked_for_writing(source: str, directory: str, environment: Mapping[str, str]) -> bool:
    """Whether the user gave ``rw``, or the line of /etc/fstab for `directory`, unless mount(8) was told the source."""
    command = next(_mount_commands(), ())
    if says_writing(command) or source in command:
        return says_writing(command)
    return fstab_says_writing(directory, _fstab(command, environment))


def _fstab(command: Sequence[str], environment: Mapping[str, str]) -> str:
    for option, path in pairwise(command):
        if option in ("-T", "--fstab"):
            return path
    return environment.get("LIBMOUNT_FSTAB", "/etc/fstab")


def says_writing(command: Sequence[str]) -> bool:
    """Whether a command line of mount(8) has ``rw``, ``-w`` or the like, and no ``ro`` after it."""
    words: list[str] = []
    for position, word in enumerate(command):
        following = command[position + 1] if position + 1 < len(command) else ""
        if word in _FLAGS:
            words.append("rw")
        elif word in ("-r", "--read-only"):
            words.append("ro")
        elif word in ("-o", "--options"):
            words += _options(following)
        elif word.startswith("--options="):
            words += _options(word.removeprefix("--options="))
        elif word.startswith("-o"):
            words += _options(word[2:])
        elif word.startswith("-") and not word.startswith("--") and word.endswith("o"):  # as in -fno OPTIONS
            words += _options(following)
    return wants_writing(words)


def fstab_says_writing(directory: str, path: str) -> bool:
    """Whether the line for `directory` in the fstab at `path` has ``rw``; False where that cannot be read."""
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    places = (directory, os.path.realpath(directory))  # those of the file are not looked up: they may hang
    for line in lines:
        fields = line.split()
        is_entry = len(fields) > 3 and not fields[0].startswith(b"#")
        if is_entry and os.path.normpath(unescaped(fields[1])) in places:
            return wants_writing(_options(unescaped(fields[3])))
    return False


def _options(text: str) -> list[str]:
    try:
        return split_options(text)
    except UsageError:  # said where the options are read for good
        return []


def _mount_commands() -> Iterator[Sequence[str]]:
    """The command lines of mount(8) above this process, the nearest first."""
    process = os.getppid()
    for _ in range(_ANCESTORS):
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
            with open(f"/proc/{process}/stat", "rb") as file:
                process = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            return
        if words and os.path.basename(words[0]) == "mount":
            yield words[1:]
