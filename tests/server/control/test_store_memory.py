from __future__ import annotations

from pathlib import Path

import pytest

from gnomon_server.control.routes import Route
from gnomon_server.control.store.memory import FILE, Memory
from gnomon_server.errors import NotReady

NEWER, OLDER = Route("m", 2, primary=2, previous=1), Route("m", 1, primary=1, shadows={2: 0.5})


def test_what_was_known_is_known_after_a_restart(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert (memory.routes, memory.digests) == ({}, {})
    memory.learn({"m": OLDER}, {})
    memory.learn({"other": Route("other", 1, 1)}, {("m", 1): "sha256:a"})
    again = Memory(tmp_path)
    assert again.routes == {"m": OLDER, "other": Route("other", 1, 1)}
    assert again.digests == {("m", 1): "sha256:a"}


def test_what_was_read_before_a_change_does_not_undo_it(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.learn({"m": NEWER}, {})
    memory.learn({"m": OLDER}, {})
    assert Memory(tmp_path).routes == {"m": NEWER}


def test_a_memory_that_cannot_be_written_holds_up_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    (tmp_path / FILE).with_suffix(".part").mkdir()
    memory.learn({"m": OLDER}, {})
    assert Memory(tmp_path).routes == {}


def test_a_memory_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(NotReady, match=f"{FILE}: cannot be read"):
        Memory(tmp_path)
