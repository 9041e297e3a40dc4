"""Inferences against a server that echoes: what goes in comes out, of the declared type."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from client.fake_server import FakeServer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnomon_client import (
    AsyncClient,
    Client,
    FailedPrecondition,
    InputError,
    Internal,
    InvalidArgument,
    NotFound,
    ServerMetadata,
    TensorMetadata,
)
from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        for datatype in tensors.DATATYPES:
            running.add_model(datatype, x=(datatype, [-1]))
        running.add_model("pair", age=("FP32", [-1, 1]), plan=("BYTES", [-1, 1]))
        yield running


@pytest.fixture(scope="module")
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


@pytest.fixture
def spoiled(server: FakeServer) -> Iterator[FakeServer]:
    usual = server.echo.answer
    yield server
    server.echo.answer = usual


@given(data=st.data())
@pytest.mark.parametrize("datatype", list(tensors.FIXED))
def test_arrays_of_every_fixed_width_type_come_back_bit_for_bit(client: Client, datatype: str, data: Any) -> None:
    dtype = tensors.FIXED[datatype]
    # hypothesis knows no bfloat16, whose bits are drawn in its place.
    drawn = np.dtype(np.uint16) if datatype == "BF16" else dtype
    array = data.draw(hnp.arrays(drawn, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))).view(dtype)
    result = client.infer(datatype, array)
    assert result["x"].dtype == array.dtype
    assert result["x"].shape == array.shape
    assert result["x"].tobytes() == array.tobytes()


@given(texts=st.lists(st.text(st.characters(codec="utf-8"))))
def test_texts_come_back_as_str(client: Client, texts: list[str]) -> None:
    result = client.infer("BYTES", texts)
    assert result["x"].dtype == object
    assert result["x"].tolist() == texts


@given(values=st.lists(st.binary()).filter(lambda values: any(not _is_text(value) for value in values)))
def test_bytes_that_are_no_text_come_back_as_bytes(client: Client, values: list[bytes]) -> None:
    assert client.infer("BYTES", values)["x"].tolist() == values


@given(values=st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_plain_lists_take_the_declared_type(client: Client, values: list[int]) -> None:
    for datatype in ("INT32", "INT64", "FP64"):
        result = client.infer(datatype, values)["x"]
        assert result.dtype == tensors.FIXED[datatype]
        assert result.tolist() == values


def test_a_mapping_sends_every_input_in_the_models_order(server: FakeServer, client: Client) -> None:
    result = client.infer("pair", {"plan": ["basic", "plus"], "age": [31, 45.5]})
    sent = server.recorder.seen[-1].request
    assert [tensor.name for tensor in sent.inputs] == ["age", "plan"]
    assert list(result) == ["age", "plan"]
    assert result["age"].tolist() == [[31.0], [45.5]]
    assert result["plan"].tolist() == [["basic"], ["plus"]]


def test_a_request_carries_id_version_outputs_and_parameters(server: FakeServer, client: Client) -> None:
    parameters: dict[str, Any] = {"a": True, "b": -5, "c": 1.5, "d": "text", "e": 2**64 - 1}
    result = client.infer("FP32", [1.0], version=7, outputs=["x"], request_id="r-1", parameters=parameters)
    sent = server.recorder.seen[-1].request
    assert (sent.model_name, sent.model_version, sent.id) == ("FP32", "7", "r-1")
    assert [output.name for output in sent.outputs] == ["x"]
    kinds = [sent.parameters[name].WhichOneof("parameter_choice") for name in "abcde"]
    assert kinds == ["bool_param", "int64_param", "double_param", "string_param", "uint64_param"]
    assert (result.model, result.version, result.id) == ("FP32", "7", "r-1")


def test_a_result_is_a_mapping_that_cannot_be_changed(client: Client) -> None:
    result = client.infer("FP32", [1.0, 2.0])
    assert dict(result.items()) == dict(result.outputs)
    assert len(result) == 1
    assert result == result  # noqa: PLR0124
    with pytest.raises(AttributeError):
        result.version = "2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        result.outputs["x"] = result["x"]  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        result["x"][0] = 5.0


def test_typed_contents_and_parameters_of_an_answer_are_read(spoiled: FakeServer, client: Client) -> None:
    def typed(response: pb.ModelInferResponse) -> None:
        del response.raw_output_contents[:]
        tensors.to_contents(np.array([1.5, 2.5], np.float32), response.outputs[0].contents)
        response.parameters["seconds"].double_param = 0.5

    spoiled.echo.answer = typed
    result = client.infer("FP32", [1.5, 2.5])
    assert result["x"].tolist() == [1.5, 2.5]
    assert not result["x"].flags.writeable
    assert result.parameters == {"seconds": 0.5}


def test_an_answer_whose_contents_do_not_fit_is_an_internal_error(spoiled: FakeServer, client: Client) -> None:
    spoiled.echo.answer = lambda response: response.outputs[0].shape.append(3)
    with pytest.raises(Internal, match=r"model 'FP32' version '1': output 'x': expected 12 bytes .* received 4"):
        client.infer("FP32", [1.0])
    spoiled.echo.answer = lambda response: response.raw_output_contents.append(b"")
    with pytest.raises(Internal, match="expected 1 raw_output_contents, one per output, received 2"):
        client.infer("FP32", [1.0])


def test_a_message_beyond_grpcs_default_limit_goes_both_ways(client: Client) -> None:
    array = np.arange(2_000_000, dtype=np.float32)
    assert np.array_equal(client.infer("FP32", array)["x"], array)


def test_what_a_model_declares_is_asked_for_once(server: FakeServer) -> None:
    with Client(server.address) as client:
        before = len(server.recorder.seen)
        for _ in range(3):
            client.infer("FP32", [1.0])
        assert server.recorder.methods()[before:] == ["ModelMetadata", *["ModelInfer"] * 3]


def test_a_refused_request_makes_the_next_one_ask_anew() -> None:
    with FakeServer() as server, Client(server.address) as client:
        server.add_model("m", x=("FP32", [-1]))
        client.infer("m", [1])
        server.add_model("m", x=("INT64", [-1]))
        with pytest.raises(InvalidArgument):
            client.infer("m", [1])
        assert client.infer("m", [1])["x"].dtype == np.int64


def test_an_unknown_model_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="model 'nope' not found"):
        client.infer("nope", [1.0])


def test_text_that_utf8_cannot_hold_is_refused_with_its_place(client: Client) -> None:
    with pytest.raises(InputError, match="input 'x': BYTES element 1: expected text that UTF-8 can hold"):
        client.infer("BYTES", ["a", "\ud800"])


@pytest.mark.parametrize(("value", "shown"), [([1], "list"), (None, "NoneType"), (2**64, "more than 64 bits")])
def test_a_parameter_of_another_type_is_refused(client: Client, value: Any, shown: str) -> None:
    with pytest.raises(InputError, match=f"parameter 'p': expected a bool, int, float or str, received .*{shown}"):
        client.infer("FP32", [1.0], parameters={"p": value})


def test_one_name_as_text_is_not_taken_for_a_list_of_outputs(client: Client) -> None:
    with pytest.raises(InputError, match="expected outputs as a list of names, received the text 'x'"):
        client.infer("FP32", [1.0], outputs="x")


def test_server_and_models_are_described(client: Client) -> None:
    assert client.live()
    assert client.ready()
    assert client.model_ready("FP32")
    assert not client.model_ready("nope", 3)
    assert client.server_metadata() == ServerMetadata("echo", "1.0", ("binary_tensor_data",))
    described = client.model_metadata("pair")
    assert described.inputs == (TensorMetadata("age", "FP32", (-1, 1)), TensorMetadata("plan", "BYTES", (-1, 1)))
    assert (described.name, described.versions, described.platform) == ("pair", ("1",), "echo")


async def test_the_async_client_gives_the_same_answers(server: FakeServer, client: Client) -> None:
    async with AsyncClient(server.address) as other:
        assert await other.live()
        assert await other.ready()
        assert await other.model_ready("FP32")
        assert await other.server_metadata() == client.server_metadata()
        assert await other.model_metadata("pair") == client.model_metadata("pair")
        result = await other.infer("pair", {"plan": ["basic"], "age": [31]}, request_id="r")
        assert result["plan"].tolist() == [["basic"]]
        assert (result.model, result.version, result.id) == ("pair", "1", "r")


async def test_an_async_client_asks_anew_after_a_refusal_too() -> None:
    with FakeServer() as server:
        async with AsyncClient(server.address) as client:
            server.add_model("m", x=("FP32", [-1]))
            await client.infer("m", [1])
            server.add_model("m", x=("INT64", [-1]))
            with pytest.raises(InvalidArgument):
                await client.infer("m", [1])
            assert (await client.infer("m", [1]))["x"].dtype == np.int64


def test_both_clients_have_the_same_surface() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        methods = {name: value for name, value in vars(kind).items() if callable(value)}
        # A stream of inputs may come asynchronously where the answers do.
        return {
            name: [
                str(one).replace(" | AsyncIterable[Inputs]", "")
                for one in inspect.signature(method).parameters.values()
            ]
            for name, method in methods.items()
            if not name.startswith("_") or name == "__init__"
        }

    assert surface(Client) == surface(AsyncClient)


def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = Client(server.address)
    client.close()
    with pytest.raises(FailedPrecondition, match="expected an open client"):
        client.live()


async def test_a_closed_async_client_says_so(server: FakeServer) -> None:
    client = AsyncClient(server.address)
    await client.close()
    with pytest.raises(FailedPrecondition, match="expected an open client"):
        await client.live()


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
