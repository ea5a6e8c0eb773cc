"""``riafs config``: the settings a mount would have now, and where each comes from."""

import argparse

from riafs.cli.render import print_json, print_table
from riafs.settings import Effective, complete_environment, load, show_settings


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    effective = load(complete_environment(), arguments.given)
    rows = shown(effective)
    if arguments.json:
        print_json([{"name": name, "value": value, "origin": origin} for name, value, origin in rows])
    else:
        print_table(("OPTION", "VALUE", "ORIGIN"), rows)
    return 0


def shown(effective: Effective) -> list[tuple[str, str, str]]:
    """(option, value as one would write it, origin) in the table's order."""
    origins = {given.name: given.origin for given in effective.winners}
    return [(name, text, origins[name]) for name, text in show_settings(effective.settings).items()]
