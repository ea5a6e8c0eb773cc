"""Checking all blocks on the disk."""

import contextlib
import os
from dataclasses import dataclass

from riafs.cache.blocks_directory import Found, remove, walk
from riafs.cache.blocks_eviction import survey
from riafs.cache.blocks_file import HEADER_SIZE, MAX_LENGTH, BlockName, check_block, unreadable_as_damaged
from riafs.errors import CorruptContent
from riafs.watching import Nobody, Reading, Watcher


@dataclass(slots=True)
class Checked:
    """What was found. Sizes are bytes on the disk."""

    blocks: int = 0
    size: int = 0
    damaged: int = 0


def check_all(root: int, watcher: Watcher | None = None) -> Checked:
    """Read every block below the descriptor `root` and remove damaged ones. Raises OSError."""
    checked, watcher = Checked(), watcher or Nobody()
    usage = survey(root)
    watcher.begin(Reading.READING, usage.size)
    for found in walk(root):
        watcher.files(checked.blocks, usage.blocks)
        watcher.advance(found.size)
        if found.block is not None:
            with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                _check(root, found, found.block, checked)
    return checked


def _check(root: int, found: Found, block: BlockName, checked: Checked) -> None:
    good = _is_good(root, found.path, block)
    checked.blocks += 1
    checked.size += found.size
    if not good and remove(root, found):
        checked.damaged += 1


def _is_good(root: int, path: str, block: BlockName) -> bool:
    if block.length > MAX_LENGTH or block.path != path:
        return False
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    try:
        with unreadable_as_damaged(block):
            content = os.pread(file, HEADER_SIZE + block.length + 1, 0)
        check_block(block, content[:HEADER_SIZE], content[HEADER_SIZE:])
    except CorruptContent:
        return False
    finally:
        os.close(file)
    return True
