"""The inferences of a frontend: from a request's bytes to the answer, and then to the counters and the mirror."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array, TensorError
from gnomon_server.errors import GnomonError, Internal
from gnomon_server.models import requests
from gnomon_server.models.servable import Servable
from gnomon_server.serving.answers import Answers
from gnomon_server.serving.batching import Job
from gnomon_server.serving.execution import Execution, Run
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.inference import Inference
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.selection import position, selected
from gnomon_server.serving.templates import Recognised, Templates
from gnomon_server.serving.transport import Call
from gnomon_server.wire import record

log = logging.getLogger(__name__)


class Inferences:
    """Accepts ModelInfer calls; never waits for anything but the model itself."""

    def __init__(self, observation: Observation, feeds: Callable[[str], Sequence[Feed]]) -> None:
        """Takes how to find the feeds of a model at a moment."""
        self._execution = Execution(self._end)
        self._observation = observation
        self._feeds = feeds
        self._table = RouteTable()
        self._templates = Templates()
        self._answers: dict[Servable, Answers] = {}
        # Calls that were accepted and not answered yet.
        self.in_flight = 0

    def accept(self, call: Call, table: RouteTable) -> None:
        """Puts a request in line, to run at the end of this pass; raises GnomonError for what cannot be run."""
        if table is not self._table:
            self._turn_to(table)
        known = self._templates.recognise(call.message)
        inference, job = self._known(call, known) if known is not None else self._parsed(call)
        try:
            self._execution.submit(inference.servable, job)
        except GnomonError as error:
            raise _located(inference.servable, error) from None
        self.in_flight += 1

    def after_pass(self) -> None:
        """Runs what arrived together."""
        self._execution.start()

    def close(self) -> None:
        """Waits for runs in progress."""
        self._execution.close()

    def _turn_to(self, table: RouteTable) -> None:
        self._table = table
        self._templates = Templates()
        servables = {servable for route in table.models.values() for servable in route.versions.values()}
        self._answers = {servable: Answers(servable.model, servable.version) for servable in servables}
        self._execution.keep(servables)

    def _known(self, call: Call, known: Recognised) -> tuple[Inference, Job]:
        layout = known.layout
        route = self._table.models[layout.model]
        inference = Inference(call, known.id, route, route.resolve(layout.version), layout.outputs)
        limit, now = call.time_remaining(), time.perf_counter()
        inputs = layout.arrays(known.raw)
        return inference, Job(layout.kind, inputs, layout.outputs, layout.rows, limit, now, call.is_over, inference)

    def _parsed(self, call: Call) -> tuple[Inference, Job]:
        request = requests.parse(call.message)
        route = self._table.model(request.model_name)
        servable = route.resolve(request.model_version)
        model, version, signature = servable.model, servable.version, servable.signature
        inputs = requests.decode_inputs(request, signature, model, version)
        names = tuple(requests.output_names(request, signature, model, version))
        layout = self._templates.learn(call.message, request, names)
        rows = len(next(iter(inputs.values()))) if signature.batched and inputs else 1
        shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items())
        kind = layout.kind if layout is not None else (names, shapes)
        typed = request if request.parameters else None
        inference = Inference(call, request.id.encode(), route, servable, names, typed)
        limit = _limit(request, call)
        return inference, Job(kind, inputs, names, rows, limit, time.perf_counter(), call.is_over, inference)

    def _end(self, job: Job, outputs: Sequence[Array], error: GnomonError | None, run: Run | None) -> None:
        """Answers first; everything else comes after."""
        began = time.perf_counter()
        inference: Inference = job.owner
        self.in_flight -= 1
        call, servable = inference.call, inference.servable
        note = self._observation.note(call)
        note.servable, note.role, note.run = servable, inference.role, run
        response = b""
        if error is None:
            try:
                response = self._encoded(inference, outputs)
            except TensorError as failure:
                error = Internal(f"output cannot be encoded: {failure}")
        if error is None:
            call.answer(response)
        else:
            call.fail(self._shown(call, servable, error))
        self._observation.inference(job, run, error, began)
        # The feeds of now: one that was closed since the request came counts nothing any more.
        feeds = self._feeds(servable.model) if inference.primary and run is not None else ()
        if feeds and run is not None:
            self._mirror(inference, feeds, run, response, error)

    def _encoded(self, inference: Inference, outputs: Sequence[Array]) -> bytes:
        servable = inference.servable
        if inference.request is not None:
            model, version, names = servable.model, servable.version, inference.outputs
            return requests.encode_response(inference.request, model, version, names, outputs)
        answers = self._answers.get(servable)
        if answers is None:
            # The route has moved on since this request came.
            answers = Answers(servable.model, servable.version)
        return answers.write(inference.id, inference.outputs, outputs)

    def _shown(self, call: Call, servable: Servable, error: GnomonError) -> GnomonError:
        located = _located(servable, error)
        if not isinstance(error, Internal):
            return located
        trace = self._observation.trace(call).trace_id.hex()
        log.error("%s (trace %s)", located, trace)
        return _located(servable, Internal(f"execution failed; trace {trace}"))

    def _mirror(
        self, inference: Inference, feeds: Sequence[Feed], run: Run, response: bytes, error: GnomonError | None
    ) -> None:
        call, version = inference.call, inference.servable.version
        place = position(inference.id.decode(), call.message) if any(feed.target.sample < 1 for feed in feeds) else 0.0
        feeds = [feed for feed in feeds if selected(place, feed.target.sample)]
        if error is not None:
            for feed in feeds:
                feed.primary_failed(version)
        elif feeds:
            trace = self._observation.trace(call)
            buffers = record.encode(
                record.Record(
                    primary=version,
                    sampled=trace.sampled,
                    start_ns=call.start_ns,
                    end_ns=time.time_ns(),
                    run_start_ns=run.start_ns,
                    run_end_ns=run.end_ns,
                    trace_id=trace.trace_id,
                    span_id=trace.span_id,
                    parent_id=trace.parent_id,
                    peer=call.peer().encode(),
                    trace_state=trace.trace_state.encode(),
                    request=call.message,
                    response=response,
                )
            )
            for feed in feeds:
                feed.offer(version, buffers)


def _located(servable: Servable, error: GnomonError) -> GnomonError:
    return type(error)(f"model '{servable.model}' version '{servable.version}': {error}")


def _limit(request: pb.ModelInferRequest, call: Call) -> float | None:
    """Returns the seconds within which the run must begin, or None for any."""
    limits = []
    if "timeout" in request.parameters and request.parameters["timeout"].int64_param:
        limits.append(request.parameters["timeout"].int64_param / 1e6)
    remaining = call.time_remaining()
    if remaining is not None:
        limits.append(remaining)
    return min(limits, default=None)
