"""What a mount's process asks of the kernel for itself, before it has threads."""

import contextlib
import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4


def settle() -> None:
    """No core dumps and no tracing by others, as many descriptors as allowed, private files, no directory kept busy."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0o077)
    os.chdir("/")
