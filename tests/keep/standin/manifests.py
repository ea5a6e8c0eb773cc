"""Manifests as the API server looks at them: which it takes, their portable data hash, and signing them."""

import hashlib
import re
from collections.abc import Callable

from tests.keep.standin.signatures import LOCATOR

_TOKEN = r"(?:[^\x00-\x20\\]|\\[0-3][0-7][0-7])+"


class RefusedManifest(ValueError):
    """The API server would not store it."""


def unescaped(text: str) -> str:
    """A name with its octal escapes undone."""

    def byte(match: re.Match[bytes]) -> bytes:
        return b"\\" if match[0] == rb"\\" else bytes([int(match[0][1:], 8)])

    return re.sub(rb"\\\\|\\[0-3][0-7][0-7]", byte, text.encode()).decode("utf-8", "surrogateescape")


def check_manifest(text: str) -> None:
    """What the API server's own validator lets through. Raises RefusedManifest."""
    if text and not text.endswith("\n"):
        raise RefusedManifest("does not end with newline")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        wrong = _wrong_with(line)
        if wrong:
            raise RefusedManifest(f"Manifest invalid for stream {number}: {wrong}")


def _wrong_with(line: str) -> str:
    name, *words = line.split(" ")
    if not words or words[-1] == "":
        return "trailing space" if words else "no file tokens"
    plain = unescaped(name) if re.fullmatch(_TOKEN, name) else ""
    if not re.fullmatch(r"\.(?:/[^/]+)*", plain) or re.search(r"/\.\.?(?:/|$)", plain):
        return "missing or invalid stream name"
    first_file = next((at for at, word in enumerate(words) if not LOCATOR.fullmatch(word)), len(words))
    if not first_file:
        return "missing or invalid locator"
    if first_file == len(words):
        return "no file tokens"
    return next((f"invalid file token {word!r}" for word in words[first_file:] if not _is_file(word)), "")


def _is_file(word: str) -> bool:
    if unescaped(word) == "0:0:.":
        return True
    if not re.fullmatch(r"[0-9]+:[0-9]+:" + _TOKEN, word):
        return False
    path = unescaped(word.split(":", 2)[2])
    return re.fullmatch(r"[^/]+(?:/[^/]+)*", path) is not None and not {".", ".."} & set(path.split("/"))


def with_locators(text: str, change: Callable[[str], str]) -> str:
    """`text` with each locator changed."""

    def line(words: list[str]) -> str:
        return " ".join(words[:1] + [change(word) if LOCATOR.fullmatch(word) else word for word in words[1:]])

    return "\n".join(line(each.split(" ")) for each in text.split("\n"))


def without_signatures(text: str) -> str:
    """`text` as it is stored."""
    return with_locators(text, lambda word: re.sub(r"\+A[^+]*", "", word))


def portable_data_hash(text: str) -> str:
    """The hash of `text` with all hints but the sizes removed."""
    bare = with_locators(text, lambda word: "+".join(word.split("+")[:2])).encode("utf-8", "surrogateescape")
    return f"{hashlib.md5(bare).hexdigest()}+{len(bare)}"


def counts(text: str) -> tuple[int, int]:
    """How many files a manifest has, and how many bytes they have together."""
    files = re.findall(r" [0-9]+:([0-9]+):(?!\\056)\S+", text)
    return len(files), sum(map(int, files))
