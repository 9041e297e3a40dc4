"""Runs a frontend: `python -m gnomon_server.serving CHANNEL_FD SETTINGS_JSON`, started by the control process."""

from __future__ import annotations

import os
import resource
import signal
import sys

import msgspec
import uvloop

from gnomon_server.errors import GnomonError
from gnomon_server.logs import configure
from gnomon_server.serving.frontend import Frontend
from gnomon_server.settings import Settings
from gnomon_server.telemetry.sampling import Sampler
from gnomon_server.wire.channel import open_child


async def serve(descriptor: int, settings: Settings) -> None:
    """Runs a frontend on an inherited channel."""
    frontend = Frontend(await open_child(descriptor), settings, Sampler.from_environment(os.environ))
    await frontend.run()


def allow_connections() -> None:
    """Lets this process have as many files open as it may; what a shell starts with is often room for 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Runs the command line; control decides when it ends, so signals to the group are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure()
    allow_connections()
    settings = msgspec.json.decode(sys.argv[2], type=Settings)
    try:
        uvloop.run(serve(int(sys.argv[1]), settings))
    except GnomonError as error:
        print(f"gnomon: {error}", file=sys.stderr)  # noqa: T201 - the process's only word to its owner
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
