"""The join of labels to what both versions decided."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.shadow.fakes import record_of, request_of

from gnomon_protos.tensors import Array
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import FeedbackSettings
from gnomon_server.shadow.batching import Batch, parse
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.cohorts import MOST
from gnomon_server.shadow.comparing import Compared, Values, compare
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.digests import Inputs, of_rows
from gnomon_server.shadow.early import MOST_WAITING, MOST_WAITING_BYTES
from gnomon_server.shadow.feedback import Feedback, Judging
from gnomon_server.shadow.outcome import DROPPED, SHADOW_ERROR, Uncompared
from gnomon_server.shadow.truth import truth
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.labels import Label, Labelled, LabelTally
from gnomon_server.wire.plans import Observing
from gnomon_server.wire.record import Record

SECOND = 10**9
LABELS = Signature((TensorSpec("x", "INT64", (-1, 1)),), (TensorSpec("label", "INT64", (-1,)),))
NUMBERS = Signature((TensorSpec("x", "INT64", (-1, 1)),), (TensorSpec("price", "FP32", (-1,)),))


class World:
    """A join with a clock of its own; every request has rows that were never met."""

    def __init__(
        self,
        horizon: float = 0.0,
        block: int = 1,
        signature: Signature = LABELS,
        dedupe: bool = True,
        passes: bool = False,
        **options: object,
    ) -> None:
        self.now = 1000 * SECOND
        self.signature = signature
        self.chosen = choose(signature, ())
        given = msgspec.convert(options, FeedbackSettings)
        of = truth("m", signature, self.chosen, given)
        judging = Judging(horizon, Observing(block=block, dedupe=dedupe))
        self.feedback = Feedback(of, given, judging, wait=10.0, clock=lambda: self.now, passes=passes)
        self.feedback.primary = 1
        self.met = 0

    def ask(self, name: str, primary: Sequence[float], shadow: Sequence[float], fresh: bool = True) -> None:
        """Has a request of one row a decision compared."""
        x = np.arange(self.met, self.met + len(primary)).reshape(-1, 1)
        self.met += len(primary) if fresh else 0
        record = self.record(name, x, primary)
        request = parse(record, Fits(self.signature, True))
        assert request is not None
        batch, output = Batch((request,)), self.signature.outputs[0]
        sides = [{output.name: np.array(side, self.dtype)} for side in (primary, shadow)]
        found = compare(batch, self.chosen, sides[0], sides[1], (0, 0))
        self.feedback.settle(filled(found, {"x": x}, sides))

    def miss(self, outcome: str, *values: int) -> None:
        """Has requests end, each with one value, that the shadow did not decide."""
        x = np.array(values).reshape(-1, 1)
        known = Inputs(of_rows({"x": x}, True), np.ones(len(x), np.intp))
        records = [self.record("", row.reshape(1, 1), [0]) for row in x]
        self.feedback.settle(Uncompared(records, outcome, inputs=known))

    def record(self, name: str, x: Array, primary: Sequence[float]) -> Record:
        output = {self.signature.outputs[0].name: np.array(primary, self.dtype)}
        request = request_of({"x": x}, id=name)
        return msgspec.structs.replace(record_of({"x": x}, output), end_ns=self.now, request=request)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        kinds: dict[str, type[object]] = {"INT64": np.int64, "FP32": np.float32, "BYTES": np.object_}
        return np.dtype(kinds[self.signature.outputs[0].datatype])

    def say(self, name: str, *labels: object, time_ns: int = 0) -> Labelled:
        return self.feedback.take(1, [Label(name, tuple(map(str, labels)), time_ns)])

    @property
    def tally(self) -> LabelTally:
        (found,) = self.feedback.snapshot("m", 2)
        assert (found.model, found.primary, found.shadow) == ("m", 1, 2)
        return found.tally

    def observed(self) -> list[dict[float, float]]:
        """Returns how often each excess was observed, at worst and at best."""
        return [{round(2 * p - 1, 6): n for p, n in zip(SYM64.points, s, strict=True) if n} for s in self.sums()]

    def sums(self) -> list[Array]:
        """Returns the counts of all cohorts, at worst and at best."""
        cohorts = self.tally.cohorts
        sides = ([np.array(cohort.up) for cohort in cohorts], [np.array(cohort.lo) for cohort in cohorts])
        return [sum(side, SYM64.none()) for side in sides]


def filled(found: Compared, inputs: dict[str, Array], sides: list[dict[str, Array]]) -> Compared:
    known = Inputs(of_rows(inputs, True), found.batch.rows)
    return Compared(**{**vars(found), "inputs": known, "values": Values(inputs, sides[0], sides[1])})


def counts(found: LabelTally) -> dict[str, int]:
    """Returns what became of labels, without what never happened."""
    names = ("joined", "late", "duplicate", "conflicting", "refused", "unknown", "waiting")
    return {name: getattr(found, name) for name in names if getattr(found, name)}


def test_a_label_is_joined_to_what_both_decided() -> None:
    world = World()
    for number, (primary, shadow) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        world.ask(f"r{number}", [primary], [shadow])
        assert world.say(f"r{number}", 0).joined == 1
    found = world.tally
    assert (found.both_right, found.primary_right, found.shadow_right, found.both_wrong) == (1, 1, 1, 1)
    assert (found.rows, found.primary_loss, found.shadow_loss, found.cohorts) == (4, 2.0, 2.0, ())


def test_the_first_label_of_a_request_counts_and_one_that_differs_is_counted() -> None:
    world = World()
    world.ask("r", [0], [1])
    assert [world.say("r", label).duplicate for label in (0, 0, 1)] == [0, 1, 1]
    assert counts(world.tally) == {"joined": 1, "duplicate": 2, "conflicting": 1}
    assert world.tally.primary_right == 1


def test_a_label_waits_for_its_request_and_becomes_unknown_if_that_never_comes() -> None:
    world = World()
    assert world.say("early", 1).waiting == world.say("never", 1).waiting == 1
    assert world.say("early", 0).duplicate == 1
    assert counts(world.tally) == {"duplicate": 1, "conflicting": 1, "waiting": 2}
    world.ask("early", [1], [1])
    assert counts(world.tally) == {"joined": 1, "duplicate": 1, "conflicting": 1, "waiting": 1}
    world.now += 10 * SECOND
    assert counts(world.tally) == {"joined": 1, "duplicate": 1, "conflicting": 1, "unknown": 1}


def test_a_label_that_waits_conflicts_with_another_value_and_not_with_another_spelling() -> None:
    world = World()
    for text in ("1", "1.0", "true", "0"):
        world.feedback.take(1, [Label("early", (text,), 0)])
    assert counts(world.tally) == {"duplicate": 3, "conflicting": 1, "waiting": 1}


def test_labels_that_wait_are_bounded() -> None:
    world = World()
    world.feedback.take(1, [Label(str(number), ("1",)) for number in range(MOST_WAITING + 5)])
    assert counts(world.tally) == {"waiting": MOST_WAITING, "unknown": 5}


def test_labels_of_many_rows_that_wait_are_bounded_by_their_bytes() -> None:
    world, many = World(), 10_000
    most = MOST_WAITING_BYTES // (68 * many)
    world.feedback.take(1, [Label(str(number), ("1",) * many) for number in range(most + 3)])
    assert counts(world.tally) == {"waiting": most, "unknown": 3}
    # One that is joined leaves room for another.
    world.ask("5", [1] * many, [1] * many)
    world.feedback.take(2, [Label("more", ("1",) * many)])
    assert counts(world.tally) == {"joined": 1, "waiting": most, "unknown": 3}


def test_only_the_newest_requests_are_remembered() -> None:
    world = World(keep=2)
    for name in ("a", "b", "c"):
        world.ask(name, [1], [1])
    assert [world.say(name, 1).joined for name in ("a", "b", "c")] == [0, 1, 1]
    # One that has a label has told all that it could.
    world.ask("d", [1], [1])
    assert world.tally.forgotten == 1


def test_requests_are_forgotten_that_take_too_much_room() -> None:
    world = World(keep_bytes=3 * 900)
    for name in ("a", "b", "c"):
        world.ask(name, [1], [1])
    assert world.tally.forgotten == 0
    # One of many rows takes the room of several, and one that takes more than there is has none.
    world.ask("d", [1] * 40, [1] * 40)
    assert world.tally.forgotten == 2
    assert [world.say(name, 1).joined for name in ("b", "c")] == [0, 1]
    world.ask("e", [1] * 200, [1] * 200)
    assert world.tally.forgotten == 4


def test_texts_take_room_as_long_as_they_are() -> None:
    # A text is measured once it is known.
    text = Signature(LABELS.inputs, (TensorSpec("label", "BYTES", (-1,)),))
    world = World(signature=text, keep_bytes=20_000)
    for name in ("a", "b"):
        world.ask(name, [b"x" * 3000], [b"x" * 3000])  # type: ignore[list-item]
    assert world.say("b", "y" * 10_000).joined == 1
    assert (world.say("a", "x").waiting, world.tally.forgotten) == (1, 1)


def test_requests_are_forgotten_after_a_time() -> None:
    world = World(keep_seconds=60)
    world.ask("a", [1], [1])
    world.now += 30 * SECOND
    world.ask("b", [1], [1])
    world.now += 30 * SECOND
    assert [world.say(name, 1).joined for name in ("a", "b")] == [0, 1]
    world.ask("c", [1], [1])
    world.now += 60 * SECOND
    assert world.tally.forgotten == 2


def test_a_request_that_was_forgotten_counts_as_without_a_label() -> None:
    world = World(horizon=60, keep_seconds=60)
    world.ask("a", [0], [1])
    world.now += 90 * SECOND
    assert world.observed() == [{1.0: 1}, {-1.0: 1}]
    assert (world.tally.forgotten, world.say("a", 1).waiting) == (1, 1)


def test_a_label_after_the_horizon_is_late() -> None:
    world = World(horizon=60)
    world.ask("r", [0], [1])
    world.now += 60 * SECOND
    assert world.say("r", 0, time_ns=world.now - 30 * SECOND).late == 1
    assert counts(world.tally) == {"late": 1}
    assert world.observed() == [{1.0: 1}, {-1.0: 1}]


def test_the_time_of_a_label_says_how_long_it_took() -> None:
    world = World(horizon=60)
    world.ask("r", [0], [1])
    world.now += 50 * SECOND
    assert world.say("r", 0, time_ns=world.now - 30 * SECOND).joined == 1
    assert world.tally.delay == 20
    refused = world.say("s", 0, time_ns=world.now + 3600 * SECOND)
    assert refused.reasons == ("id 's': time: expected when the label became known, received a time to come",)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (("x",), "model 'm' output 'label': expected a whole number, received 'x'"),
        (("0.5",), "model 'm' output 'label': expected a whole number, received '0.5'"),
        (("nan",), "model 'm' output 'label': expected a whole number, received 'nan'"),
        ((), "model 'm' output 'label': expected a label for each row, received none"),
        ((1, 1), "expected 1 labels, one a row, received 2"),
    ],
)
def test_a_label_that_does_not_fit_is_refused_and_the_next_one_may_fit(labels: tuple[object, ...], reason: str) -> None:
    world = World()
    world.ask("r", [1], [1])
    assert world.say("r", *labels).reasons == (f"id 'r': {reason}",)
    assert world.say("r", 1).joined == 1
    assert counts(world.tally) == {"joined": 1, "refused": 1}


def test_a_number_loses_its_distance_from_the_truth_up_to_the_scale() -> None:
    world = World(horizon=60, signature=NUMBERS, scale=10.0)
    world.ask("near", [3.0, 0.0], [5.0, 50.0])
    assert world.say("near", 4, 0).joined == 1
    found = world.tally
    assert [found.primary_loss, found.shadow_loss, found.scale] == pytest.approx([0.1, 1.1, 10.0])
    assert (found.rows, found.both_right, found.both_wrong) == (2, 0, 0)
    assert world.tally.cohorts[0].up == pytest.approx(SYM64.counts(np.array([0.75])).tolist())


def test_what_the_shadow_did_not_decide_counts_against_it_or_for_neither() -> None:
    world = World(horizon=60)
    world.miss(SHADOW_ERROR, -1)
    assert world.observed() == [{1.0: 1}, {0.0: 1}]
    world.miss(DROPPED, -2)
    assert world.observed() == [{1.0: 2}, {0.0: 1, -1.0: 1}]
    # What it has failed on before buys no evidence.
    world.miss(SHADOW_ERROR, -1, -3, -3)
    assert world.observed() == [{1.0: 3}, {0.0: 2, -1.0: 1}]


def test_unlabelled_requests_count_by_how_far_the_versions_are_apart_or_are_left_out() -> None:
    for unlabelled, expected in (("worst", [{0.0: 1, 1.0: 1}, {0.0: 1, -1.0: 1}]), ("ignored", [{}, {}])):
        world = World(horizon=60, unlabelled=unlabelled)
        world.ask("same", [1], [1])
        world.ask("", [0], [1])
        assert world.observed() == expected
        assert world.tally.cohorts[0].requests == 2


def test_an_input_that_is_sent_again_is_joined_and_not_observed_again() -> None:
    world = World(horizon=60)
    for name in ("a", "b"):
        world.ask(name, [0], [1], fresh=False)
        assert world.say(name, 0).joined == 1
    assert world.observed() == [{1.0: 1}, {1.0: 1}]
    assert world.tally.primary_right == 2


def test_of_many_cohorts_the_oldest_become_one_and_a_label_still_finds_its_request() -> None:
    world = World(horizon=16.0)
    for number in range(60):
        world.ask(str(number), [0], [1])
        world.now += SECOND
        if number % 2 and number >= 14:
            assert world.say(str(number - 14), 0).joined == 1
        assert len(world.tally.cohorts) <= MOST
    assert sum(cohort.requests for cohort in world.tally.cohorts) == 60
    assert world.observed() == [{1.0: 60}, {1.0: 23, -1.0: 37}]


def test_what_no_request_is_known_of_counts_under_the_primary_of_now() -> None:
    world = World()
    world.feedback.primary = 0
    world.say("never", 1)
    assert world.feedback.snapshot("m", 2) == ()
    world.ask("r", [1], [1])
    assert counts(world.tally) == {"waiting": 1}


def test_labels_whose_requests_do_not_come_are_passed_on_once() -> None:
    world = World(passes=True)
    world.ask("r", [1], [1])
    world.say("stray", 1)
    world.say("other", 1, time_ns=5 * SECOND)
    came, world.now = world.now, world.now + 10 * SECOND
    (found,) = world.feedback.snapshot("m", 2)
    assert found.strays == (Label("stray", ("1",), came), Label("other", ("1",), 5 * SECOND))
    assert (counts(found.tally), found.tally.forwarded) == ({}, 2)
    (found,) = world.feedback.snapshot("m", 2)
    assert (found.strays, found.tally.forwarded) == ((), 2)
    # At the end no request comes any more.
    world.say("last", 1)
    world.feedback.end()
    (found,) = world.feedback.snapshot("m", 2)
    assert [label.id for label in found.strays] == ["last"]


def test_labels_that_another_server_passed_on_are_joined_or_not_counted() -> None:
    world = World()
    world.ask("r", [1], [1])
    given = [Label(name, ("1",)) for name in ("r", "s", "r")]
    assert world.feedback.adopt(given) == (given[1],)
    assert counts(world.tally) == {"joined": 1, "duplicate": 1}


DECISIONS = st.tuples(st.integers(0, 1), st.integers(0, 1), st.none() | st.integers(0, 1))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(DECISIONS, min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 50),
    st.booleans(),
    st.randoms(use_true_random=False),
    st.integers(0, 5),
)
def test_observations_are_what_all_labels_at_once_would_make(
    requests: list[tuple[int, int, int | None]], block: int, keep: int, ignored: bool, random: Random, apart: int
) -> None:
    """Whatever the order of labels, and whatever is forgotten between requests."""
    world = World(horizon=64, block=block, keep=keep, unlabelled="ignored" if ignored else "worst")
    for number, (primary, shadow, _) in enumerate(requests):
        world.ask(str(number), [primary], [shadow])
        world.now += apart * SECOND // 10
        world.tally  # noqa: B018 - what is reported in between changes nothing
    order = list(range(len(requests)))
    random.shuffle(order)
    known = {n: requests[n][2] for n in order if requests[n][2] is not None}
    joined = {n: label for n, label in known.items() if world.say(str(n), label).joined}
    assert joined == {n: label for n, label in known.items() if n >= len(requests) - keep}
    truths = [joined.get(n) for n in range(len(requests))]
    excesses = [bounds(p, s, y, ignored) for (p, s, _), y in zip(requests, truths, strict=True)]
    full = len(requests) - len(requests) % block
    blocks = [excesses[start : start + block] for start in range(0, full, block)]
    for side, sums in enumerate(world.sums()):
        means = [np.mean([one[side] for one in part if one]) for part in blocks if any(part)]
        assert sums == pytest.approx(SYM64.counts((1 + np.array(means, np.float64)) / 2))
    found = world.tally.cohorts
    assert sum(cohort.requests for cohort in found) == full
    assert sum(cohort.labelled for cohort in found) == sum(y is not None for y in truths[:full])


def bounds(primary: int, shadow: int, label: int | None, ignored: bool) -> tuple[int, ...]:
    """Returns the greatest and the least excess of a request; none if it is left out."""
    if label is None:
        return () if ignored else (int(primary != shadow), -int(primary != shadow))
    return (int(shadow != label) - int(primary != label),) * 2
