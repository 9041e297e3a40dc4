"""gRPC over HTTP/2 without sockets: what arrives, what is answered, and what is refused."""

from __future__ import annotations

import gzip
import random
import zlib
from itertools import pairwise

import ngh2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.transport.peer import ECHO, MOST, PREFACE, STREAM, Peer, frame, framed, headers

from gnomon_server.serving.transport.http2.arrivals import (
    Arrival,
    Cancelled,
    HalfClosed,
    Message,
    Opened,
    Refused,
    Whole,
)
from gnomon_server.serving.transport.http2.limits import Limits
from gnomon_server.serving.transport.http2.session import IGNORED, Session

OK = (b"0", b"")
INTERNAL, EXHAUSTED, UNIMPLEMENTED, INVALID = b"13", b"8", b"12", b"3"


def session(limits: Limits | None = None) -> Session:
    return Session(frozenset({ECHO}), limits or Limits())


def whole(arrivals: list[Arrival]) -> list[Whole]:
    return [arrival for arrival in arrivals if isinstance(arrival, Whole)]


def test_a_unary_call_arrives_as_a_whole_and_its_answer_goes_back() -> None:
    peer = Peer()
    stream = peer.call(b"hello", extra=[(b"key", b"value")])
    (arrival,) = whole(peer.exchange())
    assert (arrival.stream, arrival.head.path, arrival.message, arrival.head.timeout) == (stream, ECHO, b"hello", None)
    assert arrival.head.fields[b"key"] == b"value"
    assert peer.session.calls == 1
    peer.session.answer(stream, b"bye", [("first", "1")], [("last-bin", b"\0\xff"), ("last", "2")])
    peer.exchange()
    assert peer.body(stream) == framed(b"bye")
    assert peer.status(stream) == OK
    fields = peer.fields(stream)
    assert (fields[b"first"], fields[b"last-bin"], fields[b"last"]) == (b"1", b"AP8", b"2")
    assert fields[b"content-type"] == b"application/grpc"
    assert peer.session.calls == 0


@pytest.mark.parametrize("size", [0, 1, 16384 - 5, 16384, 100_000, 5 << 20])
def test_messages_of_any_size_pass_in_both_directions(size: int) -> None:
    peer = Peer()
    message = random.Random(size).randbytes(size)
    stream = peer.call(message)
    (arrival,) = whole(peer.exchange())
    assert arrival.message == message
    peer.http2.set_local_window_size(16 << 20)
    peer.http2.set_local_window_size(16 << 20, stream_id=stream)
    peer.exchange()
    peer.session.answer(stream, message)
    peer.exchange()
    assert peer.body(stream) == framed(message)
    assert peer.status(stream) == OK


def test_a_stream_arrives_message_by_message() -> None:
    peer = Peer()
    stream = peer.begin(STREAM, [(b"grpc-timeout", b"5S")])
    (opened,) = peer.exchange()
    assert isinstance(opened, Opened)
    assert (opened.head.path, opened.head.timeout) == (STREAM, 5.0)
    peer.http2.send_data(stream, framed(b"one") + framed(b"") + framed(b"two")[:4])
    assert peer.exchange() == [Message(stream, b"one"), Message(stream, b"")]
    peer.http2.send_data(stream, framed(b"two")[4:], end_stream=True)
    assert peer.exchange() == [Message(stream, b"two"), HalfClosed(stream)]
    peer.session.send(stream, b"a", [("first", "1")])
    peer.session.send(stream, b"b")
    peer.session.finish(stream, "OK", trailing=[("last", "2")])
    peer.exchange()
    assert peer.body(stream) == framed(b"a") + framed(b"b")
    assert peer.status(stream) == OK
    assert (peer.fields(stream)[b"first"], peer.fields(stream)[b"last"]) == (b"1", b"2")


def test_a_status_without_a_message_is_one_block_of_headers() -> None:
    peer = Peer()
    stream = peer.call()
    peer.exchange()
    peer.session.finish(stream, "NOT_FOUND", "50 % of é\n", trailing=[("last", "2")])
    peer.exchange()
    (response,) = [event for event in peer.events if isinstance(event, ngh2.ResponseReceived)]
    assert response.end_stream
    assert peer.status(stream) == (b"5", b"50 %25 of %C3%A9%0A")
    assert peer.fields(stream)[b"last"] == b"2"


def test_initial_metadata_of_a_failed_call_does_not_travel_with_its_trailers() -> None:
    peer = Peer()
    stream = peer.call()
    peer.exchange()
    peer.session.finish(stream, "NOT_FOUND", "no", [("first", "1")], [("last", "2")])
    peer.exchange()
    response, trailers = peer.last(ngh2.ResponseReceived), peer.last(ngh2.TrailersReceived)
    assert isinstance(response, ngh2.ResponseReceived)
    assert isinstance(trailers, ngh2.TrailersReceived)
    assert (b"first", b"1") in response.headers
    assert (b"last", b"2") in trailers.headers
    assert peer.status(stream) == (b"5", b"no")


def sent(data: bytes, extra: list[tuple[bytes, bytes]], end: bool = True, limits: Limits | None = None) -> Peer:
    peer = Peer(limits)
    stream = peer.begin(extra=extra)
    peer.http2.send_data(stream, data, end_stream=end)
    peer.exchange()
    return peer


@pytest.mark.parametrize(
    ("data", "extra", "status"),
    [
        (b"", [], UNIMPLEMENTED),
        (framed(b"a") + framed(b"b"), [], UNIMPLEMENTED),
        (framed(b"abc")[:3], [], INTERNAL),
        (framed(b"abc")[:-1], [], INTERNAL),
        (framed(b"abc", 2), [], INTERNAL),
        (framed(b"abc", 1), [], INTERNAL),
        (framed(b"abc", 1), [(b"grpc-encoding", b"identity")], INTERNAL),
        (framed(b"abc", 1), [(b"grpc-encoding", b"gzip")], INTERNAL),
        (framed(gzip.compress(b"abc")[:-1], 1), [(b"grpc-encoding", b"gzip")], INTERNAL),
        (framed(gzip.compress(b"abc") + b"x", 1), [(b"grpc-encoding", b"gzip")], INTERNAL),
        (framed(b"abc"), [(b"grpc-encoding", b"snappy")], UNIMPLEMENTED),
        (framed(b"abc"), [(b"grpc-timeout", b"123456789S")], INVALID),
        (framed(b"abc"), [(b"grpc-timeout", b"1x")], INVALID),
        (framed(b"abc"), [(b"grpc-timeout", b"-1S")], INVALID),
    ],
)
def test_what_breaks_the_protocol_of_grpc_ends_the_call_alone(
    data: bytes, extra: list[tuple[bytes, bytes]], status: bytes
) -> None:
    peer = sent(data, extra)
    assert peer.status(1)[0] == status
    (refused,) = peer.arrivals
    assert isinstance(refused, Refused)
    assert refused.head.path == ECHO
    later = peer.call(b"next")
    assert [arrival.message for arrival in whole(peer.exchange())] == [b"next"]
    peer.session.answer(later, b"x")
    peer.exchange()
    assert peer.status(later) == OK
    assert not peer.session.broken


@pytest.mark.parametrize(("name", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_and_plain_messages_arrive_as_they_were(name: bytes, pack: object) -> None:
    assert callable(pack)
    peer = Peer()
    stream = peer.begin(STREAM, [(b"grpc-encoding", name)])
    peer.http2.send_data(stream, framed(pack(b"one" * 1000), 1) + framed(b"two"), end_stream=True)
    assert peer.exchange()[1:] == [Message(stream, b"one" * 1000), Message(stream, b"two"), HalfClosed(stream)]


def test_what_inflates_beyond_the_limit_is_refused_and_not_inflated() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))
    peer = sent(framed(bomb, 1), [(b"grpc-encoding", b"gzip")], limits=Limits(message_bytes=1 << 20))
    assert peer.status(1)[0] == EXHAUSTED


def test_a_message_that_is_too_large_is_refused_when_its_length_is_known() -> None:
    peer = sent(framed(b"x" * 101)[:5], [], end=False, limits=Limits(message_bytes=100))
    assert peer.status(1) == (EXHAUSTED, b"Received message larger than max (101 vs. 100)")


def test_a_client_that_goes_on_sending_after_its_refusal_is_read_and_then_reset() -> None:
    peer = sent(framed(b"x" * 101)[:5], [], end=False, limits=Limits(message_bytes=100))
    stream = peer.begin(STREAM)
    for _ in range(2 * IGNORED // (64 << 10)):
        if any(isinstance(event, ngh2.StreamReset) for event in peer.events):
            break
        peer.http2.send_data(1, b"x" * (64 << 10))
        peer.exchange()
    reset = peer.last(ngh2.StreamReset)
    assert isinstance(reset, ngh2.StreamReset)
    assert (reset.stream_id, reset.error_code) == (1, ngh2.ErrorCode.NO_ERROR)
    # The connection's window did not suffer.
    peer.http2.send_data(stream, framed(b"y" * 100), end_stream=True)
    assert Message(stream, b"y" * 100) in peer.exchange()


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"application/json", b"415"),
        (b"application/grpc-web", b"415"),
        (b"application/grpcx", b"415"),
        (b"", b"415"),
    ],
)
def test_what_is_not_grpc_is_answered_in_http(content_type: bytes, status: bytes) -> None:
    peer = Peer()
    stream = peer.begin(content_type=content_type, end=True)
    assert peer.exchange() == []
    assert peer.fields(stream)[b":status"] == status


@pytest.mark.parametrize("content_type", [b"application/grpc+proto", b"application/grpc+x", b"application/grpc;a=b"])
def test_every_format_of_messages_is_grpc(content_type: bytes) -> None:
    peer = Peer()
    stream = peer.begin(content_type=content_type)
    peer.http2.send_data(stream, framed(b"x"), end_stream=True)
    assert len(whole(peer.exchange())) == 1


def test_a_get_is_answered_in_http() -> None:
    peer = Peer()
    fields = [(b":method", b"GET") if name == b":method" else (name, value) for name, value in headers()]
    stream = peer.http2.send_request(fields, end_stream=True)
    assert peer.exchange() == []
    assert peer.fields(stream)[b":status"] == b"405"


def test_trailers_from_the_client_end_its_messages() -> None:
    peer = Peer()
    stream = peer.begin()
    peer.http2.send_data(stream, framed(b"x"))
    peer.http2.send_trailers(stream, [(b"some", b"thing")])
    assert [arrival.message for arrival in whole(peer.exchange())] == [b"x"]


def test_a_reset_cancels_a_call_that_had_begun_and_late_answers_go_nowhere() -> None:
    peer = Peer()
    stream, streaming, unfinished = peer.call(), peer.begin(STREAM), peer.begin()
    peer.exchange()
    for each in (stream, streaming, unfinished):
        peer.http2.reset_stream(each, ngh2.ErrorCode.CANCEL)
    arrivals = peer.exchange()
    assert set(arrivals[:2]) == {Cancelled(stream), Cancelled(streaming)}
    assert isinstance(arrivals[2], Refused)
    peer.session.answer(stream, b"late")
    peer.session.finish(stream, "OK")
    peer.session.send(streaming, b"late")
    peer.session.consumed(streaming, b"")
    peer.session.finish(streaming, "INTERNAL", "late")
    peer.exchange()
    assert (peer.session.calls, peer.session.unsent, peer.body(stream)) == (0, 0, b"")


def test_a_client_that_vanishes_cancels_its_calls() -> None:
    peer = Peer()
    stream = peer.call()
    peer.exchange()
    assert peer.session.gone() == [Cancelled(stream)]
    peer.session.answer(stream, b"late")
    assert peer.session.gone() == []


def test_answers_wait_for_the_clients_window_and_are_dropped_with_its_call() -> None:
    peer = Peer(window=10)
    stream = peer.call()
    peer.exchange()
    peer.session.answer(stream, b"x" * 95)
    peer.exchange()
    assert peer.session.unsent == 90
    assert peer.session.queued(stream) == 90
    peer.http2.reset_stream(stream)
    peer.exchange()
    assert peer.session.unsent == 0


def test_a_stream_whose_messages_are_not_consumed_stops_its_client() -> None:
    peer = Peer()
    stream = peer.begin(STREAM)
    peer.exchange()
    message = b"x" * 1000
    peer.http2.send_data(stream, framed(message) * 4000)
    received = [arrival for arrival in peer.exchange() if isinstance(arrival, Message)]
    assert 1000 < len(received) < 1100
    queued = peer.http2.queued_body_size(stream)
    assert queued > 0
    # Another call is not affected.
    other = peer.call(b"y" * 200_000)
    assert [arrival.stream for arrival in whole(peer.exchange())] == [other]
    for _ in received:
        peer.session.consumed(stream, message)
    assert len(peer.exchange()) > 500


def test_a_call_that_ends_with_messages_unread_gives_its_window_back() -> None:
    peer = Peer()
    for _ in range(20):
        stream = peer.begin(STREAM)
        peer.http2.send_data(stream, framed(b"x" * 1000) * 1000)
        peer.exchange()
        peer.session.finish(stream, "OK")
        peer.exchange()
        peer.http2.reset_stream(stream)
        peer.exchange()
    last = peer.call(b"y" * 500_000)
    assert [arrival.stream for arrival in whole(peer.exchange())] == [last]


def test_requests_that_wait_are_bounded_by_connection() -> None:
    peer = Peer(Limits(message_bytes=1 << 20))
    streams = [peer.begin() for _ in range(8)]
    for stream in streams:
        # Complete, but the client does not say that it was all.
        peer.http2.send_data(stream, framed(b"x" * (1 << 20)))
        peer.exchange()
    refused = [stream for stream in streams if peer.status(stream)[0] == EXHAUSTED]
    assert 4 <= len(refused) < 8
    assert b"at most 4194304 bytes" in peer.status(refused[0])[1]


def test_complete_requests_that_wait_for_answers_stop_the_reading() -> None:
    peer = Peer(Limits(message_bytes=1 << 20))
    streams = []
    while not peer.session.full:
        streams.append(peer.call(b"x" * (1 << 20)))
        peer.exchange()
    assert len(streams) == 5
    peer.session.answer(streams[0], b"")
    assert not peer.session.full
    for stream in streams:
        peer.session.finish(stream, "OK")
    assert not peer.session.full


def test_more_calls_than_allowed_are_refused_before_they_begin() -> None:
    peer = Peer(Limits(streams=3))
    for _ in range(3):
        peer.call()
    peer.exchange()
    assert len(whole(peer.arrivals)) == 3
    assert peer.http2.remote_settings[ngh2.Setting.MAX_CONCURRENT_STREAMS] == 3


def test_pings_in_a_flood_end_the_connection_with_the_reason_that_clients_know() -> None:
    peer = Peer(Limits(pings=10))
    for _ in range(10):
        peer.http2.ping()
        peer.exchange()
    assert not peer.session.broken
    peer.http2.ping()
    peer.exchange()
    assert peer.session.broken
    goaway = peer.last(ngh2.GoAwayReceived)
    assert isinstance(goaway, ngh2.GoAwayReceived)
    assert (goaway.error_code, goaway.debug_data) == (ngh2.ErrorCode.ENHANCE_YOUR_CALM, b"too_many_pings")


def test_a_keepalive_is_no_flood_however_long_it_lasts() -> None:
    peer = Peer(Limits(pings=10, ping_seconds=1.0))
    for _ in range(1000):
        peer.now += 1.0
        peer.http2.ping()
        peer.exchange()
    for _ in range(1000):
        # One for each call, as clients send that measure the bandwidth.
        stream = peer.call()
        peer.http2.ping()
        peer.exchange()
        peer.session.answer(stream, b"")
        peer.exchange()
    assert not peer.session.broken


def test_resets_in_a_flood_end_the_connection() -> None:
    peer = Peer(Limits(resets=100, resets_per_second=1))
    for _ in range(200):
        if peer.session.broken:
            break
        stream = peer.begin(STREAM)
        peer.exchange()
        peer.http2.reset_stream(stream)
        peer.exchange()
    assert peer.session.broken
    assert 100 <= peer.session.begun <= 110


def test_headers_over_the_limit_end_the_call_and_nothing_else() -> None:
    peer = Peer(Limits(header_bytes=1000))
    streams = [peer.call(extra=[(b"x", b"y" * size)]) for size in (500, 1000)]
    # Of an index that HPACK knows, one byte on the wire stands for all of it.
    streams.append(peer.call(extra=[(b"z", b"v" * 300)] * 4))
    peer.exchange()
    assert [arrival.stream for arrival in whole(peer.arrivals)] == streams[:1]
    for stream in streams[1:]:
        status, text = peer.status(stream)
        assert status == EXHAUSTED
        assert text.startswith(b"headers: expected at most 1000 bytes, received 1")
    assert not peer.session.broken


def test_a_block_of_headers_that_is_far_too_large_ends_the_connection_and_nothing_else() -> None:
    server = session(Limits(header_bytes=1000))
    packer = Peer()
    packer.begin(extra=[(b"x", b"y" * 5000)])
    arrivals = server.receive(PREFACE + frame(4, 0, 0) + packer.http2.data_to_send())
    assert arrivals == []
    assert server.broken
    assert server.receive(b"more") == []
    server.answer(1, b"late")
    server.announce_shutdown()
    server.shut_down()
    assert server.bytes_to_send(MOST) == b""


def test_a_shutdown_takes_the_calls_that_were_on_the_way_and_then_no_more() -> None:
    peer = Peer()
    first = peer.call()
    peer.exchange()
    peer.session.announce_shutdown()
    notice = peer.session.bytes_to_send(MOST)
    # Sent before the client has seen the notice.
    second = peer.call(b"on the way")
    arrivals = peer.session.receive(peer.http2.data_to_send())
    assert [arrival.stream for arrival in whole(arrivals)] == [second]
    peer.http2.receive_data(notice)
    peer.events += peer.http2.events()
    assert not peer.http2.can_send_request
    peer.exchange()
    goaway = peer.last(ngh2.GoAwayReceived)
    assert isinstance(goaway, ngh2.GoAwayReceived)
    assert (goaway.last_stream_id, goaway.error_code) == (second, 0)
    assert not peer.session.broken
    for stream in (first, second):
        peer.session.answer(stream, b"done")
    peer.exchange()
    assert peer.status(first) == peer.status(second) == OK
    # Nothing is left to do on this connection.
    assert peer.session.broken


def test_a_client_that_says_goodbye_gets_its_answers_first() -> None:
    peer = Peer()
    stream = peer.call()
    peer.http2.send_goaway()
    peer.exchange()
    assert not peer.session.broken
    peer.session.answer(stream, b"x")
    peer.exchange()
    assert peer.status(stream) == OK
    assert peer.session.broken


def transcript() -> bytes:
    """The bytes of a client that does a bit of everything."""
    peer = Peer()
    client = ngh2.Connection(ngh2.Role.CLIENT)
    client.initiate_connection()
    for path, messages in ((ECHO, [b"a"]), (STREAM, [b"b" * 20_000, b"", b"c"]), (ECHO, [b"d" * 40_000]), (ECHO, [])):
        stream = client.send_request(headers(path, [(b"key", b"value")]))
        client.send_data(stream, b"".join(framed(message) for message in messages), end_stream=True)
    client.ping()
    cancelled = client.send_request(headers(STREAM))
    there = client.data_to_send()
    client.receive_data(peer.session.bytes_to_send(MOST))
    client.reset_stream(cancelled)
    return there + client.data_to_send()


TRANSCRIPT = transcript()


def arrived(pieces: list[bytes]) -> list[Arrival]:
    server = session()
    return [arrival for piece in pieces for arrival in server.receive(piece)]


@given(cuts=st.lists(st.integers(0, len(TRANSCRIPT)), max_size=20))
@settings(max_examples=60)
def test_any_split_of_the_bytes_gives_the_same_arrivals(cuts: list[int]) -> None:
    places = sorted({0, len(TRANSCRIPT), *cuts})
    pieces = [TRANSCRIPT[start:end] for start, end in pairwise(places)]
    assert arrived(pieces) == arrived([TRANSCRIPT])


def test_single_bytes_give_the_same_arrivals() -> None:
    head = TRANSCRIPT[:3000]
    assert arrived([head[place : place + 1] for place in range(len(head))]) == arrived([head])


@given(
    changes=st.lists(st.tuples(st.integers(0, len(TRANSCRIPT) - 1), st.integers(0, 255)), min_size=1, max_size=10),
    step=st.integers(1, 5000),
)
@settings(max_examples=150)
def test_changed_bytes_never_raise(changes: list[tuple[int, int]], step: int) -> None:
    changed = bytearray(TRANSCRIPT)
    for place, value in changes:
        changed[place] = value
    survives(bytes(changed), step)


@given(noise=st.binary(max_size=3000), step=st.integers(1, 3000))
@settings(max_examples=100)
def test_any_bytes_after_the_preface_never_raise(noise: bytes, step: int) -> None:
    survives(PREFACE + frame(4, 0, 0) + noise, step)


@given(
    frames=st.lists(
        st.tuples(st.integers(0, 16), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=30
    )
)
@settings(max_examples=200)
def test_any_frames_never_raise(frames: list[tuple[int, int, int, bytes]]) -> None:
    survives(PREFACE + frame(4, 0, 0) + b"".join(frame(*each) for each in frames), 1 << 20)


def survives(data: bytes, step: int) -> None:
    server = session()
    for place in range(0, len(data), step):
        for arrival in server.receive(data[place : place + step]):
            if isinstance(arrival, Whole):
                server.answer(arrival.stream, arrival.message)
            elif isinstance(arrival, Message):
                server.consumed(arrival.stream, arrival.message)
                server.send(arrival.stream, arrival.message)
            elif isinstance(arrival, HalfClosed):
                server.finish(arrival.stream, "OK")
        server.bytes_to_send(MOST)
        if server.broken:
            break
    server.gone()
    assert server.calls == 0
    assert not server.full
