"""grpc-js, gRPC in Node without any code of grpc-core or grpc-go, with our .proto loaded as it is."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from foreign.programs import ROOT, installed, ran
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from servers import ServerProcess, eventually

SCRIPT = Path(__file__).with_name("grpc_js_calls.js")
WATCHED = 'rpc_method="grpc.health.v1.Health/Watch",rpc_response_status_code="CANCELLED"'


@pytest.fixture(scope="module")
def saw(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the script saw, by the name of its call."""
    modules = installed("grpc-js").parents[4]
    descriptors = tmp_path_factory.mktemp("grpc-js") / "health.descriptors"
    file = descriptor_pb2.FileDescriptorProto()
    health_pb2.DESCRIPTOR.CopyToProto(file)
    descriptors.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    arguments = (SCRIPT, server.grpc, ROOT / "protos" / "inference.proto", descriptors)
    done = ran("node", *arguments, environment={"NODE_PATH": str(modules)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_grpc_js_infers_with_raw_contents(saw: Any) -> None:
    numbers = [2, 4, 6, 8, 10, 12]
    assert saw["raw"] == {"code": 0, "id": "grün", "version": "1", "shape": [2, 3], "numbers": numbers, "ends": 1}


def test_grpc_js_infers_with_typed_contents(saw: Any) -> None:
    assert saw["typed"] == [2, 4, 6]
    assert saw["texts"] == ["", "grün", "a" * 300]


def test_grpc_js_gets_its_own_answer_on_each_of_500_streams(saw: Any) -> None:
    assert saw["together"] == 500


def test_grpc_js_gets_its_own_answer_on_each_of_20_connections(saw: Any) -> None:
    assert saw["connections"] == [2 * own for own in range(20)]


def test_grpc_js_streams_requests_and_gets_each_answer_in_its_place(saw: Any) -> None:
    expected: list[Any] = [[str(number), [2 * number] * 3, True] for number in range(100)]
    expected[7] = ["7", "NOT_FOUND: model 'nobody' not found", True]
    assert saw["streamed"] == {"answers": expected, "code": 0}


def test_grpc_js_reads_statistics(saw: Any) -> None:
    assert saw["counted"] == 3


@pytest.mark.parametrize(
    ("mistake", "code", "words"),
    [
        ("unknown", 5, "model '50% off\\n' not found"),
        ("shape", 3, "input 'x': expected shape [-1, 3], received [3]"),
        ("classification", 12, "output 'y': classification is not offered"),
        ("method", 12, "method 'TraceSetting' is not offered"),
        ("malformed", 3, "ModelInferRequest: expected a protobuf message, received 3 bytes that are none"),
    ],
)
def test_grpc_js_reads_the_status_and_the_text_of_a_mistake(mistake: str, code: int, words: str, saw: Any) -> None:
    seen = saw["refused"][mistake]
    assert words in seen.pop("details")
    assert seen == {"code": code, "ends": 1, "answered": False}


def test_grpc_js_sends_metadata_of_every_kind_with_a_call(saw: Any) -> None:
    headers = {"content-type": "application/grpc"}
    assert saw["metadata"] == {"code": 0, "numbers": [2, 4, 6], "headers": headers, "trailers": {}}


def test_grpc_js_learns_of_a_passed_deadline_and_the_next_call_is_answered(saw: Any) -> None:
    assert saw["deadline"] == {"late": 4, "over": 4, "after": [1, 1, 1]}


def test_grpc_js_cancels_a_call_and_the_next_one_is_answered(saw: Any) -> None:
    seen = saw["cancelled"]
    assert (seen["code"], seen["ends"], seen["answered"], seen["after"]) == (1, 1, False, [1, 1, 1])


def test_grpc_js_cancels_a_watch_and_the_server_ends_it(saw: Any, server: ServerProcess) -> None:
    assert saw["watched"] == {"seen": ["SERVING"], "code": 1}

    def metrics() -> str:
        with urllib.request.urlopen(f"http://{server.http}/metrics") as answer:
            text: str = answer.read().decode()
        return text

    eventually(lambda: WATCHED in metrics())
    eventually(lambda: "gnomon_server_active_requests 0\n" in metrics())


def test_grpc_js_sends_eight_mebibytes_and_gets_them_doubled(saw: Any) -> None:
    assert saw["large"] == {"bytes": 3 * 700_000 * 4, "right": True}


def test_grpc_js_is_refused_a_message_above_the_limit_and_the_next_call_is_answered(saw: Any) -> None:
    seen = saw["tooLarge"]
    assert (seen["code"], seen["ends"], seen["answered"], seen["after"]) == (8, 1, False, [2, 4, 6])


def test_grpc_js_sends_compressed_messages(saw: Any) -> None:
    assert saw["compressed"] == {"code": 0, "details": "", "numbers": [2, 4, 6]}
