"""Places that the ``+K@`` hints of locators name: another cluster's proxy, or a gateway of this cluster.

Only for who asked for it: following a hint shows the user's token to whoever wrote the manifest.
"""

from collections.abc import Callable, Mapping, Sequence

from riafs.formats.locators import Locator
from riafs.storage.blockplaces import BlockPlace, BlockPlaces

_MARK = b"K@"
_CLUSTER = 5
"""Characters in a cluster's name; longer ones are uuids of gateways."""


class HintedPlaces:
    """`places`, after those that a block's hints name: see BlockPlaces. `server` makes the place of a URL."""

    def __init__(
        self, places: BlockPlaces, gateways: Mapping[bytes, BlockPlace], server: Callable[[str], BlockPlace]
    ) -> None:
        self._places = places
        self._gateways = gateways
        self._server = server
        self._clusters: dict[bytes, BlockPlace] = {}

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        """See BlockPlaces."""
        named = [hint.removeprefix(_MARK) for hint in locator.hints if hint.startswith(_MARK)]
        hinted = [place for place in map(self._named, dict.fromkeys(named)) if place is not None]
        return [*hinted, *self._places.order(locator)]

    def _named(self, name: bytes) -> BlockPlace | None:
        if len(name) != _CLUSTER:
            return self._gateways.get(name)
        if not name.isalnum():
            return None
        if name not in self._clusters:
            self._clusters[name] = self._server(f"https://keep.{name.decode('ascii')}.arvadosapi.com/")
        return self._clusters[name]

    async def refresh(self) -> None:
        """See BlockPlaces."""
        await self._places.refresh()
