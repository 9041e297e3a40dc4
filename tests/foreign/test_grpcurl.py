"""grpc-go, as grpcurl uses it: by reflection, by our .proto, with JSON both ways."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign.programs import ROOT, ran
from servers import ServerProcess

INFERENCE = "inference.GRPCInferenceService"
INFER = f"{INFERENCE}/ModelInfer"
BY_REFLECTION: tuple[str, ...] = ()
BY_PROTO = ("-import-path", str(ROOT / "protos"), "-proto", "inference.proto")
# grpcurl's exit code is 64 plus the status.
STATUS_BASE = 64
# Methods of Triton that are not offered here, in a .proto such as its clients have.
TRITON = """
syntax = "proto3";
package inference;
message Anything {}
service GRPCInferenceService { rpc TraceSetting(Anything) returns (Anything) {} }
"""


def parsed(text: str) -> Any:
    """Returns JSON with names as in the .proto: from one grpcurl writes camelCase, by reflection it does not."""

    def as_in_proto(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name): value for name, value in pairs}

    return json.loads(text, object_pairs_hook=as_in_proto)


def called(
    server: ServerProcess, method: str, message: dict[str, Any] | None = None, flags: tuple[str, ...] = BY_REFLECTION
) -> Any:
    """Returns the answer as JSON."""
    done = ran("grpcurl", "-plaintext", *flags, "-d", json.dumps(message or {}), server.grpc, method)
    assert done.returncode == 0, done.stderr
    return parsed(done.stdout)


def refused(
    server: ServerProcess, method: str, message: dict[str, Any], flags: tuple[str, ...] = BY_PROTO
) -> tuple[int, str]:
    """Returns the status and its text."""
    told = ("-format-error", *flags)
    done = ran("grpcurl", "-plaintext", *told, "-d", json.dumps(message), server.grpc, method)
    assert done.returncode > STATUS_BASE, done.stdout + done.stderr
    error = json.loads(done.stderr)
    assert error["code"] == done.returncode - STATUS_BASE
    return error["code"], error["message"]


def asked(model: str, rows: list[list[float]], **fields: Any) -> dict[str, Any]:
    flat = [number for row in rows for number in row]
    shape = [len(rows), len(rows[0])]
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "contents": {"fp32_contents": flat}}
    return {"model_name": model, "inputs": [tensor], **fields}


def numbers(answer: Any) -> list[float]:
    raw = base64.b64decode(answer["raw_output_contents"][0])
    return [float(number) for number in np.frombuffer(raw, "<f4")]


def test_grpcurl_lists_and_describes_the_services(server: ServerProcess) -> None:
    listed = ran("grpcurl", "-plaintext", server.grpc, "list")
    assert listed.stdout.split() == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", INFERENCE]
    described = ran("grpcurl", "-plaintext", server.grpc, "describe", "inference.ModelInferRequest")
    assert "repeated bytes raw_input_contents = 7;" in described.stdout
    assert described.returncode == 0, described.stderr


@pytest.mark.parametrize("flags", [BY_REFLECTION, BY_PROTO], ids=["reflection", "proto"])
def test_grpcurl_infers_with_json(flags: tuple[str, ...], server: ServerProcess) -> None:
    answer = called(server, INFER, asked("line", [[1, 2, 3], [4, 5, 6]], id="grün"), flags)
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("grün", "line", "1")
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["2", "3"]}]
    assert numbers(answer) == [2, 4, 6, 8, 10, 12]


def test_grpcurl_gets_numbers_in_json_where_it_asks_for_them(server: ServerProcess) -> None:
    answer = called(server, INFER, asked("line", [[1, 2, 3]], parameters={"binary_data_output": {"bool_param": False}}))
    assert answer["outputs"][0]["contents"] == {"fp32_contents": [2, 4, 6]}


def test_grpcurl_sends_texts_and_gets_them_back(server: ServerProcess) -> None:
    texts = [base64.b64encode(text.encode()).decode() for text in ("", "grün", "a" * 300)]
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 3], "contents": {"bytes_contents": texts}}
    message = {"model_name": "texts", "inputs": [tensor], "parameters": {"binary_data_output": {"bool_param": False}}}
    answer = called(server, INFER, message)
    assert answer["outputs"][0]["contents"] == {"bytes_contents": texts}


def test_grpcurl_reads_metadata_readiness_and_health(server: ServerProcess) -> None:
    assert called(server, f"{INFERENCE}/ServerLive") == {"live": True}
    assert called(server, f"{INFERENCE}/ServerMetadata")["name"] == "gnomon"
    assert called(server, f"{INFERENCE}/ModelReady", {"name": "line", "version": "1"}) == {"ready": True}
    assert called(server, f"{INFERENCE}/ModelReady", {"name": "line", "version": "9"}) == {}
    metadata = called(server, f"{INFERENCE}/ModelMetadata", {"name": "line"})
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert called(server, "grpc.health.v1.Health/Check", {"service": INFERENCE}) == {"status": "SERVING"}


CLASSES = {"name": "y", "parameters": {"classification": {"int64_param": 1}}}
MISTAKES = {
    "unknown model": (asked("50% off\n", [[1, 2, 3]]), 5, "model '50% off\\n' not found"),
    "unknown version": (asked("line", [[1, 2, 3]], model_version="9"), 5, "version '9' not found"),
    "wrong shape": (asked("line", [[1, 2]]), 3, "expected shape [-1, 3], received [1, 2]"),
    "empty name": ({}, 3, "model name is empty"),
    "not offered": (
        asked("line", [[1, 2, 3]], outputs=[CLASSES]),
        12,
        "not offered",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_grpcurl_reads_the_status_and_the_text_of_a_mistake(name: str, server: ServerProcess) -> None:
    message, code, words = MISTAKES[name]
    status, text = refused(server, INFER, message)
    assert status == code
    assert words in text


def test_grpcurl_learns_that_a_method_is_not_offered(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "triton.proto").write_text(TRITON)
    by_triton = ("-import-path", str(tmp_path), "-proto", "triton.proto")
    answer = refused(server, f"{INFERENCE}/TraceSetting", {}, by_triton)
    assert answer == (12, "method 'TraceSetting' is not offered")


def test_grpcurl_learns_of_a_passed_deadline_and_the_next_call_is_answered(server: ServerProcess) -> None:
    status, _ = refused(server, INFER, asked("slow", [[2, 2, 2]]), ("-max-time", "0.1", *BY_PROTO))
    assert status == 4
    assert numbers(called(server, INFER, asked("slow", [[1, 1, 1]]))) == [1, 1, 1]


def test_grpcurl_watches_health_until_its_deadline(server: ServerProcess) -> None:
    watched = ran("grpcurl", "-plaintext", "-max-time", "0.5", server.grpc, "grpc.health.v1.Health/Watch")
    assert json.loads(watched.stdout) == {"status": "SERVING"}
    assert watched.returncode == STATUS_BASE + 4, watched.stderr


def test_grpcurl_sends_two_mebibytes_and_gets_them_doubled(server: ServerProcess) -> None:
    rows = 2 * 2**20 // 12
    sent = np.arange(rows * 3, dtype="<f4")
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 3]}
    raw = base64.b64encode(sent.tobytes()).decode()
    message = json.dumps({"model_name": "line", "inputs": [tensor], "raw_input_contents": [raw]})
    done = ran("grpcurl", "-plaintext", *BY_PROTO, "-d", "@", server.grpc, INFER, stdin=message)
    assert done.returncode == 0, done.stderr
    assert base64.b64decode(parsed(done.stdout)["raw_output_contents"][0]) == (sent * 2).tobytes()
