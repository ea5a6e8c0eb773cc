"""Keep and Arvados URLs as users write them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from riafs.errors import BadSource, RiafsError
from riafs.formats.sources import ArvadosUrl, KeepUrl, RiaUrl, parse_arvados_url, parse_keep_url, parse_source

UUID = b"zzzzz-4zz18-0123456789abcde"
HASH = b"d41d8cd98f00b204e9800998ecf8427e+0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("keep+file:///v?manifests=/m", KeepUrl("file", (b"/v",), b"/m", None, None)),
        ("keep+file:///v0,/v1/?manifests=m", KeepUrl("file", (b"/v0", b"/v1"), b"m", None, None)),
        ("keep+file:///a%2Cb%3F,/v?manifests=%FF&tree=t", KeepUrl("file", (b"/a,b?", b"/v"), b"\xff", b"t", None)),
        ("keep+file:///v?manifests=-", KeepUrl("file", (b"/v",), b"-", None, None)),
        ("keep+file:///v?tree=/t&manifests=/m", KeepUrl("file", (b"/v",), b"/m", b"/t", None)),
        ("keep+file:///v?manifests=/m#c 1", KeepUrl("file", (b"/v",), b"/m", None, b"c 1")),
        ("arvados://h?tree=t", ArvadosUrl("h", None, b"t")),
        ("keep+http://h:25107,[::1]:1?manifests=/m", KeepUrl("http", (b"h:25107", b"[::1]:1"), b"/m", None, None)),
        ("keep+https://h?manifests=/m#" + HASH.decode(), KeepUrl("https", (b"h",), b"/m", None, HASH)),
        ("arvados://h", ArvadosUrl("h", None)),
        ("arvados://h:8000/", ArvadosUrl("h:8000", None)),
        ("arvados://h#" + UUID.decode(), ArvadosUrl("h", UUID)),
        ("arvados://h/#" + HASH.decode(), ArvadosUrl("h", HASH)),
        ("ria+file:///s", RiaUrl("file", None, b"/s", None, None, None)),
        ("/s", RiaUrl("file", None, b"/s", None, None, None)),
    ],
)
def test_sources_are_read(text: str, expected: object) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("keep+ftp://h?manifests=/m", "no Keep URL"),
        ("keep+file:///v", "where the manifests are"),
        ("keep+file:///v?manifests=", "nothing after manifests"),
        ("keep+file:///v?manifests=/m&manifests=/n", "twice"),
        ("keep+file:///v?manifests=/m&other=1", "unknown part 'other'"),
        ("keep+file:///v,?manifests=/m", "empty name of a volume"),
        ("keep+file:///v,/v/?manifests=/m", "a place twice"),
        ("keep+file://v?manifests=/m", "absolute path"),
        ("keep+file:///v%00?manifests=/m", "NUL"),
        ("keep+http://?manifests=/m", "names no host"),
        ("keep+http://h:0?manifests=/m", "impossible port 0"),
        ("keep+http://h/path?manifests=/m", "no valid host"),
        ("keep+http://secret@h?manifests=/m", "tokens come from"),
        ("keep+file:///v?manifests=/m#a/b", "no possible collection"),
        ("keep+file:///v?manifests=/m#", "no possible collection"),
        ("arvados://", "names no host"),
        ("arvados://user:secret@h", "tokens come from"),
        ("arvados://h/path", "has a path"),
        ("arvados://h?x=1", "unknown part 'x'"),
        ("keep+file:///v?manifests=/m&tree=/t#c", "only show one"),
        ("arvados://h?tree=/t#" + HASH.decode(), "only show one"),
        ("arvados://h#name", "no uuid"),
        ("arvados://-h", "no valid host"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadSource, match=reason) as caught:
        parse_source(text)
    assert "secret" not in str(caught.value)


def test_relative_paths_are_made_absolute() -> None:
    url = parse_keep_url("keep+file:///v?manifests=m&tree=../t").from_here(b"/here/now")
    assert (url.manifests, url.tree) == (b"/here/now/m", b"/here/t")
    assert parse_arvados_url("arvados://h?tree=t").from_here(b"/here").tree == b"/here/t"
    for own in ("-", HASH.decode()):
        assert parse_keep_url(f"keep+file:///v?manifests={own}").from_here(b"/here").manifests == own.encode()


def test_signatures_are_not_shown() -> None:
    signed = HASH.decode() + "+A" + "0" * 40 + "@7fffffff"
    url = parse_keep_url(f"keep+http://h?manifests={signed}")
    assert url.manifest_locator is not None
    assert str(url) == f"keep+http://h?manifests={HASH.decode()}"


PATHS = st.binary(min_size=1, max_size=12).filter(lambda path: 0 not in path)


@given(st.lists(PATHS, min_size=1, max_size=3), PATHS, st.none() | PATHS)
@example([b"a,b"], b"x&y#z?%", b"\xff\n ")
def test_what_is_shown_can_be_given_again(volumes: list[bytes], manifests: bytes, tree: bytes | None) -> None:
    places = tuple(dict.fromkeys(b"/v" + volume.replace(b"/", b"_") for volume in volumes))
    url = KeepUrl("file", places, manifests, tree, None)
    assert parse_source(str(url)) == url


@given(st.text(max_size=60))
@example("keep+file:///\ud800?manifests=x")
def test_any_text_is_a_source_or_refused(text: str) -> None:
    for prefix in ("", "keep+file:///v?", "keep+http://", "arvados://"):
        for parse in (parse_source, parse_keep_url, parse_arvados_url):
            try:
                parse(prefix + text)
            except RiafsError as error:
                assert isinstance(error, BadSource)  # noqa: PT017
