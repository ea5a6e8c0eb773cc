"""RIA, Keep and Arvados URLs as users write them."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from riafs.errors import BadSource, RiafsError
from riafs.formats.sources import (
    ArvadosUrl,
    KeepUrl,
    RiaUrl,
    parse_arvados_url,
    parse_keep_url,
    parse_ria_source,
    parse_ria_url,
    parse_source,
    redact,
    rewrite,
)

ID = "7fa19776-105c-4961-a2d4-101794e20a9f"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ria+file:///store", RiaUrl("file", None, b"/store", None, None, None)),
        ("ria+file:///store/", RiaUrl("file", None, b"/store", None, None, None)),
        ("ria+file:///", RiaUrl("file", None, b"/", None, None, None)),
        ("ria+file:///a%20b%23c", RiaUrl("file", None, b"/a b#c", None, None, None)),
        ("ria+file:///a%FF", RiaUrl("file", None, b"/a\xff", None, None, None)),
        ("ria+file://rel/path", RiaUrl("file", None, b"/path", None, None, None)),
        ("ria+file:///s@1", RiaUrl("file", None, b"/s@1", None, None, None)),
        (f"ria+file:///s#{ID}", RiaUrl("file", None, b"/s", ID.encode(), None, None)),
        (f"ria+file:///s#{ID}@v1.2", RiaUrl("file", None, b"/s", ID.encode(), None, b"v1.2")),
        ("ria+file:///s#~x@y", RiaUrl("file", None, b"/s", None, b"x", b"y")),
        ("ria+file:///s#~x@y@z#1", RiaUrl("file", None, b"/s", None, b"x", b"y@z#1")),
        ("ria+file:///s#~a b/c%20d", RiaUrl("file", None, b"/s", None, b"a b/c%20d", None)),
        ("ria+file:///s#~tär@feature/ä", RiaUrl("file", None, b"/s", None, "tär".encode(), "feature/ä".encode())),
        ("ria+ssh://host/abs", RiaUrl("ssh", "host", b"/abs", None, None, None)),
        ("ria+ssh://u@host:22/abs", RiaUrl("ssh", "u@host:22", b"/abs", None, None, None)),
        ("ria+ssh://h:/abs", RiaUrl("ssh", "h:", b"/abs", None, None, None)),
        ("ria+ssh://[::1]:22/abs", RiaUrl("ssh", "[::1]:22", b"/abs", None, None, None)),
        ("ria+http://h#~x", RiaUrl("http", "h", b"/", None, b"x", None)),
        ("ria+https://u:pw@h:8443/s", RiaUrl("https", "u:pw@h:8443", b"/s", None, None, None)),
    ],
)
def test_ria_urls_are_read_as_datalad_reads_them(text: str, expected: RiaUrl) -> None:
    assert parse_ria_url(text) == expected
    assert parse_ria_source(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/store", RiaUrl("file", None, b"/store", None, None, None)),
        ("store/x", RiaUrl("file", None, b"store/x", None, None, None)),
        ("/st%20ore?", RiaUrl("file", None, b"/st%20ore?", None, None, None)),
        ("/store@v1", RiaUrl("file", None, b"/store@v1", None, None, None)),
        ("/store#~x@v", RiaUrl("file", None, b"/store", None, b"x", b"v")),
        (f"/store#{ID}@feature/x", RiaUrl("file", None, b"/store", ID.encode(), None, b"feature/x")),
        ("/data/#1/store", RiaUrl("file", None, b"/data/#1/store", None, None, None)),
        ("/data/#1/store#~x/y", RiaUrl("file", None, b"/data/#1/store", None, b"x/y", None)),
        ("/data/a#b#~x", RiaUrl("file", None, b"/data/a#b", None, b"x", None)),
        ("/st\udcff", RiaUrl("file", None, b"/st\xff", None, None, None)),
    ],
)
def test_plain_paths_are_sources_too(text: str, expected: RiaUrl) -> None:
    assert parse_ria_source(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no store"),
        ("#~x", "names no store"),
        ("http://h/store", "scheme http"),
        ("ssh://h/store", "scheme ssh"),
        ("ria+ftp://h/store", "unknown scheme"),
        ("ria+file://", "no absolute path"),
        ("ria+file://store", "no absolute path"),
        ("ria+ssh://host", "no absolute path"),
        ("ria+ssh:///abs", "names no host"),
        ("ria+ssh://-oProxyCommand=x/abs", "begins with '-'"),
        ("ria+ssh://-u@h/abs", "begins with '-'"),
        ("ria+ssh://u@-h/abs", "begins with '-'"),
        ("ria+ssh://a b/abs", "no valid host"),
        ("ria+ssh://a@b@c/abs", "no valid host"),
        ("ria+ssh://h\n/abs", "no valid host"),
        ("ria+ssh://h:70000/abs", "impossible port"),
        ("ria+ssh://h:x/abs", "no valid host"),
        ("ria+http://h/a?b=c", "a query"),
        ("ria+file:///a%00b", "NUL"),
        ("/a\0b", "NUL"),
        ("/a\ud800b", "characters"),
        ("ria+file:///s#", "impossible dataset id"),
        ("ria+file:///s#abc", "impossible dataset id"),
        ("ria+file:///s#@v", "impossible dataset id"),
        ("ria+file:///s#..x/etc", "impossible dataset id"),
        ("ria+file:///s#abc..", "impossible dataset id"),
        ("ria+file:///s#~", "impossible alias"),
        ("ria+file:///s#~@v", "impossible alias"),
        ("ria+file:///s#~../x", "impossible alias"),
        ("ria+file:///s#~/etc", "impossible alias"),
        ("ria+file:///s#~x@", "nothing after the '@'"),
    ],
)
def test_impossible_sources_are_refused_with_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(BadSource, match=complaint):
        parse_ria_source(text)


def test_only_ria_urls_are_ria_urls() -> None:
    with pytest.raises(BadSource, match="is no RIA URL"):
        parse_ria_url("/store")


@pytest.mark.parametrize(
    "text",
    [
        "ria+http://u:secret@h/s#",
        "ria+http://u:sec/ret@h",
        "ria+http://u:secret@x@h/s",
        "ria+ssh://u:secret@-h/s",
        "http://u:secret@h/",
        "ria+http://u:se#cret@h/s",
    ],
)
def test_passwords_do_not_show_in_messages(text: str) -> None:
    with pytest.raises(BadSource) as caught:
        parse_ria_source(text)
    assert "***" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_source_prints_as_its_url_without_password() -> None:
    assert str(parse_ria_source("ria+https://u:pw@h:1/s#~x@v")) == "ria+https://u:***@h:1/s#~x@v"
    assert str(parse_ria_source(f"/s#{ID}")) == f"ria+file:///s#{ID}"
    assert redact("ria+ssh://h:22/s#~x@v") == "ria+ssh://h:22/s#~x@v"


def test_instead_of_replaces_the_longest_prefix_once() -> None:
    rules = [("ria+file:///short", "lab:"), ("ria+file:///long", "lab:x"), ("lab:", "ria+file:///long")]
    assert rewrite("lab:x#~a", rules).url == "ria+file:///long#~a"
    assert rewrite("lab:y", rules).url == "ria+file:///shorty"
    assert rewrite("/store", rules).url == "/store"
    assert rewrite("/store", [("ria+file:///x", "")]).url == "/store"


def test_one_prefix_of_two_bases_changes_nothing_and_says_why() -> None:
    rules = [("a", "lab:"), ("b", "lab:")]
    assert rewrite("lab:x", rules).url == "lab:x"
    assert "lab:" in rewrite("lab:x", rules).reason
    assert rewrite("lab:x", [("a", "lab:"), ("a", "lab:")]).url == "ax"


@given(st.binary(max_size=40).filter(lambda path: b"\0" not in path))
def test_any_path_can_be_given_quoted(path: bytes) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in path)
    assert parse_ria_source("ria+file:///" + quoted).path == (b"/" + path).rstrip(b"/") or b"/"


@given(st.text() | st.from_regex(r"(ria\+(file|ssh|http)://)?[a-z@:/%0-9-]{0,12}(#[~@a-z./0-9]{0,12})?"))
def test_any_text_is_a_source_or_a_bad_one(text: str) -> None:
    try:
        source = parse_ria_source(text)
    except BadSource:
        return
    assert source.path
    assert source.dataset is None or source.alias is None
    assert (source.host is None) == (source.scheme == "file")
    assert os.fsencode(str(source))


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
