"""Shared memory as control keeps it: the list of regions, the same for every frontend."""

from __future__ import annotations

from typing import Final

from gnomon_server.control.fleet import Fleet
from gnomon_server.errors import AlreadyExists, Exhausted, NotFound, quoted
from gnomon_server.serving.regions import Region
from gnomon_server.wire.plans import RegionRef

# Each costs every frontend one or two file descriptors.
MOST: Final = 256


class Memory:
    """The registered regions; they last as long as the server, or until they are unregistered."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._regions: dict[str, RegionRef] = {}

    def regions(self, name: str) -> tuple[RegionRef, ...]:
        """Returns the region of that name or, without one, all of them; raises NotFound."""
        if not name:
            return tuple(self._regions.values())
        if name not in self._regions:
            raise NotFound(f"shared memory region {quoted(name)} not found")
        return (self._regions[name],)

    async def register(self, region: RegionRef) -> None:
        """Has every frontend know a region.

        Raises AlreadyExists, Exhausted, or why the memory cannot be used.
        """
        if region.name in self._regions:
            raise AlreadyExists(f"shared memory region {quoted(region.name)} exists: expected another name")
        if len(self._regions) >= MOST:
            raise Exhausted(f"expected at most {MOST} shared memory regions, received one more")
        # Whatever is wrong with it is found here, before anyone relies on it.
        Region(region)
        self._regions[region.name] = region
        await self._fleet.frontends.share(tuple(self._regions.values()))

    async def unregister(self, name: str) -> None:
        """Has every frontend forget a region or, without a name, all of them; one that is not there is no error."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()
        await self._fleet.frontends.share(tuple(self._regions.values()))
