"""The one parser: subcommands and their arguments, from which the manual pages are generated as well.

What a mount can be told comes from the option table of `riafs.settings`; nothing here parses a value. Flags and ``-o``
options are collected in the order given, so that the last one wins whichever way it was written.
"""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from riafs.cli import mount_options
from riafs.errors import UsageError
from riafs.options import LOG_WORDS, OPTIONS, Kind, Option
from riafs.settings import Given, version

SOURCE_HELP = (
    "ria+file:///path/to/store, a plain path to a store, or ria+ssh://host/path/to/store, optionally with #ID or "
    "#~ALIAS for one dataset and @BRANCH, @TAG or @COMMIT for a version of it; "
    "keep+file:///volume[,/volume]?manifests=DIR or "
    "keep+https://server[,server]?manifests=DIR for Keep collections, optionally with #NAME for one of them; "
    "arvados://host for a cluster, optionally with #UUID or #HASH for a collection or project of it"
)


_JOINED = re.compile(r"argument (-\w)\b.*: ignored explicit argument '([\w-]+)'")
_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError, so that mistakes end in one line and mount(8)'s exit status 1."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake."""
        if joined := _JOINED.search(message):  # -refresh is read as -r and more
            message = f"unrecognized arguments: {joined[1]}{joined[2]}{self._nearest([joined[1] + joined[2]])}"
        elif choice := _CHOICE.search(message):
            near = difflib.get_close_matches(choice[1], re.findall(r"'([^']+)'", choice[2]), 1)
            message = f"there is no {choice[1]!r} here{f'; did you mean {near[0]}?' if near else ''}"
        raise UsageError(f"{message} ({self.prog} --help tells more)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse has it
        """What is not known is refused by the parser of the subcommand, which knows what may have been meant."""
        known, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}{self._nearest(others)}")
        return known, others

    def _nearest(self, words: Sequence[str]) -> str:
        for word in words:
            plain = word.partition("=")[0].replace("_", "-")
            if plain.startswith("-"):
                near = difflib.get_close_matches("--" + plain.lstrip("-"), self._option_string_actions, 1)
                return f"; did you mean {near[0]}?" if near else ""
        return ""


class _Flag(argparse.Action):
    """``--name [VALUE]``: appended to `given` as text."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, option: Option, text: str | None = None, **_default: object
    ) -> None:
        self._option = option
        self._text = text
        shown = f" (default: {option.default})" if option.default and option.kind is not Kind.FLAG else ""
        shown = shown.replace("%", "%%")  # argparse fills in help texts by the % operator
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
    no_path = LOG_WORDS if option.kind is Kind.LOG else ("",) if option.kind is Kind.FILE else ()
    if option.kind in (Kind.PATH, Kind.LOG, Kind.FILE) and text not in no_path:
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
        found = mount_options.sort_options([str(values)], sloppy=False)
        namespace.given = (*namespace.given, *found.given)
        namespace.words = (*namespace.words, *found.words)


class _Word(argparse.Action):
    """A flag for one of mount(8)'s words: appended to `words`."""

    def __call__(self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        namespace.words = (*namespace.words, self.const)


class _Version(argparse.Action):
    """``--version``; looked up only when asked for, since that costs a tenth of the start-up time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"riafs {version()}")
        parser.exit()


TASKS = (
    ("Look at data", ("mount", "umount", "status", "versions")),
    ("Change data", ("diff", "push", "run", "restore", "overlay")),
    ("Prepare data", ("prefetch", "cache")),
    ("Look after a store", ("verify", "archive", "unarchive")),
    ("Set up and diagnose", ("doctor", "config", "install-helper")),
)
_EXAMPLES = """\
  riafs mount /srv/store /mnt/lab          show a store; then use ls, cp, …
  riafs versions '/srv/store#~study'       list its versions
  riafs umount /mnt/lab

riafs COMMAND --help and the manual page riafs(1) describe each command."""


class _Whole(Parser):
    """The parser of ``riafs`` itself, whose help is a list of the commands by task."""

    def format_help(self) -> str:
        """Called by argparse for ``--help``."""
        commands = next(each for each in self._actions if isinstance(each, argparse._SubParsersAction)).choices
        lines = ["usage: riafs COMMAND …", "", self.description or ""]
        for task, names in TASKS:
            lines += ["", f"{task}:", *(f"  {name:<16} {commands[name].description}" for name in names)]
        return "\n".join([*lines, "", _EXAMPLES, ""])


def build_parser(command: str | None = None) -> Parser:
    """The parser of ``riafs``; `command` in its result is the subcommand's name.

    `command`: the only subcommand whose arguments are wanted; those of all take longer than ``riafs status`` itself.
    """
    parser = _Whole(
        prog="riafs", description="Mount DataLad RIA stores and Keep collections as file systems.", allow_abbrev=False
    )
    parser.set_defaults(verbosity=0)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, description, add_arguments in _commands():
        added = _command(commands, name, description)
        if command in (None, name):
            add_arguments(added)
    return parser


def _commands() -> tuple[tuple[str, str, Callable[[Parser], None]], ...]:
    return (
        ("mount", "Mount a store, a dataset, collections, or a cluster.", _add_mount),
        ("umount", "Unmount riafs mounts, also those whose process was killed.", _add_umount),
        ("status", "Show all mounts, their state and counters.", _add_status),
        ("versions", "List the branches, tags and newest commits of a dataset.", _add_versions),
        ("push", "Turn local changes into a commit in the store.", _add_push),
        ("run", "Run a command in a mount, and push the files that it changed, with a run record.", _add_run),
        ("diff", "List local changes.", _add_diff),
        ("restore", "Drop local changes: the mount shows the version in the store again.", _add_restore),
        ("overlay", "List, move, remove and recover overlays: the directories with local changes.", _add_overlay),
        (
            "prefetch",
            "Read files and trees of mounts ahead, so that they are verified and in the cache.",
            _add_prefetch,
        ),
        ("cache", "Show, check, pin and evict the contents of this user's block cache.", _add_cache),
        ("verify", "Read everything a source holds; report what is damaged or missing.", _add_verify),
        ("doctor", "Check this machine and, if given, a source; give advice for each problem.", _add_doctor),
        ("config", "Show the settings of a mount, and the origin of each.", _add_config),
        ("archive", "Pack a dataset's loose objects into its 7z archive.", _add_archive),
        ("unarchive", "Turn a dataset's archived keys into loose objects again.", _add_unarchive),
        ("install-helper", "Make the type riafs known to mount(8) and /etc/fstab.", _add_install_helper),
    )


def _command(commands: "argparse._SubParsersAction[Parser]", name: str, what: str) -> Parser:
    parser: Parser = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
    parser.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=-1,
        default=argparse.SUPPRESS,
        help="print only results and failures, no progress and no remarks",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action=_Louder,
        default=argparse.SUPPRESS,
        help="print each step; twice: also everything that is logged, for finding faults",
    )
    return parser


class _Louder(argparse.Action):
    """``-v``: one more each time, and one more than nothing after ``-q``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **known: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(option_strings, dest, nargs=0, **known)

    def __call__(self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, max(getattr(namespace, self.dest, 0), 0) + 1)


def _add_mount(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("mountpoint", metavar="DIR", help="an existing directory")
    parser.add_argument("--print-fstab", action="store_true", help="print the line for /etc/fstab instead of mounting")
    for names, word in ((("-r", "--ro", "--read-only"), "ro"), (("-w", "--rw", "--read-write"), "rw")):
        parser.add_argument(
            *names, dest="words", action=_Word, const=word, nargs=0, default=(), help=f"the same as -o {word}"
        )
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
        help="the options below in the form of mount(8): name=value, with underscores for dashes; ro, rw, nofail, "
        "_netdev, x-systemd.… and other options of mount(8) are accepted",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in OPTIONS:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add_flag(groups[option.group], option)


def _add_flag(group: "argparse._ActionsContainer", option: Option) -> None:
    names = [f"--{option.name}"] if option.name != "foreground" else ["-f", "--foreground"]
    if option.kind is not Kind.FLAG:
        group.add_argument(*names, dest="given", action=_Flag, option=option)
        return
    group.add_argument(*names, dest="given", action=_Flag, option=option, text="yes")
    group.add_argument(f"--no-{option.name}", dest="given", action=_Flag, option=option, text="no")


def _add_umount(parser: Parser) -> None:
    parser.add_argument("directories", metavar="DIR", nargs="*", help="the mountpoint (default: list the mounts)")
    parser.add_argument("--all", action="store_true", help="all riafs mounts that this user may unmount")
    parser.add_argument(
        "--lazy", action="store_true", help="detach the directory now; the mount ends when its last file is closed"
    )
    parser.add_argument("--force", action="store_true", help="make all waiting requests fail, then unmount")


def _add_status(parser: Parser) -> None:
    parser.add_argument("directory", metavar="DIR", nargs="?", help="only the mount at this directory")
    _add_json(parser)


def _add_versions(parser: Parser) -> None:
    parser.add_argument(
        "source",
        metavar="PATH|SOURCE",
        help="a file or directory in a mount, to list the commits that changed it; or a dataset or a store as for "
        "riafs mount. Each NAME in the list can be used after the @ of a source, or after the @ of a dataset's "
        "directory in a mount",
    )
    parser.add_argument(
        "-n", "--number", metavar="NUMBER", type=_number, default=10, help="how many commits are listed (default: 10)"
    )
    parser.add_argument("--all", action="store_true", help="also list the internal branches of git-annex")
    _add_json(parser)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
        raise argparse.ArgumentTypeError("takes a number")
    return int(text)


def _add_push(parser: Parser) -> None:
    what = "push only the changes in this file, directory or dataset (also ID or STORE#ID; default: all changes)"
    _add_places(parser, what)
    message = parser.add_mutually_exclusive_group()
    message.add_argument(
        "-m", "--message", metavar="TEXT", default="Changes made in a riafs mount", help="message of the commit"
    )
    message.add_argument("-F", "--message-file", metavar="FILE", help="read the message from a file")
    _add_author(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--branch", metavar="NAME", help="an existing branch to push to (default: the one that is shown)"
    )
    where.add_argument("--as-branch", metavar="NAME", help="make a new branch with the changes")
    conflict = parser.add_mutually_exclusive_group()
    conflict.add_argument("--ours", action="store_true", help="in a conflict, keep the local version of the files")
    conflict.add_argument(
        "--theirs", action="store_true", help="in a conflict, keep the version in the store, and drop the local change"
    )
    parser.add_argument(
        "--unfiltered",
        action="store_true",
        help="push files with a filter attribute (filter=lfs, …) unchanged; riafs runs no filters",
    )
    _add_dry_run(parser)
    _add_json(parser)


def _add_author(parser: Parser) -> None:
    parser.add_argument(
        "--author", metavar="'NAME <ADDRESS>'", help="author of the commit (default: git's user.name and user.email)"
    )


def _add_run(parser: Parser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the directory in a dataset in which the command is run")
    parser.add_argument(
        "words",
        metavar="COMMAND",
        nargs="+",
        help="a program and its arguments, after --; or a single word, which is run by a shell",
    )
    parser.add_argument(
        "-m", "--message", metavar="TEXT", help="message of the commit (default: the beginning of the command)"
    )
    _add_author(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="run the command, push nothing, and print the commit's message"
    )
    _add_json(parser)


def _add_places(parser: Parser, what: str, number: str = "*") -> None:
    parser.add_argument("paths", metavar="PATH", nargs=number, help=what)
    parser.add_argument(
        "--overlay",
        metavar="DIR",
        help="use this overlay, which is not mounted; each PATH is then relative to the root of the source",
    )


def _add_diff(parser: Parser) -> None:
    _add_places(
        parser, "list only changes in this file or directory (default: all in the mount of the working directory)"
    )
    _add_json(parser)


def _add_restore(parser: Parser) -> None:
    _add_places(parser, "a file, a directory or a dataset with all its files", "+")


def _add_overlay(parser: Parser) -> None:
    _add_json(parser)
    parser.set_defaults(action="list")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=False, parser_class=Parser)
    listing = _command(actions, "list", "list the overlays of this user; the same as no action")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    move = _command(actions, "move", "move an overlay that is not mounted")
    remove = _command(actions, "remove", "remove an overlay that is not mounted")
    recover = _command(actions, "recover", "make a damaged overlay usable again, keeping all of its data")
    for action in (move, remove, recover):
        action.add_argument("directory", metavar="DIR", help="an overlay in the list")
    move.add_argument("target", metavar="NEW", help="a path that does not exist yet")
    recover.add_argument(
        "target", metavar="NEW", nargs="?", help="directory for data whose name is lost (default: DIR.recovered)"
    )
    remove.add_argument("--force", action="store_true", help="remove it even if it has changes, which are lost")


def _add_prefetch(parser: Parser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file or directory in a riafs mount")
    parser.add_argument(
        "--jobs", metavar="NUMBER", type=_jobs, default=4, help="how many files are read at the same time (default: 4)"
    )
    _add_json(parser)


def _jobs(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) or int(text) == 0:
        raise argparse.ArgumentTypeError("takes a number from 1 to 99")
    return int(text)


_CACHE_ACTIONS = (
    ("status", "show size, limits and pins; the same as no action"),
    ("verify", "read all blocks and remove damaged ones; exit status 2 if there were any"),
    ("evict", "remove the blocks of files and trees; with --all all blocks; with neither, blocks over the limits"),
    ("pin", "never evict the blocks of files and trees, present and future ones; pinning reads nothing"),
    ("unpin", "allow the blocks of files and trees, with --all of all of them, to be evicted again"),
)


def _add_cache(parser: Parser) -> None:
    _add_json(parser)
    for option in OPTIONS:
        if option.name in ("cache-dir", "cache-size", "cache-min-free"):
            _add_flag(parser, option)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=False, parser_class=Parser)
    for name, what in _CACHE_ACTIONS:
        action = _command(actions, name, what)
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
        if name in ("evict", "pin", "unpin"):
            number = "+" if name == "pin" else "*"
            action.add_argument("paths", metavar="PATH", nargs=number, help="a file or directory in a riafs mount")
        if name in ("evict", "unpin"):
            action.add_argument("--all", action="store_true", help="all blocks; pinned blocks are not evicted")
    parser.set_defaults(given=(), action="status", paths=[], all=False)


_VERIFY_OPTIONS = (
    "deadline",
    "allow-links",
    "archive-dictionary",
    "archive-password-file",
    "token-file",
    "per-server",
    "per-volume",
    "lenient-manifests",
    "follow-k-hints",
)


def _add_verify(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument(
        "--all-replicas",
        action="store_true",
        help="read all copies and count the good ones, instead of stopping at the first good one",
    )
    parser.add_argument(
        "--copies",
        metavar="NUMBER",
        type=_jobs,
        help="how many good copies there should be; implies --all-replicas (default: the number that a collection or "
        "its cluster asks for)",
    )
    parser.add_argument(
        "--jobs",
        metavar="NUMBER",
        type=_jobs,
        default=4,
        help="how many keys or blocks are read at the same time (default: 4)",
    )
    _add_json(parser)
    parser.set_defaults(given=())
    for option in OPTIONS:
        if option.name in _VERIFY_OPTIONS:
            _add_flag(parser, option)


def _add_doctor(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", nargs="?", help=SOURCE_HELP)
    _add_json(parser)


def _add_config(parser: Parser) -> None:
    _add_json(parser)
    add_settings(parser)


def _add_archive(parser: Parser) -> None:
    _add_dataset(parser)
    parser.add_argument("--older", metavar="DAYS", help="only objects whose files are older than this many days")
    parser.add_argument("--larger", metavar="SIZE", help="only objects larger than this (units: K, M, G, T)")
    parser.add_argument("--smaller", metavar="SIZE", help="only objects smaller than this")
    parser.add_argument(
        "--solid-block",
        metavar="SIZE",
        default="16M",
        help="how much content is compressed together (default: 16M); incompressible content is stored unchanged",
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove loose objects after they were read back from the archive"
    )
    _add_dry_run(parser)
    _add_json(parser)


def _add_unarchive(parser: Parser) -> None:
    _add_dataset(parser)
    parser.add_argument(
        "--remove-archive",
        action="store_true",
        help="remove the archive after all its keys were read back from loose objects",
    )
    _add_dry_run(parser)
    _add_json(parser)


def _add_dataset(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a dataset: a store as for riafs mount, with #ID or #~ALIAS")


def _add_dry_run(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="change nothing; show what would be done")


def _add_install_helper(parser: Parser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print the commands instead of running them")
    what.add_argument("--remove", action="store_true", help="remove the links, or the entry in PRUNEFS")
    parser.add_argument(
        "--prunefs",
        action="store_true",
        help="instead of the links, add fuse.riafs to PRUNEFS in /etc/updatedb.conf, so that the daily updatedb of "
        "locate does not walk through mounts",
    )


def _add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def build_helper_parser() -> Parser:
    """The parser of ``mount.riafs``, with the arguments that mount(8) gives its helpers."""
    parser = Parser(
        prog="mount.riafs",
        description="Mount a source of riafs on behalf of mount(8), for 'mount -t riafs' and lines in /etc/fstab.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.set_defaults(options=[])
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("mountpoint", metavar="DIR", help="an existing directory")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="check the arguments and do nothing")
    parser.add_argument("-n", action="store_true", help="accepted: riafs never writes /etc/mtab")
    parser.add_argument("-v", action="store_true", help="print where it was mounted")
    parser.add_argument("-r", dest="options", action="append_const", const="ro", help="the same as -o ro")
    parser.add_argument("-w", dest="options", action="append_const", const="rw", help="the same as -o rw")
    parser.add_argument("-N", metavar="NAMESPACE", help="accepted: mount(8) has entered the namespace already")
    parser.add_argument("-t", metavar="TYPE", help="accepted: riafs or fuse.riafs")
    parser.add_argument("-o", dest="options", metavar="OPTION,…", action="append", help="options, see riafs(1)")
    return parser
