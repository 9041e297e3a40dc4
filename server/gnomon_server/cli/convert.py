"""`gnomon convert`: from a trained model to a verified version in a repository."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from gnomon_server.cli.screen import add_command, add_json, say
from gnomon_server.errors import Refused

if TYPE_CHECKING:
    from gnomon_converters import Published


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "convert",
        "Convert a scikit-learn model to ONNX, verify it on a sample, and put it into a repository; "
        "a joblib or pickle file runs code of whoever made it, so convert only what you trust.",
        "gnomon convert churn.joblib --name churn --repository models --sample holdout.csv --labels left",
        run,
    )
    parser.add_argument("source", metavar="SOURCE", help="a joblib or pickle file, or module:attribute")
    parser.add_argument("--name", required=True, metavar="M", help="name of the model")
    parser.add_argument("--repository", required=True, metavar="DIR", help="folder of models")
    parser.add_argument("--sample", required=True, metavar="FILE", help=".csv, .parquet or .npy with rows to verify on")
    parser.add_argument("--labels", metavar="COLUMN", help="the sample's column with the true answers, for metrics")
    parser.add_argument("--version", type=int, metavar="N", help="number of the version (default: the next one)")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="greatest difference of an output to accept (default: 1e-4)"
    )
    parser.add_argument(
        "--reference", metavar="FILE", help="rows of the training, by which drift is judged (default: the sample)"
    )
    parser.add_argument(
        "--time",
        metavar="COLUMN",
        help="the reference's column of dates or seconds, which shows how much drift is usual",
    )
    parser.add_argument(
        "--window",
        type=float,
        default=86400.0,
        metavar="SECONDS",
        help="of the server's drift windows (default: a day)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Converts and says what was verified; raises Refused with the reason if there is nothing to publish."""
    from gnomon_converters import ConversionError

    try:
        published = _publish(arguments)
    except ConversionError as error:
        raise Refused(str(error)) from None
    if arguments.json:
        say(json.dumps(dataclasses.asdict(published), default=str, indent=2))
    else:
        say(_words(published))
    return 0


def _publish(arguments: argparse.Namespace) -> Published:
    from gnomon_converters import publish, source

    loaded = source.load(arguments.source)
    rows, labels = source.read_sample(arguments.sample, arguments.labels)
    if arguments.time and not arguments.reference:
        raise Refused("--time names a column of a reference: give --reference FILE as well")
    usual, times = (
        source.read_reference(arguments.reference, arguments.labels, arguments.time, rows)
        if arguments.reference
        else (None, None)
    )
    return publish(
        loaded.model,
        name=arguments.name,
        repository=arguments.repository,
        sample=rows,
        labels=labels,
        version=arguments.version,
        tolerance=arguments.tolerance,
        source_digest=loaded.digest,
        reference=usual,
        reference_times=times,
        window=arguments.window,
    )


def _words(published: Published) -> str:
    lines = [
        f"{published.name} version {published.version} is in {published.folder}",
        f"verified on {published.verification.rows} rows, {published.golden_rows} of them kept as golden sample:",
    ]
    for output in published.verification.outputs:
        if output.meaning == "label":
            shown = f"{output.label_flips} flips, {output.tied_rows} changes between equally likely classes"
        else:
            shown = f"largest difference {output.max_difference:.2g}, accepted {output.tolerance:.2g}"
        lines.append(f"  {output.output}: {shown}")
    lines.append(
        f"the drift of {published.profiled} features and outputs is watched while it has a shadow"
        if published.profiled
        else "its drift is not watched: the reference has fewer than 200 rows"
    )
    lines += [f"  {name} on the labels: {value:.4g}" for name, value in sorted(published.metrics.items())]
    return "\n".join(lines)
