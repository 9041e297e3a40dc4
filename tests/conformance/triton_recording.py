"""What Triton answers to the cases, recorded: `make triton` asks a real one anew."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance.triton_cases import CASES, Case
from conformance.triton_server import triton
from raw_calls import channel, sent

FILE = Path(__file__).with_name("triton_answers.json")
Answer = dict[str, Any]


def answered(wire: grpc.Channel, case: Case) -> Answer:
    """Makes one call; returns its status, its text, and the answer if there is one."""
    try:
        if case.streaming:
            return {"status": "OK", "answers": [case.read(each) for each in streamed(wire, case)]}
        answer = sent(wire, case.path, case.message)
    except grpc.RpcError as raised:
        error: Any = raised
        return {"status": error.code().name, "text": error.details()}
    return {"status": "OK", "answer": case.read(answer)}


def streamed(wire: grpc.Channel, case: Case) -> list[bytes]:
    """Makes a stream of one message; returns what comes back."""
    begun: Any = wire.stream_stream(case.path)
    return list(begun(iter([case.message]), timeout=30))


def recorded() -> dict[str, Answer]:
    """Returns what is on file, by the name of its case."""
    found: dict[str, Answer] = json.loads(FILE.read_text())
    return found


def main() -> None:
    """Records."""
    with tempfile.TemporaryDirectory() as folder, triton(Path(folder)) as address, channel(address) as wire:
        answers = {name: answered(wire, case) for name, case in CASES.items()}
    FILE.write_text(json.dumps(answers, indent=1, sort_keys=True, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
