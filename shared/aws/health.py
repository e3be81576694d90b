"""A server's health page behind HealthPort."""

from __future__ import annotations

import aiohttp


class Health:
    """Asks health pages over HTTP. It follows no redirects: a page that moved is not well."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def probe(self, url: str, timeout_s: float) -> bool | None:
        """True when it answers 200, False when it answers otherwise or refuses, None when nobody can tell."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._http.get(url, timeout=timeout, allow_redirects=False) as answer:
                return answer.status == 200
        except TimeoutError:
            return None
        except aiohttp.ClientConnectorError as error:
            return False if isinstance(error.os_error, ConnectionRefusedError) else None
        except aiohttp.ServerDisconnectedError:
            return False
        except aiohttp.ClientError:
            return None
