"""Progress of every command that takes long: a bar on a terminal, lines with ``--verbose``, else nothing.

The bar is on standard error and gone at the end. rich is imported only for it.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from riafs.cli.render import amount, printable
from riafs.errors import RiafsError
from riafs.watching import Step

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

_SECONDS = 0.3
_WIDE = 100  # columns of a terminal that has room for a bar


class Display:
    """A Watcher that draws with `bar`, and tells each step where `verbose`. Any thread may call it."""

    def __init__(self, bar: "Progress | None", *, verbose: bool = False) -> None:
        self._bar = bar
        self._verbose = verbose
        self._task: TaskID | None = None
        self._step = self._name = ""
        self.names: Mapping[str, str] = {}
        """What to call datasets whose other names are not for people."""

    @property
    def shown(self) -> bool:
        """Whether there is a bar, so that counting first is worth the time."""
        return self._bar is not None

    def begin(self, step: Step, total: int) -> None:
        self._begin(step.value, total, in_bytes=step.in_bytes)

    def advance(self, amount: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, amount)

    def files(self, done: int, total: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, files=done, of=total)

    def at(self, name: str) -> None:
        name = printable(self.names.get(name, name))
        if name != self._name:
            self._name = name
            if self._verbose and name:
                self._tell(name)
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, description=self._description())

    def _begin(self, step: str, total: int, *, in_bytes: bool) -> None:
        self._step = step
        if self._verbose:
            size = "" if not total else f": {amount(total) if in_bytes else total}"
            self._tell(self._description() + size)
        if self._bar is None:
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(self._description(), total=total or None, in_bytes=in_bytes, files=0, of=0)

    def _description(self) -> str:
        return f"{self._name}: {self._step}" if self._name else self._step

    @staticmethod
    def _tell(line: str) -> None:
        print(f"riafs: {line}", file=sys.stderr)

    # -- the work of another process ----------------------------------------------------------------------------------

    @contextmanager
    def following(self, ask: Callable[[], Mapping[str, Any] | None]) -> Iterator[None]:
        """Meanwhile, ask now and then how far another process is, and show that."""
        if self._bar is None and not self._verbose:
            yield
            return
        self._begin("asking the mount", 0, in_bytes=False)
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
        """`state`: see riafs.daemon.change_commands."""
        if not state:
            return
        self.at(str(state["dataset"]))
        if state["step"] != self._step:
            self._begin(str(state["step"]), int(state["total"]), in_bytes=bool(state["in_bytes"]))
        self.files(int(state["files"]), int(state["of_files"]))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=int(state["done"]))


@contextmanager
def progress(verbosity: int) -> Iterator[Display]:
    """`verbosity`: below 0 nothing is shown, above it each step is told in a line as well."""
    if verbosity < 0 or not sys.stderr.isatty():
        yield Display(None, verbose=verbosity > 0)
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(*_columns(wide=console.width >= _WIDE), console=console, transient=True) as bar:
        yield Display(bar, verbose=verbosity > 0)


def _columns(*, wide: bool) -> "list[ProgressColumn]":
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Amounts(ProgressColumn):
        """Per cent, files, bytes and rate."""

        def render(self, task: Task) -> Text:
            return Text(", ".join(_amounts(task.completed, task.total, task.speed, task.fields)))

    name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    amounts = Amounts(table_column=Column(no_wrap=True, overflow="ellipsis"))
    return [name, *([BarColumn(bar_width=20)] if wide else []), amounts, TimeRemainingColumn()]


def _amounts(done: float, total: float | None, speed: float | None, fields: Mapping[str, Any]) -> Iterator[str]:
    if total:
        yield f"{done / total:.0%}"
    if fields["of"]:
        yield f"{fields['files']}/{fields['of']} files"
    elif fields["files"]:
        yield f"{fields['files']} files"
    if fields["in_bytes"]:
        yield f"{amount(int(done))}/{amount(int(total))}" if total else amount(int(done))
    elif total:
        yield f"{done:.0f}/{total:.0f}"
    if speed and total:
        yield f"{amount(int(speed))}/s" if fields["in_bytes"] else f"{speed:.0f}/s"
