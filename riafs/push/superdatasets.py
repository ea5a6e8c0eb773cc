"""Pushing several datasets of which some are registered in others: subdatasets first, then who registers them.

Each dataset's push is whole by itself. All of them are looked at before the first is pushed, so that a conflict in one
stops them all; when a push is stopped later, the subdatasets that are pushed already stay pushed, and the same push
run again goes on from there, for what is pushed already is no change any more.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from riafs.errors import PushRefused
from riafs.push.pushing import Push
from riafs.push.request import PushReport


@dataclass(frozen=True, slots=True)
class Member:
    """One dataset of a push. `name` is any that tells the members apart, also to people."""

    name: bytes
    push: Push
    above: bytes | None = None
    """Name of the member that registers it; None where nobody does, or where that is not to be changed."""
    path: bytes = b""
    """Where it is registered there."""


async def push_all(members: Sequence[Member]) -> dict[bytes, PushReport]:
    """Push every member after those registered in it; the reports by name. Raises as Push.run, and PushRefused for
    members that register each other.
    """
    ordered = subdatasets_first(members)
    for member in ordered:
        member.push.called(os.fsdecode(member.name))
        await member.push.prepare()
    reports: dict[bytes, PushReport] = {}
    moved: dict[bytes, dict[bytes, bytes]] = {}
    for number, member in enumerate(ordered, 1):
        position = f" ({number} of {len(ordered)})" if len(ordered) > 1 else ""
        member.push.called(os.fsdecode(member.name) + position)
        gitlinks = moved.get(member.name, {})
        reports[member.name] = await member.push.run(gitlinks)
        # One without changes, here and below, stays registered at the commit it is registered at.
        if member.above is not None and (gitlinks or member.push.has_changes):
            moved.setdefault(member.above, {})[member.path] = reports[member.name].commit
    return reports


def subdatasets_first(members: Sequence[Member]) -> list[Member]:
    """The members in an order in which each comes after those registered in it."""
    waiting = {member.name: member for member in members}
    ordered: list[Member] = []
    while waiting:
        blocked = {member.above for member in waiting.values()}
        free = [member for name, member in waiting.items() if name not in blocked]
        if not free:
            raise PushRefused("datasets that are registered in each other cannot be pushed together")
        ordered += [waiting.pop(member.name) for member in free]
    return ordered
