"""The page: models, their shadows and the latest changes as one HTML document, made from the API's own messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from gnomon_protos import control_pb2
from gnomon_server.control.delivery import Progress
from gnomon_server.telemetry.conventions import PAUSED, STUCK

STYLE: Final = """
:root{color-scheme:light dark;--bg:#f6f5f1;--card:#fff;--ink:#1f2328;--soft:#6b7078;--line:#dddad2;--good:#1a7f4b;
--bad:#b3261e;--wait:#946200;--bar:#e7e4dc}
@media(prefers-color-scheme:dark){:root{--bg:#16181b;--card:#1e2125;--ink:#e8e6e1;--soft:#9aa0a8;--line:#33373d;
--good:#4cc38a;--bad:#ff8a80;--wait:#e5b454;--bar:#2c3036}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:980px;margin:0 auto;padding:2rem 1.25rem 4rem}h1{font-size:1.3rem;margin:0 0 1.5rem}
h1 small{font-weight:400;color:var(--soft)}h2{font-size:1.1rem;margin:0 0 .75rem}h3{font-size:1rem;margin:0 0 .5rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.1rem 1.25rem;
margin:0 0 1.25rem}
article{border-top:1px solid var(--line);margin-top:1rem;padding-top:1rem}
table{border-collapse:collapse;width:100%}th{color:var(--soft);font-weight:500;text-align:left}
td,th{padding:.25rem .75rem .25rem 0;vertical-align:top}td.n,th.n{text-align:right}
.scroll{overflow-x:auto}.scroll+.scroll{margin-top:.8rem}p{margin:.4rem 0}.soft{color:var(--soft)}
.promote,.ready{color:var(--good)}.reject,.failed{color:var(--bad)}.keep,.loading{color:var(--wait)}
.verdict{font-weight:600}.bar{position:relative;height:10px;border-radius:5px;background:var(--bar);margin:.5rem 0}
.bar i{position:absolute;top:0;bottom:0;border-radius:5px;background:currentColor;opacity:.45}
.bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:currentColor}
footer{color:var(--soft);font-size:.85rem}a{color:inherit}
"""
# Replaces what is shown every two seconds; a server that is away is said, and tried again.
SCRIPT: Final = """
setInterval(async()=>{try{const r=await fetch(location.href);const d=new DOMParser().parseFromString(await r.text(),
'text/html');document.querySelector('main').replaceWith(d.querySelector('main'));}
catch{document.querySelector('#live').textContent='no answer from the server';}},2000);
"""


@dataclass(frozen=True)
class View:
    """What the page shows."""

    models: Sequence[control_pb2.ModelStatus]
    reports: Sequence[control_pb2.Report]
    audit: Sequence[control_pb2.AuditEntry]
    # By model.
    deliveries: Mapping[str, Progress] = field(default_factory=dict)
    # Since when the store is away and why; empty while it is not.
    away: str = ""


def render(view: View) -> str:
    """Returns the HTML document; everything that came from outside is escaped."""
    models = "".join(
        _model(model, [r for r in view.reports if r.model == model.name], view.deliveries.get(model.name))
        for model in view.models
    )
    empty = "<section><p>No model in the repository yet. <code>gnomon convert</code> puts one there.</p></section>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>gnomon</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>"
        '<h1>gnomon <small id="live">models and their shadows, live</small></h1>'
        f"{_away(view.away)}{models or empty}{changes(view.audit)}"
        '<footer><a href="/metrics">metrics</a> · <a href="/readyz">readiness</a></footer>'
        f"</main><script>{SCRIPT}</script></body></html>"
    )


def _away(away: str) -> str:
    if not away:
        return ""
    so = "No route can be changed until it is back; requests are answered, mirrored and counted meanwhile."
    return f"<section><p class=failed>{escape(away[0].upper() + away[1:])}</p><p>{so}</p></section>"


def _model(
    model: control_pb2.ModelStatus, reports: Sequence[control_pb2.Report], delivery: Progress | None = None
) -> str:
    rows = "".join(_version(version) for version in model.versions)
    return (
        f"<section><h2>{escape(model.name)}</h2><div class=scroll><table><tr><th>version<th>role<th>state"
        f"<th class=n>answered<th class=n>failed</tr>{rows}</table></div>"
        f"{_canary(model.route, delivery)}{_drift(model)}{''.join(map(article, reports))}</section>"
    )


def _canary(route: control_pb2.Route, delivery: Progress | None) -> str:
    """Returns which share the canary answers, and where its delivery stands; nothing where there is none."""
    if not route.HasField("canary"):
        return ""
    shown = f"Version {route.canary.version} answers {100 * route.canary.weight:.3g}% of requests as canary"
    if delivery is None:
        return f"<p>{shown}</p>"
    kind = {PAUSED: "keep", STUCK: "reject"}.get(delivery.state, "soft")
    reason = f": {escape(delivery.reason)}" if delivery.reason else ""
    return (
        f"<p>{shown}: step {delivery.step} of {delivery.steps} to be the primary, for {_lasting(delivery.seconds)}, "
        f"<span class={kind}>{escape(delivery.state)}</span>{reason}</p>"
    )


def _lasting(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _drift(model: control_pb2.ModelStatus) -> str:
    return f"<p><span class=reject>drift</span>: {escape(model.drift)}</p>" if model.drift else ""


def _version(version: control_pb2.VersionStatus) -> str:
    reason = f" <span class=soft>{escape(version.reason)}</span>" if version.reason else ""
    return (
        f"<tr><td>{version.version}<td>{escape(version.role) or '-'}"
        f'<td><span class="{escape(version.state)}">{escape(version.state)}</span>{reason}'
        f"<td class=n>{version.requests:,}<td class=n>{version.failures:,}</tr>"
    )


def article(report: control_pb2.Report) -> str:
    """Returns how a shadow compares, as an element of a document with STYLE."""
    kind = report.verdict.decision.split(" ", maxsplit=1)[0]
    outputs = "".join(
        f"<tr><td>{escape(o.output)}<td>{escape(o.comparator)}<td class=n>{o.rows:,}<td class=n>{o.disagreements:,}"
        f"<td class=n>{o.mean_divergence:.4f}<td class=n>{o.max_divergence:.4f}</tr>"
        for o in report.outputs
    )
    table = (
        "<div class=scroll><table><tr><th>output<th>comparator<th class=n>rows<th class=n>disagree"
        f"<th class=n>mean divergence<th class=n>max</tr>{outputs}</table></div>"
        if outputs
        else ""
    )
    return (
        f"<article><h3>version {report.shadow} in the shadow of version {report.primary} "
        f"<span class=soft>({100 * report.sample:.3g}% of requests)</span></h3>"
        f'<p><span class="verdict {kind}">{escape(report.verdict.decision)}</span>: {escape(report.verdict.reason)}</p>'
        f"{_agreement(report, kind)}{_thinned(report)}"
        f"{''.join(_finding(f) for f in report.verdict.findings if f.metric != 'disagreement')}"
        f"{_labels(report)}<p>{_outcomes(report.outcomes)}</p><p>{_observations(report.observations)}</p>"
        f"<p>Run time per request: primary {_latency(report.primary_latency)}; "
        f"shadow, in batches, {_latency(report.shadow_latency)}{_as_primary(report)}</p>{table}"
        f"{''.join(map(_flips, report.outputs))}{_segments(report)}</article>"
    )


def _segments(report: control_pb2.Report) -> str:
    if not report.segments.segments:
        return ""
    rows = "".join(
        f"<tr><td>{escape(' and '.join(s.conditions))}<td class=n>{s.rows:.1%}<td class=n>{s.disagreements:.1%}"
        f"<td class=n>{s.rate:.1%}<td class=n>{s.rate_outside:.2%}</tr>"
        for s in report.segments.segments
    )
    heads = (
        "<tr><th>where they differ<th class=n>of traffic<th class=n>of the disagreement<th class=n>disagree inside"
        "<th class=n>outside</tr>"
    )
    return f"<div class=scroll><table>{heads}{rows}</table></div>"


def _flips(output: control_pb2.OutputReport) -> str:
    if not output.flips:
        return ""
    rows = "".join(
        f"<tr><td>{escape(f.before)}<td>{escape(f.after)}<td class=n>{f.rows:,}<td class=n>{f.cost:,g}</tr>"
        for f in output.flips
    )
    heads = "<tr><th>primary decides<th>shadow decides<th class=n>rows<th class=n>cost</tr>"
    return f"<p>Decisions on {escape(output.output)}</p><div class=scroll><table>{heads}{rows}</table></div>"


def _thinned(report: control_pb2.Report) -> str:
    """Returns when the guard thinned the mirroring last; nothing where it never did."""
    if not report.thinnings:
        return ""
    last, times = report.thinnings[0], len(report.thinnings)
    when = f"from {last.since} to {last.until}" if last.until else f"since {last.since}"
    often = f"{times} times, last " if times > 1 else ""
    return (
        f"<p>Mirroring was thinned {often}{escape(when)}, down to {last.factor:.3g} of the share "
        f"<span class=soft>({escape(last.cause)})</span></p>"
    )


def _finding(finding: control_pb2.Finding) -> str:
    return (
        f"<p>{escape(finding.metric)} {finding.estimate:.2%}, interval {finding.low:.2%} to {finding.high:.2%}, "
        f"allowed {finding.limit:.2%}: {escape(finding.state)}</p>"
    )


def _labels(report: control_pb2.Report) -> str:
    if not report.HasField("labels"):
        return ""
    known = report.labels
    other = f"{known.late:,} late, {known.duplicate:,} duplicate, {known.refused:,} refused, {known.unknown:,} unknown"
    forgotten = f"; {known.forgotten:,} requests forgotten before a label came" if known.forgotten else ""
    other = f"{other}, {known.waiting:,} waiting{forgotten}"
    head = f"<p>Labels of {escape(known.output)}: {known.joined:,} joined, {other}</p>"
    if known.horizon and known.due:
        found = known.difference
        head += (
            f"<p>The shadow loses more by {found.estimate:.2%}, interval {found.low:.2%} to {found.high:.2%} "
            f"<span class=soft>({escape(found.method)}; {known.labelled:,} of {known.due:,} requests that are due have "
            "a label)</span></p>"
        )
    if not known.rows:
        return head
    if known.loss != "label":
        errors = f"primary {known.primary_loss:.4g}, shadow {known.shadow_loss:.4g}"
        return f"{head}<p>Mean {escape(known.loss)} error in {known.rows:,} labelled rows: {errors}</p>"
    heads = f"<tr><th>{known.rows:,} labelled rows<th class=n>shadow right<th class=n>shadow wrong</tr>"
    right = f"<tr><td>primary right<td class=n>{known.both_right:,}<td class=n>{known.primary_right:,}</tr>"
    wrong = f"<tr><td>primary wrong<td class=n>{known.shadow_right:,}<td class=n>{known.both_wrong:,}</tr>"
    return f"{head}<div class=scroll><table>{heads}{right}{wrong}</table></div>"


def _observations(found: control_pb2.Observations) -> str:
    unit = f"blocks of {found.block} requests" if found.block > 1 else "requests"
    advice = f'. <span class="keep">{escape(found.advice)}</span>' if found.advice else ""
    return (
        f"The verdict rests on {found.count:,.0f} {unit}; {found.repeated_share:.1%} of rows were met before and left "
        f"out{advice}"
    )


def _outcomes(outcomes: control_pb2.Outcomes) -> str:
    parts = {
        "compared": outcomes.compared,
        "shadow errors": outcomes.shadow_error,
        "primary errors": outcomes.primary_error,
        "timeouts": outcomes.timeout,
        "dropped": outcomes.dropped,
        "not comparable": outcomes.not_comparable,
        "on the way": outcomes.pending,
    }
    shown = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    return f"{outcomes.selected:,} requests selected" + (f": {shown}" if shown else "")


def _agreement(report: control_pb2.Report, kind: str) -> str:
    if not report.outcomes.compared:
        return ""
    found = report.agreement
    return (
        f"{_bar(found, kind)}<p>Agreement {found.estimate:.2%}, interval {found.low:.2%} to {found.high:.2%} "
        f"<span class=soft>({escape(found.method)})</span></p>"
    )


def _bar(interval: control_pb2.Interval, kind: str) -> str:
    low, high = interval.low * 100, interval.high * 100
    return (
        f'<div class="bar {kind}" role=img aria-label="agreement between {low:.1f} and {high:.1f} percent">'
        f'<i style="left:{low:.2f}%;width:{max(0.3, high - low):.2f}%"></i>'
        f'<b style="left:{interval.estimate * 100:.2f}%"></b></div>'
    )


def _latency(latency: control_pb2.Latency) -> str:
    if not latency.count:
        return "not measured yet"
    return f"mean {_time(latency.mean)}, p50 {_time(latency.p50)}, p99 {_time(latency.p99)}"


def _as_primary(report: control_pb2.Report) -> str:
    if not report.HasField("repetition"):
        return ""
    found = report.repetition
    note = f"</p><p class=failed>{escape(found.note)}" if found.note else ""
    alone = f"<span class=soft>({found.requests:,} requests run alone)</span>"
    return f"; shadow, as a primary, {_latency(found.as_primary)} {alone}{note}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.3g} ms"


def changes(entries: Iterable[control_pb2.AuditEntry]) -> str:
    """Returns the changes as an element of a document with STYLE; nothing where there are none."""
    rows = "".join(
        f"<tr><td>{escape(e.time)}<td>{escape(e.actor)}<td>{escape(e.action)}{' (forced)' if e.forced else ''}"
        f"<td>{escape(e.model)} {e.version or ''}<td>{escape(e.reason)}</tr>"
        for e in entries
    )
    if not rows:
        return ""
    heads = "<tr><th>time<th>who<th>what<th>version<th>why</tr>"
    return f"<section><h2>Changes</h2><div class=scroll><table>{heads}{rows}</table></div></section>"
