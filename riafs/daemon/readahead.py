"""How far the kernel reads ahead in files of a mount.

The kernel starts with 128 KiB for every FUSE mount. The setting belongs to the mount's backing device information in
sysfs, which only root may write.
"""

import contextlib


def set_readahead(device: str, size: int) -> None:
    """Let the kernel read `size` bytes ahead on the mount with that ``major:minor``, if this process may say so."""
    with contextlib.suppress(OSError), open(f"/sys/class/bdi/{device}/read_ahead_kb", "w") as file:
        file.write(str(size >> 10))
