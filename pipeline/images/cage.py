"""Decoding where it can hurt nobody: in processes beside the worker, each with limits of its own.

An image that crashes its decoder, hangs it or eats its memory costs one :class:`Failure`; the
decoder is replaced, and the worker with its model never notices. Which image a decoder has in
hands is known, so that image alone fails. A decoder that crashed may have been damaged by an image
before, and one of which nobody knows how it ended may have been ended from outside: the image at
hand is tried once more, in a fresh one.

It is no sandbox: who takes over a decoder has the rights of the account, though none of the
worker's memory, connections and environment.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DecoderError
from pipeline.images.cell import ANSWER, FAILURE, PIXELS, SIZE, TURN
from pipeline.images.decode import ONE_LARGE_IMAGE
from pipeline.images.decoder import DecodedPixels, Decoder
from pipeline.images.reasons import Failure, Reason
from pipeline.images.warden import Warden, describe_exit

# Reason and 300 characters of detail, each six bytes in JSON at most.
_MAX_FAILURE_BYTES = 4096


@dataclass(slots=True)
class _Cell:
    """A decoder process.

    Attributes:
        warden: Who forked it.
        pid: Its process id.
        connection: To it alone.
        used: Whether it has decoded an image.
    """

    warden: Warden
    pid: int
    connection: socket.socket
    used: bool = False


@dataclass(frozen=True)
class _Death:
    """A decoder that did not live to answer.

    Attributes:
        failure: What that means for the image.
        is_explained: Whether it is known how the decoder ended.
    """

    failure: Failure
    is_explained: bool = True


class _Deadline:
    """When an image must be decoded, tries in all; waiting for its turn does not count."""

    def __init__(self, timeout_s: float) -> None:
        self._at = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Seconds left, more than zero.

        Raises:
            TimeoutError: None is.
        """
        left_s = self._at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens meanwhile takes no time."""
        since = time.monotonic()
        yield
        self._at += time.monotonic() - since


class Cage:
    """Decodes in child processes: as many as there are threads that ask. Safe to share.

    Args:
        decoder: What each process does.
        timeout_s: Seconds for one image.
        memory_mb: MiB a process may take for an image.
    """

    def __init__(self, decoder: Decoder, *, timeout_s: float, memory_mb: int) -> None:
        self._decoder = decoder
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._idle: deque[_Cell] = deque()
        # Cells end when their connection closes, also where nobody closed the cage.
        self._forgotten = weakref.finalize(self, _close_connections, self._idle)

    def decode(self, content: bytes) -> DecodedPixels | Failure:
        """Decodes one image.

        Args:
            content: The file.

        Returns:
            The model's input, or why there is none.

        Raises:
            DecoderError: No process can be started: no image's fault.
        """
        try:
            cell = self._idle.pop()
        except IndexError:
            cell = self._start()
        was_used = cell.used
        deadline = _Deadline(self._timeout_s)
        outcome = self._ask(cell, content, deadline)
        if isinstance(outcome, _Death) and (was_used or not outcome.is_explained):
            with deadline.stopped():
                cell = self._start()
            outcome = self._ask(cell, content, deadline)
        return outcome.failure if isinstance(outcome, _Death) else outcome

    def start(self) -> None:
        """Starts a process where none is idle, so that no image waits for it.

        Raises:
            DecoderError: It cannot be started.
        """
        if not self._idle:
            self._idle.append(self._start())

    def close(self) -> None:
        """Ends the idle processes. The cage can still be used."""
        while True:
            try:
                cell = self._idle.pop()
            except IndexError:
                return
            _end(cell)

    def _start(self) -> _Cell:
        cell = _start_cell()
        settings = {**self._decoder.to_dict(), "memory_mb": self._memory_mb}
        # One that is dead by now is found out with the first image.
        with contextlib.suppress(OSError):
            _send(cell.connection, json.dumps(settings).encode())
        return cell

    def _ask(
        self, cell: _Cell, content: bytes, deadline: _Deadline
    ) -> DecodedPixels | Failure | _Death:
        """One image through one decoder, which afterwards is idle or ended."""
        outcome: DecodedPixels | Failure | _Death | None = None
        code: int | None = None
        keeps_alive = is_ending = False
        try:
            outcome = self._exchange(cell.connection, content, deadline)
            cell.used = True
            # After too much of it, who knows what is left of its memory.
            keeps_alive = not (
                isinstance(outcome, Failure) and outcome.reason is Reason.DECODE_MEMORY
            )
        except TimeoutError:
            detail = f"not decoded within decode.timeout_s = {self._timeout_s:g}"
            outcome = Failure(Reason.DECODE_TIMEOUT, detail)
        except EOFError:
            is_ending = True
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            detail = f"the decoder's answer makes no sense ({type(error).__name__})"
            outcome = _Death(Failure(Reason.DECODER_CRASHED, detail))
        finally:
            if keeps_alive:
                self._idle.append(cell)
            else:
                code = _end(cell, is_ending=is_ending)
        return _name_death(code) if outcome is None else outcome

    def _exchange(
        self, connection: socket.socket, content: bytes, deadline: _Deadline
    ) -> DecodedPixels | Failure:
        """Sends a file and reads what became of it.

        Raises:
            TimeoutError: Not within the time.
            EOFError: The process has ended.
            ValueError, KeyError, TypeError, RecursionError: It answers nonsense.
        """
        with contextlib.ExitStack() as held:
            try:
                connection.settimeout(deadline.left_s())
                _send(connection, content)
                kind, width, height, size = ANSWER.unpack(_read(connection, ANSWER.size, deadline))
                if kind == TURN:
                    with deadline.stopped():
                        held.enter_context(ONE_LARGE_IMAGE)
                    connection.settimeout(deadline.left_s())
                    connection.sendall(TURN)
                    answer = _read(connection, ANSWER.size, deadline)
                    kind, width, height, size = ANSWER.unpack(answer)
                if kind == PIXELS:
                    return self._read_pixels(connection, width, height, size, deadline)
                if kind == FAILURE and size <= _MAX_FAILURE_BYTES:
                    told = json.loads(_read(connection, size, deadline))
                    return Failure(Reason(told["reason"]), str(told["detail"]))
            except (BrokenPipeError, ConnectionResetError) as error:
                raise EOFError from error
        raise ValueError("an answer of no known kind or size")

    def _read_pixels(
        self, connection: socket.socket, width: int, height: int, size: int, deadline: _Deadline
    ) -> DecodedPixels:
        shape = (self._decoder.preprocessing.height, self._decoder.preprocessing.width, 3)
        pixels = np.empty(shape, np.uint8)
        if size != pixels.nbytes or not (0 < width * height <= self._decoder.max_pixels):
            raise ValueError("pixels of another size")
        _read_into(connection, pixels.data.cast("B"), deadline)
        return DecodedPixels(pixels, width, height)


def _name_death(code: int | None) -> _Death:
    """What an image is told whose decoder has ended."""
    if code is None:  # its warden is gone too, and no image reaches that
        detail = "the decoder was ended together with the process above it"
        return _Death(Failure(Reason.OUT_OF_MEMORY, detail), is_explained=False)
    if code == -signal.SIGKILL:
        detail = "the decoder was killed, as the system does where memory is short"
        return _Death(Failure(Reason.OUT_OF_MEMORY, detail))
    return _Death(Failure(Reason.DECODER_CRASHED, f"the decoder ended with {describe_exit(code)}"))


def _send(connection: socket.socket, content: bytes) -> None:
    connection.sendall(SIZE.pack(len(content)))
    connection.sendall(content)


def _read(connection: socket.socket, size: int, deadline: _Deadline) -> bytes:
    content = bytearray(size)
    _read_into(connection, memoryview(content), deadline)
    return bytes(content)


def _read_into(connection: socket.socket, buffer: memoryview, deadline: _Deadline) -> None:
    while buffer:
        connection.settimeout(deadline.left_s())
        count = connection.recv_into(buffer)
        if not count:
            raise EOFError
        buffer = buffer[count:]


def _close_connections(cells: deque[_Cell]) -> None:
    # Nothing but this: a finalizer may run amid any other code, also where a lock is held.
    for cell in cells:
        cell.connection.close()


# --- the warden of this process: one for all cages, started with the first image

_warden: Warden | None = None
_warden_lock = threading.Lock()


def _start_cell() -> _Cell:
    """Forks a decoder from this process's warden; from another one where it has ended."""
    global _warden  # noqa: PLW0603 - one for the process, as the docstring of the section says
    with _warden_lock:
        for is_last in (False, True):
            if _warden is not None and not _warden.is_alive:
                _warden.close()
                _warden = None
            _warden = _warden or Warden()
            try:
                return _Cell(_warden, *_warden.start_cell())
            except DecoderError:
                if is_last:
                    raise
    raise AssertionError("the last attempt raises")  # for the type checker


def _end(cell: _Cell, *, is_ending: bool = False) -> int | None:
    """Ends a decoder, whatever it does, and tells how it ended where it did so by itself."""
    cell.connection.close()
    with _warden_lock:
        return cell.warden.end_cell(cell.pid, is_ending=is_ending)


def _close_warden() -> None:
    if _warden is not None:
        _warden.close()


def _forget_warden() -> None:
    """In a fork: its copies of the connection and the lock are of no use, and must not live on."""
    global _warden, _warden_lock
    if _warden is not None:
        _warden.forget()
    _warden, _warden_lock = None, threading.Lock()


atexit.register(_close_warden)
os.register_at_fork(after_in_child=_forget_warden)
