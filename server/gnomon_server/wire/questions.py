"""What a frontend asks control, and what control answers."""

from __future__ import annotations

import msgspec

from gnomon_server.wire.counts import InferenceCount
from gnomon_server.wire.plans import Message, RegionRef


class CountsWanted(msgspec.Struct, frozen=True, tag=True):
    """What all frontends have counted until now."""


class Counts(msgspec.Struct, frozen=True, tag=True):
    """The answer to CountsWanted."""

    inferences: tuple[InferenceCount, ...]


class IndexWanted(msgspec.Struct, frozen=True, tag=True):
    """Every version in the repository."""


class ListedVersion(msgspec.Struct, frozen=True):
    """A version in the repository, with its role and how it stands where that role needs it."""

    model: str
    version: int
    # "primary", "canary", "previous", "named", "shadow" or empty.
    role: str
    state: str
    reason: str


class Index(msgspec.Struct, frozen=True, tag=True):
    """The answer to IndexWanted."""

    versions: tuple[ListedVersion, ...]


class LoadWanted(msgspec.Struct, frozen=True, tag=True):
    """That a model answers, with what is in the repository now."""

    model: str
    # Who asks, for the audit.
    actor: str


class UnloadWanted(msgspec.Struct, frozen=True, tag=True):
    """That a model answers nothing until it is loaded again."""

    model: str
    actor: str


class RegionsWanted(msgspec.Struct, frozen=True, tag=True):
    """The region of that name; all of them without one."""

    name: str


class Shared(msgspec.Struct, frozen=True, tag=True):
    """The answer to RegionsWanted."""

    regions: tuple[RegionRef, ...]


class RegisterWanted(msgspec.Struct, frozen=True, tag=True):
    """That every frontend knows a region."""

    region: RegionRef


class UnregisterWanted(msgspec.Struct, frozen=True, tag=True):
    """That no frontend knows the region of that name; without one, any."""

    name: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer to a wish that came true."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """The answer of whoever cannot give another."""

    # The name of a grpc.StatusCode.
    status: str
    text: str


Wanted = CountsWanted | IndexWanted | LoadWanted | UnloadWanted | RegionsWanted | RegisterWanted | UnregisterWanted
Given = Counts | Index | Shared | Done | Failure


class Question(Message, frozen=True, tag="question"):
    """What a frontend needs of control to answer a client."""

    # Of one life of a frontend.
    number: int
    wanted: Wanted


class Answer(Message, frozen=True, tag="answer"):
    """The answer to the question of that number."""

    number: int
    given: Given
