"""A user of tritonclient, in a process of its own: `python tritonclient_calls.py sync|aio ADDRESS FILE.npz`.

tritonclient registers the same protobuf package as gnomon's stubs, so that one process can have only one of them. It
calls everything once, with the inputs in FILE.npz, and writes what it got to FILE.out.npz and, as JSON, to stdout.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import aio


async def _got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _input(name: str, array: Any) -> Any:
    datatype = "BYTES" if array.dtype.kind in "SUO" else "FP32"
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array.astype(object) if datatype == "BYTES" else array)
    return made


async def _calls(client: Any, numbers: Any, texts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    scored = await _got(client.infer("scores", [_input("x", numbers)], request_id="one"))
    asked = [triton.InferRequestedOutput("probabilities")]
    named = await _got(client.infer("scores", [_input("x", numbers)], model_version="1", outputs=asked))
    echoed = await _got(client.infer("texts", [_input("x", texts)]))
    try:
        await _got(client.infer("nobody", [_input("x", numbers)]))
    except triton.InferenceServerException as error:
        refused = [error.status(), error.message()]
    metadata = await _got(client.get_model_metadata("scores", as_json=True))
    server = await _got(client.get_server_metadata(as_json=True))
    said = {
        "live": await _got(client.is_server_live()),
        "ready": await _got(client.is_server_ready()),
        "model_ready": await _got(client.is_model_ready("scores")),
        "version_ready": await _got(client.is_model_ready("scores", "1")),
        "unknown_ready": await _got(client.is_model_ready("scores", "9")),
        "server": server,
        "metadata": metadata,
        "id": scored.get_response().id,
        "version": scored.get_response().model_version,
        "outputs": [output.name for output in scored.get_response().outputs],
        "asked": [output.name for output in named.get_response().outputs],
        "refused": refused,
        "texts": [[element.decode() for element in row] for row in echoed.as_numpy("y")],
    }
    arrays = {name: scored.as_numpy(name) for name in ("label", "probabilities")}
    return said, {**arrays, "asked": named.as_numpy("probabilities")}


async def _aio(address: str, inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    async with aio.InferenceServerClient(address) as client:
        return await _calls(client, inputs["numbers"], inputs["texts"])


def main() -> None:
    """Calls everything."""
    kind, address, path = sys.argv[1:]
    inputs = np.load(path)
    if kind == "aio":
        said, arrays = asyncio.run(_aio(address, inputs))
    else:
        with triton.InferenceServerClient(address) as client:
            said, arrays = asyncio.run(_calls(client, inputs["numbers"], inputs["texts"]))
    np.savez(path.removesuffix(".npz") + ".out.npz", **arrays)
    print(json.dumps(said))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
