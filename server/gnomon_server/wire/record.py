"""The mirror record: one finished request as a frontend hands it to a shadow worker.

A fixed little-endian head, then the request and the response exactly as they travelled. The bytes exist already, so
that handing over costs the frontend one small pack and no copy; the worker pays for the parsing.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

# total, request length, primary version, flags, start, end, run start, run end, trace id, span id, parent span id,
# peer length, trace state length.
HEAD = struct.Struct("<IIqBqqqq16sQQHH")
# Looked up once, since they are wanted for every request.
_pack, _SIZE = HEAD.pack, HEAD.size
SAMPLED = 1
# Of a request in a sequence, whose id stands behind the response, with a byte for its length at the very end: whether
# it is in one, is the first of it, and the last.
SEQUENCED = 2
STARTS = 4
ENDS = 8
_FLAGS: Final = struct.calcsize("<IIq")
# Stands between records: size of itself, which no record is so small as to have, and the share of the requests that
# those after it were selected from.
MARK = struct.Struct("<Id")
# Stands between records, too: size of itself, primary version, and how many requests were selected since the last such
# mark that are not among the records: dropped for want of room, and failed on by the primary.
LOSS = struct.Struct("<Iqqq")


# A record, to be written one after the other.
Buffers = tuple[bytes, bytes, bytes]


class Place(NamedTuple):
    """Where a request stands in the sequence of its client."""

    # At most 255 bytes; empty: the request is in none.
    sequence: bytes
    starts: bool
    ends: bool


ALONE: Final = Place(b"", starts=False, ends=False)


class Loss(NamedTuple):
    """Requests that were selected and are not on their way."""

    primary: int
    dropped: int
    primary_errors: int


class Record(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One request that the primary answered; a recording keeps its fields in this order."""

    primary: int
    # Whether the trace is exported by the frontend already.
    sampled: bool
    # Nanoseconds since the epoch: of the call and of the model run in it.
    start_ns: int
    end_ns: int
    run_start_ns: int
    run_end_ns: int
    # 16 bytes.
    trace_id: bytes
    span_id: int
    # 0: none.
    parent_id: int
    peer: bytes
    trace_state: bytes
    # Serialised inference.ModelInferRequest and inference.ModelInferResponse.
    request: bytes
    response: bytes
    # Share of the requests that it was selected from, in (0, 1].
    sample: float = 1.0
    # Its place in a sequence; empty: it is in none.
    sequence: bytes = b""
    starts: bool = False
    ends: bool = False


def encode(record: Record) -> Buffers:
    """Returns the record as three buffers to be written one after the other."""
    buffers = framed(
        record.primary,
        record.sampled,
        (record.start_ns, record.end_ns, record.run_start_ns, record.run_end_ns),
        (record.trace_id, record.span_id, record.parent_id, record.trace_state),
        record.peer,
        record.request,
        record.response,
    )
    return placed(buffers, Place(record.sequence, record.starts, record.ends))


def framed(
    primary: int,
    sampled: bool,
    times: tuple[int, int, int, int],
    trace: tuple[bytes, int, int, bytes],
    peer: bytes,
    request: bytes,
    response: bytes,
) -> Buffers:
    """As `encode`, for whoever has the fields and no record: times are those of the call and the run, in its order."""
    trace_id, span_id, parent_id, state = trace
    start, end, run_start, run_end = times
    peer, state, size = peer[:0xFFFF], state[:0xFFFF], len(request)
    peers, states = len(peer), len(state)
    total = _SIZE + peers + states + size + len(response)
    head = _pack(
        total,
        size,
        primary,
        SAMPLED if sampled else 0,
        start,
        end,
        run_start,
        run_end,
        trace_id,
        span_id,
        parent_id,
        peers,
        states,
    )
    return head + peer + state, request, response


def placed(buffers: Buffers, place: Place) -> Buffers:
    """Returns the buffers of a record with its place in a sequence, so that what is in none pays nothing for it."""
    if not place.sequence:
        return buffers
    head, request, response = bytearray(buffers[0]), buffers[1], buffers[2]
    tail = place.sequence + bytes((len(place.sequence),))
    (total,) = struct.unpack_from("<I", head)
    struct.pack_into("<I", head, 0, total + len(tail))
    head[_FLAGS] |= SEQUENCED | (STARTS if place.starts else 0) | (ENDS if place.ends else 0)
    return bytes(head), request, response + tail


def mark(sample: float) -> bytes:
    """Returns what stands before records that were selected from another share of the requests than those before."""
    return MARK.pack(MARK.size, sample)


def loss(lost: Loss) -> bytes:
    """Returns what tells of selected requests that do not come."""
    return LOSS.pack(LOSS.size, *lost)


def decode(buffer: bytes, offset: int = 0, sample: float = 1.0) -> tuple[Record, int] | None:
    """Returns the record that begins at `offset` and where the next one begins, or None if it is incomplete."""
    if len(buffer) - offset < HEAD.size:
        return None
    (total, size, primary, flags, start, end, run_start, run_end, trace, span, parent, peer_size, state_size) = (
        HEAD.unpack_from(buffer, offset)
    )
    if len(buffer) - offset < total:
        return None
    peer = offset + HEAD.size
    state = peer + peer_size
    request = state + state_size
    response = request + size
    rest = offset + total
    sequence = b""
    if flags & SEQUENCED:
        rest -= 1 + buffer[rest - 1]
        sequence = buffer[rest : offset + total - 1]
    # In the order of the fields: names would cost a fifth of it.
    record = Record(
        primary,
        flags & SAMPLED != 0,
        start,
        end,
        run_start,
        run_end,
        trace,
        span,
        parent,
        buffer[peer:state],
        buffer[state:request],
        buffer[request:response],
        buffer[response:rest],
        sample,
        sequence,
        flags & STARTS != 0,
        flags & ENDS != 0,
    )
    return record, offset + total
