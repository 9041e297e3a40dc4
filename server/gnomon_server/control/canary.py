"""The judgement on a canary: whether it fails its users more often than the primary does; pure, from counts.

Each side's share of bad requests is bounded at all times at once (statistics.bounds), so that looking every second
makes no false alarm likelier.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from gnomon_server.control.trial import Side
from gnomon_server.settings import CanarySettings
from gnomon_server.statistics import bounds
from gnomon_server.statistics.knots import BERN

# Claims, two bounds each, that share the probability of a false alarm.
CLAIMS: Final = 2


def failure(primary: Side, canary: Side, limits: CanarySettings) -> str:
    """Returns why a canary is to be taken back, as one sentence without a full stop, or nothing."""
    if limits.errors and (
        found := _excess(primary.failed, primary.requests, canary.failed, canary, limits.errors, limits)
    ):
        return f"fails on {found}"
    if limits.latency and (
        found := _excess(primary.slow, primary.requests, canary.slow, canary, limits.latency_excess, limits)
    ):
        return f"takes longer than {limits.latency:g} s on {found}"
    return ""


def _excess(bad: int, of: int, canary_bad: int, canary: Side, allowed: float, limits: CanarySettings) -> str:
    """Returns by how much more requests are bad than is allowed, once that is certain."""
    alpha = limits.alpha / (2 * CLAIMS)
    # The bounds take a while; what lies below on its face cannot lie above for certain.
    if not of or not canary.requests or canary_bad / canary.requests <= bad / of + allowed:
        return ""
    least = bounds.lower(BERN, np.array([canary.requests - canary_bad, canary_bad], np.float64), alpha)
    most = bounds.upper(BERN, np.array([of - bad, bad], np.float64), alpha)
    if least <= most + allowed:
        return ""
    counted = f"{canary_bad:,} of {canary.requests:,} requests, and the primary on {bad:,} of {of:,}"
    return f"{counted}: at least {100 * (least - most):.2g} % more, where {100 * allowed:g} % are allowed"
