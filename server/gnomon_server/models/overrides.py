"""Overrides: the comparisons that the settings of a model declare, in place of what a manifest says."""

from __future__ import annotations

from collections.abc import Mapping

from gnomon_server.models.manifest import Comparison, Decision
from gnomon_server.settings import OutputSettings


def comparisons(outputs: Mapping[str, OutputSettings]) -> tuple[Comparison, ...]:
    """Returns a comparison for each output."""
    return tuple(
        Comparison(
            output=name,
            comparator=settings.comparator,
            parameters=settings.parameters,
            tolerance=settings.tolerance,
            probabilities=settings.probabilities,
            decision=_decision(settings),
        )
        for name, settings in outputs.items()
    )


def _decision(settings: OutputSettings) -> Decision | None:
    if not (settings.thresholds or settings.decisions or settings.costs or settings.score):
        return None
    costs = {}
    for flip, cost in settings.costs.items():
        before, _, after = flip.partition("->")
        costs[before.strip(), after.strip()] = cost
    return Decision(settings.thresholds, settings.decisions, settings.score, costs)
