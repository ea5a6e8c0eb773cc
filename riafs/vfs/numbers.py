"""Inode numbers: computed, not stored.

A directory that has been entered gets a number, made from its own inode number, and keeps it for the life of the mount.
Whatever is in it has the inode number ``number << 32 | slot``: see tree/slots. So inode numbers are the same in every
mount, a mount remembers the directories it showed, not the files, and what the kernel forgets costs nothing.
"""

from collections.abc import Container
from hashlib import blake2b

from riafs.tree.slots import LISTED_SLOTS, SLOT_BITS

MAX_SLOT = (1 << SLOT_BITS) - 1
MAX_NUMBER = (1 << 29) - 1
"""Inode numbers stay below 2**61."""
ROOT = 1
_FIRST = 2  # the root's inode number is in directory 0, what is in the root in directory 1


def inode_of(number: int, slot: int) -> int:
    """The inode number of what is at `slot` in the directory with that number."""
    return number << SLOT_BITS | slot


def number_of(inode: int) -> int:
    """The number of the directory that an inode is in; 0 for the root itself."""
    return inode >> SLOT_BITS


def slot_of(inode: int) -> int:
    """The slot of an inode in its directory."""
    return inode & MAX_SLOT


def new_number(inode: int, taken: Container[int]) -> int:
    """A number for the directory with that inode number. Which one is a matter of the order in which directories are
    entered only where two would have the same: one of 100,000 pairs of directories among half a million entered.
    """
    count = MAX_NUMBER - _FIRST + 1
    place = int.from_bytes(blake2b(inode.to_bytes(8, "big"), digest_size=8).digest(), "big") % count
    while place + _FIRST in taken:
        place = (place + 1) % count
    return place + _FIRST


def hidden_slot(digest: int, taken: Container[int]) -> int:
    """A slot for a name that is not listed, whose checksum is `digest`."""
    count = MAX_SLOT + 1 - LISTED_SLOTS
    place = digest % count
    while LISTED_SLOTS + place in taken:
        place = (place + 1) % count
    return LISTED_SLOTS + place
