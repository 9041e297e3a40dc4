"""Shared memory of clients: what is read and written, and that nothing a client does to it can hurt."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.errors import InvalidRequest, NotFound
from gnomon_server.serving.regions import ROOT, Region, Regions
from gnomon_server.wire.plans import RegionRef

SIZE = 64


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    path = ROOT / f"gnomon-test-{secrets.token_hex(8)}"
    path.write_bytes(bytes(range(SIZE)))
    yield path
    path.unlink(missing_ok=True)


def ref(memory: Path, offset: int = 0, size: int = SIZE, name: str = "region") -> RegionRef:
    return RegionRef(name, f"/{memory.name}", offset, size)


def test_a_region_is_a_part_of_the_memory_and_reads_are_copies(memory: Path) -> None:
    region = Region(ref(memory, offset=8, size=16))
    read = region.read(4, 8)
    assert read == bytes(range(12, 20))
    with memory.open("r+b") as file:
        file.seek(12)
        file.write(b"\xff")
    assert read == bytes(range(12, 20))
    region.write(4, b"\x0c")
    assert memory.read_bytes() == bytes(range(SIZE))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_no_offset_and_no_size_leads_out_of_a_region(
    memory: Path, offset: int, size: int, begin: int, length: int
) -> None:
    try:
        region = Region(ref(memory, begin, length))
    except InvalidRequest:
        assert begin + length > SIZE
        return
    assert begin + length <= SIZE
    if offset + size <= length:
        assert region.read(offset, size) == bytes(range(SIZE))[begin + offset : begin + offset + size]
        return
    for attempt in (lambda: region.read(offset, size), lambda: region.write(offset, bytes(size))):
        with pytest.raises(InvalidRequest, match=f"expected at most {length} bytes, received {size}"):
            attempt()
    assert memory.read_bytes() == bytes(range(SIZE))


def test_memory_that_its_owner_truncates_is_an_error_and_does_not_grow_again(memory: Path) -> None:
    region = Region(ref(memory))
    os.truncate(memory, 10)
    try:
        assert region.read(0, 10) == bytes(range(10))
        for attempt in (lambda: region.read(4, 20), lambda: region.write(4, bytes(20))):
            with pytest.raises(InvalidRequest, match="expected 20 bytes, received 6: its memory is smaller now"):
                attempt()
        assert memory.stat().st_size == 10
    finally:
        memory.write_bytes(bytes(range(SIZE)))


def test_a_region_outlives_the_name_of_its_memory() -> None:
    path = ROOT / f"gnomon-test-{secrets.token_hex(8)}"
    path.write_bytes(b"first")
    region = Region(ref(path, size=5))
    path.unlink()
    path.write_bytes(b"other")
    region.write(0, b"F")
    assert region.read(0, 5) == b"First"
    assert path.read_bytes() == b"other"
    path.unlink()


def test_memory_that_may_only_be_read_takes_no_output(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = Region(ref(memory))
    opened = os.open

    def as_another_user(path: str, flags: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags)

    monkeypatch.setattr(os, "open", as_another_user)
    with pytest.raises(InvalidRequest, match="expected memory that can be written, received: Permission denied"):
        region.write(0, b"x")
    assert region.read(0, 1) == b"\x00"


@pytest.mark.parametrize(
    "key", ["", "/", ".", "/..", "a/b", "/a/b", "../etc/passwd", "//etc/passwd", "a\0b", "x" * 300]
)
def test_a_key_is_the_name_of_a_file_there_and_nothing_else(key: str) -> None:
    with pytest.raises(InvalidRequest, match="shared memory key"):
        Region(RegionRef("region", key, 0, 1))


def test_a_key_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="shared memory key '/gnomon-nothing' not found"):
        Region(RegionRef("region", "/gnomon-nothing", 0, 1))


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_memory_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = ROOT / f"gnomon-test-{secrets.token_hex(8)}"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(secret)
    else:
        os.mkfifo(path)
    try:
        with pytest.raises(InvalidRequest, match="shared memory key"):
            Region(RegionRef("region", path.name, 0, 1))
    finally:
        path.rmdir() if kind == "folder" else path.unlink()


def open_files(memory: Path) -> int:
    links = Path("/proc/self/fd")
    return sum(link.is_symlink() and link.readlink() == memory for link in links.iterdir())


def test_a_list_of_regions_is_made_true_and_what_is_not_on_it_is_closed(memory: Path) -> None:
    regions = Regions()
    regions.wish([ref(memory, name="a"), ref(memory, name="b"), RegionRef("gone", "/gnomon-nothing", 0, 1)])
    first = regions.get("a")
    assert open_files(memory) == 2
    with pytest.raises(NotFound, match="shared memory key '/gnomon-nothing' not found"):
        regions.get("gone")
    regions.wish([ref(memory, name="a")])
    assert regions.get("a") is first
    assert open_files(memory) == 1
    with pytest.raises(NotFound, match="shared memory region 'b' not found"):
        regions.get("b")
    regions.wish([])
    # Whoever holds a region can still use it.
    assert first.read(0, 1) == b"\x00"
    del first
    assert open_files(memory) == 0
