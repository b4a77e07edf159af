"""The process that decoders are forked from, with decoders that do what a file's end tells them.

Real files that crash Pillow are not to be had for every version of it. Tests let
``pipeline.images.warden._MODULE`` name this module instead; it is imported in that process alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

from pipeline.images import decoder
from pipeline.images.decode import decode
from pipeline.images.reasons import Failure, Reason
from pipeline.images.warden import main

__all__ = ["main", "poison"]

MARK = b"poison:"
_wounds: list[str] = []


def poison(content: bytes, deed: str) -> bytes:
    """A file that makes its decoder do a deed: a sound one with words after its end."""
    return content + MARK + deed.encode()


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    while True:
        pass


def hang_in_c() -> None:
    """Deaf to Python's signal handlers, as a loop in a C library is."""
    libc = ctypes.PyDLL(None)
    while True:
        libc.sleep(1000)


def allocate() -> None:
    held = []
    while True:
        held.append(bytearray(16 * 1024 * 1024))


def leave() -> None:
    sys.exit(0)


def kill() -> None:
    """As the kernel does where a machine runs out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def babble() -> None:
    """Answers what is no answer, to every connection there is."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\x80\x05cos\nsystem\n" * 10)
        except OSError:
            continue


def wound() -> None:
    """Damages the decoder, not the image: the next one crashes it."""
    _wounds.append("deep")


def crash_late() -> None:
    time.sleep(0.6)
    crash()


def nap() -> None:
    """Nothing but time."""
    time.sleep(2.0)


def orphan() -> None:
    """As where the machine's memory ends the process above the decoder, and the decoder with it."""
    os.kill(os.getppid(), signal.SIGKILL)
    hang_in_c()


def tell() -> Failure:
    """What the decoder can see of its surroundings."""
    descriptors = sorted(map(int, os.listdir("/proc/self/fd")))
    return Failure(Reason.CORRUPT, f"{sorted(os.environ)} {descriptors}")


def write() -> Failure:
    try:
        with open("/tmp/written-by-a-decoder", "w", encoding="ascii") as stream:
            stream.write("x")
    except OSError as error:
        return Failure(Reason.CORRUPT, type(error).__name__)
    return Failure(Reason.CORRUPT, "written")


DEEDS = {
    deed.__name__: deed
    for deed in (
        *(crash, hang, hang_in_c, allocate, leave, kill, babble, wound, crash_late),
        *(nap, orphan, tell, write),
    )
}


def poisoned_decode(content: bytes, **options: Any) -> Any:
    if _wounds:
        crash()
    _, marked, deed = content.rpartition(MARK)
    told = DEEDS[deed.decode()]() if marked else None
    return told if told is not None else decode(content, **options)


decoder.decode = poisoned_decode
