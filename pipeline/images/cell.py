"""The life of one caged decoder: images in, pixels out, until nobody asks any more.

Runs in a process of its own, forked by :mod:`pipeline.images.warden` and asked by
:mod:`pipeline.images.cage`. What it is told and what it answers are plain frames of bytes, never
pickles: whoever took over a decoder could otherwise take over the process that reads its answers.

::

    to the cell       SIZE, JSON                     once: the decoder's settings, the limits
                      SIZE, a file                   an image
                      TURN                           go on with the large image
    from the cell     ANSWER(TURN, 0, 0, 0)          a large image: may it be decoded now?
                      ANSWER(PIXELS, width, height, size), size bytes
                      ANSWER(FAILURE, 0, 0, size), JSON of reason and detail
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.images.decoder import DecodedPixels, Decoder
from pipeline.images.reasons import Failure, Reason

SIZE = struct.Struct("<Q")
ANSWER = struct.Struct("<cIIQ")
PIXELS, FAILURE, TURN = b"P", b"F", b"?"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MIB = 1024 * 1024


def serve(connection: socket.socket, warden: int) -> None:
    """Answers until the other end closes.

    Args:
        connection: Of this cell alone.
        warden: Process id of the parent, whose end is this one's.
    """
    end_with_parent(warden)
    with connection, connection.makefile("rb") as stream:
        told = read_frame(stream)
        if told is None:
            return
        settings = json.loads(told)
        memory_mb = settings.pop("memory_mb")
        decoder = Decoder.from_dict(settings)
        confine(memory_mb * _MIB)
        while (content := read_frame(stream)) is not None:
            outcome = decoder.decode(content, turn=_ask_for_turn(connection, stream))
            # Whoever asked is gone where this fails; the next read says so.
            with contextlib.suppress(OSError):
                _answer(connection, outcome, memory_mb)


def read_frame(stream: BinaryIO) -> bytes | None:
    """Reads a size and as many bytes; None at the end of the stream, also amid a frame."""
    head = stream.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    (size,) = SIZE.unpack(head)
    content = stream.read(size)
    return content if len(content) == size else None


def end_with_parent(parent: int) -> None:
    """The kernel kills this process when its parent ends, be it by kill -9. Only Linux does that.

    Elsewhere the closed connection ends an idle cell, and the warden's end a busy one.
    """
    # Ctrl-C is for the job, which then closes the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:  # it ended before the call
            os.kill(os.getpid(), signal.SIGKILL)


def confine(memory_bytes: int) -> None:
    """Limits this process: memory, no core dumps, no writing of files.

    Args:
        memory_bytes: What may be allocated beside what is now.
    """
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    if sys.platform != "linux":
        return  # macOS takes RLIMIT_AS and does not keep it
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Where the machine itself runs out, a decoder is the cheapest thing to lose.
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, b"1000")
        finally:
            os.close(fd)


@contextmanager
def _ask_for_turn(connection: socket.socket, stream: BinaryIO) -> Iterator[None]:
    """Large images are decoded one at a time, by all cells of a worker together."""
    connection.sendall(ANSWER.pack(TURN, 0, 0, 0))
    if stream.read(1) != TURN:
        raise EOFError("nobody waits for the image any more")
    yield


def _answer(connection: socket.socket, outcome: DecodedPixels | Failure, memory_mb: int) -> None:
    if isinstance(outcome, DecodedPixels):
        pixels = outcome.pixels
        head = ANSWER.pack(PIXELS, outcome.width, outcome.height, pixels.nbytes)
        connection.sendall(head)
        connection.sendall(pixels.data)
        return
    reason, detail = outcome.reason, outcome.detail
    if reason is Reason.OUT_OF_MEMORY:
        reason, detail = Reason.DECODE_MEMORY, f"more than decode.memory_mb = {memory_mb}"
    told = json.dumps({"reason": reason.value, "detail": detail}).encode()
    connection.sendall(ANSWER.pack(FAILURE, 0, 0, len(told)) + told)
