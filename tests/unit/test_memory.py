"""The memory of results: shared, bounded, and never in the way."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.models.memory import Memory, Remembered, name_of


def make_result(seed: int = 0, **options: object) -> Remembered:
    random = np.random.default_rng(seed)
    known = {
        "width": 640,
        "height": 480 + seed,
        "scores": random.random(5, np.float32),
        "embedding": random.random(8, np.float32),
        "source": "image",
        "modality_weights": None,
        "text_cut": None,
    }
    return Remembered(**known | options)


def assert_same(one: Remembered | None, other: Remembered) -> None:
    assert one is not None
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.embedding, other.embedding)
    for name in ("width", "height", "source", "modality_weights", "text_cut"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"source": "both", "text_cut": True, "modality_weights": {"Ä": {"text": 0.25}}},
        {"scores": np.zeros(0, np.float32)},
    ],
)
def test_what_is_kept_is_what_comes_back(tmp_path: Path, options: dict[str, object]) -> None:
    memory, result = Memory(tmp_path / "m", limit=10), make_result(**options)
    assert memory.recall("a") is None
    memory.remember([("a", result)])
    assert_same(memory.recall("a"), result)
    assert_same(Memory(tmp_path / "m", limit=10).recall("a"), result)  # as another process


def test_only_so_many_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", limit=5)
    for number in range(20):
        memory.remember([(str(number), make_result(number))])
    known = [number for number in range(20) if memory.recall(str(number)) is not None]
    assert known == [15, 16, 17, 18, 19]


def test_what_is_known_stays_as_it_is(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", limit=5)
    memory.remember([("a", make_result(1))])
    memory.remember([("a", make_result(2)), ("b", make_result(3))])
    assert_same(memory.recall("a"), make_result(1))
    assert_same(memory.recall("b"), make_result(3))


def test_threads_and_processes_share_it(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", limit=10_000)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
        "from pipeline.models.memory import Memory; from test_memory import make_result;"
        "memory = Memory(Path(sys.argv[1]), limit=10_000);"
        "[memory.remember([(f'process {n}', make_result(n))]) for n in range(200)]"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m"), str(Path(__file__).parent)]
    with subprocess.Popen(command) as process, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: memory.remember([(f"thread {n}", make_result(n))]), range(200)))
        assert process.wait(60) == 0
    for number in range(200):
        assert_same(memory.recall(f"thread {number}"), make_result(number))
        assert_same(memory.recall(f"process {number}"), make_result(number))


@pytest.mark.parametrize("what", ["folder", "no database", "missing folder"])
def test_a_file_that_cannot_be_used_is_told_and_missed_by_nobody(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m"
    if what == "folder":
        path.mkdir()
    elif what == "no database":
        path.write_bytes(b"something else entirely, and long enough" * 100)
    else:
        path = tmp_path / "none" / "m"
    with caplog.at_level(logging.WARNING):
        memory = Memory(path, limit=10)
        memory.remember([("a", make_result())])
        assert memory.recall("a") is None
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "images delivered twice are encoded twice"
    ]


def test_a_file_that_breaks_later_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(tmp_path / "m", limit=10)
    memory.remember([("a", make_result())])
    with sqlite3.connect(tmp_path / "m") as other:
        other.execute("DROP TABLE results")
    with caplog.at_level(logging.WARNING):
        assert memory.recall("a") is None
        memory.remember([("a", make_result())])
    assert len(caplog.records) == 1


def test_a_result_that_makes_no_sense_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(tmp_path / "m", limit=10)
    memory.remember([("a", make_result())])
    with sqlite3.connect(tmp_path / "m") as other:
        other.execute("UPDATE results SET rest = '{'")
    with caplog.at_level(logging.WARNING):
        assert memory.recall("a") is None
    assert len(caplog.records) == 1


def test_while_others_write_for_long_nothing_is_kept_and_nobody_gives_up(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", limit=10)
    other = sqlite3.connect(tmp_path / "m", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    memory.remember([("a", make_result())])
    other.execute("ROLLBACK")
    assert memory.recall("a") is None
    memory.remember([("b", make_result())])
    assert_same(memory.recall("b"), make_result())
    other.close()


def test_others_on_the_machine_cannot_read_it(tmp_path: Path) -> None:
    Memory(tmp_path / "m", limit=10)
    assert (tmp_path / "m").stat().st_mode & 0o077 == 0


def test_a_closed_memory_knows_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m", limit=10)
    memory.close()
    memory.close()
    memory.remember([("a", make_result())])
    assert memory.recall("a") is None


def test_texts_make_names_of_their_own() -> None:
    names = [name_of("ab", text) for text in (None, "", "a bed", "ein Bett 🛏", "\ud800")]
    assert len(set(names)) == len(names)
    assert name_of("ab", "a bed") == name_of("ab", "a bed")
    assert name_of("ab", None) == "ab"
