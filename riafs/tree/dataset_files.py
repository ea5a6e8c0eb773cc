"""Small files of a store and its datasets that readers, pushes and packing all need: layout versions, configuration."""

from riafs.errors import NotInStore, TooLarge
from riafs.git.config import MAX_CONFIG, parse_config
from riafs.git.environment import PrivateGitDirs
from riafs.storage.protocol import Storage

_MAX_VERSION = 4096


async def read_layout_version(storage: Storage, directory: bytes = b"") -> bytes | None:
    """The text of ``ria-layout-version`` of a dataset's directory, or of the store; None where there is none.

    Raises as Storage.read_file, but for a text that is too long: that is no version that is known.
    """
    try:
        return await storage.read_file(
            directory + b"/ria-layout-version" if directory else b"ria-layout-version", _MAX_VERSION
        )
    except NotInStore:
        return None
    except TooLarge:
        return b"of more bytes than a version has"


async def read_settings(storage: Storage, directory: bytes, gits: PrivateGitDirs) -> dict[bytes, bytes | None]:
    """The git configuration of a dataset, of which the last line of a name counts. Raises GitError, StoreError, …"""
    try:
        return dict(await parse_config(gits, await storage.read_file(directory + b"/config", MAX_CONFIG)))
    except NotInStore:
        return {}
