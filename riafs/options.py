"""Every option of a mount: one table.

From it come the command line's flags, the ``-o`` options, the keys of ``config.toml``, the ``RIAFS_*`` variables and
the manual pages. Pure data; `riafs.settings` reads the values.
"""

import enum
import math
from dataclasses import dataclass

LOG_WORDS = ("auto", "syslog", "none")


class Kind(enum.Enum):
    """How the text of an option is read, and how its value is called in help."""

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
    PATHS = "DIR[:DIR]"
    """Several: each time the option is given adds to those before, an empty value drops them."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. `default` is text in the form a user would write; None: found out from who mounts."""

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
        """What stands for the value in help."""
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
    Option("allow-other", Kind.FLAG, "no", "let all users in; the modes below then decide", _WHO),
    Option("allow-root", Kind.FLAG, "no", "let root in beside the user who mounts", _WHO),
    Option("uid", Kind.ID, None, "number of the user who owns everything (default: who mounts)", _WHO),
    Option("gid", Kind.ID, None, "number of the group that owns everything (default: of who mounts)", _WHO),
    Option(
        "file-mode",
        Kind.MODE,
        "644",
        "octal mode of files; whoever may read an executable one may run it. A read-only mount refuses writing "
        "whatever the modes are",
        _WHO,
    ),
    Option("dir-mode", Kind.MODE, "755", "octal mode of directories", _WHO),
    Option(
        "overlay",
        Kind.OVERLAY,
        "",
        "let programs change the files of datasets, and keep the changes in this directory of the user's alone until "
        "they are pushed; auto: below the user's data directory, one for each source (the same as -o rw)",
        _WHO,
    ),
    Option(
        "allow-links",
        Kind.PATHS,
        "",
        "follow links of a store into this directory too, for stores that are spread over disks by links; may be "
        "repeated (in a variable or on one line: with : between). Whoever may write to the store can show all that is "
        "in there to whoever may use the mount",
        _WHO,
    ),
    Option("noexec", Kind.FLAG, "no", "let no program be started from the mount", _WHO),
    Option(
        "refresh",
        Kind.SECONDS,
        "5",
        "how soon a branch that has moved in the store is seen",
        _WHAT,
        bounds=(0.1, 86400.0),
    ),
    Option(
        "verify",
        Kind.CHOICE,
        "auto",
        "auto: up to 16 MiB before the first byte is served, larger keys beside a reader that goes through in order; "
        "always: the whole key before its first byte; never: sizes only",
        _WHAT,
        choices=("auto", "always", "never"),
    ),
    Option(
        "checkout",
        Kind.FLAG,
        "no",
        "show the files that git keeps as a checkout has them, with line ends, encodings and $Id$ as .gitattributes "
        "asks for them, instead of as they are in the commit; only for mounts that are only read",
        _WHAT,
    ),
    Option(
        "times",
        Kind.CHOICE,
        "commit",
        "which time the files of a dataset have. commit: that of the commit that is shown; changed: that of the commit "
        "that changed the file last, as incremental backups and make want it; the history is walked once for this",
        _WHAT,
        choices=("commit", "changed"),
    ),
    Option(
        "cache-dir",
        Kind.PATH,
        None,
        "where blocks are kept and what was verified is remembered, for all mounts of a user (default: the user's "
        "cache)",
        _WHAT,
    ),
    Option("cache-size", Kind.SIZE, "10G", "how much the blocks on the disk may take; 0 keeps none there", _WHAT),
    Option(
        "cache-min-free",
        Kind.PERCENT,
        "5%",
        "how much of the cache directory's file system stays free",
        _WHAT,
        bounds=(0.0, 90.0),
    ),
    Option("cache-memory", Kind.SIZE, "64M", "how much the blocks in the mount's memory may take", _WHAT),
    Option(
        "block-size",
        Kind.SIZE,
        "1M",
        "size of the blocks in which decoded content is kept",
        _WHAT,
        bounds=(4 << 10, 64 << 20),
    ),
    Option(
        "archive-dictionary",
        Kind.SIZE,
        "1G",
        "how much memory the decoder of an archive's member may ask for",
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
    Option("per-server", Kind.COUNT, "4", "how many requests one block server gets at a time", _KEEP, bounds=(1, 64)),
    Option(
        "per-volume",
        Kind.COUNT,
        "0",
        "how many blocks are read from one volume at a time: 1 for a rotating disk, 0 for as many as there are readers",
        _KEEP,
        bounds=(0, 64),
    ),
    Option("keep-memory", Kind.SIZE, "256M", "how much whole Keep blocks in the mount's memory may take", _KEEP),
    Option(
        "lenient-manifests",
        Kind.FLAG,
        "no",
        "show manifests that break the rules where it is clear what they mean; what is missing gives errors when read",
        _KEEP,
    ),
    Option(
        "follow-k-hints",
        Kind.FLAG,
        "no",
        "look for a block first in the cluster or gateway that a +K hint in its locator names",
        _KEEP,
    ),
    Option("readahead", Kind.SIZE, "1M", "how far the kernel reads ahead in a file, where riafs may set it", _WHAT),
    Option(
        "deadline",
        Kind.SECONDS,
        "30",
        "how long one request to the store may take before programs get an error",
        _WHAT,
        bounds=(0.1, 3600.0),
    ),
    Option("foreground", Kind.FLAG, "no", "stay in front instead of returning when the mount answers", _HOW),
    Option("auto-unmount", Kind.FLAG, "no", "let fusermount3 clean up should the mount's process be killed", _HOW),
    Option(
        "log", Kind.LOG, "auto", "auto (standard error in front, else a file per mount), syslog, none, or FILE", _HOW
    ),
    Option("log-level", Kind.CHOICE, "info", "how much is logged", _HOW, choices=("debug", "info", "warning", "error")),
    Option("log-format", Kind.CHOICE, "text", "form of the log's lines", _HOW, choices=("text", "json")),
)
