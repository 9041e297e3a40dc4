"""The mirror: which answered requests each shadow is to see, and what it is told of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gnomon_server.models import parameters
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.inference import Answered, Inference, Run
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.selection import position, selected
from gnomon_server.serving.sequences import Fate, Sequences
from gnomon_server.wire import record
from gnomon_server.wire.messages import SHADOW_MARKER
from gnomon_server.wire.record import ALONE, Place, placed


class Mirror:
    """Hands answered requests over to feeds; belongs to the frontend's event loop."""

    def __init__(self, observation: Observation) -> None:
        """Takes who knows the traces of calls."""
        self._observation = observation
        self.sequences = Sequences()

    def take(self, answered: Answered, feeds: Sequence[Feed], run: Run) -> None:
        """Hands a batch to those shadows that its requests are selected for."""
        batch, responses, end_ns = answered.batch, answered.responses, answered.end_ns
        if batch[0].request is not None and any(_place(inference) is not ALONE for inference in batch):
            self._in_order(answered, feeds, run)
            return
        version = batch[0].layout.servable.version
        if responses is not None and _everything(feeds):
            self._take_all(version, answered, responses, feeds, run)
            return
        chosen = _chosen(batch, feeds)
        if responses is None:
            for feed, indices in zip(feeds, chosen, strict=True):
                feed.primary_failed(version, len(indices))
            return
        records = {index: self._record(batch[index], run, end_ns, responses[index]) for index in set().union(*chosen)}
        for feed, indices in zip(feeds, chosen, strict=True):
            feed.offer(version, [records[index] for index in indices])

    def _take_all(
        self, version: int, answered: Answered, responses: Sequence[bytes], feeds: Sequence[Feed], run: Run
    ) -> None:
        """As `take`, where every shadow sees everything: no choice is made, and of a batch all is looked up once."""
        trace_of, framed, end_ns = self._observation.trace, record.framed, answered.end_ns
        run_start, run_end = run.start_ns, run.end_ns
        records = []
        for inference, response in zip(answered.batch, responses, strict=True):
            call = inference.call
            trace = trace_of(call)
            times = (call.start_ns, end_ns, run_start, run_end)
            place = (trace.trace_id, trace.span_id, trace.parent_id, trace.trace_state.encode())
            records.append(framed(version, trace.sampled, times, place, call.peer().encode(), call.message, response))
        for feed in feeds:
            feed.offer(version, records)

    def _in_order(self, answered: Answered, feeds: Sequence[Feed], run: Run) -> None:
        """As `take`, for a batch with requests of sequences: what becomes of one decides on those behind it."""
        responses, end_ns = answered.responses, answered.end_ns
        for index, inference in enumerate(answered.batch):
            version, place, now = inference.layout.servable.version, _place(inference), time.perf_counter()
            for feed in feeds:
                fate = self.fate(feed, inference)
                if fate is Fate.UNSEEN:
                    pass
                elif responses is None:
                    feed.primary_failed(version, 1)
                elif fate is Fate.LOST:
                    feed.leave_out(version, 1)
                elif feed.offer(version, [placed(self._record(inference, run, end_ns, responses[index]), place)]):
                    self.sequences.lose(feed.target, place, now)
                self.sequences.end(feed.target, place)

    def fate(self, feed: Feed, inference: Inference) -> Fate:
        """Returns whether a shadow sees a request."""

        def selected() -> bool:
            return _is_for(feed, inference, _position(inference))

        place = _place(inference)
        if place is ALONE:
            return Fate.MIRRORED if selected() else Fate.UNSEEN
        return self.sequences.fate(feed.target, place, time.perf_counter(), selected)

    def _record(self, inference: Inference, run: Run, end_ns: int, response: bytes) -> tuple[bytes, bytes, bytes]:
        call, version = inference.call, inference.layout.servable.version
        trace = self._observation.trace(call)
        times = (call.start_ns, end_ns, run.start_ns, run.end_ns)
        place = (trace.trace_id, trace.span_id, trace.parent_id, trace.trace_state.encode())
        return record.framed(version, trace.sampled, times, place, call.peer().encode(), call.message, response)


def _everything(feeds: Sequence[Feed]) -> bool:
    """Returns whether every shadow is to see every request."""
    for feed in feeds:  # noqa: SIM110 - a generator costs as much as all the rest, and this is asked in every pass
        if feed.target.sample < 1 or feed.target.elsewhere:
            return False
    return True


def _chosen(batch: Sequence[Inference], feeds: Sequence[Feed]) -> list[Sequence[int]]:
    """Returns which requests of a batch each feed's shadow is to see."""
    everyone = range(len(batch))
    if _everything(feeds):
        return [everyone for _ in feeds]
    positions = [_position(inference) for inference in batch]
    return [[index for index in everyone if _is_for(feed, batch[index], positions[index])] for feed in feeds]


def _is_for(feed: Feed, inference: Inference, position_: float) -> bool:
    """Whether a shadow is to see a request; what a shadow sent goes to no other server, or two could go on for ever."""
    target = feed.target
    if not selected(position_, target.sample):
        return False
    return not target.elsewhere or inference.call.metadata(SHADOW_MARKER) is None


def _position(inference: Inference) -> float:
    """Returns by what a request is selected: one of a sequence as all of it."""
    place = _place(inference)
    if place is not ALONE:
        return position("", place.sequence)
    return position(inference.id.decode(), inference.call.message)


def _place(inference: Inference) -> Place:
    """Returns where a request stands in a sequence."""
    return ALONE if inference.request is None else parameters.place(inference.request)
