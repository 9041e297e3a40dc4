"""Which loaded version answers a request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from server.serving.fakes import Doubler

from gnomon_server.errors import GnomonError, InvalidRequest, NotFound, NotReady
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.serving.split import Split

ONE, TWO = Doubler(1), Doubler(2)
LINE = ModelRoute("line", ONE, {1: ONE, 2: TWO}, ())
EMPTY = ModelRoute("line", None, {}, ())
COMING = ModelRoute("line", None, {}, (), frozenset({3}))
BESIDE = ModelRoute("line", ONE, {1: ONE}, (), frozenset({3}))


@pytest.mark.parametrize(
    ("route", "version", "answers"), [(LINE, "", ONE), (LINE, "1", ONE), (LINE, "2", TWO), (BESIDE, "", ONE)]
)
def test_the_primary_answers_unless_a_version_is_named(route: ModelRoute, version: str, answers: Doubler) -> None:
    assert route.resolve(version) is answers


@pytest.mark.parametrize(
    ("route", "version", "kind", "text"),
    [
        (EMPTY, "", NotFound, "model 'line': no version is loaded"),
        (EMPTY, "1", NotFound, "model 'line': version '1' not found: none is loaded"),
        (LINE, "3", NotFound, "model 'line': version '3' not found: expected one of [1, 2]"),
        (COMING, "", NotReady, "model 'line': not ready: LOADING"),
        (COMING, "3", NotReady, "model 'line' version '3': not ready: LOADING"),
        (COMING, "4", NotFound, "model 'line': version '4' not found: none is loaded"),
        (BESIDE, "3", NotReady, "model 'line' version '3': not ready: LOADING"),
        *(
            (
                LINE,
                version,
                InvalidRequest,
                f"model 'line': version: expected a positive integer or nothing, received '{version}'",
            )
            for version in ("0", "01", "-1", "+1", "1.0", " 1", "1abc", "latest", "1" * 19)
        ),
    ],
)
def test_what_cannot_answer_is_refused_with_the_reason(
    route: ModelRoute, version: str, kind: type[GnomonError], text: str
) -> None:
    with pytest.raises(GnomonError) as raised:
        route.resolve(version)
    assert type(raised.value) is kind
    assert str(raised.value) == text


def test_a_canary_has_its_role_and_answers_nobody_by_itself() -> None:
    route = replace(LINE, split=Split(TWO, 1.0, ""))
    assert (route.role(ONE), route.role(TWO)) == ("primary", "canary")
    assert LINE.role(TWO) == "previous"
    assert replace(LINE, named=frozenset({2})).role(TWO) == "named"
    assert route.resolve("") is ONE


def test_digits_of_other_scripts_are_no_version() -> None:
    with pytest.raises(InvalidRequest) as raised:
        LINE.resolve("\u0661")
    assert str(raised.value).isascii()


def test_a_name_is_looked_up_as_it_stands() -> None:
    table = RouteTable({"line": LINE})
    assert table.model("line") is LINE
    with pytest.raises(InvalidRequest, match="model name is empty"):
        table.model("")
    with pytest.raises(NotFound, match="model 'Line' not found"):
        table.model("Line")


def test_a_table_that_awaits_versions_goes_on_answering() -> None:
    table = RouteTable({"line": LINE}).awaiting({"line": frozenset({3}), "new": frozenset({1})})
    assert table.model("line").resolve("") is ONE
    with pytest.raises(NotReady, match="model 'new': not ready: LOADING"):
        table.model("new").resolve("")
    with pytest.raises(NotReady):
        table.model("line").resolve("3")
    assert table.ready


def test_a_version_that_came_is_awaited_no_more() -> None:
    table = RouteTable({"line": LINE}).awaiting({"line": frozenset({3})}).awaiting({})
    with pytest.raises(NotFound):
        table.model("line").resolve("3")


@pytest.mark.parametrize(
    ("routes", "ready"), [((), True), ((LINE,), True), ((COMING,), True), ((EMPTY,), False), ((BESIDE, LINE), True)]
)
def test_ready_means_that_no_model_failed_to_get_its_primary(routes: tuple[ModelRoute, ...], ready: bool) -> None:
    assert RouteTable({str(number): route for number, route in enumerate(routes)}).ready is ready
