"""Where the git-annex branch keeps the logs of a key, which depends on how the repository was tuned.

``difference.log`` says so, one line for each clone: ``<uuid> fromList [OneLevelBranchHash,…] timestamp=<clock>`` (seen
with git-annex 10; tunings are for good, made with ``git -c annex.tune.branchhash1=true annex init``).
"""

import re
from dataclasses import dataclass

from riafs.formats.hashdirs import hash_lower
from riafs.formats.keys import Key

DIFFERENCE_LOG = b"difference.log"
LOCATION = b".log"
WEB = b".log.web"
CHUNKS = b".log.cnk"
EQUIVALENT_KEYS = b".log.ek"

_ONE_LEVEL = b"OneLevelBranchHash"
_LINE = re.compile(rb"^\S+ (?:fromList )?(.*?)(?: timestamp=\S*)?\r?$", re.MULTILINE)
_NAME = re.compile(rb"[^\s,\[\]]+")


@dataclass(frozen=True, slots=True)
class Tuning:
    """The ways in which a repository differs from others, by git-annex's names; none for most."""

    names: frozenset[bytes] = frozenset()

    @property
    def of_objects(self) -> frozenset[bytes]:
        """Those that concern more than the branch: where a working tree's links lead, and what nobody knows yet."""
        return self.names - {_ONE_LEVEL}

    def log_path(self, key: Key, suffix: bytes) -> bytes:
        """The path of the log with `suffix` (one of the above) of `key`, or of the key that `key` is a chunk of.

        Always under the lower-case hash of the unescaped key, whatever the dataset's layout.
        """
        whole = key.unchunked()
        directory = hash_lower(whole.serialised)
        return (directory[:3] if _ONE_LEVEL in self.names else directory) + b"/" + whole.file_name + suffix


def parse_difference_log(text: bytes) -> Tuning:
    """What any line of ``difference.log`` says: all clones of a repository are tuned in the same way."""
    return Tuning(frozenset(name for line in _LINE.finditer(text) for name in _NAME.findall(line[1])))
