"""The repository's side of publishing: a version's folder, complete from the moment it can be seen.

Files are written into a hidden folder of the repository, brought to disk, and renamed to <name>/<version> at once. A
publisher that is killed leaves nothing but that hidden folder, whose name begins with a dot and which can be deleted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gnomon_converters.errors import ConversionError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")
# What rename says where the folder is taken: by a version, or by a file.
TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def check(repository: Path, name: str, version: int | None) -> None:
    """Raises ConversionError for a name or version that a repository cannot have, or a version that exists."""
    if not NAME.fullmatch(name):
        raise ConversionError(f"name: expected letters, digits, '.', '_' and '-', received {name!r}")
    if version is None:
        return
    if not VERSION.fullmatch(str(version)):
        raise ConversionError(f"version: expected a positive whole number, received {version}")
    if (repository / name / str(version)).exists():
        raise _taken(name, version)


def write(
    repository: Path,
    name: str,
    version: int | None,
    files: Mapping[str, bytes],
    manifest: Callable[[int], tuple[str, str]],
) -> tuple[Path, int]:
    """Writes a version and returns its folder and number; without a number it takes the one after the highest.

    `files` are contents by file name; `manifest` returns one more for the number. Of several publishers at once each
    gets a number of its own. Raises ConversionError if the version exists or the folder cannot be written.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".publishing-", dir=repository))
    except OSError as error:
        raise ConversionError(f"repository {repository} cannot be written: {error.strerror}") from None
    try:
        # Private until now; a server may run as another user.
        aside.chmod(0o755)
        for file, content in files.items():
            _write(aside / file, content)
        return _place(aside, repository / name, version, manifest)
    except OSError as error:
        raise ConversionError(f"repository {repository} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _place(
    aside: Path, folder: Path, version: int | None, manifest: Callable[[int], tuple[str, str]]
) -> tuple[Path, int]:
    while True:
        number = version if version is not None else next_version(folder)
        file, text = manifest(number)
        _write(aside / file, text.encode())
        _sync(aside)
        folder.mkdir(exist_ok=True)
        try:
            aside.rename(folder / str(number))
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            if version is not None:
                raise _taken(folder.name, number) from None
            # Another publisher was faster: the next number.
            continue
        _sync(folder)
        _sync(folder.parent)
        return folder / str(number), number


def next_version(folder: Path) -> int:
    """Returns the number after the highest in a model's folder; 1 if there is none."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if VERSION.fullmatch(name)), default=0) + 1


def _taken(name: str, version: int) -> ConversionError:
    return ConversionError(f"version {version} of {name!r} exists: leave the version out, or choose a higher one")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
