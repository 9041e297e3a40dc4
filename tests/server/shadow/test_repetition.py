"""Requests that are run again: what they say of the primary itself, and of the shadow alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from server.shadow.fakes import ADDER, Adder, added, on_the_wire

from gnomon_protos.tensors import Array
from gnomon_server.errors import Internal
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import CompareSettings, MirrorSettings
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.wire.record import Record
from gnomon_server.wire.tallies import PairTally, RepeatTally


class Moody(Adder):
    """An Adder that is off by 1 in every third run."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        off = np.float32(len(self.runs) % 3 == 0)
        return [output + off for output in super().run(inputs, outputs)]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def primary(adder: Adder, version: int = 1) -> Adder:
    adder.version = version
    return adder


def records(count: int, wrong: float = 0.0, rows: int = 1) -> list[Record]:
    generator = np.random.default_rng(0)
    return [
        msgspec.structs.replace(added([[i, 1]] * rows, wrong), span_id=int(generator.integers(1, 1 << 63)))
        for i in range(count)
    ]


async def worked(
    shadow: Adder, own: Adder | None, mirrored: list[Record], executor: ThreadPoolExecutor, share: float = 1.0
) -> PairTally:
    pipeline = Pipeline(shadow, MirrorSettings(), "", executor, looking=CompareSettings(repeat=share, keep=0))
    pipeline.repeat_on(own)
    for record in mirrored:
        pipeline.take(record, len(on_the_wire(record)))
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    (pair,) = pipeline.report("epoch").pairs
    return pair


async def test_a_primary_that_answers_the_same_again_agrees_with_itself(executor: ThreadPoolExecutor) -> None:
    pair = await worked(Adder(bias=1), primary(Adder()), records(40, rows=3), executor)
    assert pair.disagreeing == 40
    repeats = pair.repeats
    assert (repeats.requests, repeats.own_disagreeing) == (40, 0)
    assert (repeats.own_agreement_sum, repeats.shadow_agreement_sum) == (40, 0)
    (output,) = repeats.outputs
    assert (output.output, output.rows) == ("sum", 120)
    assert (output.own_divergence_sum, output.shadow_divergence_sum) == (0, 120)


async def test_a_moody_primary_disagrees_with_itself_and_its_shadow_is_not_blamed(executor: ThreadPoolExecutor) -> None:
    # The primary's answers were off in every third request, and so is every third repetition.
    mirrored = [
        msgspec.structs.replace(record, response=off.response) if i % 3 == 2 else record
        for i, (record, off) in enumerate(zip(records(300), records(300, wrong=1), strict=True))
    ]
    repeats = (await worked(Adder(), primary(Moody()), mirrored, executor)).repeats
    assert repeats.requests == 300
    # A repetition is off where the answer was not, or the other way round.
    assert repeats.own_disagreeing == 200
    assert repeats.own_agreement_sum == 100
    # The shadow is never off.
    assert repeats.shadow_agreement_sum == 200


async def test_each_repetition_runs_alone_on_both_and_is_timed(executor: ThreadPoolExecutor) -> None:
    shadow, own = Adder(), primary(Adder())
    pair = await worked(shadow, own, records(20, rows=2), executor)
    assert own.runs == [2] * 20
    # Once together, then one by one.
    assert shadow.runs == [40, *[2] * 20]
    assert pair.repeats.own_times.count == pair.repeats.shadow_times.count == 20
    assert pair.shadow_times.count == pair.primary_times.count == 20
    # The primary took a millisecond for each.
    assert pair.primary_times.total == pytest.approx(0.02)


async def test_a_share_is_chosen_by_what_the_request_is(executor: ThreadPoolExecutor) -> None:
    mirrored = records(2000)
    few, own = primary(Adder()), primary(Adder())
    some = (await worked(Adder(), few, mirrored, executor, 0.1)).repeats
    # 200 are expected; beyond 5 standard deviations lies nothing.
    assert 133 < some.requests < 267
    again = (await worked(Adder(), own, mirrored, executor, 0.1)).repeats
    assert again.own_agreement_sum == some.requests
    assert again.requests == some.requests


@pytest.mark.parametrize("own", [None, primary(Adder(), version=3), primary(Adder(error=Internal("broken")))])
async def test_without_the_primarys_own_version_nothing_is_repeated(
    own: Adder | None, executor: ThreadPoolExecutor
) -> None:
    pair = await worked(Adder(), own, records(10), executor)
    assert pair.compared == 10
    assert pair.repeats == RepeatTally()


async def test_an_output_that_only_the_shadow_has_does_not_matter(executor: ThreadPoolExecutor) -> None:
    both = Signature(ADDER.inputs, (*ADDER.outputs, TensorSpec("other", "FP32", (-1,))))
    pair = await worked(Adder(signature=both), primary(Adder()), records(5), executor)
    assert pair.repeats.requests == 5


async def test_nothing_is_repeated_where_the_share_is_0(executor: ThreadPoolExecutor) -> None:
    own = primary(Adder())
    assert (await worked(Adder(), own, records(10), executor, 0.0)).repeats.requests == 0
    assert own.runs == []
