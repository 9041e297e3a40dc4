"""The engine against worked examples, exact evidence, Robbins' closed form and simulated streams."""

from __future__ import annotations

from math import exp, inf, isclose, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from gnomon_server.statistics.bounds import lower, more, upper
from gnomon_server.statistics.evidence import _C, _R, _U, _V, factors_lo, factors_up, log_lo, log_up
from gnomon_server.statistics.knots import BERN, GEO32, SYM64, TERN, Floats, Knots, signed

ALPHA = 0.05
THRESHOLD = log(1 / ALPHA)
SHARES = st.floats(0.001, 0.999)
VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(0.0), st.just(1.0)), min_size=1, max_size=60)
GRIDS = st.sampled_from([BERN, TERN, GEO32, SYM64])


def bern(n: int, ones: int) -> Floats:
    return np.array([n - ones, ones], np.float64)


# Computed in arithmetic of fifty digits.
@pytest.mark.parametrize(
    ("n", "ones", "up", "lo", "low", "high"),
    [
        (800, 2, 2.23262610467, -2.12736624502, 6.15023015233e-5, 0.0115168745126),
        (600, 18, -2.84173161673, 6.34371372190, 0.0139633975188, 0.0549266352256),
    ],
)
def test_labels_are_decided_as_in_the_worked_examples(
    n: int, ones: int, up: float, lo: float, low: float, high: float
) -> None:
    counts = bern(n, ones)
    assert log_up(BERN, counts, 0.01) == pytest.approx(up, rel=1e-11)
    assert log_lo(BERN, counts, 0.01) == pytest.approx(lo, rel=1e-11)
    assert lower(BERN, counts, ALPHA) == pytest.approx(low, rel=1e-10)
    assert upper(BERN, counts, ALPHA) == pytest.approx(high, rel=1e-10)


def test_distances_are_decided_as_in_the_worked_example() -> None:
    counts = GEO32.counts(np.concatenate([np.zeros(458), np.full(40, 0.00005), [0.3, 0.3]]))
    assert counts[[0, 1, 27, 28]] == pytest.approx([478, 20, 0.119995917243, 1.88000408276])
    assert GEO32.points[27:29] == pytest.approx((0.226380340952, 0.304698957090))
    assert GEO32.mean(counts) == pytest.approx(0.001204, rel=1e-12)
    assert log_up(GEO32, counts, 0.01) == pytest.approx(3.23559179474, rel=1e-11)
    assert log_lo(GEO32, counts, 0.01) == pytest.approx(-1.85302457380, rel=1e-11)
    assert lower(GEO32, counts, ALPHA) == 0
    assert upper(GEO32, counts, ALPHA) == pytest.approx(0.00945367903217)


def test_paired_differences_are_decided_as_in_the_worked_example() -> None:
    counts, middle = np.array([4.0, 2480.0, 16.0]), (1 + 0.005) / 2
    assert log_up(TERN, counts, middle) == pytest.approx(-1.43776712438, rel=1e-11)
    assert log_lo(TERN, counts, middle) == pytest.approx(-1.39961946433, rel=1e-11)
    assert 2 * lower(TERN, counts, ALPHA) - 1 == pytest.approx(0.000382484825165, rel=1e-9)
    assert 2 * upper(TERN, counts, ALPHA) - 1 == pytest.approx(0.0109134660180, rel=1e-10)


def test_without_data_nothing_is_excluded() -> None:
    assert log_up(GEO32, GEO32.none(), 0.01) == pytest.approx(0)
    assert log_lo(GEO32, GEO32.none(), 0.01) == pytest.approx(0)
    assert (lower(GEO32, GEO32.none(), ALPHA), upper(GEO32, GEO32.none(), ALPHA)) == (0, 1)


def test_the_knots_rise_from_0_to_1_and_the_signed_ones_are_symmetric() -> None:
    assert [len(knots) for knots in (BERN, TERN, GEO32, SYM64)] == [2, 3, 33, 65]
    for knots in (BERN, TERN, GEO32, SYM64):
        assert (knots.points[0], knots.points[-1]) == (0, 1)
        assert (np.diff(knots.array) > 0).all()
    assert SYM64.array + SYM64.array[::-1] == pytest.approx(np.ones(65))


@given(knots=GRIDS, values=VALUES)
def test_binning_keeps_the_number_and_the_sum(knots: Knots, values: list[float]) -> None:
    counts = knots.counts(np.array(values))
    assert counts.sum() == pytest.approx(len(values))
    assert counts @ knots.array == pytest.approx(sum(values), abs=1e-12)
    assert (counts >= 0).all()


@given(values=VALUES)
def test_differences_that_are_never_negative_have_the_counts_of_their_size(values: list[float]) -> None:
    found = signed(GEO32.counts(np.array(values)))
    assert found == pytest.approx(SYM64.counts((np.array(values) + 1) / 2), abs=1e-9)


def exact_up(values: list[float], m: float) -> float:
    logs = [u + sum(log(1 - c + c * (1 - x) / (1 - m)) for x in values) for c, u in zip(_C, _U, strict=True)]
    return float(max(logs) + log(sum(exp(value - max(logs)) for value in logs)))


def exact_lo(values: list[float], m: float) -> float:
    stakes = [min(r / (1 - m), 1 / (2 * m)) for r in _R]
    logs = [v + sum(log(1 + s * (x - m)) for x in values) for s, v in zip(stakes, _V, strict=True)]
    return float(max(logs) + log(sum(exp(value - max(logs)) for value in logs)))


@given(knots=GRIDS, values=VALUES, m=SHARES)
def test_binned_evidence_is_never_more_than_the_exact_one(knots: Knots, values: list[float], m: float) -> None:
    counts = knots.counts(np.array(values))
    assert log_up(knots, counts, m) <= exact_up(values, m) + 1e-9
    assert log_lo(knots, counts, m) <= exact_lo(values, m) + 1e-9


@given(labels=st.lists(st.booleans(), min_size=1, max_size=60), m=SHARES)
def test_of_labels_nothing_is_lost_by_binning_on_any_grid(labels: list[bool], m: float) -> None:
    values = [float(label) for label in labels]
    for knots in (BERN, TERN, GEO32, SYM64):
        counts = knots.counts(np.array(values))
        assert isclose(log_up(knots, counts, m), exact_up(values, m), rel_tol=1e-9, abs_tol=1e-9)
        assert isclose(log_lo(knots, counts, m), exact_lo(values, m), rel_tol=1e-9, abs_tol=1e-9)


@given(knots=GRIDS, values=VALUES, cut=st.integers(0, 60), seed=st.integers(0, 99), m=SHARES)
def test_order_and_sharding_do_not_matter(knots: Knots, values: list[float], cut: int, seed: int, m: float) -> None:
    data = np.array(values)
    shuffled = np.random.default_rng(seed).permutation(data)
    merged = knots.counts(shuffled[:cut]) + knots.counts(shuffled[cut:])
    assert log_up(knots, merged, m) == pytest.approx(log_up(knots, knots.counts(data), m), abs=1e-9)
    assert log_lo(knots, merged, m) == pytest.approx(log_lo(knots, knots.counts(data), m), abs=1e-9)


@given(knots=GRIDS, values=VALUES, m=SHARES)
def test_there_is_no_evidence_against_a_claim_that_the_mean_fulfils(
    knots: Knots, values: list[float], m: float
) -> None:
    counts = knots.counts(np.array(values))
    mean = knots.mean(counts)
    if mean >= m:
        assert log_up(knots, counts, m) <= 1e-9
    if mean <= m:
        assert log_lo(knots, counts, m) <= 1e-9


@given(knots=GRIDS, values=VALUES, m=SHARES)
def test_promote_and_reject_are_never_both_possible(knots: Knots, values: list[float], m: float) -> None:
    counts = 1000 * knots.counts(np.array(values))
    assert min(log_up(knots, counts, m), log_lo(knots, counts, m)) < THRESHOLD


@given(knots=GRIDS, values=VALUES, ms=st.tuples(SHARES, SHARES))
def test_evidence_is_monotone_in_the_claim(knots: Knots, values: list[float], ms: tuple[float, float]) -> None:
    counts, (low, high) = knots.counts(np.array(values)), sorted(ms)
    assert log_up(knots, counts, low) <= log_up(knots, counts, high) + 1e-9
    assert log_lo(knots, counts, low) >= log_lo(knots, counts, high) - 1e-9


@given(knots=GRIDS, values=VALUES, times=st.integers(1, 1000), alpha=st.floats(0.001, 0.5))
def test_bounds_enclose_the_mean_and_are_where_the_evidence_reaches_its_threshold(
    knots: Knots, values: list[float], times: int, alpha: float
) -> None:
    counts = times * knots.counts(np.array(values))
    low, high = lower(knots, counts, alpha), upper(knots, counts, alpha)
    assert 0 <= low <= knots.mean(counts) + 1e-12
    assert knots.mean(counts) - 1e-12 <= high <= 1
    if 1e-9 < high < 1 - 1e-9:
        assert log_up(knots, counts, high) == pytest.approx(log(1 / alpha), abs=1e-4)
    if 1e-9 < low < 1 - 1e-9:
        assert log_lo(knots, counts, low) == pytest.approx(log(1 / alpha), abs=1e-4)


@given(n=st.integers(1, 500), ones=st.integers(0, 500))
def test_as_much_more_data_as_foretold_decides_and_less_does_not(n: int, ones: int) -> None:
    counts = bern(n, min(n, ones))
    foretold = more(lambda scaled: log_up(BERN, scaled, 0.05), counts, ALPHA)
    if foretold == 0:
        assert log_up(BERN, counts, 0.05) >= THRESHOLD
    elif foretold < inf:
        enough = counts * (1 + foretold / n)
        assert log_up(BERN, enough, 0.05) == pytest.approx(THRESHOLD, abs=1e-6)
        assert log_up(BERN, enough * 0.99, 0.05) < THRESHOLD
    else:
        assert BERN.mean(counts) >= 0.05 - 1e-9


def robbins_up(n: int, ones: int, m: float) -> float:
    """Robbins' beta mixture, truncated to means below m: Annals of Mathematical Statistics 41 (1970)."""
    a, b = 1.0, 1 / m
    inside = log(betainc(ones + a, n - ones + b, m)) - log(betainc(a, b, m))
    return float(betaln(ones + a, n - ones + b) - betaln(a, b) + inside - ones * log(m) - (n - ones) * np.log1p(-m))


def robbins_lo(n: int, ones: int, m: float) -> float:
    a, b = 1.0, 1 / m
    # 1 - I_x(a, b) as I_(1-x)(b, a): the difference would underflow.
    inside = log(betainc(n - ones + b, ones + a, 1 - m)) - log(betainc(b, a, 1 - m))
    return float(betaln(ones + a, n - ones + b) - betaln(a, b) + inside - ones * log(m) - (n - ones) * np.log1p(-m))


@pytest.mark.parametrize("m", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.75, 1.5, 2.0, 5.0])
def test_the_portfolio_knows_what_robbins_knows(m: float, share: float) -> None:
    """Where either decides, they differ by little: two mixtures over the same bets with other weights."""
    of, oracle = (log_up, robbins_up) if share < 1 else (log_lo, robbins_lo)
    decided = []
    for n in np.geomspace(1 / m, 400 / m, 60).round().astype(int):
        ones = round(share * m * n)
        ours, theirs = of(BERN, bern(n, ones), m), oracle(n, ones, m)
        if -1 < theirs < 3 * THRESHOLD:
            assert abs(ours - theirs) < 1.2, (n, ones, ours, theirs)
        decided.append((ours >= THRESHOLD, theirs >= THRESHOLD, n))
    ours_at = next(n for ours, _, n in decided if ours)
    theirs_at = next(n for _, theirs, n in decided if theirs)
    assert 0.6 < ours_at / theirs_at < 1.6


def wrong(seed: int, runs: int, requests: int, mean: float, m: float, promote: bool) -> float:
    """The share of streams of labels that are ever decided, looking after every request."""
    ones = np.random.default_rng(seed).random((runs, requests)) < mean
    counted, seen = ones.cumsum(axis=1), np.arange(1, requests + 1)
    stakes, factors = (factors_up if promote else factors_lo)(BERN, m)
    evidence = np.zeros((runs, requests))
    for stake, (at_0, at_1) in zip(stakes, factors, strict=True):
        evidence += np.exp(stake + (seen - counted) * at_0 + counted * at_1)
    return float((evidence >= 1 / ALPHA).any(axis=1).mean())


def test_at_the_tolerance_hardly_more_than_alpha_are_decided_however_often_one_looks() -> None:
    # Of 2,000 streams, alpha and three standard errors.
    most = ALPHA + 3 * (ALPHA * (1 - ALPHA) / 2000) ** 0.5
    assert wrong(1, 2000, 2000, mean=0.1, m=0.1, promote=True) <= most
    assert wrong(2, 2000, 2000, mean=0.1, m=0.1, promote=False) <= most


def test_what_is_clearly_on_one_side_is_decided() -> None:
    assert wrong(3, 200, 2000, mean=0.05, m=0.1, promote=True) > 0.99
    assert wrong(4, 200, 2000, mean=0.2, m=0.1, promote=False) > 0.99


def test_a_moving_mean_whose_average_is_at_the_tolerance_is_decided_no_more_often() -> None:
    """Half of the stream is far below, half far above: an adaptive bet would be fooled, a fixed one is not."""
    generator = np.random.default_rng(5)
    wrongly = 0
    for _ in range(400):
        first, second = generator.random(400) < 0.2, generator.random(400) < 0.0
        ones = np.concatenate([first, second]).cumsum()
        # From where the average so far is at its highest to where it comes down to the tolerance.
        looks = [(n, int(ones[n - 1])) for n in range(20, 801, 20)]
        wrongly += any(log_up(BERN, bern(n, found), 0.1) >= THRESHOLD for n, found in looks)
    assert wrongly / 400 <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / 400) ** 0.5
