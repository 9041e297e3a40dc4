"""Keyed sampling: a property of requests, not of the server that gets them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.serving.selection import position, selected

IDS = st.text(min_size=1, max_size=40)
SHARES = st.floats(min_value=0, max_value=1, exclude_min=True)
COUNT = 20_000


@given(IDS, st.binary(max_size=40), SHARES, SHARES)
def test_the_requests_of_a_smaller_share_are_among_those_of_a_larger_one(
    request_id: str, message: bytes, one: float, other: float
) -> None:
    place = position(request_id, message)
    assert 0 <= place < 1
    assert selected(place, max(one, other)) or not selected(place, min(one, other))
    assert selected(place, 1.0)


@given(IDS, st.binary(max_size=40), st.binary(max_size=40))
def test_with_an_id_the_bytes_do_not_matter(request_id: str, one: bytes, other: bytes) -> None:
    assert position(request_id, one) == position(request_id, other)


@given(st.binary(max_size=40))
def test_without_an_id_the_same_bytes_have_the_same_place(message: bytes) -> None:
    assert position("", message) == position("", bytes(bytearray(message)))


def test_places_are_the_same_in_every_version_of_the_server() -> None:
    # Fixed for ever: replicas of two releases must agree, and a replay must find what was selected.
    assert position("a", b"") == position("", b"a") == 0.18460693099188663


def test_the_share_that_is_selected_is_the_share_that_was_asked_for() -> None:
    for prefix in ("", "user-", "00000000-"):
        places = [position(f"{prefix}{number}", b"") for number in range(COUNT)]
        for share in (0.01, 0.1, 0.5):
            count = sum(selected(place, share) for place in places)
            deviation = math.sqrt(COUNT * share * (1 - share))
            # The ids are fixed, so that this is no gamble: five standard deviations.
            assert abs(count - COUNT * share) < 5 * deviation
