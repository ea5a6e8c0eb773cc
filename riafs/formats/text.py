"""Text of messages: bytes from a store in quotes, lists of names, the names that are most like a word."""

import difflib
from collections.abc import Iterable, Sequence

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
