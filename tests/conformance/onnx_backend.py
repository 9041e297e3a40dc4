"""Serves ONNX's backend test data and demands, bit by bit, what onnxruntime answers in process.

Prints what was skipped for which reason and each case that fails; exits 1 if any does.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from conformance import onnx_cases
from conformance.onnx_cases import Case, Skipped
from raw_calls import channel, infer, output, request, typed
from servers import ServerProcess

from gnomon_protos.tensors import CONTENTS, datatype_of


def main() -> int:
    """Runs all cases; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="onnx/backend/test/data of an installed onnx")
    cases, skipped = collected(parser.parse_args().data)
    with tempfile.TemporaryDirectory() as folder:
        failed = served(Path(folder), cases)
    report(cases, failed, skipped)
    return 1 if failed or not cases else 0


def collected(data: Path) -> tuple[list[Case], dict[str, list[str]]]:
    """Returns the cases that onnxruntime runs, and the names of the others by reason."""
    cases: list[Case] = []
    skipped: dict[str, list[str]] = defaultdict(list)
    for folder in onnx_cases.folders(data):
        try:
            cases += onnx_cases.read(folder)
        except Skipped as reason:
            skipped[str(reason)].append(folder.name)
    return cases, skipped


def served(folder: Path, cases: Sequence[Case]) -> dict[str, str]:
    """Returns the cases that a server answers otherwise, each with the reason."""
    repository = folder / "models"
    for case in cases:
        version = repository / case.name / "1"
        version.mkdir(parents=True)
        shutil.copy(case.model, version)
    failed = {}
    with ServerProcess(repository, folder / "state") as server, channel(server.grpc) as opened:
        for case in cases:
            if reason := difference(opened, case):
                failed[case.name] = reason
    return failed


def difference(opened: grpc.Channel, case: Case) -> str:
    """Returns how the server's answers differ from onnxruntime's; empty if they do not."""
    forms = [request(case.name, case.inputs)]
    if all(datatype_of(array) in CONTENTS for array in case.inputs.values()):
        asked = typed(case.name, case.inputs)
        asked.parameters["binary_data_output"].bool_param = False
        forms.append(asked)
    for asked in forms:
        try:
            answer = infer(opened, asked)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        names = [tensor.name for tensor in answer.outputs]
        if names != list(case.outputs):
            return f"expected outputs {list(case.outputs)}, received {names}"
        for index, (name, expected) in enumerate(case.outputs.items()):
            if not onnx_cases.same(output(answer, index), expected):
                return f"output {name!r} differs"
    return ""


def report(cases: Sequence[Case], failed: Mapping[str, str], skipped: Mapping[str, Sequence[str]]) -> None:
    """Prints how it went."""
    for reason, names in sorted(skipped.items()):
        print(f"skipped {len(names)}: {reason}")
        print(f"    {' '.join(names)}")
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}")
    passed = [case for case in cases if case.name not in failed]
    beside = sum(not case.as_expected for case in passed)
    count = sum(map(len, skipped.values()))
    print(f"{len(passed)} passed, {len(failed)} failed, {count} skipped")
    print(f"{beside} of those that passed are not what ONNX expects, in process and served alike")


if __name__ == "__main__":
    sys.exit(main())
