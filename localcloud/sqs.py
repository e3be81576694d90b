"""SQS queues under one lock each: moto's lose a message that is sent while another is deleted.

A long poll ends when its client has gone, as on AWS. moto's would take a message on behalf of a consumer that was
killed, and hide it for the whole visibility timeout.
"""

from __future__ import annotations

import socket
from typing import Any

from flask import has_request_context, request
from moto.sqs.models import Queue, SQSBackend

from localcloud.overlay import Method, wrap
from shared.clock import Clock

LOOK_EVERY_S = 0.25
"""How late a long poll may notice that a delay or a visibility timeout is over. New messages wake it at once."""


def install(clock: Clock) -> None:
    """Put the lock round what moto does with a queue's messages."""
    wrap(Queue, "delete_message", _locked)
    wrap(SQSBackend, "change_message_visibility", _locked_by_name)
    wrap(SQSBackend, "receive_message", lambda original: _waiting(original, clock))


def _locked(original: Method) -> Method:
    def delete_message(queue: Any, receipt_handle: str) -> Any:
        with queue._messages_lock:
            return original(queue, receipt_handle)

    return delete_message


def _locked_by_name(original: Method) -> Method:
    def change_message_visibility(backend: Any, queue_name: str, *arguments: Any, **options: Any) -> Any:
        changed = backend.get_queue(queue_name)._messages_lock
        with changed:
            original(backend, queue_name, *arguments, **options)
            changed.notify_all()

    return change_message_visibility


def _waiting(original: Method, clock: Clock) -> Method:
    def receive_message(
        backend: Any, queue_name: str, count: int, wait_seconds_timeout: int, *arguments: Any, **options: Any
    ) -> Any:
        deadline = clock.monotonic() + wait_seconds_timeout
        changed = backend.get_queue(queue_name)._messages_lock
        with changed:
            while not _client_has_gone():
                found = original(backend, queue_name, count, 0, *arguments, **options)
                left_s = deadline - clock.monotonic()
                if found or left_s <= 0:
                    return found
                changed.wait(min(left_s, LOOK_EVERY_S))
        return []

    return receive_message


def _client_has_gone() -> bool:
    connection: socket.socket | None = request.environ.get("werkzeug.socket") if has_request_context() else None
    if connection is None:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
