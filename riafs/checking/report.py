"""The result of a check: one finding for each part that is not good, and sums."""

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from riafs.content.copies import Copy, CopyState, Part

MAX_PATHS = 10


class Verdict(enum.Enum):
    """The state of a part; the first three mean that readers get an error."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNREACHABLE = "unreachable"
    DAMAGED_COPY = "damaged copy"
    """There is a good copy beside it."""
    UNDER_REPLICATED = "under-replicated"
    OVER_REPLICATED = "over-replicated"
    GOOD = "good"

    @property
    def lost(self) -> bool:
        """Whether readers get an error."""
        return self in (Verdict.MISSING, Verdict.DAMAGED, Verdict.UNREACHABLE)


@dataclass(slots=True)
class Finding:
    """A part that is not good, and the files that use it."""

    part: Part
    verdict: Verdict
    copies: Sequence[Copy]
    wanted: int | None
    paths: list[bytes] = field(default_factory=list)
    """Some of them, at most MAX_PATHS; none where no file of this version uses it."""
    users: int = 0

    def used_by(self, path: bytes | None) -> None:
        """Note that the file at `path` uses it; None for no file."""
        if path is not None:
            self.users += 1
            if len(self.paths) < MAX_PATHS:
                self.paths.append(path)


@dataclass(slots=True)
class ArchiveTally:
    """The states of the parts in one archive, as far as they were read."""

    states: Counter[CopyState] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """What is wrong with those that are not usable; those that say which part they are about, apart."""


@dataclass(slots=True)
class Report:
    """Everything that was found. Sizes in bytes."""

    parts: int = 0
    size: int = 0
    """Of the parts whose size is known."""
    good: int = 0
    unverifiable: int = 0
    """Parts among the good ones that have no digest: only their size was checked."""
    copies: int = 0
    findings: list[Finding] = field(default_factory=list)
    archives: dict[tuple[bytes, str], ArchiveTally] = field(default_factory=dict)
    """By dataset (its id) and place."""
    unlisted: list[tuple[bytes, str]] = field(default_factory=list)
    """Directories that cannot be listed: path and reason. What is in them was not checked."""
    empty: list[tuple[bytes, str]] = field(default_factory=list)
    """Directories that are shown empty for a reason, such as a subdataset that is not in the store."""

    @property
    def lost(self) -> bool:
        """Whether something cannot be read, or there was nothing to read, which is no success."""
        return bool(self.unlisted) or self.nothing or any(finding.verdict.lost for finding in self.findings)

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to read."""
        return not self.parts and not self.unlisted

    def count(self, dataset: bytes, copy: Copy) -> None:
        """Note a copy in an archive of the dataset with that id."""
        tally = self.archives.setdefault((dataset, copy.place), ArchiveTally())
        tally.states[copy.state] += 1
        if not copy.state.usable:
            tally.reasons[copy.problem] += 1


def judge(copies: Sequence[Copy], wanted: int | None) -> Verdict:
    """The verdict on a part with these copies, where `wanted` copies are asked for (None: it does not matter)."""
    usable = sum(copy.state.usable for copy in copies)
    if not usable:
        states = {copy.state for copy in copies} - {CopyState.ABSENT}
        if CopyState.UNREACHABLE in states:
            return Verdict.UNREACHABLE
        return Verdict.DAMAGED if states else Verdict.MISSING
    if wanted is not None and usable < wanted:
        return Verdict.UNDER_REPLICATED
    if any(copy.state is CopyState.DAMAGED for copy in copies):
        return Verdict.DAMAGED_COPY
    if any(copy.state is CopyState.UNREACHABLE for copy in copies):
        return Verdict.GOOD if wanted is None or usable >= wanted else Verdict.UNDER_REPLICATED
    return Verdict.OVER_REPLICATED if wanted is not None and usable > wanted else Verdict.GOOD
