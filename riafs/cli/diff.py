"""``riafs diff``: what differs locally from the commits in the store."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from riafs.cli.changes import LocalChange, local_changes, locate
from riafs.cli.render import amount, print_json, printable


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    changes = local_changes(locate(arguments.paths, arguments.overlay))
    if arguments.json:
        print_json(
            [{"path": each.path, "kind": each.kind, "size": each.size, "source": each.source} for each in changes]
        )
    else:
        sys.stdout.writelines(_lines(changes))
    return 0


def _lines(changes: Sequence[LocalChange]) -> Iterator[str]:
    """``added    path (12 B)``."""
    for each in changes:
        source = f" (was {each.source})" if each.source is not None else ""
        directory = "/" if each.kind == "added" and each.size is None else ""
        size = f" ({amount(each.size)})" if each.size is not None else ""
        yield f"{each.kind:<8} {printable(each.path + directory + source)}{size}\n"
