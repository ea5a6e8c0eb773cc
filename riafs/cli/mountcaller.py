"""Whether writing was asked of mount(8), which says ``rw`` to its helpers whatever it was asked for.

mount(8) gives ``-o rw`` to a helper also where nobody said so (util-linux 2.38), so the word alone tells nothing. It
was meant where the command line of mount(8) has it, or the line of /etc/fstab that it mounts by.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from riafs.cli.mountopts import split_options, wants_writing
from riafs.daemon.mounts import unescaped
from riafs.errors import UsageError

_ANCESTORS = 4
"""mount.fuse3 and a shell may stand between mount(8) and riafs."""
_FLAGS = frozenset(("-w", "--rw", "--read-write"))


def asked_for_writing(source: str, directory: str, environment: Mapping[str, str]) -> bool:
    """Whether the user said ``rw``; or the line of /etc/fstab for `directory`, unless mount(8) was told the source."""
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
