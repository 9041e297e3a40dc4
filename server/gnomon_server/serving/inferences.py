"""The inferences of a frontend: from a request's bytes to the answer, and then to the counters and the mirror."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array
from gnomon_server.errors import Exhausted, GnomonError, Internal
from gnomon_server.models import parameters, requests
from gnomon_server.models.servable import Servable
from gnomon_server.serving.answers import Answers
from gnomon_server.serving.execution import Ended, Execution
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.inference import Answered, Inference, Layout, split
from gnomon_server.serving.mirror import Mirror
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.sequences import Fate
from gnomon_server.serving.templates import Recognised, Templates
from gnomon_server.serving.transport import Call
from gnomon_server.settings import Settings

log = logging.getLogger(__name__)

DEFAULTS: Final = Settings()


class Inferences:
    """Accepts ModelInfer calls; never waits for anything but the model itself."""

    def __init__(
        self, observation: Observation, feeds: Callable[[str], Sequence[Feed]], most: int = DEFAULTS.max_in_flight
    ) -> None:
        """Takes how to find the feeds of a model at a moment, and how many requests may be in flight."""
        self._execution = Execution(self._end)
        self._observation = observation
        self._feeds = feeds
        self._table = RouteTable()
        self._templates = Templates()
        # Of requests as canaries read them, and whether there is a canary at all.
        self._canaries = Templates()
        self._divided = False
        self._answers: dict[Servable, Answers] = {}
        self._most = most
        self.mirror = Mirror(observation)
        # time.perf_counter() when the last request was read.
        self._read = 0.0
        self._answered: list[Answered] = []
        # Calls that were accepted and not answered yet.
        self.in_flight = 0

    def accept(self, call: Call, table: RouteTable) -> None:
        """Puts a request in line, to run at the end of this pass; raises GnomonError for what cannot be run."""
        if table is not self._table:
            self._turn_to(table)
        if self.in_flight >= self._most:
            self._execution.sweep()
            if self.in_flight >= self._most:
                most = f"expected at most {self._most} in flight"
                raise Exhausted(f"requests: {most}, received one more than {self.in_flight}")
        known = self._templates.recognise(call.message)
        if self._divided:
            known = self._sided(call, known)
        if known is not None:
            layout, request_id, raw = known
            inference = Inference(call, request_id, layout, raw, None, call.time_remaining())
        else:
            inference = self._parsed(call)
        now, before = time.perf_counter(), self._read
        inference.reading = now - (max(before, call.start))
        self._read = now
        try:
            self._execution.submit(inference)
        except GnomonError as error:
            raise _located(inference.layout.servable, error) from None
        call.note = inference
        self.in_flight += 1
        if inference.request is not None:
            self._execution.hurry(inference)

    def after_pass(self) -> None:
        """Runs what arrived together."""
        self._execution.start()

    def settle(self) -> None:
        """Counts and mirrors what was answered: once the answers are on their way, since nobody waits for this."""
        if not self._answered:
            return
        answered, self._answered = self._answered, []
        for one in answered:
            try:
                self._settle(one)
            except Exception:
                # What was answered beside it is to be counted all the same.
                log.exception("what follows an answer failed")

    def close(self) -> None:
        """Waits for runs in progress."""
        self._execution.close()

    def _turn_to(self, table: RouteTable) -> None:
        self._table = table
        self._templates, self._canaries = Templates(), Templates()
        self._divided = any(route.split is not None for route in table.models.values())
        servables = {servable for route in table.models.values() for servable in route.versions.values()}
        self._answers = {servable: Answers(servable.model, servable.version) for servable in servables}
        self._execution.keep(servables)

    def _sided(self, call: Call, known: Recognised | None) -> Recognised | None:
        """Returns a request as the side reads it that is to answer it, if that one knows it."""
        found = known if known is not None else self._canaries.recognise(call.message)
        if found is None or found[0].split is None:
            return known
        if not found[0].split.takes(call, found[1]):
            return known
        return found if known is None else self._canaries.recognise(call.message)

    def _parsed(self, call: Call) -> Inference:
        request = requests.parse(call.message)
        route = self._table.model(request.model_name)
        servable, templates = route.resolve(request.model_version), self._templates
        split = route.split if not request.model_version else None
        if split is not None and split.takes(call, request.id.encode()):
            servable, templates = split.canary, self._canaries
        model, version, signature = servable.model, servable.version, servable.signature
        inputs = requests.decode_inputs(request, signature, model, version, servable.settings.max_rows)
        names = tuple(requests.output_names(request, signature, model, version))
        request_id, limit = request.id.encode(), _limit(request, call)
        role = route.role(servable)
        # An optional input need not have the rows of the others: whoever gives one runs alone.
        alone = len(inputs) != len(signature.required)
        layout = None if alone else templates.learn(call.message, request, servable, role, names, split)
        if layout is not None:
            raw = tuple(request.raw_input_contents)
            return Inference(call, request_id, layout, raw, None, limit)
        shapes = tuple((name, array.dtype, array.shape[1:]) for name, array in inputs.items())
        rows = requests.rows_of(inputs, signature)
        typed = request if request.parameters else None
        priority = parameters.priority(request)
        kind = object() if alone else (role, names, shapes, typed is not None, priority)
        layout = Layout(servable, role, (), (), (), names, rows, kind, priority)
        return Inference(call, request_id, layout, (), inputs, limit, typed)

    def _end(self, ended: Ended) -> None:
        """Answers; everything else comes after, with `settle`."""
        answering = time.perf_counter()
        batch, run, error = ended.batch, ended.run, ended.error
        self.in_flight -= len(batch)
        responses: Sequence[bytes] = ()
        if error is None:
            try:
                responses = self._encoded(batch, ended.outputs)
            except Exception as failure:  # noqa: BLE001 - a foreign dtype, a want of memory: no caller may wait for ever
                error = Internal(f"output cannot be encoded: {type(failure).__name__}: {failure}")
        for inference in batch:
            inference.run = run
        if error is None:
            for inference, response in zip(batch, responses, strict=True):
                inference.call.answer(response)
        else:
            for inference in batch:
                inference.call.fail(self._shown(inference, error))
        now, end_ns = time.perf_counter(), time.time_ns()
        self._answered.append(Answered(batch, run, error, None if error else responses, answering, now, end_ns))

    def _settle(self, answered: Answered) -> None:
        batch, run = answered.batch, answered.run
        self._observation.inferences_ended(batch, run, answered.error, answered.begun, answered.ended)
        if run is not None and batch[0].primary:
            # The feeds of now: one that was closed since the request came counts nothing any more.
            feeds = self._feeds(batch[0].layout.servable.model)
            if feeds:
                self.mirror.take(answered, feeds, run)

    def _encoded(self, batch: Sequence[Inference], outputs: Sequence[Array]) -> Sequence[bytes]:
        first = batch[0]
        servable, names = first.layout.servable, first.layout.outputs
        if first.request is not None:
            return [self._written(one, part) for one, part in zip(batch, split(batch, outputs), strict=True)]
        answers = self._answers.get(servable)
        if answers is None:
            # The route has moved on since this request came.
            answers = Answers(servable.model, servable.version)
        if len({inference.layout.rows for inference in batch}) == 1:
            return answers.write([inference.id for inference in batch], names, outputs)
        parts = zip(batch, split(batch, outputs), strict=True)
        return [answers.write([inference.id], names, part)[0] for inference, part in parts]

    def _written(self, inference: Inference, outputs: Sequence[Array]) -> bytes:
        """Returns the answer to a request with parameters."""
        layout, request = inference.layout, inference.request
        assert request is not None  # noqa: S101 - requests with parameters are of kinds of their own
        model, version = layout.servable.model, layout.servable.version
        explanation = self._explanation(inference) if parameters.wants_explanation(request) else None
        return requests.encode_response(request, model, version, layout.outputs, outputs, explanation)

    def _explanation(self, inference: Inference) -> dict[str, int | str]:
        """Returns who answers and who gets a copy; whether a copy arrives, nobody knows yet."""
        layout = inference.layout
        feeds = self._feeds(layout.servable.model) if inference.primary else ()
        shadows = [feed.target.version for feed in feeds if self.mirror.fate(feed, inference) is Fate.MIRRORED]
        return {
            "gnomon_version": layout.servable.version,
            "gnomon_role": layout.role,
            "gnomon_shadows": ",".join(map(str, sorted(shadows))),
        }

    def _shown(self, inference: Inference, error: GnomonError) -> GnomonError:
        servable = inference.layout.servable
        located = _located(servable, error)
        if not isinstance(error, Internal):
            return located
        trace = self._observation.trace(inference.call).trace_id.hex()
        log.error("%s (trace %s)", located, trace)
        return _located(servable, Internal(f"execution failed; trace {trace}"))


def _located(servable: Servable, error: GnomonError) -> GnomonError:
    return type(error)(f"model '{servable.model}' version '{servable.version}': {error}")


def _limit(request: pb.ModelInferRequest, call: Call) -> float | None:
    """Returns the seconds within which the run must begin, or None for any."""
    limits = (parameters.timeout(request), call.time_remaining())
    return min((limit for limit in limits if limit is not None), default=None)
