"""What a frontend observes of its calls: counts, histograms and traces, all by itself and in microseconds.

The OpenTelemetry SDK would cost more per request than the model; control exports what is reported here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from gnomon_server.errors import GnomonError
from gnomon_server.models.servable import Servable
from gnomon_server.serving.batching import Job
from gnomon_server.serving.execution import Run
from gnomon_server.serving.inference import Inference
from gnomon_server.serving.transport import Call
from gnomon_server.telemetry.sampling import Sampler, TraceContext
from gnomon_server.wire.histogram import BATCH_BOUNDS, CALL_BOUNDS, DURATION_BOUNDS, Histogram
from gnomon_server.wire.messages import CallCount, CallTrace, InferenceCount
from gnomon_server.wire.sizes import Size, Sizes

# Traces kept between two reports.
MAX_TRACES: Final = 2000


@dataclass(slots=True)
class Note:
    """What is known of a call while it is under way."""

    trace: TraceContext | None = None
    servable: Servable | None = None
    # Of the servable.
    role: str = "primary"
    run: Run | None = None


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
        # The run that was counted last, and where; the requests of a run are finished one after the other.
        self._counted: Run | None = None
        self._size = Size(0)
        self._traces: list[CallTrace] = []
        self.traces_dropped = 0

    def note(self, call: Call) -> Note:
        """Returns the note of a call, made on first use."""
        if not isinstance(call.note, Note):
            call.note = Note()
        return call.note

    def trace(self, call: Call) -> TraceContext:
        """Returns the call's place in its trace, decided on first use."""
        note = self.note(call)
        if note.trace is None:
            note.trace = self._sampler.context(call.metadata("traceparent"), call.metadata("tracestate"))
        return note.trace

    def inference(self, job: Job, run: Run | None, error: GnomonError | None, answering: float) -> None:
        """Counts a request that was accepted, and its run once for all requests in it.

        `answering` is the time.perf_counter() at which the writing of its answer began.
        """
        now = time.perf_counter()
        inference: Inference = job.owner
        servable = inference.servable
        key = (servable.model, servable.version, inference.role, error.status if error else "")
        counts = self._inferences.get(key)
        if counts is None:
            counts = self._inferences[key] = _Inferences()
        start = inference.call.start
        counts.durations.add(now - start)
        if run is None:
            return
        seconds = (run.end_ns - run.start_ns) * 1e-9
        counts.runs.add(seconds)
        counts.queue += run.begun - job.since
        reading, writing = job.since - start, now - answering
        counts.inputs += reading + run.joining
        counts.outputs += writing
        if run is not self._counted:
            self._counted = run
            counts.batches.add(run.rows)
            counts.last_ns = run.end_ns
            size = self._size = counts.sizes.of(run.rows)
            size.runs += 1
            size.running += seconds
            size.inputs += run.joining
        self._size.inputs += reading
        self._size.outputs += writing

    def ended(self, call: Call, status: str) -> None:
        """Counts a call as it ends, and keeps its trace if that is sampled."""
        key = (call.method, status)
        histogram = self._calls.get(key)
        if histogram is None:
            histogram = self._calls[key] = Histogram(CALL_BOUNDS)
        histogram.add(time.perf_counter() - call.start)
        if self._sampler.enabled and self.trace(call).sampled:
            self._keep(call, status)

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
        trace = call_trace(call, status, self.trace(call), self.note(call))
        self._traces.append(trace)


def call_trace(call: Call, status: str, context: TraceContext, note: Note) -> CallTrace:
    """Returns what is needed to make the spans of a call that ends now."""
    servable, run = note.servable, note.run
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
        role=note.role,
    )
