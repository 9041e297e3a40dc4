"""Tables and sentences from the control API's messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gnomon_protos import control_pb2
from gnomon_server.cli.screen import styled

# Lines on when mirroring was thinned; JSON has all.
SHOWN_THINNINGS: Final = 3
STYLES: Final = {
    "promote": "bold green",
    "reject": "bold red",
    "keep watching": "yellow",
    "ready": "green",
    "failed": "bold red",
    "loading": "yellow",
}


def models(statuses: Sequence[control_pb2.ModelStatus]) -> RenderableType:
    """Returns one line a model."""
    table = _table("model", "primary", "canary", "previous", "shadows", "versions", "state")
    for status in statuses:
        shadows = ", ".join(f"{s.version} ({share(s.sample)} of requests)" for s in status.route.shadows)
        failed = [str(v.version) for v in status.versions if v.state == "failed"]
        primary = next((v.state for v in status.versions if v.version == status.route.primary), "loading")
        state = styled(primary, STYLES) + (f", [bold red]{', '.join(failed)} failed[/]" if failed else "")
        route = status.route
        canary = f"{route.canary.version} ({share(route.canary.weight)}{_step(route)})" if route.canary.version else "-"
        row = (_number(route.primary), canary, _number(route.previous), shadows or "-", str(len(status.versions)))
        table.add_row(escape(status.name), *row, state)
    return table if statuses else Text("The repository has no model yet: publish one with 'gnomon convert'.")


def status(statuses: Iterable[control_pb2.ModelStatus]) -> RenderableType:
    """Returns one line a version."""
    table = _table("model", "version", "role", "state", "answered", "failed", "verdict", "digest")
    for model in statuses:
        for version in model.versions:
            state = styled(version.state, STYLES) + (f": {escape(version.reason)}" if version.reason else "")
            digest = version.digest.removeprefix("sha256:")[:12] or "-"
            row = (escape(model.name), str(version.version), version.role or "-", state)
            counts = (f"{version.requests:,}", f"{version.failures:,}")
            table.add_row(*row, *counts, styled(version.verdict, STYLES) or "-", digest)
    return table


def drift(window: control_pb2.DriftWindow) -> RenderableType:
    """Returns one line a feature, those that drift most first."""
    table = _table("feature", "distance", "effect", "usual effect", "missing", "as reference", "novel", "drift")
    for feature in sorted(window.features, key=lambda f: (not f.alarms, not f.changed, -f.distance)):
        numbers = (f"{feature.distance:.3f}", f"{feature.effect:.3f}", f"{feature.usual_effect:.3f}")
        shares = (share(feature.missing), share(feature.missing_reference), share(feature.novel))
        name = f"{escape(feature.name)}{' (output)' if feature.output else ''}"
        table.add_row(name, *numbers, *shares, _drifted(feature))
    return table


def _drifted(feature: control_pb2.DriftFeature) -> str:
    if feature.alarms:
        return f"[bold red]{', '.join(feature.alarms)}[/]"
    return f"[yellow]{', '.join(feature.changed)}, as within the reference[/]" if feature.changed else "-"


def report(found: control_pb2.Report) -> RenderableType:
    """Returns everything that is known of a shadow."""
    verdict = found.verdict
    head = f"[bold]{escape(found.model)}[/]: version {found.shadow} in the shadow of version {found.primary}"
    since = f", since {found.since}" if found.since else ""
    state = f", [bold red]{found.shadow_state}[/]: {escape(found.shadow_reason)}" if found.shadow_reason else ""
    lines = [
        f"{head} ({share(found.sample)} of requests{since}){state}",
        f"verdict: {styled(verdict.decision, STYLES)}, {escape(verdict.reason)}{_when(verdict)}",
    ]
    if verdict.more_requests:
        lines.append(f"likely to be needed: {verdict.more_requests:,} more requests")
    lines += [agreement(found), *findings(verdict.findings), *labels(found), f"requests: {outcomes(found.outcomes)}"]
    lines += observations(found.observations)
    lines += thinned(found)
    lines.append(f"run time per request: primary {latency(found.primary_latency)}")
    lines.append(f"                      shadow, in batches, {latency(found.shadow_latency)}")
    if found.HasField("repetition"):
        lines += repetition(found.repetition)
    parts: list[RenderableType] = [Text.from_markup(line) for line in lines]
    notes = [Text(note) for output in found.outputs for note in notes_of(output)]
    notes += [Text(line) for line in segments(found)]
    return Group(*parts, outputs(found.outputs), *notes) if found.outputs else Group(*parts)


def segments(found: control_pb2.Report) -> list[str]:
    """Returns where in the input space the disagreement is."""
    if not found.HasField("segments"):
        return []
    search = found.segments
    looked = f"{search.rows:,} rows, {search.disagreeing:,} of which disagree"
    if not search.segments:
        return [f"where they differ: no part of the input space stands out among {looked}"]
    lines = [f"where they differ, among {looked}:"]
    for one in search.segments:
        share = f"{one.rows:.1%} of traffic, {one.disagreements:.1%} of the disagreement"
        rates = f"{one.rate:.1%} disagree inside, {one.rate_outside:.2%} outside"
        lines.append(f"  {' and '.join(one.conditions)}: {share} ({rates}, p {max(one.p, 1e-300):.0e})")
    return lines


def notes_of(output: control_pb2.OutputReport) -> list[str]:
    """Returns what a line in the table of outputs cannot say."""
    notes = []
    if output.flips:
        flips = ", ".join(f"{flip.before} -> {flip.after} in {flip.rows:,} rows{_cost(flip)}" for flip in output.flips)
        total = sum(flip.cost for flip in output.flips)
        notes.append(f"decisions on {output.output} turned round: {flips}" + (f"; {total:,g} in all" if total else ""))
    if output.unfit:
        share = output.unfit / output.rows
        notes.append(
            f"{output.output}: {share:.2%} of the primary's rows are nothing that {output.comparator} can take"
        )
    return notes


def _cost(flip: control_pb2.Flip) -> str:
    return f" (costs {flip.cost:,g})" if flip.cost else ""


def outputs(found: Iterable[control_pb2.OutputReport]) -> Table:
    """Returns one line an output."""
    table = _table("output", "comparator", "tolerance", "rows", "disagree", "share", "mean divergence", "max")
    for output in found:
        share = output.disagreements / output.rows if output.rows else 0.0
        numbers = (f"{output.rows:,}", f"{output.disagreements:,}", f"{share:.2%}")
        divergence = (f"{output.mean_divergence:.4f}", f"{output.max_divergence:.4f}")
        table.add_row(escape(output.output), output.comparator, f"{output.tolerance:g}", *numbers, *divergence)
    return table


def agreement(found: control_pb2.Report) -> str:
    """Returns the interval as a sentence."""
    if not found.outcomes.compared:
        return "agreement: not known yet, as nothing is compared"
    interval = found.agreement
    span = f"between {interval.low:.2%} and {interval.high:.2%}"
    return f"agreement: {interval.estimate:.2%}, {span} ({interval.method})"


def _when(verdict: control_pb2.Verdict) -> str:
    return f" (decided {verdict.decided})" if verdict.decided else ""


def findings(found: Iterable[control_pb2.Finding]) -> list[str]:
    """Returns what is known about the limits of a policy, a line each but for the agreement, which has its own."""
    return [
        f"{escape(one.metric)}: {one.estimate:.2%}, between {one.low:.2%} and {one.high:.2%}, "
        f"allowed {one.limit:.2%}: {one.state}"
        for one in found
        if one.metric != "disagreement"
    ]


def labels(found: control_pb2.Report) -> list[str]:
    """Returns what became known later, and what both versions lost by it; nothing where no label came."""
    if not found.HasField("labels"):
        return []
    known = found.labels
    lines = [f"labels: {labelled(known)}"]
    if known.rows:
        lines.append(f"  {escape(losses(known))}")
    if known.horizon:
        lines.append(f"  {excess(known)}")
    return lines


def labelled(known: control_pb2.Labels) -> str:
    """Returns where every label went."""
    parts = {
        "late": known.late,
        "duplicate": known.duplicate,
        "refused": known.refused,
        "of unknown requests": known.unknown,
        "waiting for their requests": known.waiting,
    }
    shown = [f"{known.joined:,} joined", *(f"{count:,} {name}" for name, count in parts.items() if count)]
    conflicting = f"; {known.conflicting:,} of the duplicates say something else" if known.conflicting else ""
    delay = f", {seconds(known.mean_delay)} after the answer on average" if known.mean_delay else ""
    forgotten = f"; {known.forgotten:,} requests were forgotten before a label came" if known.forgotten else ""
    return f"{', '.join(shown)}{conflicting}{delay}{forgotten}"


def losses(known: control_pb2.Labels) -> str:
    """Returns what both versions lost in the rows that have a label."""
    rows = f"{known.rows:,} labelled rows of {known.output}"
    if known.loss != "label":
        name = f"mean {known.loss} error, each at most {known.greatest:g},"
        return f"{rows}: {name} of the primary {known.primary_loss:.4g}, of the shadow {known.shadow_loss:.4g}"
    right = f"primary right in {1 - known.primary_loss:.2%}, shadow in {1 - known.shadow_loss:.2%}"
    table = (
        f"both {known.both_right:,}, only the primary {known.primary_right:,}, only the shadow {known.shadow_right:,}, "
        f"neither {known.both_wrong:,}"
    )
    return f"{rows}: {right}; right are {table}"


def excess(known: control_pb2.Labels) -> str:
    """Returns how much more the shadow loses, over the requests whose labels are due."""
    if not known.due:
        return f"the shadow loses more by: not known yet, as no request is older than {seconds(known.horizon)}"
    found = known.difference
    share = f"{known.labelled:,} of {known.due:,} requests that are due have a label"
    span = f"between {found.low:.2%} and {found.high:.2%} ({found.method})"
    return f"the shadow loses more by {found.estimate:.2%}, {span}; {share}"


def observations(found: control_pb2.Observations) -> list[str]:
    """Returns what the verdict rests on, and what to do about it."""
    unit = f"blocks of {found.block} requests" if found.block > 1 else "requests"
    parts = [f"{found.count:,.0f} {unit}", f"{found.repeated_share:.1%} of rows were met before and left out"]
    if found.lost:
        parts.append(f"{found.lost:,} requests lost on the way")
    if found.design_effect:
        parts.append(f"design effect {found.design_effect:.2g}, correlation {found.correlation:z.2f}")
    lines = [f"evidence: {', '.join(parts)}"]
    return [*lines, f"[yellow]{escape(found.advice)}[/]"] if found.advice else lines


def outcomes(found: control_pb2.Outcomes) -> str:
    """Returns where every selected request went."""
    parts = {
        "compared": found.compared,
        "shadow errors": found.shadow_error,
        "primary errors": found.primary_error,
        "timeouts": found.timeout,
        "dropped": found.dropped,
        "not comparable": found.not_comparable,
        "on the way": found.pending,
    }
    shown = " + ".join(f"{count:,} {name}" for name, count in parts.items() if count or name == "compared")
    return f"{found.selected:,} selected = {shown}"


def thinned(found: control_pb2.Report) -> list[str]:
    """Returns what the guard thinned when, and what that means for the agreement; nothing where it never did."""
    lines = []
    for one in found.thinnings[:SHOWN_THINNINGS]:
        when = f"from {one.since} to {one.until}" if one.until else f"[yellow]since {one.since}[/]"
        lines.append(f"thinned: {when}, down to {one.factor:.3g} of the share ({one.cause})")
    if len(found.strata) > 1:
        shares = "; ".join(f"{s.agreement:.2%} of {s.compared:,} at {share(s.sample)}" for s in found.strata)
        lines.append(f"by share of requests: {shares}; all traffic {found.agreement_of_traffic:.2%}")
    return lines


def latency(found: control_pb2.Latency) -> str:
    """Returns a latency as words."""
    if not found.count:
        return "not measured yet"
    p50 = f"p50 {seconds(found.p50)}{_range(found.p50_low, found.p50_high)}"
    return f"mean {seconds(found.mean)}, {p50}, p99 {seconds(found.p99)}{_range(found.p99_low, found.p99_high)}"


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f" (at least {seconds(low)})" if low else ""
    return f" ({seconds(low)} to {seconds(high)})" if low else f" (at most {seconds(high)})"


def repetition(found: control_pb2.Repetition) -> list[str]:
    """Returns what requests showed that were run again."""
    lines = [
        f"                      shadow, as a primary, {latency(found.as_primary)}",
        f"  {found.requests:,} of them ran again, alone, in the shadow's worker:",
        f"                      primary {latency(found.own_latency)}",
        f"                      shadow {latency(found.shadow_latency)}",
    ]
    return [*lines, f"[bold red]note[/]: {escape(found.note)}"] if found.note else lines


def share(value: float) -> str:
    """Returns a share of requests in percent, with no digit more than it has."""
    return f"{100 * value:.3g}%"


def seconds(value: float) -> str:
    """Returns a duration with a unit that fits."""
    if value < 1e-3:
        return f"{value * 1e6:,.0f} us"
    return f"{value * 1e3:,.3g} ms" if value < 1 else f"{value:,.3g} s"


def audit(entries: Iterable[control_pb2.AuditEntry]) -> Table:
    """Returns one line a change, newest first."""
    table = _table("id", "time", "who", "what", "model", "version", "primary", "why")
    for entry in entries:
        what = entry.action + (" (forced)" if entry.forced else "")
        switch = f"{_number(entry.before.primary)} -> {_number(entry.after.primary)}"
        moved = switch if entry.before.primary != entry.after.primary else _number(entry.after.primary)
        row = (str(entry.id), entry.time, escape(entry.actor), what, escape(entry.model), _number(entry.version))
        table.add_row(*row, moved, escape(entry.reason) or "-")
    return table


def route(change: control_pb2.RouteChange) -> str:
    """Returns what a change of a route did, as a sentence."""
    after = change.after
    parts = [f"primary is version {after.primary}"]
    if after.canary.version:
        answers = f"answers {share(after.canary.weight)} of requests as canary"
        parts.append(f"version {after.canary.version} {answers}{_step(after)}")
    if after.previous:
        parts.append(f"version {after.previous} stays warm for a rollback")
    parts += [f"version {s.version} shadows {share(s.sample)} of requests" for s in after.shadows]
    return "; ".join(parts)


def _step(route: control_pb2.Route) -> str:
    if not route.canary.HasField("delivery"):
        return ""
    return f", step {route.canary.delivery.step}" + (", paused" if route.canary.delivery.paused else "")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    numbers = (
        "version",
        "answered",
        "failed",
        "rows",
        "disagree",
        "share",
        "tolerance",
        "mean divergence",
        "max",
        "id",
    )
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def _number(version: int) -> str:
    return str(version) if version else "-"
