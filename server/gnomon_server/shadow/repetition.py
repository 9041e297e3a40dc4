"""Repetition: a small share of mirrored requests, each run again alone, on the shadow and on the primary's own version.

What the primary's version answers otherwise than the primary did is nobody's fault but its own, and only a run alone
says how long a version would take as a primary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.choice import Chosen
from gnomon_server.shadow.comparators import Flags
from gnomon_server.shadow.comparing import Compared, compare, wanted
from gnomon_server.shadow.trial import Shadow

log = logging.getLogger(__name__)

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Repeated:
    """Requests of one primary version, run again."""

    # The primary's answers beside those of its own version, and beside the shadow's.
    own: Compared
    shadow: Compared
    # Nanoseconds of each request's run.
    own_ns: NDArray[np.int64]
    shadow_ns: NDArray[np.int64]


class Repetition:
    """Repeats what it selects; `of` blocks and belongs in the shadow's thread."""

    def __init__(self, shadow: Shadow, chosen: Mapping[str, Chosen], share: float) -> None:
        self._shadow = shadow
        self._chosen = chosen
        self._bound = np.uint64(min(share * 2**64, 2**64 - 1))
        self._primary: Shadow | None = None
        self._shadow_first = False

    def use(self, primary: Shadow | None) -> None:
        """Sets the version with which requests of that primary are repeated."""
        self._primary = primary

    def select(self, batch: Batch) -> Batch | None:
        """Returns the requests that are to be repeated; the choice is the same whenever they are replayed."""
        primary = self._primary
        if primary is None or not self._bound or batch.requests[0].record.primary != primary.version:
            return None
        keep: Flags = np.array([request.record.span_id for request in batch.requests], np.uint64) * _MIX < self._bound
        return batch.only(keep) if keep.any() else None

    def of(self, batch: Batch) -> Repeated | None:
        """Returns what came of a selected batch; None if it could not be run or compared again."""
        try:
            return self._repeat(batch)
        except Exception as error:  # noqa: BLE001 - models raise anything, and their users are not concerned
            log.warning("a request could not be repeated: %s", error)
            return None

    def _repeat(self, batch: Batch) -> Repeated | None:
        primary = self._primary
        if primary is None or primary.version != batch.requests[0].record.primary:
            return None
        names = wanted(batch, self._chosen)
        own, shadow = _Runs(primary, names), _Runs(self._shadow, names)
        for single in batch.singles():
            inputs = single.inputs()
            # Whoever runs second finds the inputs in the cache.
            self._shadow_first = not self._shadow_first
            for runs in (shadow, own) if self._shadow_first else (own, shadow):
                runs.run(inputs)
        answered = batch.primary_outputs()
        return Repeated(
            own=compare(batch, self._chosen, answered, own.joined(), (0, 0)),
            shadow=compare(batch, self._chosen, answered, shadow.joined(), (0, 0)),
            own_ns=np.array(own.nanoseconds),
            shadow_ns=np.array(shadow.nanoseconds),
        )


class _Runs:
    """The runs of one version, one request each."""

    def __init__(self, version: Shadow, names: list[str]) -> None:
        known = {spec.name for spec in version.signature.outputs}
        self._version = version
        # Probabilities that only decide about ties may be there on one side only.
        self._names = [name for name in names if name in known]
        self._outputs: list[list[Array]] = []
        self.nanoseconds: list[int] = []

    def run(self, inputs: Mapping[str, Array]) -> None:
        began = time.perf_counter_ns()
        outputs = self._version.run(inputs, self._names)
        self.nanoseconds.append(time.perf_counter_ns() - began)
        self._outputs.append(outputs)

    def joined(self) -> dict[str, Array]:
        """Returns the outputs of all requests; where there is no batch dimension, there is only one."""
        parts = zip(*self._outputs, strict=True)
        return {
            name: part[0] if len(part) == 1 else np.concatenate(part)
            for name, part in zip(self._names, parts, strict=True)
        }
