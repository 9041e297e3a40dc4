"""What a report says of the differences, beside the same computed from the answers by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Control
from gnomon_protos import control_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array

BIAS = 0.5
GNOMON = Path(sys.executable).with_name("gnomon")
CONFIG = """
[mirror]
deadline = 60.0
[models."*".compare]
repeat = 1.0
[models.renamed.compare.align.2]
inputs = { x = "a" }
constants = { b = 0.0 }
[models.loan.compare]
redact = ["x"]
[models.loan.outputs.probabilities]
comparator = "js_distance"
tolerance = 0.05
thresholds = [0.4, 0.6]
decisions = ["deny", "ask", "approve"]
costs = { "deny -> ask" = 2, "ask -> approve" = 50 }
"""


def gnomon(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GNOMON, *arguments], capture_output=True, text=True, timeout=60, check=check)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("differences")
    models.write(folder / "models", "loan", 1, models.classifier())
    models.write(folder / "models", "loan", 2, models.classifier(BIAS))
    models.write(folder / "models", "steps", 1, models.identity())
    models.write(folder / "models", "steps", 2, models.stepped(0.9))
    models.write(folder / "models", "renamed", 1, models.identity())
    models.write(folder / "models", "renamed", 2, models.added())
    models.write(folder / "models", "moody", 1, models.noisy(0.5))
    models.write(folder / "models", "moody", 2, models.affine(1.0))
    with ServerProcess(folder / "models", folder / "state", config=CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def control(server: ServerProcess) -> Iterator[Control]:
    with server.control() as running:
        yield running


@pytest.fixture(scope="module")
def scores(server: ServerProcess, control: Control) -> tuple[Array, Array]:
    """The scores of both versions, of all that was asked."""
    mirrored(control, "loan")
    rows = np.random.default_rng(0).normal(0, 1, (600, 3)).astype(np.float32)
    with server.client() as client:
        for part in np.split(rows, 200):
            client.infer("loan", part)
    at_rest(control, "loan", 200)
    sums = rows.sum(axis=1, dtype=np.float64)
    return 1 / (1 + np.exp(-sums)), 1 / (1 + np.exp(-sums - BIAS))


def output(report: pb.Report, name: str) -> pb.OutputReport:
    (found,) = [one for one in report.outputs if one.output == name]
    return found


def test_flips_and_their_costs_are_those_of_the_answers(
    server: ServerProcess, control: Control, scores: tuple[Array, Array]
) -> None:
    names = np.array(["deny", "ask", "approve"])
    before, after = (names[np.searchsorted([0.4, 0.6], side, side="right")] for side in scores)
    costs = {("deny", "ask"): 2, ("ask", "approve"): 50}
    expected = {
        flip: (rows, rows * costs.get(flip, 0))
        for flip in {(b, a) for b, a in zip(before, after, strict=True) if b != a}
        if (rows := int(np.count_nonzero((before == flip[0]) & (after == flip[1]))))
    }
    assert len(expected) >= 2
    found = output(control.report("loan"), "probabilities")
    assert {(flip.before, flip.after): (flip.rows, flip.cost) for flip in found.flips} == expected
    with urllib.request.urlopen(f"http://{server.http}/") as page:
        assert "<td>ask<td>approve" in page.read().decode()


def test_divergences_are_those_of_the_answers(control: Control, scores: tuple[Array, Array]) -> None:
    def entropy(p: Array) -> Array:
        bits: Array = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        return bits

    p, q = scores
    distances = np.sqrt(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)
    found = output(control.report("loan"), "probabilities")
    assert (found.comparator, found.rows) == ("js_distance", 600)
    assert found.disagreements == np.count_nonzero(distances > 0.05)
    assert found.mean_divergence == pytest.approx(distances.mean(), rel=1e-4)
    assert found.max_divergence == pytest.approx(distances.max(), rel=1e-4)


def test_a_primary_that_is_not_deterministic_is_named_and_a_deterministic_one_is_not(
    server: ServerProcess, control: Control, scores: tuple[Array, Array]
) -> None:
    mirrored(control, "moody")
    rows = np.ones((1, 3), np.float32)

    def repeated() -> pb.Repetition | None:
        for _ in range(20):
            client.infer("moody", rows)
        found = control.report("moody").repetition
        return found if found.requests >= 40 else None

    with server.client() as client:
        eventually(repeated)
    found = control.report("moody")
    assert found.repetition.own_disagreeing == found.repetition.requests
    assert found.repetition.note.startswith("the primary is not deterministic")
    # Everything about the shadow is as uncertain as the primary itself.
    assert found.repetition.excess.low < 0 < found.repetition.excess.high
    assert found.repetition.shadow_latency.count == found.repetition.requests

    with server.client() as client:
        eventually(lambda: client.infer("loan", rows) and control.report("loan").repetition.requests)
    found = control.report("loan")
    assert (found.repetition.own_disagreeing, found.repetition.note) == (0, "")
    assert found.repetition.as_primary.p50 > 0


def test_requests_are_repeated_on_whatever_version_is_the_primary(server: ServerProcess, control: Control) -> None:
    control.promote("moody", 2, force=True, reason="to see the other side")
    control.shadow("moody", 1)
    mirrored(control, "moody", 1)

    def repeated() -> bool:
        client.infer("moody", np.ones((1, 3), np.float32))
        return control.report("moody", 1).repetition.requests > 10

    with server.client() as client:
        eventually(repeated)
    found = control.report("moody", 1).repetition
    assert found.own_disagreeing == 0
    assert found.excess.estimate == 1 - found.shadow_agreement


def _come_down_to_their_cause(server: ServerProcess, rows: Array, folder: Path) -> None:
    np.save(folder / "usual.npy", rows)
    usual, vectors = str(folder / "usual.npy"), str(folder / "vectors")
    places = ("--control", server.control_address, "--repository", str(server.repository))
    shrunk = gnomon("divergent", "steps", "--shrink", "--typical", usual, "--save", vectors, *places).stdout
    assert (shrunk.count("x[0]: "), shrunk.count("x[1]"), shrunk.count("x[2]")) == (20, 0, 0)
    gnomon("replay", vectors, "--against", "1", "--all-agree", *places[2:])
    with pytest.raises(subprocess.CalledProcessError):
        gnomon("replay", vectors, "--against", "2", "--all-agree", *places[2:])


def test_where_they_differ_is_named_and_shown(server: ServerProcess, control: Control, tmp_path: Path) -> None:
    mirrored(control, "steps")
    rows = np.random.default_rng(3).uniform(0, 1, (4000, 3)).astype(np.float32)
    with server.client() as client:
        for part in np.split(rows, 400):
            client.infer("steps", part)
    at_rest(control, "steps", 400)
    # The first search is of those rows that had come by then.
    eventually(lambda: control.report("steps").segments.rows == 4000)
    report = control.report("steps")
    assert output(report, "y").disagreements == np.count_nonzero(rows[:, 0] >= 0.9)
    first = report.segments.segments[0]
    (condition,) = first.conditions
    assert condition.startswith(("x[0] >= 0.9", "x[0] >= 0.89"))
    assert first.disagreements > 0.9
    assert len(first.trace_ids) == 3
    requests = control.divergent("steps").requests
    assert 0 < len(requests) <= 100
    for request in requests:
        (x,), (primary,), (shadow,) = (
            [tensors.from_message(kept.tensor) for kept in side]
            for side in (request.inputs, request.primary_outputs, request.shadow_outputs)
        )
        assert (x[:, 0] >= 0.9).all()
        np.testing.assert_array_equal(primary, x)
        np.testing.assert_array_equal(shadow, x + 1)
    shown = gnomon("divergent", "steps", "--json", "--limit", "3", "--control", server.control_address)
    found = json.loads(shown.stdout)
    assert [one["trace_id"] for one in found] == [request.trace_id for request in requests[:3]]
    assert gnomon("divergent", "loan", "--control", server.control_address).stdout.count("withheld") > 0
    _come_down_to_their_cause(server, rows, tmp_path)
    assert "where they differ" in gnomon("report", "steps", "--control", server.control_address).stdout


def test_a_version_with_tensors_that_are_not_declared_is_refused_with_what_differs(
    server: ServerProcess, control: Control
) -> None:
    where = ("--control", server.control_address)
    folder = server.repository
    models.write(folder, "steps", 9, models.added())
    eventually(lambda: any("does not fit version 1" in v.reason for v in control.models("steps").models[0].versions))
    control.shadow("steps", 9, off=True)
    refused = gnomon("shadow", "steps", "9", *where, check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    for part in ("input 'x': expected FP32 [-1, 3], received none", "input 'b': expected none", "align.9"):
        assert part in refused.stderr
    assert gnomon("shadow", "steps", "9", "--force", *where).returncode == 0
    newest = control.audit("steps", 1).entries[0]
    assert (newest.action, newest.version, newest.forced) == ("shadow", 9, True)
    control.shadow("steps", 9, off=True)


def test_a_version_with_other_tensors_is_compared_as_declared(server: ServerProcess, control: Control) -> None:
    mirrored(control, "renamed")
    rows = np.random.default_rng(4).normal(size=(20, 3)).astype(np.float32)
    with server.client() as client:
        for row in np.split(rows, 20):
            client.infer("renamed", row)
    outcomes = at_rest(control, "renamed", 20)
    report = control.report("renamed")
    # y = a + b with b = 0, where the primary gives y = x.
    assert (outcomes.compared, outcomes.not_comparable) == (20, 0)
    assert (output(report, "y").rows, output(report, "y").disagreements) == (20, 0)
