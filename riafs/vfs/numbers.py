"""Inode numbers: computed, not stored.

A directory that has been entered gets a number, counted up from 1, and keeps it for the life of the mount. Whatever
is in it has the inode number ``number << 24 | slot``, where a slot is a position in the directory as long as that
has not changed. So a mount remembers the directories it showed, not the files, and what the kernel forgets costs
nothing.
"""

SLOT_BITS = 24
MAX_SLOT = (1 << SLOT_BITS) - 1
"""Entries a directory can have: sixteen million. Names that are not listed count down from here."""
ROOT = 1


def inode_of(number: int, slot: int) -> int:
    """The inode number of what is at `slot` in the directory with that number."""
    return number << SLOT_BITS | slot


def number_of(inode: int) -> int:
    """The number of the directory that an inode is in; 0 for the root itself."""
    return inode >> SLOT_BITS


def slot_of(inode: int) -> int:
    """The slot of an inode in its directory."""
    return inode & MAX_SLOT
