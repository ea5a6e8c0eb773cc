"""Requests to an API server: errors, tries, long lists, long questions."""

import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from riafs.arvados import api as api_module
from riafs.arvados.api import ApiServer, KeepService, fetch_services, named_services
from riafs.arvados.collections import fetch_collection, fetch_several, fetch_states, nanoseconds
from riafs.arvados.projects import contents_signature, fetch_contents, fetch_home, fetch_tags, file_names, signature_of
from riafs.counters import Counters
from riafs.errors import BadAnswer, NotInStore, RiafsError, StoreDenied, StoreError, StoreTimeout, TooLarge
from riafs.storage.http import Http, HttpOptions
from riafs.storage.temporary import SpilledText
from tests.keep.standin.api import TOKEN
from tests.keep.standin.cluster import Cluster
from tests.keep.standin.records import USER
from tests.keep.standin.serving import Fault

SPILL = os.fsencode(tempfile.gettempdir())
FOO = ". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:foo\n"


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[ApiServer]:
    async with asking(cluster) as server:
        yield server


@asynccontextmanager
async def asking(cluster: Cluster, token: str | None = TOKEN, seconds: float = 5.0) -> AsyncIterator[ApiServer]:
    counters = Counters()
    http = Http(HttpOptions(deadline=seconds, insecure=True), counters)
    yield ApiServer(cluster.host, http, token, seconds, counters)
    http.close()


async def test_discovery(api: ApiServer) -> None:
    found = await api.discovery()
    assert (found.cluster, found.signature_seconds) == ("zzzzz", 336 * 3600)


async def test_certificate_is_checked_unless_told_not_to(cluster: Cluster) -> None:
    counters = Counters()
    for options, works in ((HttpOptions(2), False), (HttpOptions(2, authorities=str(cluster.certificate)), True)):
        http = Http(options, counters)
        try:
            await ApiServer(cluster.host, http, TOKEN, 1, counters).discovery()
            assert works
        except (StoreError, StoreTimeout, BadAnswer):
            assert not works
        http.close()


async def test_collection_by_uuid_and_by_hash(cluster: Cluster, api: ApiServer) -> None:
    made = cluster.collection("one", FOO)
    for identifier in (made["uuid"], made["portable_data_hash"]):
        record = await fetch_collection(api, identifier.encode(), SPILL)
        assert record.state.hash == b"1f4b0bc7583c2a7f9102c395f4ffc5e3+45"
        assert isinstance(record.manifest, SpilledText)
        assert record.manifest.piece(0, 99).startswith(b". acbd18db4cc2f85cedef654fccc4a4d8+3+A")
        assert b"manifest_text" not in record.shown
    assert cluster.api.shape.requests == {"GET collections/UUID": 1, "GET collections/HASH": 1}


async def test_pages_that_are_too_large_are_asked_for_in_parts(
    cluster: Cluster, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {cluster.collection(f"c{number}", FOO)["uuid"].encode() for number in range(30)}
    monkeypatch.setattr(api_module, "_MAX_ANSWER", 3000)
    assert {item.uuid for item in await fetch_contents(api, {USER.encode()})} == made
    monkeypatch.setattr(api_module, "_MAX_ANSWER", 100)
    with pytest.raises(TooLarge, match="the answer has more than 100 bytes"):
        await fetch_contents(api, {USER.encode()})


async def test_what_is_not_there(api: ApiServer) -> None:
    with pytest.raises(NotInStore, match="no such collection, or this token may not see it; status 404"):
        await fetch_collection(api, b"zzzzz-4zz18-000000000000000", SPILL)


@pytest.mark.parametrize(
    ("token", "advice"), [(None, "set ARVADOS_API_TOKEN"), ("v2/wrong/secret", "is the token right")]
)
async def test_token_that_is_refused(cluster: Cluster, token: str | None, advice: str) -> None:
    async with asking(cluster, token) as api:
        with pytest.raises(StoreDenied, match=advice) as caught:
            await fetch_home(api)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 423, 429, 500, 502, 503, 0])
async def test_what_may_pass_is_tried_again(cluster: Cluster, api: ApiServer, status: int) -> None:
    cluster.api.shape.faults.append(Fault(status=status, count=2))
    assert await fetch_home(api) == USER.encode()
    assert cluster.api_requests() == 3
    assert api.counters.api_requests == 3


async def test_answer_that_ends_early_is_asked_for_again(cluster: Cluster, api: ApiServer) -> None:
    cluster.api.shape.faults.append(Fault(truncate=5, count=2))
    assert await fetch_home(api) == USER.encode()
    assert cluster.api_requests() == 3


@pytest.mark.parametrize("status", [400, 403, 409, 422])
async def test_what_does_not_pass_is_not_tried_again(cluster: Cluster, api: ApiServer, status: int) -> None:
    cluster.api.shape.faults.append(Fault(status=status, body='{"errors": ["no\\u001b[1m luck"]}'))
    with pytest.raises((BadAnswer, StoreDenied), match=rf"status {status} \(no \[1m luck\)"):
        await fetch_home(api)
    assert cluster.api_requests() == 1


async def test_what_a_server_quotes_of_its_question_is_told_to_nobody(cluster: Cluster, api: ApiServer) -> None:
    secret, signature = TOKEN.rpartition("/")[2], "a" * 40
    said = f"cannot take {TOKEN}, Bearer {secret}, acbd18db4cc2f85cedef654fccc4a4d8+3+A{signature}@7fffffff; {'x' * 40}"
    for padding in range(0, 200, 7):
        text = json.dumps({"errors": ["." * padding + said]})
        cluster.api.shape.faults.append(Fault(status=422, body=text))
        with pytest.raises(BadAnswer) as caught:
            await fetch_home(api)
        assert secret[:8] not in str(caught.value)
        assert signature[:8] not in str(caught.value)
        assert "." * padding in str(caught.value)


async def test_deadline_ends_the_tries(cluster: Cluster) -> None:
    cluster.api.shape.faults.append(Fault(status=503, count=1000, headers={"Retry-After": "60"}))
    async with asking(cluster, seconds=0.5) as api:
        with pytest.raises(StoreTimeout, match=r"status 503 .tried for 0\.5 s"):
            await fetch_home(api)
    assert api.counters.store_timeouts == 1


async def test_slow_answer_is_not_cut_while_it_comes(cluster: Cluster) -> None:
    text = "".join(f". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:{number:060}\n" for number in range(40_000))
    made = cluster.collection("large", text)
    cluster.signer.enabled = False
    cluster.api.shape.bandwidth = 1 << 20
    async with asking(cluster, seconds=2.5) as api:
        record = await fetch_collection(api, made["uuid"].encode(), SPILL)
    assert len(record.manifest) == len(text) > 4_000_000


@pytest.mark.parametrize("body", ["", "[]", "null", "{", '{"items": 5}', '{"items": [5]}', '{"items": [{}]}'])
async def test_answers_that_make_no_sense(cluster: Cluster, api: ApiServer, body: str) -> None:
    cluster.api.shape.faults.append(Fault(status=200, body=body, count=100))
    asks: list[Callable[[], object]] = [
        partial(fetch_home, api),
        lambda: fetch_states(api, [b"zzzzz-4zz18-000000000000000"]),
        lambda: fetch_services(api),
        lambda: fetch_collection(api, b"zzzzz-4zz18-000000000000000", SPILL),
    ]
    for ask in asks:
        with pytest.raises(RiafsError):
            await ask()  # type: ignore[misc]  # whatever they answer


async def test_long_lists_are_gone_through(cluster: Cluster, api: ApiServer) -> None:
    made = {cluster.collection(f"c{number}", "")["uuid"].encode() for number in range(25)}
    cluster.api.most_items = 10
    assert {item.uuid for item in await fetch_contents(api, {USER.encode()})} == made
    assert cluster.api.shape.requests == {"GET groups": 1, "GET collections": 3}
    assert (await fetch_states(api, made)).keys() == made


async def test_long_questions_are_posted(cluster: Cluster, api: ApiServer) -> None:
    made = [cluster.collection(f"c{number}", FOO)["uuid"].encode() for number in range(60)]
    assert (await fetch_states(api, [*made, b"zzzzz-4zz18-000000000000000"])).keys() == set(made)
    assert {record.identifier for record in await fetch_several(api, made)} == set(made)
    assert cluster.api.shape.requests == {"POST collections": 2}


async def test_signature_of_what_is_known_is_that_of_the_server(cluster: Cluster, api: ApiServer) -> None:
    owners = {USER.encode()}
    assert signature_of(await fetch_contents(api, owners)) == await contents_signature(api, owners)
    for change in (
        lambda: cluster.records.add("groups", name="p"),
        lambda: cluster.collection("c", FOO),
        cluster.records.tables["collections"].clear,
    ):
        known = signature_of(await fetch_contents(api, owners))
        change()
        assert known != await contents_signature(api, owners)
        assert signature_of(await fetch_contents(api, owners)) == await contents_signature(api, owners)


async def test_tags_are_listed_in_full(cluster: Cluster, api: ApiServer) -> None:
    uuids = [cluster.collection(f"c{number}", FOO)["uuid"] for number in range(120)]
    for uuid in uuids:
        cluster.records.add("links", link_class="tag", name="good", head_uuid=uuid)
    cluster.records.add("links", link_class="tag", name="person", head_uuid=USER)
    assert await fetch_tags(api) == [("good", uuid.encode()) for uuid in sorted(uuids)]


async def test_services(cluster: Cluster, api: ApiServer) -> None:
    first, second = await fetch_services(api)
    assert first == KeepService(b"zzzzz-bi6l4-000000000000000", cluster.keepstores[0].url, "disk")
    assert second.url == cluster.keepstores[1].url
    assert named_services(["http://h:1"]) == [KeepService(b"00000-bi6l4-000000000000000", "http://h:1/", "proxy")]


@pytest.mark.parametrize("record", [{"service_host": "h/x"}, {"service_host": ""}, {"service_port": 0}, {"uuid": None}])
async def test_impossible_services_are_refused(cluster: Cluster, api: ApiServer, record: dict[str, object]) -> None:
    good = cluster.api.service_records()[0]
    cluster.api.shape.faults.append(Fault(status=200, body=json.dumps({"items": [good | record]})))
    with pytest.raises(StoreError, match=r"block server|without a uuid"):
        await fetch_services(api)


def test_token_is_not_shown(cluster: Cluster) -> None:
    api = ApiServer("h", Http(HttpOptions(), Counters()), "hidden", 1, Counters())
    assert "hidden" not in repr(api)
    assert "hidden" not in repr(replace(api, seconds=2))


def test_times_of_the_api() -> None:
    assert nanoseconds("2026-01-01T00:00:00.5Z") == 1767225600_500000000
    assert nanoseconds("2026-01-01T00:00:00Z") == 1767225600_000000000
    assert nanoseconds("") == nanoseconds("never") == nanoseconds("2026-01-01T00:00:00.xZ") == 0


def test_names_that_no_file_can_have() -> None:
    named = [(b"u1", "a"), (b"u2", "a"), (b"u3", "a (u2)"), (b"u4", ""), (b"u5", "."), (b"u6", ".."), (b"u7", "x/y\0")]
    found = file_names([*named, (b"u8", "é" * 200), (b"u9", ".git"), (b"ua", "\ud800")])
    assert found[:7] == [b"a", b"a (u2)", b"a (u2) (u3)", b"_", b"_ (u5)", b"__", b"x_y_"]
    assert found[7] == "é".encode() * 125 + b" (u8)"
    assert found[8:] == [b".git (u9)", b"?"]
