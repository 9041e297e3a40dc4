"""The command `convert`: from a trained model to a verified version in a repository."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any, Final

from gnomon_server.errors import Refused

EXAMPLE: Final = """\
example:
  gnomon convert churn.joblib --name churn --repository models --sample holdout.csv --labels left

  Writes models/churn/1/ with model.onnx and manifest.json, after the converted model has given what
  churn.joblib gives for every row of holdout.csv. Loading a joblib or pickle file runs code of
  whoever made it: convert only what you trust.
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command to the subparsers of `gnomon`."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a trained model to ONNX, verify it, and put it into a repository",
        description="Convert a scikit-learn model to ONNX, verify it on a sample, and put it into a repository.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="a joblib or pickle file, or module:attribute")
    parser.add_argument("--name", required=True, metavar="M", help="name of the model")
    parser.add_argument("--repository", required=True, metavar="DIR", help="folder of models")
    parser.add_argument("--sample", metavar="FILE", help=".csv, .parquet or .npy with rows to verify on")
    parser.add_argument("--labels", metavar="COLUMN", help="the sample's column with the true answers, for metrics")
    parser.add_argument("--version", type=int, metavar="N", help="number of the version (default: the next one)")
    parser.add_argument(
        "--tolerance", type=float, metavar="T", help="greatest difference to accept (default: 1e-4 of the output)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Converts and prints what was verified; raises Refused with the reason if there is nothing to publish."""
    # Installed with every gnomon; here, so that no other command pays for it.
    import gnomon_converters

    try:
        published = _publish(arguments)
    except gnomon_converters.ConversionError as error:
        raise Refused(str(error)) from None
    print(_as_json(published) if arguments.json else _as_text(published))  # noqa: T201 - the command's output
    return 0


def _publish(arguments: argparse.Namespace) -> Any:
    from gnomon_converters import ConversionError, publish, source

    if arguments.sample is None:
        raise ConversionError("a sample is needed to verify the conversion: --sample FILE")
    loaded = source.load(arguments.source)
    rows, labels = source.read_sample(arguments.sample, arguments.labels)
    return publish(
        loaded.model,
        name=arguments.name,
        repository=arguments.repository,
        sample=rows,
        labels=labels,
        version=arguments.version,
        tolerance=arguments.tolerance,
        source_digest=loaded.digest,
    )


def _as_json(published: Any) -> str:
    return json.dumps(dataclasses.asdict(published), default=str, indent=2)


def _as_text(published: Any) -> str:
    verification = published.verification
    lines = [
        f"{published.name} version {published.version} written to {published.folder}",
        f"verified on {verification.rows} rows; {published.golden_rows} kept as golden sample",
    ]
    for output in verification.outputs:
        if output.tolerance:
            shown = f"largest difference {output.max_difference:.2g} (accepted {output.tolerance:.2g})"
        else:
            shown = f"{output.label_flips} flips, {output.tied_rows} changed between equally likely classes"
        lines.append(f"  {output.output}: {shown}")
    lines += [f"  {name} on the labels: {value:.4g}" for name, value in published.metrics.items()]
    return "\n".join(lines)
