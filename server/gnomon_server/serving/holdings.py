"""The versions that a frontend holds loaded, as its newest plan wishes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gnomon_server.errors import LoadError
from gnomon_server.models import lifecycle
from gnomon_server.models.fit import described
from gnomon_server.models.servable import Servable
from gnomon_server.wire.messages import VersionState
from gnomon_server.wire.plans import VersionRef
from gnomon_server.wire.signatures import Tensors

log = logging.getLogger(__name__)


class Holdings:
    """Loads what is wished and lets go of the rest; a version that fails stays failed until it is wished anew."""

    def __init__(self, load: Callable[[VersionRef], Servable]) -> None:
        self._load = load
        self._states: dict[VersionRef, str] = {}
        self._servables: dict[VersionRef, Servable] = {}
        self._reasons: dict[VersionRef, str] = {}
        self._signatures: dict[VersionRef, Tensors] = {}

    async def wish(self, refs: frozenset[VersionRef]) -> None:
        """Loads, one after the other and on a thread, every version that is wished and not there."""
        for ref in sorted(self.missing(refs), key=lambda ref: (ref.model, ref.version)):
            await self._bring(ref)

    def missing(self, refs: frozenset[VersionRef]) -> frozenset[VersionRef]:
        """Returns the versions that `wish` would have to load."""
        return refs - self._states.keys()

    def keep(self, refs: frozenset[VersionRef]) -> None:
        """Lets go of every version that is not wished; one in use lives until its last run ends."""
        for ref in self._states.keys() - refs:
            self._states[ref] = lifecycle.after(self._states[ref], "unload")
            self._servables.pop(ref, None)
            self._reasons.pop(ref, None)
            self._signatures.pop(ref, None)
            del self._states[ref]

    def get(self, ref: VersionRef) -> Servable | None:
        """Returns a version if it is ready."""
        return self._servables.get(ref)

    def states(self) -> tuple[VersionState, ...]:
        """Returns how every wished version stands."""
        return tuple(
            VersionState(
                model=ref.model,
                version=ref.version,
                state=state,
                reason=self._reasons.get(ref, ""),
                digest=self._servables[ref].digest if ref in self._servables else "",
                signature=self._signatures.get(ref),
            )
            for ref, state in self._states.items()
        )

    async def _bring(self, ref: VersionRef) -> None:
        self._states[ref] = lifecycle.after(lifecycle.UNLOADED, "load")
        try:
            loaded = await asyncio.to_thread(self._load, ref)
        except LoadError as error:
            log.error("model '%s' version '%d' cannot be served: %s", ref.model, ref.version, error)
            self._failed(ref, str(error))
        except Exception:
            # A version that trips over a defect of ours must not take down what serves.
            log.exception("model '%s' version '%d' cannot be served", ref.model, ref.version)
            self._failed(ref, "internal error while loading; the log has the details")
        else:
            self._states[ref] = lifecycle.after(self._states[ref], "loaded")
            self._servables[ref] = loaded
            self._signatures[ref] = described(loaded.signature)

    def _failed(self, ref: VersionRef, reason: str) -> None:
        self._states[ref] = lifecycle.after(self._states[ref], "load_failed")
        self._reasons[ref] = reason
