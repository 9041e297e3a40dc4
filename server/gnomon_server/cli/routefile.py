"""The route file: which version shall have which role, for each model, in YAML.

models:
flights:
primary: 3
canary: {4: 0.05}         # version: share of the requests that it answers
shadows: {4: 0.1, 5: 1}   # version: share of the other requests
generation: 12            # optional: only if nobody has changed the route since
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from gnomon_server.errors import InvalidRequest

MAPPING: Final = "tag:yaml.org,2002:map"
INTEGER: Final = "tag:yaml.org,2002:int"
NUMBERS: Final = (INTEGER, "tag:yaml.org,2002:float")


@dataclass(frozen=True)
class WantedRoute:
    """One model's entry."""

    model: str
    # "FILE:LINE", for a reader.
    where: str
    primary: int
    # Version to share of mirrored requests, in (0, 1].
    shadows: dict[int, float] = field(default_factory=dict)
    # The generation that the route must have for a change; None: whichever it has.
    generation: int | None = None
    # The version that answers a share of the requests, in (0, 1]; 0: none.
    canary: int = 0
    weight: float = 0.0


def read(file: Path) -> list[WantedRoute]:
    """Returns the entries of a file; raises InvalidRequest with the line that is wrong."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{file}: expected UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidRequest(f"{file}:{line}: {error.problem or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{file}: {error}") from None
    return _Reader(file).file(root)


class _Reader:
    """Reads nodes, and knows where each stands."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def file(self, root: Node | None) -> list[WantedRoute]:
        if root is None:
            raise InvalidRequest(f"{self._file}: expected 'models', received an empty file")
        fields = self._fields(root, "the file", ("models",), needed=("models",))
        return [self._route(name, node) for name, node in self._mapping(fields["models"], "models").items()]

    def _route(self, name: ScalarNode, node: Node) -> WantedRoute:
        model = str(name.value)
        what = f"model '{model}'"
        known = ("primary", "canary", "shadows", "generation")
        fields = self._fields(node, what, known, needed=("primary",))
        primary = self._version(fields["primary"], f"{what}: primary")
        shadows = self._shares(fields["shadows"], f"{what}: shadows", f"{what}: shadow") if "shadows" in fields else {}
        if primary in shadows:
            self._fail(fields["shadows"], f"{what}: version {primary} is the primary and cannot shadow itself")
        generation = self._version(fields["generation"], f"{what}: generation") if "generation" in fields else None
        canary, weight = self._canary(fields["canary"], f"{what}: canary") if "canary" in fields else (0, 0.0)
        if canary == primary:
            self._fail(fields["canary"], f"{what}: version {primary} is the primary and cannot be its canary")
        return WantedRoute(model, self._where(name), primary, shadows, generation, canary, weight)

    def _shares(self, node: Node, what: str, each: str) -> dict[int, float]:
        return {
            self._version(key, what): self._share(value, f"{each} {key.value}")
            for key, value in self._mapping(node, what).items()
        }

    def _canary(self, node: Node, what: str) -> tuple[int, float]:
        shares = self._shares(node, what, what)
        if len(shares) > 1:
            self._fail(node, f"{what}: expected one version, received {len(shares)}")
        return next(iter(shares.items()), (0, 0.0))

    def _fields(self, node: Node, what: str, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Node]:
        found = {}
        for key, value in self._mapping(node, what).items():
            if key.value not in known:
                self._fail(key, f"{what}: expected {', '.join(known)}, received '{key.value}'")
            found[str(key.value)] = value
        for name in needed:
            if name not in found:
                self._fail(node, f"{what}: '{name}' is missing")
        return found

    def _mapping(self, node: Node, what: str) -> dict[ScalarNode, Node]:
        if not isinstance(node, MappingNode) or node.tag != MAPPING:
            self._fail(node, f"{what}: expected entries 'name: value'")
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                self._fail(key, f"{what}: expected a name")
            if key.value in seen:
                self._fail(key, f"{what}: '{key.value}' is there twice")
            seen.add(key.value)
        return dict(node.value)

    def _version(self, node: Node, what: str) -> int:
        value = node.value if isinstance(node, ScalarNode) and node.tag == INTEGER else ""
        if not value.isdecimal() or not 0 < int(value) < 1 << 63:
            self._fail(node, f"{what}: expected a positive integer, received '{_shown(node)}'")
        return int(value)

    def _share(self, node: Node, what: str) -> float:
        number = _number(node)
        if number is None or not 0 < number <= 1:
            self._fail(node, f"{what}: expected a share in (0, 1], received '{_shown(node)}'")
        return number

    def _where(self, node: Node) -> str:
        return f"{self._file}:{node.start_mark.line + 1}"

    def _fail(self, node: Node, text: str) -> NoReturn:
        raise InvalidRequest(f"{self._where(node)}: {text}")


def _number(node: Node) -> float | None:
    if not isinstance(node, ScalarNode) or node.tag not in NUMBERS:
        return None
    try:
        return float(node.value)
    except ValueError:
        # As 0x10 and 1:30, which are numbers to YAML.
        return None


def _shown(node: Node) -> str:
    return str(node.value)[:64] if isinstance(node, ScalarNode) else "entries"
