"""Digests: which rows of inputs were met before, so that an input that is sent again buys no confidence."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators import Flags

Digests = NDArray[np.uint64]

# Digests that are remembered, in buckets of a few; of a full bucket the oldest goes.
WAYS: Final = 8
BUCKETS: Final = 1 << 17
_BUCKET: Final = np.uint64(BUCKETS - 1)
_WHOLE: Final = (1 << 64) - 1
_SECRET: Final = secrets.randbits(64)


class Inputs(NamedTuple):
    """The inputs of a batch."""

    # One a row.
    digests: Digests
    # Rows of each request.
    rows: NDArray[np.intp]
    # By the predicate of a segment: whether each row lies in it. One that is not there is not known.
    members: Mapping[str, Flags] = MappingProxyType({})

    def only(self, keep: Flags) -> Inputs:
        """Returns the inputs of the requests that are to be kept."""
        kept = np.repeat(keep, self.rows)
        return Inputs(self.digests[kept], self.rows[keep], {name: held[kept] for name, held in self.members.items()})


class Seen:
    """The rows that were met, at most WAYS * BUCKETS of them."""

    def __init__(self) -> None:
        self._table = np.zeros((BUCKETS, WAYS), np.uint64)
        # By bucket: where the next digest goes.
        self._next = np.zeros(BUCKETS, np.intp)

    def first(self, digests: Digests) -> Flags:
        """Returns which rows are met for the first time, also among themselves, and remembers them."""
        fresh = np.zeros(len(digests), np.bool_)
        fresh[np.unique(digests, return_index=True)[1]] = True
        buckets = (digests & _BUCKET).astype(np.intp)
        fresh &= ~(self._table[buckets] == digests[:, np.newaxis]).any(axis=1)
        self._remember(digests[fresh], buckets[fresh])
        return fresh

    def _remember(self, digests: Digests, buckets: NDArray[np.intp]) -> None:
        # Two in one bucket need a place each, and an assignment of arrays would give them the same.
        while len(buckets):
            at, index = np.unique(buckets, return_index=True)
            self._table[at, self._next[at]] = digests[index]
            self._next[at] = (self._next[at] + 1) % WAYS
            digests, buckets = np.delete(digests, index), np.delete(buckets, index)


def of_rows(inputs: Mapping[str, Array], rowwise: bool) -> Digests:
    """Returns a keyed 64-bit digest of each row, over names, datatypes, shapes and contents of all inputs.

    Where rows cannot be told apart, all inputs together are one row. The order of the inputs does not matter. The key
    is this process's own, so that no client can make two rows collide.
    """
    sides = {name: array if rowwise else array[np.newaxis] for name, array in inputs.items()}
    sums = [_sums(_words(rows), _keys(name, rows.dtype.str, rows.shape[1:])) for name, rows in sides.items()]
    # A model without inputs is asked the same again and again.
    return _mixed(np.sum(sums, axis=0, dtype=np.uint64) if sums else np.zeros(1, np.uint64))


def of_bytes(parts: tuple[bytes, ...]) -> int:
    """Returns the keyed digest of a row that is known by its bytes only."""
    return max(1, hash(parts) & _WHOLE)


def _words(rows: Array) -> Digests:
    """Returns the contents of [B, ...] as uint64[B, W]."""
    count = len(rows)
    if rows.dtype.kind in "OSUT":
        # Python's hash of text is keyed as well.
        hashes = np.array([hash(element) for element in rows.ravel().tolist()], np.int64)
        return hashes.view(np.uint64).reshape(count, -1 if count else 0)
    size = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    flat = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).reshape(count, size)
    if size % 8:
        flat = np.pad(flat, ((0, 0), (0, -size % 8)))
    return flat.view(np.uint64)


def _sums(words: Digests, keys: Digests) -> Digests:
    # Differences between floats lie in their high bits, of which a product keeps only the low ones of its key.
    folded = words ^ (words >> np.uint64(32))
    folded *= keys[1:]
    sums: Digests = folded.sum(axis=1, dtype=np.uint64)
    sums += keys[0]
    return sums


@lru_cache(64)
def _keys(name: str, datatype: str, shape: tuple[int, ...]) -> Digests:
    """Returns odd random numbers: one for the tensor, then one for each word of a row."""
    bits = np.dtype(datatype)
    size = int(np.prod(shape, dtype=np.int64))
    words = size if bits.kind in "OSUT" else -(-size * bits.itemsize // 8)
    generator = np.random.default_rng([_SECRET, hash((name, datatype, shape)) & _WHOLE])
    keys = generator.integers(0, 1 << 64, words + 1, np.uint64)
    found: Digests = keys | np.uint64(1)
    return found


def _mixed(values: Digests) -> Digests:
    """Returns values whose every bit depends on all bits: the end of splitmix64; 0, an empty place, becomes 1."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(np.maximum(values ^ (values >> np.uint64(31)), np.uint64(1)), np.uint64)
