"""A trial: one run of the shadow on one batch, and what became of its requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from gnomon_protos.tensors import Array, TensorError
from gnomon_server.errors import DeadlineExceeded, NotReady
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature
from gnomon_server.shadow.batching import Batch, unread
from gnomon_server.shadow.choice import Chosen
from gnomon_server.shadow.comparators import Flags
from gnomon_server.shadow.comparing import Values, compare, wanted
from gnomon_server.shadow.digests import Inputs, of_rows
from gnomon_server.shadow.membership import Membership
from gnomon_server.shadow.outcome import DROPPED, NOT_COMPARABLE, SHADOW_ERROR, TIMEOUT, Ended, Uncompared
from gnomon_server.shadow.sequences import followers

log = logging.getLogger(__name__)

# Outcomes of a batch that may be the fault of one of its requests.
SHARED_BLAME: Final = (SHADOW_ERROR, NOT_COMPARABLE)


class Shadow(Protocol):
    """A loaded version, as models.servable.Servable is one."""

    model: str
    version: int
    digest: str
    signature: Signature
    comparisons: tuple[Comparison, ...]
    coalescable: bool

    @property
    def trouble(self) -> str:
        """Why it cannot run at the moment; empty while all is well."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the named outputs; may take any time, and raise anything.

        NotReady and DeadlineExceeded say that it was not reached, or not in time.
        """


class Trial:
    """Tries one shadow; blocks, so that it belongs in a thread, and keeps nothing between batches."""

    def __init__(
        self,
        shadow: Shadow,
        chosen: Mapping[str, Chosen],
        deadline_ns: int,
        clock: Callable[[], int] = time.time_ns,
        segments: Sequence[str] = (),
    ) -> None:
        """Raises LoadError for a segment that is none of the shadow's inputs."""
        self._shadow = shadow
        self._chosen = chosen
        self._membership = Membership(segments, shadow.signature)
        # Nanoseconds from the primary's answer to the shadow's.
        self._deadline_ns = deadline_ns
        # Nanoseconds since the epoch: records come from other processes.
        self._clock = clock

    def of(self, batch: Batch) -> list[Ended] | None:
        """Returns what became of each request of a batch; None if they must be tried one by one to find the guilty."""
        late = followers(batch.records, self._late(batch, self._clock()))
        fresh = batch.only(~late) if late.any() else batch
        ended = self._run(fresh) if fresh.requests else []
        if len(fresh.requests) > 1 and any(isinstance(e, Uncompared) and e.outcome in SHARED_BLAME for e in ended):
            return None
        return [*_timeouts(batch, late, (0, 0)), *ended]

    def _run(self, batch: Batch) -> list[Ended]:
        try:
            inputs, primary = batch.inputs(), batch.primary_outputs()
        except TensorError as error:
            log.warning("a mirrored request is not well formed: %s", error)
            return [Uncompared(batch.records, NOT_COMPARABLE, inputs=unread(batch.records))]
        digests = of_rows(inputs, batch.fit.rowwise)
        known = Inputs(digests, batch.rows, self._membership.of(inputs, len(digests), batch.fit.rowwise))
        names = wanted(batch, self._chosen)
        start_ns = self._clock()
        outputs, outcome = self._outputs(inputs, names)
        end_ns = max(start_ns, self._clock())
        if outputs is None or not _divisible(batch, outputs):
            held = Values(inputs, primary, {})
            return [Uncompared(batch.records, outcome, start_ns, end_ns, known, batch, held)]
        values = Values(inputs, primary, dict(zip(names, outputs, strict=True)))
        return self._compare(batch, known, values, (start_ns, end_ns))

    def _outputs(self, inputs: Mapping[str, Array], names: Sequence[str]) -> tuple[list[Array] | None, str]:
        """Returns the shadow's outputs, and what becomes of the requests without them."""
        try:
            return self._shadow.run(inputs, names), SHADOW_ERROR
        except NotReady as error:
            log.debug("the shadow was not reached: %s", error)
            return None, DROPPED
        except DeadlineExceeded as error:
            log.debug("the shadow did not answer: %s", error)
            return None, TIMEOUT
        except Exception:  # noqa: BLE001 - whatever a shadow raises is its outcome, and logged by the servable
            return None, SHADOW_ERROR

    def _compare(self, batch: Batch, known: Inputs, values: Values, times: tuple[int, int]) -> list[Ended]:
        late = self._late(batch, times[1])
        ended: list[Ended] = [*_timeouts(batch, late, times, known, values)]
        if late.all():
            return ended
        if late.any():
            values = values.only(np.repeat(~late, batch.rows))
            batch, known = batch.only(~late), known.only(~late)
        try:
            found = compare(batch, self._chosen, values.primary, values.shadow, times)
            return [*ended, replace(found, inputs=known, values=values)]
        except Exception:
            # A comparator that cannot take some values must not take the worker with it.
            log.exception("the comparison failed")
            return [*ended, Uncompared(batch.records, NOT_COMPARABLE, *times, known, batch, values)]

    def _late(self, batch: Batch, now_ns: int) -> Flags:
        late: Flags = batch.ends_ns < now_ns - self._deadline_ns
        return late


def _divisible(batch: Batch, outputs: Sequence[Array]) -> bool:
    """Whether the rows of a shared run can be told apart; a run of one request may answer in any shape."""
    total = int(batch.rows.sum())
    return len(batch.requests) == 1 or all(output.shape[:1] == (total,) for output in outputs)


def _timeouts(
    batch: Batch, late: Flags, times: tuple[int, int], known: Inputs | None = None, values: Values | None = None
) -> list[Uncompared]:
    if not late.any():
        return []
    if known is None or values is None:
        return [Uncompared(batch.only(late).records, TIMEOUT, *times)]
    kept = values if late.all() else values.only(np.repeat(late, batch.rows))
    batch = batch.only(late)
    return [Uncompared(batch.records, TIMEOUT, *times, known.only(late), batch, kept)]
