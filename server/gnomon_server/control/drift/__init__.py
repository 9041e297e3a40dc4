"""Drift: how the traffic of a primary differs from the reference that it was converted with."""
