"""The profile of a version: what is usual in its traffic, as the file beside its manifest says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from google.protobuf import json_format

from gnomon_protos.profile_pb2 import Feature, Profile
from gnomon_protos.profiles import bins
from gnomon_server.errors import LoadError
from gnomon_server.models import manifest

# Features of one profile: each is a series of its own wherever drift is shown.
MOST: Final = 4096


@dataclass(frozen=True)
class Known:
    """A profile that was read."""

    # "sha256:..." of the file: counts of traffic belong to one.
    digest: str
    profile: Profile


def read(folder: Path) -> Known | None:
    """Returns the profile of a version's folder, None where its manifest names none; raises LoadError."""
    found = manifest.message(folder)
    file = found.profile_file
    if not file:
        return None
    if Path(file).name != file or file == "..":
        raise LoadError(f"{manifest.FILE}: profile_file: expected a file name, received {file!r}")
    try:
        content = (folder / file).read_bytes()
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error.strerror}") from None
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found.profile_digest and digest != found.profile_digest:
        raise LoadError(f"{file}: expected the digest {found.profile_digest}, received {digest}")
    return Known(digest, _parsed(file, content))


def _parsed(file: str, content: bytes) -> Profile:
    try:
        profile = json_format.Parse(content.decode(), Profile(), ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise LoadError(f"{file} is not a profile: {error}") from None
    if len(profile.features) > MOST:
        raise LoadError(f"{file}: expected at most {MOST:,} features, received {len(profile.features):,}")
    for feature in profile.features:
        if wrong := _wrong(feature):
            raise LoadError(f"{file}: feature {feature.name!r}: {wrong}")
    return profile


def _wrong(feature: Feature) -> str:
    """Returns what contradicts itself in a feature, or nothing."""
    kind = feature.WhichOneof("bins")
    if kind is None:
        return "expected ranges, values or texts, received none of them"
    edges = np.array(feature.ranges.edges if kind == "ranges" else feature.values.values, np.float64)
    if not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        return "expected ascending, finite numbers"
    expected = bins(feature)
    for counts in (feature.counts, *(chunk.counts for chunk in feature.chunks)):
        if len(counts) != expected or min(counts) < 0:
            return (
                f"expected {expected} counts, received {len(counts)}" if len(counts) != expected else "a count below 0"
            )
    return ""
