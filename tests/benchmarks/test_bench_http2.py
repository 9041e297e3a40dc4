"""The lean HTTP/2 client, against ngh2 as a server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

import ngh2
import pytest
from http2 import INITIAL_WINDOW, MOST, Connection, Wrong, framed
from streams import Load, split

PATH = "/inference.GRPCInferenceService/ModelInfer"
ANSWER = framed(b"yes")


class Server:
    """Answers every call on one connection with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.messages: dict[int, bytes] = {}
        self.headers: list[tuple[ngh2.Header, ...]] = []
        self.most = 0

    def run(self) -> None:
        """Serves until the client hangs up."""
        with self._listening, self._listening.accept()[0] as accepted:
            http2 = ngh2.Connection(ngh2.Role.SERVER)
            http2.initiate_connection({})
            while data := accepted.recv(1 << 16):
                http2.receive_data(data)
                self._answer_all(http2)
                accepted.sendall(http2.data_to_send())

    def _answer_all(self, http2: ngh2.Connection) -> None:
        ended = []
        for event in http2.events():
            if isinstance(event, ngh2.RequestReceived):
                self.headers.append(event.headers)
            elif isinstance(event, ngh2.DataReceived):
                self.messages[event.stream_id] = self.messages.get(event.stream_id, b"") + event.data
                if event.end_stream:
                    ended.append(event.stream_id)
        self.most = max(self.most, len(ended))
        for stream in ended:
            http2.send_response(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            if self._answer:
                http2.send_data(stream, self._answer)
            http2.send_trailers(stream, [(b"grpc-status", b"0")])


@contextmanager
def running(answer: bytes) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        thread.join()


def connection(server: Server) -> Connection:
    return Connection(server.address, PATH, len(ANSWER) - 5)


def end(client: Connection) -> list[float]:
    ended = []
    client.flush()
    while client.in_flight:
        ended += client.receive()
        client.flush()
    client.socket.close()
    return ended


def test_a_call_arrives_as_grpc_says() -> None:
    with running(ANSWER) as server:
        client = connection(server)
        client.begin(framed(b"row"), 1.5)
        assert end(client) == [1.5]
    assert list(server.messages.values()) == [framed(b"row")]
    sent = dict(server.headers[0])
    assert sent[b":path"] == PATH.encode()
    assert sent[b":authority"] == server.address.encode()
    assert (sent[b":method"], sent[b"te"], sent[b"content-type"]) == (b"POST", b"trailers", b"application/grpc")


def test_messages_larger_than_a_frame_and_together_than_the_window_arrive_whole() -> None:
    message = framed(bytes(range(256)) * 200)
    calls = 2 * MOST
    assert calls * len(message) > INITIAL_WINDOW
    with running(ANSWER) as server:
        client = connection(server)
        for _ in range(calls):
            client.begin(message, 0.0)
        assert len(end(client)) == calls
    assert list(server.messages.values()) == [message] * calls
    assert server.most <= MOST


@pytest.mark.parametrize("answer", [b"", framed(b"no"), framed(b"more")])
def test_an_answer_of_another_size_is_wrong(answer: bytes) -> None:
    with running(answer) as server:
        client = connection(server)
        client.begin(framed(b"row"), 0.0)
        with pytest.raises(Wrong, match="expected an answer of 8 bytes"):
            end(client)
        client.socket.close()


def test_a_closed_load_answers_all_it_began() -> None:
    with running(ANSWER) as server:
        client = connection(server)
        seen = Load([client], repeat(framed(b"row")), 0.2).closed(4)
        client.socket.close()
    assert len(seen.latencies) == len(server.messages) >= 4
    assert client.in_flight == 0


def test_a_paced_load_begins_as_many_as_the_rate_says() -> None:
    with running(ANSWER) as server:
        client = connection(server)
        seen = Load([client], repeat(framed(b"row")), 0.5).paced(400.0)
        client.socket.close()
    # Poisson: 200 give or take five standard deviations, whatever the machine does meanwhile.
    assert 130 < len(seen.latencies) == len(server.messages) < 270
    assert seen.seconds >= 0.5


def test_a_file_of_frames_is_split() -> None:
    frames = [framed(b"one"), framed(b""), framed(b"three")]
    assert split(b"".join(frames)) == frames
