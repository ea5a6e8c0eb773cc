"""In which order the places of a block are tried: rendezvous hashing, so that all look first where it was written.

Clients order services one way, keepstore its volumes another (both as in Arvados' sources).
"""

import hashlib


def service_weight(digest: bytes, uuid: bytes) -> bytes:
    """How much a client prefers the service with that uuid for a block: the greatest weight is asked first."""
    return hashlib.md5(digest + uuid[-15:], usedforsecurity=False).digest()


def volume_weight(digest: bytes, uuid: bytes) -> bytes:
    """How much keepstore avoids a volume for a new block: of volumes of one priority the least weight gets it."""
    return hashlib.md5(digest + uuid[12:], usedforsecurity=False).digest()
