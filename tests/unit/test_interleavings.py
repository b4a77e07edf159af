"""Interleavings of everything that happens to a catalogue, on the pure rules."""

from __future__ import annotations

from catalogue_machine import CatalogueMachine
from hypothesis import settings

TestInterleavings = CatalogueMachine.TestCase
# Some thousand more are run by tests/chaos.
TestInterleavings.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
