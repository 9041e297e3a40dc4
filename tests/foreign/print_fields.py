"""Prints as JSON what a generated module declares: `python print_fields.py MODULE`, in whichever environment has it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any


def fields(messages: Any) -> Iterator[tuple[str, str]]:
    """Yields each field's name, with its message's, and its number, type and cardinality on the wire."""
    for message in messages:
        for field in message.fields:
            kind = field.message_type.full_name if field.message_type else field.type
            yield f"{message.full_name}.{field.name}", f"{field.number} {kind} {field.label}"
        yield from fields(message.nested_types)


def main() -> None:
    """Prints the fields of every message and the types of every method."""
    file = importlib.import_module(sys.argv[1]).DESCRIPTOR
    found = dict(fields(file.message_types_by_name.values()))
    for service in file.services_by_name.values():
        for method in service.methods:
            found[method.full_name] = f"{method.input_type.full_name} {method.output_type.full_name}"
    print(json.dumps(found))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
