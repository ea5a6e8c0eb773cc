"""One line of ``riafs doctor``."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing: `state` is ok, warn or fail; `advice` is what to do about the latter two."""

    state: str
    what: str
    advice: str = ""
