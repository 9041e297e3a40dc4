"""What the commands print says no more than is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from gnomon_protos import control_pb2 as pb
from gnomon_protos import tensors
from gnomon_server.cli import divergent, tables


def shown(report: pb.Report) -> str:
    screen = Console(width=200)
    with screen.capture() as capture:
        screen.print(tables.report(report))
    return capture.get()


def report() -> pb.Report:
    return pb.Report(
        model="churn",
        primary=1,
        shadow=2,
        sample=0.1,
        outcomes=pb.Outcomes(selected=10, compared=10),
        agreement=pb.Interval(estimate=0.9, low=0.5, high=1.0, method="some way"),
        observations=pb.Observations(block=1, count=10, design_effect=1.0, correlation=-0.001),
    )


def test_a_report_without_a_comparison_names_no_agreement() -> None:
    found = report()
    found.outcomes.CopyFrom(pb.Outcomes(selected=3, timeout=3))
    assert "agreement: not known yet, as nothing is compared" in shown(found)
    assert "%" not in shown(found).split("agreement:")[1].splitlines()[0]


def test_a_report_with_comparisons_names_the_agreement_and_its_bounds() -> None:
    assert "agreement: 90.00%, between 50.00% and 100.00% (some way)" in shown(report())


def test_what_a_few_requests_alone_took_is_no_latency_of_a_primary() -> None:
    found = report()
    found.repetition.requests = 2
    found.repetition.own_latency.CopyFrom(pb.Latency(count=2, mean=0.131, p50=33e-6, p50_high=float("inf")))
    text = shown(found)
    assert "shadow, as a primary, not measured yet" in text
    assert "2 of them ran again, alone, in the shadow's worker" in text
    assert "primary mean 131 ms" in text


def test_a_correlation_of_nothing_has_no_sign() -> None:
    assert "correlation 0.00" in shown(report())


def test_a_divergent_request_is_shown_with_few_digits_and_told_with_all() -> None:
    kept = pb.KeptTensor(tensor=tensors.to_message("x", np.array([[0.1]], np.float32)))
    request = pb.DivergentRequest(inputs=[kept])
    screen = Console(width=200)
    with screen.capture() as capture:
        screen.print(divergent.table([request]))
    assert "x [[0.1]]" in capture.get()
    assert json.loads(divergent.to_json([request]))[0]["inputs"][0]["values"] == [[float(np.float32(0.1))]]


@pytest.mark.parametrize(
    ("value", "text"), [(1, "100%"), (0.1, "10%"), (0.25, "25%"), (0.001, "0.1%"), (1e-5, "0.001%")]
)
def test_a_share_of_requests_is_in_percent_and_never_rounded_to_nothing(value: float, text: str) -> None:
    found = report()
    found.sample = value
    assert f"({text} of requests)" in shown(found)


def test_requests_that_were_forgotten_before_a_label_came_are_said() -> None:
    known = pb.Labels(joined=3, unknown=2)
    assert tables.labelled(known) == "3 joined, 2 of unknown requests"
    known.forgotten = 1200
    assert tables.labelled(known).endswith("2 of unknown requests; 1,200 requests were forgotten before a label came")
