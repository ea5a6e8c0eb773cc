"""``riafs status``: what is mounted, by the kernel's table and each mount's daemon, without waiting for long."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from riafs.cli.main import complain
from riafs.cli.render import amount, duration, print_json, print_table
from riafs.daemon.ask import ask
from riafs.daemon.mountpoint import find_mount, is_dead
from riafs.daemon.mounts import Mount, riafs_mounts
from riafs.errors import NotMounted, StoreTimeout
from riafs.options import OPTIONS, Kind
from riafs.settings import complete_environment

_TITLES = ("MOUNTPOINT", "SOURCE", "STATE", "PID", "UPTIME", "OPENS", "READ", "ERRORS")
_SIZES = {option.name for option in OPTIONS if option.kind is Kind.SIZE}
_SHOWN_APART = ("source", "mountpoint", "settings", "counters")


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. One directory gives all its details, none a line for each mount."""
    environment = complete_environment()
    mounts = _own_first(riafs_mounts()) if arguments.directory is None else [find_mount(arguments.directory)]
    reports = [report(mount, environment) for mount in mounts]
    if arguments.json:
        print_json(reports)
    elif arguments.directory is not None:
        _print_details(reports[0])
    elif reports:
        print_table(_TITLES, [_row(each) for each in reports])
    elif arguments.verbosity >= 0:
        complain("nothing is mounted")
    return 0


def _own_first(mounts: Sequence[Mount]) -> list[Mount]:
    """In the order in which they were made, after those of this user the others'."""
    return sorted(mounts, key=lambda mount: mount.owner != os.getuid())


def report(mount: Mount, environment: Mapping[str, str]) -> dict[str, Any]:
    """What is known about a mount; `state`: running, dead, silent (no answer in time) or foreign (not ours to ask)."""
    known: dict[str, Any] = {"mountpoint": mount.mountpoint, "source": mount.source, "owner": mount.owner}
    try:
        return {**known, "state": "running", **ask(mount, "status", environment)}
    except PermissionError:
        return {**known, "state": "foreign"}
    except StoreTimeout:
        return {**known, "state": "silent"}
    except NotMounted:
        return {**known, "state": "dead" if is_dead(mount) else "silent"}


def _row(known: Mapping[str, Any]) -> list[str]:
    counters = known.get("counters")
    counts = counters if isinstance(counters, dict) else {}
    return [
        str(known["mountpoint"]),
        str(known["source"]),
        str(known["state"]),
        str(known.get("pid", "-")),
        duration(known.get("uptime")),
        str(counts.get("opens", "-")),
        amount(counts.get("bytes_read")),
        str(known.get("recent_errors", "-")),
    ]


def _print_details(known: Mapping[str, Any]) -> None:
    rows = [["mountpoint", str(known["mountpoint"])], ["source", str(known["source"])]]
    rows += [[name, _text(name, value)] for name, value in known.items() if name not in _SHOWN_APART]
    for group in ("settings", "counters"):
        values = known.get(group)
        if isinstance(values, dict):
            rows += [[f"{group}.{name}", _text(name, value)] for name, value in values.items()]
    print_table(("NAME", "VALUE"), rows)


def _text(name: str, value: object) -> str:
    """A setting or a count for people."""
    if name == "uptime":
        return duration(value)
    if name in _SIZES:
        return amount(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ":".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
