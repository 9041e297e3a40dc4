"""A remote shadow: any endpoint of the protocol, told that it is a shadow, left alone for a while when it is away."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_server.errors import DeadlineExceeded, Internal, LoadError, NotReady
from gnomon_server.settings import RemoteSettings
from gnomon_server.shadow.breaker import Breaker
from gnomon_server.shadow.remote import Remote

X = np.arange(20, dtype=np.float32).reshape(10, 2)


class Endpoint:
    """Adds the two columns of each row, or fails with `status`; remembers what it was sent."""

    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None
        self.rows: list[int] = []
        self.requests: list[pb.ModelInferRequest] = []
        self.metadata: dict[str, str | bytes] = {}

    def describe(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        kind = pb.ModelMetadataResponse.TensorMetadata
        if request.name == "unknown":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return pb.ModelMetadataResponse(
            name=request.name,
            inputs=[kind(name="x", datatype="FP32", shape=[-1, 2])],
            outputs=[kind(name="sum", datatype="FP32", shape=[-1])],
        )

    def infer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        self.metadata = dict(context.invocation_metadata())
        self.requests.append(request)
        if self.status is not None:
            context.abort(self.status, "as told")
        x = tensors.from_raw("FP32", tuple(request.inputs[0].shape), request.raw_input_contents[0])
        self.rows.append(len(x))
        total = x.sum(axis=1)
        output = pb.ModelInferResponse.InferOutputTensor(name="sum", datatype="FP32", shape=total.shape)
        return pb.ModelInferResponse(outputs=[output], raw_output_contents=[tensors.to_raw(total)])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def address(endpoint: Endpoint) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(8))
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ModelMetadata": grpc.unary_unary_rpc_method_handler(
            endpoint.describe, pb.ModelMetadataRequest.FromString, pb.ModelMetadataResponse.SerializeToString
        ),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(
            endpoint.infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        ),
    }
    handler = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def remote(settings: RemoteSettings, clock: Clock | None = None) -> Remote:
    return Remote("m", 7, settings, 10.0, clock or Clock())


def test_it_answers_like_a_local_version_and_describes_itself(address: str) -> None:
    one = remote(RemoteSettings(address))
    assert (one.model, one.version, one.digest, one.coalescable) == ("m", 7, "", True)
    assert [(spec.name, spec.datatype, spec.shape) for spec in one.signature.inputs] == [("x", "FP32", (-1, 2))]
    (total,) = one.run({"x": X}, ["sum"])
    assert np.array_equal(total, X.sum(axis=1))


def test_every_call_says_that_it_is_a_shadows_and_carries_the_headers_of_the_settings(
    address: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_TOKEN", "t")
    settings = RemoteSettings(address, model="theirs", version="3", headers={"Authorization": "Bearer $THEIR_TOKEN"})
    remote(settings).run({"x": X}, ["sum"])
    assert endpoint.metadata["gnomon-shadow"] == "true"
    assert endpoint.metadata["authorization"] == "Bearer t"
    (request,) = endpoint.requests
    assert (request.model_name, request.model_version) == ("theirs", "3")
    assert [output.name for output in request.outputs] == ["sum"]


@pytest.mark.parametrize(("rows", "calls"), [(3, [3, 3, 3, 1]), (10, [10]), (0, [10])])
def test_no_call_has_more_rows_than_it_may(address: str, endpoint: Endpoint, rows: int, calls: list[int]) -> None:
    (total,) = remote(RemoteSettings(address, rows=rows, concurrency=2)).run({"x": X}, ["sum"])
    assert sorted(endpoint.rows, reverse=True) == calls
    assert np.array_equal(total, X.sum(axis=1))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.UNAVAILABLE, NotReady),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, NotReady),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INVALID_ARGUMENT, Internal),
        (grpc.StatusCode.INTERNAL, Internal),
    ],
)
def test_a_failure_says_whose_fault_it_is(
    address: str, endpoint: Endpoint, status: grpc.StatusCode, error: type[Exception]
) -> None:
    one = remote(RemoteSettings(address))
    endpoint.status = status
    with pytest.raises(error, match=rf"{address}: {status.name}: as told"):
        one.run({"x": X}, ["sum"])


def test_an_endpoint_that_is_away_is_left_alone_and_tried_again_after_a_pause(address: str, endpoint: Endpoint) -> None:
    clock = Clock()
    one = remote(RemoteSettings(address, patience=2, pause=5.0), clock)
    endpoint.status = grpc.StatusCode.UNAVAILABLE
    for _ in range(2):
        assert one.trouble == ""
        with pytest.raises(NotReady):
            one.run({"x": X}, ["sum"])
    assert one.trouble == f"{address} was not reached 2 times in a row"
    with pytest.raises(NotReady, match="was not reached 2 times"):
        one.run({"x": X}, ["sum"])
    assert len(endpoint.requests) == 2
    clock.now += 5.0
    endpoint.status = None
    one.run({"x": X}, ["sum"])
    assert (one.trouble, len(endpoint.requests)) == ("", 3)


def test_an_answer_without_the_outputs_is_the_endpoints_fault(address: str) -> None:
    with pytest.raises(Internal, match=r"expected outputs \['sum', 'other'\], received none named \['other'\]"):
        remote(RemoteSettings(address)).run({"x": X}, ["sum", "other"])


def test_an_endpoint_that_does_not_describe_the_model_cannot_be_a_shadow(address: str) -> None:
    with pytest.raises(LoadError, match="NOT_FOUND: no such model"):
        remote(RemoteSettings(address, model="unknown"))
    with pytest.raises(LoadError, match=r"absent\.pem: cannot be read"):
        remote(RemoteSettings(address, tls=True, ca="absent.pem"))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=40), st.integers(1, 5))
def test_a_breaker_opens_after_failures_in_a_row_only_and_any_answer_closes_it(
    calls: list[tuple[bool, float]], patience: int
) -> None:
    breaker, now, row = Breaker(patience, 2.0), 0.0, 0
    for (reached, later), _ in pairwise([*calls, (True, 0.0)]):
        now += later
        allowed = breaker.allows(now)
        assert allowed == (row < patience or now - breaker.failed >= 2.0)
        if allowed:
            breaker = breaker.after(reached, now)
            row = 0 if reached else row + 1
        assert breaker.is_open == (row >= patience)
