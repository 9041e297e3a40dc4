"""Repeats: mergeable counts of what repeated requests showed, of one primary and the shadow."""

from __future__ import annotations

import numpy as np

from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.repetition import Repeated
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.sketch import Sketch
from gnomon_server.wire.tallies import RepeatedOutput, RepeatTally


class Repeats:
    """Cumulative counts."""

    def __init__(self) -> None:
        self._requests = 0
        self._own_disagreeing = 0
        self._own_agreement = 0.0
        self._shadow_agreement = 0.0
        self._excess = SYM64.none()
        self._outputs: dict[str, RepeatedOutput] = {}
        self._own_times, self._shadow_times = Sketch(), Sketch()

    def add(self, repeated: Repeated) -> None:
        """Counts some requests."""
        own, shadow = repeated.own.agreement, repeated.shadow.agreement
        self._requests += len(own)
        self._own_disagreeing += int(np.count_nonzero(own < 1))
        self._own_agreement += float(own.sum())
        self._shadow_agreement += float(shadow.sum())
        self._excess += SYM64.counts((1 + own - shadow) / 2)
        for name in repeated.own.divergences:
            self._outputs[name] = _added(self._outputs.get(name), name, repeated.own, repeated.shadow)
        self._own_times.add(repeated.own_ns)
        self._shadow_times.add(repeated.shadow_ns)

    def snapshot(self) -> RepeatTally:
        """Returns the counts so far."""
        return RepeatTally(
            requests=self._requests,
            own_disagreeing=self._own_disagreeing,
            own_agreement_sum=self._own_agreement,
            shadow_agreement_sum=self._shadow_agreement,
            excess=tuple(self._excess.tolist()) if self._requests else (),
            outputs=tuple(self._outputs.values()),
            own_times=self._own_times.snapshot(),
            shadow_times=self._shadow_times.snapshot(),
        )


def _added(before: RepeatedOutput | None, name: str, own: Compared, shadow: Compared) -> RepeatedOutput:
    known = before or RepeatedOutput(name, 0, 0.0, 0.0)
    return RepeatedOutput(
        output=name,
        rows=known.rows + len(own.divergences[name]),
        own_divergence_sum=known.own_divergence_sum + float(own.divergences[name].sum()),
        shadow_divergence_sum=known.shadow_divergence_sum + float(shadow.divergences[name].sum()),
    )
