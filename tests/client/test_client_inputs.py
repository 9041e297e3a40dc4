"""What callers give becomes what the model declares, or an error that names input, expected and received."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_client.casting import cast
from gnomon_client.errors import InputError
from gnomon_client.inputs import arrays_of
from gnomon_client.metadata import ModelMetadata, TensorMetadata
from gnomon_protos.tensors import FIXED

INTEGERS = [name for name in FIXED if "INT" in name]


def model(**inputs: tuple[str, tuple[int, ...]]) -> ModelMetadata:
    specs = tuple(TensorMetadata(name, datatype, shape) for name, (datatype, shape) in inputs.items())
    return ModelMetadata("m", ("1",), "", specs, ())


TABLE = model(age=("FP32", (-1, 1)), visits=("INT64", (-1, 1)), plan=("BYTES", (-1, 1)))
MATRIX = model(X=("FP32", (-1, 3)))
VECTOR = model(x=("FP32", (-1,)))


def values_of(inputs: Any, described: ModelMetadata) -> dict[str, Any]:
    return {spec.name: array.tolist() for spec, array in arrays_of(inputs, described)}


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"age": [31.0, 45.0], "visits": [3, 4], "plan": ["basic", "plus"]} | columns)


def test_the_columns_of_a_frame_go_to_the_inputs_of_their_names() -> None:
    arrays = arrays_of(frame(extra=[1, 2])[["extra", "plan", "visits", "age"]], TABLE)
    assert [(spec.name, array.shape) for spec, array in arrays] == [
        ("age", (2, 1)),
        ("visits", (2, 1)),
        ("plan", (2, 1)),
    ]
    assert [str(array.dtype) for _, array in arrays] == ["float32", "int64", "object"]
    assert arrays[2][1].tolist() == [["basic"], ["plus"]]


def test_a_column_stays_a_vector_where_the_model_declares_one() -> None:
    assert values_of(frame(), model(age=("FP64", (-1,)))) == {"age": [31.0, 45.0]}


def test_a_frame_becomes_the_only_matrix_in_its_own_order_of_columns() -> None:
    data = pd.DataFrame({"b": [1, 2], "a": [0.5, np.nan], "c": pd.array([7, None], dtype="Int64")})
    ((spec, array),) = arrays_of(data, MATRIX)
    assert (spec.name, str(array.dtype), array.shape) == ("X", "float32", (2, 3))
    np.testing.assert_array_equal(array, np.array([[1, 0.5, 7], [2, np.nan, np.nan]], np.float32))


def test_a_frame_of_text_becomes_the_only_matrix_of_text() -> None:
    data = pd.DataFrame({"a": ["x", "y"], "b": ["u", "v"]})
    assert values_of(data, model(X=("BYTES", (-1, 2)))) == {"X": [["x", "u"], ["y", "v"]]}


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.5, None]),
        pd.Series([1.5, None], dtype=object),
        pd.Series([1.5, pd.NA], dtype="Float64"),
        pd.Series([1.5, np.nan], dtype="float32"),
    ],
    ids=["float64", "object", "Float64", "float32"],
)
def test_missing_numbers_become_nan(column: pd.Series[Any]) -> None:
    ((_, array),) = arrays_of(pd.DataFrame({"age": column}), model(age=("FP32", (-1, 1))))
    np.testing.assert_array_equal(array, np.array([[1.5], [np.nan]], np.float32))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_text_is_refused_with_the_way_out(missing: Any) -> None:
    with pytest.raises(InputError) as caught:
        arrays_of(frame(plan=["basic", missing]), TABLE)
    assert caught.value.details == (
        "model 'm': column 'plan': expected BYTES, received a missing value in row 1; "
        "fill it first, for example with .fillna('')"
    )


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"visits": [3.0, None]}, "column 'visits': expected INT64, received a missing value in row 1; fill it first"),
        ({"visits": [3.5, 4.0]}, "column 'visits': expected INT64, received FP64; round and cast it first"),
        ({"age": ["31", "45"]}, "column 'age': expected FP32, received text"),
        ({"age": pd.Series([31.0, "old"], dtype=object)}, "column 'age': expected FP32, received text"),
        ({"age": pd.to_datetime(["2026-01-01", "NaT"])}, "column 'age': expected FP32, received datetime64"),
        ({"plan": [1, 2]}, "column 'plan': expected BYTES, received INT64"),
        (
            {"plan": pd.Series(["a", 2], dtype=object)},
            "column 'plan': element 1: expected text for BYTES, received int",
        ),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(columns: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        arrays_of(frame(**columns), TABLE)
    assert caught.value.details.startswith(f"model 'm': {text}")


def test_pandas_own_types_are_cast() -> None:
    data = frame(
        age=pd.array([1, 2], dtype="Int64"),
        visits=pd.array([True, False], dtype="boolean"),
        plan=pd.Categorical(["basic", "plus"]),
    )
    assert values_of(data, TABLE) == {"age": [[1.0], [2.0]], "visits": [[1], [0]], "plan": [["basic"], ["plus"]]}


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError) as caught:
        arrays_of(frame()[["age", "plan"]], TABLE)
    assert caught.value.details == "model 'm': expected columns ['age', 'visits', 'plan'], received ['age', 'plan']"


def test_a_matrix_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"input 'X': expected 3 columns, received 2: \['a', 'b'\]"):
        arrays_of(pd.DataFrame({"a": [1], "b": [2]}), MATRIX)


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="column 'a': expected once, received 2 times"):
        arrays_of(pd.DataFrame([[1, 2]], columns=["a", "a"]), TABLE)


def test_one_column_cannot_fill_a_wider_input() -> None:
    with pytest.raises(InputError, match=r"column 'a': expected values of shape \[-1, 4\], received one column"):
        arrays_of(pd.DataFrame({"a": [1], "b": [1]}), model(a=("FP32", (-1, 4)), b=("FP32", (-1, 1))))


def test_columns_may_be_named_by_numbers() -> None:
    assert values_of(pd.DataFrame([[1, 2, 3]]), MATRIX) == {"X": [[1.0, 2.0, 3.0]]}


def test_a_mapping_takes_arrays_lists_and_series_together() -> None:
    inputs = {"plan": pd.Series(["a", "b"]), "age": np.array([[1.0], [2.0]]), "visits": (3, 4)}
    assert values_of(inputs, TABLE) == {"age": [[1.0], [2.0]], "visits": [[3], [4]], "plan": [["a"], ["b"]]}


def test_the_shape_of_an_array_is_left_to_the_server() -> None:
    ((_, array), *_) = arrays_of({"age": np.zeros(2), "visits": [1, 2], "plan": ["a", "b"]}, TABLE)
    assert array.shape == (2,)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"age": [1]}, "model 'm': expected inputs ['age', 'visits', 'plan'], received ['age']"),
        (
            {"age": [1], "zzz": [1]},
            "model 'm': input 'zzz': expected one of ['age', 'visits', 'plan'], received 'zzz'",
        ),
        (
            [1.0],
            "model 'm': expected inputs ['age', 'visits', 'plan'] as a mapping or a DataFrame, received one list",
        ),
    ],
)
def test_names_that_do_not_match_are_refused(inputs: Any, text: str) -> None:
    with pytest.raises(InputError) as caught:
        arrays_of(inputs, TABLE)
    assert caught.value.details == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([[1.0, 2.0], [3.0]], "FP32 [-1], received rows of different lengths"),
        (["a"], "FP32, received text"),
        ([None, 1.0], "FP32, received a value of type NoneType"),
        ([decimal.Decimal(1)], "FP32, received a value of type Decimal"),
        ([datetime.date(2026, 1, 1)], "FP32, received a value of type date"),
        ([1 + 2j], "FP32, received complex128"),
        ([2**70], "FP32, received integers of more than 64 bits"),
        (object(), "FP32, received a value of type object"),
        (np.array(["a"]), "FP32, received text"),
        (np.array(["2026-01-01"], "M8[D]"), "FP32, received datetime64[D]"),
        (np.array([1e300]), "FP32, received 1e+300"),
    ],
    ids=str,
)
def test_values_that_are_no_numbers_are_refused(value: Any, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        arrays_of({"x": value}, VECTOR)
    assert caught.value.details.startswith("model 'm': input 'x': ")
    assert caught.value.details.endswith(f"expected {shown}")


def test_a_datatype_that_the_client_lacks_is_named() -> None:
    with pytest.raises(InputError, match="input 'x': the model declares datatype FP8, which this client cannot send"):
        arrays_of([1.0], model(x=("FP8", (-1,))))


def test_a_client_without_ml_dtypes_says_what_bf16_needs() -> None:
    code = """if True:
        import sys
        sys.modules["ml_dtypes"] = None
        import numpy as np
        from gnomon_client.casting import cast
        from gnomon_client.errors import InputError
        from gnomon_protos.tensors import TensorError, from_raw
        for call in (lambda: cast(np.ones(1), "BF16", "x"), lambda: from_raw("BF16", [1], b"00")):
            try:
                call()
            except (InputError, TensorError) as error:
                print(error)
        print(cast(np.ones(1), "FP16", "here"))
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.splitlines() == [
        "INVALID_ARGUMENT: x: the model declares datatype BF16, which this client cannot send; pip install ml_dtypes",
        "BF16 needs the package ml_dtypes, which is not installed",
        "[1.]",
    ]


def test_bfloat16_is_cast_like_any_float() -> None:
    values = np.array([1.0, -2.5], np.float32)
    halves = cast(values, "BF16", "here")
    assert halves.dtype == FIXED["BF16"]
    assert cast(halves, "BF16", "here") is halves
    assert cast(halves, "FP64", "here").tolist() == [1.0, -2.5]
    with pytest.raises(InputError, match="here: expected INT64, received BF16; round and cast it first"):
        cast(halves, "INT64", "here")


def test_bytes_keep_the_nulls_at_their_ends() -> None:
    assert values_of([b"a\0", b"\0"], model(x=("BYTES", (-1,)))) == {"x": [b"a\0", b"\0"]}


@pytest.mark.parametrize("dtype", [np.dtype("U5"), np.dtype("S5"), np.dtype(object), np.dtypes.StringDType()], ids=str)
def test_arrays_of_text_of_every_kind_are_text(dtype: Any) -> None:
    array = cast(np.array(["ab", "c"], dtype), "BYTES", "here")
    assert array.dtype == object
    assert [getattr(item, "decode", lambda item=item: item)() for item in array] == ["ab", "c"]


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        (np.array([1.5]), "INT64"),
        (np.array([1.0]), "BOOL"),
        (np.array([1]), "BOOL"),
        (np.array([1]), "BYTES"),
        (np.array([True]), "BYTES"),
        (np.array([1j]), "FP64"),
    ],
)
def test_a_cast_that_would_change_the_meaning_is_refused(values: Any, datatype: str) -> None:
    with pytest.raises(InputError, match=f"^INVALID_ARGUMENT: here: expected {datatype}, received "):
        cast(values, datatype, "here")


@given(data=st.data())
def test_integers_are_cast_if_and_only_if_every_value_fits(data: Any) -> None:
    source, target = (FIXED[data.draw(st.sampled_from(INTEGERS))] for _ in range(2))
    limits = np.iinfo(source)
    values = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=1))
    array = np.array(values, source)
    datatype = next(name for name, dtype in FIXED.items() if dtype == target)
    wanted = np.iinfo(target)
    outside = [value for value in values if not wanted.min <= value <= wanted.max]
    if not outside:
        assert cast(array, datatype, "here").tolist() == values
        return
    index = values.index(outside[0])
    with pytest.raises(InputError) as caught:
        cast(array, datatype, "here")
    assert caught.value.details == f"here: element {index}: expected {datatype}, received {outside[0]}"


@given(values=st.lists(st.floats()), datatype=st.sampled_from(["FP16", "BF16", "FP32", "FP64"]))
def test_floats_are_rounded_but_never_made_infinite(values: list[float], datatype: str) -> None:
    array = np.array(values, np.float64)
    largest = {"FP16": 65504.0, "BF16": 3.3895313892515355e38}.get(datatype, float(np.finfo(np.float64).max))
    if datatype == "FP32":
        largest = float(np.finfo(np.float32).max)
    try:
        result = cast(array, datatype, "here")
    except InputError:
        assert any(abs(value) > largest for value in values if np.isfinite(value))
    else:
        assert result.dtype == FIXED[datatype]
        np.testing.assert_array_equal(np.isinf(result), np.isinf(array))


def test_an_array_of_the_declared_type_is_not_copied() -> None:
    array = np.zeros(3, np.float32)
    assert cast(array, "FP32", "here") is array


@pytest.mark.parametrize("datatype", [*FIXED, "BYTES"])
def test_an_empty_list_fits_every_type(datatype: str) -> None:
    ((_, array),) = arrays_of([], model(x=(datatype, (-1,))))
    assert array.size == 0
    assert array.dtype == FIXED.get(datatype, np.dtype(object))
