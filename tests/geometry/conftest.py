"""Hypothesis for the laws of geometry: the same examples each run, no time limit on busy machines."""

from hypothesis import settings

settings.register_profile("geometry", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("geometry")
