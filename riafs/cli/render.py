"""How results look: tables and lines for people, JSON for programs.

Text from stores and other processes is made printable here, so that it cannot steer a terminal. rich is imported only
to draw a table on a terminal.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``riafs doctor``: `state` is ok, warn or fail; `advice` is what to do about the latter two."""

    state: str
    what: str
    advice: str = ""


def printable(text: str) -> str:
    """`text` with everything that is no visible character written as an escape."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one JSON document."""
    print(json.dumps(value, indent=2))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under titles: drawn on a terminal, aligned with blanks elsewhere."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(titles, cells)
        return
    lines = [list(titles), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _draw(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: object) -> str:
    """Seconds as people say them: ``45s``, ``12m``, ``3h05m``, ``2d4h``; ``-`` for what is no number."""
    if not isinstance(seconds, int | float):
        return "-"
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m" if minutes else f"{int(seconds)}s"


def amount(size: object) -> str:
    """Bytes with a unit of 1024: ``512 B``, ``1.5 GiB``; ``-`` for what is no number."""
    if not isinstance(size, int):
        return "-"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < _KIB:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} TiB"
