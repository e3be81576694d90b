"""Client tokens: the same token gives the same answer, and with other parameters it is refused."""

from __future__ import annotations

import json
from threading import Lock
from typing import Any

from localcloud.overlay import Method, Refusal


def once_per_token(original: Method) -> Method:
    """Wrap an action of EC2 so that a repeated ClientToken repeats the first answer."""
    answered: dict[str, tuple[str, Any]] = {}
    lock = Lock()

    def answer(response: Any) -> Any:
        token = response._get_param("ClientToken")
        if not token:
            return original(response)
        asked = json.dumps(response.params, sort_keys=True, default=str)
        with lock:
            if token not in answered:
                answered[token] = (asked, original(response))
        before, answer = answered[token]
        if before != asked:
            raise Refusal("IdempotentParameterMismatch", f"The client token {token} was used with other parameters.")
        return answer

    return answer
