"""Progress of a push: a bar for each of its steps on a terminal, nothing elsewhere."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from riafs.errors import RiafsError
from riafs.push.watching import Step

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS = 0.3


class StepBar:
    """A Watcher that draws. Draws nothing without `progress`."""

    def __init__(self, progress: "Progress | None") -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._step = ""

    def begin(self, step: Step, total: int) -> None:
        """See Watcher."""
        self._begin(step.value, total)

    def advance(self, amount: int) -> None:
        """See Watcher."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, amount)

    @contextmanager
    def following(self, ask: Callable[[], Mapping[str, Any] | None]) -> Iterator[None]:
        """Meanwhile, ask now and then how far another process is, and draw that."""
        if self._progress is None:
            yield
            return
        over = threading.Event()

        def follow() -> None:
            while not over.wait(_SECONDS):
                with suppress(RiafsError):
                    self._show(ask() or {})

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _show(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        if state["step"] != self._step:
            self._begin(str(state["step"]), int(state["total"]))
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=int(state["done"]))

    def _begin(self, step: str, total: int) -> None:
        self._step = step
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(step, total=total or None)


@contextmanager
def step_bar() -> Iterator[StepBar]:
    """On standard error, gone at the end. rich is imported only for a terminal."""
    if not sys.stderr.isatty():
        yield StepBar(None)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield StepBar(progress)
