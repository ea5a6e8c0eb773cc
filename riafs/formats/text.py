"""Text at the edges: how bytes from a store are shown in messages, and how what a user writes becomes bytes."""

import os
from collections.abc import Callable

from riafs.errors import RiafsError

_MAX_SHOWN = 100


def shown(text: bytes) -> str:
    """`text` in quotes, everything that is not printable ASCII escaped, cut after 100 bytes.

    >>> shown(b"1|x")
    "'1|x'"
    """
    return repr(text[:_MAX_SHOWN])[1:] + ("…" if len(text) > _MAX_SHOWN else "")


def on_disk(part: str, refuse: Callable[[str], RiafsError]) -> bytes:
    """A part of what a user wrote, as names on disk are. Raises what `refuse` makes of the reason why it is none."""
    try:
        encoded = os.fsencode(part)
    except UnicodeEncodeError as error:
        raise refuse("has characters that no file name can have") from error
    if b"\0" in encoded:
        raise refuse("has a NUL")
    return encoded
