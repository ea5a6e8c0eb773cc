"""Special remotes of a dataset: ``remote.log`` of the git-annex branch, and the keys of encrypted content.

Lines of ``remote.log`` are ``<uuid> key=value … timestamp=<clock>``, white space and ``&`` in values written
``&<decimal>;``. Of several lines about one UUID the newest counts, the later one where clocks are equal (seen with
git-annex 10). Lines that do not parse are skipped. Values are untrusted text.

An encrypted object is named by a keyed hash of the plain key (git-annex's encryption documentation). With
``encryption=shared`` the secret is in ``remote.log``: all who can read the repository can read the content; the
other schemes wrap the secret for OpenPGP keys. Secrets stay out of `repr`.
"""

import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal

from riafs.errors import MalformedLog
from riafs.formats.annexlogs import CLOCK
from riafs.formats.keys import Key
from riafs.formats.text import shown

_TIMESTAMP = re.compile(CLOCK).fullmatch
_ESCAPE = re.compile(rb"&(\d{1,7});")
_CHUNK_SIZE = re.compile(rb"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)").fullmatch
_MAX_CHUNK_SIZE = 2**62
_INHERITED = (b"encryption", b"mac", b"cipher", b"cipherkeys", b"pubkeys")
_CONFIGURED = re.compile(
    rb'^\s*\[datalad\s+"ora-remote"\]\s*$(?:\n(?!\s*\[).*)*?\n\s*uuid\s*=\s*"?([^\s"]+)', re.MULTILINE | re.IGNORECASE
).search
_ORA = frozenset({b"ora", b"ria"})

Fields = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class SpecialRemote:
    """One special remote; what its line does not say is None, or git-annex's default."""

    uuid: bytes
    log_uuid: bytes
    """The UUID that location and chunk logs use: another one where the remote is the same as (``sameas``) another."""
    name: bytes
    type: bytes
    external_type: bytes | None
    archive_id: bytes | None
    encryption: bytes
    """``none``, ``shared``, ``hybrid``, ``pubkey`` or ``sharedpubkey``."""
    cipher: bytes | None = field(repr=False)
    """Base64."""
    mac: bytes
    chunk_size: int | None
    """Bytes; None where content is stored whole."""
    url: bytes | None = field(repr=False)
    fields: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    """All fields of the line, decoded."""


def parse_remote_log(text: bytes) -> tuple[SpecialRemote, ...]:
    """The special remotes of a ``remote.log``, in the order in which their UUIDs first appear."""
    newest: dict[bytes, tuple[Decimal, Fields]] = {}
    for line in text.split(b"\n"):
        uuid, _, rest = line.partition(b" ")
        if uuid and rest:
            fields = _fields(rest)
            clock = _clock(fields)
            if uuid not in newest or clock >= newest[uuid][0]:
                newest[uuid] = (clock, fields)
    by_uuid = {uuid: fields for uuid, (_, fields) in newest.items()}
    return tuple(_special_remote(uuid, fields, by_uuid) for uuid, fields in by_uuid.items())


def storage_remotes(
    remotes: Sequence[SpecialRemote], archive_id: bytes, configured_uuid: bytes | None
) -> tuple[SpecialRemote, ...]:
    """The remotes that describe how the dataset directory `archive_id` holds content, the one to believe first.

    That is the one that the directory's own configuration names (``datalad.ora-remote.uuid``), then every other ORA
    remote with that archive id: several may share the directory, for example one of them encrypted.
    """
    configured = [remote for remote in remotes if configured_uuid in (remote.uuid, remote.log_uuid)]
    sharing = [remote for remote in remotes if remote.archive_id == archive_id and is_ora(remote)]
    return tuple(dict.fromkeys(configured + sharing))


def configured_uuid(config: bytes) -> bytes | None:
    """The UUID of the storage that the ``config`` of a dataset's directory names, as `storage_remotes` takes it.

    DataLad writes ``datalad.ora-remote.uuid`` there; a hint, so the file is searched and not parsed.
    """
    match = _CONFIGURED(config)
    return match[1] if match else None


def parse_size(text: bytes) -> int | None:
    """Bytes in a size as git-annex takes it (``1MiB``, ``100kB``, ``1.5 gigabytes``, ``64k``), or None.

    Letter case does not matter, a missing ``B`` neither; ``k`` is 1000, ``Ki`` is 1024.
    """
    match = _CHUNK_SIZE(text.strip())
    multiplier = _UNITS.get(match[2].lower()) if match else None
    if match is None or multiplier is None:
        return None
    size = (Decimal(match[1].decode()) * multiplier).to_integral_value(ROUND_HALF_EVEN)
    return int(size) if size <= _MAX_CHUNK_SIZE else None


def _units() -> dict[bytes, int]:
    """Every spelling of git-annex's storage and memory units, in lower case → bytes."""
    units = dict.fromkeys((b"", b"b", b"byte", b"bytes"), 1)
    prefixes = ((b"kilo", b"kibi"), (b"mega", b"mebi"), (b"giga", b"gibi"), (b"tera", b"tebi"), (b"peta", b"pebi"))
    for power, (decimal, binary) in enumerate(prefixes, start=1):
        letter = decimal[:1]
        for short, long, value in ((letter, decimal, 1000**power), (letter + b"i", binary, 1024**power)):
            units |= dict.fromkeys((short, short + b"b", long + b"byte", long + b"bytes"), value)
    return units


_UNITS = _units()


def _fields(rest: bytes) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for word in rest.split():
        name, equals, value = word.partition(b"=")
        if equals:
            fields[name] = _ESCAPE.sub(_character, value)
    return fields


def _character(match: re.Match[bytes]) -> bytes:
    """The character of ``&<decimal>;``, or the text itself if that is none."""
    number = int(match[1])
    try:
        return chr(number).encode()
    except (ValueError, UnicodeEncodeError):
        return match[0]


def _clock(fields: Fields) -> Decimal:
    match = _TIMESTAMP(fields.get(b"timestamp", b""))
    return Decimal(match[1].decode()) if match else Decimal(0)


def _special_remote(uuid: bytes, own: Fields, by_uuid: Mapping[bytes, Fields]) -> SpecialRemote:
    """The remote of one line; a ``sameas`` remote takes its encryption from the one it is the same as."""
    log_uuid = own.get(b"sameas-uuid", uuid)
    lender = own if log_uuid == uuid else by_uuid.get(log_uuid, own)
    encryption = {name: lender[name] for name in _INHERITED if name in lender}
    return SpecialRemote(
        uuid=uuid,
        log_uuid=log_uuid,
        name=own.get(b"name", own.get(b"sameas-name", b"")),
        type=own.get(b"type", b""),
        external_type=own.get(b"externaltype"),
        archive_id=own.get(b"archive-id"),
        encryption=encryption.get(b"encryption", b"none"),
        cipher=encryption.get(b"cipher"),
        mac=encryption.get(b"mac", b"HMACSHA1"),
        chunk_size=parse_size(own.get(b"chunk", b"")) or None,
        url=own.get(b"url"),
        fields=tuple(own.items()),
    )


def is_ora(remote: SpecialRemote) -> bool:
    """Whether a remote keeps its objects in a RIA store."""
    return remote.type in (b"external", b"") and remote.external_type in _ORA


# -- encrypted content ------------------------------------------------------------------------------------------------

MAC_KEY_LENGTH = 256
"""Bytes at the beginning of the secret that name objects; the rest is the passphrase of their content."""
_MAX_CIPHER = 65536
_MACS = {
    b"HMACSHA1": "sha1",
    b"HMACSHA224": "sha224",
    b"HMACSHA256": "sha256",
    b"HMACSHA384": "sha384",
    b"HMACSHA512": "sha512",
}


@dataclass(frozen=True, slots=True)
class SharedCipher:
    """The two parts of the secret of ``encryption=shared``."""

    mac_key: bytes = field(repr=False)
    passphrase: bytes = field(repr=False)
    """For OpenPGP's symmetric encryption; one line, without the line end."""


def shared_cipher(cipher_base64: bytes) -> SharedCipher:
    """The secret in the ``cipher`` field of a remote with ``encryption=shared``. Raises MalformedLog.

    git-annex makes 685 bytes: 684 of Base64 and a newline that is not part of the passphrase.
    """
    if len(cipher_base64) > _MAX_CIPHER:
        raise MalformedLog(f"remote.log holds a cipher of {len(cipher_base64)} bytes")
    try:
        secret = binascii.a2b_base64(cipher_base64, strict_mode=True)
    except binascii.Error as error:
        raise MalformedLog(f"remote.log holds a cipher that is no Base64: {error}") from error
    passphrase = secret[MAC_KEY_LENGTH:].partition(b"\n")[0]
    if not passphrase:
        raise MalformedLog(f"remote.log holds a cipher of {len(secret)} bytes, too short for a shared secret")
    return SharedCipher(secret[:MAC_KEY_LENGTH], passphrase)


def encrypted_key(mac_key: bytes, mac: bytes, key: Key) -> Key:
    """The key under which the encrypted form of `key` (or of one chunk of it) is stored.

    `mac` is the remote's ``mac`` field. Raises MalformedLog where it is none that git-annex knows.
    """
    algorithm = _MACS.get(mac)
    if algorithm is None:
        raise MalformedLog(f"remote.log names the unknown MAC {shown(mac)}")
    name = hmac.digest(mac_key, key.serialised, algorithm).hex().encode()
    return Key(b"GPG" + mac, name, None, None, None, None)
