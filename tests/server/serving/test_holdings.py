"""The versions that a frontend holds."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping

import pytest
from server.serving.fakes import Doubler

from gnomon_server.errors import LoadError
from gnomon_server.models.servable import Servable
from gnomon_server.serving.holdings import Holdings
from gnomon_server.wire.plans import VersionRef

ONE, TWO, OTHER = (VersionRef(model, version, "") for model, version in (("line", 1), ("line", 2), ("other", 1)))


class Loader:
    """Loads what it is asked for, or raises what it was told to for that version."""

    def __init__(self, errors: Mapping[VersionRef, Exception] | None = None) -> None:
        self.errors = dict(errors or {})
        self.loaded: list[VersionRef] = []
        self.threads: set[int] = set()

    def __call__(self, ref: VersionRef) -> Servable:
        self.loaded.append(ref)
        self.threads.add(threading.get_ident())
        if ref in self.errors:
            raise self.errors[ref]
        return Doubler(ref.version, ref.model)


def states(holdings: Holdings) -> dict[tuple[str, int], tuple[str, str]]:
    return {(state.model, state.version): (state.state, state.reason) for state in holdings.states()}


async def test_what_is_wished_is_loaded_once_and_off_the_loop() -> None:
    loader = Loader()
    holdings = Holdings(loader)
    assert holdings.missing(frozenset({ONE, TWO})) == {ONE, TWO}
    await holdings.wish(frozenset({ONE, TWO}))
    await holdings.wish(frozenset({ONE, TWO, OTHER}))
    assert loader.loaded == [ONE, TWO, OTHER]
    assert threading.get_ident() not in loader.threads
    assert states(holdings) == {("line", 1): ("ready", ""), ("line", 2): ("ready", ""), ("other", 1): ("ready", "")}
    assert not holdings.missing(frozenset({ONE, TWO, OTHER}))
    found = holdings.get(TWO)
    assert found is not None
    assert (found.model, found.version) == ("line", 2)
    assert {state.digest for state in holdings.states()} == {f"sha256:{1:064x}", f"sha256:{2:064x}"}


async def test_what_is_wished_no_more_is_let_go_and_its_memory_freed() -> None:
    holdings = Holdings(Loader())
    await holdings.wish(frozenset({ONE, TWO}))
    held = weakref.ref(holdings.get(ONE))
    holdings.keep(frozenset({TWO}))
    gc.collect()
    assert held() is None
    assert holdings.get(ONE) is None
    assert states(holdings) == {("line", 2): ("ready", "")}


async def test_a_version_that_fails_harms_no_other_and_is_tried_again_only_when_it_is_wished_anew() -> None:
    loader = Loader({TWO: LoadError("model.onnx does not load: torn")})
    holdings = Holdings(loader)
    wish = frozenset({ONE, TWO, OTHER})
    await holdings.wish(wish)
    assert states(holdings)["line", 2] == ("failed", "model.onnx does not load: torn")
    assert states(holdings)["line", 1] == states(holdings)["other", 1] == ("ready", "")
    assert holdings.get(TWO) is None
    await holdings.wish(wish)
    assert loader.loaded.count(TWO) == 1
    holdings.keep(wish - {TWO})
    loader.errors.clear()
    await holdings.wish(wish)
    assert states(holdings)["line", 2] == ("ready", "")


async def test_a_defect_while_loading_fails_that_version_without_detail(caplog: pytest.LogCaptureFixture) -> None:
    holdings = Holdings(Loader({ONE: ValueError("secret")}))
    await holdings.wish(frozenset({ONE, TWO}))
    assert states(holdings)["line", 1] == ("failed", "internal error while loading; the log has the details")
    assert states(holdings)["line", 2] == ("ready", "")
    assert "secret" in caplog.text
