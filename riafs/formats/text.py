"""Text at the edges: how bytes from a store are shown in messages, and how what a user writes becomes bytes."""

import difflib
import os
from collections.abc import Callable, Iterable, Sequence

from riafs.errors import RiafsError

_MAX_SHOWN = 100


def shown(text: bytes) -> str:
    """`text` in quotes, everything that is not printable ASCII escaped, cut after 100 bytes.

    >>> shown(b"1|x")
    "'1|x'"
    """
    return repr(text[:_MAX_SHOWN])[1:] + ("…" if len(text) > _MAX_SHOWN else "")


def nearest(word: str, names: Iterable[str], number: int) -> list[str]:
    """At most `number` of `names`, those that are most like `word` first; what contains the other before all others.

    >>> nearest("1.0", ["main", "v1.1", "v1.0"], 2)
    ['v1.0', 'v1.1']
    """
    folded = word.casefold()

    def unlikeness(name: str) -> tuple[bool, float, str]:
        other = name.casefold()
        inside = bool(folded and other) and (folded in other or other in folded)
        return not inside, -difflib.SequenceMatcher(None, folded, other).ratio(), name

    return sorted(names, key=unlikeness)[:number]


def listed(names: Sequence[str]) -> str:
    """One or more names in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def on_disk(part: str, refuse: Callable[[str], RiafsError]) -> bytes:
    """A part of what a user wrote, as names on disk are. Raises what `refuse` makes of the reason why it is none."""
    try:
        encoded = os.fsencode(part)
    except UnicodeEncodeError as error:
        raise refuse("has characters that no file name can have") from error
    if b"\0" in encoded:
        raise refuse("has a NUL")
    return encoded
