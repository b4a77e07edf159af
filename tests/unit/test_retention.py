"""Which runs' facts may go: never what may still be published, or what the audit compares with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.tables.retention import Change, expired_runs, published_runs

NOW = datetime(2026, 3, 31, tzinfo=UTC)
MONTH = timedelta(days=30)


def change(
    run_id: str, state: str, *, days_ago: float = 90, number: int = 1, job: str = "tag_nightly"
) -> Change:
    return Change(
        run_id=run_id,
        run_seq=None if state == "started" else int(run_id.rsplit("-", maxsplit=1)[-1]),
        change=number,
        job=job,
        state=state,
        at=NOW - timedelta(days=days_ago),
    )


@pytest.mark.parametrize(
    ("state", "goes"),
    [
        ("started", False),
        ("staged", False),
        ("held", False),
        ("publishing", False),
        ("published", True),
        ("failed", True),
        ("discarded", True),
    ],
)
def test_only_runs_that_are_over_expire(state: str, goes: bool) -> None:
    changes = [change("run-1", state, number=2), change("run-2", "published")]

    assert expired_runs(changes, before=NOW - MONTH) == (["run-1"] if goes else [])


def test_the_latest_published_run_of_each_job_stays() -> None:
    changes = [
        change("a-1", "published"),
        change("b-2", "published", job="backfill_catalog"),
        change("a-3", "published"),
        change("a-4", "failed"),
    ]

    assert expired_runs(changes, before=NOW - MONTH) == ["a-1", "a-4"]
    assert published_runs(changes) == ["a-1", "b-2", "a-3"]


def test_the_last_change_counts_whatever_order_rows_are_read_in() -> None:
    changes = [
        change("run-1", "published", number=4, days_ago=29),
        change("run-1", "started", number=1),
        change("run-2", "started", number=3),  # a discarded name that was started again
        change("run-2", "failed", number=2),
        change("run-9", "published"),
    ]

    assert expired_runs(changes, before=NOW - MONTH) == []
    assert expired_runs([], before=NOW) == []


def test_a_run_on_the_day_itself_stays() -> None:
    changes = [change("run-1", "failed", days_ago=30), change("run-2", "failed", days_ago=30.1)]

    assert expired_runs(changes, before=NOW - MONTH) == ["run-2"]
