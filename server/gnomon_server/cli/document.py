"""The document: how a shadow compares, with the cards of both versions, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from gnomon_protos import control_pb2
from gnomon_protos.manifest_pb2 import Lineage, Manifest, Verification
from gnomon_server.control import page

# A browser that opens the file from a ticket loads nothing and runs nothing.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
STYLE: Final = """
code{font-size:.85em;overflow-wrap:anywhere}.card th{width:11rem}
section>article:first-child{border:0;margin:0;padding:0}
.scroll+h3{margin-top:1rem}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb}section{break-inside:avoid}}
"""


def render(
    report: control_pb2.Report,
    statuses: Mapping[int, control_pb2.VersionStatus],
    cards: Mapping[int, Manifest],
    changes: Iterable[control_pb2.AuditEntry],
    made: str,
) -> str:
    """Returns the HTML document; everything that came from outside is escaped.

    Statuses and cards are by version; `made` says when, by RFC 3339.
    """
    title = f"{report.model}: version {report.shadow} in the shadow of version {report.primary}"
    parts = [_section(f"Version {number}", _card(statuses.get(number), card)) for number, card in cards.items()]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{page.STYLE}{STYLE}</style></head><body><main>"
        f"<h1>{escape(report.model)} <small>as of {escape(made)}</small></h1>"
        f"<section>{page.article(report)}</section>{''.join(parts)}{page.changes(changes)}"
        "<footer>Made by gnomon from what its server counted. The signed evidence of a promotion is in the audit: "
        "<code>gnomon audit --evidence ID</code>.</footer></main></body></html>"
    )


def _card(status: control_pb2.VersionStatus | None, card: Manifest) -> str:
    rows: dict[str, str] = {}
    if status is not None:
        rows = {"role": status.role, "digest": status.digest, "state": status.state, "reason": status.reason}
    declared = card.HasField("lineage") or card.HasField("verification")
    rows |= _lineage(card.lineage)
    inputs = ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in card.signature.inputs)
    outputs = ", ".join(f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in card.signature.outputs)
    rows |= {"inputs": inputs, "outputs": outputs}
    shown = "".join(f"<tr><th>{name}<td>{_code(name, value)}</tr>" for name, value in rows.items() if value)
    silent = "" if declared else "<p class=soft>The version says nothing of its origin: it has no manifest.</p>"
    return f"<div class=scroll><table class=card>{shown}</table></div>{silent}{_verification(card.verification)}"


def _lineage(lineage: Lineage) -> dict[str, str]:
    return {
        "description": lineage.description,
        "made": lineage.created_at,
        "by": lineage.author,
        "from": lineage.source_type,
        "source digest": lineage.source_digest,
        "sample digest": lineage.sample_digest,
        "git commit": lineage.git_commit,
        "libraries": ", ".join(f"{name} {number}" for name, number in sorted(lineage.framework_versions.items())),
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in sorted(lineage.metrics.items())),
    }


def _code(name: str, value: str) -> str:
    shown = escape(value)
    return f"<code>{shown}</code>" if name.endswith(("digest", "commit", "puts")) else shown


def _verification(found: Verification) -> str:
    if not found.rows:
        return ""
    rows = "".join(
        f"<tr><td>{escape(o.output)}<td class=n>{o.max_difference:.3g}<td class=n>{o.tolerance:.3g}"
        f"<td class=n>{o.rows_over_tolerance:,}<td class=n>{o.label_flips:,}</tr>"
        for o in found.outputs
    )
    return (
        f"<h3>Conversion, verified on {found.rows:,} rows</h3><div class=scroll><table><tr><th>output"
        f"<th class=n>largest difference<th class=n>accepted<th class=n>rows over<th class=n>labels flipped</tr>{rows}"
        "</table></div>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"
