"""The one error of the converters."""

from __future__ import annotations


class ConversionError(ValueError):
    """A model that cannot be published; one line that says what is wrong and how to mend it."""


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's error, short enough to stand inside a line of ours."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]
