"""OTLP receivers that nobody here wrote, run as programs: what gnomon exports is read back from them.

The Datadog test agent stores what it gets and answers with it as JSON; rotel, written in Rust, prints what it decodes.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
TEST_AGENT = ROOT / ".venv-receiver" / "bin" / "ddapm-test-agent"
START_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Link:
    """A span's link to another."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class StoredSpan:
    """A span as the receiver stored it; ids are hexadecimal, an absent one is empty."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    start_ns: int
    end_ns: int
    status: str
    attributes: Mapping[str, Any]
    links: tuple[Link, ...]
    resource: Mapping[str, Any]
    schema_url: str


@dataclass(frozen=True)
class StoredPoint:
    """One data point of a metric; a histogram's has counts and bounds, any other a value."""

    attributes: Mapping[str, Any]
    start_ns: int
    time_ns: int
    value: float | None
    count: int
    sum: float
    bucket_counts: tuple[int, ...]
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class StoredMetric:
    """A metric as the receiver stored it; `kind` is "sum", "gauge" or "histogram"."""

    name: str
    unit: str
    kind: str
    temporality: str
    monotonic: bool
    points: tuple[StoredPoint, ...]

    def point(self, **attributes: str) -> StoredPoint:
        """Returns the only point with these attributes among others; dots are written as double underscores."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        (found,) = [point for point in self.points if wanted.items() <= point.attributes.items()]
        return found


@dataclass(frozen=True)
class TestAgent:
    """The running Datadog test agent."""

    __test__ = False

    # For OTEL_EXPORTER_OTLP_ENDPOINT.
    endpoint: str
    http_port: int

    def spans(self) -> list[StoredSpan]:
        """Returns every span received so far."""
        return [
            _span(span, resource, scope)
            for export in self._stored("traces")
            for resource in export["resource_spans"]
            for scope in resource["scope_spans"]
            for span in scope["spans"]
        ]

    def metrics(self) -> dict[str, StoredMetric]:
        """Returns the last state of every metric received so far, by name."""
        return {
            metric["name"]: _metric(metric)
            # The agent gives the newest first.
            for export in reversed(self._stored("metrics"))
            for resource in export["resource_metrics"]
            for scope in resource["scope_metrics"]
            for metric in scope["metrics"]
        }

    def _stored(self, signal: str) -> list[dict[str, Any]]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)) as connection:
            connection.request("GET", f"/test/session/{signal}")
            stored: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        return stored


@dataclass(frozen=True)
class Rotel:
    """The running rotel agent."""

    # For OTEL_EXPORTER_OTLP_ENDPOINT.
    endpoint: str
    log: Path

    def printed(self) -> str:
        """Returns all that it printed about what it received."""
        return self.log.read_text()

    def spans(self) -> list[str]:
        """Returns the text of every span."""
        return re.findall(r"^Span #\d+\n(?:(?!^Span #|^Resource).*\n)*", self.printed(), re.MULTILINE)

    def metrics(self) -> dict[str, str]:
        """Returns the text of every metric by its name."""
        texts = re.findall(r"^Metric #\d+\n(?:(?!^Metric #|^Resource).*\n)*", self.printed(), re.MULTILINE)
        return {re.search(r"-> Name: (\S+)", text)[1]: text for text in texts}  # type: ignore[index]


@contextmanager
def running_test_agent(folder: Path) -> Iterator[TestAgent]:
    """Runs the test agent with its files in `folder`, until the end of the block."""
    if not TEST_AGENT.exists():
        raise AssertionError(f"expected the OTLP test agent at {TEST_AGENT.relative_to(ROOT)}: run `make test`")
    agent_port, http_port, grpc_port = free_ports(3)
    ports = ["-p", agent_port, "--otlp-http-port", http_port, "--otlp-grpc-port", grpc_port]
    command = [TEST_AGENT, "--host", "127.0.0.1", *ports]
    with _running(command, folder / "test-agent.log", (http_port, grpc_port)):
        yield TestAgent(f"http://127.0.0.1:{grpc_port}", http_port)


@contextmanager
def running_rotel(folder: Path) -> Iterator[Rotel]:
    """Runs rotel with its log in `folder`, until the end of the block."""
    found = find_spec("rotel")
    if found is None or found.origin is None:
        raise AssertionError("expected the package rotel beside the tests: run `make test`")
    grpc_port, http_port = free_ports(2)
    endpoints = ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}", "--otlp-http-endpoint", f"127.0.0.1:{http_port}"]
    shown = ["--debug-log", "traces", "--debug-log", "metrics", "--debug-log-verbosity", "detailed"]
    command = [Path(found.origin).parent / "rotel-agent", "start", *endpoints, "--exporter", "blackhole", *shown]
    log = folder / "rotel.log"
    with _running(command, log, (grpc_port,)):
        yield Rotel(f"http://127.0.0.1:{grpc_port}", log)


def eventually(read: Callable[[], T], holds: Callable[[T], object], seconds: float = 30.0) -> T:
    """Returns the first value that holds; fails with the last one after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds(value := read()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s; last seen: {value}")
        time.sleep(0.02)
    return value


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _running(command: Sequence[object], log: Path, ports: Sequence[int]) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        eventually(lambda: _listens(process, ports, log), bool, START_SECONDS)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(process: subprocess.Popen[bytes], ports: Sequence[int], log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"the receiver exited with {process.returncode}: {log.read_text()[-2000:]}")
    try:
        for port in ports:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _span(span: dict[str, Any], resource: dict[str, Any], scope: dict[str, Any]) -> StoredSpan:
    return StoredSpan(
        name=span["name"],
        kind=span["kind"].removeprefix("SPAN_KIND_"),
        trace_id=_hex(span["trace_id"]),
        span_id=_hex(span["span_id"]),
        parent_id=_hex(span.get("parent_span_id", "")),
        trace_state=span.get("trace_state", ""),
        start_ns=int(span["start_time_unix_nano"]),
        end_ns=int(span["end_time_unix_nano"]),
        status=span["status"].get("code", "STATUS_CODE_UNSET").removeprefix("STATUS_CODE_"),
        attributes=_attributes(span),
        links=tuple(
            Link(_hex(link["trace_id"]), _hex(link["span_id"]), _attributes(link)) for link in span.get("links", ())
        ),
        resource=_attributes(resource["resource"]),
        schema_url=scope.get("schema_url", ""),
    )


def _metric(metric: dict[str, Any]) -> StoredMetric:
    (kind,) = metric.keys() & {"sum", "gauge", "histogram"}
    data = metric[kind]
    return StoredMetric(
        name=metric["name"],
        unit=metric.get("unit", ""),
        kind=kind,
        temporality=data.get("aggregation_temporality", "").removeprefix("AGGREGATION_TEMPORALITY_"),
        monotonic=data.get("is_monotonic", False),
        points=tuple(_point(point) for point in data["data_points"]),
    )


def _point(point: dict[str, Any]) -> StoredPoint:
    # Of a point of value 0 the JSON still names the kind: the value is a oneof.
    value = next((float(point[kind]) for kind in ("as_int", "as_double") if kind in point), None)
    return StoredPoint(
        attributes=_attributes(point),
        start_ns=int(point.get("start_time_unix_nano", 0)),
        time_ns=int(point["time_unix_nano"]),
        value=value,
        count=int(point.get("count", 0)),
        sum=float(point.get("sum", 0.0)),
        bucket_counts=tuple(int(count) for count in point.get("bucket_counts", ())),
        bounds=tuple(point.get("explicit_bounds", ())),
    )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in holder.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    ((kind, held),) = value.items()
    return int(held) if kind == "int_value" else held


def _hex(text: str) -> str:
    return base64.b64decode(text).hex()
