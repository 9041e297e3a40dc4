"""`gnomon gate`: whether a version may be promoted, from a data set and without a server."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon_server.cli.screen import add_command, add_json, console, say_json
from gnomon_server.errors import InvalidRequest, NotFound, Refused

if TYPE_CHECKING:
    from gnomon_protos import control_pb2
    from gnomon_protos.tensors import Array
    from gnomon_server.cli.dataset import Dataset
    from gnomon_server.settings import Policy, Settings
    from gnomon_server.shadow.digests import Seen
    from gnomon_server.shadow.feedback import Feedback
    from gnomon_server.shadow.trial import Shadow
    from gnomon_server.wire.plans import VersionRef
    from gnomon_server.wire.tallies import MetricCounts


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "gate",
        "Try a version on a data set beside the primary, with the comparators and the policy of the server; "
        "exits with 0 only if the verdict is promote.",
        "gnomon gate flights 3 --data holdout.csv --repository models --config gnomon.toml --junit gate.xml",
        run,
    )
    parser.add_argument("model", help="the model")
    parser.add_argument("version", type=int, help="the version that is tried")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help=".csv, .parquet, .npy or .npz, or a recording"
    )
    parser.add_argument(
        "--labels", metavar="COLUMN", help="the true labels: judges how often the version is wrong, not how it differs"
    )
    parser.add_argument(
        "--feedback",
        metavar="FILE",
        help="with a recording: labels by request id, as 'gnomon feedback' takes them; judges as --labels does",
    )
    parser.add_argument(
        "--primary", type=int, metavar="V", help="what it is compared with (default: the version before it)"
    )
    parser.add_argument("--repository", metavar="DIR", help="where the versions lie (default: models)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of the server, for policy and repository"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the findings as JUnit XML")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tries the version; 0 if it may be promoted, else 1."""
    from gnomon_server import config
    from gnomon_server.cli import junit, offline, tables
    from gnomon_server.control.verdict import PROMOTE
    from gnomon_server.shadow.alignment import aligned

    settings = config.load({"repository": arguments.repository}, arguments.config)
    loaded = offline.load(settings, arguments.model, arguments.version)
    shadow = aligned(loaded, settings.model(arguments.model).compare.align)
    report = (_on_recording if _is_recording(arguments.data) else _on_rows)(arguments, settings, shadow)
    if arguments.junit is not None:
        _write(arguments.junit, junit.of(report))
    if arguments.json:
        say_json(report)
    else:
        console().print(tables.report(report))
    return 0 if report.verdict.decision == PROMOTE else 1


def _is_recording(data: Path) -> bool:
    from gnomon_server.shadow.recording import SUFFIX

    return data.is_dir() or data.suffix == SUFFIX


def _on_recording(arguments: argparse.Namespace, settings: Settings, shadow: Shadow) -> control_pb2.Report:
    """Tries a version on the requests of a recording, beside the answers of then."""
    from gnomon_server.cli import offline
    from gnomon_server.shadow.recording import segments
    from gnomon_server.shadow.replay import Replay
    from gnomon_server.wire.plans import observing

    paths, policy = segments(arguments.data), offline.policy_of(settings, shadow.model)
    if arguments.labels is not None:
        raise InvalidRequest("--labels: a recording has none")
    if (recorded := offline.recorded_model(paths)) != shadow.model:
        raise InvalidRequest(f"{arguments.data}: expected a recording of model '{shadow.model}', found '{recorded}'")
    feedback = offline.feedback(settings, shadow, policy) if arguments.feedback is not None else None
    replay = Replay(shadow, settings.mirror.batch_rows, observing(policy), feedback)
    offline.replay(replay, paths)
    if feedback is not None:
        _join(feedback, arguments.feedback)
    reports = {report.primary: report for report in offline.replayed(replay, shadow, policy)}
    primary = arguments.primary or max(reports)
    if primary not in reports:
        raise NotFound(f"{arguments.data}: no answer of version {primary}: expected one of {sorted(reports)}")
    return reports[primary]


def _join(feedback: Feedback, file: str) -> None:
    """Joins the labels of a file; raises InvalidRequest for one that does not fit."""
    from gnomon_server.cli.feedback import opened, read
    from gnomon_server.control.service import nanoseconds
    from gnomon_server.wire.labels import Label

    with opened(file) as (lines, name):
        labels = [Label(i, tuple(map(str, values)), nanoseconds(time)) for i, values, time in read(lines, name)]
    found = feedback.take(0, labels)
    if found.refused:
        raise InvalidRequest(f"{name}: {found.refused:,} of {len(labels):,} labels do not fit: {found.reasons[0]}")
    if not found.joined:
        raise InvalidRequest(f"{name}: none of {len(labels):,} labels is of a request of the recording")


def _before(version: int, found: Mapping[int, VersionRef]) -> int:
    earlier = [number for number in found if number < version]
    if not earlier:
        raise NotFound(f"no version before {version}: expected --primary, one of {sorted(found)}")
    return max(earlier)


def _on_rows(arguments: argparse.Namespace, settings: Settings, shadow: Shadow) -> control_pb2.Report:
    """Tries a version on the rows of a file, beside the primary."""
    import msgspec

    from gnomon_server.cli import dataset, offline
    from gnomon_server.models.lifecycle import READY
    from gnomon_server.shadow.replay import Replay
    from gnomon_server.wire.messages import VersionState
    from gnomon_server.wire.plans import observing

    before = arguments.primary or _before(shadow.version, offline.versions(settings, shadow.model))
    if arguments.feedback is not None:
        raise InvalidRequest("--feedback: expected a recording as --data; the rows of a data set have no ids: --labels")
    primary = offline.load(settings, shadow.model, before)
    _check_fit(primary, shadow)
    data = dataset.read(arguments.data, arguments.labels, primary.model, primary.signature)
    # Rows of a data set are independent of each other, and all there at once.
    policy: Policy = offline.policy_of(settings, primary.model, block=1)
    replay, losses = Replay(shadow, settings.mirror.batch_rows, observing(policy)), _Losses(primary, shadow, policy)
    failed, since = 0, datetime.now(UTC)
    for chunk in data.chunks(settings.mirror.batch_rows):
        records, errors = dataset.answered(primary, chunk)
        failed += errors
        if records:
            replay.answered(records)
        if chunk.truth is not None:
            losses.take(chunk)
    (tally, *_) = replay.snapshot() or (None,)
    if tally is None:
        raise InvalidRequest(f"{arguments.data}: version {primary.version} answers none of the {len(data):,} rows")
    if data.truth is not None:
        metrics = (*tally.observed.metrics, losses.counts())
        tally = msgspec.structs.replace(tally, observed=msgspec.structs.replace(tally.observed, metrics=metrics))
    states = {v.version: VersionState(v.model, v.version, READY, digest=v.digest) for v in (primary, shadow)}
    (report,) = offline.reports(
        *(primary.model, states, shadow.version, [tally], replay.received, since, policy),
        primary_errors={primary.version: failed},
    )
    return report


def _check_fit(primary: Shadow, shadow: Shadow) -> None:
    from gnomon_server.models.fit import described, differences

    found = differences(described(primary.signature), described(shadow.signature))
    if found:
        raise Refused(
            f"model '{shadow.model}' version '{shadow.version}' does not fit version '{primary.version}' (declare how "
            f"they correspond in [models.{shadow.model}.compare.align.{shadow.version}]): {'; '.join(found)}"
        )


class _Losses:
    """How much more often the version is wrong than the primary, over the rows that both were asked."""

    def __init__(self, primary: Shadow, shadow: Shadow, policy: Policy) -> None:
        from gnomon_server.shadow.digests import Seen
        from gnomon_server.statistics.knots import SYM64

        self._versions = (primary, shadow)
        self._seen: Seen | None = Seen() if policy.dedupe else None
        self._counts = SYM64.none()

    def take(self, data: Dataset) -> None:
        """Takes rows of which the truth is known."""
        from gnomon_server.shadow.digests import of_rows
        from gnomon_server.statistics.knots import SYM64

        kept, wrong = _wrong(self._versions[0], data)
        _, wrong_too = _wrong(self._versions[1], data)
        if self._seen is not None:
            kept &= self._seen.first(of_rows(data.inputs, rowwise=True))
        difference = wrong_too.astype(np.float64) - wrong
        self._counts += SYM64.counts((difference[kept] + 1) / 2)

    def counts(self) -> MetricCounts:
        """Returns the differences so far."""
        from gnomon_server.wire.metrics import LOSS
        from gnomon_server.wire.tallies import MetricCounts

        counts = tuple(self._counts.tolist())
        return MetricCounts(LOSS, counts, counts)


def _wrong(version: Shadow, data: Dataset) -> tuple[Array, Array]:
    """Returns which rows a version answers, and on which of all rows it is wrong or has no answer; bool[B] each."""
    from gnomon_server.cli import dataset

    assert data.truth is not None  # noqa: S101 - the caller's condition
    name = _label_of(version)
    outputs, answered = dataset.run(version, data)
    wrong = np.ones(len(data), np.bool_)
    if answered.any():
        labels, truth = outputs[name].reshape(int(answered.sum()), -1)[:, 0], data.truth[answered]
        numbers = labels.dtype.kind in "iufb"
        wrong[answered] = labels.astype(np.float64) != truth if numbers else labels.astype(str) != truth.astype(str)
    return answered, wrong


def _label_of(version: Shadow) -> str:
    from gnomon_server.shadow.choice import choose

    chosen = choose(version.signature, version.comparisons)
    labels = [name for name, one in chosen.items() if one.comparison.comparator == "label"]
    if len(labels) != 1:
        raise InvalidRequest(f"--labels: expected one output of labels, found {labels or 'none'}")
    return labels[0]


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be written: {error.strerror}") from None
