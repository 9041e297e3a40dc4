"""Generates the committed stubs from protos/*.proto; with --check, only says whether they are fresh."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
STUBS = HERE / "gnomon_protos"


def generate(target: Path) -> None:
    """Writes the stubs under the folder `target`, in a sub-folder `gnomon_protos`."""
    names = sorted(path.name for path in HERE.glob("*.proto"))
    # A virtual proto path: the stubs import each other as `from gnomon_protos import ...`.
    arguments = [
        "protoc",
        f"-Ignomon_protos={HERE}",
        f"-I{resources.files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}",
        f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).with_name('protoc-gen-mypy_grpc')}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
        *(f"gnomon_protos/{name}" for name in names),
    ]
    if protoc.main(arguments):
        raise SystemExit("protoc failed")
    for path in (target / "gnomon_protos").glob("*_pb2_grpc.py*"):
        source = HERE / f"{path.name.partition('_pb2_grpc')[0]}.proto"
        if "\nservice " not in source.read_text():
            path.unlink()


def stale() -> list[str]:
    """Names of committed stubs that differ from what the .proto files give now."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.name: path.read_bytes() for path in (Path(scratch) / "gnomon_protos").iterdir()}
    committed = {path.name: path.read_bytes() for path in STUBS.glob("*_pb2*.py*")}
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main() -> int:
    """Runs the command line; exit code 1 if --check finds stale stubs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a stub is stale")
    if parser.parse_args().check:
        old = stale()
        if old:
            print(f"stale stubs, run `make protos`: {', '.join(old)}", file=sys.stderr)
        return 1 if old else 0
    generate(HERE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
