"""The plot: `python benchmarks/plot.py OUT.svg RESULTS...` draws requests per second over requests in flight."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import contenders as c
from results import Figure, Results, read

SUITE: Final = "closed"
WIDTH, HEIGHT = 300, 240
LEFT, TOP, GAP = 60, 60, 70
LINE: Final = 18
# Who is drawn, and how; others would hide them.
COLOURS: Final = {
    c.GNOMON.name: "#c2410c",
    c.EQUAL.name: "#f59e0b",
    "Triton, dynamic batching": "#1d4ed8",
    "Triton": "#60a5fa",
    c.THREADS.name: "#4b5563",
    c.ASYNCIO.name: "#9ca3af",
    "MLServer": "#047857",
    "KServe": "#34d399",
}


class Panel:
    """One model: both axes are logarithmic."""

    def __init__(self, results: Results, model: str, column: int) -> None:
        self._results, self._model = results, model
        self._x, self._y = LEFT + column * (WIDTH + GAP), TOP
        self._names = [name for name in COLOURS if results.loads(SUITE, model, name)]
        points = [point for name in self._names for point in self._points(name)]
        self._flights = sorted({in_flight for in_flight, _ in points})
        self._low = math.floor(math.log10(min(figure.low for _, figure in points)))
        self._high = math.ceil(math.log10(max(figure.high for _, figure in points)))

    def shapes(self) -> Iterator[str]:
        """Yields the elements of the panel."""
        yield _text(self._x, self._y - 10, self._model, weight="bold")
        for decade in range(self._low, self._high + 1):
            y = self._height(10.0**decade)
            yield f'<line x1="{self._x}" x2="{self._x + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>'
            yield _text(self._x - 6, y + 4, f"{10**decade:,}", anchor="end")
        for in_flight in self._flights:
            yield _text(self._across(in_flight), self._y + HEIGHT + 16, str(in_flight), anchor="middle")
        for name in self._names:
            yield from self._line(name)

    def _line(self, name: str) -> Iterator[str]:
        points, colour = self._points(name), COLOURS[name]
        path = " ".join(f"{self._across(flight):.1f},{self._height(figure.median):.1f}" for flight, figure in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for flight, figure in points:
            x, y = self._across(flight), self._height(figure.median)
            low, high = self._height(figure.low), self._height(figure.high)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>'
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'

    def _points(self, name: str) -> list[tuple[int, Figure]]:
        found = []
        for load in self._results.loads(SUITE, self._model, name):
            figure = self._results.figure((SUITE, self._model, name, load), lambda one: one.per_second)
            if figure is not None:
                found.append((load.in_flight, figure))
        return found

    def _across(self, in_flight: int) -> float:
        return self._x + WIDTH * self._flights.index(in_flight) / max(1, len(self._flights) - 1)

    def _height(self, per_second: float) -> float:
        share = (math.log10(per_second) - self._low) / (self._high - self._low)
        return self._y + HEIGHT * (1 - share)


def draw(results: Results) -> str:
    """Returns the whole as SVG."""
    models = results.models(SUITE)
    size = f'width="{LEFT + len(models) * (WIDTH + GAP)}" height="{TOP + HEIGHT + 60 + LINE * len(COLOURS)}"'
    shapes = [shape for column, model in enumerate(models) for shape in Panel(results, model, column).shapes()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
            f'<rect {size} fill="white"/>',
            _text(LEFT, 22, "requests per second over requests in flight: medians, with lowest and highest"),
            *shapes,
            *_legend(TOP + HEIGHT + 44),
            "</svg>\n",
        ]
    )


def _legend(top: float) -> Iterator[str]:
    for row, (name, colour) in enumerate(COLOURS.items()):
        y = top + row * LINE
        yield f'<line x1="{LEFT}" x2="{LEFT + 24}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
        yield _text(LEFT + 32, y + 4, name)


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style} fill="#111827">{text}</text>'


def main(arguments: Sequence[str]) -> int:
    """Runs the command line."""
    out, *files = map(Path, arguments)
    try:
        out.write_text(draw(read(files)))
    except (OSError, ValueError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
