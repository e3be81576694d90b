"""How tests are shared out between the processes of ``pytest -n``, and that none of them is timed."""

from __future__ import annotations

import re

import pytest
from hypothesis import settings
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

settings.register_profile("untimed", deadline=None)  # A busy machine is slow, which is no defect.
settings.load_profile("untimed")

PLANE = re.compile(r"[\[-](localcloud|localstack)[\]-]")


class ByPlaneOrModule(LoadScopeScheduling):  # type: ignore[misc] # xdist's schedulers come without types
    """All tests on LocalStack go to one process, all on the shared local cloud too, and other modules stay whole.

    So each of these is started once. (Marks could say the same, but pytest-xdist 3.8 overlooks them in pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        on = PLANE.search(nodeid)
        return on[1] if on else nodeid.split("::", 1)[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByPlaneOrModule:
    """Share tests out so whenever there is more than one process."""
    return ByPlaneOrModule(config, log)
