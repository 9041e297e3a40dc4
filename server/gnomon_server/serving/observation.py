"""What a frontend observes of its calls: counts, histograms and traces, all by itself and in microseconds.

The OpenTelemetry SDK would cost more per request than the model; control exports what is reported here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from gnomon_server.errors import GnomonError
from gnomon_server.serving.inference import Inference, Run
from gnomon_server.serving.transport import Call
from gnomon_server.telemetry.sampling import Sampler, TraceContext
from gnomon_server.wire.counts import CallCount, InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, CALL_BOUNDS, DURATION_BOUNDS, Histogram
from gnomon_server.wire.sizes import Sizes
from gnomon_server.wire.traces import CallTrace

# Traces kept between two reports.
MAX_TRACES: Final = 2000


class _Inferences:
    """The requests of one version, role and error, being counted; the fields are those of InferenceCount."""

    __slots__ = ("batches", "durations", "inputs", "last_ns", "outputs", "queue", "runs", "sizes")

    def __init__(self) -> None:
        self.durations, self.runs = Histogram(DURATION_BOUNDS), Histogram(DURATION_BOUNDS)
        self.batches = Histogram(BATCH_BOUNDS)
        self.queue = self.inputs = self.outputs = 0.0
        self.last_ns = 0
        self.sizes = Sizes()

    def snapshot(self, model: str, version: int, role: str, error: str) -> InferenceCount:
        return InferenceCount(
            model=model,
            version=version,
            role=role,
            error=error,
            durations=self.durations.snapshot(),
            runs=self.runs.snapshot(),
            batches=self.batches.snapshot(),
            queue=self.queue,
            inputs=self.inputs,
            outputs=self.outputs,
            last_ns=self.last_ns,
            sizes=self.sizes.snapshot(),
        )


class Observation:
    """Counts since the process began, and the sampled traces since the last report."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._calls: dict[tuple[str, str], Histogram] = {}
        self._inferences: dict[tuple[str, int, str, str], _Inferences] = {}
        self._traces: list[CallTrace] = []
        self.traces_dropped = 0

    def trace(self, call: Call) -> TraceContext:
        """Returns the call's place in its trace, decided on first use."""
        if not isinstance(call.trace, TraceContext):
            parent = call.metadata("traceparent")
            call.trace = self._sampler.context(parent, call.metadata("tracestate") if parent else None)
        return call.trace

    def inferences_ended(
        self, batch: Sequence[Inference], run: Run | None, error: GnomonError | None, answering: float, answered: float
    ) -> None:
        """Counts requests of one kind that ended together, and their run once.

        `answering` and `answered` are the time.perf_counter() at which the writing of their answers began and ended.
        """
        layout, requests = batch[0].layout, len(batch)
        key = (layout.servable.model, layout.servable.version, layout.role, error.status if error else "")
        counts = self._inferences.get(key)
        if counts is None:
            counts = self._inferences[key] = _Inferences()
        counts.durations.add_all([answered - inference.call.start for inference in batch])
        if run is None:
            return
        seconds, writing = (run.end_ns - run.start_ns) * 1e-9, answered - answering
        reading = sum([inference.reading for inference in batch])
        size = counts.sizes.of(run.rows)
        counts.runs.add(seconds, requests)
        counts.batches.add(run.rows)
        counts.queue += sum([run.begun - inference.call.start for inference in batch]) - reading
        counts.inputs += reading + requests * run.joining
        counts.outputs += writing
        counts.last_ns = run.end_ns
        size.runs += 1
        size.running += seconds
        size.inputs += reading + run.joining
        size.outputs += writing

    def calls_ended(self, ended: Sequence[tuple[Call, str]]) -> None:
        """Counts calls that ended just now, with their statuses, and keeps the traces of those that are sampled."""
        now = time.perf_counter()
        durations: dict[tuple[str, str], list[float]] = {}
        for call, status in ended:
            durations.setdefault((call.method, status), []).append(now - call.start)
        for key, seconds in durations.items():
            histogram = self._calls.get(key)
            if histogram is None:
                histogram = self._calls[key] = Histogram(CALL_BOUNDS)
            histogram.add_all(seconds)
        for call, status in ended:
            self.traced(call, status)

    def traced(self, call: Call, status: str) -> None:
        """Keeps the trace of a call as it ends, if it is sampled, and lets go of what was noted for it."""
        if self._sampler.enabled and self._sampled(call):
            self._keep(call, status)
        # An inference knows its call: as long as the call knows it too, only the garbage collector could free both.
        call.note = None

    def _sampled(self, call: Call) -> bool:
        if call.trace is None and call.metadata("traceparent") is None:
            call.trace = self._sampler.chosen_root()
            return call.trace is not None
        return self.trace(call).sampled

    def calls(self) -> tuple[CallCount, ...]:
        """Returns the calls by method and status."""
        return tuple(CallCount(method, status, h.snapshot()) for (method, status), h in self._calls.items())

    def inferences(self) -> tuple[InferenceCount, ...]:
        """Returns the runs by version, role and error."""
        return tuple(counts.snapshot(*key) for key, counts in self._inferences.items())

    def take_traces(self) -> tuple[CallTrace, ...]:
        """Returns the traces since the last call of this."""
        traces, self._traces = tuple(self._traces), []
        return traces

    def _keep(self, call: Call, status: str) -> None:
        if len(self._traces) >= MAX_TRACES:
            self.traces_dropped += 1
            return
        self._traces.append(call_trace(call, status, self.trace(call)))


def call_trace(call: Call, status: str, context: TraceContext) -> CallTrace:
    """Returns what is needed to make the spans of a call that ends now."""
    inference = call.note if isinstance(call.note, Inference) else None
    servable = inference.layout.servable if inference else None
    run = inference.run if inference else None
    return CallTrace(
        method=call.method,
        status=status,
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=context.parent_id,
        trace_state=context.trace_state,
        start_ns=call.start_ns,
        end_ns=time.time_ns(),
        peer=call.peer(),
        model=servable.model if servable else "",
        version=servable.version if servable else 0,
        run_start_ns=run.start_ns if run else 0,
        run_end_ns=run.end_ns if run else 0,
        role=inference.layout.role if inference else "primary",
    )
