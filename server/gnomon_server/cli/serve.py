"""`gnomon serve`: runs the server in the foreground."""

from __future__ import annotations

import argparse
from argparse import BooleanOptionalAction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gnomon_server.cli.screen import add_command, say

FLAGS = (
    *("repository", "state", "store", "grpc", "http", "control", "transport", "workers"),
    *("repository_control", "shared_memory"),
)


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "serve",
        "Serve a repository of models; new versions begin in the shadow.",
        "gnomon serve models --grpc 0.0.0.0:8001 --workers 2",
        run,
    )
    parser.add_argument("repository", nargs="?", help="folder with NAME/VERSION/model.onnx (default: models)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; flags and GNOMON_* variables go before")
    parser.add_argument("--state", metavar="DIR", help="routes, tallies and audit (default: state)")
    parser.add_argument("--store", metavar="URL", help="postgresql://... to share them (default: SQLite in the state)")
    parser.add_argument("--grpc", metavar="ADDR", help="inference, health, reflection (default: 0.0.0.0:8001)")
    parser.add_argument("--http", metavar="ADDR", help="page, /metrics, /healthz, /readyz (default: 127.0.0.1:8002)")
    parser.add_argument("--control", metavar="ADDR", help="control API (default: 127.0.0.1:8003)")
    parser.add_argument("--transport", metavar="NAME", help="http2 or grpcio (default: http2)")
    parser.add_argument("--workers", type=int, metavar="N", help="frontend processes on the gRPC port (default: 1)")
    parser.add_argument(
        "--repository-control",
        action=BooleanOptionalAction,
        help="let clients load and unload models (default: no)",
    )
    parser.add_argument(
        "--shared-memory",
        action=BooleanOptionalAction,
        help="let clients pass tensors in shared memory (default: no)",
    )
    parser.add_argument("--print-config", action="store_true", help="show the settings that result, and exit")


def run(arguments: argparse.Namespace) -> int:
    """Runs the server until SIGTERM or SIGINT."""
    from gnomon_server import config

    flags = {name: getattr(arguments, name) for name in FLAGS}
    settings = config.load(flags, arguments.config)
    if arguments.print_config:
        say(config.to_toml(config.presentable(settings)))
        return 0
    if find_spec("onnxruntime") is None:
        # Only the children import it; without it they would die again and again.
        raise ModuleNotFoundError("expected onnxruntime", name="onnxruntime")
    import asyncio

    from gnomon_server.control.server import Addresses, Server
    from gnomon_server.logs import configure

    configure()

    def ready(addresses: Addresses) -> None:
        say(f"gnomon is ready: gRPC {addresses.grpc}, HTTP http://{addresses.http}/, control {addresses.control}")

    async def serve() -> None:
        await Server(settings).run(ready)

    asyncio.run(serve())
    return 0
