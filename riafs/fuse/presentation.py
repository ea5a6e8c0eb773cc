"""How entries look to the kernel: owner, permissions, times, and how long it may remember them."""

import stat
from dataclasses import dataclass

import pyfuse3

from riafs.overlay.stat import Ownership, Stat
from riafs.tree.protocol import UNKNOWN_SIZE, Entry, Kind
from riafs.vfs.filesystem import Attributes
from riafs.vfs.nodes import PATIENT_ROUNDS
from riafs.vfs.open_files import OpenedFile

# Names and attributes only change when riafs tells the kernel to forget them, so they may be kept for long. Names of
# directories are looked up more often: see vfs/nodes.
LASTING_SECONDS = 86_400.0
_BLOCK = 512
_LINK = 0o777
_TYPES = {
    Kind.FILE: stat.S_IFREG, Kind.LINK: stat.S_IFLNK, Kind.DIRECTORY: stat.S_IFDIR, Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK, Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK,
}  # fmt: skip
KINDS = {type_: kind for kind, type_ in _TYPES.items()}
"""What mknod(2) is asked for → what that is to us."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """Owner of everything, permissions of files and directories, seconds between looks at the store.

    The permissions are the same whether the mount can be written or not: a read-only one refuses writing by itself,
    and a copy made with the permissions of a mount should be its owner's to change and remove.
    """

    uid: int
    gid: int
    file_mode: int
    dir_mode: int
    refresh: float

    @property
    def ownership(self) -> Ownership:
        """Owner and permissions of what comes from the store. Whoever may read an executable file may run it."""
        executable = self.file_mode | (self.file_mode & 0o444) >> 2
        return Ownership(self.uid, self.gid, self.file_mode, executable, self.dir_mode)


class Presenter:
    """Turns entries into the kernel's form."""

    def __init__(self, presentation: Presentation) -> None:
        self._presentation = presentation
        self._directory_seconds = min(LASTING_SECONDS, PATIENT_ROUNDS * presentation.refresh)
        owner = presentation.ownership
        self._modes = {
            (Kind.FILE, False): stat.S_IFREG | owner.file,
            (Kind.FILE, True): stat.S_IFREG | owner.executable,
            (Kind.LINK, False): stat.S_IFLNK | _LINK,
            (Kind.LINK, True): stat.S_IFLNK | _LINK,
            (Kind.DIRECTORY, False): stat.S_IFDIR | owner.directory,
            (Kind.DIRECTORY, True): stat.S_IFDIR | owner.directory,
        }

    def blank(self) -> pyfuse3.EntryAttributes:
        """Attributes with everything that is the same for all entries."""
        shown = pyfuse3.EntryAttributes()
        shown.entry_timeout = LASTING_SECONDS
        shown.attr_timeout = LASTING_SECONDS
        shown.st_uid = self._presentation.uid
        shown.st_gid = self._presentation.gid
        shown.st_nlink = 1
        shown.st_blksize = 1 << 20
        return shown

    def directory(self) -> pyfuse3.EntryAttributes:
        """The same for directories."""
        shown = self.blank()
        shown.entry_timeout = self._directory_seconds
        return shown

    def fleeting(self) -> pyfuse3.EntryAttributes:
        """The same for entries of a version of a directory that has been replaced: to be shown, not remembered."""
        shown = self.blank()
        shown.entry_timeout = shown.attr_timeout = 0
        return shown

    def fill(self, shown: pyfuse3.EntryAttributes, inode: int, found: Entry | Attributes | Stat) -> None:
        """Set what differs from entry to entry."""
        shown.st_ino = inode
        size = max(0, found.size)
        shown.st_size = size
        shown.st_blocks = -(-size // _BLOCK)
        if isinstance(found, Stat):  # of a file system that can be written
            shown.st_mode = _TYPES[found.kind] | found.mode
            shown.st_nlink, shown.st_rdev = found.links, found.device
            shown.st_uid, shown.st_gid = found.uid, found.gid
            shown.st_atime_ns, shown.st_mtime_ns, shown.st_ctime_ns = found.atime_ns, found.mtime_ns, found.ctime_ns
        else:
            shown.st_mode = self._modes[found.kind, found.executable]
            shown.st_mtime_ns = shown.st_ctime_ns = shown.st_atime_ns = found.mtime_ns

    def shown(self, found: Attributes | Stat) -> pyfuse3.EntryAttributes:
        """The kernel's form of the attributes of an inode."""
        shown = self.directory() if found.kind is Kind.DIRECTORY else self.blank()
        self.fill(shown, found.inode, found)
        if not found.listed:
            shown.entry_timeout = self._presentation.refresh
        return self._until_known(shown, found.kind, found.size)

    def _until_known(self, shown: pyfuse3.EntryAttributes, kind: Kind, size: int) -> pyfuse3.EntryAttributes:
        """`shown`, whose name the kernel looks up again soon where the size, and maybe the kind, is not known.

        A file's attributes are asked for at each read, since Linux reads no further than the size that it knows. Those
        of a link stay valid: a look-up may answer that it is a file, to getattr Linux would then say EIO.
        """
        if size == UNKNOWN_SIZE:
            shown.entry_timeout = self._presentation.refresh
            shown.attr_timeout = 0 if kind is Kind.FILE else LASTING_SECONDS
        return shown

    def absent(self, *, lasting: bool) -> pyfuse3.EntryAttributes:
        """The answer that lets the kernel remember that there is no such name: for long if it will be told of one."""
        shown = pyfuse3.EntryAttributes()
        shown.st_ino = 0
        shown.entry_timeout = LASTING_SECONDS if lasting else self._presentation.refresh
        return shown


def file_info(opened: OpenedFile) -> pyfuse3.FileInfo:
    """An open file, and what the kernel may do with what it has cached of it."""
    handle = pyfuse3.FileHandleT(opened.handle)
    return pyfuse3.FileInfo(fh=handle, direct_io=not opened.cached, keep_cache=opened.cached and opened.settled)
