"""Versions of models: where they lie, what they declare, how they load and run."""
