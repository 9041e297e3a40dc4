"""Models and rows for the converter tests, trained in a moment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from gnomon_protos.tensors import Array

ROWS = 1200
TRAINING = 600


def numbers(seed: int = 0) -> tuple[Array, Array]:
    """Returns float32 rows, and labels 0 and 1 that depend on them."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, 4)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] + random.normal(size=ROWS) > 0).astype(int)


def frame() -> tuple[pd.DataFrame, Array]:
    """Returns rows with numbers, whole numbers and text, some of them missing, and text labels."""
    x, y = numbers()
    random = np.random.default_rng(1)
    rows = pd.DataFrame(
        {
            "air time": x[:, 0],
            "stops": random.integers(0, 5, ROWS),
            "carrier": random.choice(["AA", "UA", "DL"], ROWS),
            "label": random.choice(["Zürich", "Genève"], ROWS),
        }
    )
    rows.loc[3:40, "air time"] = np.nan
    rows.loc[20:90, "carrier"] = None
    return rows, np.array(["early", "late"])[y]


def mixed_pipeline(text: Any = None, model: Any = None) -> Any:
    """Returns an untrained pipeline over the columns of `frame`."""
    text = text or OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scaled = make_pipeline(SimpleImputer(), StandardScaler())
    columns = [("numbers", scaled, ["air time", "stops"]), ("text", text, ["carrier", "label"])]
    return make_pipeline(ColumnTransformer(columns), model or LogisticRegression())
