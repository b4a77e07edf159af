"""The lease of a table set in an object store: one row of a Delta table that expires.

Delta's commit protocol decides between two takers: both change the same row, so one of them
conflicts and has not taken it. A thread of the holder renews it; a holder that was killed, or that
cannot reach the storage, loses it when it expires.

Clocks: a holder stops a tenth of ``expiry_s`` before another one may take over, which is how far
the clocks of two machines may differ.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from delta.tables import DeltaTable
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import IntegerType, StringType, StructField, StructType, TimestampType

from pipeline.config import LeaseConfig
from pipeline.errors import LeaseError, TablesError
from pipeline.tables.storage_errors import CONFLICTS, storage_errors
from pipeline.tables.store import TableSet

TABLE = "lease"
POLL_S = 5.0
RENEWALS = 3  # in the time of an expiry: two may fail
CLOCK_MARGIN = 0.1  # of expiry_s

Clock = Callable[[], datetime]

_COLUMNS = StructType(
    [
        StructField("id", IntegerType(), nullable=False),
        StructField("holder", StringType()),
        StructField("token", StringType()),
        StructField("since", TimestampType()),
        StructField("expires_at", TimestampType()),
    ]
)
_ROW = 1  # the id of the one row

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The row as it stands.

    Attributes:
        holder: Who holds the lease.
        token: Of this holding, and of no other.
        since: When it was taken, by the holder's clock.
        expires_at: When it ends unless it is renewed, by the holder's clock.
    """

    holder: str
    token: str
    since: datetime
    expires_at: datetime


@contextmanager
def hold_table_lease(
    tables: TableSet,
    holder: str,
    config: LeaseConfig,
    *,
    now: Clock = lambda: datetime.now(UTC),
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[TableLease]:
    """Hold the lease of a table set while the block runs, and renew it meanwhile.

    Args:
        tables: The table set.
        holder: Who asks, for those who wait: a run_id.
        config: How long to wait, and when a silent holder's lease ends.
        now: The clock.
        sleep: Waits.

    Raises:
        LeaseError: Another one still holds it after the wait. Names it.
        TablesError: The storage refuses.
    """
    lease = TableLease(tables, holder, config, now=now)
    lease.wait(sleep)
    stop = threading.Event()
    renewing = threading.Thread(target=lease.keep_renewing, args=(stop,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        stop.set()
        renewing.join()
        lease.release()


class TableLease:
    """The row of a Delta table that says who may publish.

    Args:
        tables: The table set that holds the table.
        holder: Who asks.
        config: ``wait_s`` and ``expiry_s``.
        now: The clock.
    """

    def __init__(self, tables: TableSet, holder: str, config: LeaseConfig, *, now: Clock) -> None:
        # A session of its own: notes and settings of the job's commits are not the lease's.
        self._tables = tables.in_new_session()
        self._place = tables.place(TABLE)
        self._told = f"{holder}, process {os.getpid()} on {socket.gethostname()}"
        self._config = config
        self._now = now
        self._token = uuid.uuid4().hex

    def wait(self, sleep: Callable[[float], None]) -> None:
        """Take the lease, waiting for its holder as long as ``lease.wait_s`` says.

        Raises:
            LeaseError: It did not become free.
        """
        self._create()
        give_up = self._now() + timedelta(seconds=self._config.wait_s)
        waits = False
        while not self.take():
            left = (give_up - self._now()).total_seconds()
            standing = self.read()
            if left <= 0:
                raise LeaseError(
                    "another job is publishing to the tables",
                    where=self._place,
                    got=_in_words(standing),
                    todo="start this run again when it has ended, or wait longer with "
                    "--lease.wait_s",
                )
            if not waits:
                log.warning("waiting up to %.0f s for %s", left, _in_words(standing))
            waits = True
            sleep(min(left, POLL_S))

    def take(self) -> bool:
        """Take the lease where it is free or expired; whether it is ours now."""
        standing, now = self.read(), self._now()
        if standing is not None and standing.expires_at > now:
            return self._is_ours(standing)
        row = self._tables.spark.createDataFrame(
            [(_ROW, self._told, self._token, now, self._expiry())], _COLUMNS
        )
        take: dict[str, str | Column] = {name: f"s.{name}" for name in _COLUMNS.names}
        try:
            with self._changing("taking"):
                (
                    self._table()
                    .alias("t")
                    .merge(row.alias("s"), "t.id = s.id")
                    # Said once more: the row may have changed since it was read.
                    .whenMatchedUpdate("t.token IS NULL OR t.expires_at <= s.since", take)
                    .whenNotMatchedInsert(values=take)
                    .execute()
                )
        except CONFLICTS:
            return False
        return self._is_ours(self.read())

    def check(self) -> None:
        """Go on only if the lease is ours and will be for a while; reads the row again."""
        standing, now = self.read(), self._now()
        margin = timedelta(seconds=self._config.expiry_s * CLOCK_MARGIN)
        if standing is None or not self._is_ours(standing):
            got = _in_words(standing)
        elif now >= standing.expires_at - margin:
            got = f"it was not renewed in time and ends at {_text(standing.expires_at)}"
        else:
            return
        raise LeaseError(
            "the lease of the tables was lost",
            where=self._place,
            got=got,
            todo="start the run again: it goes on where it was",
        )

    def keep_renewing(self, stop: threading.Event) -> None:
        """Renew until told to stop. A renewal that fails is logged and tried again at its time."""
        while not stop.wait(self._config.expiry_s / RENEWALS):
            try:
                self.renew()
            # Whatever the storage or Spark says: the lease ends by itself, and check() sees it.
            except (TablesError, PySparkException, Py4JError) as error:
                log.warning("the lease of the tables could not be renewed: %s", error)

    def renew(self) -> None:
        """Move the end of the lease, if it is still ours."""
        with self._changing("renewing"):
            self._table().update(self._ours(), {"expires_at": F.lit(self._expiry())})

    def release(self) -> None:
        """Free the lease, if it is still ours. Where that fails it ends by itself."""
        nothing: dict[str, str | Column] = {
            field.name: F.lit(None).cast(field.dataType) for field in _COLUMNS if field.nullable
        }
        try:
            if not self._is_ours(self.read()):  # no commit for nothing
                return
            with self._changing("releasing"):
                self._table().update(self._ours(), nothing)
        except (TablesError, PySparkException, Py4JError) as error:
            log.warning("the lease of the tables could not be released: %s", error)

    def read(self) -> Holding | None:
        """Who holds the lease, expired or not; None: nobody."""
        micros = [F.unix_micros(name).alias(name) for name in ("since", "expires_at")]
        with storage_errors(f"reading the lease {self._place}"):
            rows = self._tables.read(TABLE).select("holder", "token", *micros).collect()
        if not rows or rows[0]["token"] is None:
            return None
        since, expires_at = (_moment(rows[0][name]) for name in ("since", "expires_at"))
        return Holding(
            holder=rows[0]["holder"], token=rows[0]["token"], since=since, expires_at=expires_at
        )

    def _create(self) -> None:
        """Make the table where it does not exist. Two may do so at once: the first one counts."""
        if self._tables.exists(TABLE):
            return
        self._tables.clear_half_made(TABLE)
        try:
            with self._changing("creating"):
                (
                    self._tables.builder(TABLE)
                    .comment("Who publishes to the tables of this set; one row")
                    .addColumns(_COLUMNS)
                    # Two takers conflict whatever else Delta would allow them.
                    .property("delta.isolationLevel", "Serializable")
                    .property("delta.enableDeletionVectors", "false")
                    .execute()
                )
        except (TablesError, PySparkException):
            if not self._tables.exists(TABLE):
                raise

    @contextmanager
    def _changing(self, doing: str) -> Iterator[None]:
        """Tell errors of the storage. No lock of commits: on this machine there is a file lease."""
        with storage_errors(f"{doing} the lease {self._place}"):
            yield

    def _table(self) -> DeltaTable:
        return self._tables.delta(TABLE)

    def _is_ours(self, standing: Holding | None) -> bool:
        return standing is not None and standing.token == self._token

    def _ours(self) -> str:
        return f"token = '{self._token}'"

    def _expiry(self) -> datetime:
        return self._now() + timedelta(seconds=self._config.expiry_s)


def _moment(micros: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _in_words(standing: Holding | None) -> str:
    if standing is None:
        return "nobody holds it"
    return f"{standing.holder}, since {_text(standing.since)}"
