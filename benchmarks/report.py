"""What a measurement says: rows with a value, the peer's value from the same run, and whether the target is met."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a row's ratio to its peer, or on its value where it has none."""

    at_least: float = -math.inf
    at_most: float = math.inf
    of_ratio: bool = True

    def met(self, number: float) -> bool:
        """Whether `number` is within the bound."""
        return self.at_least <= number <= self.at_most

    def shown(self, unit: str) -> str:
        """For people: ``≤ 2.5 x`` or ``≤ 45 µs``."""
        what = "x" if self.of_ratio else unit
        return f"≥ {self.at_least:g} {what}" if self.at_least > -math.inf else f"≤ {self.at_most:g} {what}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. Samples are in `unit`, of riafs and of the peer; the medians of both are compared."""

    name: str
    unit: str
    samples: Sequence[float]
    target: Target | None = None
    peer: str = ""
    peer_samples: Sequence[float] = field(default=())
    note: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return median(self.samples)

    @property
    def peer_value(self) -> float | None:
        """The peer's median, None where it could not be measured."""
        return median(self.peer_samples) if self.peer_samples else None

    @property
    def ratio(self) -> float | None:
        """riafs' value by the peer's."""
        return self.value / self.peer_value if self.peer_value else None

    @property
    def met(self) -> bool | None:
        """None without a target, or where the peer is missing."""
        if self.target is None:
            return None
        number = self.ratio if self.target.of_ratio else self.value
        return None if number is None else self.target.met(number)


def as_json(rows: Iterable[Row], circumstances: dict[str, object]) -> str:
    """All rows with their samples, and the `circumstances` they were taken in."""
    return json.dumps({"circumstances": circumstances, "rows": [_plain(row) for row in rows]}, indent=1)


def _plain(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "unit": row.unit,
        "value": row.value,
        "samples": list(row.samples),
        "peer": row.peer,
        "peer_value": row.peer_value,
        "peer_samples": list(row.peer_samples),
        "ratio": row.ratio,
        "target": row.target.shown(row.unit) if row.target else None,
        "met": row.met,
        "note": row.note,
    }


def print_table(rows: Iterable[Row]) -> None:
    """The rows for people."""
    table = Table(caption_justify="left")
    for title, justify in (("measurement", "left"), ("riafs", "right"), ("peer", "right"), ("", "left")):
        table.add_column(title, justify="right" if justify == "right" else "left")
    for title in ("ratio", "target", "met"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=None if Console().is_terminal else 150).print(table)


def _cells(row: Row) -> tuple[str, ...]:
    peer_value = "" if row.peer_value is None else f"{row.peer_value:.4g} {row.unit}"
    return (
        f"{row.name} ({row.note})" if row.note else row.name,
        f"{row.value:.4g} {row.unit}",
        peer_value,
        row.peer,
        "" if row.ratio is None else f"{row.ratio:.3g}",
        row.target.shown(row.unit) if row.target else "",
        {None: "", True: "yes", False: "NO"}[row.met],
    )


def save(path: Path, rows: Iterable[Row], circumstances: dict[str, object]) -> None:
    """Write the JSON to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(rows, circumstances) + "\n")
