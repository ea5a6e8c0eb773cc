"""A long text taken out of JSON while that comes, cut anywhere."""

import json
import random

import pytest

from riafs.formats.recordtext import RecordReader

PARTS = ["a", "\n", "\\", '"', "é", "\U0001f600", "\ud800", "x" * 50, " ", "manifest_text", ":", "{", "]"]


def read(text: bytes, chance: random.Random) -> tuple[bytes, object]:
    kept = bytearray()
    reader = RecordReader("manifest_text", kept.extend)
    while text:
        size = chance.choice((1, 2, 3, 7, 50, 1000))
        reader.feed(text[:size])
        text = text[size:]
    reader.finish()
    return bytes(kept), json.loads(bytes(reader.rest))


@pytest.mark.parametrize("seed", range(200))
def test_it_is_what_json_says(seed: int) -> None:
    chance = random.Random(seed)
    text, other = ("".join(chance.choices(PARTS, k=chance.randrange(60))) for _ in range(2))
    inner = {"manifest_text": "inner", "list": [{"manifest_text": 1}, other]}
    items = [("a", other), ("properties", inner), ("b", "manifest_text"), ("manifest_text", text)]
    record = dict(chance.sample(items, len(items)))
    for ascii_only in (True, False):
        raw = json.dumps(record, ensure_ascii=ascii_only, indent=chance.choice((None, 1))).encode(
            "utf-8", "surrogatepass"
        )
        kept, rest = read(raw, chance)
        assert (kept.decode("utf-8", "surrogatepass"), rest) == (text, {**record, "manifest_text": ""})


@pytest.mark.parametrize("value", ["null", "5", "[]"])
def test_what_is_no_string_stays(value: str) -> None:
    text = b'{"manifest_text": %b, "a": 1}' % value.encode()
    assert read(text, random.Random(0)) == (b"", json.loads(text))


@pytest.mark.parametrize(
    "text", [b'{"manifest_text": "a', b'{"manifest_text": "\\u12zz0000000000"}', b'{"manifest_text": "a\x01"}']
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text, random.Random(0))


def test_brackets_in_a_string_are_none_wherever_it_is_cut() -> None:
    record = b'{"name": "a{b[", "manifest_text": "hello", "list": ["]}"]}'
    for cut in range(len(record)):
        kept = bytearray()
        reader = RecordReader("manifest_text", kept.extend)
        reader.feed(record[:cut])
        reader.feed(record[cut:])
        reader.finish()
        assert (kept, reader.found) == (b"hello", True), cut


CHUNK = 1024


@pytest.mark.parametrize(
    ("before", "many", "after"),
    [
        (b'{"other": "', b"x", b'", '),
        (b'{"other": "', b"\\n", b'", '),
        (b'{"list": [', b" ", b"], "),
        (b'{"a": ', b"1", b", "),
        (b"{", b" ", b""),
        (b'{"manifest_text"', b" ", b": null, "),
        (b'{"manifest_text":', b" ", b"null, "),
    ],
)
def test_every_byte_is_looked_at_about_once(before: bytes, many: bytes, after: bytes) -> None:
    def looked_at(count: int) -> int:
        """Bytes of all chunks with what was left of those before them."""
        text = before + many * count + after + (b'"b": 1}' if b"manifest" in before else b'"manifest_text": "hello"}')
        kept, total = bytearray(), 0
        reader = RecordReader("manifest_text", kept.extend)
        for start in range(0, len(text), CHUNK):
            total += len(reader._pending) + CHUNK
            reader.feed(text[start : start + CHUNK])
        reader.finish()
        assert kept == (b"" if b"manifest" in before else b"hello")
        assert len(reader.rest) == len(text) - len(kept)
        return total

    assert looked_at(400_000) <= 4.2 * looked_at(100_000)
