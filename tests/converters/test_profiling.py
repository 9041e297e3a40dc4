from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from trained_models import frame, mixed_pipeline, numbers

from gnomon_converters import ConversionError, profiling, publish
from gnomon_converters.frameworks import Expected, Original
from gnomon_protos.profile_pb2 import Feature, Profile
from gnomon_protos.profiles import EXTRA
from gnomon_protos.tensors import Array
from gnomon_server.models import profile

DAY = 86400.0


def described(column: Array, times: Array | None = None, window: float = DAY) -> Feature:
    """Returns the only feature of a profile of one column."""
    made = profiling.profile({"x": column[:, np.newaxis]}, Original((), {}), {}, times, window)
    assert made is not None
    (feature,) = made.features
    assert sum(feature.counts) == made.rows == len(column)
    return feature


def test_a_number_with_many_values_gets_bins_of_a_twentieth_each() -> None:
    feature = described(np.arange(2000, dtype=np.float32))
    assert len(feature.ranges.edges) == 19
    assert list(feature.counts) == [100] * 20 + [0, 0]
    assert (feature.ranges.low, feature.ranges.high) == (0, 1999)
    assert feature.unseen == pytest.approx(2 / 2001)
    assert [feature.mean, feature.deviation] == pytest.approx([999.5, 577.35], rel=1e-4)


def test_a_number_with_few_values_has_each_as_a_bin() -> None:
    feature = described(np.repeat(np.array([3, 1, np.nan, np.inf], np.float32), 100))
    assert list(feature.values.values) == [1, 3]
    assert list(feature.counts) == [100, 100, 100, 100]


def test_a_feature_that_is_constant_or_never_given_has_a_profile() -> None:
    assert list(described(np.full(300, 7, np.float32)).counts) == [300, 0, 0]
    assert list(described(np.full(300, np.nan, np.float32)).counts) == [300, 0]


def test_a_text_is_listed_by_how_often_it_occurs() -> None:
    texts = np.array(["b"] * 150 + ["a"] * 100 + [""] * 50 + ["once", "x" * 99], object)
    feature = described(texts)
    assert list(feature.texts.listed) == ["b", "a", "once", "x" * 64]
    assert list(feature.counts) == [150, 100, 1, 1, 0, 50, 0]
    assert feature.unseen == pytest.approx(max(2 / 303, 2 / 302))


def test_of_many_texts_the_rarest_share_a_bin_and_of_very_many_they_are_not_named() -> None:
    few = described(np.array([f"t{i}" for i in range(60)] * 5, object))
    assert (len(few.texts.listed), len(few.texts.others), few.texts.open) == (50, 10, False)
    assert few.counts[50] == 50
    many = described(np.array([f"t{i}" for i in range(3000)], object))
    assert (len(many.texts.listed), len(many.texts.others), many.texts.open) == (50, 0, True)
    assert list(many.counts[-3:]) == [2950, 0, 0]
    assert many.unseen == 1.0


def test_windows_of_the_reference_hold_their_rows_in_the_order_of_time() -> None:
    times = np.repeat([2 * DAY, 0.0, DAY], 300) + np.tile(np.arange(300), 3)
    column = np.repeat(np.array([2, 0, 1], np.float32), 300)
    feature = described(column, times)
    assert [list(chunk.counts) for chunk in feature.chunks] == [
        [300, 0, 0, 0, 0],
        [0, 300, 0, 0, 0],
        [0, 0, 300, 0, 0],
    ]
    # Each day has a value that the others do not have.
    assert [chunk.novel for chunk in feature.chunks] == [300, 300, 300]


def test_novel_in_a_window_is_what_lies_outside_of_the_rest() -> None:
    random = np.random.default_rng(3)
    column = random.uniform(size=900).astype(np.float32)
    column[::300], column[1::300] = 0.0, 1.0
    column[310:320] = 5.0
    column[330] = np.nan
    feature = described(column, np.arange(900) * DAY / 300)
    assert [chunk.novel for chunk in feature.chunks] == [0, 10, 0]
    assert [chunk.counts[-EXTRA] for chunk in feature.chunks] == [0, 1, 0]


def test_a_window_of_few_rows_is_joined_with_the_next_one() -> None:
    times = np.concatenate([np.zeros(50), np.full(300, DAY), np.full(250, 2 * DAY)])
    feature = described(np.arange(600, dtype=np.float32), times)
    assert [sum(chunk.counts) for chunk in feature.chunks] == [350, 250]


def test_of_very_many_windows_some_are_kept() -> None:
    times = np.repeat(np.arange(100) * DAY, 200)
    assert len(described(np.zeros(20000, np.float32), times).chunks) == profiling.CHUNKS


def test_the_columns_of_a_wide_tensor_are_named_and_too_many_left_out() -> None:
    random = np.random.default_rng(1)
    classes = ("no", "yes")
    likely = random.uniform(size=(400, 2)).astype(np.float32)
    original = Original((Expected("probabilities", "probabilities", likely, classes),), {})
    inputs = {"x": random.normal(size=(400, 3)).astype(np.float32), "image": np.zeros((400, 600), np.float32)}
    made = profiling.profile(inputs, original, {"probabilities": likely}, None, DAY)
    assert made is not None
    names = [(feature.name, feature.output) for feature in made.features]
    assert names == [
        ("x[0]", False),
        ("x[1]", False),
        ("x[2]", False),
        ("probabilities[no]", True),
        ("probabilities[yes]", True),
    ]


def test_dates_and_seconds_are_both_times() -> None:
    assert profiling.seconds(np.array([1, 2])).tolist() == [1, 2]
    assert profiling.seconds(np.array(["1970-01-02", "1970-01-01T00:00:01Z"], object)).tolist() == [DAY, 1]
    assert profiling.seconds(pd.to_datetime(["1970-01-02"]).to_numpy()).tolist() == [DAY]
    with pytest.raises(ConversionError, match="times: expected dates by ISO 8601 or seconds"):
        profiling.seconds(np.array(["soon"], object))
    with pytest.raises(ConversionError, match="times: expected a time in every row"):
        profiling.seconds(np.array([1.0, np.nan]))


def read(folder: Path) -> Profile:
    known = profile.read(folder)
    assert known is not None
    return known.profile


def test_a_version_is_published_with_the_profile_of_its_sample(tmp_path: Path) -> None:
    rows, labels = frame()
    model = mixed_pipeline().fit(rows, labels)
    done = publish(model, name="churn", repository=tmp_path, sample=rows)
    found = read(done.folder)
    names = [feature.name for feature in found.features]
    assert names == [
        "air time",
        "stops",
        "carrier",
        "label",
        "predicted_label",
        "probabilities[early]",
        "probabilities[late]",
    ]
    assert (found.rows, done.profiled, found.chunk_seconds) == (len(rows), 7, 0)
    by_name = {feature.name: feature for feature in found.features}
    assert by_name["air time"].counts[-EXTRA] == 38
    assert by_name["carrier"].counts[-EXTRA] == 71
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest["profile_file"] == "profile.json"


def test_a_reference_takes_the_place_of_the_sample(tmp_path: Path) -> None:
    rows, labels = frame()
    model = mixed_pipeline().fit(rows, labels)
    reference = pd.concat([rows, rows], ignore_index=True)
    reference["beside"] = 1
    times = np.repeat([0.0, DAY], len(rows))
    done = publish(
        model, name="churn", repository=tmp_path, sample=rows[:100], reference=reference, reference_times=times
    )
    found = read(done.folder)
    assert (found.rows, found.chunk_seconds) == (2 * len(rows), DAY)
    assert all([sum(chunk.counts) for chunk in feature.chunks] == [len(rows)] * 2 for feature in found.features)


def test_a_reference_of_few_rows_makes_no_profile(tmp_path: Path) -> None:
    rows, labels = numbers()
    model = LogisticRegression().fit(rows, labels)
    done = publish(model, name="m", repository=tmp_path, sample=rows[:50])
    assert done.profiled == 0
    assert profile.read(done.folder) is None
    assert not (done.folder / "profile.json").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"reference": np.ones((300, 3), np.float32)},
            r"input 'input': expected float32 \[4\] a row, received float32 \[3\]",
        ),
        ({"reference": np.full((300, 4), "x")}, r"input 'input': expected float32 \[4\] a row, received object \[4\]"),
        ({"reference": np.ones(3, np.float32)}, "the reference: sample: expected a DataFrame or an array"),
        ({"reference_times": [1, 2]}, "times: expected one for each of 1200 rows, received 2"),
        ({"window": 0.0}, "window: expected a positive number of seconds, received 0"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(changed: dict[str, object], words: str, tmp_path: Path) -> None:
    rows, labels = numbers()
    model = LogisticRegression().fit(rows, labels)
    with pytest.raises(ConversionError, match=words):
        publish(model, name="m", repository=tmp_path, sample=rows, **changed)  # type: ignore[arg-type]
    assert not (tmp_path / "m").exists()
