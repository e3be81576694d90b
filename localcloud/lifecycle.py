"""Begin and end of a local cloud: one for a state folder at a time, and nothing left in the process table after it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from localcloud import processes
from localcloud.account import ACCOUNT
from shared.clock import SystemClock

STOP_S = 20.0
"""How long a local cloud may take to end by itself before it is killed."""

_OURS = ("instances", "images", "commands", "discarded", "tmp")
"""What a local cloud keeps under its state folder; it forgets all of it when it starts."""


class CannotRun(Exception):
    """The local cloud cannot start, or cannot be stopped; the message says why, in a sentence."""


def run(host: str, port: int, state: Path, messages_endpoint: str | None) -> None:
    """Run a local cloud until SIGTERM or SIGINT. Raises CannotRun.

    ``messages_endpoint`` is where events and notifications go when they do not stay here.
    """
    with _claimed(state), _listening(host, port) as listening:
        _end_leftovers(state)
        _forget(state)
        _log_to(state / "localcloud.log")
        _serve(listening, state, messages_endpoint)


def stop(state: Path) -> None:
    """End the local cloud on a state folder, if one runs, and all that it left behind. Raises CannotRun."""
    if not state.is_dir():
        return
    try:
        with _claimed(state):
            pass
    except _Running as running:
        _stop(running.pid, state)
    _end_leftovers(state)


class _Running(CannotRun):
    def __init__(self, state: Path, pid: int):
        super().__init__(f"A local cloud already runs on {state} (process {pid}); `python -m localcloud stop` ends it.")
        self.pid = pid


def _running(state: Path, recorded: str) -> CannotRun:
    if not recorded.isdigit():
        return CannotRun(f"A local cloud is just starting on {state}; try again.")
    return _Running(state, int(recorded))


def _serve(listening: socket.socket, state: Path, messages_endpoint: str | None) -> None:
    os.environ["MOTO_ACCOUNT_ID"] = ACCOUNT
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    try:
        from localcloud.server import LocalCloud  # noqa: PLC0415 - moto reads the above when it is imported
    except ModuleNotFoundError as missing:
        raise CannotRun(f"The local cloud needs {missing.name}; install the extra `localcloud`.") from missing

    cloud = LocalCloud(listening, state, SystemClock(), messages_endpoint)
    cloud.prepare()

    def begin_to_stop(*_: object) -> None:
        Thread(target=cloud.stop, daemon=True).start()

    signal.signal(signal.SIGTERM, begin_to_stop)
    signal.signal(signal.SIGINT, begin_to_stop)
    host, port = listening.getsockname()
    print(f"local cloud ready: http://{host}:{port} (log: {state}/localcloud.log)", flush=True)
    try:
        cloud.serve()
    finally:
        cloud.end_processes()


@contextmanager
def _claimed(state: Path) -> Iterator[None]:
    """Hold the state folder's lock, which the kernel lets go of when its holder dies."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a+")
    except OSError as wrong:
        raise CannotRun(f"The state folder {state} cannot be written: {wrong.strerror}.") from wrong
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise _running(state, lock.read()) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except (OSError, OverflowError) as wrong:
            raise CannotRun(f"The local cloud cannot listen on {host}:{port}: {wrong}. Try another --port.") from wrong
        listening.listen(128)
        yield listening


def _stop(pid: int, state: Path) -> None:
    """End a running local cloud. Its lock proves that the recorded process is the one."""
    patience = int(STOP_S / processes.PAUSE_S)
    for attempt in range(2 * patience):
        with suppress(ProcessLookupError):
            if attempt in (0, patience):
                os.kill(pid, signal.SIGKILL if attempt else signal.SIGTERM)
        time.sleep(processes.PAUSE_S)
        try:
            with _claimed(state):
                return
        except _Running:
            continue
    raise CannotRun(f"Process {pid} does not end, not even killed.")


def _end_leftovers(state: Path) -> None:
    """End what a local cloud that was killed left running."""
    try:
        processes.end(lambda: processes.marked(state))
    except processes.WillNotEnd as wrong:
        raise CannotRun(f"Of an earlier local cloud, {wrong}.") from wrong


def _forget(state: Path) -> None:
    for name in _OURS:
        shutil.rmtree(state / name, ignore_errors=True)
        (state / name).mkdir()


def _log_to(path: Path) -> None:
    logging.basicConfig(filename=path, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it would log every request
    logging.captureWarnings(True)
