"""Labels that come after the answers: joined to what both versions decided, and judged when they are due."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import onnx_models as models
import pytest
from load import Rows
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import ClientError, FailedPrecondition, InvalidArgument, NotFound
from gnomon_protos import control_pb2 as pb
from gnomon_server.statistics.knots import SYM64

# Seconds in which labels come.
HORIZON = 20.0
CONFIG = f"""
grace = 2.0
[mirror]
deadline = 5.0
[policy]
labels = {HORIZON}
loss = 0.2
min_requests = 100
min_duration = 3600
block = 1
[models.brief.policy]
labels = 0.1
"""
REQUESTS = 400
BIAS = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("feedback")
    for name in ("due", "brief"):
        models.write(folder / "models", name, 1, models.classifier(0.0))
        models.write(folder / "models", name, 2, models.classifier(BIAS))
    models.write(folder / "models", "alone", 1, models.classifier())
    with ServerProcess(folder / "models", folder / "state", config=CONFIG) as running:
        with running.control() as control:
            mirrored(control, "due")
            mirrored(control, "brief")
        yield running


def asked(server: ServerProcess, model: str, rows: Rows, name: str) -> None:
    with server.client() as client:
        for number, row in enumerate(rows):
            client.infer(model, row[np.newaxis], request_id=f"{name}{number}")


def rows_of(seed: int) -> tuple[Rows, list[int]]:
    """Returns rows, and the truth about them: what neither version knows exactly."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, 1, (REQUESTS, 3)).astype(np.float32)
    truth = (rows.sum(axis=1) + 0.1 + random.normal(0, 0.3, REQUESTS) > 0).astype(int)
    return rows, truth.tolist()


def offline(rows: Rows, truth: list[int]) -> dict[str, int]:
    """Returns McNemar's table as whoever has both versions and all labels makes it."""
    sides = [(rows.sum(axis=1) + bias > 0).astype(int) == truth for bias in (0.0, BIAS)]
    primary, shadow = sides
    return {
        "both_right": int((primary & shadow).sum()),
        "primary_right": int((primary & ~shadow).sum()),
        "shadow_right": int((~primary & shadow).sum()),
        "both_wrong": int((~primary & ~shadow).sum()),
    }


def table(labels: pb.Labels) -> dict[str, int]:
    return {name: getattr(labels, name) for name in ("both_right", "primary_right", "shadow_right", "both_wrong")}


def written(file: Path, labels: list[tuple[str, int]]) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([("id", "label"), *labels])
    return file


def mean(counts: Sequence[float]) -> float:
    """Returns the mean excess behind counts over SYM64."""
    return 2 * SYM64.mean(np.array(counts)) - 1


def test_joined_labels_outlive_the_worker_and_are_judged_when_they_are_due(
    server: ServerProcess, tmp_path: Path
) -> None:
    rows, truth = rows_of(1)
    asked(server, "due", rows, "r")
    with server.control() as control:
        at_rest(control, "due", REQUESTS)
        labels = [(f"r{number}", label) for number, label in enumerate(truth)]
        # Some are sent again, ten of them with another label, and one is about a request that never was.
        again = [(name, label if number >= 10 else 1 - label) for number, (name, label) in enumerate(labels[:50])]
        done = server.gnomon(
            "feedback", "due", str(written(tmp_path / "labels.csv", [*labels[:300], *again, ("nobody", 1)]))
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "due: version 2: 300 joined, 1 waiting, 50 duplicate\n"

        report = control.report("due")
        found = report.labels
        assert (found.joined, found.duplicate, found.conflicting, found.late, found.due) == (300, 50, 10, 0, 0)
        assert table(found) == offline(rows[:300], truth[:300])
        assert found.primary_loss == pytest.approx((found.shadow_right + found.both_wrong) / 300)
        assert report.verdict.reason.startswith("no request has waited for its label")

        for worker in server.children("gnomon_server.shadow"):
            worker.kill()
        eventually(lambda: control.report("due").shadow_state != "ready")
        mirrored(control, "due")
        after = control.report("due").labels
        assert (after.joined, after.unknown, table(after)) == (300, 1, table(found))
        # What the worker remembered died with it.
        assert server.gnomon("feedback", "due", "-", text='{"id": "r399", "label": 1}\n').stdout.endswith(
            "0 joined, 1 waiting\n"
        )
        eventually(lambda: control.report("due").labels.unknown == 2)

        eventually(lambda: control.report("due").labels.due == REQUESTS, 60)
        report = control.report("due")
        sides = [rows.sum(axis=1) + bias > 0 for bias in (0.0, BIAS)]
        differ = int((sides[0] != sides[1])[300:].sum())
        excess = found.primary_right - found.shadow_right
        (finding,) = report.verdict.findings
        assert (finding.metric, sum(finding.worst), sum(finding.best)) == ("loss", REQUESTS, REQUESTS)
        # Where a label is missing, versions that differ count at their worst and at their best.
        assert mean(finding.worst) == pytest.approx((excess + differ) / REQUESTS)
        assert mean(finding.best) == pytest.approx((excess - differ) / REQUESTS)
        assert report.labels.labelled == 300
        assert report.labels.difference.low < excess / REQUESTS < report.labels.difference.high


def test_a_label_after_its_horizon_is_late_and_counts_nowhere_else(server: ServerProcess) -> None:
    rows, truth = rows_of(2)
    asked(server, "brief", rows[:20], "b")
    with server.control() as control:
        eventually(lambda: control.report("brief").labels.due == 20)
        before = control.report("brief").labels.difference
        (found,) = control.feedback("brief", [(f"b{n}", truth[n]) for n in range(20)]).shadows
        assert (found.joined, found.late) == (0, 20)
        labels = control.report("brief").labels
        assert (labels.late, labels.rows, labels.labelled) == (20, 0, 0)
        assert labels.difference == before


def test_labels_are_seen_on_the_page_in_the_report_and_among_the_metrics(server: ServerProcess) -> None:
    with server.control() as control:
        before = control.report("brief").labels.due
        asked(server, "brief", rows_of(3)[0][:1], "seen")
        eventually(lambda: control.report("brief").labels.due > before)
        control.feedback("brief", [("seen0", 1)])
        reported = server.gnomon("report", "brief")
        reported.check_returncode()
        shown = reported.stdout
        for part in ("labels: 0 joined", " late", "the shadow loses more by"):
            assert part in shown
    with urlopen(f"http://{server.http}/") as page, urlopen(f"http://{server.http}/metrics") as metrics:
        assert "Labels of label: " in page.read().decode()
        lines = metrics.read().decode().splitlines()
    name = 'gnomon_feedback_labels_total{gnomon_model_name="brief",gnomon_model_version="2",gnomon_outcome="late"}'
    assert any(line.startswith(name) and float(line.split()[-1]) >= 1 for line in lines), lines


@pytest.mark.parametrize(
    ("model", "labels", "error", "text"),
    [
        ("nothing", [("a", 1)], NotFound, "model 'nothing' not found"),
        ("alone", [("a", 1)], FailedPrecondition, "model 'alone' has no shadow"),
        (
            *("brief", [("a", "x")], InvalidArgument),
            "model 'brief' output 'label': expected a whole number, received 'x'",
        ),
        ("brief", [], InvalidArgument, "labels: expected 1 to 10,000 in one call, received 0"),
        ("brief", [("", 1)], InvalidArgument, "expected the id of a request"),
        ("brief", [("a", 1, "2200-01-01T00:00:00Z")], InvalidArgument, "received a time to come"),
        ("brief", [("a", 1, "2999-01-01T00:00:00Z")], InvalidArgument, "time: expected one by RFC 3339"),
        ("brief", [("a", 1, "2026-01-31T12:00:00")], InvalidArgument, "time: expected one by RFC 3339"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_with_what_was_expected(
    server: ServerProcess, model: str, labels: list[Any], error: type[ClientError], text: str
) -> None:
    with server.control() as control, pytest.raises(error, match=re.escape(text)):
        control.feedback(model, labels)


def test_the_command_says_in_one_line_what_is_wrong_with_a_file(server: ServerProcess, tmp_path: Path) -> None:
    cases = {
        "no.csv": ("name,label\na,1\n", "expected the columns id and label"),
        "short.csv": ("id,label\na\n", "short.csv:2: expected 2 values"),
        "time.csv": ("id,label,time\na,1,yesterday\n", "time.csv:2: time: expected one by RFC 3339"),
        "no.jsonl": ('{"id": 1}\n', 'no.jsonl:1: expected an object with "id"'),
        "empty.csv": ("id,label\n", "expected labels, found none"),
        "labels.txt": ("", "expected a .csv or .jsonl file"),
    }
    for name, (text, expected) in cases.items():
        (tmp_path / name).write_text(text)
        done = server.gnomon("feedback", "brief", str(tmp_path / name))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert expected in done.stderr
