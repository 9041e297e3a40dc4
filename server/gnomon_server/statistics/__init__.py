"""What counts say about a mean: evidence, bounds and forecasts that hold however often they are looked at."""
