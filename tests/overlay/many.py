"""An overlay with very many changes, made in seconds: ``python -m tests.overlay.many DIRECTORY COUNT`` adds COUNT new
files to the overlay in DIRECTORY, in which one file was made before, and prints how long the next opening takes.
"""

import sqlite3
import sys
import time
from pathlib import Path

from riafs.counters import Counters
from riafs.overlay.overlay import Overlay

_OTHERS = {"id": ":last + n", "name": "CAST('many-' || n AS BLOB)", "data": ":data + n"}


def multiply(overlay: Path, count: int) -> None:
    """Add `count` files like the one that is there to a closed overlay."""
    database = sqlite3.connect(overlay / "overlay.sqlite")
    [(node, data)] = database.execute("SELECT id, data FROM node WHERE kind = 1 AND data <> 0 LIMIT 1").fetchall()
    [(last, last_data)] = database.execute("SELECT max(id), max(data) FROM node").fetchall()
    text = (overlay / f"data/{data:x}").read_bytes()
    columns = [row[1] for row in database.execute("PRAGMA table_info(node)")]
    values = ", ".join(_OTHERS.get(column, column) for column in columns)
    database.execute(
        "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :count) "
        f"INSERT INTO node SELECT {values} FROM node, number WHERE id = :id",
        {"id": node, "last": last, "data": last_data, "count": count},
    )
    database.commit()
    database.close()
    for number in range(last_data + 1, last_data + count + 1):
        (overlay / f"data/{number:x}").write_bytes(text)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    multiply(directory, int(sys.argv[2]))
    began = time.perf_counter()
    opened = Overlay(str(directory), Counters())
    print(f"opened in {time.perf_counter() - began:.3f} s")
    opened.close()
