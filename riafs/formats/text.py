"""How text from a store is shown in messages: quoted, without control characters, bounded."""

_MAX_SHOWN = 100


def shown(text: bytes) -> str:
    """`text` in quotes, everything that is not printable ASCII escaped, cut after 100 bytes.

    >>> shown(b"1|x")
    "'1|x'"
    """
    return repr(text[:_MAX_SHOWN])[1:] + ("…" if len(text) > _MAX_SHOWN else "")
