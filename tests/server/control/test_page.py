from __future__ import annotations

import html.parser
from dataclasses import replace

import pytest

from gnomon_protos import control_pb2 as pb
from gnomon_server.control.delivery import Progress
from gnomon_server.control.page import View, render

HOSTILE = "<script>alert('x')</script>&\""


class Reader(html.parser.HTMLParser):
    """The text of a document, and its elements."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def view(name: str = "churn", decision: str = "promote") -> View:
    versions = [
        pb.VersionStatus(version=1, role="primary", state="ready", requests=12345, failures=6),
        pb.VersionStatus(version=2, role="shadow", state="failed", reason=f"why {name}"),
    ]
    latency = pb.Latency(count=10, mean=0.0005, p50=0.001, p99=0.004)
    found = pb.Report(
        model=name,
        primary=1,
        shadow=2,
        sample=0.25,
        outcomes=pb.Outcomes(selected=2000, compared=1990, dropped=10),
        agreement=pb.Interval(estimate=0.991, low=0.985, high=0.995, method=f"method {name}"),
        outputs=[pb.OutputReport(output=name, comparator="tv", rows=1990, disagreements=18, mean_divergence=0.0123)],
        primary_latency=latency,
        verdict=pb.Verdict(
            decision=decision,
            reason=f"because {name}",
            findings=[pb.Finding(metric=name, state="open", limit=0.01, estimate=0.002, low=0.0, high=0.03)],
        ),
        observations=pb.Observations(block=50, count=39, repeated_share=0.25, advice=f"longer {name}"),
    )
    entry = pb.AuditEntry(
        time="2026-01-01T00:00:00Z", actor=name, action="promote", model=name, version=2, reason=name, forced=True
    )
    return View([pb.ModelStatus(name=name, versions=versions)], [found], [entry])


def test_an_empty_repository_says_what_to_do() -> None:
    found = Reader(render(View([], [], [])))
    assert "No model in the repository yet" in found.text
    assert "gnomon convert" in found.text
    assert "Changes" not in found.text


def test_a_page_shows_versions_counts_evidence_and_changes() -> None:
    text = Reader(render(view())).text
    for part in (
        "12,345",
        "version 2 in the shadow of version 1 (25% of requests)",
        "promote: because churn",
        "2,000 requests selected: 1,990 compared, 10 dropped",
        "Agreement 99.10%, interval 98.50% to 99.50% (method churn)",
        "churn 0.20%, interval 0.00% to 3.00%, allowed 1.00%: open",
        "The verdict rests on 39 blocks of 50 requests; 25.0% of rows were met before and left out. longer churn",
        "mean 500 µs, p50 1 ms, p99 4 ms",
        "shadow, in batches, not measured yet",
        "0.0123",
        "promote (forced)",
    ):
        assert part in text


def test_a_page_names_no_agreement_before_a_request_is_compared() -> None:
    early = view()
    early.reports[0].outcomes.CopyFrom(pb.Outcomes(selected=3, pending=3))
    page = render(early)
    assert "Agreement" not in Reader(page).text
    assert "agreement between" not in page


def test_what_came_from_outside_is_text_and_never_markup() -> None:
    page = render(view(HOSTILE))
    assert HOSTILE not in page
    found = Reader(page)
    # Of scripts there is the page's own one only.
    assert found.tags.count("script") == 1
    assert found.text.count("alert('x')") >= 5


@pytest.mark.parametrize(
    ("decision", "kind"), [("promote", "promote"), ("reject", "reject"), ("keep watching", "keep")]
)
def test_each_verdict_has_its_colour(decision: str, kind: str) -> None:
    assert f'class="verdict {kind}"' in render(view(decision=decision))


def test_a_primary_that_is_not_deterministic_is_named() -> None:
    shown = view()
    shown.reports[0].repetition.requests = 12
    shown.reports[0].repetition.note = "the primary is not deterministic"
    text = Reader(render(shown)).text
    assert "12 requests run alone" in text
    assert "the primary is not deterministic" in text


def test_a_report_is_shown_with_its_own_model_only() -> None:
    one, other = view("one"), view("other")
    text = Reader(render(View([*one.models, *other.models], [*one.reports, *other.reports], []))).text
    assert text.count("because one") == text.count("because other") == 1
    assert text.index("because one") < text.index("why other") < text.index("because other")


def test_a_page_asks_nobody_else_for_anything() -> None:
    page = render(view())
    assert "http://" not in page
    assert "https://" not in page


def test_a_page_says_when_mirroring_was_thinned_last() -> None:
    shown = view()
    assert "thinned" not in Reader(render(shown)).text
    since, until = "2026-01-02T09:00:00Z", "2026-01-02T09:05:00Z"
    thinnings = [
        pb.Thinning(since=since, factor=0.25, cause="queue"),
        pb.Thinning(since=since, until=until, factor=0.5),
    ]
    shown.reports[0].thinnings.extend(thinnings)
    assert (
        f"Mirroring was thinned 2 times, last since {since}, down to 0.25 of the share (queue)"
        in Reader(render(shown)).text
    )
    del shown.reports[0].thinnings[0]
    assert f"Mirroring was thinned from {since} to {until}, down to 0.5" in Reader(render(shown)).text


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (None, "Version 2 answers 10% of requests as canary"),
        (Progress(2, 4, 180.4, "paused"), "canary: step 2 of 4 to be the primary, for 3 min, paused"),
        (Progress(1, 1, 119.0, "running"), "canary: step 1 of 1 to be the primary, for 119 s, running"),
        (Progress(4, 4, 1e6, "stuck", "why <b>"), "step 4 of 4 to be the primary, for 12 d, stuck: why <b>"),
    ],
)
def test_a_page_says_what_the_canary_answers_and_where_its_delivery_stands(
    progress: Progress | None, shown: str
) -> None:
    found = view()
    assert "canary" not in Reader(render(found)).text
    found.models[0].route.canary.CopyFrom(pb.Canary(version=2, weight=0.1))
    deliveries = {"churn": progress} if progress else {}
    assert shown in Reader(render(replace(found, deliveries=deliveries))).text


def test_a_page_says_that_the_store_is_away() -> None:
    assert "store" not in Reader(render(view())).text
    text = Reader(render(replace(view(), away=f"the store is away since then: {HOSTILE}"))).text
    assert f"The store is away since then: {HOSTILE}" in text
