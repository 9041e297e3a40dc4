"""Versions behind endpoints elsewhere, beside those of a repository."""

from __future__ import annotations

from typing import Final

from gnomon_server.errors import InvalidRequest
from gnomon_server.models.sources import Source
from gnomon_server.settings import Settings
from gnomon_server.wire.plans import VersionRef

# Stands before the address in the place of a version's folder.
_ELSEWHERE: Final = "remote:"


def is_remote(ref: VersionRef) -> bool:
    """Whether a version runs elsewhere."""
    return ref.folder.startswith(_ELSEWHERE)


class WithRemotes:
    """The versions of a source, and those that the settings name for its models."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source = source
        self._settings = settings

    def versions(self) -> frozenset[VersionRef]:
        """Returns every version; raises InvalidRequest where one is both here and elsewhere."""
        here = self._source.versions()
        models = {ref.model for ref in here}
        remotes = {(model, version): remote for model in models for version, remote in self._remotes(model).items()}
        if both := {(ref.model, ref.version) for ref in here} & remotes.keys():
            model, version = min(both)
            raise InvalidRequest(f"model '{model}' version '{version}': it is in the repository and among the remotes")
        return here | {VersionRef(model, version, remote) for (model, version), remote in remotes.items()}

    def _remotes(self, model: str) -> dict[int, str]:
        """Returns, by version, what stands in the place of a folder."""
        found = self._settings.model(model).remotes.items()
        return {int(version): f"{_ELSEWHERE}{remote.address}" for version, remote in found}
