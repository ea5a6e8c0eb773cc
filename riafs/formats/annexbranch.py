"""Where the git-annex branch keeps the logs of a key."""

from riafs.formats.hashdirs import hash_lower
from riafs.formats.keys import Key

LOCATION = b".log"
WEB = b".log.web"
CHUNKS = b".log.cnk"
EQUIVALENT_KEYS = b".log.ek"


def log_path(key: Key, suffix: bytes, *, one_level: bool = False) -> bytes:
    """The path of the log with `suffix` (one of the above) of `key`, or of the key that `key` is a chunk of.

    Always under the lower-case hash of the unescaped key, whatever the dataset's layout. `one_level` is for
    repositories tuned to a single hash directory (``OneLevelBranchHash`` in ``difference.log``).
    """
    whole = key.unchunked()
    directory = hash_lower(whole.serialised)
    return (directory[:3] if one_level else directory) + b"/" + whole.file_name + suffix
