"""`gnomon apply`: makes the routes be as a file says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon_server.cli.screen import RemoteError, add_command, add_control, add_json, control, say
from gnomon_server.errors import NotFound, Refused

if TYPE_CHECKING:
    from gnomon_client import Control
    from gnomon_protos import control_pb2
    from gnomon_server.cli.routefile import WantedRoute

# The primary, and the canary and the shadows with the share of each by version.
Roles = tuple[int, Mapping[int, float], Mapping[int, float]]


@dataclass(frozen=True)
class Difference:
    """A model whose route is not as the file says."""

    wanted: WantedRoute
    before: control_pb2.Route

    @property
    def lines(self) -> list[str]:
        """The difference, as a reader of patches knows it."""
        before, after = _lines(*_roles(self.before)), _lines(*_wanted(self.wanted))
        gone, new = [line for line in before if line not in after], [line for line in after if line not in before]
        head = f"{self.wanted.model} (generation {self.before.generation})"
        return [head, *(f"  - {line}" for line in gone), *(f"  + {line}" for line in new)]

    @property
    def fields(self) -> dict[str, object]:
        """The difference, as a program reads it."""
        names = ("primary", "canary", "shadows")
        before = dict(zip(names, _roles(self.before), strict=True))
        after = dict(zip(names, _wanted(self.wanted), strict=True))
        return {"model": self.wanted.model, "generation": self.before.generation, "before": before, "after": after}


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "apply",
        "Make routes be as a file says; a second time changes nothing. A new primary needs a favourable verdict.",
        "gnomon apply routes.yaml --diff\n  gnomon apply routes.yaml --reason CHG-1042",
        run,
    )
    parser.add_argument("file", type=Path, help="YAML: models, and for each primary, canary, shadows, generation")
    parser.add_argument("--diff", action="store_true", help="only show what would change; exit 1 if anything would")
    parser.add_argument(
        "--force",
        action="store_true",
        help="without a favourable verdict, which needs --reason; with a shadow that does not fit",
    )
    parser.add_argument("--reason", default="", help="why, for the audit")
    add_json(parser)
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Applies the file, one model after the other, each in one change."""
    from gnomon_server.cli import routefile

    wanted = routefile.read(arguments.file)
    with control(arguments) as server:
        # All of it before the first change: a file that is wrong changes nothing.
        differences = _differences(wanted, {status.name: status for status in server.models().models})
        if not arguments.diff:
            for difference in differences:
                _apply(server, difference, arguments)
    _show(differences, arguments)
    return 1 if arguments.diff and differences else 0


def _differences(wanted: Sequence[WantedRoute], statuses: Mapping[str, control_pb2.ModelStatus]) -> list[Difference]:
    found = []
    for entry in wanted:
        if entry.model not in statuses:
            raise NotFound(f"{entry.where}: model '{entry.model}' not found: expected one of {sorted(statuses)}")
        versions = {version.version for version in statuses[entry.model].versions}
        if unknown := sorted({entry.primary, *entry.shadows, entry.canary} - {0} - versions):
            expected = f"expected some of {sorted(versions)}"
            raise NotFound(f"{entry.where}: model '{entry.model}': version '{unknown[0]}' not found: {expected}")
        route = statuses[entry.model].route
        if _wanted(entry) == _roles(route):
            continue
        if entry.generation not in (None, route.generation):
            raise Refused(
                f"{entry.where}: model '{entry.model}': the route was changed since: expected generation "
                f"{entry.generation}, found {route.generation}"
            )
        found.append(Difference(entry, route))
    return found


def _apply(server: Control, difference: Difference, arguments: argparse.Namespace) -> None:
    from gnomon_client import ClientError

    wanted = difference.wanted
    try:
        server.apply(
            wanted.model,
            difference.before.generation,
            wanted.primary,
            wanted.shadows,
            force=arguments.force,
            reason=arguments.reason,
            canary=(wanted.canary, wanted.weight) if wanted.canary else None,
        )
    except ClientError as error:
        if error.status == "UNAVAILABLE":
            raise
        raise RemoteError(f"{wanted.where}: {error.details}") from None


def _show(differences: Sequence[Difference], arguments: argparse.Namespace) -> None:
    if arguments.json:
        say(json.dumps([difference.fields for difference in differences], indent=2))
        return
    for difference in differences:
        say("\n".join(difference.lines))
    if not differences:
        say("every route is as the file says")


def _roles(route: control_pb2.Route) -> Roles:
    canary = {route.canary.version: route.canary.weight} if route.canary.version else {}
    return route.primary, canary, {shadow.version: shadow.sample for shadow in route.shadows}


def _wanted(entry: WantedRoute) -> Roles:
    return entry.primary, {entry.canary: entry.weight} if entry.canary else {}, entry.shadows


def _lines(primary: int, canary: Mapping[int, float], shadows: Mapping[int, float]) -> list[str]:
    return [
        f"primary {primary}",
        *(f"canary {version}: {weight:g}" for version, weight in canary.items()),
        *(f"shadow {version}: {sample:g}" for version, sample in sorted(shadows.items())),
    ]
