"""The speed an estimate takes from the ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.tables.ledger import Ledger, Run, State
from pipeline.tagging.estimate import measured_speed


class Published(Ledger):
    """A ledger with these counts of published runs, oldest first; each tagged for ten seconds."""

    def __init__(self, *counts: dict[str, int]) -> None:
        self._runs = [
            Run(
                run_id=f"night-{number}",
                run_seq=number,
                change=1,
                job="tag_nightly",
                state="published",
                as_of=datetime(2026, 1, 1, tzinfo=UTC),
                manifest_digest="",
                model_version="m",
                taxonomy_version="t",
                config="{}",
                counts={"slots": 2, **one},
                timings={"tag": 10.0},
            )
            for number, one in enumerate(counts)
        ]

    def in_state(self, state: State) -> list[Run]:
        assert state == "published"
        return self._runs


@pytest.mark.parametrize(
    ("counts", "speed"),
    [
        ([], None),
        ([{"scored": 0}], None),
        ([{"scored": 400}], 20.0),
        ([{"scored": 200}, {"scored": 400}], 20.0),
        ([{"scored": 400, "recalled": 40}], 18.0),
        # Much of the time went into images that were only compared, or before a kill.
        ([{"scored": 1_000_010, "recalled": 1_000_000}], None),
        ([{"scored": 4, "recalled": 6}], None),
        ([{"scored": 400}, {"scored": 4, "recalled": 6}], 20.0),
    ],
)
def test_speed_is_that_of_the_latest_run_that_was_about_the_model(
    counts: list[dict[str, int]], speed: float | None
) -> None:
    assert measured_speed(Published(*counts), "m") == speed
    assert measured_speed(Published(*counts), "another") is None
