"""Content whose failing reads are reported: a reader gets an errno, the log and the attributes a line that says why."""

from collections.abc import Callable

from riafs.errors import RiafsError
from riafs.storage.bytesource import Buffer, RangedBytes, is_provisional, shown_version_of


class Reported:
    """RangedBytes over `source`, which it owns; `report` makes of each failure the one that is raised."""

    __slots__ = ("_report", "_source")

    def __init__(self, source: RangedBytes, report: Callable[[RiafsError], RiafsError]) -> None:
        self._source = source
        self._report = report

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    @property
    def provisional(self) -> bool:
        """See Provisional."""
        return is_provisional(self._source)

    @property
    def shown_version(self) -> object:
        """See Provisional."""
        return shown_version_of(self._source)

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes."""
        try:
            return await self._source.read(offset, length)
        except RiafsError as problem:
            raise self._report(problem) from problem

    def close(self) -> None:
        """Close the source."""
        self._source.close()
