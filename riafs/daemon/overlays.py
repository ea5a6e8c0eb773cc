"""What a mount that can be written tells about its changes."""

import os
from collections.abc import Mapping
from typing import Any

from riafs.vfs.writable import WritableFileSystem


def overlay_status(filesystem: WritableFileSystem) -> Mapping[str, Any]:
    """Where the overlay is, and how many paths differ from their commits."""
    overlay = filesystem.overlay
    counts = {os.fsdecode(base.dataset): sum(1 for _ in overlay.changes(base.dataset)) for base in overlay.datasets()}
    return {"overlay": overlay.path, "changes": sum(counts.values()), "changed": counts}
