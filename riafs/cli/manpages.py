"""The manual pages ``man/riafs.1`` and ``man/mount.riafs.8``, from the parsers.

``python -m riafs.cli.manpages DIR`` writes them, with ``--check`` it only says whether they are up to date. What the
parsers do not know (files, exit status, examples) is in this module. The text is the same on every machine and day.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from riafs.cli.parser import build_helper_parser, build_parser
from riafs.options import OPTIONS, Kind

_EXIT_STATUS = (
    ("0", "success"),
    ("1", "wrong usage, unknown option, malformed source, or no permission"),
    ("2", "a system error"),
    ("4", "a bug in riafs"),
    ("8", "interrupted"),
    ("16", "the same paths were changed here and in the store: nothing was pushed"),
    ("32", "the mount failed, or a store, dataset, version or mountpoint was not found"),
    ("64", "some of several unmounts succeeded; some of several keys were damaged and left out"),
)
_FILES = (
    ("/etc/riafs/config.toml, $XDG_CONFIG_HOME/riafs/config.toml", "settings; each option's name is a key"),
    ("RIAFS_OPTION", "environment variables, such as RIAFS_CACHE_DIR; they override files and are overridden by flags"),
    ("ARVADOS_API_TOKEN, arvados/settings.conf", "the token for an Arvados cluster, as the Arvados clients find it"),
    ("/var/log/riafs, or log below the user's state or cache directory", "one log for each mount"),
    (
        "/var/lib/riafs/overlays, or riafs/overlays below the user's data directory",
        "overlays: local changes, see riafs overlay",
    ),
    ("/var/cache/riafs, or the user's cache directory", "the block cache and the record of verified content"),
    ("DIR/.riafs/stats, errors, config", "counters, last errors and settings of a mount; .riafs is not listed by ls"),
    ("DIR/.riafs/versions", "the branches, tags and newest commits of datasets, as directories"),
)
_MOUNT_EXAMPLES = (
    "riafs mount ria+file:///data/store /mnt/lab",
    "riafs mount '/data/store#~hcp@v1.2' /mnt/hcp -o allow_other,refresh=60",
    "riafs mount 'keep+file:///keep0,/keep1?manifests=/data/manifests' /mnt/keep",
    "riafs mount arvados://cluster.example.org /mnt/cluster",
    "riafs versions '/data/store#~hcp'",
    "riafs prefetch /mnt/lab/hcp/sub-01",
    "riafs cache pin /mnt/lab/hcp/sub-01",
    "riafs umount /mnt/lab",
    "riafs mount '/data/store#~hcp' /mnt/hcp -o rw",
    "riafs push /mnt/hcp -m 'New scans'",
    "riafs run /mnt/hcp -m 'Smoothed' -- code/smooth.sh raw/t1.nii.gz smooth.nii.gz",
    "riafs archive '/data/store#~hcp' --older 90 --prune --dry-run",
)
_HELPER_EXAMPLES = (
    "mount -t riafs ria+file:///data/store /mnt/lab -o allow_other",
    "ria+file:///data/store  /srv/lab  riafs  ro,noauto,nofail,x-systemd.automount,allow_other  0  0",
)


def main(words: Sequence[str]) -> int:
    """Write or check the pages; exit status 1 if a checked one is not up to date."""
    parser = argparse.ArgumentParser(prog="python -m riafs.cli.manpages", description="Write the manual pages.")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is not up to date")
    arguments = parser.parse_args(words)
    handle = _is_current if arguments.check else _write
    results = [handle(os.path.join(arguments.directory, name), text) for name, text in pages().items()]
    return int(not all(results))


def pages() -> dict[str, str]:
    """File name → text in man(7) macros."""
    return {"riafs.1": _page(_riafs), "mount.riafs.8": _page(_mount_riafs)}


def _write(path: str, text: str) -> bool:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _is_current(path: str, text: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            current = file.read() == text
    except FileNotFoundError:
        current = False
    if not current:
        print(f"{path} is not up to date: python -m riafs.cli.manpages {os.path.dirname(path)}", file=sys.stderr)
    return current


def _page(lines: Callable[[], Iterable[str]]) -> str:
    return "\n".join(lines()) + "\n"


def _riafs() -> Iterator[str]:
    parser = build_parser()
    yield from _head("riafs", "1", "mount DataLad RIA stores and Keep collections as file systems")
    commands = _commands("", parser)
    yield ".SH SYNOPSIS"
    for name, command in commands.items():
        yield from _synopsis(f"riafs {name}", command)
    yield ".SH DESCRIPTION"
    yield _text(
        "riafs shows a RIA store, DataLad's store of git-annex datasets, as a directory tree. Nothing is cloned or "
        "copied: bytes are read from the store when a program reads them, and checked against the checksum of their "
        "key. A mount is read-only unless it is made with -o rw or --overlay: then programs can change files, the "
        "changes are kept on this machine, and riafs push makes a commit of them in the store. Collections of Keep are "
        "shown read-only: from manifests, with the blocks in volumes or on block servers, or from an Arvados cluster."
    )
    for name, command in commands.items():
        yield f'.SH "RIAFS {_text(name.upper())}"'
        yield _text(command.description or "")
        yield from _arguments(command)
    yield from _named("EXIT STATUS", _EXIT_STATUS)
    yield from _named("FILES AND ENVIRONMENT", _FILES)
    yield from _examples(_MOUNT_EXAMPLES)
    yield from _see("mount.riafs (8), datalad (1), git-annex (1)")


def _commands(prefix: str, parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of `parser` by their whole names, each before its own subcommands."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found |= {prefix + name: command, **_commands(f"{prefix}{name} ", command)}
    return found


def _mount_riafs() -> Iterator[str]:
    parser = build_helper_parser()
    yield from _head("mount.riafs", "8", "mount a source of riafs on behalf of mount(8)")
    yield ".SH SYNOPSIS"
    yield from _synopsis("mount.riafs", parser)
    yield ".SH DESCRIPTION"
    yield _text(
        "mount(8) runs this program for the type riafs. 'riafs install-helper' puts it where mount(8) looks. A mount "
        "is read-only unless rw or overlay=DIR is given, and always nosuid and nodev. Commas and quotes in a value are "
        "written with a backslash before them, or the value in double quotes. A SOURCE in /etc/fstab should be a URL "
        "or an absolute path."
    )
    yield from _arguments(parser)
    mount_options = ((_mount_option(option.field, option.kind, option.placeholder), option.help) for option in OPTIONS)
    yield from _named("MOUNT OPTIONS", mount_options)
    yield from _named("EXIT STATUS", _EXIT_STATUS)
    yield from _examples(_HELPER_EXAMPLES)
    yield from _see("riafs (1), mount (8), fstab (5), systemd.mount (5)")


def _mount_option(field: str, kind: Kind, placeholder: str) -> str:
    return field if kind is Kind.FLAG else f"{field}={placeholder}"


def _head(name: str, section: str, what: str) -> Iterator[str]:
    yield f'.TH "{name.upper()}" "{section}" "" "riafs" "User Commands"'
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(what)}"


def _synopsis(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    positional = [action for action in parser._actions if not action.option_strings]
    words = [f"[{_value(action)}]" if action.nargs in ("?", "*") else _value(action) for action in positional]
    yield ".br"
    yield f"\\fB{_text(name)}\\fR " + _text(" ".join([*words, "[OPTIONS]"]))


def _value(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        names = ", ".join(action.option_strings) or _value(action)
        value = f" {_value(action)}" if action.option_strings and action.nargs != 0 else ""
        yield from _term(names + value, (action.help or "").replace("%%", "%"))


def _named(title: str, items: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f'.SH "{title}"'
    for name, what in items:
        yield from _term(name, what)


def _term(name: str, what: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_text(name)}\\fR"
    yield _text(what)


def _examples(lines: Iterable[str]) -> Iterator[str]:
    yield ".SH EXAMPLES"
    yield ".nf"
    yield from map(_text, lines)
    yield ".fi"


def _see(others: str) -> Iterator[str]:
    yield '.SH "SEE ALSO"'
    yield _text(others)


def _text(text: str) -> str:
    """Plain text for troff: escaped, and not mistaken for a request at the beginning of a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("'", "\\(aq")
    return "\\&" + escaped if escaped.startswith(".") else escaped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
