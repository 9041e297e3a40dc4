"""What holds for every test."""

from hypothesis import settings

# A busy machine is no reason to fail: no test judges by absolute time.
settings.register_profile("gnomon", deadline=None)
settings.load_profile("gnomon")
