"""The source of a conversion: a model and its sample, read from files or from a module."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gnomon_converters.errors import ConversionError, first_line
from gnomon_converters.frameworks import missing

if TYPE_CHECKING:
    import pandas as pd

ATTRIBUTE: Final = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Source:
    """A model as its owner keeps it."""

    model: Any
    # "sha256:..." of the file; empty for a module's attribute.
    digest: str


def load(source: str) -> Source:
    """Loads a joblib or pickle file, or "module:attribute" with the working directory on the path.

    Either runs code of whoever made it. Raises ConversionError for one that is not there or cannot be loaded.
    """
    path = Path(source)
    if path.is_file():
        return Source(_unpickle(path), f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
    if ATTRIBUTE.fullmatch(source):
        return Source(_attribute(source), "")
    raise ConversionError(f"source: expected a joblib or pickle file or module:attribute, received {source!r}")


def read_sample(file: str, labels: str | None) -> tuple[Any, Any]:
    """Returns the rows of a .csv, .parquet or .npy file, and the column `labels` taken out of them, or None.

    Raises ConversionError for a file that cannot be read, and for a column that it does not have.
    """
    rows = _rows(Path(file))
    if labels is None:
        return rows, None
    columns = list(getattr(rows, "columns", ()))
    if labels not in columns:
        raise ConversionError(f"labels: expected a column of {file} ({', '.join(columns)}), received {labels!r}")
    return rows.drop(columns=labels), rows[labels].to_numpy()


def read_reference(file: str, labels: str | None, time: str | None, sample: Any) -> tuple[Any, Any]:
    """Returns the rows of a file as those of the sample are, and its column `time`, or None.

    Raises ConversionError for a file that cannot be read, and where it has no such column.
    """
    rows = _rows(Path(file), "reference")
    columns = list(getattr(rows, "columns", ()))
    if time is not None and time not in columns:
        raise ConversionError(f"time: expected a column of {file} ({', '.join(columns)}), received {time!r}")
    times = None if time is None else rows[time].to_numpy()
    kept = getattr(sample, "columns", ())
    beside = [name for name in (labels, time) if name in columns and name not in kept]
    return rows.drop(columns=beside) if beside else rows, times


def _unpickle(path: Path) -> Any:
    try:
        import joblib
    except ModuleNotFoundError as error:
        raise missing(error) from None
    try:
        return joblib.load(path)
    except ModuleNotFoundError as error:
        reason = f"{path} needs {error.name}, which is not installed here"
        raise ConversionError(f"{reason} (scikit-learn comes with pip install 'gnomon[convert]')") from None
    except Exception as error:  # noqa: BLE001 - unpickling runs any code, which fails in any way
        raise ConversionError(f"{path} is no joblib or pickle file that loads here: {first_line(error)}") from None


def _attribute(source: str) -> Any:
    module, _, attribute = source.partition(":")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        value: Any = importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - importing runs any code, which fails in any way
        raise ConversionError(f"module {module} does not import: {first_line(error)}") from None
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ConversionError(f"module {module} has no {attribute}")
        value = getattr(value, part)
    return value


def _rows(path: Path, what: str = "sample") -> Any:
    readers = {".csv": _csv, ".parquet": _parquet, ".npy": _npy}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ConversionError(f"{what}: expected a file ending in {', '.join(readers)}, received {str(path)!r}")
    try:
        return reader(path)
    except ModuleNotFoundError as error:
        raise missing(error) from None
    except (OSError, ValueError, ImportError) as error:
        raise ConversionError(f"{path} cannot be read: {first_line(error)}") from None


def _csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(path)


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(path)


def _npy(path: Path) -> Any:
    import numpy as np

    return np.load(path, allow_pickle=False)
