from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
from scipy import stats

from gnomon_server.statistics import drift
from gnomon_server.statistics.drift import MISSING, NOVEL, SHAPE, critical, judge, level, pooled, shape, usual

REFERENCE = np.array([4000, 6000, 6000, 4000], np.float64)
WINDOW = np.array([140, 260, 380, 220], np.float64)


def test_the_worked_example_gives_its_numbers() -> None:
    found = shape(WINDOW, REFERENCE, 1e-4, 0.05)
    assert found is not None
    assert found.statistic == pytest.approx(45.0880786822)
    assert found.effect == pytest.approx(0.0441924826163)
    assert found.distance == pytest.approx(0.0928247012893)
    assert found.critical == pytest.approx(115.358, abs=1e-3)
    assert found.statistic < found.critical


@pytest.mark.parametrize("degrees", [1, 3, 8, 19])
@pytest.mark.parametrize("noncentrality", [2.0, 20.0, 200.0])
@pytest.mark.parametrize("alpha", [1e-2, 1e-4, 1e-6])
def test_the_closed_form_is_never_below_the_exact_quantile_and_little_above_it(
    degrees: int, noncentrality: float, alpha: float
) -> None:
    exact = float(stats.ncx2.isf(alpha, degrees, noncentrality))
    assert exact * 0.999 <= critical(alpha, degrees, noncentrality) <= exact * 1.08


def test_bins_in_which_few_rows_are_expected_are_pooled() -> None:
    window, reference = pooled(np.array([10, 1, 0, 89], np.float64), np.array([100, 4, 6, 890], np.float64))
    # Two rare bins become one, which is still rare and joins the smallest other.
    assert (window.tolist(), reference.tolist()) == ([11, 89], [110, 890])
    assert shape(np.array([3.0, 0.0]), np.array([0.0, 0.0]), 0.01, 0.0) is None
    assert shape(np.array([5.0]), np.array([50.0]), 0.01, 0.0) is None


def known(counts: list[int], unseen: float = 0.001, chunks: list[tuple[list[int], int]] | None = None) -> drift.Usual:
    return usual(counts, unseen, chunks or [])


def test_equal_distributions_do_not_alarm_and_another_one_does() -> None:
    reference = known([5000, 5000, 0, 0])
    assert judge([500, 500, 0, 0], reference, 1e-4, 0.05).alarms == ()
    found = judge([900, 100, 0, 0], reference, 1e-4, 0.05)
    assert (found.changed, found.alarms) == ((SHAPE,), (SHAPE,))
    assert found.distance == pytest.approx(sqrt(_divergence([0.9, 0.1], [0.5, 0.5])), rel=0.01)


def _divergence(p: list[float], q: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    parts = (sum(a * log(a / m) for a, m in zip(side, middle, strict=True)) for side in (p, q))
    return sum(parts) / (2 * log(2))


def test_what_the_reference_does_not_have_is_novel() -> None:
    reference = known([10000, 0, 0])
    assert judge([995, 0, 5], reference, 1e-4, 0.05).alarms == ()
    found = judge([900, 0, 100], reference, 1e-4, 0.05)
    assert (found.novel, found.alarms) == (0.1, (NOVEL,))


def test_values_that_are_expected_to_be_unseen_are_no_news() -> None:
    names = known([3000, 0, 0], unseen=0.3)
    assert judge([700, 0, 300], names, 1e-4, 0.05).alarms == ()
    assert judge([500, 0, 500], names, 1e-4, 0.05).alarms == (NOVEL,)


@pytest.mark.parametrize(("missing", "alarms"), [(100, ()), (115, ()), (200, (MISSING,)), (30, (MISSING,))])
def test_more_or_fewer_missing_values_than_usual_alarm(missing: int, alarms: tuple[str, ...]) -> None:
    reference = known([9000, 1000, 0])
    found = judge([1000 - missing, missing, 0], reference, 1e-3, 0.05)
    assert (found.missing, found.alarms) == (missing / 1000, alarms)


def test_all_missing_or_all_novel_is_judged_too() -> None:
    reference = known([9000, 1000, 0, 0])
    assert judge([0, 0, 500, 0], reference, 1e-4, 0.05).alarms == (MISSING,)
    assert judge([0, 0, 0, 500], reference, 1e-4, 0.05).alarms == (NOVEL,)
    never = known([0, 300, 0])
    assert judge([0, 300, 0], never, 1e-4, 0.05).alarms == ()


def test_what_windows_of_the_reference_show_themselves_has_changed_and_does_not_alarm() -> None:
    chunks = [([900, 100, 0, 0], 0), ([100, 900, 0, 0], 0), ([500, 400, 100, 0], 30)]
    reference = known([1500, 1400, 100, 0], chunks=chunks)
    found = judge([850, 150, 0, 0], reference, 1e-4, 0.05)
    assert (found.changed, found.alarms) == ((SHAPE, MISSING), ())
    assert judge([480, 480, 0, 40], reference, 1e-4, 0.05).alarms == ()
    assert NOVEL in judge([480, 480, 0, 40], reference, 1e-4, 0.05).changed
    assert judge([1000, 0, 0, 0], known([1500, 1400, 100, 0]), 1e-4, 0.05).alarms == (SHAPE, MISSING)


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    random = np.random.default_rng(7)
    weights = random.dirichlet(np.full(20, 3.0))
    reference = random.multinomial(20000, weights)
    alarms = 0
    for _ in range(4000):
        window = random.multinomial(1000, weights)
        alarms += bool(judge([*window, 0, 0], known([*reference, 0, 0]), 0.01, 0.0).alarms)
    # 40 are expected; a bit more is known of 1,000 rows.
    assert alarms <= 40 * 1.15 + 4 * sqrt(40)


def test_the_level_shares_a_budget_out_over_features_tests_and_windows() -> None:
    assert level(1.0, 10, 86400.0) == pytest.approx(1 / (30 * 10 * 3))
    assert level(1.0, 0, 365 * 86400.0) == 0.5
