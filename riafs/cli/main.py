"""The command ``riafs``, and ``mount.riafs`` by its other name.

Owns the exit status, which has mount(8)'s bits, and the rule that a failure is one line on standard error. Imports of a
subcommand happen when it is chosen: an automount waits for them.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from riafs.cli.render import printable
from riafs.errors import RiafsError, UsageError

if TYPE_CHECKING:
    import argparse

COMMANDS = {
    "mount": "mount:run",
    "umount": "umount:run",
    "status": "status:run",
    "versions": "versions:run",
    "push": "push:run",
    "run": "run:run",
    "diff": "changes:run_diff",
    "restore": "changes:run_restore",
    "overlay": "overlay:run",
    "prefetch": "prefetch:run",
    "cache": "cache:run",
    "verify": "verify:run",
    "doctor": "doctor:run",
    "config": "config:run",
    "archive": "archive:run_archive",
    "unarchive": "archive:run_unarchive",
    "install-helper": "install_helper:run",
}
"""The module below riafs.cli and the function of each."""
HELPERS = ("mount.riafs", "mount.fuse.riafs")
LOUDNESS = ("-q", "--quiet", "-v", "--verbose", "-vv")
_GLOBAL = ("--version", "--help", "-h")
_BUG, _INTERRUPTED = 4, 8


def main() -> int:
    """The entry point: run the command line of this process and return its exit status."""
    return run(sys.argv[0], sys.argv[1:])


def run(program: str, words: Sequence[str]) -> int:
    """Run `words` under the name `program`; every failure becomes a line on standard error and an exit status."""
    try:
        return _dispatch(os.path.basename(program), words)
    except RiafsError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to flush at exit
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence of a command
        complain(f"internal error: {type(error).__name__}: {error} (-vv shows where)")
        if "debug" in " ".join(words) or "-vv" in words:
            import traceback

            traceback.print_exc()
        return _BUG


def complain(message: str) -> None:
    """One line on standard error, whatever `message` has in it."""
    print("riafs:", printable(" ".join(message.split())), file=sys.stderr)


def _dispatch(program: str, words: Sequence[str]) -> int:
    if program in HELPERS:
        return int(importlib.import_module("riafs.cli.mount").run_helper(words))
    from riafs.cli import parser

    if not words:
        print(parser.build_parser("").format_help(), end="")
        return 0
    completed = with_command(words)
    try:
        chosen = completed[0] if completed[0] in COMMANDS else ""  # none for --help
        arguments = parser.build_parser(chosen).parse_args(completed)
    except UsageError as error:
        if "run" in completed[:1] and "--" not in completed:
            raise UsageError(f"{error}; a command with options of its own goes behind --") from error
        raise
    arguments.by_mount = not names_a_command(words)  # so does mount.fuse3
    module, _, function = COMMANDS[arguments.command].partition(":")
    run_command = getattr(importlib.import_module(f"riafs.cli.{module}"), function)
    with _told(arguments):
        return int(run_command(arguments))


@contextmanager
def _told(arguments: "argparse.Namespace") -> Iterator[None]:
    """With ``--verbose`` what the program logs comes to standard error too; a mount has a log of its own."""
    if arguments.verbosity <= 0 or arguments.command == "mount":
        yield
        return
    import logging

    logger, handler = logging.getLogger("riafs"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("riafs: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if arguments.verbosity > 1 else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def names_a_command(words: Sequence[str]) -> bool:
    """Whether `words` begin with a subcommand, or with how much is told and a subcommand."""
    return any(word in COMMANDS for word in words[: 2 if words and words[0] in LOUDNESS else 1])


def with_command(words: Sequence[str]) -> Sequence[str]:
    """`words`, led by ``mount`` where no subcommand is named: mount.fuse3 runs ``riafs SOURCE DIR -o …``.

    Raises UsageError for a word that is neither a command nor can be a source.
    """
    if words and words[0] == "help":
        return [*words[1:2], "--help"]
    if names_a_command(words) and words[0] in LOUDNESS:
        return [words[1], words[0], *words[2:]]
    if not words or words[0] in COMMANDS or words[0] in _GLOBAL:
        return words
    if not (words[0].startswith("-") or any(mark in words[0] for mark in "/:#") or os.path.exists(words[0])):
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        raise UsageError(f"there is no command {words[0]}{f'; did you mean {near[0]}?' if near else ''} (riafs --help)")
    return ["mount", *words]


if __name__ == "__main__":
    sys.exit(main())
