"""A repository in a folder: name/version/model.onnx, as Triton lays it out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from gnomon_server.errors import NotFound
from gnomon_server.models import manifest
from gnomon_server.wire.plans import VersionRef

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


class Directory:
    """The versions in a folder, looked at anew each time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._root = Path(unquote(parts.path) if parts.scheme else url).resolve()

    def versions(self) -> frozenset[VersionRef]:
        """Returns the versions that have a model file or a manifest; raises NotFound if the folder is not there."""
        try:
            models = [path for path in self._root.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
        except OSError as error:
            raise NotFound(f"repository {self._root} cannot be read: {error.strerror}") from None
        return frozenset(ref for model in models for ref in _versions(model))


def _versions(model: Path) -> list[VersionRef]:
    try:
        folders = [path for path in model.iterdir() if VERSION.fullmatch(path.name)]
    except OSError:
        return []
    return [
        VersionRef(model.name, int(folder.name), str(folder))
        for folder in folders
        if (folder / manifest.FILE).is_file() or (folder / manifest.Manifest.model_file).is_file()
    ]
