"""The rules for Prometheus: what they ask for is there under that name, and they are those that the webhook knows."""

from __future__ import annotations

import re
from pathlib import Path

import telemetry_samples
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gnomon_server.telemetry import metrics_page

RULES = Path(__file__).parents[3] / "docs" / "prometheus" / "gnomon.rules.yml"
WATCH = Path(__file__).parents[3] / "server" / "gnomon_server" / "control" / "alerts" / "watch.py"


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def test_every_series_and_label_that_a_rule_asks_for_is_on_the_page() -> None:
    text = metrics_page(telemetry_samples.snapshot())[0].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    for rule in rules():
        asked = re.findall(r"(gnomon_\w+?)(?:\{(gnomon_\w+)=\"([^\"]+)\"\})?(?=[\s\[]|$)", rule["expr"])
        series = [(name, label, value) for name, label, value in asked if name in {s.name for s in samples}]
        assert series, rule
        for name, label, value in series:
            assert any(s.name == name and (not label or s.labels.get(label) == value) for s in samples), (name, label)
        # What is no series is a label to group by.
        labels = {name for name, _, _ in asked} - {name for name, _, _ in series}
        assert labels <= {"gnomon_model_name", "gnomon_model_version"}, rule


def test_the_webhook_and_prometheus_call_the_same_by_the_same_name() -> None:
    known = {rule["alert"] for rule in rules()}
    assert known == {
        "GnomonPromoteVerdict",
        "GnomonRejectVerdict",
        "GnomonShadowDead",
        "GnomonMirrorDrops",
        "GnomonDrift",
        "GnomonRollback",
        "GnomonDeliveryStuck",
    }
    source = WATCH.read_text()
    assert all(name in source or name.endswith("Verdict") for name in known)
