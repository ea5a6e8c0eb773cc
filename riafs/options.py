"""Every option of a mount: one table.

From it come the command line's flags, the ``-o`` options, the keys of ``config.toml``, the ``RIAFS_*`` variables and
the manual pages. Pure data; `riafs.settings` reads the values.
"""

import enum
import math
from dataclasses import dataclass

LOG_WORDS = ("auto", "syslog", "none")


class Kind(enum.Enum):
    """How the text of an option is read, and the placeholder for its value in help."""

    FLAG = "yes|no"
    SIZE = "SIZE"
    SECONDS = "SECONDS"
    PERCENT = "PERCENT"
    PATH = "DIR"
    CHOICE = "CHOICE"
    ID = "ID"
    COUNT = "NUMBER"
    MODE = "MODE"
    LOG = "LOG"
    FILE = "FILE"
    OVERLAY = "DIR|auto"
    COMMAND = "COMMAND"
    """A program and arguments, quoted as for a shell."""
    PATHS = "DIR[:DIR]"
    """Several: each time the option is given adds to those before, an empty value drops them."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. `default` is text in the form a user would write; None: depends on the user who mounts."""

    name: str
    kind: Kind
    default: str | None
    help: str
    group: str
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float] = (0.0, math.inf)

    @property
    def field(self) -> str:
        """The name in Settings, in ``-o`` and in TOML, where a dash may be an underscore."""
        return self.name.replace("-", "_")

    @property
    def placeholder(self) -> str:
        """The placeholder for the value in help."""
        return "|".join(self.choices) if self.choices else self.kind.value

    @property
    def variable(self) -> str:
        """The environment variable that sets this option."""
        return f"RIAFS_{self.field.upper()}"


_WHO = "Access and ownership"
_WHAT = "Content"
_KEEP = "Keep"
_HOW = "Running"

OPTIONS: tuple[Option, ...] = (
    Option(
        "allow-other", Kind.FLAG, "no", "admit all users of the machine; the kernel then checks owner and modes", _WHO
    ),
    Option("allow-root", Kind.FLAG, "no", "admit root as well as the user who mounts", _WHO),
    Option("uid", Kind.ID, None, "number of the user who owns all files (default: the user who mounts)", _WHO),
    Option(
        "gid", Kind.ID, None, "number of the group that owns all files (default: that of the user who mounts)", _WHO
    ),
    Option(
        "file-mode",
        Kind.MODE,
        "644",
        "octal mode of files; executable files get x wherever this has r. A read-only mount refuses writing whatever "
        "the modes are",
        _WHO,
    ),
    Option("dir-mode", Kind.MODE, "755", "octal mode of directories", _WHO),
    Option(
        "overlay",
        Kind.OVERLAY,
        "",
        "let programs change the files of datasets, and keep the changes in this private directory until they are "
        "pushed; auto: a directory for each source below the user's data directory (the same as -o rw)",
        _WHO,
    ),
    Option(
        "allow-links",
        Kind.PATHS,
        "",
        "also follow links of a store into this directory, for stores whose parts are on several disks; may be "
        "repeated (in a variable or a configuration file: separated by :). Users who may write to the store can then "
        "show all files of this directory to users of the mount",
        _WHO,
    ),
    Option("noexec", Kind.FLAG, "no", "programs in the mount cannot be run", _WHO),
    Option(
        "refresh",
        Kind.SECONDS,
        "5",
        "how often the mount looks for changed branches in the store",
        _WHAT,
        bounds=(0.1, 86400.0),
    ),
    Option(
        "verify",
        Kind.CHOICE,
        "auto",
        "when content is compared with its checksum. auto: up to 16 MiB before the first byte is served, larger "
        "content while it is read from front to back; always: all of it before the first byte, and each later read; "
        "never: only sizes are compared",
        _WHAT,
        choices=("auto", "always", "never"),
    ),
    Option(
        "checkout",
        Kind.FLAG,
        "no",
        "show files in git as a checkout has them, with the line ends, encodings and $Id$ that .gitattributes asks "
        "for, instead of as they are in the commit; only for read-only mounts",
        _WHAT,
    ),
    Option(
        "times",
        Kind.CHOICE,
        "commit",
        "the time of the files of a dataset. commit: that of the commit that is shown; changed: that of the commit "
        "that changed the file last, for incremental backups and make; the history is read once for this",
        _WHAT,
        choices=("commit", "changed"),
    ),
    Option(
        "cache-dir",
        Kind.PATH,
        None,
        "directory of the block cache and of the record of verified content, shared by all mounts of a user (default: "
        "riafs in the user's cache directory)",
        _WHAT,
    ),
    Option("cache-size", Kind.SIZE, "10G", "how much disk space the block cache may take; 0: no blocks on disk", _WHAT),
    Option(
        "cache-min-free",
        Kind.PERCENT,
        "5%",
        "how much of the cache directory's file system the block cache leaves free",
        _WHAT,
        bounds=(0.0, 90.0),
    ),
    Option("cache-memory", Kind.SIZE, "64M", "how much memory decoded blocks may take", _WHAT),
    Option(
        "block-size",
        Kind.SIZE,
        "1M",
        "size of the blocks of the block cache",
        _WHAT,
        bounds=(4 << 10, 64 << 20),
    ),
    Option(
        "archive-dictionary",
        Kind.SIZE,
        "1G",
        "how much memory the decoder of an archive's member may need; members that need more are refused",
        _WHAT,
        bounds=(1 << 20, 4 << 30),
    ),
    Option(
        "archive-password-file",
        Kind.FILE,
        "",
        "file with the password of encrypted archives, readable by its owner only (default: the variable "
        "RIAFS_ARCHIVE_PASSWORD or the systemd credential riafs-archive-password)",
        _WHAT,
    ),
    Option(
        "token-file",
        Kind.FILE,
        "",
        "file with the token for an Arvados cluster or its block servers, readable by its owner only (default: the "
        "variable ARVADOS_API_TOKEN, the systemd credential arvados-api-token, or arvados/settings.conf)",
        _KEEP,
    ),
    Option(
        "per-server", Kind.COUNT, "4", "how many requests are sent to one block server at a time", _KEEP, bounds=(1, 64)
    ),
    Option(
        "per-volume",
        Kind.COUNT,
        "0",
        "how many blocks are read from one volume at a time: 1 for a rotating disk, 0 for no limit",
        _KEEP,
        bounds=(0, 64),
    ),
    Option("keep-memory", Kind.SIZE, "256M", "how much memory whole Keep blocks may take", _KEEP),
    Option(
        "lenient-manifests",
        Kind.FLAG,
        "no",
        "show manifests that break the rules, as far as their meaning is clear; reading missing parts gives errors",
        _KEEP,
    ),
    Option(
        "follow-k-hints",
        Kind.FLAG,
        "no",
        "ask the cluster or gateway in a block's +K hint first; it then receives the token",
        _KEEP,
    ),
    Option("readahead", Kind.SIZE, "1M", "how far the kernel reads ahead in a file, if riafs may set it", _WHAT),
    Option(
        "deadline",
        Kind.SECONDS,
        "30",
        "how long one request of a program waits for the store before it fails",
        _WHAT,
        bounds=(0.1, 3600.0),
    ),
    Option(
        "ssh-command",
        Kind.COMMAND,
        "ssh",
        "the program, and arguments, that reaches stores behind ria+ssh:// (it gets ssh's options, the host, and sftp)",
        _HOW,
    ),
    Option(
        "foreground", Kind.FLAG, "no", "stay in the foreground instead of returning when the mount can be used", _HOW
    ),
    Option(
        "auto-unmount", Kind.FLAG, "no", "have fusermount3 unmount the directory if the mount's process is killed", _HOW
    ),
    Option(
        "log",
        Kind.LOG,
        "auto",
        "where the log goes: auto (standard error in the foreground, else a file for each mount), syslog, none, or "
        "FILE",
        _HOW,
    ),
    Option(
        "log-level",
        Kind.CHOICE,
        "info",
        "the lowest level that is logged",
        _HOW,
        choices=("debug", "info", "warning", "error"),
    ),
    Option("log-format", Kind.CHOICE, "text", "format of the log's lines", _HOW, choices=("text", "json")),
)
