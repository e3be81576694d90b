#!/usr/bin/env python3
"""Runs a provisioning plan on this server, step by step, against the ledger of what is done here.

    python3 -I -S agent.py run plan.json [--root DIR]     run a plan (its format: shared/plan.py)
    python3 -I -S agent.py ledger [--root DIR]            print the ledger

Needs Python 3.8 and nothing else: -I and -S keep out whatever was put into this server's Python. DIR is the server's
root directory: $SERVER_ROOT, or / when that is not set.

stdout gets one JSON line per step begun (``event: begin``), tried again (``retry``) and ended (``end``), and a last
one (``result``). The same is PUT to the plan's ``report_url`` as records.Report, as far as that can be reached. Exit
status: 0 the plan is done, 1 a step failed, 2 the plan is unusable.

A step begins once the steps that it needs are done, in the plan's order, ``parallel`` of them at once (one, when the
plan does not say: then strictly in order). When one fails, nothing more begins or is tried again, and those at work go
on to their end, as with make: what they get done is done for the next attempt.

Each try of a step is a process of its own: its script, or for ``sync`` and ``check`` a fork of this one. So limits of
time, SIGTERM and the count of CPU seconds are the same for all. It is safe to run twice, also at once (the second
waits, then finds the work done), and to be cut off at any point: a step has an entry in the ledger only when it is
done. A ``run`` step may leave daemons behind only if they left its process group (setsid): on failure, on a timeout and
on SIGTERM the whole group is ended.

A ``sync`` step makes DIR/<to> a symbolic link to a whole tree of the release, and moves it from one tree to the next at
once. Beside it, in ``.<name>.trees``, lie the present tree and a spare one, of an earlier release or the same. The next
release is made of the spare tree, by what differs between the two: a delta has that where one was published, else the
manifest is compared with what is on disk. New files are first written beside the tree and checked; while it is being
changed it has another name, so that after a cut it counts as no tree. Going back to the release before is one move.

Files that two trees share are hard links to one file: nobody may write to a file of a tree in place (replacing it is
fine), so builds put their outputs elsewhere. What is put into a tree or replaced there anyway is gone after the next
release. A file that was written to in place is found when all files are looked at. That takes longer than a delta,
which looks at all folders and at the files that it makes; so it is done in the background once the plan has ended
well, and whenever a plan finds the release standing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import hashlib
import http.client
import itertools
import json
import os
import pwd
import queue
import re
import shutil
import signal
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType
    from typing import NoReturn

    Place = Callable[["File"], bytes]
    """Says where to write a file."""

T = TypeVar("T")

HOME = "var/lib/autoprovisioner"
LOGS = "var/log/autoprovisioner"

TERM_GRACE_S = 3.0
"""What a step's processes have between SIGTERM and SIGKILL."""

GROUP_LOOK_S = 0.02
"""How often a group whose leader has ended is looked at: nobody tells of the end of the others."""

LOCK_LOOK_S = 0.1
"""How often the lock is tried that another run holds."""

REPORT_TIMEOUT_S = 3.0
"""A report is worth less than getting on with the plan."""

LAST_REPORT_TRIES = 4
TAIL_LINES, TAIL_CHARACTERS = 40, 8000

FETCH_TIMEOUT_S = 30.0
"""Of silence on a download; then it is tried again from where it was."""

FETCH_TRIES = 4
FETCH_WORKERS = 4
"""Threads that fetch and unpack: enough to hide latency; unpacking keeps two cores busy."""

GAP_BYTES = 256 * 1024
"""Two wanted blocks that are closer than this are fetched in one request, with what is between them."""

PIECE_BYTES = 1024 * 1024
"""Large files are read and written in pieces of this."""

FILE_COST_BYTES = 50_000
"""Making a small file takes as long as so much of a large one."""

RECORD_CHANGES = 20
"""A tree's record that tells of more changes is written anew."""

RECORD_FILES = 1000
"""A line of a record has so many files: one at a time is in memory when a record is written."""

SHARD_BYTES = 8 * 1024 * 1024
"""A manifest that is longer is gone through several times, for a part of the files each: they fit into memory then."""

FEW_FILES = 5000
"""Looking at so many takes no longer than a process does to start."""

BACKGROUND_NICE = 10
"""How far what runs in the background stands back behind the services."""

CHECK_TIMEOUT_S = 5.0
CHECK_FIRST_S, CHECK_MOST_S = 0.1, 2.0


class PlanUnusable(Exception):
    """The plan cannot be run at all."""


class StepFailed(Exception):
    """A step failed; the message is the reason."""


class Stopped(Exception):
    """We were asked to stop."""


class Corrupt(Exception):
    """What was fetched is not what the manifest says."""


class Broken(Exception):
    """A download broke off, or could not be had; another try may help."""


# ---- Signals ----

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """The signals that are waited for. They are blocked, so that none of them interrupts anything."""

    def __init__(self) -> None:
        self._waited_for = {signal.SIGCHLD, *STOPS}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._waited_for)

    def wait(self, seconds: float) -> str:
        """Wait for the end of a child or for a stop, but no longer than this; return the stop's name, or nothing."""
        stop = ""
        found = signal.sigtimedwait(self._waited_for, max(0.0, seconds))
        while found is not None:
            if found.si_signo in STOPS:
                stop = stop or signal.Signals(found.si_signo).name
            found = signal.sigtimedwait(self._waited_for, 0)
        return stop

    def give_back(self) -> None:
        """In a child: have signals arrive again, SIGTERM as Stopped."""
        signal.signal(signal.SIGTERM, _stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


# ---- Files that survive a cut ----


def write_whole(path: str, texts: Iterable[str]) -> None:
    """Replace a file at once: after a cut it is the old one or the new one, whole."""
    temporary = path + ".new"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(texts)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str | bytes) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Ledger:
    """The steps that are done on this server: fingerprint, times, what they moved."""

    def __init__(self, root: str) -> None:
        self._path = os.path.join(root, HOME, "ledger.json")

    def read(self) -> dict[str, Any]:
        """Return the entries by step; a ledger that cannot be read counts as empty, so every step runs again."""
        try:
            with open(self._path, encoding="utf-8") as stream:
                steps = json.load(stream)["steps"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            log("the ledger is damaged: every step runs again")
            return {}
        return dict(steps)

    def drop(self, step: str) -> None:
        """Forget a step that is about to run: cut off half-way, it must not look done in an older way either."""
        steps = self.read()
        if steps.pop(step, None) is not None:
            self._write(steps)

    def enter(self, step: str, entry: dict[str, Any]) -> None:
        """Record a step as done."""
        self._write(dict(self.read(), **{step: entry}))

    def _write(self, steps: dict[str, Any]) -> None:
        write_whole(self._path, [json.dumps({"form": 1, "steps": steps}, indent=1, sort_keys=True), "\n"])


# ---- Telling ----


def log(text: str) -> None:
    """Tell a person something that is no event."""
    print("agent: " + text, file=sys.stderr, flush=True)


def emit(**event: object) -> None:
    """Print one event. When nobody reads stdout any more, the plan goes on all the same."""
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open like the stdout it replaces


def utc_now() -> str:
    """Return the time as ISO 8601, in UTC."""
    return datetime.now(timezone.utc).isoformat()  # noqa: UP017 - datetime.UTC is newer than Python 3.8


class Reporter:
    """Keeps records.Report and sends it. Losing a report never fails a plan, and may delay it by REPORT_TIMEOUT_S."""

    def __init__(self, url: str, attempt: str) -> None:
        now = utc_now()
        self._url = url
        self._steps: dict[str, dict[str, Any]] = {}
        self._failed: str | None = None
        self._report: dict[str, Any] = {"state": "running", "attempt": attempt, "began": now, "updated": now}

    def begun(self, step: str, result: dict[str, Any]) -> None:
        """A step runs now, or is tried again."""
        self._steps[step] = dict(result, step=step, result="running")
        self._send()

    def ended(self, step: str, result: dict[str, Any]) -> None:
        """A step ended."""
        self._steps[step] = dict(result, step=step)
        if result["result"] == "failed":
            self._failed = self._failed or step
        if result["result"] != "skipped":
            self._send()

    def finished(self, state: str, reason: str) -> None:
        """The plan ended."""
        self._report.update(state=state, reason=reason[:2000])
        for attempt in range(1, LAST_REPORT_TRIES):
            if self._send():
                return
            time.sleep(0.15 * 2**attempt)
        self._send()

    def _send(self) -> bool:
        self._report.update(updated=utc_now(), steps=list(self._steps.values()), step=self._blamed())
        body = json.dumps(self._report).encode()
        request = urllib.request.Request(self._url, body, method="PUT")  # noqa: S310 - checked by check_plan
        try:
            with urllib.request.urlopen(request, timeout=REPORT_TIMEOUT_S):  # noqa: S310
                return True
        except (OSError, ValueError) as error:
            log(f"the report was not taken: {error}")
            return False

    def _blamed(self) -> str | None:
        """Return the step that failed first, or else has run the longest; None when there is none."""
        running = [name for name, step in self._steps.items() if step["result"] == "running"]
        return self._failed or (running[0] if running else None)


def tail_of(path: str) -> str:
    """Return the last lines of a log, as text whatever is in it."""
    with open(path, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4 * TAIL_CHARACTERS))
        text = stream.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])[-TAIL_CHARACTERS:]


# ---- The plan ----


ONCE = {"tries": 1, "pause_s": 0}
"""How a step is tried that does not say so."""

_TEXT = {"step", "kind", "fingerprint"}
_KINDS = {"run": {"script"}, "sync": {"component", "version", "to"}, "check": {"url"}}


def read_plan(path: str) -> dict[str, Any]:
    """Read and check a plan.

    Raises:
        PlanUnusable: it cannot be read, or is not what this agent understands.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            plan = json.load(stream)
    except (OSError, ValueError) as error:
        raise PlanUnusable(f"the plan cannot be read: {error}") from error
    if not isinstance(plan, dict) or plan.get("form") != 1:
        raise PlanUnusable("the plan is not of form 1, the only one that this agent knows")
    for name in ("fleet", "server", "attempt", "address", "report_url"):
        if not isinstance(plan.get(name), str):
            raise PlanUnusable(f"the plan lacks {name}")
    if not re.match("https?://", plan["report_url"]):
        raise PlanUnusable("report_url is no HTTP URL")
    if not isinstance(plan.get("parallel", 1), int) or plan.get("parallel", 1) < 1:
        raise PlanUnusable("parallel must be a number of steps, 1 or more")
    if not isinstance(plan.get("steps"), list):
        raise PlanUnusable("the plan lacks steps")
    before: set[str] = set()
    for step in plan["steps"]:
        check_step(step)
        check_needs(step, before)
        before.add(step["step"])
    return plan


def check_step(step: Any) -> None:
    """Refuse a step that could not be run.

    Raises:
        PlanUnusable: something is missing, or points outside of the root directory.
    """
    if not isinstance(step, dict) or step.get("kind") not in _KINDS:
        raise PlanUnusable("a step is of a kind that this agent does not know")
    lacking = [name for name in _TEXT | _KINDS[step["kind"]] if not isinstance(step.get(name), str)]
    if lacking:
        raise PlanUnusable("a step lacks {}".format(", ".join(sorted(lacking))))
    if not re.fullmatch("[a-z][a-z0-9-]{0,62}", step["step"]):
        raise PlanUnusable("{!r} is no name for a step".format(step["step"]))
    if not isinstance(step.get("timeout_s"), (int, float)) or not step["timeout_s"] > 0:
        raise PlanUnusable("step {}: timeout_s must be above 0".format(step["step"]))
    if step["kind"] == "sync" and not is_below(os.fsencode(step["to"])):
        raise PlanUnusable("step {}: {!r} is no path below the root directory".format(step["step"], step["to"]))
    if step["kind"] == "sync":
        check_content(step["step"], step.get("content"))

    if not isinstance(step.get("user", ""), (str, type(None))):
        raise PlanUnusable("step {}: user must be a name".format(step["step"]))
    retry = step.get("retry", ONCE)
    if not isinstance(retry, dict) or not all(isinstance(retry.get(name), (int, float)) for name in ONCE):
        raise PlanUnusable("step {}: retry must say tries and pause_s".format(step["step"]))


def check_needs(step: dict[str, Any], before: set[str]) -> None:
    """Refuse a step that waits for what never comes, or that is there twice.

    Raises:
        PlanUnusable: it needs a step that is not before it, or has the name of one.
    """
    needs = step.get("needs", [])
    if not isinstance(needs, list) or not before.issuperset(needs):
        raise PlanUnusable("step {} needs a step that is not before it".format(step["step"]))
    if step["step"] in before:
        raise PlanUnusable("step {} is there twice".format(step["step"]))


def check_content(step: str, content: Any) -> None:
    """Refuse a sync step that does not say where its release is.

    Raises:
        PlanUnusable: something is missing.
    """
    wanted = {"manifest_url": str, "manifest_sha256": str, "packs": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in wanted.items()):
        raise PlanUnusable(f"step {step}: content must say where the manifest and the packs are")
    if not isinstance(content.get("deltas", {}), dict):
        raise PlanUnusable(f"step {step}: content must say by manifest where deltas are")


def is_below(path: bytes) -> bool:
    """Whether a relative path stays below the directory it starts from."""
    return b"\0" not in path and all(part not in (b"", b".", b"..") for part in path.split(b"/"))


class Moved:
    """What a step fetched."""

    def __init__(self) -> None:
        self.bytes = 0
        self.requests = 0
        self._lock = threading.Lock()

    def add(self, count: int, requests: int = 0) -> None:
        """Count bytes and requests; from any thread."""
        with self._lock:
            self.bytes += count
            self.requests += requests


class Runner:
    """Runs one plan."""

    def __init__(self, plan: dict[str, Any], root: str, signals: Signals) -> None:
        self._plan = plan
        self._root = root
        self._signals = signals
        self._ledger = Ledger(root)
        self._reporter = Reporter(plan["report_url"], plan["attempt"])
        self._began = time.monotonic()
        self._waiting: list[dict[str, Any]] = list(plan["steps"])
        self._at_work: list[Work] = []
        self._done: set[str] = set()
        self._synced: list[dict[str, Any]] = []
        self._reason = ""

    def run(self) -> int:
        """Run the plan; return the exit status."""
        try:
            for folder in (HOME, LOGS):
                os.makedirs(os.path.join(self._root, folder), exist_ok=True)
            self._wait_for_lock()
            end_leftover(self._root)
            self._steps()
        except (Stopped, OSError) as error:
            self._reason = str(error)
        state = "failed" if self._reason else "ok"
        self._reporter.finished(state, self._reason)
        seconds = round(time.monotonic() - self._began, 3)
        emit(event="result", state=state, reason=self._reason, seconds=seconds)
        if self._synced and not self._reason:
            in_background(self._look_again)
        return 1 if self._reason else 0

    def _look_again(self) -> None:
        """Look at every file of the trees that were moved on, and put right what is not as it was put there."""
        self._signals.give_back()
        for step in self._synced:
            self._sync(step, Moved())

    def _wait_for_lock(self) -> None:
        """Take the server's lock. It goes when this process does: children let go of it at once."""
        self._lock = os.open(os.path.join(self._root, HOME, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        told = False
        while not take(self._lock):
            if not told:
                emit(event="waiting", reason="another run is under way on this server")
            told = True
            stop = self._signals.wait(LOCK_LOOK_S)
            if stop:
                raise Stopped(f"stopped by {stop}")

    def _steps(self) -> None:
        """Run the steps until all are done, or one failed and the others at work have ended."""
        try:
            self._begin_ready()
            while self._at_work:
                stop = self._signals.wait(min(work.wake_in(may_retry=not self._reason) for work in self._at_work))
                if stop:
                    self._give_up(f"stopped by {stop}", end=True)
                self._look()
                self._begin_ready()
        finally:
            for work in self._at_work:  # Something of ours broke, such as the disk: leave nothing behind.
                work.kill()

    def _begin_ready(self) -> None:
        """Skip and begin steps, in order, as far as what they need is done and others leave room."""
        for step in list(self._waiting):
            if len(self._at_work) >= self._plan.get("parallel", 1) or self._reason:
                return
            if self._done.issuperset(step.get("needs", [])):
                self._waiting.remove(step)
                if self._is_done(step):
                    self._skip(step)
                else:
                    self._begin(step)

    def _is_done(self, step: dict[str, Any]) -> bool:
        entry = self._ledger.read().get(step["step"], {})
        if step["kind"] == "check" or entry.get("fingerprint") != step["fingerprint"]:
            return False
        return step["kind"] != "sync" or Trees(self._root, step["to"]).stands(step["content"]["manifest_sha256"])

    def _skip(self, step: dict[str, Any]) -> None:
        self._done.add(step["step"])
        self._reporter.ended(step["step"], dict(described(step), result="skipped"))
        emit(event="end", step=step["step"], result="skipped", seconds=0.0)

    def _begin(self, step: dict[str, Any]) -> None:
        self._ledger.drop(step["step"])
        emit(event="begin", step=step["step"], kind=step["kind"], why=step.get("why", ""))
        self._at_work.append(Work(step, self._start))
        self._reporter.begun(step["step"], self._at_work[-1].result())

    def _look(self) -> None:
        """See how the steps at work are doing."""
        for work in list(self._at_work):
            tried = len(work.tries)
            if work.look(may_retry=not self._reason):
                self._at_work.remove(work)
                self._end(work)
            elif len(work.tries) > tried:
                emit(event="retry", step=work.name, tried=len(work.tries), reason=work.reason)
                self._reporter.begun(work.name, work.result())

    def _end(self, work: Work) -> None:
        """A step has ended: enter it into the ledger when it is done, and tell everybody."""
        result = work.result()
        if work.reason:
            result["log_tail"] = self._tail(work.step)
            self._give_up(f"step {work.name} failed: {work.reason}")
        else:
            self._done.add(work.name)
            self._synced += [work.step] if work.step["kind"] == "sync" else []
            if work.step["kind"] != "check":
                self._ledger.enter(work.name, dict(result, version=work.step.get("version", "")))
        emit(event="end", step=work.name, **{name: value for name, value in result.items() if name != "parts"})
        self._reporter.ended(work.name, result)

    def _give_up(self, reason: str, end: bool = False) -> None:
        """Begin nothing more; ``end`` what is at work, too."""
        self._reason = self._reason or reason
        for work in self._at_work if end else ():
            work.end(reason)

    def _tail(self, step: dict[str, Any]) -> str:
        return tail_of(self._log(step)) if step["kind"] == "run" and os.path.exists(self._log(step)) else ""

    def _log(self, step: dict[str, Any]) -> str:
        return os.path.join(self._root, LOGS, step["step"] + ".log")

    def _start(self, step: dict[str, Any], number: int) -> Try:
        """Begin a try of a step."""
        act = {"run": self._run, "sync": self._sync, "check": self._check}[step["kind"]]
        if number == 1:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._log(step))

        def work(said: int) -> None:
            os.close(self._lock)
            self._signals.give_back()
            tell(said, lambda moved: act(step, moved))

        return Try(step, self._root, work)

    def _run(self, step: dict[str, Any], moved: Moved) -> None:
        command = write_script(self._root, step["step"], step["script"])
        handle = os.open(self._log(step), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        become_script(command, self._root, handle, self._environment(step), step.get("user"))

    def _environment(self, step: dict[str, Any]) -> dict[str, str]:
        own = {
            "PATH": os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOME": os.environ.get("HOME", "/root"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "SERVER_ROOT": self._root,
            "ADDRESS": self._plan["address"],
            "FLEET": self._plan["fleet"],
            "SERVER": self._plan["server"],
        }
        if step.get("user"):
            own.update(home_of(step["user"]))
        return dict(own, **step.get("environment", {}))

    def _sync(self, step: dict[str, Any], moved: Moved) -> None:
        Sync(Trees(self._root, step["to"]), step["content"], moved).run()

    def _check(self, step: dict[str, Any], moved: Moved) -> None:
        check(step["url"])


def in_background(work: Callable[[], None]) -> None:
    """Work in a process that goes on when this one ends, and has its locks: the next run waits for it."""
    if os.fork():
        return
    try:
        os.setsid()
        os.nice(BACKGROUND_NICE)
        with open(os.devnull, "r+b") as nothing:
            for handle in range(3):
                os.dup2(nothing.fileno(), handle)
        work()
    finally:
        os._exit(0)  # Whatever went wrong, the next run will find.


def beside(work: Callable[[], Any]) -> Callable[[], Any]:
    """Work in a fork, on another core if there is one; return what waits for its end and returns what came of it.

    What comes of it is passed on as JSON. The fork is in our process group, and ends with it.

    Raises:
        OSError: there can be no fork; or, when waiting: one from the work, or it did not come to its end.
    """
    hearing, said = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            write_all(said, json.dumps(told(work)).encode())
            os._exit(0)
        except Stopped:
            pass  # Whoever waits for us is stopped, too.
        except BaseException:  # noqa: BLE001 - nothing may get past here; the parent sees the status
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    os.close(said)

    def outcome() -> Any:
        with open(hearing, "rb") as stream:
            text = stream.read()
        _, status = os.waitpid(pid, 0)
        if status:
            raise OSError(status_text("a part of the step", exit_code(status)))
        came, reason = json.loads(text)
        if reason:
            raise OSError(reason)
        return came

    return outcome


def told(work: Callable[[], Any]) -> tuple[Any, str]:
    """Work; return what comes of it, and why nothing does."""
    try:
        return work(), ""
    except OSError as error:
        return None, str(error)


def take(lock: int) -> bool:
    """Take a lock, if nobody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def described(step: dict[str, Any]) -> dict[str, Any]:
    """Return what tells this form of a step from others: goes into records.StepResult as it is."""
    return {"fingerprint": step["fingerprint"], "parts": step.get("parts", {})}


# ---- a step at work ----


class Work:
    """A step at work: the try that is under way, or the pause before the next, and the tries that have ended."""

    def __init__(self, step: dict[str, Any], start: Callable[[dict[str, Any], int], Try]) -> None:
        self.step = step
        self.name: str = step["step"]
        self.tries: list[dict[str, Any]] = []
        self._start = start
        self._retry = step.get("retry", ONCE)
        self._clock = time.monotonic()
        self._began = utc_now()
        self._next = 0.0
        self._try: Try | None = start(step, 1)

    @property
    def reason(self) -> str:
        """Why the last try failed; nothing when it did not."""
        return str(self.tries[-1]["reason"]) if self.tries else ""

    def result(self) -> dict[str, Any]:
        """Return records.StepResult without the name."""
        sums = {name: sum(each[name] for each in self.tries) for name in ("cpu_seconds", "bytes", "requests")}
        found = dict(described(self.step), began=self._began, result="failed" if self.reason else "done", **sums)
        found.update(seconds=round(time.monotonic() - self._clock, 3), cpu_seconds=round(sums["cpu_seconds"], 3))
        if self.reason:
            found["reason"] = self.reason
        if len(self.tries) > 1:
            found["tries"] = self.tries
        return found

    def wake_in(self, *, may_retry: bool) -> float:
        """Return how many seconds may pass until the next ``look``, when no child ends before."""
        if self._try is None:
            return self._next - time.monotonic() if may_retry else 0.0
        return self._try.wake_at() - time.monotonic()

    def look(self, *, may_retry: bool) -> bool:
        """Go on as far as can be without waiting; True when the step has ended."""
        if self._try is None:
            if may_retry and time.monotonic() >= self._next:
                self._try = self._start(self.step, len(self.tries) + 1)
            return not may_retry
        if not self._try.look():
            return False
        self.tries.append(self._try.facts())
        if not self.reason or not may_retry or len(self.tries) >= self._retry["tries"]:
            return True
        self._try, self._next = None, time.monotonic() + self._retry["pause_s"]
        return False

    def end(self, why: str) -> None:
        """End the try that is under way."""
        if self._try is not None:
            self._try.end(why)

    def kill(self) -> None:
        """End the try that is under way, at once."""
        if self._try is not None:
            self._try.kill()


class Try:
    """One try of a step: a process, in a session and so in a process group of its own."""

    def __init__(self, step: dict[str, Any], root: str, work: Callable[[int], None]) -> None:
        self._timeout_s = step["timeout_s"]
        self._what = "the script" if step["kind"] == "run" else "the step"
        self._root = root
        self._began, self._clock = utc_now(), time.monotonic()
        self._pid, self._said = fork(root, work)
        self._cut = ""
        self._kill_at = 0.0
        self._status: int | None = None
        self._facts: dict[str, Any] = {}

    def wake_at(self) -> float:
        """Return when to look again, in time.monotonic()'s seconds, when the process does not end before."""
        soon = time.monotonic() + GROUP_LOOK_S
        if self._status is not None:
            return soon
        return max(self._kill_at, soon) if self._kill_at else self._clock + self._timeout_s

    def look(self) -> bool:
        """See whether the process has ended; True when all is over. Its group ends when it fails or its time is up."""
        self._reap()
        if self._status is not None and self._facts["reason"]:
            self.end("")
        elif self._status is None and time.monotonic() >= self._clock + self._timeout_s:
            self.end(f"not done within {self._timeout_s:g} s")
        late = self._kill_at and (time.monotonic() >= self._kill_at or not self._lives())
        if late:
            self._signal(signal.SIGKILL)
        over = self._status is not None and bool(late or not self._kill_at)
        if over:
            forget_running(self._root, self._pid)
        return over

    def end(self, why: str) -> None:
        """Ask the group to end; it is killed after TERM_GRACE_S."""
        if not self._kill_at:
            self._cut = why
            self._kill_at = time.monotonic() + TERM_GRACE_S
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the group at once."""
        self._signal(signal.SIGKILL)
        if self._status is None:
            os.waitpid(self._pid, 0)
        forget_running(self._root, self._pid)

    def facts(self) -> dict[str, Any]:
        """Return records.Try, once all is over."""
        return self._facts

    def _lives(self) -> bool:
        return self._status is None or signal_group(self._pid, 0)

    def _signal(self, number: int) -> None:
        if not signal_group(self._pid, number) and self._status is None:
            os.kill(self._pid, number)  # It has yet to make its group.

    def _reap(self) -> None:
        """Take note of the process's end: what it said, what it used."""
        if self._status is not None:
            return
        pid, status, used = os.wait4(self._pid, os.WNOHANG)
        if not pid:
            return
        self._status = exit_code(status)
        said = read_said(self._said)
        self._facts = {
            "began": self._began,
            "seconds": round(time.monotonic() - self._clock, 3),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
            "bytes": said.get("bytes", 0),
            "requests": said.get("requests", 0),
            "reason": self._why(str(said.get("reason", "")))[:2000],
        }

    def _why(self, said: str) -> str:
        """Return why the try failed: that it was ended, what it said itself, or how it ended."""
        if self._status == 0 and not self._cut:
            return ""
        return "; ".join(filter(None, (self._cut, said))) or status_text(self._what, self._status or 0)


def fork(root: str, work: Callable[[int], None]) -> tuple[int, int]:
    """Do work in a child with a session of its own; return its pid, and where to read what it said.

    The child begins only when it is noted down (see ``end_leftover``): it ends when we are gone before.
    """
    gate, opening = os.pipe()
    hearing, said = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(opening)
        in_child(gate, said, work)
    os.close(gate)
    os.close(said)
    note_running(root, pid)
    os.write(opening, b".")
    os.close(opening)
    return pid, hearing


def in_child(gate: int, said: int, work: Callable[[int], None]) -> NoReturn:
    """Work, and never return into what was forked."""
    try:
        os.setsid()
        if os.read(gate, 1):
            work(said)
    except BaseException:  # noqa: BLE001 - nothing may get past here; the parent sees the status
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def tell(said: int, act: Callable[[Moved], None]) -> NoReturn:
    """Do a step's work, and say what it moved and why it failed. A script takes this process over, and says nothing."""
    moved, reason, status = Moved(), "", 1
    try:
        act(moved)
        status = 0
    except Stopped as error:
        reason = str(error)  # None: whoever stopped us knows why.
    except (StepFailed, Corrupt, Broken, OSError) as error:
        reason = str(error) or type(error).__name__
    os.write(said, json.dumps({"reason": reason[:2000], "bytes": moved.bytes, "requests": moved.requests}).encode())
    os._exit(status)


def read_said(said: int) -> dict[str, Any]:
    """Return what a child said: nothing when it was a script, or was killed."""
    os.set_blocking(said, False)
    try:
        found: dict[str, Any] = json.loads(os.read(said, 65536) or b"{}")
    except BlockingIOError:
        return {}
    finally:
        os.close(said)
    return found


def exit_code(status: int) -> int:
    """Return a process's exit code, negative for the signal that ended it."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def status_text(what: str, status: int) -> str:
    """Say how a process ended."""
    if status > 0:
        return f"{what} ended with status {status}"
    return f"{what} was ended by {signal.Signals(-status).name}"


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; False when there is none."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


# ---- what a killed agent leaves behind ----


def running_path(root: str, group: int | str = "") -> str:
    """Where it is noted down that a step's process group runs; without one, the folder of these notes."""
    return os.path.join(root, HOME, "running", str(group))


def note_running(root: str, group: int) -> None:
    """Note a step's process group down, for ``end_leftover``. A reboot may lose the note, which means nothing then."""
    os.makedirs(running_path(root), exist_ok=True)
    with open(running_path(root, group), "w", encoding="utf-8") as stream:
        json.dump({"started": started(group), "boot": boot()}, stream)


def forget_running(root: str, group: int | str) -> None:
    """The process has ended."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(running_path(root, group))


def end_leftover(root: str) -> None:
    """End what an agent that was killed in the middle of steps left running: they are about to run again."""
    folder = running_path(root)
    for group in os.listdir(folder) if os.path.isdir(folder) else ():
        with open(running_path(root, group), encoding="utf-8") as stream:
            text = stream.read()
        if is_left(int(group), text):
            log("ending what an earlier run left behind")
            signal_group(int(group), signal.SIGKILL)
        forget_running(root, group)


def is_left(group: int, note: str) -> bool:
    """Whether a noted process group is that step's still. Whose note is half written never began."""
    try:
        left = json.loads(note)
    except ValueError:
        return False
    return left["boot"] == boot() and started(group) in ("", left["started"])


def started(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; nothing when it is gone. Tells a reused pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return stream.read().rsplit(b")", 1)[1].split()[19].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def boot() -> str:
    """Return the id of this boot; pids of another one mean nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


# ---- run ----


def write_script(root: str, name: str, text: str) -> list[str]:
    """Put the script into a file and return the command that runs it."""
    folder = os.path.join(root, HOME, "scripts")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # It may belong to the user that it ran as.
    with open(path, "x", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(path, 0o700)
    return [path] if text.startswith("#!") else ["/bin/sh", path]


def become_script(command: list[str], root: str, output: int, environment: dict[str, str], user: str | None) -> None:
    """Turn this process into a step's script. Never returns.

    Raises:
        StepFailed: the script cannot be started, or not as this user.
    """
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(root)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these, and a program inherits what is ignored.
    try:
        if user:
            become(user, command[-1])
        os.execve(command[0], command, environment)  # noqa: S606 - the plan's digest was verified
    except OSError as error:
        raise StepFailed(f"the script could not be started: {error}") from error


def become(user: str, script: str) -> None:
    """Take on a user's groups and ids, for good. The script becomes the user's, who could not read it otherwise.

    Raises:
        StepFailed: only root can, and we are not.
    """
    entry = account(user)
    if os.geteuid() == 0:
        os.chown(script, entry.pw_uid, entry.pw_gid)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    elif os.geteuid() != entry.pw_uid:
        raise StepFailed(f"only root can run a step as {user!r}: run the agent as root, or leave the step's user out")


def home_of(user: str) -> dict[str, str]:
    """Return the part of the environment that is the user's own."""
    return {"HOME": account(user).pw_dir, "USER": user, "LOGNAME": user}


def account(user: str) -> pwd.struct_passwd:
    """Return what the server knows of a user.

    Raises:
        StepFailed: there is no such user.
    """
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise StepFailed(f"this server has no user {user!r}: make it in a step before, or name another") from None


# ---- check ----


def check(url: str) -> None:
    """Ask a URL until it answers 200.

    Raises:
        Stopped: the time ran out, or the plan ends; says what it answered last.
    """
    pause, last = CHECK_FIRST_S, "no answer"
    try:
        while True:
            last = answer_of(url)
            if last == "200":
                return
            time.sleep(pause)
            pause = min(CHECK_MOST_S, pause * 1.3)
    except Stopped:
        raise Stopped(f"{url} did not answer 200; last: {last}") from None


def answer_of(url: str) -> str:
    """Return the status that a URL answers with, or the error."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=CHECK_TIMEOUT_S) as response:
            return str(response.status)
    except urllib.error.HTTPError as error:
        return f"status {error.code}"
    except (OSError, ValueError) as error:
        return str(error)


# ---- sync: trees ----


class Known(NamedTuple):
    """A file of a standing tree, as it was when it was put there."""

    sha256: str
    mode: int
    size: int
    changed_ns: int


class Other(NamedTuple):
    """A folder of a standing tree; or a link, which has a target. A folder's time tells whether names came or went."""

    mode: int
    target: bytes = b""
    changed_ns: int = 0


class Shard(NamedTuple):
    """A part of all folders, and the files in them."""

    number: int = 0
    of: int = 1

    def has(self, path: bytes) -> bool:
        """Whether a file is in one of the folders."""
        return self.of == 1 or self.has_folder(parent(path))

    def has_folder(self, path: bytes) -> bool:
        """Whether a folder is one of them."""
        return self.of == 1 or zlib.crc32(path) % self.of == self.number


ALL = Shard()


class Tree:
    """One tree on disk and its record: what was put there.

    A record is lines of JSON, each of one kind. Whatever changes a tree appends some, and last the one that says which
    manifest the tree is of: ``gone`` paths, ``others`` and ``files`` by path, ``parts`` by SHA-256, ``manifest_sha256``
    """

    def __init__(self, home: bytes, name: bytes) -> None:
        self.name = name
        self.path = os.path.join(home, name)
        self.record_path = self.path + b".json"
        self.manifest_sha256 = ""
        self.files: dict[bytes, Known] = {}
        self.others: dict[bytes, Other] = {}
        self.parts: dict[str, list[Lent]] = {}
        """Of large contents: the stretches of blocks that they are made of."""
        self._changes = 0

    @property
    def number(self) -> int:
        """Trees are numbered in the order in which they were made."""
        return int(self.name.split(b"-")[1])

    def load(self, *kinds: str, shard: Shard | None = None) -> bool:
        """Read the record, or only lines of these kinds, and files of a shard; False when it is missing or damaged."""
        self.files, self.others, self.parts, self._changes = {}, {}, {}, 0
        last = b""
        try:
            with open(self.record_path, "rb") as stream:
                for last in stream:
                    kind = last[2 : last.index(b'"', 2)].decode()
                    if not kinds or kind in (*kinds, "gone", "manifest_sha256"):
                        self._take(json.loads(last), shard or ALL)
                    self._changes += kind == "gone"
        except (FileNotFoundError, ValueError):
            return False
        return last.startswith(b'{"manifest_sha256"')

    def _take(self, line: dict[str, Any], shard: Shard) -> None:
        for path in map(os.fsencode, line.get("gone", ())):
            self.files.pop(path, None)
            self.others.pop(path, None)
        found = line.get("files", {})
        files = zip(map(os.fsencode, found), map(Known._make, found.values()))  # noqa: B905 - newer than Python 3.8
        self.files.update(files if shard is ALL else ((path, known) for path, known in files if shard.has(path)))
        for path, (mode, target, *times) in line.get("others", {}).items():
            self.others[os.fsencode(path)] = Other(mode, os.fsencode(target), *times)
        self.parts.update((digest, [Lent(*part) for part in parts]) for digest, parts in line.get("parts", {}).items())
        self.manifest_sha256 = line.get("manifest_sha256", self.manifest_sha256)

    def identity(self) -> str | None:
        """Return which manifest the tree is of, without reading all of the record; None when that is damaged."""
        try:
            with open(self.record_path, "rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - 200))
                return str(json.loads(stream.read().splitlines()[-1])["manifest_sha256"])
        except (FileNotFoundError, ValueError, IndexError, KeyError, TypeError):
            return self.manifest_sha256 if self.load() else None

    def save(self) -> None:
        """Write the record anew."""
        used = {known.sha256 for known in self.files.values()}
        self.parts = {digest: parts for digest, parts in self.parts.items() if digest in used}
        write_whole(os.fsdecode(self.record_path), lines_of(self))

    def append(self, gone: Iterable[bytes], change: Tree) -> None:
        """Add to the record what has changed, durably. One that has grown long is written anew instead."""
        names = {"gone": [os.fsdecode(path) for path in gone]}
        if self._changes > RECORD_CHANGES:
            self.load()
            self._take(names, ALL)
            self.files.update(change.files)
            self.others.update(change.others)
            self.parts.update(change.parts)
            self.manifest_sha256 = change.manifest_sha256
            self.save()
            return
        with open(self.record_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(names) + "\n" if names["gone"] else "")
            stream.writelines(lines_of(change))
            stream.flush()
            os.fsync(stream.fileno())

    def has(self, path: bytes) -> bool:
        """Whether a file is as it was when it was put there."""
        return known_at(os.path.join(self.path, path), self.files[path])

    def intact(self, paths: Iterable[bytes] | None = None) -> Iterator[bytes]:
        """Yield the files, or those of them, that are as they were when they were put there."""
        with directory(self.path) as here:
            yield from (
                path for path in (self.files if paths is None else paths) if known_at(path, self.files[path], here)
            )

    def shards(self) -> list[Shard]:
        """Return parts of the tree of which each fits into memory."""
        shards = 1 + os.path.getsize(self.record_path) // SHARD_BYTES
        return [Shard(number, shards) for number in range(shards)]

    def whole(self) -> bool:
        """Whether everything in the record is there as it was. A crash of the machine leaves shorter files."""
        return os.path.isdir(self.path) and all(self.load(shard=shard) and self._whole() for shard in self.shards())

    def _whole(self) -> bool:
        return self._intact() == len(self.files) and all(map(self.has_other, self.others))

    def _intact(self) -> int:
        """Count the files that are as they were put there. Of many, another process looks at half."""
        paths = list(self.files)
        half = len(paths) // 2 if len(paths) > FEW_FILES else 0
        there = beside(lambda: sum(1 for _ in self.intact(paths[:half]))) if half else int
        try:
            here = sum(1 for _ in self.intact(paths[half:]))
        finally:
            others: int = there()
        return here + others

    def has_other(self, path: bytes) -> bool:
        """Whether a folder or link is as it was put there; what is in a folder does not matter."""
        mode, target, _ = self.others[path]
        full = os.path.join(self.path, path)
        if target:
            return os.path.islink(full) and os.readlink(full) == target
        return mode_of(full) == stat.S_IFDIR | mode

    def same_names(self) -> bool:
        """Whether no name has come into any folder or gone since the tree was made: a fraction of the work of all."""
        folders = ((path, other) for path, other in self.others.items() if not other.target)
        return all(folder(below(self.path, path)) == other for path, other in folders)


def known_at(path: bytes, known: Known, folder: int | None = None) -> bool:
    """Whether a file, below an open folder if one is given, is as it was. Content that changed has another time."""
    try:
        status = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    same = status.st_size == known.size and status.st_mtime_ns == known.changed_ns
    return same and status.st_mode == stat.S_IFREG | known.mode


def lines_of(tree: Tree) -> Iterator[str]:
    """Yield the lines of a record."""
    others = {os.fsdecode(path): (at.mode, os.fsdecode(at.target), at.changed_ns) for path, at in tree.others.items()}
    yield json.dumps({"others": others}) + "\n"
    yield json.dumps({"parts": tree.parts}) + "\n"
    files = iter(tree.files.items())
    for some in iter(lambda: list(itertools.islice(files, RECORD_FILES)), []):
        yield json.dumps({"files": {os.fsdecode(path): facts for path, facts in some}}) + "\n"
    yield json.dumps({"manifest_sha256": tree.manifest_sha256}) + "\n"


def mode_of(path: bytes) -> int:
    """Return what kind of thing is at a path and its mode; 0 when there is nothing."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def folder(path: bytes) -> Other | None:
    """Return what is to be known of a folder; None when it is none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Other(stat.S_IMODE(status.st_mode), b"", status.st_mtime_ns) if stat.S_ISDIR(status.st_mode) else None


def below(folder: bytes, path: bytes) -> bytes:
    """Return where a path of a release is in a folder."""
    return folder if path == b"." else os.path.join(folder, path)


def top_down(paths: Iterable[bytes]) -> list[bytes]:
    """Sort paths so that each comes after the folder that it is in."""
    return sorted(paths, key=lambda path: (path != b".", path))


def parent(path: bytes) -> bytes:
    """Return the path of the folder that a path of a release is in."""
    return os.path.dirname(path) or b"."


class Trees:
    """The link ``<root>/<to>`` and the trees that it may point to, in ``.<name>.trees`` beside it."""

    def __init__(self, root: str, to: str) -> None:
        self.link = os.fsencode(os.path.join(root, to))
        folder, name = os.path.split(self.link)
        self._folder = b"." + name + b".trees"
        self.home = os.path.join(folder, self._folder)

    def present(self) -> Tree | None:
        """Return the tree that the link points to."""
        if not os.path.islink(self.link):
            return None
        folder, name = os.path.split(os.readlink(self.link))
        return Tree(self.home, name) if folder == self._folder and re.fullmatch(b"tree-[0-9]+", name) else None

    def spare(self) -> Tree | None:
        """Return the tree that the next release is made of: the latest but the present one."""
        present = self.present()
        others = (tree for tree in self._all() if present is None or tree.name != present.name)
        return next((tree for tree in others if tree.identity() is not None), None)

    def next(self) -> Tree:
        """Return a tree that is not there yet."""
        return Tree(self.home, b"tree-%d" % (max([0, *(tree.number for tree in self._all())]) + 1))

    def stands(self, manifest_sha256: str) -> bool:
        """Whether the link points to a whole tree of this manifest."""
        tree = self.present()
        return tree is not None and tree.identity() == manifest_sha256 and tree.whole()

    def _all(self) -> list[Tree]:
        """Return the trees on disk, latest first."""
        names = [name for name in os.listdir(self.home) if re.fullmatch(b"tree-[0-9]+", name)]
        return sorted((Tree(self.home, name) for name in names), key=lambda tree: -tree.number)

    def clear(self) -> None:
        """Remove all but the present tree and the spare one, and what a cut left behind."""
        keep = {name for tree in (self.present(), self.spare()) if tree for name in (tree.name, tree.name + b".json")}
        for name in os.listdir(self.home):
            if name not in keep:
                remove_tree(os.path.join(self.home, name))

    def switch(self, tree: Tree) -> None:
        """Point the link to a tree, at once.

        Raises:
            StepFailed: there is something else in the link's place.
        """
        if os.path.isdir(self.link) and not os.path.islink(self.link) and not os.listdir(self.link):
            os.rmdir(self.link)
        if os.path.lexists(self.link) and not os.path.islink(self.link):
            raise StepFailed(f"{os.fsdecode(self.link)} is there already and is not ours; move it away")
        temporary = os.path.join(self.home, b"link")
        os.symlink(os.path.join(self._folder, tree.name), temporary)
        os.replace(temporary, self.link)
        sync_directory(os.path.dirname(self.link))

    def twin(self, tree: Tree) -> Tree:
        """Make a second tree of one, of hard links. Only the folders and links of its record have to be loaded.

        Where names have come or gone, files that are not as they were put there are left out. Where none have, files
        are not looked at: one that was written to in place is in both trees, until all files are looked at.
        """
        new = self.next()
        part = new.path + b".part"
        others, same_names = tree.others, tree.same_names()
        folders = top_down(path for path, other in others.items() if not other.target)
        for path in folders:
            os.mkdir(below(part, path), 0o700)
            if same_names:
                link_files(below(tree.path, path), below(part, path))
        whole = True
        left_out: set[bytes] = set()
        with directory(tree.path) as source, directory(part) as target:
            for shard in tree.shards() if not same_names else ():
                whole &= tree.load("files", shard=shard)
                paths = dict.fromkeys(tree.intact()).keys()
                left_out |= tree.files.keys() - paths
                for path in paths:
                    os.link(path, path, src_dir_fd=source, dst_dir_fd=target)
            for path, other in others.items():
                if other.target:
                    os.symlink(other.target, path, dir_fd=target)
        for path in reversed(folders):
            new.others[path] = made_folder(below(part, path), others[path].mode)
        new.manifest_sha256 = tree.manifest_sha256 if whole and not left_out else ""
        shutil.copyfile(tree.record_path, new.record_path)
        new.append(left_out, new)
        os.rename(part, new.path)
        return new


def link_files(folder: bytes, to: bytes) -> None:
    """Link the files of one folder into another. To list them takes a fraction of reading a record."""
    with directory(folder) as source, directory(to) as target, os.scandir(source) as names:
        for name in names:
            if name.is_file(follow_symlinks=False):
                os.link(name.name, name.name, src_dir_fd=source, dst_dir_fd=target)


@contextlib.contextmanager
def directory(path: bytes) -> Iterator[int]:
    """Open a directory, for calls that take paths below it."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def made_folder(path: bytes, mode: int) -> Other:
    """Give a folder its mode once nothing more is put into it; return what is known of it from now on."""
    status = os.lstat(path)
    if stat.S_IMODE(status.st_mode) != mode:
        os.chmod(path, mode)
    return Other(mode, b"", status.st_mtime_ns)


def remove_tree(path: bytes) -> None:
    """Remove a file or a directory with all in it. A tree is renamed first: cut off, it looks like no tree."""
    if os.path.isdir(path) and not os.path.islink(path) and not path.endswith(b".gone"):
        os.rename(path, path + b".gone")
        path += b".gone"
    remove(path)


def remove(path: bytes) -> None:
    """Remove whatever is at a path."""
    if os.path.islink(path) or not os.path.isdir(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)


# ---- sync: what a release has ----


class Block(NamedTuple):
    """A zlib stream in a pack."""

    number: int
    pack: str
    offset: int
    length: int
    size: int


class File(NamedTuple):
    """A file that a release has. Its content: ``parts`` as (block, start, length), or else all of ``blocks``' text."""

    path: bytes
    mode: int
    size: int
    sha256: str
    blocks: tuple[int, ...]
    offset: int
    parts: Sequence[tuple[int, int, int]]


class Folder(NamedTuple):
    """A folder that a release has."""

    path: bytes
    mode: int


class Link(NamedTuple):
    """A symbolic link that a release has."""

    path: bytes
    target: bytes


def entry(stored: dict[str, Any]) -> dict[str, Any] | File | Folder | Link:
    """Turn an entry into something small while JSON is decoded, so that those of all files are never there at once."""
    if "path" not in stored:
        return stored
    path, mode = inside(stored["path"]), stored.get("mode", 0o644)
    kind = stored.get("kind", "file")
    if kind == "dir":
        return Folder(path, mode)
    if kind == "link":
        return Link(path, decoded(stored["target"]))
    content = (stored.get("size", 0), stored["sha256"], tuple(stored.get("blocks", ())), stored.get("offset", 0))
    return File(path, mode, *content, stored.get("parts", ()))


class Release:
    """The entries of a manifest or of a delta (their format: shared/manifests.py), decoded with ``entry``."""

    def __init__(self, stored: dict[str, Any]) -> None:
        packs = [pack["sha256"] for pack in stored.get("packs", [])]
        self.lengths = {pack["sha256"]: pack["length"] for pack in stored.get("packs", [])}
        self.blocks = [Block(n, packs[b[0]], *b[1:]) for n, b in enumerate(stored.get("blocks", []))]
        self.folders: dict[bytes, int] = {}
        self.links: dict[bytes, bytes] = {}
        self.files: list[File] = []
        count = 0
        for each in stored["entries"]:
            self._add(each)
            count += 1
        if len(set(self.paths())) < count:
            raise Corrupt("the manifest names a path twice")

    def _add(self, each: File | Folder | Link) -> None:
        if isinstance(each, File):
            self.files.append(each)
        elif isinstance(each, Folder):
            self.folders[each.path] = each.mode
        else:
            self.links[each.path] = each.target

    def paths(self) -> Iterator[bytes]:
        """Yield the paths of all entries."""
        return itertools.chain(self.folders, self.links, (file.path for file in self.files))

    def place(self, file: File) -> list[tuple[Block, int, int]]:
        """Return the stretches of blocks that a file's content is: (block, start, length).

        Raises:
            Corrupt: they do not make it up.
        """
        found = [(self.blocks[number], start, length) for number, start, length in file.parts]
        start, left = file.offset, file.size
        for number in file.blocks:
            found.append((self.blocks[number], start, min(left, self.blocks[number].size - start)))
            start, left = 0, left - found[-1][2]
        if sum(length for _, _, length in found) != file.size:
            raise Corrupt(f"the manifest's blocks do not make up {file.path!r}")
        return found


def decoded(name: str) -> bytes:
    """Return a path as it is on disk."""
    return unquote_to_bytes(name) if "%" in name else name.encode()


def inside(name: str) -> bytes:
    """Return a path of a release.

    Raises:
        Corrupt: it leads out of it.
    """
    path = decoded(name)
    if path != b"." and not is_below(path):
        raise Corrupt(f"the manifest has a path outside of the release: {name!r}")
    return path


class Content:
    """A content that has to be put into files, and these files."""

    __slots__ = ("_missing", "files", "lent", "sha256", "size")
    _lock = threading.Lock()
    """One for all: counting takes no time, and locks of their own would take memory."""

    def __init__(self, sha256: str, size: int) -> None:
        self.sha256 = sha256
        self.size = size
        self.files: list[File] = []
        self.lent = False
        self._missing = size

    def arrived(self, count: int) -> bool:
        """Count bytes that are written; True for the one who wrote the last."""
        with self._lock:
            self._missing -= count
            return self._missing == 0

    def again(self) -> None:
        """Nothing has arrived."""
        self._missing, self.lent = self.size, False


class Manifest:
    """A manifest on disk (its format: shared/manifests.py), of which a few entries at a time are in memory."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._rest: dict[str, Any] = {}
        shards = 1 + os.path.getsize(path) // SHARD_BYTES
        self.shards = [Shard(number, shards) for number in range(shards)]
        if shards > 1:
            for _ in self._entries():
                pass  # What the entries refer to comes after them.

    def release(self, shard: Shard) -> Release:
        """Return the release with all folders and links, and files of a shard.

        Raises:
            Corrupt: it is of a form that this agent does not know, or leads out of the release.
        """
        try:
            entries = [each for each in self._entries() if not isinstance(each, File) or shard.has(each.path)]
            return Release(dict(self._rest, entries=entries))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"the manifest is not of a form that this agent knows: {error!r}") from error

    def _entries(self) -> Iterator[File | Folder | Link]:
        """Yield the entries, and keep all else."""
        decoder = json.JSONDecoder(object_hook=entry)
        with open(self.path, encoding="utf-8") as stream:
            text = stream.read(PIECE_BYTES)
            begin = re.search(r'"entries"\s*:\s*\[', text)
            if begin is None:
                raise ValueError("no entries")
            head, at = text[: begin.end()], begin.end()
            while True:
                at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
                if text.startswith("]", at):
                    break
                try:
                    each, at = decoder.raw_decode(text, at)
                except ValueError:  # What is read so far ends within an entry, or before one.
                    more = stream.read(PIECE_BYTES)
                    if not more:
                        raise
                    text, at = text[at:] + more, 0
                    continue
                yield each
            self._rest = json.loads(head + text[at:] + stream.read(), object_hook=entry)


BETWEEN = re.compile(r"[\s,]*")


class Change:
    """What has to be done to a tree to make it a release: what to put, and what to remove before."""

    def __init__(self, put: Release, removed: Iterable[bytes]) -> None:
        self.put = put
        self.removed = set(removed)
        self.seen: set[bytes] = set()
        """Folders whose names were looked at: it is from now on that they must not change."""
        self.recipes: dict[str, tuple[bytes, list[int]]] = {}
        self.literals = b""


def read_delta(text: bytes) -> Change:
    """Read a delta (its format: shared/deltas.py).

    Raises:
        Corrupt, zlib.error, ValueError, KeyError, TypeError, IndexError: it is none that this agent knows.
    """
    head, literals = zlib.decompress(text).split(b"\n", 1)
    stored = json.loads(head, object_hook=entry)
    if stored["form"] != 1:
        raise Corrupt("the delta is not of a form that this agent knows")
    change = Change(Release(stored), map(inside, stored["removed"]))
    change.recipes = {digest: (decoded(path), numbers) for digest, (path, numbers) in stored["recipes"].items()}
    change.literals = literals
    return change


def compared(base: Tree, release: Release, shard: Shard) -> Change:
    """Find out what to do to a loaded tree, looking at everything in it, and at what is in it that should not be.

    Both have all folders and links, and the files of a shard. ``release`` keeps only what has to be put.
    """
    real = real_folders(base)
    same = {path for path in base.intact() if parent(path) in real} if real else set()
    wanted = set(release.paths())
    removed = [path for path in (*base.files, *base.others) if path not in wanted]
    changed = {path for path in real if folder(below(base.path, path)) != base.others[path]}
    removed += strays(base, filter(shard.has_folder, changed))
    release.files = [file for file in release.files if file.path not in same or differs(base.files[file.path], file)]
    release.folders = {path: mode for path, mode in release.folders.items() if real.get(path, -1) != mode}
    release.links = {
        path: target
        for path, target in release.links.items()
        if parent(path) not in real or base.others.get(path, Other(0)).target != target or not base.has_other(path)
    }
    change = Change(release, (path for path in removed if parent(path) in real))
    change.seen = changed - change.removed
    return change


def differs(known: Known, file: File) -> bool:
    """Whether a file of a release is not what is known to be there."""
    return (known.sha256, known.mode) != (file.sha256, file.mode)


def real_folders(base: Tree) -> dict[bytes, int]:
    """Return the recorded folders that are there, with their modes: neither they nor those above are links."""
    found: dict[bytes, int] = {}
    for path in top_down(path for path, other in base.others.items() if not other.target):
        if path == b"." or parent(path) in found:
            there = folder(below(base.path, path))
            if there is not None:
                found[path] = there.mode
    return found


def strays(base: Tree, folders: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what somebody put into folders of a tree."""
    for path in folders:
        names = (name if path == b"." else os.path.join(path, name) for name in os.listdir(below(base.path, path)))
        yield from (name for name in names if name not in base.files and name not in base.others)


# ---- sync: from one release to another ----


class Sync:
    """Brings one release to one place."""

    def __init__(self, trees: Trees, where: dict[str, Any], moved: Moved) -> None:
        self._trees = trees
        self._where = where
        self._goal: str = where["manifest_sha256"]
        self._moved = moved

    def run(self) -> None:
        """Make the release of the spare tree, which nobody sees, then switch; see that there is a spare tree again.

        Raises:
            StepFailed, Corrupt, Broken, OSError: it cannot be fetched or written; the present tree stands as before.
        """
        os.makedirs(self._trees.home, exist_ok=True)
        self._trees.clear()
        if not self._trees.stands(self._goal):  # It does when we were cut off before the entry in the ledger.
            self._trees.switch(self._spare_of_goal() or self._made())
        present = self._trees.present()
        if present is not None and self._trees.spare() is None and present.load("others"):
            self._trees.twin(present)

    def _spare_of_goal(self) -> Tree | None:
        """Return the spare tree if it is of this release already, and as it was made."""
        spare = self._trees.spare()
        if spare is None or spare.identity() != self._goal or not spare.load("others"):
            return None
        return spare if spare.same_names() and spare.whole() else None

    def _made(self) -> Tree:
        spare = self._loaded(self._trees.spare())
        if spare is not None:
            return self._finished(self._by_delta(spare), spare)
        present = self._loaded(self._trees.present())
        return self._compared(Tree(self._trees.home, b"none")) if present is None else self._made_of_twin(present)

    def _made_of_twin(self, present: Tree) -> Tree:
        """Make a spare tree, and meanwhile, on another core, what changes in it."""
        twin = beside(lambda: self._trees.twin(present).number)
        try:
            making = self._by_delta(present)
        finally:
            spare = Tree(self._trees.home, b"tree-%d" % twin())
        same = spare.load("others") and spare.manifest_sha256 == present.manifest_sha256
        return self._finished(making if same else None, spare)

    def _loaded(self, tree: Tree | None) -> Tree | None:
        """Return a tree with its folders and links; None when there is none, or its record is damaged."""
        return tree if tree is not None and tree.load("others") else None

    def _by_delta(self, source: Tree) -> Making | None:
        """Write the files that a delta from a tree's release has; None when that cannot be done."""
        present, delta = self._trees.present(), self._where.get("deltas", {}).get(source.manifest_sha256)
        if present is not None and present.identity() == self._goal:
            return None  # It was changed by hand, and the spare tree shares files with it.
        if delta is None or not source.same_names():
            return None
        try:
            text = patiently(lambda: self._fetched(delta["url"]), time.sleep)
            if hashlib.sha256(text).hexdigest() != delta["sha256"]:
                raise Corrupt("the delta is not the one that the plan names")
            making = Making(self._trees, source, self._where["packs"], self._moved)
            making.stage(read_delta(text), [])
        except UNUSABLE as error:
            log(f"the delta is of no use, manifest and packs are: {error!r}")
            return None
        return making

    def _finished(self, making: Making | None, base: Tree) -> Tree:
        """Change a tree into the release, by what was made of it or of its twin."""
        if making is not None:
            return making.finish(base, self._goal)
        remove(staged(self._trees))
        return self._compared(base)

    def _compared(self, base: Tree) -> Tree:
        """Make the release by its manifest, from what is on disk and packs."""
        manifest, present = self._manifest(), self._trees.present()
        making = Making(self._trees, base, self._where["packs"], self._moved)
        for shard in manifest.shards:
            sources = [tree for tree in (present, base) if tree is not None and tree.load(shard=shard)]
            release = manifest.release(shard)
            if set(release.lengths) - set(self._where["packs"]):
                raise StepFailed("the plan does not say where all packs of the release are")
            making.stage(compared(base, release, shard), sources)
        os.unlink(manifest.path)
        return making.finish(base, self._goal)

    def _manifest(self) -> Manifest:
        path = os.path.join(self._trees.home, b"manifest")
        patiently(lambda: self._fetch_to(path), time.sleep)
        if digest_of(path) != self._goal:
            raise Corrupt("the manifest is not the one that the plan names")
        try:
            return Manifest(path)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Corrupt(f"the manifest is not of a form that this agent knows: {error!r}") from error

    def _fetch_to(self, path: bytes) -> None:
        with Download(self._where["manifest_url"], self._moved) as response, open(path, "wb") as stream:
            for piece in iter(response.read_some, b""):
                stream.write(piece)

    def _fetched(self, url: str) -> bytes:
        with Download(url, self._moved) as response:
            return response.read_all()


UNUSABLE = (Broken, Corrupt, StepFailed, OSError, zlib.error, ValueError, KeyError, TypeError, IndexError)
"""What a delta may be, or the tree that it is for: then there is another way."""


def staged(trees: Trees) -> bytes:
    """Where files wait until all are there."""
    return os.path.join(trees.home, b"staged")


class Making:
    """Makes a tree into another release.

    First all new files are written beside it, and checked; only then is anything in it changed, under another name.
    Where there is no tree yet, they are written to their places at once.
    """

    def __init__(self, trees: Trees, source: Tree, urls: dict[str, str], moved: Moved) -> None:
        self._trees = trees
        self._source = source
        self._urls = urls
        self._moved = moved
        self._new = trees.next()
        self._bare = not os.path.isdir(source.path)
        self._count = 0
        self._moves: dict[bytes, int] = {}
        """Which of the files that wait goes where."""
        self._folders: dict[bytes, int] = {}
        self._removed: set[bytes] = set()
        self._seen: set[bytes] = set()
        self._change = Tree(trees.home, b"change")
        """What is to be recorded."""

    @property
    def _part(self) -> bytes:
        return self._new.path + b".part"

    def stage(self, change: Change, sources: list[Tree]) -> None:
        """Write all files of a change, from the trees that are on disk, by recipes, and from packs.

        Raises:
            StepFailed, Corrupt, Broken, OSError: a content cannot be had, or would lie outside.
        """
        check_parents(change, self._source.others)
        self._folders.update(change.put.folders)
        numbers = {file.path: self._count + number for number, file in enumerate(change.put.files)}
        self._count += len(numbers)
        if self._bare:
            self._make_folders()
        else:
            os.makedirs(staged(self._trees), 0o700, exist_ok=True)

        def place(file: File) -> bytes:
            return os.path.join(self._part, file.path) if self._bare else self._waiting(numbers[file.path])

        made: dict[bytes, Known] = {}
        missing = take_over(change.put.files, Local(sources), place, made)
        rebuild(self._source.path, change, missing, place, made)
        again = Fetching(change.put, missing, place, self._urls, self._moved, made).run(Lending(sources))
        Fetching(change.put, again, place, self._urls, self._moved, made).run(Lending([]))
        self._note(change, numbers, made)

    def _waiting(self, number: int) -> bytes:
        return os.path.join(staged(self._trees), b"%d" % number)

    def _note(self, change: Change, numbers: dict[bytes, int], made: dict[bytes, Known]) -> None:
        """Remember what was staged; files that are in their places already are put into the record at once."""
        put = change.put
        self._removed |= change.removed
        self._seen |= change.seen
        self._change.others.update((path, Other(0, target)) for path, target in put.links.items())
        parts = {file.sha256: lent_by(put, file) for file in put.files if len(file.blocks) + len(file.parts) > 1}
        if self._bare:
            some = Tree(self._trees.home, self._new.name)
            some.files, some.parts = made, parts
            self._new.append((), some)
        else:
            self._moves.update(numbers)
            self._change.files.update(made)
            self._change.parts.update(parts)

    def finish(self, base: Tree, manifest_sha256: str) -> Tree:
        """Put the files into their places in a tree, the source or its twin. Cut off, it is no tree at all."""
        if not self._bare:
            self._new = self._trees.next()
            os.rename(base.path, self._part)
            os.rename(base.record_path, self._new.record_path)
            self._open(base)
            self._remove()
            self._make_folders()
            for path, number in self._moves.items():
                self._move(self._waiting(number), os.path.join(self._part, path))
            os.rmdir(staged(self._trees))
        for path, link in self._change.others.items():
            remove(os.path.join(self._part, path))
            os.symlink(link.target, os.path.join(self._part, path))
        self._record(base, manifest_sha256)
        os.rename(self._part, self._new.path)
        return self._new

    def _touched(self) -> set[bytes]:
        """Return the folders whose names change, or that are new, or get another mode."""
        changed = {*self._moves, *self._change.others, *self._folders, *self._removed}
        return {parent(path) for path in changed} | self._folders.keys() | self._seen

    def _open(self, base: Tree) -> None:
        """Let names be changed in folders that do not let their owner, whoever we are."""
        for path in top_down(self._touched()):
            other = base.others.get(path)
            if other is not None and not other.target and other.mode & 0o300 != 0o300:
                os.chmod(below(self._part, path), 0o700)

    def _remove(self) -> None:
        for path in self._removed:
            if parent(path) not in self._removed:
                remove(os.path.join(self._part, path))

    def _make_folders(self) -> None:
        for path in top_down(self._folders):
            full = below(self._part, path)
            if not stat.S_ISDIR(mode_of(full)):
                remove(full)
                os.mkdir(full, 0o700)

    def _move(self, path: bytes, to: bytes) -> None:
        try:
            os.rename(path, to)
        except IsADirectoryError:
            remove(to)
            os.rename(path, to)

    def _record(self, base: Tree, manifest_sha256: str) -> None:
        """Close the folders that were changed, and note down what there is now."""
        change = self._change
        no_folders = self._removed | change.others.keys() | self._moves.keys()
        for path in reversed(top_down(self._touched() - no_folders)):
            mode = self._folders[path] if path in self._folders else base.others[path].mode
            change.others[path] = made_folder(below(self._part, path), mode)
        change.manifest_sha256 = manifest_sha256
        if self._bare:
            self._new.append((), change)
        else:
            base.record_path = self._new.record_path
            base.append(no_folders | self._folders.keys(), change)


def check_parents(change: Change, others: dict[bytes, Other]) -> None:
    """Refuse to put anything anywhere but into folders of the release: a link could lead out of it.

    Raises:
        Corrupt: a path's folder is none, or missing.
    """
    put = change.put
    gone = change.removed | put.links.keys() | {file.path for file in put.files}
    folders = {path for path, other in others.items() if not other.target and path not in gone} | put.folders.keys()
    lost = [path for path in put.paths() if path != b"." and parent(path) not in folders]
    if lost or b"." not in folders:
        raise Corrupt(f"the manifest has no folder for {(lost or [b'.'])[0]!r}")


def take_over(files: list[File], local: Local, place: Place, made: dict[bytes, Known]) -> dict[str, Content]:
    """Link or copy all files whose content is on disk; return the contents that are not."""
    missing: dict[str, Content] = {}
    for file in files:
        known = local.provide(file, place(file))
        if known is None:
            missing.setdefault(file.sha256, Content(file.sha256, file.size)).files.append(file)
        else:
            made[file.path] = known
    return missing


class Local:
    """The contents that standing trees have."""

    def __init__(self, trees: list[Tree]) -> None:
        self._trees = trees
        self._holders: dict[str, tuple[Tree, bytes]] = {}
        for tree in reversed(trees):
            for path, known in tree.files.items():
                self._holders[known.sha256] = (tree, path)

    def provide(self, file: File, to: bytes) -> Known | None:
        """Make a file from what is on disk, and return what is known of it: None when its content is not there."""
        for tree in self._trees:
            known = tree.files.get(file.path)
            if known is not None and not differs(known, file) and tree.has(file.path):
                os.link(os.path.join(tree.path, file.path), to)
                return known
        holder = self._holders.get(file.sha256)
        return self._copy(holder[0], holder[1], file, to) if holder else None

    def _copy(self, tree: Tree, path: bytes, file: File, to: bytes) -> Known | None:
        """Copy a content that has another name or mode now, or was touched; None when it is another by now."""
        try:
            with open(os.path.join(tree.path, path), "rb") as source, open(to, "xb") as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(to)
            return None
        if digest_of(to) != file.sha256:
            os.unlink(to)
            return None
        return finish(file, to)


class Lent(NamedTuple):
    """A stretch of a block's text that a content on disk has: all lie in it one after the other."""

    pack: str
    offset: int
    start: int
    length: int


def lent_by(release: Release, file: File) -> list[Lent]:
    """Return what of blocks a file will have."""
    return [Lent(block.pack, block.offset, start, length) for block, start, length in release.place(file)]


class Lending:
    """Finds stretches of blocks in large files of standing trees."""

    def __init__(self, trees: list[Tree]) -> None:
        self._known: dict[tuple[str, int], list[tuple[int, int, bytes, int]]] = {}
        for tree in trees:
            for path, known in tree.files.items():
                position = 0
                for part in tree.parts.get(known.sha256, ()):
                    place = (part.start, part.length, os.path.join(tree.path, path), position)
                    self._known.setdefault((part.pack, part.offset), []).append(place)
                    position += part.length

    def find(self, block: Block, start: int, length: int) -> tuple[bytes, int] | None:
        """Return a file and where in it a stretch is said to be."""
        for first, count, path, position in self._known.get((block.pack, block.offset), ()):
            if first <= start and start + length <= first + count:
                return path, position + start - first
        return None


def finish(file: File, path: bytes) -> Known:
    """Set a written file's mode and return what is known of it from now on."""
    os.chmod(path, file.mode)
    status = os.lstat(path)
    return Known(file.sha256, file.mode, status.st_size, status.st_mtime_ns)


def write_file(file: File, path: bytes, pieces: Iterable[bytes]) -> Known:
    """Write a file and return what is known of it from now on."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, file.mode & 0o777 | 0o600)
    try:
        for piece in pieces:
            write_all(handle, piece)
        status = os.fstat(handle)
        if stat.S_IMODE(status.st_mode) != file.mode:
            os.fchmod(handle, file.mode)
    finally:
        os.close(handle)
    return Known(file.sha256, file.mode, file.size, status.st_mtime_ns)


def spread(content: Content, first: bytes, place: Place, made: dict[bytes, Known]) -> None:
    """Copy a content that was checked to where else it belongs, and note what is known of its files."""
    for file in content.files:
        path = place(file)
        if path != first:
            shutil.copyfile(first, path)
        made[file.path] = finish(file, path)


def digest_of(path: bytes) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(PIECE_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


# ---- sync: contents by recipes ----


def rebuild(base: bytes, change: Change, missing: dict[str, Content], place: Place, made: dict[bytes, Known]) -> None:
    """Make contents from files of the base, and take them off what is missing. What comes out wrong stays missing."""
    tasks, position = [], 0
    for digest, (source, numbers) in change.recipes.items():
        if digest in missing and (not source or is_below(source)):
            tasks.append(Recipe(missing[digest], os.path.join(base, source), numbers, change.literals, position))
        position += sum(numbers[::3])
    mine, others = halves(tasks)
    beside_us = beside(lambda: cook(others, place)) if others else list
    try:
        done = cook(mine, place)
    finally:
        theirs: list[Any] = beside_us()
    for digest, facts in (*done, *theirs):
        content = missing.pop(digest)
        made[content.files[0].path] = Known(*facts)
        if len(content.files) > 1:
            spread(content, place(content.files[0]), place, made)


def halves(tasks: list[Recipe]) -> tuple[list[Recipe], list[Recipe]]:
    """Share out work for two. Pure."""
    shares: tuple[list[Recipe], list[Recipe]] = ([], [])
    costs = [0, 0]
    for task in sorted(tasks, key=lambda task: -task.content.size):
        least = costs.index(min(costs))
        shares[least].append(task)
        costs[least] += task.content.size + FILE_COST_BYTES
    return shares


def cook(tasks: list[Recipe], place: Place) -> list[tuple[str, Known]]:
    """Carry out tasks; return what is known of the files that came out right, by content."""
    done = []
    for task in tasks:
        try:
            known = task.make(place(task.content.files[0]))
        except OSError as error:
            log(f"{task.content.files[0].path!r} cannot be made of what it was: {error}")
        else:
            done += [(task.content.sha256, known)] if known is not None else []
    return done


class Recipe(NamedTuple):
    """How to make a content (its format: shared/recipes.py); what is new begins at ``position`` in ``literals``."""

    content: Content
    source: bytes
    numbers: list[int]
    literals: bytes
    position: int

    def make(self, path: bytes) -> Known | None:
        """Write the content; None when it is not what it should be: then the source is another by now."""
        digest = hashlib.sha256()
        pieces = self._pieces()
        if self.content.size <= PIECE_BYTES:
            pieces = iter((b"".join(pieces),))
        known = write_file(self.content.files[0], path, noted(pieces, digest.update))
        return known if digest.hexdigest() == self.content.sha256 else None

    def _pieces(self) -> Iterator[bytes]:
        position, at = self.position, 0
        source = self.source if any(self.numbers[2::3]) else os.devnull
        old = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
        try:
            for number in range(0, len(self.numbers), 3):
                literal, skip, copy = self.numbers[number : number + 3]
                if literal:
                    yield self.literals[position : position + literal]
                position, at = position + literal, at + skip
                yield from stretch(old, at, copy)
                at += copy
        finally:
            os.close(old)


def noted(pieces: Iterable[bytes], note: Callable[[bytes], None]) -> Iterator[bytes]:
    """Yield pieces and show them to somebody on the way."""
    for piece in pieces:
        note(piece)
        yield piece


def stretch(handle: int, at: int, count: int) -> Iterator[bytes]:
    """Yield so many bytes of a file from a position on, or as many as there are, a piece at a time."""
    while count > 0:
        piece = os.pread(handle, min(count, PIECE_BYTES), at)
        if not piece:
            return
        yield piece
        at, count = at + len(piece), count - len(piece)


# ---- sync: contents from packs ----


class Part(NamedTuple):
    """A stretch of a block's text, and the place in a content that it is for."""

    start: int
    length: int
    content: Content
    position: int


class Span(NamedTuple):
    """Blocks of a pack that are fetched in one request."""

    pack: str
    blocks: list[Block]
    whole: bool


class Fetching:
    """Fetches contents in a few threads and writes the files that have them."""

    def __init__(
        self,
        release: Release,
        contents: dict[str, Content],
        place: Place,
        urls: dict[str, str],
        moved: Moved,
        made: dict[bytes, Known],
    ) -> None:
        self._release = release
        self._contents = contents
        self._place = place
        self._urls = urls
        self._moved = moved
        self._made = made
        self._parts: dict[int, list[Part]] = {}
        self._again: dict[str, Content] = {}
        self._work: queue.SimpleQueue[Span] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._stop = threading.Event()

    def run(self, lending: Lending) -> dict[str, Content]:
        """Fetch everything but what large files on disk lend; return the contents for which these were others by now.

        Raises:
            StepFailed, Corrupt, OSError: from the first worker that gave up.
        """
        for content in self._contents.values():
            self._plan(content, lending)
        for span in spans(self._release, set(self._parts)):
            self._work.put(span)
        workers = min(FETCH_WORKERS, self._work.qsize())
        for _ in range(workers):
            threading.Thread(target=self._worker, daemon=True).start()
        try:
            for _ in range(workers):
                error = self._ends.get()
                if error is not None:
                    raise error
        finally:
            self._stop.set()
        return self._again

    def _plan(self, content: Content, lending: Lending) -> None:
        """Note which stretch of which block goes where in a content."""
        place = self._release.place(content.files[0])
        position = 0
        if not content.size:
            self._write_small(content, b"")
        for block, start, length in place:
            part = Part(start, length, content, position)
            lent = lending.find(block, start, length) if len(place) > 1 else None
            if lent is None:
                self._parts.setdefault(block.number, []).append(part)
            else:
                self._borrow(part, *lent)
            position += length

    def _borrow(self, part: Part, path: bytes, at: int) -> None:
        """Copy a stretch from a file on disk. When that cannot be read, zeros are left, which are noticed."""
        part.content.lent = True
        pieces: list[bytes] = []
        try:
            with open(path, "rb", buffering=0) as source:
                pieces += stretch(source.fileno(), at, part.length)
        except OSError as error:
            log(f"{path!r} is not used: {error}")
        self._write_part(part, b"".join(pieces).ljust(part.length, b"\0"))

    def _worker(self) -> None:
        try:
            while not self._stop.is_set():
                self._fetch(self._work.get_nowait())
        except queue.Empty:
            self._ends.put(None)
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._ends.put(error)

    def _fetch(self, span: Span) -> None:
        """Fetch a span, again from where it was when the connection breaks."""
        left = list(span.blocks)
        patiently(lambda: self._stream(span, left), self._stop.wait)

    def _stream(self, span: Span, left: list[Block]) -> None:
        """Take block after block off ``left`` as they arrive and are written."""
        start, end = left[0].offset, left[-1].offset + left[-1].length
        bounds = None if span.whole and len(left) == len(span.blocks) else (start, end)
        with Download(self._urls[span.pack], self._moved, bounds) as response:
            while left and not self._stop.is_set():
                response.skip_to(left[0].offset)
                self._unpack(left[0], response.read(left[0].length))
                del left[0]

    def _unpack(self, block: Block, compressed: bytes) -> None:
        try:
            text = zlib.decompressobj().decompress(compressed, block.size + 1)
        except zlib.error as error:
            raise Corrupt(f"pack {block.pack[:12]} is damaged: {error}") from error
        if len(text) != block.size:
            raise Corrupt(f"pack {block.pack[:12]} is damaged: block {block.number} has another length")
        for part in self._parts[block.number]:
            piece = text[part.start : part.start + part.length]
            if part.length == part.content.size:
                self._write_small(part.content, piece)
            else:
                self._write_part(part, piece)

    def _write_small(self, content: Content, text: bytes) -> None:
        if hashlib.sha256(text).hexdigest() != content.sha256:
            raise corrupt(content)
        for file in content.files:
            self._made[file.path] = write_file(file, self._place(file), (text,))

    def _write_part(self, part: Part, piece: bytes) -> None:
        first = self._place(part.content.files[0])
        handle = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.lseek(handle, part.position, os.SEEK_SET)
            write_all(handle, piece)
        finally:
            os.close(handle)
        if part.content.arrived(len(piece)):
            self._complete(part.content, first)

    def _complete(self, content: Content, first: bytes) -> None:
        """A large content is all there: check it, and copy it to where else it belongs."""
        if digest_of(first) == content.sha256:
            spread(content, first, self._place, self._made)
        elif content.lent:
            content.again()
            self._again[content.sha256] = content
        else:
            raise corrupt(content)


def corrupt(content: Content) -> Corrupt:
    """Say that a content is not what it should be."""
    return Corrupt(f"the content of {content.files[0].path!r} is not what the manifest says")


def write_all(handle: int, text: bytes) -> None:
    """Write all of a text; one write takes 2 GB at most, and less on a full disk."""
    view = memoryview(text)
    while view:
        view = view[os.write(handle, view) :]


def spans(release: Release, wanted: set[int]) -> list[Span]:
    """Join wanted blocks into few requests: whole packs where most of one is wanted, ranges elsewhere. Pure."""
    by_pack: dict[str, list[Block]] = {}
    for number in wanted:
        block = release.blocks[number]
        by_pack.setdefault(block.pack, []).append(block)
    found: list[Span] = []
    for pack, blocks in by_pack.items():
        blocks.sort(key=lambda block: block.offset)
        if 2 * sum(block.length for block in blocks) > release.lengths[pack]:
            found.append(Span(pack, blocks, whole=True))
        else:
            found.extend(Span(pack, near, whole=False) for near in _near(blocks))
    return found


def _near(blocks: list[Block]) -> Iterator[list[Block]]:
    near = blocks[:1]
    for block in blocks[1:]:
        if block.offset - (near[-1].offset + near[-1].length) > GAP_BYTES:
            yield near
            near = []
        near.append(block)
    yield near


def patiently(fetch: Callable[[], T], wait: Callable[[float], object]) -> T:
    """Fetch, and try a few times again when that breaks."""
    for attempt in range(FETCH_TRIES - 1):
        try:
            return fetch()
        except Broken as error:
            log(f"{error}; trying again")
            wait(0.2 * 3**attempt)
    return fetch()


class Download:
    """One GET, read as a stream that knows where in the object it is. Every trouble on the way is Broken."""

    def __init__(self, url: str, moved: Moved, bounds: tuple[int, int] | None = None) -> None:
        self._name = url.split("?", maxsplit=1)[0]
        self._moved = moved
        headers = {"Range": f"bytes={bounds[0]}-{bounds[1] - 1}"} if bounds else {}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the plan's digest was verified
        moved.add(0, requests=1)
        try:
            self._response = urllib.request.urlopen(request, timeout=FETCH_TIMEOUT_S)  # noqa: S310
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        self._at = bounds[0] if bounds and self._response.status == 206 else 0

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def read_all(self) -> bytes:
        """Return the whole of it."""
        return self._read(None)

    def read_some(self) -> bytes:
        """Return the next bytes, or none at the end."""
        text = self._read(PIECE_BYTES)
        if not text and self._response.length:
            raise self._broken("the answer ended early")
        return text

    def read(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        text = self._read(length)
        if len(text) != length:
            raise self._broken("the answer ended early")
        return text

    def skip_to(self, offset: int) -> None:
        """Read over what is not wanted."""
        while self._at < offset:
            self.read(min(offset - self._at, 1024 * 1024))

    def _read(self, length: int | None) -> bytes:
        try:
            text: bytes = self._response.read(length)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        self._moved.add(len(text))
        self._at += len(text)
        return text

    def _broken(self, why: object) -> Broken:
        return Broken(f"{self._name}: {why}")


# ---- the command ----


def refuse(error: PlanUnusable) -> int:
    """Say why the plan cannot be run."""
    emit(event="result", state="failed", reason=str(error), seconds=0.0)
    return 2


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description="Runs a provisioning plan on this server.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "ledger"):
        command = commands.add_parser(name)
        command.add_argument("--root", default=os.environ.get("SERVER_ROOT") or "/")
        if name == "run":
            command.add_argument("plan")
    options = parser.parse_args(arguments)
    root = os.path.abspath(options.root)
    if options.command == "ledger":
        print(json.dumps(Ledger(root).read(), indent=1, sort_keys=True))
        return 0
    gc.disable()  # We end soon, and looking through ten thousands of files again and again finds nothing.
    os.umask(0o022)  # Whoever started us may have had secrets to keep; what steps write is the server's.
    try:
        return Runner(read_plan(options.plan), root, Signals()).run()
    except PlanUnusable as error:
        return refuse(error)


def command(arguments: list[str]) -> NoReturn:
    """Be the command: end with ``main``'s exit status, and at once, since tidying up takes as long as starting."""
    status = main(arguments)
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    command(sys.argv[1:])
