"""Manifests of Keep: the files and folders of a collection, as ranges of blocks.

Each line is a stream: its folder, its blocks, and files as ``position:length:name`` in the row of those blocks
(Arvados' documentation of manifests). A file's bytes are those of its tokens, in the order of the whole manifest.

A `Manifest` is immutable and compact: folders are parsed when they are requested. `reader` makes it from a text.
"""

from collections.abc import Callable

from riafs.errors import MalformedManifest
from riafs.formats.columns import Pages
from riafs.formats.locators import Locator
from riafs.formats.manifests.blocks import Locators, Streams
from riafs.formats.manifests.folder import ManifestFolder, read_folder
from riafs.formats.manifests.largefolder import LARGE, read_large_folder
from riafs.formats.manifests.tree import FolderTree, Runs

MakePages = Callable[[], Pages]
"""Makes a place for what is too large to be kept in memory."""


class Manifest:
    """A parsed manifest. Paths are bytes as on disk, ``b""`` for the top."""

    __slots__ = ("_locators", "_pages", "_runs", "_streams", "_tree", "portable_data_hash")

    def __init__(
        self,
        portable_data_hash: bytes,
        locators: Locators,
        streams: Streams,
        tree: FolderTree,
        runs: Runs,
        pages: MakePages | None = None,
    ) -> None:
        self.portable_data_hash = portable_data_hash
        """``digest+size`` of the text without hints: the collection's name by its content."""
        self._locators = locators
        self._streams = streams
        self._tree = tree
        self._runs = runs
        self._pages = pages

    @property
    def block_count(self) -> int:
        """Blocks are numbered from 0 in the order of the manifest; one that is named twice has two numbers."""
        return len(self._locators)

    def locator(self, block: int) -> Locator:
        """The locator of a block. Raises MalformedLocator, only where the manifest was read leniently."""
        return self._locators.locator(block)

    def digest(self, block: int) -> bytes:
        """The digest of a block, 32 hexadecimal digits; cheaper than `locator`."""
        return self._locators.digest(block)

    def blocks_after(self, block: int) -> range:
        """The blocks behind one, in the order in which a reader of the whole collection wants them."""
        return range(block + 1, self.block_count)

    def with_locators_of(self, other: "Manifest") -> "Manifest":
        """This manifest, with the hints of another reading of it. Raises MalformedManifest if it is another one."""
        if other.portable_data_hash != self.portable_data_hash:
            names = f"{other.portable_data_hash.decode()}, not {self.portable_data_hash.decode()}"
            raise MalformedManifest(f"the manifest is that of {names}")
        return Manifest(self.portable_data_hash, other._locators, self._streams, self._tree, self._runs, self._pages)

    def folder_weight(self, path: bytes) -> int:
        """Bytes of the tokens in a folder, 0 if there is none: a measure of the cost of parsing it."""
        number = self._tree.find(path)
        return 0 if number is None else sum(self._runs.length(run) for run in self._tree.runs(number))

    def folder(self, path: bytes) -> ManifestFolder | None:
        """The folder at `path`, parsed again at each call; None if there is none."""
        number = self._tree.find(path)
        if number is None:
            return None
        if self._pages is not None and self.folder_weight(path) > LARGE:
            return read_large_folder(self._tree, self._runs, self._streams, number, self._pages)
        return read_folder(self._tree, self._runs, self._streams, number)
