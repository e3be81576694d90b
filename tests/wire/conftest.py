"""Fixtures for tests that speak HTTP to the local cloud, and to LocalStack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from deploy.messaging import apply_messaging
from tests import localstack
from tests.wire.modelled import Model
from tests.wire.running import Endpoint, RunningCloud, local_cloud_on


@pytest.fixture(scope="module")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A local cloud of the module's own, on a free port."""
    with local_cloud_on(tmp_path_factory.mktemp("localcloud")) as cloud:
        yield cloud


@contextmanager
def _localstack_in(folder: Path) -> Iterator[Endpoint]:
    running = localstack.start(folder)
    endpoint = Endpoint(running.url, is_localstack=True)
    try:
        yield endpoint
    finally:
        endpoint.disconnect()
        running.close()


PLANES: dict[str, Callable[[Path], AbstractContextManager[Endpoint]]] = {
    "localcloud": local_cloud_on,
    "localstack": _localstack_in,
}


@pytest.fixture(scope="session", params=PLANES)
def deployed_plane(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint | Model]:
    """Where messages and documents are, with the template applied: the same tests run on each.

    Tests that ask for "model" are given the simulation's.
    """
    if request.param == "model":
        with closing(Model()) as model:
            yield model
        return
    with PLANES[request.param](tmp_path_factory.mktemp(request.param)) as plane:
        with pytest.MonkeyPatch.context() as patch:
            _use(plane, patch)
            asyncio.run(apply_messaging(say=lambda _: None))
        yield plane


@pytest.fixture
def message_plane(deployed_plane: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """The plane, with this process's environment pointing at it."""
    _use(deployed_plane, monkeypatch)
    return deployed_plane


@pytest.fixture
def any_plane(deployed_plane: Endpoint | Model, monkeypatch: pytest.MonkeyPatch) -> Endpoint | Model:
    """The same, for tests that the model is held to as well."""
    if isinstance(deployed_plane, Endpoint):
        _use(deployed_plane, monkeypatch)
    return deployed_plane


modelled_too = pytest.mark.parametrize("deployed_plane", [*PLANES, "model"], indirect=True)
"""The simulation's model of AWS is held to this as well."""


def _use(plane: Endpoint, patch: pytest.MonkeyPatch) -> None:
    for name, value in plane.environment.items():
        patch.setenv(name, value)
