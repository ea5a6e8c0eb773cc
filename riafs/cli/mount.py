"""``riafs mount``: from what was typed to a mount that answers. Also the work of ``mount.riafs``.

Everything that can be wrong without asking the store is found before a process is started.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from riafs.cli.mountopts import quote_option, wants_writing
from riafs.daemon import background, mountpoint, process
from riafs.daemon.plan import MountPlan
from riafs.daemon.unmount import find_mount
from riafs.errors import MountFailed, StoreTimeout, UsageError
from riafs.formats.riaurl import RiaUrl, parse_source, rewrite
from riafs.git.config import instead_of_rules
from riafs.settings import Given, complete_environment, directories, load


@dataclass(frozen=True, slots=True)
class MountRequest:
    """A mount as it was asked for, on whichever command line."""

    source: str
    directory: str
    given: tuple[Given, ...]
    words: tuple[str, ...]
    """mount(8)'s own options."""


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    request = MountRequest(arguments.source, arguments.mountpoint, arguments.given, arguments.words)
    if arguments.print_fstab:
        print(fstab_line(request))
        return 0
    return mount(request)


def mount(request: MountRequest, *, fake: bool = False) -> int:
    """Mount, and return when the mount answers, or in front: when it has ended. `fake`: only check the arguments."""
    if "remount" in request.words:
        return remount(request)
    environment = complete_environment()
    plan = make_plan(request, environment)
    if fake:
        return 0
    plan = replace(plan, mountpoint=mountpoint.prepare(plan.mountpoint))
    if plan.settings.foreground:
        _live(plan, lambda: None)
    else:
        _start(plan)
    return 0


def remount(request: MountRequest) -> int:
    """``-o remount``: a riafs mount is read-only and can be nothing else. Raises NotMounted, UsageError."""
    mounted = find_mount(request.directory)
    if wants_writing(request.words):
        raise UsageError(f"{mounted.mountpoint} cannot be remounted rw: a riafs mount is read-only")
    return 0


def make_plan(request: MountRequest, environment: Mapping[str, str]) -> MountPlan:
    """What is to be mounted, with all paths absolute. Raises UsageError, BadSource."""
    effective = load(environment, request.given)
    rules = tuple(instead_of_rules(environment))
    source = absolute_source(request.source, rules)
    target = request.directory
    if not mountpoint.is_passed_device(target):
        target = os.path.abspath(target)
    return MountPlan(source, target, effective.settings, directories(environment), environment, rules)


def absolute_source(text: str, rules: Iterable[tuple[str, str]]) -> RiaUrl:
    """The source `text` names after git's ``insteadOf`` `rules`; a relative path is one from here. Raises BadSource."""
    source = parse_source(rewrite(text, tuple(rules)).url)
    if source.scheme == "file" and not source.path.startswith(b"/"):
        return replace(source, path=os.path.abspath(source.path))
    return source


def _start(plan: MountPlan) -> None:
    try:
        background.start(lambda announce: _live(plan, announce), keep=_passed_descriptor(plan))
    except (MountFailed, StoreTimeout):
        if not mountpoint.is_passed_device(plan.mountpoint):
            mountpoint.heal(plan.mountpoint)  # the kernel keeps the mount of a process that was killed
        raise


def _passed_descriptor(plan: MountPlan) -> int | None:
    return int(os.path.basename(plan.mountpoint)) if mountpoint.is_passed_device(plan.mountpoint) else None


def _live(plan: MountPlan, announce: Callable[[], None]) -> None:
    """The mount's own process. The event loop and pyfuse3 take most of the start-up time, so only it imports them."""
    process.settle()
    from riafs.daemon import life
    from riafs.daemon.assemble import assemble

    life.run(plan, assemble, announce)


# -- /etc/fstab -------------------------------------------------------------------------------------------------------


def fstab_line(request: MountRequest) -> str:
    """The line that mounts this at first use, with the options that were given. Raises UsageError, BadSource."""
    environment = complete_environment()
    plan = make_plan(request, environment)
    words = [word for word in request.words if word not in ("ro", "rw")]
    network = [] if plan.source.scheme == "file" else ["_netdev"]
    own = [quote_option(f"{given.name.replace('-', '_')}={given.text}") for given in request.given]
    options = ["ro", "noauto", "nofail", *network, "x-systemd.automount", *words, *own]
    source = request.source if "://" in request.source else os.fsdecode(plan.source.path) + _fragment(request.source)
    fields = (source, plan.mountpoint, "riafs", ",".join(dict.fromkeys(options)))
    return "  ".join(map(_fstab_field, fields)) + "  0  0"


def _fragment(text: str) -> str:
    _, mark, fragment = text.rpartition("#")
    return mark + fragment if mark and parse_source(text).path != os.fsencode(text) else ""


def _fstab_field(text: str) -> str:
    """Escaped as fstab(5) has it: blanks and backslashes by their octal code."""
    escaped = "".join(f"\\{ord(character):03o}" if character in " \t\n\\" else character for character in text)
    return "\\043" + escaped[1:] if escaped.startswith("#") else escaped
