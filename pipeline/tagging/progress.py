"""Progress of staging on stderr: images, images/s and time left, counted in finished tasks.

Asks Spark's status tracker, so that nothing is added to the data's way.
"""

from __future__ import annotations

import threading

from pyspark.sql import SparkSession
from tqdm import tqdm

from pipeline.logs import BarStream
from pipeline.tagging.stage import Progress

POLL_S = 1.0
LOG_INTERVAL_S = 30.0  # in a log file a line now and then is enough


class TaskProgress(Progress):
    """A progress bar that follows the tasks of the chunk that is being tagged.

    Args:
        spark: The session whose jobs are followed.
        run_id: Name of the run; jobs are grouped under it.
    """

    def __init__(self, spark: SparkSession, run_id: str) -> None:
        self._context = spark.sparkContext
        self._group = f"mumic run {run_id}"
        self._bar: tqdm[None] | None = None
        self._is_of_many = False
        self._done_before = 0
        self._chunk = (0, 1)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def expect(self, images: int) -> None:
        """Show one bar for several runs."""
        self._is_of_many = True
        self._show_bar(images)

    def begin(self, images: int) -> None:
        """Show the bar, unless there is nothing to do."""
        if images == 0:
            return
        if self._bar is None:
            self._show_bar(images)
        self._stop.clear()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._thread.start()

    def _show_bar(self, images: int) -> None:
        stream = BarStream()
        interval = 0.5 if stream.isatty() else LOG_INTERVAL_S
        self._bar = tqdm(
            total=images,
            unit="image",
            desc="tagging",
            file=stream,
            mininterval=interval,
            maxinterval=interval,
            dynamic_ncols=True,
        )

    def chunk(self, images: int, tasks: int) -> None:
        """Follow the next chunk; the one before is done."""
        self._done_before += self._chunk[0]
        self._chunk = (images, tasks)
        # A group of its own: the tracker would find the last chunk's tasks under a shared one.
        self._context.setJobGroup(f"{self._group} {self._done_before}", "tagging images")

    def end(self) -> None:
        """Take the bar away; where staging was cut short it says how far it came."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self._show()
        if not self._is_of_many:
            self.finish()
        # What follows is no tagging.
        for group in ("spark.jobGroup.id", "spark.job.description"):
            self._context.setLocalProperty(group, None)  # type: ignore[arg-type]

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self._show()

    def _show(self) -> None:
        if self._bar is None:
            return
        images, tasks = self._chunk
        done = self._done_before + round(images * self._finished_tasks(tasks) / tasks)
        self._bar.update(min(done, self._bar.total) - self._bar.n)

    def _finished_tasks(self, tasks: int) -> int:
        """Finished tasks of the chunk's stage: the one with as many tasks as the chunk has."""
        tracker = self._context.statusTracker()
        finished = 0
        for job in tracker.getJobIdsForGroup(f"{self._group} {self._done_before}"):
            info = tracker.getJobInfo(job)
            for stage in info.stageIds if info else ():
                stage_info = tracker.getStageInfo(stage)
                if stage_info is not None and stage_info.numTasks == tasks:
                    finished = max(finished, stage_info.numCompletedTasks)
        return finished
