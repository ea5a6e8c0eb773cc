"""Progress of a command that moves bytes: a bar on a terminal, nothing elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Display(Protocol):
    """Where progress is shown. Any thread may call it."""

    def expect(self, size: int) -> None:
        """So many bytes more are to come."""

    def advance(self, size: int) -> None:
        """So many bytes are done, or given up."""


class _Nothing:
    def expect(self, size: int) -> None:
        """See Display."""

    def advance(self, size: int) -> None:
        """See Display."""


class _Bar:
    def __init__(self, progress: "Progress", what: str) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=0)
        self._expected = 0

    def expect(self, size: int) -> None:
        """See Display; only one thread may expect."""
        self._expected += size
        self._progress.update(self._task, total=self._expected)

    def advance(self, size: int) -> None:
        """See Display."""
        self._progress.advance(self._task, size)


@contextmanager
def progress_bar(what: str) -> Iterator[Display]:
    """A bar on standard error, gone at the end, if that is a terminal. rich is imported only then."""
    if not sys.stderr.isatty():
        yield _Nothing()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, what)
