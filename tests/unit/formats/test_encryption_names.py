import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedLog
from riafs.formats.keys import parse_key
from riafs.formats.specialremotes import encrypted_key, shared_cipher

KEY = parse_key(b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt")
SECRET = base64.b64encode(bytes(range(256)) * 2) + b"\n"


def test_the_shared_secret_falls_into_mac_key_and_passphrase() -> None:
    cipher = shared_cipher(base64.b64encode(SECRET))
    assert len(SECRET) == 685
    assert cipher.mac_key == SECRET[:256]
    assert cipher.passphrase == SECRET[256:684]


@pytest.mark.parametrize(
    "text",
    [b"", b"%%", b"QUJD", base64.b64encode(b"x" * 256), base64.b64encode(b"x" * 256 + b"\ny"), b"QUJDRA" * 20_000],
)
def test_what_is_no_shared_secret_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedLog):
        shared_cipher(text)


@pytest.mark.parametrize(
    ("mac", "algorithm"),
    [
        (b"HMACSHA1", "sha1"),
        (b"HMACSHA224", "sha224"),
        (b"HMACSHA256", "sha256"),
        (b"HMACSHA384", "sha384"),
        (b"HMACSHA512", "sha512"),
    ],
)
def test_encrypted_objects_are_named_by_a_keyed_hash_of_the_plain_key(mac: bytes, algorithm: str) -> None:
    key = encrypted_key(b"secret", mac, KEY)
    expected = hmac.new(b"secret", KEY.serialised, getattr(hashlib, algorithm)).hexdigest().encode()
    assert key.serialised == b"GPG" + mac + b"--" + expected


def test_each_chunk_has_a_name_of_its_own() -> None:
    assert encrypted_key(b"k", b"HMACSHA1", KEY.chunk(4, 1)) != encrypted_key(b"k", b"HMACSHA1", KEY.chunk(4, 2))


def test_an_unknown_mac_is_refused() -> None:
    with pytest.raises(MalformedLog, match="HMACMD5"):
        encrypted_key(b"k", b"HMACMD5", KEY)


def test_secrets_do_not_show() -> None:
    assert "b'" not in repr(shared_cipher(base64.b64encode(SECRET)))


@given(st.binary())
def test_any_bytes_are_a_cipher_or_malformed(text: bytes) -> None:
    try:
        cipher = shared_cipher(text)
    except MalformedLog:
        return
    assert cipher.passphrase
