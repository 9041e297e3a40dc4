"""Envoy as a cluster runs it before gRPC servers: one listener, calls shared out over the servers one by one."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreign.programs import installed
from servers import eventually

STOP_SECONDS = 10.0
EXTENSIONS = "type.googleapis.com/envoy.extensions"
HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"},
}
# What no server has begun may be sent again, and to another server: no call runs twice.
NEVER_BEGUN = "connect-failure,refused-stream"
RETRIES = {
    "num_retries": 3,
    "host_selection_retry_max_attempts": "5",
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
}
# grpc.health.v1, as a server that drains tells it.
HEALTH = {"grpc_health_check": {}, "timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1}


@dataclass(frozen=True)
class Proxy:
    """A running Envoy."""

    address: str
    admin: str

    def hosts(self) -> dict[str, dict[str, int]]:
        """Returns the counters of each server behind it, by its address."""
        found = {}
        for host in self._asked("clusters?format=json")["cluster_statuses"][0]["host_statuses"]:
            where = host["address"]["socket_address"]
            counters = {stat["name"]: int(stat.get("value", 0)) for stat in host["stats"]}
            found[f"{where['address']}:{where['port_value']}"] = counters
        return found

    def _asked(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.admin}/{path}", timeout=10) as answer:
            return json.load(answer)


@contextmanager
def envoy(folder: Path, servers: Sequence[str], retried: str = NEVER_BEGUN) -> Iterator[Proxy]:
    """Runs Envoy on free ports before these servers, with its files in `folder`, until the end of the block."""
    config, admin, log = folder / "envoy.json", folder / "admin", folder / "envoy.log"
    config.write_text(json.dumps(configuration(servers, retried)))
    flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(installed("envoy")), "-c", str(config), "--admin-address-path", str(admin), *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: started(process, admin, log))
        where = admin.read_text()
        eventually(lambda: ready(where))
        with urllib.request.urlopen(f"http://{where}/listeners?format=json", timeout=10) as answer:
            bound = json.load(answer)["listener_statuses"][0]["local_address"]["socket_address"]
        yield Proxy(f"{bound['address']}:{bound['port_value']}", where)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def configuration(servers: Sequence[str], retried: str) -> dict[str, Any]:
    """Returns Envoy's static configuration."""
    hosts = [{"endpoint": {"address": socket_address(*server.rsplit(":", 1))}} for server in servers]
    cluster = {
        "name": "gnomon",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": HTTP2,
        "health_checks": [HEALTH],
        # Every call in flight may have to be sent again at once.
        "circuit_breakers": {"thresholds": [{"max_retries": 1024}]},
        "load_assignment": {"cluster_name": "gnomon", "endpoints": [{"lb_endpoints": hosts}]},
    }
    # A timeout of 0 leaves the time to the caller's deadline.
    action = {"cluster": "gnomon", "timeout": "0s", "retry_policy": {"retry_on": retried, **RETRIES}}
    route = {"match": {"prefix": "/"}, "route": action}
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "codec_type": "HTTP2",
        "http_filters": [ROUTER],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"address": socket_address("127.0.0.1", "0"), "filter_chains": [{"filters": filters}]}
    return {
        "admin": {"address": socket_address("127.0.0.1", "0")},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


def socket_address(host: str, port: str) -> dict[str, Any]:
    """Returns an address as Envoy writes it."""
    return {"socket_address": {"address": host, "port_value": int(port)}}


def started(process: subprocess.Popen[bytes], admin: Path, log: Path) -> bool:
    """Tells whether it has written where its admin interface is; fails if it has exited."""
    assert process.poll() is None, f"envoy exited with {process.returncode}: {log.read_text()[-2000:]}"
    return admin.exists() and bool(admin.read_text())


def ready(admin: str) -> bool:
    """Tells whether it takes calls."""
    try:
        with urllib.request.urlopen(f"http://{admin}/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
