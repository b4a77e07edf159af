"""A whole ablation on tiny sizes: killed, started again, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT_S = 400
KEPT = 3


def is_alive(process: str) -> bool:
    stat = Path("/proc") / process / "stat"
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_ablation_goes_on_where_it_was(tmp_path: Path) -> None:
    output, results = tmp_path / "out", tmp_path / "out" / "results"
    command = [
        *(sys.executable, str(ROOT / "benchmarks" / "ablation.py"), "--quick"),
        *("--output", str(output), "--processes", "2"),
    ]
    first = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + WAIT_S
    while len(list(results.glob("*.json"))) < KEPT:
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it trained too little"
        time.sleep(0.05)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert len(children) >= 2
    first.kill()
    first.wait()
    while any(is_alive(child) for child in children):
        assert time.monotonic() < deadline, "a killed ablation goes on in its processes"
        time.sleep(0.05)
    kept = {path: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert len(kept) >= KEPT

    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "Warning" not in second.stderr
    assert "min left" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    report = json.loads(second.stdout.splitlines()[-1])
    assert report == json.loads((output / "report.json").read_text())
    assert len(report["finalists"]) == 6
    assert {row["seeds"] for row in report["finalists"]} == {2}
    assert len(report["differences"]) == 15
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (output / "page.md").read_text()
    assert all(row["variant"] in page for row in report["finalists"])
    assert all(word in page for word in report["words"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_ablation_of_modalities_started_again_trains_nothing_twice(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [
        *(sys.executable, str(ROOT / "benchmarks" / "cma_ablation.py"), "--quick"),
        *("--output", str(output), "--processes", "2"),
    ]
    reports = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        reports.append(json.loads(done.stdout.splitlines()[-1]))
    assert reports[0] == reports[1]
    assert len(reports[0]["results"]) == 12
    assert len(reports[0]["recall_at_precision"]) == 6
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (output / "page.md").read_text()
    assert all(claim["what"] in page for claim in reports[0]["claims"])
