"""Thousands of interleavings on the pure rules: more of what tests/unit runs a hundred of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from catalogue_machine import CatalogueMachine


@pytest.mark.timeout(1800)
def test_nothing_that_must_hold_breaks_in_thousands_of_interleavings() -> None:
    thorough = settings(max_examples=2000, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(CatalogueMachine, settings=thorough)
