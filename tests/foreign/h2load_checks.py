"""nghttp2's h2load, a client of HTTP/2 that knows nothing of gRPC: `make foreign-debian`, where its package is."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
from raw_calls import request
from servers import ServerProcess, eventually

REQUESTS = 20_000
CONNECTIONS = 8
STREAMS = 32


def test_h2load_has_every_request_answered_and_counted(server: ServerProcess, tmp_path: Path) -> None:
    program = shutil.which("h2load")
    assert program is not None, "expected h2load on PATH: install Debian's nghttp2-client"
    message = request("line", {"x": np.ones((1, 3), np.float32)}).SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    load = ("-n", str(REQUESTS), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-d", str(body))
    headers = ("-H", "te: trailers", "-H", "content-type: application/grpc")
    target = f"http://{server.grpc}/inference.GRPCInferenceService/ModelInfer"
    done = subprocess.run([program, *load, *headers, target], capture_output=True, text=True, timeout=120, check=True)
    assert f"{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout
    # To h2load an answer with any grpc-status is a success; the server's own count tells them apart.
    eventually(lambda: answered(server) == REQUESTS)


def answered(server: ServerProcess) -> int:
    """Returns how many ModelInfer calls have ended with OK."""
    with urllib.request.urlopen(f"http://{server.http}/metrics") as answer:
        text = answer.read().decode()
    count = "rpc_server_call_duration_seconds_count"
    found = re.search(rf'^{count}\{{[^}}]*/ModelInfer",rpc_response_status_code="OK"\}} (\d+)$', text, re.MULTILINE)
    return int(found[1]) if found else 0
