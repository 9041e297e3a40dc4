"""Drift on real traffic: a model is converted with a reference, served beside a shadow, and asked for other rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from servers import ServerProcess, eventually
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tallying import mirrored

from gnomon_converters import publish
from gnomon_protos import control_pb2 as pb

# Short windows: the time for what is late is as long.
WINDOW = 2.0
CONFIG = f"""
grace = 2.0
[models."*".drift]
window = {WINDOW}
[models.off.drift]
window = 0
[models.alone.drift]
unshadowed = 1.0
"""
ROWS = 3000


@dataclass(frozen=True)
class Traffic:
    """Rows that can be asked about."""

    random: np.random.Generator

    def rows(self, count: int, mean: float = 40.0, city: str = "Rome") -> pd.DataFrame:
        """Returns people of a certain age, half of them in Oslo."""
        cities = self.random.choice([city, "Oslo"], count)
        return pd.DataFrame({"age": self.random.normal(mean, 10, count).astype(np.float32), "city": cities})


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(np.random.default_rng(11))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, traffic: Traffic) -> Path:
    folder = tmp_path_factory.mktemp("drift") / "models"
    reference = traffic.rows(ROWS)
    labels = (reference["age"] > 40).astype(int).to_numpy()
    for name, versions in (("people", (1, 2)), ("off", (1, 2)), ("alone", (1,))):
        for version in versions:
            text = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
            columns = make_column_transformer((text, ["city"]), remainder="passthrough")
            model = make_pipeline(columns, LogisticRegression(C=float(version), max_iter=1000)).fit(reference, labels)
            publish(model, name=name, repository=folder, sample=traffic.rows(300), reference=reference, version=version)
    return folder


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as running:
        with running.control() as control:
            mirrored(control, "people")
        yield running


def asked(server: ServerProcess, rows: pd.DataFrame, model: str = "people") -> None:
    """Asks in requests of 50 rows each."""
    with server.client() as client:
        for start in range(0, len(rows), 50):
            part = rows.iloc[start : start + 50]
            client.infer(model, {"age": part[["age"]].to_numpy(), "city": part[["city"]].to_numpy(object)})


def judged(server: ServerProcess, rows: int, model: str = "people") -> pb.DriftReport:
    """Returns the report once so many rows are in judged windows."""
    seen = pb.DriftReport()

    def all_of_them() -> bool:
        with server.control() as control:
            seen.CopyFrom(control.drift(model))
        return sum(window.rows for window in seen.windows) >= rows

    eventually(all_of_them)
    return seen


def alarms(found: pb.DriftReport) -> set[str]:
    return {feature.name for window in found.windows for feature in window.features if feature.alarms}


def test_usual_traffic_does_not_drift_and_other_traffic_does(server: ServerProcess, traffic: Traffic) -> None:
    asked(server, traffic.rows(1000))
    found = judged(server, 1000)
    assert (found.version, found.reason, found.window_seconds) == (1, "", WINDOW)
    assert alarms(found) == set()
    assert "drift" not in server.gnomon("status").stdout
    asked(server, traffic.rows(1000, mean=70.0, city="Bonn"))
    found = judged(server, 2000)
    assert {"age", "city", "label"} <= alarms(found)
    by_name = {feature.name: feature for window in found.windows for feature in window.features if feature.alarms}
    assert list(by_name["city"].alarms) == ["shape", "novel"]
    assert by_name["city"].novel == pytest.approx(0.5, abs=0.1)
    assert by_name["age"].distance > 0.5
    shown = server.gnomon("drift", "people").stdout
    assert re.search(r"age .*shape", shown)
    assert re.search(r"label \(output\) .*shape", shown)
    assert re.search(r"people: \d of 5 features and outputs drift in the", server.gnomon("status").stdout)
    with urlopen(f"http://{server.http}/metrics") as answer:
        metrics = answer.read().decode()
    labels = 'gnomon_model_name="people",gnomon_model_version="1",gnomon_feature="age"'
    assert f"gnomon_drift_alarm{{{labels}}} 1\n" in metrics
    assert re.search(rf"gnomon_drift_score{{{labels}}} 0\.[5-9]", metrics)
    with urlopen(f"http://{server.http}/") as answer:
        assert "features and outputs drift in the" in answer.read().decode()


def test_what_was_counted_survives_a_kill(repository: Path, tmp_path: Path, traffic: Traffic) -> None:
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as server:
        with server.control() as control:
            mirrored(control, "people")
        asked(server, traffic.rows(500, mean=70.0))
        before = judged(server, 500)
        server.kill()
        server.start()
        after = judged(server, 500)
        assert [window.since for window in after.windows] == [window.since for window in before.windows]
        assert alarms(after) == alarms(before) == {"age", "label", "probabilities[0]", "probabilities[1]"}


def test_a_primary_without_a_shadow_is_watched_if_it_is_told_to(server: ServerProcess, traffic: Traffic) -> None:
    def fed() -> bool:
        asked(server, traffic.rows(50, mean=70.0), "alone")
        with server.control() as control:
            return control.drift("alone").waiting_rows > 0

    # The worker is nobody's shadow: that it is mirrored to is seen by what it counts.
    eventually(fed)
    asked(server, traffic.rows(500, mean=70.0), "alone")
    found = judged(server, 500, "alone")
    assert (found.reason, "age" in alarms(found)) == ("", True)
    with server.control() as control:
        (model,) = control.models("alone").models
    assert not model.route.shadows
    assert [(one.role, one.state, one.verdict) for one in model.versions] == [("primary", "ready", "")]


def test_a_model_that_is_not_watched_says_why(server: ServerProcess) -> None:
    found = server.gnomon("drift", "off")
    assert (found.returncode, found.stdout) == (
        0,
        "off: the traffic of version 1 is not watched: its window is 0 in the settings\n",
    )
    with server.control() as control:
        control.shadow("people", 2, off=True)
    said = server.gnomon("drift", "people").stdout
    assert "the traffic of version 1 is not watched: it has no shadow, and" in said


def test_a_model_that_is_not_there_is_an_error_in_one_line(server: ServerProcess) -> None:
    found = server.gnomon("drift", "nobody")
    assert (found.returncode, found.stderr) == (
        2,
        "gnomon: model 'nobody' not found: expected one of ['alone', 'off', 'people']\n",
    )
    found = server.gnomon("drift", "people", "--windows", "-1")
    assert (found.returncode, found.stderr) == (2, "gnomon: --windows: expected >= 0, received -1\n")
