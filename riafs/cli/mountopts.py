"""What stands after ``-o``: mount(8)'s comma-separated options, in mount(8)'s and riafs' words.

Pure. mount(8) passes backslashes and double quotes through verbatim (seen with util-linux 2.38), so both are understood
here: a backslash makes the next character plain, double quotes make commas plain.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from riafs.errors import UsageError
from riafs.options import OPTIONS, Kind
from riafs.settings import Given, find_option

# Options that mount(8), /etc/fstab and systemd address to somebody else, or that a mount which is nosuid and nodev by
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
    """Whether the last of ``ro`` and ``rw`` is ``rw``; mount(8) itself gives ``rw`` when nobody said either."""
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
