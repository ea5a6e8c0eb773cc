"""Names and secrets of content that git-annex stored encrypted (its encryption documentation).

An encrypted object is named by a keyed hash of the plain key. With ``encryption=shared`` the secret stands in
``remote.log`` for all to read, so that whoever can read the repository can read the content; the other schemes wrap the
secret for OpenPGP keys. Secrets stay out of `repr`.
"""

import binascii
import hmac
from dataclasses import dataclass, field

from riafs.errors import MalformedLog
from riafs.formats.keys import Key
from riafs.formats.text import shown

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
