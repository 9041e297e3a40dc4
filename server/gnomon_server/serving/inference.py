"""One inference: from the request's bytes to the answer, and then to the counters and the mirror."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import GnomonError, Internal, InvalidRequest
from gnomon_server.models import requests
from gnomon_server.models.servable import Servable
from gnomon_server.serving.execution import Execution, Run
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.serving.selection import position, selected
from gnomon_server.serving.transport import Call
from gnomon_server.wire import record

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inference:
    """An accepted request on its way through a run."""

    call: Call
    request: pb.ModelInferRequest
    route: ModelRoute
    servable: Servable
    outputs: Sequence[str]
    rows: int

    @property
    def primary(self) -> bool:
        """Whether the primary answers, so that the request may be mirrored."""
        return self.servable is self.route.primary

    @property
    def role(self) -> str:
        """The role of the version that answers."""
        return "primary" if self.primary else "previous"


class Inferences:
    """Accepts ModelInfer calls; never waits for anything but the model itself."""

    def __init__(self, execution: Execution, observation: Observation, feeds: Callable[[str], Sequence[Feed]]) -> None:
        """Takes how to find the feeds of a model at a moment."""
        self._execution = execution
        self._observation = observation
        self._feeds = feeds
        # Calls that were accepted and not answered yet.
        self.in_flight = 0

    def accept(self, call: Call, table: RouteTable) -> None:
        """Runs a request against the table of this moment; raises GnomonError for what cannot be run."""
        try:
            request = pb.ModelInferRequest.FromString(call.message)
        except DecodeError:
            size = len(call.message)
            text = f"ModelInferRequest: expected a protobuf message, received {size} bytes that are none"
            raise InvalidRequest(text) from None
        route = table.model(request.model_name)
        servable = route.resolve(request.model_version)
        model, version, signature = servable.model, servable.version, servable.signature
        inputs = requests.decode_inputs(request, signature, model, version)
        names = requests.output_names(request, signature, model, version)
        first = next(iter(inputs.values()), None)
        rows = len(first) if signature.batched and first is not None else 1
        inference = Inference(call, request, route, servable, names, rows)
        self.in_flight += 1
        limit = _limit(request, call)
        try:
            self._execution.submit(servable, inputs, names, limit, lambda run: self._end(inference, run))
        except GnomonError as error:
            self.in_flight -= 1
            raise type(error)(f"model '{model}' version '{version}': {error}") from None

    def after_pass(self) -> None:
        """Begins what arrived together."""

    def _end(self, inference: Inference, run: Run) -> None:
        """Answers first; everything else comes after."""
        self.in_flight -= 1
        call, servable = inference.call, inference.servable
        note = self._observation.note(call)
        note.servable, note.role, note.run = servable, inference.role, run
        response, error = b"", run.error
        if error is None:
            response, error = _encode(inference, run)
        if error is None:
            call.answer(response)
        else:
            call.fail(self._shown(call, servable, error))
        self._observation.inference(inference, run, error)
        # The feeds of now: one that was closed since the request came counts nothing any more.
        feeds = self._feeds(servable.model) if inference.primary else ()
        if feeds:
            self._mirror(inference, feeds, run, response, error)

    def _shown(self, call: Call, servable: Servable, error: GnomonError) -> GnomonError:
        where = f"model '{servable.model}' version '{servable.version}'"
        if not isinstance(error, Internal):
            return type(error)(f"{where}: {error}")
        trace = self._observation.trace(call).trace_id.hex()
        log.error("%s: %s (trace %s)", where, error, trace)
        return Internal(f"{where}: execution failed; trace {trace}")

    def _mirror(
        self, inference: Inference, feeds: Sequence[Feed], run: Run, response: bytes, error: GnomonError | None
    ) -> None:
        request, call, version = inference.request, inference.call, inference.servable.version
        place = position(request.id, call.message) if any(feed.target.sample < 1 for feed in feeds) else 0.0
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


def _encode(inference: Inference, run: Run) -> tuple[bytes, GnomonError | None]:
    servable = inference.servable
    try:
        response = requests.encode_response(
            inference.request, servable.model, servable.version, inference.outputs, run.outputs
        )
    except ValueError as error:
        return b"", Internal(f"output cannot be encoded: {error}")
    return response, None


def _limit(request: pb.ModelInferRequest, call: Call) -> float | None:
    """Returns the seconds within which the run must begin, or None for any."""
    limits = []
    if "timeout" in request.parameters and request.parameters["timeout"].int64_param:
        limits.append(request.parameters["timeout"].int64_param / 1e6)
    remaining = call.time_remaining()
    if remaining is not None:
        limits.append(remaining)
    return min(limits, default=None)
