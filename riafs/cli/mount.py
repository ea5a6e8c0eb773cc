"""``riafs mount`` and ``mount.riafs``: from an argument list to a mount that answers.

Everything that can be wrong without asking the store is found before a process is started. mount(8) runs
``mount.riafs`` for the type riafs with SOURCE, DIR, flags, and always an ``-o`` (seen with util-linux 2.38); when root
or /etc/fstab mounts, with neither HOME nor PATH in the environment.
"""

import argparse
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from riafs.cli.mount_options import asked_for_writing, is_read_only, quote_option, sort_options, wants_writing
from riafs.cli.parser import build_helper_parser
from riafs.cli.targets import manifest_on_input
from riafs.daemon import daemonize, mountpoint
from riafs.daemon.ask import ask
from riafs.daemon.mountpoint import find_mount
from riafs.daemon.mounts import mount_at, resolve
from riafs.daemon.plan import MountPlan, named_source
from riafs.errors import MountFailed, NotMounted, RiafsError, StoreTimeout, UsageError
from riafs.formats.sources import STANDARD_INPUT, KeepUrl, RiaUrl, Source, parse_ria_source
from riafs.options import Kind
from riafs.settings import AUTO, Given, Settings, complete_environment, directories, find_option, overlay_directory
from riafs.watching import Doing, untold


@dataclass(frozen=True, slots=True)
class MountRequest:
    """A mount as it was asked for, on whichever command line."""

    source: str
    directory: str
    given: tuple[Given, ...]
    words: tuple[str, ...]
    """mount(8)'s own options."""
    by_mount: bool = False
    """Whether mount(8) asks, which says ``rw`` of its own accord: see cli/mount_options."""
    verbose: bool = False
    """Whether to tell that it was mounted, and where its log is."""


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    request = MountRequest(
        arguments.source,
        arguments.mountpoint,
        arguments.given,
        arguments.words,
        arguments.by_mount,
        verbose=arguments.verbosity > 0,
    )
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
    if plan.by_mount and _is_mounted(plan):
        return 0
    plan = replace(plan, mountpoint=mountpoint.prepare(plan.mountpoint), manifest=manifest_on_input(plan.source))
    if plan.settings.foreground:
        _live(plan, lambda: None, untold)
    else:
        _start(plan)
        if plan.settings.overlay:
            _tell_obstacle(plan)
        if request.verbose:
            print(f"{plan.source} is mounted at {plan.mountpoint}; its log: {_log_place(plan)}")
    return 0


def _tell_obstacle(plan: MountPlan) -> None:
    """Print at once why a push will be refused, if that is known already, and not only after hours of work."""
    mounted = mount_at(plan.mountpoint)
    if mounted is None:
        return
    with contextlib.suppress(RiafsError, PermissionError):
        reply = ask(mounted, "pushable", plan.environment)
        if reply.get("obstacle"):
            print(f"riafs: changes could not be pushed now: {reply['obstacle']}", file=sys.stderr)


def _log_place(plan: MountPlan) -> str:
    from riafs.daemon.logs import LogPlace  # only here: an automount waits for imports

    if plan.settings.log != "auto":
        return plan.settings.log
    return LogPlace(plan.directories.log, plan.mountpoint).path


def _is_mounted(plan: MountPlan) -> bool:
    """Whether a mount that lives shows the same there already, as when ``mount -a`` comes again."""
    if mountpoint.is_passed_device(plan.mountpoint):
        return False
    found = mountpoint.heal(resolve(plan.mountpoint))
    if found is None:
        return False
    with contextlib.suppress(NotMounted, StoreTimeout, PermissionError):
        return bool(ask(found, "status", plan.environment).get("source") == str(plan.source))
    return False


def remount(request: MountRequest) -> int:
    """``-o remount``: a riafs mount stays as it was mounted, ro or rw. Raises NotMounted, UsageError."""
    mounted = find_mount(request.directory)
    if wants_writing(request.words) and not mounted.writable:
        raise UsageError(f"{mounted.mountpoint} is read-only; to change files, unmount it and mount it with -o rw")
    if mounted.writable and is_read_only(request.words):
        raise UsageError(f"{mounted.mountpoint} can be written; to only read, unmount it and mount it with -o ro")
    return 0


def make_plan(request: MountRequest, environment: Mapping[str, str]) -> MountPlan:
    """What is to be mounted, with all paths absolute. Raises UsageError, BadSource."""
    named = named_source(request.source, request.given, environment)
    target = request.directory
    if not mountpoint.is_passed_device(target):
        target = os.path.abspath(target)
    return MountPlan(
        source=named.source,
        settings=replace(named.settings, overlay=_overlay(request, named.settings, named.source, environment)),
        environment=environment,
        instead_of=named.instead_of,
        mountpoint=target,
        directories=directories(environment),
        by_mount=request.by_mount,
    )


def _overlay(request: MountRequest, settings: Settings, source: Source, environment: Mapping[str, str]) -> str:
    """The directory to keep changes in, "" for a mount that is only read. Raises UsageError."""
    wanted = settings.overlay
    if is_read_only(request.words):
        if wanted and any(given.name == "overlay" for given in request.given):
            raise UsageError("-o ro and --overlay exclude each other")
        return ""
    if not wanted and wants_writing(request.words):
        meant = not request.by_mount or asked_for_writing(request.source, request.directory, environment)
        wanted = AUTO if meant else ""
    if not wanted:
        return ""
    if settings.checkout:
        raise UsageError(
            "--checkout is for read-only mounts, as it shows converted files, and changes are made to the files of the "
            "commit; leave out one of checkout and rw or overlay"
        )
    if not isinstance(source, RiaUrl):
        raise UsageError(f"{source} can only be read: collections of Keep cannot be changed; leave out rw and overlay")
    if not source.local:
        raise UsageError(
            f"{source} can only be read: changes cannot be pushed to other machines; leave out rw and overlay"
        )
    if source.version is not None:
        unversioned = replace(source, version=None)
        raise UsageError(f"{source} can only be read: a version stays as it is; changes are made in {unversioned}")
    return overlay_directory(str(source), environment) if wanted == AUTO else wanted


def _start(plan: MountPlan) -> None:
    try:
        daemonize.start(lambda announce: _live(plan, announce, announce.doing), keep=_kept_descriptors(plan))
    except (MountFailed, StoreTimeout):
        if not mountpoint.is_passed_device(plan.mountpoint):
            mountpoint.heal(plan.mountpoint)  # the kernel keeps the mount of a process that was killed
        raise


def _kept_descriptors(plan: MountPlan) -> list[int]:
    passed = [int(os.path.basename(plan.mountpoint))] if mountpoint.is_passed_device(plan.mountpoint) else []
    return passed if plan.manifest is None else [*passed, *plan.manifest.descriptors]


def _live(plan: MountPlan, announce: Callable[[], None], doing: Doing) -> None:
    """The mount's own process. The event loop and pyfuse3 take most of the start-up time, so only it imports them."""
    gc.disable()  # nothing that is imported becomes garbage; looking for some takes a tenth of the time
    from riafs.daemon import lifecycle, process
    from riafs.daemon.assemble import assemble

    gc.freeze()
    gc.enable()
    process.settle()
    lifecycle.run(plan, assemble, announce, doing)


# -- /etc/fstab -------------------------------------------------------------------------------------------------------


def fstab_line(request: MountRequest) -> str:
    """The line that mounts this at first use, with the options that were given. Raises UsageError, BadSource."""
    environment = complete_environment()
    plan = make_plan(request, environment)
    words = [word for word in request.words if word not in ("ro", "rw")]
    network = [] if plan.source.local else ["_netdev"]
    own = [_own_option(given) for given in request.given]
    if plan.settings.overlay and not any(given.name == "overlay" for given in request.given):
        own.append("overlay=auto")
    options = [
        "rw" if plan.settings.overlay else "ro",
        "noauto",
        "nofail",
        *network,
        "x-systemd.automount",
        *words,
        *own,
    ]
    fields = (_lasting(request.source, plan.source), plan.mountpoint, "riafs", ",".join(dict.fromkeys(options)))
    return "  ".join(map(_fstab_field, fields)) + "  0  0"


def _own_option(given: Given) -> str:
    """An option as it is written after ``-o``: a flag without its value."""
    option = find_option(given.name)
    if option.kind is Kind.FLAG and given.text in ("yes", "no"):
        return option.field if given.text == "yes" else f"no_{option.field}"
    return quote_option(f"{option.field}={given.text}")


def _lasting(text: str, source: Source) -> str:
    """What was typed, with relative paths made absolute. Raises UsageError for what is there only now."""
    if not isinstance(source, RiaUrl):
        if isinstance(source, KeepUrl) and source.manifests == STANDARD_INPUT:
            raise UsageError("a manifest on standard input cannot be in /etc/fstab; put it into a file")
        return str(source)
    if "://" not in text:
        return os.fsdecode(source.path) + _fragment(text)
    return text


def _fragment(text: str) -> str:
    _, mark, fragment = text.rpartition("#")
    return mark + fragment if mark and parse_ria_source(text).path != os.fsencode(text) else ""


def _fstab_field(text: str) -> str:
    """Escaped as fstab(5) has it: blanks and backslashes by their octal code."""
    escaped = "".join(f"\\{ord(character):03o}" if character in " \t\n\\" else character for character in text)
    return "\\043" + escaped[1:] if escaped.startswith("#") else escaped


def run_helper(words: Sequence[str]) -> int:
    """Mount as mount(8) asks with the arguments `words`."""
    arguments = build_helper_parser().parse_args(words)
    options = sort_options(arguments.options, sloppy=arguments.sloppy)
    place = (arguments.source, arguments.mountpoint)
    request = MountRequest(*place, options.given, options.words, verbose=arguments.v, by_mount=True)
    return mount(request, fake=arguments.fake)
