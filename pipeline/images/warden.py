"""The process that caged decoders are forked from, and the one who asks it.

It imports Pillow once and then only waits: it never touches an image, so it always answers. A
decoder forked from it starts within milliseconds and shares the memory of its imports. It ends,
and its decoders with it, when the process that started it does: its connection closes then.

Not forked from the worker itself, whose threads (torch's, ours) a fork would leave in the middle
of things. Not started by a decoding thread either: on Linux a child that asks to end with its
parent ends with the *thread* that started it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import time

from pipeline.errors import DecoderError
from pipeline.images import cell

# What a decoder may know of the worker's environment, where credentials are.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL")
# NumPy would start as many threads as there are cores, to multiply no matrices.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
# Where the library is: a folder, or the zip of --py-files. Before anything of it is imported.
_ENTRY = "import sys; sys.path[:] = sys.argv[2:]; from {} import main; main(int(sys.argv[1]))"
_MODULE = "pipeline.images.warden"

# Importing Pillow and NumPy takes 0.3 s, and more from a zip or a cold disk.
_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 5.0
# A process closes its connections on its way to the end.
_PASSING_S, _POLL_S = 5.0, 0.002

_REQUEST = struct.Struct("<ci")
_START, _END, _COLLECT = b"S", b"E", b"C"
_REPLY = struct.Struct("<i")
_UNKNOWN = -(2**31)


class Warden:
    """The process, as seen from the one that started it. Not safe to share between threads.

    Raises:
        DecoderError: It cannot be started.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_START_TIMEOUT_S)
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        command = [sys.executable, "-c", _ENTRY.format(_MODULE), str(theirs.fileno())]
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                    [*command, *(os.path.abspath(place) for place in sys.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=variables | _ONE_THREAD,
                )
        except OSError as error:
            self._control.close()
            raise _unusable(error.strerror or "it cannot be started") from error

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        return self._control.fileno() >= 0 and self._process.poll() is None

    def start_cell(self) -> tuple[int, socket.socket]:
        """Forks a decoder.

        Returns:
            Its process id, and the connection to it.

        Raises:
            DecoderError: The process has ended, does not answer, or cannot fork now.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [_REQUEST.pack(_START, 0)], [theirs.fileno()])
            pid = self._read_reply()
        except OSError as error:
            ours.close()
            self.close()
            told = "no answer"
            if not isinstance(error, TimeoutError):
                told = f"it ended with {describe_exit(self._process.returncode)}"
            raise _unusable(told) from error
        if pid < 0:
            ours.close()
            raise _unusable(f"it cannot fork: {os.strerror(-pid).lower()}")
        return pid, ours

    def end_cell(self, pid: int, *, is_ending: bool = False) -> int | None:
        """Kills a decoder where it still runs.

        Args:
            pid: From :meth:`start_cell`.
            is_ending: It closed its connection, and is asked how it ended.

        Returns:
            How it ended by itself, as :class:`subprocess.Popen` says it; None where nobody knows.
        """
        try:
            self._control.sendall(_REQUEST.pack(_COLLECT if is_ending else _END, pid))
            code = self._read_reply()
        except OSError:
            return None
        return None if code == _UNKNOWN else code

    def close(self) -> None:
        """Ends the process and its decoders."""
        self._control.close()
        try:
            self._process.wait(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a fork of the process that started it: keep no copy of the connection."""
        self._control.close()

    def _read_reply(self) -> int:
        reply = self._control.recv(_REPLY.size, socket.MSG_WAITALL)
        if len(reply) < _REPLY.size:
            raise ConnectionError("the warden has ended")
        return int(_REPLY.unpack(reply)[0])


def _unusable(got: str) -> DecoderError:
    return DecoderError(
        "the process that decodes images cannot be used",
        where=sys.executable,
        got=got,
        todo="see its own words in the log; decode.cage=false decodes within the worker",
    )


def describe_exit(code: int) -> str:
    """An exit code as :class:`subprocess.Popen` has it, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def main(descriptor: int) -> None:
    """Runs the process.

    Args:
        descriptor: Of the connection to whoever started it.
    """
    warden = os.getpid()
    connection = _watch(socket.socket(fileno=descriptor))
    if connection is not None:
        cell.serve(connection, warden)


def _watch(control: socket.socket) -> socket.socket | None:
    """Forks and ends decoders as asked.

    Returns:
        In a decoder: the connection to it. In the warden, when nobody is left to ask: None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the job, which then closes
    children = _Children()
    try:
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
            if len(request) < _REQUEST.size:
                break
            kind, pid = _REQUEST.unpack(request)
            if kind == _START:
                pid = _fork()
                if pid == 0:
                    control.close()
                    children.running.clear()
                    return socket.socket(fileno=descriptors[0])
                os.close(descriptors[0])
                if pid > 0:
                    children.add(pid)
                control.sendall(_REPLY.pack(pid))
            else:
                code = children.end(pid, patience_s=_PASSING_S if kind == _COLLECT else 0)
                control.sendall(_REPLY.pack(code))
    except ConnectionError:
        pass  # whoever asked was killed
    finally:
        children.kill()
    return None


def _fork() -> int:
    """As :func:`os.fork`; the negative errno where the machine has no room, which ends nobody."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)


class _Children:
    """The decoders of the warden.

    Attributes:
        running: Process ids of those that nobody has waited for: no other process has one.
        ended: Exit codes of the others, until somebody asks.
    """

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.ended: dict[int, int] = {}

    def add(self, pid: int) -> None:
        self._reap()  # those whose cage was forgotten: nobody asks about them
        self.running.add(pid)
        self.ended.pop(pid, None)

    def end(self, pid: int, *, patience_s: float) -> int:
        """Kills one that does not end by itself, and tells how it did."""
        until = time.monotonic() + patience_s
        self._reap()
        while pid in self.running and time.monotonic() < until:
            time.sleep(_POLL_S)
            self._reap()
        if pid in self.running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self.running.discard(pid)
        return self.ended.pop(pid, _UNKNOWN)

    def kill(self) -> None:
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid in list(self.running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.running.discard(pid)
                self.ended[pid] = os.waitstatus_to_exitcode(status)
