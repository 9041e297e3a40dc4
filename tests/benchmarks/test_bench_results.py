"""Results: what several rounds agree on, and which goals they meet."""

from __future__ import annotations

from pathlib import Path

import contenders as c
import pytest
import report
from goals import Goal, p50, per_second, table
from plan import CLOSED, PACED, Load
from plot import draw
from results import Measurement, Results, append, read

LOAD = CLOSED[2]


def measurement(name: str, per_second: float, number: int = 0, load: Load = LOAD, suite: str = "closed") -> Measurement:
    return Measurement(suite, "logreg", name, load, number, per_second, 1e6 / per_second, 2e6 / per_second, 9.0, 0.0)


def key(name: str) -> tuple[str, str, str, Load]:
    return "closed", "logreg", name, LOAD


def test_a_figure_is_the_median_with_its_spread() -> None:
    results = Results([measurement("a", rate, number) for number, rate in enumerate((30.0, 10.0, 20.0))])
    assert f"{results.figure(key('a'), per_second):.0f}" == "20 (10 to 30)"
    assert results.figure(key("b"), per_second) is None


def test_a_ratio_compares_within_rounds() -> None:
    rates = [("a", 10.0, 0), ("b", 5.0, 0), ("a", 90.0, 1), ("b", 30.0, 1), ("a", 7.0, 2)]
    ratio = Results([measurement(*one) for one in rates]).ratio(key("a"), key("b"), per_second)
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == (2, 2.5, 3)


def test_a_goal_refers_to_the_strongest_of_the_others() -> None:
    results = Results([measurement("we", 100.0), measurement("slow", 20.0), measurement("fast", 50.0)])
    more = Goal("", key("we"), (key("slow"), key("fast"), key("absent")), per_second, 2.0)
    less = Goal("", key("we"), (key("slow"), key("fast")), p50, 0.4, most=True)
    for goal, expected, met in ((more, 2.0, True), (less, 0.5, False)):
        found = goal.ratio(results)
        assert found is not None
        ratio, name = found
        assert name == "fast"
        assert ratio.median == pytest.approx(expected)
        assert goal.met(ratio.median) is met


def test_a_goal_that_was_not_measured_is_left_out() -> None:
    lines = list(table(Results([measurement(c.GNOMON.name, 100.0), measurement("KServe", 4.0)])))
    assert lines[2:] == ["| logreg, 32 in flight: beside KServe | KServe | ≥ 20 | 25.00 | met |"]


def test_results_survive_the_file(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    made = [measurement("a", 10.0), measurement("a", 11.0, 1), measurement("b", 3.0, load=PACED[0], suite="paced")]
    for one in made:
        append(file, one)
    assert read([file]).all() == made


def test_a_line_that_is_no_measurement_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append(file, measurement("a", 10.0))
    file.write_text(file.read_text() + '{"suite": "closed"}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl:2: expected a measurement"):
        read([file])


def test_the_report_and_the_plot_show_everyone_who_was_measured() -> None:
    rates = {load: 1000.0 * load.in_flight for load in CLOSED}
    results = Results(
        [measurement(name, rate, load=load) for name in (c.GNOMON.name, "Triton") for load, rate in rates.items()]
    )
    text = "\n".join(report.lines(results))
    assert "| gnomon | 1,000 | 8,000 | 32,000 | 64,000 | 1,000 | 31 | 62 | 9 | 0 |" in text
    assert "| Triton | 1,000 |" in text
    drawn = draw(results)
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 2 * len(CLOSED)
