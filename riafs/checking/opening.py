"""Where a check begins: the directory below which everything of a source lies, each thing once if possible."""

from riafs.tree.protocol import Directory
from riafs.tree.store_root import AliasDirectory


async def starting_point(root: Directory) -> Directory:
    """`root`, or for a whole store its datasets by their ids, where none is missing and none comes twice.

    Raises what listing the store raises.
    """
    return await root.by_id() if isinstance(root, AliasDirectory) else root
