"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Puts a text in the place of a file's content, durable when it returns; raises OSError."""
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    part.touch(mode, exist_ok=False)
    with part.open("w") as written:
        written.write(text)
        written.flush()
        os.fsync(written.fileno())
    part.replace(file)
