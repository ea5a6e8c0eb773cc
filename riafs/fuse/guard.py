"""The one place where failures become errnos.

An exception other than FUSEError in a handler would end pyfuse3's loop and with it the mount (seen with pyfuse3 3.5.0),
so every handler is wrapped: a failure of errors.py gives its errno and, where the store is at fault, a line in the log;
an OSError gives its own errno, a lack of memory ENOMEM; anything else is a bug of ours, gives EIO for that call, and
leaves its stack in the log, once per place it was raised from.
"""

import errno
import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import pyfuse3
from cachetools import LRUCache

from riafs.counters import Counters
from riafs.errors import ChangedElsewhere, OutOfMemory, RiafsError
from riafs.storage.deadline import begin_request

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_WORTH_TELLING = frozenset((errno.EIO, errno.EACCES, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENOMEM))
_MAX_TOLD = 1000


class Guard:
    """Wraps the handlers of one mount."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._logged: set[tuple[str, int]] = set()
        self._told: LRUCache[str, None] = LRUCache(_MAX_TOLD)

    def wrap(self, handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """`handler`, with every failure turned into a FUSEError."""

        @wraps(handler)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            begin_request()
            try:
                return await handler(*args, **kwargs)
            except pyfuse3.FUSEError:
                raise
            except RiafsError as error:
                self._tell(error)
                raise pyfuse3.FUSEError(error.errno) from None
            except OSError as error:
                log.info("%s: %s", handler.__name__, error)
                raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
            except Exception as error:  # noqa: BLE001  # the FUSE reply: a bug costs one call, not the mount
                if _is_lack_of_memory(error):
                    self._tell(OutOfMemory(f"{handler.__name__}: out of memory for one request"))
                    raise pyfuse3.FUSEError(errno.ENOMEM) from None
                self._report(handler.__name__, error)
                raise pyfuse3.FUSEError(errno.EIO) from None

        return guarded

    def _tell(self, error: RiafsError) -> None:
        """Log what is the store's fault, and what a caller cannot know, each message once as long as it is remembered;
        not what a caller did wrong.
        """
        unforeseen = isinstance(error, ChangedElsewhere)
        if error.reported or not (unforeseen or error.errno in _WORTH_TELLING) or str(error) in self._told:
            log.debug("%s", error)
            return
        self._told[str(error)] = None
        log.log(logging.WARNING if unforeseen else logging.ERROR, "%s", error)

    def _report(self, handler: str, error: Exception) -> None:
        self._counters.handler_errors += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        first = place not in self._logged
        self._logged.add(place)
        log.error("bug in %s, it ends with EIO: %r", handler, error, exc_info=error if first else None)


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, ExceptionGroup) and error.split(MemoryError)[1] is None)
