"""The one parser: subcommands and their arguments, from which the manual pages are generated as well.

What a mount can be told comes from the option table of `riafs.settings`; nothing here parses a value. Flags and ``-o``
options are collected in the order given, so that the last one wins whichever way it was written.
"""

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from riafs.cli import mountopts
from riafs.daemon.version import version
from riafs.errors import UsageError
from riafs.settings import LOG_WORDS, OPTIONS, Given, Kind, Option

SOURCE_HELP = (
    "ria+file:///path/to/store or a plain path to a store, optionally with #ID or #~ALIAS for one dataset "
    "and @BRANCH, @TAG or @COMMIT for a version of it"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError, so that mistakes end in one line and mount(8)'s exit status 1."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake."""
        raise UsageError(f"{message} ({self.prog} --help tells more)")


class _Flag(argparse.Action):
    """``--name [VALUE]``: appended to `given` as text."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, option: Option, text: str | None = None, **_default: object
    ) -> None:
        self._option = option
        self._text = text
        shown = f" (default: {option.default})" if option.default and option.kind is not Kind.FLAG else ""
        super().__init__(
            option_strings,
            dest,
            nargs=0 if text is not None else None,
            default=(),
            metavar=option.placeholder,
            help=argparse.SUPPRESS if text == "no" else option.help + shown,
        )

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        text = self._text if self._text is not None else _from_here(self._option, str(values))
        given = Given(self._option.name, text, option_string or self._option.name)
        namespace.given = (*namespace.given, given)


def _from_here(option: Option, text: str) -> str:
    """A path as a shell user means it: from the working directory."""
    if option.kind is Kind.PATH or (option.kind is Kind.LOG and text not in LOG_WORDS):
        return os.path.abspath(text)
    return text


class _MountOptions(argparse.Action):
    """``-o``: riafs' own options are appended to `given`."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        found = mountopts.sort_options([str(values)], sloppy=False)
        namespace.given = (*namespace.given, *found.given)
        namespace.words = (*namespace.words, *found.words)


class _Version(argparse.Action):
    """``--version``; looked up only when asked for, since that costs a tenth of the start-up time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"riafs {version()}")
        parser.exit()


def build_parser() -> Parser:
    """The parser of ``riafs``; `command` in its result is the subcommand's name."""
    parser = Parser(prog="riafs", description="Mount DataLad RIA stores as file systems.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    _add_mount(_command(commands, "mount", "Mount a store or one of its datasets."))
    _add_umount(_command(commands, "umount", "Unmount riafs mounts, also dead ones."))
    _add_status(_command(commands, "status", "Show what is mounted, and how each mount is doing."))
    _add_doctor(_command(commands, "doctor", "Check this machine and, if given, a source; say what to do."))
    _add_config(_command(commands, "config", "Show the settings a mount would have, and where each comes from."))
    _add_install_helper(_command(commands, "install-helper", "Let mount(8) and /etc/fstab know the type riafs."))
    return parser


def _command(commands: "argparse._SubParsersAction[Parser]", name: str, what: str) -> Parser:
    return commands.add_parser(name, help=what, description=what, allow_abbrev=False)


def _add_mount(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("mountpoint", metavar="DIR", help="an existing directory")
    parser.add_argument("--print-fstab", action="store_true", help="print the line for /etc/fstab instead of mounting")
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``-o`` and one flag per row of the option table."""
    parser.set_defaults(given=(), words=())
    parser.add_argument(
        "-o",
        dest="given",
        metavar="OPTION,…",
        action=_MountOptions,
        default=(),
        help="the same options as below as mount(8) writes them: name=value, dashes as underscores; ro, nofail, "
        "_netdev, x-systemd.… and mount(8)'s other words are accepted",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in OPTIONS:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add_flag(groups[option.group], option)


def _add_flag(group: "argparse._ArgumentGroup", option: Option) -> None:
    names = [f"--{option.name}"] if option.name != "foreground" else ["-f", "--foreground"]
    if option.kind is not Kind.FLAG:
        group.add_argument(*names, dest="given", action=_Flag, option=option)
        return
    group.add_argument(*names, dest="given", action=_Flag, option=option, text="yes")
    group.add_argument(f"--no-{option.name}", dest="given", action=_Flag, option=option, text="no")


def _add_umount(parser: Parser) -> None:
    parser.add_argument("directories", metavar="DIR", nargs="*", help="where something is mounted")
    parser.add_argument("--all", action="store_true", help="everything of type riafs that this user may unmount")
    parser.add_argument("--lazy", action="store_true", help="take it out of sight now, and end it with the last file")
    parser.add_argument("--force", action="store_true", help="fail every request that is waiting, then unmount")


def _add_status(parser: Parser) -> None:
    parser.add_argument("directory", metavar="DIR", nargs="?", help="only what is mounted here")
    _add_json(parser)


def _add_doctor(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="?", help=SOURCE_HELP)
    _add_json(parser)


def _add_config(parser: Parser) -> None:
    _add_json(parser)
    add_settings(parser)


def _add_install_helper(parser: Parser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print the commands instead of running them")
    what.add_argument("--remove", action="store_true", help="remove the links again")


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def build_helper_parser() -> Parser:
    """The parser of ``mount.riafs``, with the arguments that mount(8) gives its helpers."""
    parser = Parser(
        prog="mount.riafs",
        description="Mount a RIA store on behalf of mount(8), for 'mount -t riafs' and lines in /etc/fstab.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.set_defaults(options=[])
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("mountpoint", metavar="DIR", help="an existing directory")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="check the arguments and do nothing")
    parser.add_argument("-n", action="store_true", help="accepted: riafs never writes /etc/mtab")
    parser.add_argument("-v", action="store_true", help="accepted: a mount that works has nothing to say")
    parser.add_argument("-r", dest="options", action="append_const", const="ro", help="the same as -o ro")
    parser.add_argument("-w", dest="options", action="append_const", const="rw", help="the same as -o rw")
    parser.add_argument("-N", metavar="NAMESPACE", help="accepted: mount(8) has entered the namespace already")
    parser.add_argument("-t", metavar="TYPE", help="accepted: riafs or fuse.riafs")
    parser.add_argument("-o", dest="options", metavar="OPTION,…", action="append", help="options, see riafs(1)")
    return parser
