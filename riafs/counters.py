"""Counts since the mount began: what ``.riafs/stats`` and ``riafs status`` show.

One object per mount, handed to the layers that count. Only the event loop's thread changes it.
"""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Plain integers; the names are what users see."""

    lookups: int = 0
    opens: int = 0
    reads: int = 0
    bytes_read: int = 0
    directories_listed: int = 0
    entries_listed: int = 0
    names_dropped: int = 0
    git_objects_read: int = 0
    git_restarts: int = 0
    keys_verified: int = 0
    bytes_verified: int = 0
    keys_corrupt: int = 0
    keys_missing: int = 0
    keys_healed: int = 0
    keys_unverifiable: int = 0
    members_decoded: int = 0
    blocks_from_memory: int = 0
    blocks_from_disk: int = 0
    blocks_made: int = 0
    blocks_written: int = 0
    blocks_damaged: int = 0
    api_requests: int = 0
    manifests_parsed: int = 0
    datasets_opened: int = 0
    refs_moved: int = 0
    block_requests: int = 0
    blocks_fetched: int = 0
    bytes_fetched: int = 0
    blocks_hashed: int = 0
    blocks_ahead: int = 0
    blocks_hedged: int = 0
    blocks_corrupt: int = 0
    blocks_healed: int = 0
    blocks_missing: int = 0
    signatures_renewed: int = 0
    handler_errors: int = 0
    task_failures: int = 0
    store_timeouts: int = 0

    def as_dict(self) -> dict[str, int]:
        """Counter name → count, in the order of the fields."""
        return asdict(self)
