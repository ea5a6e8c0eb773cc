"""``riafs push``: local changes become a commit in the store."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import trio

from riafs.cli.main import complain
from riafs.cli.progress import progress
from riafs.cli.render import amount, counted, print_json, printable
from riafs.cli.targets import Kept, Mounted, locate
from riafs.daemon.ask import asked, failure_told
from riafs.daemon.opening import command_settings
from riafs.daemon.pushing import Failure, Order, open_unmounted, overlay_source, push_changes
from riafs.daemon.replies import describe_outcome
from riafs.errors import PushConflict, RiafsError, UsageError
from riafs.formats.gitrepository import valid_ref_name
from riafs.formats.sources import RiaUrl
from riafs.git.user import author, committer
from riafs.push.protocol import Prefer, PushRequest
from riafs.settings import complete_environment
from riafs.vfs.refreshing import Invalidation

_PUSH_SECONDS = 7 * 86400.0
_SHOWN = 10
_NOTHING = "nothing has changed, nothing to push"


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Exit status 16 for a conflict, whose paths are listed."""
    logging.getLogger("riafs").addHandler(logging.NullHandler())  # what stops a push is told once, as its failure
    environment = complete_environment()
    target = locate(arguments.paths, arguments.overlay)
    order = Order(_request(arguments, environment), target.places)
    failed: list[RiafsError] = []
    try:
        if isinstance(target, Kept):
            outcomes = _push_kept(target, order, arguments.verbosity, failed)
        else:
            outcomes = push_mounted(target, order, arguments.verbosity, failed)
    except PushConflict as conflict:
        tell_conflict(conflict, as_json=arguments.json)
        raise
    if arguments.json:
        print_json(outcomes)
    elif arguments.verbosity >= 0:
        for line in pushed_lines(outcomes, dry_run=arguments.dry_run):
            print(printable(line))
    return _told(failed, as_json=arguments.json)


def _told(failed: Sequence[RiafsError], *, as_json: bool) -> int:
    """Tell of the datasets that were not pushed beside those that were; the exit status."""
    for failure in failed:
        if isinstance(failure, PushConflict) and not as_json:
            tell_conflict(failure, as_json=False)
        complain(str(failure))
    return failed[0].exit_code if failed else 0


def _request(arguments: argparse.Namespace, environment: Mapping[str, str]) -> PushRequest:
    prefer = Prefer.OURS if arguments.ours else Prefer.THEIRS if arguments.theirs else Prefer.NEITHER
    return PushRequest(
        message=_message(arguments),
        author=author(environment, arguments.author),
        committer=committer(environment),
        search_path=environment["PATH"],
        branch=_branch(arguments.branch, "--branch"),
        as_branch=_branch(arguments.as_branch, "--as-branch"),
        prefer=prefer,
        dry_run=arguments.dry_run,
        unfiltered=arguments.unfiltered,
    )


def _message(arguments: argparse.Namespace) -> bytes:
    if arguments.message_file is None:
        return os.fsencode(arguments.message)
    try:
        with open(arguments.message_file, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{arguments.message_file} cannot be read: {error.strerror}") from error


def _branch(name: str | None, flag: str) -> bytes | None:
    if name is None:
        return None
    full = b"refs/heads/" + os.fsencode(name.removeprefix("refs/heads/"))
    if not valid_ref_name(full):
        raise UsageError(f"{flag} {name}: this cannot be the name of a branch")
    return full


def push_mounted(
    target: Mounted, order: Order, verbosity: int, failed: list[RiafsError] | None = None
) -> list[dict[str, Any]]:
    """Have the mount's own process push, which also shows the new commits. It goes on if this one is killed.

    What stopped some of the datasets is added to `failed`, and raised where that is not given.
    """
    with progress(verbosity) as bar, bar.following(lambda: asked(target.mount, "status", {}).get("pushing")):
        reply = asked(target.mount, "push", order_to_json(order), _PUSH_SECONDS)
    failures = [failure_told(each, target.mount) for each in reply.get("failed", ())]
    if failures and failed is None:
        raise failures[0]
    if failed is not None:
        failed += failures
    return list(reply["pushed"])


def order_to_json(order: Order) -> dict[str, Any]:
    """`order` as the arguments of a request."""
    request = order.request
    return {
        "message": os.fsdecode(request.message),
        "author": os.fsdecode(request.author.ident),
        "committer": os.fsdecode(request.committer.ident),
        "branch": None if request.branch is None else os.fsdecode(request.branch),
        "as_branch": None if request.as_branch is None else os.fsdecode(request.as_branch),
        "prefer": request.prefer.value,
        "dry_run": request.dry_run,
        "unfiltered": request.unfiltered,
        "places": [os.fsdecode(place) for place in order.places],
    }


def _push_kept(target: Kept, order: Order, verbosity: int, failed: list[RiafsError]) -> list[dict[str, Any]]:
    """Push an overlay that is not mounted, in this process."""
    named = overlay_source(target.directory)
    source, settings = named.source, command_settings(named)
    assert isinstance(source, RiaUrl)

    async def tell(_: Sequence[Invalidation]) -> None:
        """There is no mount whose kernel caches would change."""

    async def work() -> list[dict[str, Any]]:
        async with open_unmounted(target.directory, named) as filesystem:
            with progress(verbosity) as bar:
                failures: list[Failure] = []
                outcomes = await push_changes(filesystem, source, settings, order, bar, tell, failures)
            failed.extend(each.error for each in failures)
            return [describe_outcome(each) for each in outcomes]

    return trio.run(work)


def tell_conflict(conflict: PushConflict, *, as_json: bool) -> None:
    """Print the paths of a conflict."""
    if as_json:
        print_json({"conflicts": [os.fsdecode(path) for path in conflict.paths], "reason": str(conflict)})
        return
    for path in conflict.paths:
        print(printable(f"conflict  {os.fsdecode(path)}"))
    sys.stdout.flush()


def pushed_lines(outcomes: Sequence[Mapping[str, Any]], *, dry_run: bool) -> Iterator[str]:
    """The result for each dataset, and remarks on it."""
    if not outcomes:
        yield _NOTHING
    for each in outcomes:
        name = f"{each['path'] or each['dataset']}"
        files = f"{counted(each['changed'], 'path')}, {each['annexed']} annexed and {each['in_git']} in git"
        sent = f", {amount(each['bytes_written'])} sent" if each["bytes_written"] else ""
        branch = each["ref"].removeprefix("refs/heads/")
        if dry_run:
            yield f"{name}: would be pushed to {branch}: {files}, at most {amount(each['bytes_written'])}"
        elif each["commit"] == each["before"]:
            yield f"{name}: {branch} has all of these changes already"
        else:
            yield f"{name}: {branch} is at {each['commit']} now: {files}{sent}"
        yield from _remarks(name, each)


def _remarks(name: str, outcome: Mapping[str, Any]) -> Iterator[str]:
    for path in outcome["empty_directories"]:
        yield f"{name}: {path} is empty; git holds no empty directories, so it stays local"
    for path in outcome["special_files"]:
        yield f"{name}: {path} is a fifo, a socket or a device, which git cannot have, so it stays local"
    for path in outcome["overruled"]:
        yield f"{name}: {path} was changed in the store as well; one of the two was left out, as you said"
    if converted := outcome["converted"]:
        shown = ", ".join(converted[:_SHOWN]) + (f" and {len(converted) - _SHOWN} more" if converted[_SHOWN:] else "")
        yield f"{name}: {shown}: line ends, encoding or $Id$ are in the commit as .gitattributes asks for them"
    for path, key in outcome["pointers"].items():
        yield f"{name}: {path} reads like a pointer of git-annex: what is shown there is the content of {key}"
    for path in outcome["overtaken"]:
        yield f"{name}: {path} is changed here and was changed in the store as well; push again to settle it"
    if outcome["overtaken"]:
        yield f"{name}: until then all changes stay local too, over the commit they were made over"
    elif outcome["kept"]:
        branch = outcome["ref"].removeprefix("refs/heads/")
        yield f"{name}: the changes stay local as well, as {branch} is not what is shown; riafs restore drops them"
