"""Hints to other places in locators: followed where that was asked for."""

from dataclasses import dataclass
from pathlib import Path

from riafs.formats.locators import parse_locator
from riafs.storage.keep_places import HintedPlaces, Places
from riafs.vfs.keep_plan import KeepPlan
from tests.keep.making import KeptStore, manifest_of
from tests.keep.shown import shown

FOO = "acbd18db4cc2f85cedef654fccc4a4d8+3"
GATEWAY = b"zzzzz-bi6l4-000000000000009"


@dataclass(frozen=True, slots=True)
class Named:
    """A place that is only asked for its name."""

    name: str


def order(*hints: str) -> list[str]:
    gateways = {GATEWAY: Named("gateway")}
    places = HintedPlaces(Places([Named("volume")], {}), gateways, Named)  # type: ignore[list-item,arg-type]
    return [place.name for place in places.order(parse_locator("+".join([FOO, *hints]).encode()))]


def test_hinted_places_come_first() -> None:
    assert order() == ["volume"]
    assert order("K@qqqqq") == ["https://keep.qqqqq.arvadosapi.com/", "volume"]
    assert order("K@" + GATEWAY.decode()) == ["gateway", "volume"]
    assert order("Zx", "K@qqqqq", "K@" + GATEWAY.decode(), "K@qqqqq") == [
        "https://keep.qqqqq.arvadosapi.com/",
        "gateway",
        "volume",
    ]


def test_hints_that_name_nothing_possible_are_passed_over() -> None:
    for hint in ("K@a-b_c", "K@", "K", "K@zzzzz-bi6l4-unknown00000000", "K@@@@@@"):
        assert order(hint) == ["volume"]


def test_hints_are_not_followed_unless_told() -> None:
    assert not KeepPlan().follow_hints


async def test_hints_do_no_harm_where_the_block_is_here(tmp_path: Path) -> None:
    kept = KeptStore(tmp_path)
    kept.write_text("one", manifest_of({b"file": b"foo"}, kept.put).replace(FOO, FOO + "+K@" + GATEWAY.decode()))
    for follow in (False, True):
        async with shown(kept.source, follow_hints=follow) as driver:
            assert await driver.read(b"one/file") == b"foo"
