"""The demo's words and tables: every number in them was measured in this run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gnomon_protos import control_pb2
from gnomon_server.cli.screen import styled
from gnomon_server.cli.tables import STYLES, outcomes, seconds

if TYPE_CHECKING:
    from gnomon_converters import Published
    from gnomon_server.cli.demo.ending import Ending, Options
    from gnomon_server.cli.demo.recipes import Recipe
    from gnomon_server.cli.demo.stage import ServerProcess
    from gnomon_server.cli.demo.traffic import Counts

MONTHS = ("", "January", "February", "March", "April", "May", "June", "July", "August", "September")


def opening(options: Options) -> RenderableType:
    """Returns what will happen."""
    text = (
        "Flights from New York in 2013: as the aircraft leaves its gate, will it arrive more than 15 minutes late?\n"
        "Version 1 answers. Versions 2 and 3 see the same requests in the shadow, and only a version that agrees with "
        "it on at least 95 % of the rows may take over."
    )
    broken = f"\n[bold]Version {options.broken} is broken on purpose.[/]" if options.broken else ""
    return Text.from_markup(f"[bold]gnomon demo[/]\n{text}{broken}\n")


def trained(version: int, recipe: Recipe, took: float) -> str:
    """Returns what a version is."""
    unit = "" if recipe.delay_unit == 1 else ", [yellow]from a table with the departure delay in hours[/]"
    what = f"{recipe.trees} trees of depth {recipe.depth}, January to {MONTHS[recipe.last_month]}{unit}"
    return f"trained    version {version}: {what} ({took:.1f} s)"


def published(found: Published) -> str:
    """Returns how well a conversion agrees with its original."""
    checks = found.verification
    worst = max(output.max_difference for output in checks.outputs)
    flips = sum(output.label_flips for output in checks.outputs)
    return (
        f"converted  version {found.version} to ONNX: on {checks.rows:,} rows the largest difference is {worst:.1e}, "
        f"{flips} labels flipped"
    )


def serving(server: ServerProcess) -> str:
    """Returns where the server is."""
    return f"serving    gRPC {server.grpc}, page {server.page}"


def board(reports: Mapping[int, control_pb2.Report], counts: Counts, options: Options) -> RenderableType:
    """Returns the live table."""
    table = Table(title_justify="left", title=Text.from_markup(_traffic(counts, options.rate)), title_style="")
    table.add_column("version")
    for column in ("compared", "agreement", "interval", "label differs", "p > 0.1 apart", "run, p99"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    first = reports[2].primary_latency
    table.add_row("1 primary", "", "", "", "", "", f"<= {seconds(first.p99)}", "")
    for version, report in reports.items():
        table.add_row(f"{version} shadow", *_cells(report), styled(report.verdict.decision, STYLES))
    more = max(report.verdict.more_requests for report in reports.values())
    likely = f"about {more:,} more requests decide" if more else "no number of requests is foreseen"
    decided = all(report.verdict.decided for report in reports.values())
    note = "both are decided" if decided else likely
    return Group(table, Text(f"{note}; the verdict holds however often it is looked at", style="dim"))


def line(reports: Mapping[int, control_pb2.Report], counts: Counts) -> str:
    """Returns the same in one line."""
    shadows = "; ".join(
        f"version {version}: {report.outcomes.compared:,} compared"
        + (f", {report.agreement.estimate:.1%} agree" if report.outcomes.compared else "")
        for version, report in reports.items()
    )
    return f"traffic    {counts.answered:,} answered, {counts.failed} failed, {counts.rate:.0f}/s; {shadows}"


def look(reports: Mapping[int, control_pb2.Report]) -> RenderableType:
    """Returns the verdicts."""
    return Group(
        *(
            Text.from_markup(
                f"verdict    version {version}: {styled(report.verdict.decision, STYLES)}, {report.verdict.reason}"
            )
            for version, report in reports.items()
        )
    )


def closing(ending: Ending) -> RenderableType:
    """Returns what happened, in words and numbers."""
    lines = [_second(ending), _third(ending), _users(ending), *_accounts(ending), _cost(ending)]
    title = "version 2 earned its promotion" if ending.good else "version 2 was not promoted"
    style = "green" if ending.good else "red"
    return Panel(Text.from_markup("\n\n".join(lines)), title=title, border_style=style, padding=(1, 2))


def _second(ending: Ending) -> str:
    report = ending.reports[2]
    span = f"between {report.agreement.low:.1%} and {report.agreement.high:.1%}"
    found = f"agreed with version 1 on {report.agreement.estimate:.1%} of rows ({span})"
    if ending.refusal:
        return f"[bold]Version 2[/] {found}. The server refused to promote it: {ending.refusal}."
    answered = ending.counts.requests.get("2", 0)
    return f"[bold]Version 2[/] {found}. It was promoted under load and has answered {answered:,} requests since."


def _third(ending: Ending) -> str:
    report = ending.reports[3]
    tested = (
        f"In its own test it is right on {ending.own[3]:.1%} of flights, on what users really send {ending.live[3]:.1%}"
    )
    met = "No user met it" if report.verdict.decision == "reject" else "It has no verdict yet"
    return (
        f"[bold]Version 3[/] agreed on {report.agreement.estimate:.1%}: {report.verdict.decision}. {tested} "
        f"(version 1: {ending.live[1]:.1%}, version 2: {ending.live[2]:.1%}). {met}."
    )


def _users(ending: Ending) -> str:
    counts = ending.counts
    total = counts.answered + counts.failed
    parts = [
        f"version {version} answered {counts.requests[version]:,}, right on {counts.right[version] / rows:.1%} of rows"
        for version, rows in sorted(counts.rows.items())
    ]
    failed = "none failed" if not counts.failed else f"[bold red]{counts.failed:,} failed[/] ({counts.error})"
    pace = f"p50 {seconds(counts.p50)}, p99 {seconds(counts.p99)} at the client"
    return f"[bold]Users[/] sent {total:,} requests and {failed}: {'; '.join(parts)}; {pace}."


def _accounts(ending: Ending) -> list[str]:
    return [
        f"[bold]Every mirrored request[/] for version {version} is accounted for: {outcomes(report.outcomes)}."
        for version, report in ending.reports.items()
    ]


def _cost(ending: Ending) -> str:
    rest = f"{ending.memory_at_rest / 1e6:.0f} MB" if ending.memory_at_rest else "an unknown amount"
    changes = len(ending.audit.entries)
    return (
        f"The server at rest with one model and one shadow used {rest} in all its processes. "
        f"{changes} changes are in the audit. The demo took {ending.seconds:.0f} s."
    )


def _traffic(counts: Counts, rate: float) -> str:
    failed = f"[bold red]{counts.failed:,} failed[/]" if counts.failed else "[green]0 failed[/]"
    pace = f"{counts.rate:.0f} requests/s (asked for {rate:.0f}), p50 {seconds(counts.p50)}, p99 {seconds(counts.p99)}"
    return f"traffic: {counts.answered:,} answered, {failed}, {pace}"


def _cells(report: control_pb2.Report) -> tuple[str, ...]:
    shares = {o.output: o.disagreements / o.rows for o in report.outputs if o.rows}
    return (
        f"{report.outcomes.compared:,}",
        f"{report.agreement.estimate:.1%}",
        f"{report.agreement.low:.1%} - {report.agreement.high:.1%}",
        f"{shares.get('label', 0):.1%}",
        f"{shares.get('probabilities', 0):.1%}",
        f"<= {seconds(report.shadow_latency.p99)}",
    )
