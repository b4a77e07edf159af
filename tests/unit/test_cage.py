"""Decoders in processes of their own: what an image does to one costs that image, and no other."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import poisoned_warden
import pytest
from PIL import Image

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.errors import DecoderError
from pipeline.images import cage as cage_module
from pipeline.images import warden as warden_module
from pipeline.images.cage import Cage
from pipeline.images.decoder import DecodedPixels, Decoder
from pipeline.images.loader import ImageLoader, ImageRequest, LoadedImage, UnreadableImage
from pipeline.images.preprocess import Preprocessing
from pipeline.images.reasons import Failure, Reason

ROOT = Path(__file__).parents[2]
DECODER = Decoder(preprocessing=Preprocessing(size=32), max_pixels=50_000_000, cover=None)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps RLIMIT_AS")


def encode(image_format: str = "JPEG", seed: int = 0, **options: object) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((160, 120)).save(buffer, image_format, **options)
    return buffer.getvalue()


JPEG = encode()


def poison(deed: str) -> bytes:
    return poisoned_warden.poison(JPEG, deed)


@pytest.fixture(scope="module", autouse=True)
def _poisoned() -> Iterator[None]:
    """This module's decoders do what files tell them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warden_module, "_MODULE", "poisoned_warden")
        patch.setattr(cage_module, "_warden", None)
        yield
        cage_module._close_warden()


@pytest.fixture
def cage() -> Iterator[Cage]:
    made = Cage(DECODER, timeout_s=60.0, memory_mb=96)
    yield made
    made.close()


def reason_of(outcome: DecodedPixels | Failure) -> str:
    return outcome.reason.value if isinstance(outcome, Failure) else "decoded"


def is_running(pid: int) -> bool:
    """Zombies are not: whoever should collect them may be nobody here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    until = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def pids_of(cage: Cage) -> list[int]:
    return [cell.pid for cell in cage._idle]


# --- the same answers


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("cover", [None, 32])
def test_pixels_and_failures_are_those_of_the_decoder_itself(
    image_format: str, cover: int | None
) -> None:
    decoder = Decoder(preprocessing=DECODER.preprocessing, max_pixels=50_000_000, cover=cover)
    cage = Cage(decoder, timeout_s=60.0, memory_mb=256)
    whole = encode(image_format)
    for content in (whole, whole[: len(whole) // 2], b"no image"):
        outcome, expected = cage.decode(content), decoder.decode(content)
        if isinstance(expected, Failure):
            assert outcome == expected
        else:
            assert isinstance(outcome, DecodedPixels)
            assert (outcome.pixels == expected.pixels).all()
            assert outcome.pixels.flags.writeable
            assert (outcome.width, outcome.height) == (expected.width, expected.height)
    assert len(pids_of(cage)) == 1
    cage.close()


def test_the_settings_of_the_decoder_arrive() -> None:
    preprocessing = Preprocessing(
        size=(16, 48), mean=(0.1, 0.2, 0.3), resize_mode="longest", fill_color=9
    )
    decoder = Decoder(preprocessing=preprocessing, max_pixels=19_200, cover=48)
    assert Decoder.from_dict(decoder.to_dict()) == decoder
    cage = Cage(decoder, timeout_s=60.0, memory_mb=256)
    outcome, expected = cage.decode(JPEG), decoder.decode(JPEG)
    assert isinstance(outcome, DecodedPixels)
    assert isinstance(expected, DecodedPixels)
    assert (outcome.pixels == expected.pixels).all()
    smaller = Cage(Decoder(preprocessing=preprocessing, max_pixels=19_199, cover=48),
                   timeout_s=60.0, memory_mb=256)  # fmt: skip
    assert reason_of(smaller.decode(JPEG)) == "too_many_pixels"


# --- what an image can do to its decoder


@pytest.mark.parametrize(
    ("deed", "reason", "said"),
    [
        ("crash", "decoder_crashed", "the decoder ended with SIGSEGV"),
        ("leave", "decoder_crashed", "the decoder ended with exit code 0"),
        ("babble", "decoder_crashed", "the decoder's answer makes no sense"),
        ("kill", "out_of_memory", "the decoder was killed"),
        pytest.param("allocate", "decode_memory", "decode.memory_mb = 96", marks=LINUX),
    ],
)
def test_what_ends_a_decoder_costs_one_image_and_the_next_has_another(
    cage: Cage, deed: str, reason: str, said: str
) -> None:
    assert reason_of(cage.decode(JPEG)) == "decoded"
    (before,) = pids_of(cage)

    outcome = cage.decode(poison(deed))

    assert isinstance(outcome, Failure)
    assert outcome.reason == reason
    assert said in outcome.detail
    assert not is_running(before)
    assert reason_of(cage.decode(JPEG)) == "decoded"
    assert pids_of(cage) != [before]


@pytest.mark.parametrize("deed", ["hang", "hang_in_c"])
def test_a_decoder_that_hangs_is_ended_in_time(deed: str) -> None:
    cage = Cage(DECODER, timeout_s=1.0, memory_mb=256)
    started = time.monotonic()
    outcome = cage.decode(poison(deed))
    assert outcome == Failure(Reason.DECODE_TIMEOUT, "not decoded within decode.timeout_s = 1")
    assert 1.0 <= time.monotonic() - started < 10.0
    assert pids_of(cage) == []


def test_an_image_that_gets_a_damaged_decoder_is_tried_in_a_fresh_one(cage: Cage) -> None:
    cage.decode(poison("wound"))
    (damaged,) = pids_of(cage)
    assert reason_of(cage.decode(JPEG)) == "decoded"
    assert not is_running(damaged)


def test_both_tries_together_keep_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cage = Cage(DECODER, timeout_s=1.0, memory_mb=96)
    cage.decode(JPEG)
    monkeypatch.setattr(cage, "_start", lambda: time.sleep(2) or Cage._start(cage))
    started = time.monotonic()
    assert reason_of(cage.decode(poison("crash_late"))) == "decode_timeout"
    assert time.monotonic() - started < 10.0


def test_bad_images_leave_their_neighbours_as_they_were() -> None:
    expected = {
        "crash": "decoder_crashed",
        "allocate": "decode_memory",
        "leave": "decoder_crashed",
        "kill": "out_of_memory",
        "babble": "decoder_crashed",
    }
    deeds = list(expected)
    requests = []
    for seed in range(20):
        content = encode(seed=seed)
        requests.append(ImageRequest(f"good {seed}", None, content))
        if seed % 4 == 0:
            deed = deeds[seed // 4]
            requests.append(ImageRequest(deed, None, poisoned_warden.poison(content, deed)))
    config = DecodeConfig(threads=2, prefetch_images=8, timeout_s=60.0, memory_mb=96)
    with ImageLoader(FetchConfig(), config, DECODER.preprocessing, False) as loader:
        loaded = list(loader.load(requests))

    assert [request for request, _ in loaded] == requests
    for request, image in loaded:
        assert request.content is not None
        if request.key in expected:
            assert isinstance(image, UnreadableImage)
            assert image.failure.reason == expected[request.key]
            assert image.content_sha256
        else:
            alone = DECODER.decode(request.content)
            assert isinstance(image, LoadedImage)
            assert isinstance(alone, DecodedPixels)
            assert (image.pixels == alone.pixels).all()


def test_a_decoder_sees_neither_the_environment_nor_open_files(
    cage: Cage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with (tmp_path / "open").open("w") as stream:
        os.set_inheritable(stream.fileno(), True)
        outcome = cage.decode(poison("tell"))
    assert isinstance(outcome, Failure)
    variables, descriptors = outcome.detail.split("] [")
    assert "AWS" not in variables
    # The standard three, its connection, and the listing's own.
    assert len(descriptors.split(",")) == 5


def test_a_decoder_writes_no_files(cage: Cage) -> None:
    outcome = cage.decode(poison("write"))
    Path("/tmp/written-by-a-decoder").unlink(missing_ok=True)
    assert isinstance(outcome, Failure)
    assert outcome.detail == "OSError"


# --- large images


def large_png() -> bytes:
    """41 million pixels, more than are decoded side by side."""
    buffer = io.BytesIO()
    Image.new("1", (6404, 6404)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_large_image_waits_for_its_turn_and_the_waiting_is_not_its_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[str] = []
    waited_s = 0.0

    class Turn:
        def __enter__(self) -> None:
            nonlocal waited_s
            noted.append("its turn")
            waited_s = 1000.0

        def __exit__(self, *_: object) -> None:
            noted.append("over")

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + waited_s)
    monkeypatch.setattr(cage_module, "ONE_LARGE_IMAGE", Turn())
    monkeypatch.setattr(cage_module, "time", clock)
    cage = Cage(DECODER, timeout_s=60.0, memory_mb=1024)

    assert reason_of(cage.decode(JPEG)) == "decoded"
    assert noted == []
    assert reason_of(cage.decode(large_png())) == "decoded"
    assert noted == ["its turn", "over"]
    cage.close()


# --- processes


def test_decoders_are_as_many_as_threads_are_kept_and_end_with_the_loader() -> None:
    config = DecodeConfig(threads=2, prefetch_images=8)
    requests = [ImageRequest(str(n), None, JPEG) for n in range(16)]
    with ImageLoader(FetchConfig(), config, DECODER.preprocessing, False) as loader:
        assert isinstance(loader._decoder, Cage)
        list(loader.load(requests))
        first = set(pids_of(loader._decoder))
        list(loader.load(requests))
        assert first <= set(pids_of(loader._decoder))
        assert len(pids_of(loader._decoder)) <= 2
        assert all(map(is_running, first))
    assert not any(map(is_running, first))


def test_decoders_end_with_a_cage_that_nobody_closed() -> None:
    cage = Cage(DECODER, timeout_s=60.0, memory_mb=256)
    cage.decode(JPEG)
    (pid,) = pids_of(cage)
    del cage
    assert wait_until(lambda: not is_running(pid))


def test_another_warden_takes_over_from_one_that_was_killed(cage: Cage) -> None:
    cage.decode(JPEG)
    (cell,) = pids_of(cage)
    warden = cage_module._warden
    assert warden is not None
    warden._process.kill()
    assert wait_until(lambda: not is_running(cell))
    assert reason_of(cage.decode(JPEG)) == "decoded"
    assert cage_module._warden is not warden


def test_an_image_whose_decoder_ended_with_the_warden_is_tried_in_a_fresh_one(cage: Cage) -> None:
    cage.start()
    warden = cage_module._warden
    assert warden is not None
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(cage.decode, poison("nap"))
        assert wait_until(lambda: not pids_of(cage))
        warden._process.kill()
        assert reason_of(decoding.result()) == "decoded"
    assert cage_module._warden is not warden


def test_an_image_is_not_blamed_for_decoders_that_end_from_outside_again_and_again(
    cage: Cage,
) -> None:
    cage.start()
    outcome = cage.decode(poison("orphan"))
    assert isinstance(outcome, Failure)
    assert outcome.reason is Reason.OUT_OF_MEMORY
    assert outcome.retriable
    assert reason_of(cage.decode(JPEG)) == "decoded"


def test_a_machine_without_room_for_another_decoder_costs_no_image_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(warden_module, "_MODULE", "crowded_warden")
    monkeypatch.setattr(cage_module, "_warden", None)
    cage = Cage(DECODER, timeout_s=60.0, memory_mb=96)
    cage.start()
    (pid,) = pids_of(cage)
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(cage.decode, poison("nap"))
        assert wait_until(lambda: not pids_of(cage))
        with pytest.raises(DecoderError, match="cannot fork: resource temporarily unavailable"):
            cage.start()
        cage.start()
        assert reason_of(decoding.result()) == "decoded"
    assert pid in pids_of(cage)
    assert len(pids_of(cage)) == 2
    cage.close()
    cage_module._close_warden()


PARENT = """
import sys, threading
import poisoned_warden
from pipeline.images import cage as cage_module, warden
from test_cage import DECODER, JPEG, Cage, poison
warden._MODULE = "poisoned_warden"
cage = Cage(DECODER, timeout_s=600.0, memory_mb=256)
cage.decode(JPEG)
busy = cage._idle[0].pid
for deed in ("hang", "hang_in_c"):
    threading.Thread(target=cage.decode, args=(poison(deed),), daemon=True).start()
idle = cage_module._start_cell()
print(cage_module._warden._process.pid, busy, idle.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("victim", ["worker", "warden"])
def test_decoders_vanish_with_whoever_is_killed_above_them(victim: str) -> None:
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests/fakes"), str(ROOT / "tests/unit")))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as parent:
        assert parent.stdout is not None
        warden, *cells = map(int, parent.stdout.readline().split())
        listed = Path(f"/proc/{warden}/task/{warden}/children")
        # Two hang, one is idle.
        assert wait_until(lambda: len(listed.read_text().split()) >= 3)
        cells = sorted({*cells, *map(int, listed.read_text().split())})
        assert all(map(is_running, cells))

        os.kill(parent.pid if victim == "worker" else warden, signal.SIGKILL)

        try:
            assert wait_until(lambda: not any(map(is_running, [warden, *cells])))
        finally:
            parent.kill()
            for left in filter(is_running, [warden, *cells]):  # they would hold the test's output
                os.kill(left, signal.SIGKILL)


def test_a_fork_of_the_process_starts_its_own_and_leaves_the_others_alone(cage: Cage) -> None:
    cage.decode(JPEG)
    (cell,) = pids_of(cage)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        reason = "failed"
        try:
            reason = reason_of(Cage(DECODER, timeout_s=60.0, memory_mb=256).decode(JPEG))
            cage_module._close_warden()
        finally:
            os.write(writing, reason.encode())
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"decoded"
    os.close(reading)
    os.close(writing)
    assert reason_of(cage.decode(JPEG)) == "decoded"
    assert pids_of(cage) == [cell]


@pytest.mark.parametrize("module", ["no_such_module", "json"])
def test_a_warden_that_cannot_start_is_no_images_fault(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setattr(warden_module, "_MODULE", module)
    monkeypatch.setattr(cage_module, "_warden", None)
    loader = ImageLoader(FetchConfig(), DecodeConfig(threads=1), DECODER.preprocessing, False)
    with pytest.raises(DecoderError, match=r"exit code 1.*decode\.cage=false"):
        list(loader.load([ImageRequest("a", None, JPEG)]))
