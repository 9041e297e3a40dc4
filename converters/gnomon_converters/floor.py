"""The floor: how far arithmetic alone moves an answer, so that no comparison of two versions makes anything of it.

A converted model differs from its original by its float32, and a row that runs alone from the same row in a batch by
the order of additions. Both were measured on the sample.
"""

from __future__ import annotations

from typing import Final

from gnomon_converters.frameworks import Expected, Original
from gnomon_converters.verification import PROBABILITIES, TIE, OutputAgreement
from gnomon_protos import manifest_pb2

# Of values, where nothing larger was measured.
RTOL: Final = 1e-3
ATOL: Final = 1e-6
# Total variation that agrees.
TOLERANCE: Final = 0.1


def comparison(output: Expected, original: Original, agreement: dict[str, OutputAgreement]) -> manifest_pb2.Comparison:
    """Returns how the server compares this output of two versions, unless its operator says otherwise.

    `agreement` holds what was measured, by output.
    """
    found = agreement[output.name]
    if output.meaning == "label":
        likely = next((other.name for other in original.outputs if other.meaning == "probabilities"), "")
        parameters = {"tie_eps": _tie(agreement[likely]) if likely else TIE}
        return manifest_pb2.Comparison(
            output=output.name, comparator="label", parameters=parameters, probabilities=likely
        )
    if output.meaning == "probabilities":
        # Total variation is half the sum of absolute differences.
        classes = output.values.shape[1] if output.values.ndim > 1 else 1
        floor = min(_noise(found) * classes / 2, PROBABILITIES)
        return manifest_pb2.Comparison(output=output.name, comparator="tv", tolerance=TOLERANCE, floor=floor)
    parameters = {"rtol": RTOL, "atol": max(ATOL, _noise(found))}
    return manifest_pb2.Comparison(output=output.name, comparator="isclose", parameters=parameters)


def _tie(probabilities: OutputAgreement) -> float:
    """Returns how near two classes must be for arithmetic to swap them: each may move, towards the other.

    A difference that was accepted though no arithmetic explains it makes no ties.
    """
    return max(TIE, 2 * min(_noise(probabilities), PROBABILITIES))


def _noise(agreement: OutputAgreement) -> float:
    return agreement.max_difference + agreement.batch_difference
