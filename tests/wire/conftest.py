"""Fixtures for tests that speak HTTP to the local cloud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wire.running import RunningCloud, local_cloud_on


@pytest.fixture(scope="module")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A local cloud of the module's own, on a free port."""
    with local_cloud_on(tmp_path_factory.mktemp("localcloud")) as cloud:
        yield cloud
