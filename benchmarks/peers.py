"""The job against the other ways of doing it: the same images, weights, machine and two cores.

    .venv/bin/python benchmarks/peers.py [--images 10000] [--rounds 5] [--megapixels 1]
        [--architecture benchmarks/tiny-vit-224.json] [--peers ray_data daft]

Peers: Ray Data, Daft, Spark's ``predict_batch_udf`` and MLflow's ``spark_udf``, each a script of
its own in ``peer_scripts`` that follows its documentation. All read the same manifest, run
open_clip's image tower in fp32 with the weights of one bundle, in batches of the same size, and
write ids and embeddings to Parquet; the job publishes tags as well. Ray Data and Daft run in
environments of their own, made by uv under ``.peers``, the other two in the project's. By default
the model is a tiny ViT, so that decoding is the limit; ``--architecture ViT-B-32`` makes it the
model.

``steady``: images/s from the beginning of the first image to the end of the last batch, as the
workers note it; of the job from the start of its first to the end of its last task, loading of the
model included. ``whole``: images/s from the start of the process to its end. ``cosine``: of a
peer's embeddings with the job's, and once more after subtracting the mean embedding; a peer below
0.99 is refused. Rounds are interleaved, the medians are the result, the last line as JSON; the
ratios are the job's to the fastest peer of the same round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray
from tag_throughput import ROOT, time_job, write_model, write_photos
from tqdm import tqdm

SCRIPTS = Path(__file__).with_name("peer_scripts")
ENVIRONMENTS = ROOT / ".peers"
PEERS = ("ray_data", "daft", "predict_batch_udf", "spark_udf")
OURS = "job"
CORES = 2
AGREEMENT = 0.99
TIMEOUT_S = 4 * 3600  # a peer that waits for ever for a CPU ends the benchmark
SIZES = {1: (1152, 864), 12: (4000, 3000)}
FIGURES = ("steady", "whole")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run: images/s, and what it wrote."""

    steady: float
    whole: float
    embeddings: Mapping[str, NDArray[np.float32]]


def find_uv() -> str:
    """Where uv is, as the Makefile looks for it.

    Raises:
        SystemExit: It is nowhere.
    """
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not Path(uv).exists():
        raise SystemExit("uv is neither on PATH nor in .uv/bin; run `make setup`, or install it")
    return uv


def make_environment(peer: str) -> Path:
    """The interpreter of a peer: the project's own, or that of a cached environment."""
    requirements = SCRIPTS / f"{peer}.txt"
    if not requirements.exists():
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer
    python, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        print(f"setting up {folder}", file=sys.stderr)
        uv = find_uv()
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(make, check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, "--requirement", str(requirements)], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def run_script(python: Path, script: str, folder: Path, **arguments: Path) -> float:
    """Seconds of a script, from the start of the process to its end."""
    environment = {**os.environ, "PYSPARK_PYTHON": str(python), "PYTHONPATH": str(SCRIPTS)}
    environment.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    command = [str(python), str(SCRIPTS / f"{script}.py")]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=TIMEOUT_S,
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"{script} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds


def read_steady(times: Path) -> float:
    """Images/s between the first beginning and the last end that the workers noted."""
    notes = [
        json.loads(line)
        for file in times.glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    began, ended = min(note[0] for note in notes), max(note[1] for note in notes)
    return float(sum(note[2] for note in notes) / (ended - began))


def read_embeddings(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Embeddings by image_id from a folder of Parquet files."""
    files = [str(path) for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts]
    rows = ds.dataset(files).to_table(columns=["image_id", "embedding"])
    vectors = rows["embedding"].to_pylist()
    ids = rows["image_id"].to_pylist()
    return {key: np.asarray(vector, np.float32) for key, vector in zip(ids, vectors, strict=True)}


def compare(
    ours: Mapping[str, NDArray[np.float32]], theirs: Mapping[str, NDArray[np.float32]]
) -> dict[str, float]:
    """Mean cosine of two sets of embeddings, and the same after subtracting the mean of ours.

    Raises:
        ValueError: They are not of the same images.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"{len(theirs)} images, of {len(ours)}; not the same ones")
    one = np.stack([ours[key] for key in ours])
    two = np.stack([theirs[key] for key in ours])
    centre = one.mean(axis=0)

    def cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        return float(((left * right).sum(axis=1) / lengths).mean())

    return {"cosine": cosine(one, two), "centred": cosine(one - centre, two - centre)}


def run_job(bundle: Path, manifest: Path, images: int, folder: Path) -> Measured:
    """Our job, on new tables."""
    began = time.perf_counter()
    steady = time_job(bundle, manifest, folder, "--model.precision=fp32")
    seconds = time.perf_counter() - began
    embeddings = read_embeddings(folder / "tables" / "image_embeddings")
    return Measured(steady=steady, whole=images / seconds, embeddings=embeddings)


def run_peer(peer: str, bundle: Path, manifest: Path, images: int, folder: Path) -> Measured:
    """A peer, in its environment."""
    (folder / "times").mkdir(parents=True)
    arguments = {"manifest": manifest, "bundle": bundle}
    if peer == "spark_udf":
        arguments["model"] = bundle.with_name("mlflow-model")
    output, times = folder / "output", folder / "times"
    seconds = run_script(
        make_environment(peer), f"with_{peer}", folder, **arguments, output=output, times=times
    )
    embeddings = read_embeddings(output)
    return Measured(steady=read_steady(times), whole=images / seconds, embeddings=embeddings)


def summarise(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Medians of each figure, and of the ratios of ours to each peer's and the best's.

    Args:
        rounds: For each round, by name (``job`` and the peers), ``steady`` and ``whole``.
    """
    names = list(rounds[0])
    peers = [name for name in names if name != OURS]
    result: dict[str, Any] = {}
    for figure in FIGURES:
        speeds = {name: [one[name][figure] for one in rounds] for name in names}
        best = [max(one[name][figure] for name in peers) for one in rounds]
        ratios = {
            name: [mine / theirs for mine, theirs in zip(speeds[OURS], found, strict=True)]
            for name, found in {**{name: speeds[name] for name in peers}, "best": best}.items()
        }
        medians = {name: statistics.median(found) for name, found in ratios.items()}
        result[figure] = {
            "ratio": round(medians.pop("best"), 3),
            "ratios": [round(ratio, 3) for ratio in ratios["best"]],
            "ratio_to": {name: round(ratio, 3) for name, ratio in medians.items()},
            "images_per_s": {
                name: round(statistics.median(found), 2) for name, found in speeds.items()
            },
        }
    return result


def main() -> None:
    """Draws, runs all in turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--images", type=int, default=10_000)
    add("--rounds", type=int, default=5)
    add("--megapixels", type=int, default=1, choices=tuple(SIZES))
    add("--architecture", default=str(Path(__file__).with_name("tiny-vit-224.json")))
    add("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    asked = parser.parse_args()
    # Inherited by everything that is started here.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    rounds: list[dict[str, dict[str, float]]] = []
    agreement: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        manifest = write_photos(folder / "photos", asked.images, size=SIZES[asked.megapixels])
        bundle = write_model(folder / "bundle", asked.architecture)
        for peer in asked.peers:
            python = make_environment(peer)
            if peer == "spark_udf":
                model = bundle.with_name("mlflow-model")
                run_script(python, f"save_{peer}", folder, bundle=bundle, model=model)
        for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
            place = folder / f"round-{number}"
            ours = run_job(bundle, manifest, asked.images, place / OURS)
            found = {OURS: ours}
            for peer in asked.peers:
                found[peer] = run_peer(peer, bundle, manifest, asked.images, place / peer)
                agreement[peer] = compare(ours.embeddings, found[peer].embeddings)
                if agreement[peer]["cosine"] < AGREEMENT:
                    raise SystemExit(f"{peer} computes something else: {agreement[peer]}")
            rounds.append(
                {one: {"steady": got.steady, "whole": got.whole} for one, got in found.items()}
            )
            print(f"round {number + 1}: {json.dumps(rounds[-1])}", file=sys.stderr)
            shutil.rmtree(place)
    result = {
        "benchmark": "peers",
        "architecture": Path(asked.architecture).stem,
        "precision": "fp32",
        "images": asked.images,
        "megapixels": asked.megapixels,
        "rounds": asked.rounds,
        **summarise(rounds),
        "agreement": {
            peer: {name: round(value, 5) for name, value in found.items()}
            for peer, found in agreement.items()
        },
        "cores": CORES,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
