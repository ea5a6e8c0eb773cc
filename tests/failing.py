"""Looking at how a call fails."""

from collections.abc import Callable


def errno_of(call: Callable[[], object]) -> int | None:
    """The errno of the OSError that `call` raises."""
    try:
        call()
    except OSError as error:
        return error.errno
    raise AssertionError("it did not fail")
