"""The lease as a row of a Delta table: one holder, who may vanish, and clocks that tests move."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from deltalake import DeltaTable

from pipeline.config import LeaseConfig
from pipeline.errors import LeaseError
from pipeline.tables import lease_table
from pipeline.tables.create import create_table
from pipeline.tables.lease import hold_lease
from pipeline.tables.lease_table import TableLease
from pipeline.tables.merge import merge_rows
from pipeline.tables.schemas import LABELS
from pipeline.tables.store import TableSet

CONFIG = LeaseConfig(wait_s=0, expiry_s=300)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(scope="module")
def tables(spark, tmp_path_factory) -> TableSet:
    return TableSet(spark, str(tmp_path_factory.mktemp("lease") / "tables"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def taker(tables, clock):
    """Makes takers; what they left is freed after the test."""
    made = []

    def make(holder: str, config: LeaseConfig = CONFIG) -> TableLease:
        made.append(TableLease(tables, holder, config, now=clock))
        return made[-1]

    yield make
    for lease in made:
        lease.release()


def row_of(tables: TableSet) -> dict:
    """A second reader: delta-rs, not Spark."""
    (row,) = DeltaTable(tables.path("lease")).to_pyarrow_table().to_pylist()
    return row


def test_two_that_take_it_at_once_are_one_holder_and_one_who_waits(tables, clock):
    # The first of all: the table does not exist yet, either.
    leases = [TableLease(tables, f"run {name}", CONFIG, now=clock) for name in ("one", "two")]
    together = threading.Barrier(2)

    def take(lease: TableLease) -> bool:
        together.wait()
        try:
            lease.wait(lambda _seconds: None)
        except LeaseError:
            return False
        return True

    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            took = list(threads.map(take, leases))
            assert sorted(took) == [False, True]
            holder = leases[took.index(True)]
            holder.check()
            assert row_of(tables)["token"] == holder.read().token
            holder.release()
    assert row_of(tables)["token"] is None


def test_the_one_who_waits_in_vain_is_told_who_holds_it_and_since_when(taker, clock):
    one, two = taker("run one"), taker("run two")
    one.wait(pytest.fail)
    clock.pass_seconds(60)
    with pytest.raises(LeaseError, match=r"got run one, process .*, since 2026-03-01T12:00:00"):
        two.wait(pytest.fail)
    one.check()


def test_the_one_who_waits_long_enough_gets_it(taker, clock):
    one = taker("run one")
    two = taker("run two", LeaseConfig(wait_s=60, expiry_s=300))
    one.wait(pytest.fail)
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.pass_seconds(seconds)
        one.release()

    two.wait(sleep)
    assert waited == [lease_table.POLL_S]
    two.check()


def test_an_expired_lease_is_taken_over_and_its_old_holder_stops(tables, taker, clock):
    one, two = taker("run one"), taker("run two")
    one.wait(pytest.fail)
    clock.pass_seconds(269)
    one.check()
    clock.pass_seconds(2)  # within the margin for clocks that differ
    with pytest.raises(LeaseError, match="not renewed in time"):
        one.check()
    assert not two.take()
    clock.pass_seconds(30)
    assert two.take()
    with pytest.raises(LeaseError, match=r"was lost .*got run two"):
        one.check()
    one.renew()
    one.release()
    assert row_of(tables)["token"] == two.read().token
    two.check()


def test_a_renewed_lease_goes_on(taker, clock):
    one, two = taker("run one"), taker("run two")
    one.wait(pytest.fail)
    for _ in range(2):
        clock.pass_seconds(200)
        one.renew()
        one.check()
    assert not two.take()
    assert one.read().since == datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_thread_renews_it_and_a_failed_renewal_is_logged(tables, monkeypatch, caplog):
    renewed = threading.Event()
    renew, failures = TableLease.renew, iter([True])

    def fail_once(self):
        if next(failures, False):
            tables.read("no such table")
        renew(self)
        renewed.set()

    monkeypatch.setattr(TableLease, "renew", fail_once)
    monkeypatch.setattr(TableSet, "local_folder", None)  # as in an object store
    elsewhere = TableSet(tables.spark, tables.location)
    with hold_lease(elsewhere, "run one", LeaseConfig(wait_s=0, expiry_s=6)) as lease:
        first = lease.read()
        assert renewed.wait(30)
        lease.check()
        assert lease.read().expires_at > first.expires_at
    assert "could not be renewed" in caplog.text
    assert lease.read() is None


def test_a_lost_lease_stops_a_publish_before_its_next_commit(spark, tables, taker, clock):
    create_table(tables, LABELS)
    one, two = taker("run one"), taker("run two")
    one.wait(pytest.fail)
    rows = spark.createDataFrame(
        [("t1", "scene", "multi_label", "bed", "bed", [], 0.5)], LABELS.columns
    )
    merge_rows(tables, LABELS, rows, values=LABELS.key, note="one", lease=one)
    clock.pass_seconds(301)
    assert two.take()
    with pytest.raises(LeaseError, match="was lost"):
        merge_rows(tables, LABELS, rows, values=LABELS.key, note="two", lease=one)
    assert DeltaTable(tables.path("labels")).version() == 1


def test_tables_on_this_machine_take_the_lock_of_a_file(tmp_path, spark):
    here = TableSet(spark, str(tmp_path / "here"))
    with hold_lease(here, "run one", CONFIG) as lease:
        lease.check()
    assert not here.exists("lease")
