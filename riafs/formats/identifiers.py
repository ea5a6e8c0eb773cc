"""What Arvados calls its records and their content: uuids and portable data hashes (Arvados' API documentation)."""

import re

_UUID = re.compile(rb"[0-9a-z]{5}-([0-9a-z]{5})-[0-9a-z]{15}")
_HASH = re.compile(rb"[0-9a-f]{32}\+(?:0|[1-9][0-9]{0,18})")
_COLLECTION, _PROJECT = b"4zz18", (b"j7d0g", b"tpzed")


def is_portable_data_hash(text: bytes) -> bool:
    """Whether `text` is the name of a collection by its content.

    >>> is_portable_data_hash(b"d41d8cd98f00b204e9800998ecf8427e+0")
    True
    """
    return _HASH.fullmatch(text) is not None


def is_collection_uuid(text: bytes) -> bool:
    """Whether `text` is the uuid of a collection."""
    return _kind(text) == _COLLECTION


def is_project_uuid(text: bytes) -> bool:
    """Whether `text` is the uuid of a project, or of a user, who has a home project."""
    return _kind(text) in _PROJECT


def is_identifier(text: bytes) -> bool:
    """Whether `text` can be looked up where collections and projects are found by uuid or portable data hash."""
    return is_portable_data_hash(text) or is_collection_uuid(text) or is_project_uuid(text)


def _kind(text: bytes) -> bytes:
    match = _UUID.fullmatch(text)
    return b"" if match is None else match[1]
