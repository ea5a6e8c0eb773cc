"""``riafs cache``: what the block cache of this user holds; checking, pinning and evicting it.

Works on the directory that all mounts share, so no mount has to run; only paths are looked up through a mount, which
knows their keys.
"""

import argparse
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from riafs.cache.block_files import annex_content, content_digest, keep_content, open_blocks
from riafs.cache.eviction import (
    DiskLimits,
    Usage,
    check_all,
    evict_all,
    evict_content,
    make_room,
    pin,
    pinned_contents,
    pinned_digests,
    survey,
    unpin,
)
from riafs.cli.main import complain
from riafs.cli.progress import progress
from riafs.cli.render import amount, counted, print_json, print_table
from riafs.cli.targets import files_below
from riafs.errors import StoreDenied, UsageError
from riafs.settings import Settings, complete_environment, load
from riafs.watching import Reading

_KEY, _LOCATORS, _BLOCKS = "user.riafs.key", "user.riafs.locators", "user.riafs.blocks"
_DAMAGE_FOUND = 2

Report = dict[str, Any]


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status 2 if `verify` found damage."""
    settings = load(complete_environment(), arguments.given).settings
    actions: dict[str, Callable[[int, Settings, argparse.Namespace], Report]] = {
        "status": _status,
        "verify": _verify,
        "evict": _evict,
        "pin": _pin,
        "unpin": _unpin,
    }
    with _opened(settings.cache_dir) as root:
        report = actions[arguments.action](root, settings, arguments)
    if arguments.json:
        print_json(report)
    elif arguments.verbosity >= 0 or arguments.action == "status":
        print_table(("NAME", "VALUE"), [[name, _shown(name, value)] for name, value in report.items()])
    return _DAMAGE_FOUND if report.get("damaged") else 0


@contextmanager
def _opened(cache: str) -> Iterator[int]:
    try:
        with open_blocks(cache, make=True) as root:
            yield root
    except OSError as error:
        raise StoreDenied(f"cache directory {cache}: {error.strerror}") from error


def _shown(name: str, value: object) -> str:
    if isinstance(value, list):
        return " ".join(value) or "-"
    return amount(value) if name.endswith(("size", "limit", "free")) else str(value)


# -- actions ----------------------------------------------------------------------------------------------------------


def _status(root: int, settings: Settings, _arguments: argparse.Namespace) -> Report:
    status = os.statvfs(root)
    pins = pinned_contents(root).items()
    return {
        "directory": settings.cache_dir,
        **asdict(survey(root)),
        "limit": settings.cache_size,
        "free": status.f_bavail * status.f_frsize,
        "min_free": int(status.f_blocks * status.f_frsize * settings.cache_min_free / 100),
        "pins": sorted(_shown_key(content) or digest.hex() for digest, content in pins),
    }


def _shown_key(content: bytes) -> str:
    return content.removeprefix(annex_content(b"")).decode(errors="backslashreplace")


def _verify(root: int, _settings: Settings, arguments: argparse.Namespace) -> Report:
    with progress(arguments.verbosity) as display:
        return asdict(check_all(root, display))


def _evict(root: int, settings: Settings, arguments: argparse.Namespace) -> Report:
    _check_choice(arguments)
    if arguments.all:
        removed, kept = evict_all(root), len(pinned_digests(root))
    elif arguments.paths:
        removed, kept = _evict_each(root, arguments.paths, arguments.verbosity)
    else:
        return _enforce(root, DiskLimits(settings.cache_size, settings.cache_min_free))
    if kept:
        complain(f"{counted(kept, 'pinned file')} kept; riafs cache unpin makes them ordinary")
    return _removed(removed)


def _evict_each(root: int, paths: list[str], verbosity: int) -> tuple[Usage, int]:
    """What was removed, and how many contents were not, as they are pinned."""
    total, kept, pinned = Usage(), 0, pinned_digests(root)
    for content in _contents(paths, verbosity):
        if content_digest(content) in pinned:
            kept += 1
            continue
        removed = evict_content(root, content_digest(content))
        total.blocks += removed.blocks
        total.size += removed.size
    return total, kept


def _enforce(root: int, limits: DiskLimits) -> Report:
    before = survey(root)
    after = make_room(root, limits, 0)
    if before.blocks and after.blocks >= before.blocks:
        complain("nothing is over the limits; name files or directories, or give --all, to evict more")
    return _removed(Usage(max(0, before.blocks - after.blocks), max(0, before.size - after.size)))


def _removed(usage: Usage) -> Report:
    return {"removed_blocks": usage.blocks, "removed_size": usage.size}


def _pin(root: int, _settings: Settings, arguments: argparse.Namespace) -> Report:
    return {"pinned": sum([pin(root, content) for content in _contents(arguments.paths, arguments.verbosity)])}


def _unpin(root: int, _settings: Settings, arguments: argparse.Namespace) -> Report:
    _check_choice(arguments)
    if arguments.all:
        return {"unpinned": sum([unpin(root, digest) for digest in pinned_digests(root)])}
    contents = _contents(arguments.paths, arguments.verbosity)
    return {"unpinned": sum([unpin(root, content_digest(content)) for content in contents])}


def _check_choice(arguments: argparse.Namespace) -> None:
    if arguments.all and arguments.paths:
        raise UsageError("give PATHs or --all, not both")


# -- paths ------------------------------------------------------------------------------------------------------------


def _contents(paths: list[str], verbosity: int) -> Iterator[bytes]:
    """The contents of the annexed files and of those in Keep at and below `paths`. Raises UsageError where there is
    none."""
    found = False
    complaints: list[str] = []

    def failed(path: str, error: OSError) -> None:
        complaints.append(path)
        complain(f"{path}: {error.strerror}")

    with progress(verbosity) as display:
        display.begin(Reading.COUNTING, 0)
        for number, file in enumerate(files_below(paths, failed)):
            display.at(file.dataset)
            display.files(number, 0)
            try:
                for content in _contents_of(file.path):
                    yield content
                    found = True
            except OSError as error:
                if error.errno != errno.ENODATA:  # a file in git
                    failed(file.path, error)
    if not found:
        why = "no file could be looked at" if complaints else "no annexed file and none in Keep is named"
        raise UsageError(f"{why}: give files or directories of a riafs mount")


def _contents_of(path: str) -> list[bytes]:
    """The names of what the cache may hold of a file."""
    try:
        return [annex_content(os.getxattr(path, _KEY, follow_symlinks=False))]
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    locators = os.getxattr(path, _LOCATORS, follow_symlinks=False).split()
    blocks = int(os.getxattr(path, _BLOCKS, follow_symlinks=False))
    if blocks > len(locators):
        complain(f"{path}: only its first {len(locators)} of {blocks} blocks are meant")
    return [keep_content(locator) for locator in locators]
