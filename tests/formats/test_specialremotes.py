import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedLog
from riafs.formats.keys import parse_key
from riafs.formats.specialremotes import (
    SpecialRemote,
    encrypted_key,
    parse_remote_log,
    parse_size,
    shared_cipher,
    storage_remotes,
)

LINE = (
    b"f533e27c archive-id=7fa19776 autoenable=true encryption=none externaltype=ora name=ria-storage type=external "
    b"url=ria+file:///abs/store timestamp=1795225847s\n"
)


def _only(text: bytes) -> SpecialRemote:
    (remote,) = parse_remote_log(text)
    return remote


def test_a_storage_siblings_line_is_read() -> None:
    remote = _only(LINE)
    assert (remote.uuid, remote.log_uuid, remote.name) == (b"f533e27c", b"f533e27c", b"ria-storage")
    assert (remote.type, remote.external_type, remote.archive_id) == (b"external", b"ora", b"7fa19776")
    assert (remote.encryption, remote.cipher, remote.mac, remote.chunk_size) == (b"none", None, b"HMACSHA1", None)
    assert remote.url == b"ria+file:///abs/store"
    assert (b"autoenable", b"true") in remote.fields


def test_the_newest_line_of_a_remote_counts_and_the_later_of_two_equals() -> None:
    text = (
        b"u name=new timestamp=6.5s\nu name=old timestamp=6s\nv name=first timestamp=5s\nv name=second timestamp=5s\n"
    )
    text += b"w name=third\nw name=fourth\n"
    assert [remote.name for remote in parse_remote_log(text)] == [b"new", b"second", b"fourth"]


def test_escaped_characters_are_decoded_and_impossible_ones_kept() -> None:
    assert _only(b"u name=a&32;b&38;c&228;&10; timestamp=1s").name == "a b&cä\n".encode()
    assert _only(b"u name=&55296;&9999999;&;&x;&12345678; timestamp=1s").name == b"&55296;&9999999;&;&x;&12345678;"


def test_a_sameas_remote_keeps_its_place_and_borrows_uuid_and_encryption() -> None:
    text = b"a cipher=QUJD encryption=shared mac=HMACSHA256 name=one chunk=1MiB type=external timestamp=1s\n"
    text += b"b archive-id=i externaltype=ora sameas-name=two sameas-uuid=a type=external timestamp=2s\n"
    remote = parse_remote_log(text)[1]
    assert (remote.uuid, remote.log_uuid, remote.name, remote.archive_id) == (b"b", b"a", b"two", b"i")
    assert (remote.encryption, remote.cipher, remote.mac, remote.chunk_size) == (
        b"shared",
        b"QUJD",
        b"HMACSHA256",
        None,
    )


def test_a_sameas_remote_whose_other_is_missing_keeps_its_own_fields() -> None:
    assert _only(b"b encryption=shared sameas-name=two sameas-uuid=gone timestamp=2s").encryption == b"shared"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (b"1MiB", 1 << 20),
        (b"64KiB", 64 << 10),
        (b"100kB", 100_000),
        (b"100KB", 100_000),
        (b"1.5 MiB", 3 << 19),
        (b"10", 10),
        (b"10B", 10),
        (b"2g", 2 * 10**9),
        (b"2Gi", 2 << 30),
        (b"3 megabytes", 3_000_000),
        (b"1mebibyte", 1 << 20),
        (b"0", 0),
    ],
)
def test_sizes_are_read_in_git_annex_units(text: bytes, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [b"", b"MiB", b"-1", b"1XB", b"1 2", b"9999999PB", b"1e9", b"9" * 40])
def test_what_is_no_size_is_none(text: bytes) -> None:
    assert parse_size(text) is None


def test_the_secrets_of_a_remote_do_not_show() -> None:
    assert "c2VjcmV0" not in repr(_only(b"u cipher=c2VjcmV0 encryption=shared timestamp=1s"))


def test_the_configured_remote_comes_first_then_all_that_share_the_archive_id() -> None:
    lines = (
        b"a archive-id=i externaltype=ora type=external",
        b"b archive-id=i externaltype=ria type=external",
        b"c archive-id=other externaltype=ora type=external",
        b"d archive-id=i externaltype=git-annex-remote-rclone type=external",
        b"e archive-id=i type=directory",
        b"f externaltype=ora sameas-uuid=z type=external",
    )
    remotes = parse_remote_log(b"\n".join(line + b" timestamp=1s" for line in lines))
    assert [remote.uuid for remote in storage_remotes(remotes, b"i", None)] == [b"a", b"b"]
    assert [remote.uuid for remote in storage_remotes(remotes, b"i", b"b")] == [b"b", b"a"]
    assert [remote.uuid for remote in storage_remotes(remotes, b"i", b"unknown")] == [b"a", b"b"]
    assert [remote.uuid for remote in storage_remotes(remotes, b"none", b"z")] == [b"f"]
    assert storage_remotes(remotes, b"none", None) == ()


@given(st.binary() | st.from_regex(rb"([a-c] ([a-z-]{1,4}=[&0-9;a-z]{0,9} ){0,3}(timestamp=[0-9.s]{0,5})?\n){0,5}"))
def test_any_bytes_are_a_log(text: bytes) -> None:
    remotes = parse_remote_log(text)
    assert len({remote.uuid for remote in remotes}) == len(remotes)


@given(st.binary(max_size=30))
def test_any_bytes_are_a_size_or_none(text: bytes) -> None:
    assert (parse_size(text) or 0) >= 0


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


def test_a_cipher_does_not_show() -> None:
    assert "b'" not in repr(shared_cipher(base64.b64encode(SECRET)))


@given(st.binary())
def test_any_bytes_are_a_cipher_or_malformed(text: bytes) -> None:
    try:
        cipher = shared_cipher(text)
    except MalformedLog:
        return
    assert cipher.passphrase
