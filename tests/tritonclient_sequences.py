"""A user of tritonclient's sequences, in a process of its own: `tritonclient_sequences.py ADDRESS SEQUENCES STEPS`.

It streams requests of that many sequences of the model `line`, one after another of each, and prints the ids of the
answers as JSON.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    """Streams the sequences; every other one has a text for its id."""
    address, sequences, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    given = triton.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
    answers: queue.Queue[Any] = queue.Queue()
    ids = []
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put(error or result.get_response().id))
        for step in range(steps):
            for number in range(1, sequences + 1):
                client.async_stream_infer(
                    "line",
                    [given],
                    request_id=f"{number}/{step}",
                    sequence_id=number if number % 2 else f"s{number}",
                    sequence_start=step == 0,
                    sequence_end=step == steps - 1,
                )
            ids += [answers.get(timeout=30) for _ in range(sequences)]
        client.stop_stream()
    print(json.dumps(list(map(str, ids))))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
