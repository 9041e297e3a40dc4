"""gnomon's wire contracts: the generated messages of inference, control and manifest, and the one tensor codec."""
