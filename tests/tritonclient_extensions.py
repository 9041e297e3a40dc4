"""A user of tritonclient's extensions, in a process of its own: `python tritonclient_extensions.py sync|aio ADDRESS`.

It calls what gnomon offers of them and prints what it got as JSON. The server has the models `line` (y = 2 x) and
`guest`, and allows changes of the repository and shared memory.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import secrets
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import aio

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)


async def _got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _input(array: Any) -> Any:
    made = triton.InferInput("x", list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


async def _refused(call: Any) -> list[str]:
    try:
        await _got(call())
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    return []


async def _told(client: Any) -> dict[str, Any]:
    """Configuration, statistics and the repository."""
    before = await _got(client.get_inference_statistics("line", as_json=True))
    for _ in range(3):
        await _got(client.infer("line", [_input(np.repeat(ROW, 2, 0))]))
    after = await _got(client.get_inference_statistics("line", as_json=True))
    await _got(client.unload_model("guest"))
    unloaded = await _got(client.get_model_repository_index(as_json=True))
    refused = await _refused(lambda: client.infer("guest", [_input(ROW)]))
    await _got(client.load_model("guest"))
    await _got(client.infer("guest", [_input(ROW)]))
    return {
        "config": await _got(client.get_model_config("line", as_json=True)),
        "statistics": [before, after],
        "unloaded": unloaded,
        "refused": refused,
        "index": await _got(client.get_model_repository_index(as_json=True)),
        "config_override": await _refused(lambda: client.load_model("guest", config="{}")),
        "trace": await _refused(client.get_trace_settings),
    }


async def _shared(client: Any) -> dict[str, Any]:
    """Inputs and outputs in shared memory, made by tritonclient's own helpers."""
    key = f"/gnomon-test-{secrets.token_hex(8)}"
    region = shm.create_shared_memory_region("region", key, 64)
    try:
        shm.set_shared_memory_region(region, [ROW])
        await _got(client.register_system_shared_memory("region", key, 64))
        status = await _got(client.get_system_shared_memory_status(as_json=True))
        twice = await _refused(lambda: client.register_system_shared_memory("region", key, 64))
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_shared_memory("region", ROW.nbytes)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("region", ROW.nbytes, 32)
        result = await _got(client.infer("line", [given], outputs=[wanted]))
        output = result.get_output("y")
        array = shm.get_contents_as_numpy(region, np.float32, list(output.shape), offset=32)
        given.set_shared_memory("region", 128)
        beyond = await _refused(lambda: client.infer("line", [given]))
        await _got(client.unregister_system_shared_memory("region"))
        given.set_shared_memory("region", ROW.nbytes)
        gone = await _refused(lambda: client.infer("line", [given]))
        left = await _got(client.get_system_shared_memory_status(as_json=True))
        return {
            "status": status,
            "twice": twice,
            "shared": array.tolist(),
            "raw": len(result.get_response().raw_output_contents),
            "beyond": beyond,
            "gone": gone,
            "left": left,
        }
    finally:
        shm.destroy_shared_memory_region(region)


def _heard(results: list[tuple[Any, Any]]) -> list[Any]:
    """Answers as ids and numbers, errors as their texts."""
    return [
        [result.get_response().id, result.as_numpy("y").tolist()] if error is None else error.message()
        for result, error in results
    ]


def _streamed(client: Any) -> list[Any]:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(3):
        model = "nobody" if number == 1 else "line"
        final = {"enable_empty_final_response": True} if number == 2 else {}
        client.async_stream_infer(model, [_input(ROW + number)], request_id=f"id {number}", **final)
    got = [answers.get(timeout=30) for _ in range(3)]
    client.stop_stream()
    return _heard(got)


async def _streamed_aio(client: Any) -> list[Any]:
    async def requests() -> Any:
        for number in range(3):
            model = "nobody" if number == 1 else "line"
            yield {"model_name": model, "inputs": [_input(ROW + number)], "request_id": f"id {number}"}

    return _heard([answer async for answer in client.stream_infer(requests())])


async def _aio(address: str) -> dict[str, Any]:
    async with aio.InferenceServerClient(address) as client:
        return {**await _told(client), **await _shared(client), "stream": await _streamed_aio(client)}


def main() -> None:
    """Calls everything."""
    kind, address = sys.argv[1:]
    if kind == "aio":
        said = asyncio.run(_aio(address))
    else:
        with triton.InferenceServerClient(address) as client:
            said = {
                **asyncio.run(_told(client)),
                **asyncio.run(_shared(client)),
                "stream": _streamed(client),
            }
    print(json.dumps(said))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
