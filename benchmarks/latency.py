"""Images behind a slow server against local files: what waiting costs the job.

    .venv/bin/python benchmarks/latency.py [--images 1000] [--rounds 5] [--latency_ms 200]

The job is the real one, timed as ``tag_throughput.py`` times it: ViT-B/32 with random weights,
photos of 1 megapixel, new tables each time. ``local``: uris are paths. ``behind``: the same files
from an http server on the loopback interface, which waits ``--latency_ms`` before each answer, in a
process of its own; it takes little of a core, and as much of it is the job's loss. In turns; the
median of the rounds' ratios of images/s is the result, the last line as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tag_throughput import time_job, write_model, write_photos
from tqdm import tqdm

HOST = "127.0.0.1"


def serve(folder: Path, latency_s: float, told: Connection) -> None:
    """Serve the files of a folder for ever, each after a wait; the port is told."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                name = head.split(b" ", 2)[1].decode().removeprefix("/")
                await asyncio.sleep(latency_s)
                body = (folder / name).read_bytes()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
                    + f"Content-Length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, HOST, 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def slow_server(folder: Path, latency_s: float) -> Iterator[str]:
    """A server of a folder's files in a process of its own; its address."""
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(folder, latency_s, told), daemon=True)
    process.start()
    try:
        yield f"http://{HOST}:{heard.recv()}"
    finally:
        process.terminate()
        process.join()


def write_addresses(manifest: Path, server: str, target: Path) -> Path:
    """The same manifest with the server's addresses."""
    rows = pq.read_table(manifest).to_pylist()
    for row in rows:
        row["uri"] = f"{server}/{Path(row['uri']).name}"
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target


def main() -> None:
    """Draws, runs both in turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency_ms", type=float, default=200.0)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    speeds: dict[str, list[float]] = {"local": [], "behind": []}
    with tempfile.TemporaryDirectory(prefix="latency-") as name:
        folder = Path(name)
        local = write_photos(folder / "photos", asked.images)
        bundle = write_model(folder / "bundle", asked.architecture)
        with slow_server(folder / "photos", asked.latency_ms / 1000) as server:
            behind = write_addresses(local, server, folder / "behind.parquet")
            manifests = {"local": local, "behind": behind}
            for number in tqdm(range(asked.rounds), unit="round", file=sys.stderr):
                for kind, manifest in manifests.items():
                    speed = time_job(
                        bundle,
                        manifest,
                        folder / f"round-{number}-{kind}",
                        f"--model.precision={asked.precision}",
                        f"--fetch.allowed_hosts=[{HOST}]",
                    )
                    speeds[kind].append(speed)
                    print(f"{kind}: {speed:.2f} images/s", file=sys.stderr)
    ratios = [one / base for one, base in zip(speeds["behind"], speeds["local"], strict=True)]
    result = {
        "benchmark": "latency",
        "architecture": asked.architecture,
        "precision": asked.precision,
        "images": asked.images,
        "rounds": asked.rounds,
        "latency_ms": asked.latency_ms,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "images_per_s": {kind: round(statistics.median(one), 2) for kind, one in speeds.items()},
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
