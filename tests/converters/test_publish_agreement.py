from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skl2onnx.common import _registration
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC
from trained_models import ROWS, TRAINING, frame, mixed_pipeline, numbers

from gnomon_converters import ConversionError, OutputAgreement, Published, publish
from gnomon_converters.frameworks import Expected, Original
from gnomon_converters.precision import Rounding, precise, round_down
from gnomon_converters.verification import verify


def published(model: Any, sample: Any, root: Path, **more: Any) -> Published:
    return publish(model, name="m", repository=root / "models", sample=sample, **more)


def outputs(done: Published) -> dict[str, OutputAgreement]:
    return {output.output: output for output in done.verification.outputs}


CLASSIFIERS = [
    LogisticRegression(),
    RandomForestClassifier(20, random_state=0),
    HistGradientBoostingClassifier(max_iter=20),
    make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)),
    make_pipeline(MinMaxScaler(clip=True), RandomForestClassifier(20, random_state=0)),
    make_pipeline(RobustScaler(), HistGradientBoostingClassifier(max_iter=20)),
    make_pipeline(StandardScaler(with_mean=False), HistGradientBoostingClassifier(max_iter=20)),
]


def of_class(model: Any) -> str:
    parts = [part for _, part in model.steps] if hasattr(model, "steps") else [model]
    return "+".join(type(part).__name__ for part in parts)


@pytest.mark.parametrize("model", CLASSIFIERS, ids=of_class)
@pytest.mark.parametrize("kind", ["float32", "whole"])
def test_a_classifier_agrees_within_float_noise(model: Any, kind: str, tmp_path: Path) -> None:
    x, y = numbers()
    rows = x if kind == "float32" else np.round(x * 100).astype(np.float64)
    done = published(model.fit(rows[:TRAINING], y[:TRAINING]), rows, tmp_path)
    assert done.verification.rows == ROWS
    assert outputs(done)["label"].label_flips == 0
    assert outputs(done)["probabilities"].max_difference < 2e-6


def test_equally_likely_classes_are_ties_and_no_flips(tmp_path: Path) -> None:
    x, y = numbers()
    done = published(RandomForestClassifier(50, random_state=0).fit(x[:TRAINING], y[:TRAINING]), x, tmp_path)
    label = outputs(done)["label"]
    assert label.tied_rows > 0
    assert (label.label_flips, label.rows_over_tolerance, label.max_difference) == (0, 0, 0.0)


@pytest.mark.parametrize(
    "model",
    [
        Ridge(),
        HistGradientBoostingRegressor(max_iter=20),
        make_pipeline(StandardScaler(), RandomForestRegressor(10, random_state=0)),
    ],
    ids=of_class,
)
def test_a_regressor_agrees_within_a_share_of_its_values(model: Any, tmp_path: Path) -> None:
    x, y = numbers()
    target = 1000 * x[:, 0] + y
    done = published(model.fit(x[:TRAINING], target[:TRAINING]), x, tmp_path, labels=target)
    assert 0 < outputs(done)["value"].max_difference < 0.01
    assert set(done.metrics) == {"mean_absolute_error", "root_mean_squared_error"}


def test_a_regressor_of_several_values_agrees(tmp_path: Path) -> None:
    x, _ = numbers()
    assert outputs(published(Ridge().fit(x, x[:, :2] @ np.eye(2)), x, tmp_path))["value"].rows_over_tolerance == 0


@pytest.mark.parametrize("classes", [["a", "b", "c"], [2, 5, 9], [0.0, 1.0, 2.0]], ids=["text", "whole", "float"])
def test_several_classes_of_any_kind_agree(classes: list[Any], tmp_path: Path) -> None:
    x, _ = numbers()
    y = np.array(classes)[np.digitize(x[:, 0], [-0.5, 0.5])]
    done = published(LogisticRegression().fit(x, y), x, tmp_path, labels=y)
    assert done.metrics["accuracy"] > 0.9
    assert outputs(done)["label"].label_flips == 0


def test_truth_values_are_classes_zero_and_one(tmp_path: Path) -> None:
    x, y = numbers()
    done = published(LogisticRegression().fit(x, y.astype(bool)), x, tmp_path, labels=y.astype(bool))
    assert set(done.metrics) == {"accuracy", "roc_auc"}


def test_a_classifier_without_probabilities_gives_labels_only(tmp_path: Path) -> None:
    x, y = numbers()
    assert list(outputs(published(LinearSVC().fit(x, y), x, tmp_path))) == ["label"]


ENCODERS = [
    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)),
    make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder(sparse_output=False)),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1),
]


@pytest.mark.parametrize("encoder", ENCODERS, ids=of_class)
def test_a_pipeline_over_columns_takes_missing_numbers_and_missing_text(encoder: Any, tmp_path: Path) -> None:
    rows, labels = frame()
    model = mixed_pipeline(encoder, HistGradientBoostingClassifier(max_iter=10))
    done = published(model.fit(rows[:TRAINING], labels[:TRAINING]), rows, tmp_path, labels=labels)
    # One of the columns is called "label".
    assert list(outputs(done)) == ["predicted_label", "probabilities"]
    assert outputs(done)["probabilities"].max_difference < 1e-6


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_text_may_have_any_dtype_of_pandas(dtype: str, tmp_path: Path) -> None:
    rows, labels = frame()
    model = mixed_pipeline().fit(rows[:TRAINING], labels[:TRAINING])
    done = published(model, rows.astype({"label": dtype}), tmp_path)
    assert outputs(done)["predicted_label"].label_flips == 0


def test_columns_without_a_transformer_are_joined(tmp_path: Path) -> None:
    rows, labels = frame()
    rows = rows[["air time", "stops"]].fillna(0)
    assert published(LogisticRegression().fit(rows, labels), rows, tmp_path).version == 1
    assert published(HistGradientBoostingClassifier(max_iter=5).fit(rows, labels), rows, tmp_path).version == 2


def test_columns_that_training_did_not_see_are_left_out(tmp_path: Path) -> None:
    rows, labels = frame()
    model = mixed_pipeline().fit(rows, labels)
    assert published(model, rows.assign(id=2**24 + 1)[["id", *reversed(rows.columns)]], tmp_path).version == 1


def test_a_conversion_that_disagrees_is_refused_with_numbers_and_leaves_nothing(tmp_path: Path) -> None:
    # Values between float32's: scaled in float64 by the original, they fall on the other side of a threshold.
    x = np.round(np.random.default_rng(0).normal(size=(ROWS, 6)), 1)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(x[:TRAINING], y[:TRAINING])
    with pytest.raises(ConversionError, match=r"'probabilities' differs by up to 0\.\d+ .* in \d+ of 1200 rows: cast"):
        published(model, x, tmp_path)
    assert list(tmp_path.iterdir()) == []
    single = x.astype(np.float32)
    published(model.fit(single[:TRAINING], y[:TRAINING]), single, tmp_path)


def test_a_tolerance_accepts_what_it_names(tmp_path: Path) -> None:
    x = np.round(np.random.default_rng(0).normal(size=(ROWS, 6)), 1)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int)
    model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(x[:TRAINING], y[:TRAINING])
    done = published(model, x, tmp_path, tolerance=0.5)
    assert 1e-4 < outputs(done)["probabilities"].max_difference <= outputs(done)["probabilities"].tolerance == 0.5


BAD_SAMPLES: dict[str, Any] = {
    "a sample is needed": lambda _: None,
    "expected rows": lambda rows: rows[:0],
    "expected column 'stops' as in training": lambda rows: rows.drop(columns="stops"),
    "expected text in every row, received int '1'": lambda rows: rows.assign(carrier=[1, "a"] * (ROWS // 2)),
    "numbers that FP32 can hold, received 16777217": lambda rows: rows.assign(stops=2**24 + 1),
    "numbers or text, received datetime64": lambda rows: rows.assign(stops=pd.Timestamp(0)),
    "columns with distinct names": lambda rows: rows.set_axis([*"abba"], axis=1),
    "itself fails on the sample in predict": lambda _: np.ones((3, 2)),
}


@pytest.mark.parametrize("said", BAD_SAMPLES)
def test_a_sample_that_cannot_be_sent_is_refused_in_one_line(said: str, tmp_path: Path) -> None:
    rows, labels = frame()
    refuse(mixed_pipeline().fit(rows, labels), BAD_SAMPLES[said](rows), said, tmp_path)


def test_a_model_that_predicts_nothing_is_refused(tmp_path: Path) -> None:
    rows, _ = frame()
    refuse(object(), rows, "expected a model of sklearn, received builtins.object", tmp_path)
    groups = KMeans(2, n_init=1).fit(rows[["stops"]])
    refuse(groups, rows, "expected a classifier or a regressor, received sklearn.cluster", tmp_path)


def test_categories_that_skl2onnx_forgets_are_refused(tmp_path: Path) -> None:
    rows, labels = frame()
    numbers_only = rows[["air time", "stops"]]
    model = HistGradientBoostingClassifier(max_iter=2, categorical_features=[1]).fit(numbers_only, labels)
    refuse(model, rows, "categorical_features cannot be converted: encode the columns", tmp_path)
    rows = rows.astype({"carrier": "category", "label": "category"})
    model = HistGradientBoostingClassifier(max_iter=2).fit(rows, labels)
    refuse(model, rows, "begins with a ColumnTransformer", tmp_path)


def test_missing_text_that_stays_missing_is_refused(tmp_path: Path) -> None:
    rows, labels = frame()
    model = mixed_pipeline(OrdinalEncoder(), HistGradientBoostingClassifier(max_iter=2)).fit(rows, labels)
    refuse(model, rows, "train it with encoded_missing_value=-1", tmp_path)


def refuse(model: Any, sample: Any, said: str, root: Path) -> None:
    with pytest.raises(ConversionError, match=said) as refused:
        published(model, sample, root)
    assert "\n" not in str(refused.value)
    assert list(root.iterdir()) == []


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    rows, labels = frame()
    with pytest.raises(ConversionError, match="one for each of 1200 rows, received 3"):
        published(mixed_pipeline().fit(rows, labels), rows, tmp_path, labels=labels[:3])


def expected(meaning: str, values: Any, classes: tuple[str, ...] = ()) -> Expected:
    return Expected(meaning, meaning, np.array(values), classes)


def test_a_flip_is_one_unless_the_two_classes_are_equally_likely() -> None:
    label = expected("label", ["a", "a", "a"], ("a", "b"))
    likely = expected("probabilities", [[0.5, 0.5], [0.5 + 2e-6, 0.5 - 2e-6], [0.9, 0.1]], ("a", "b"))
    received = {"label": np.array(["b", "b", "a"]), "probabilities": likely.values}
    found = verify(Original((label, likely), {}), received, None)
    assert (found.outputs[0].tied_rows, found.outputs[0].label_flips, found.outputs[0].max_difference) == (1, 1, 1.0)
    assert not found.passed
    assert verify(Original((label, likely), {}), received, 1e-4).passed


def test_a_label_that_is_no_class_of_the_original_is_a_flip() -> None:
    label = expected("label", ["a"], ("a", "b"))
    likely = expected("probabilities", [[0.5, 0.5]], ("a", "b"))
    found = verify(Original((label, likely), {}), {"label": np.array(["c"]), "probabilities": likely.values}, None)
    assert found.outputs[0].label_flips == 1


@pytest.mark.parametrize(
    ("values", "received", "rows_over"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], 0),
        ([1.0, 2.0], [1.0, np.nan], 1),
        ([1.0, 2.0], [np.inf, 2.001], 2),
        ([1e6, 0.0], [1e6 + 50, 50.0], 0),
        ([1e6, 0.0], [1e6, 500.0], 1),
        ([0.0, 0.0], [0.0, 1e-9], 1),
        ([1.0, 2.0], [1.0], 2),
    ],
)
def test_values_are_judged_by_their_size(values: list[float], received: list[float], rows_over: int) -> None:
    found = verify(Original((expected("value", values),), {}), {"value": np.array(received)}, None)
    assert found.outputs[0].rows_over_tolerance == rows_over


@given(st.floats(-1e30, 1e30), st.integers(-2, 2))
def test_a_threshold_rounded_down_decides_every_float32_alike(threshold: float, steps: int) -> None:
    x = np.float32(threshold)
    for _ in range(abs(steps)):
        x = np.nextafter(x, np.float32(np.copysign(np.inf, steps)))
    rounded = round_down(np.array([threshold]))[0]
    assert (np.float64(x) <= threshold) == (x <= rounded)


def test_a_conversion_leaves_skl2onnx_as_it_was() -> None:
    before = dict(_registration._converter_pool)
    with precise(Rounding.DOWN, single=False):
        during = dict(_registration._converter_pool)
    assert during != before
    assert _registration._converter_pool == before


def test_publishing_takes_names_for_all_but_the_model() -> None:
    parameters = list(inspect.signature(publish).parameters.values())
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters[1:])
