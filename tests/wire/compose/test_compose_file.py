"""What docker-compose.yml and the Dockerfile must hold; tests/story plays the story on the commands that they give."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from compose_spec import PyCompose

from deploy.messaging import ALLOCATOR
from shared.consumer import STOP_S
from shared.names import SERVICES, ServiceName, queue_name
from shared.runs import AGENT
from shared.settings import PREFIX, ServiceSettings
from tests.composefile import REPOSITORY, Service, compose_file_content, read_compose_file, seconds
from tests.dockerfile import Stage, assemble, read_dockerfile

FILE = read_compose_file({})
OURS = {name: service for name, service in FILE.services.items() if service.build}
LASTING = sorted(OURS.keys() - {"bootstrap"})
STAGES = read_dockerfile()


def test_the_file_is_one_by_the_compose_specification() -> None:
    found = PyCompose.from_json(json.dumps(compose_file_content({})))
    found.validate()
    assert set(found.to_spec().services or {}) == set(FILE.services)


@pytest.mark.parametrize("name", OURS)
def test_a_command_names_a_module_that_is_there(name: str) -> None:
    command = OURS[name].command
    assert command is not None
    assert command[:2] == ("python", "-m")
    assert importlib.util.find_spec(command[2]), command[2]


@pytest.mark.parametrize("name", sorted(FILE.services))
def test_nothing_can_be_reached_from_another_machine(name: str) -> None:
    service = FILE.services[name]
    assert all(port.startswith("127.0.0.1:") for port in service.ports)
    assert service.network_mode in (None, "service:localcloud")
    assert "no-new-privileges:true" in service.security_opt


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_do_nothing_but_compute_and_speak(name: str) -> None:
    service, stage = OURS[name], _stage(OURS[name])
    assert service.read_only
    assert service.init
    assert service.cap_drop == ("ALL",)
    assert "/tmp" in service.tmpfs
    assert stage.user == "65532:65532"
    assert all(f"65532 {folder}" in stage.text for folder in service.own_folders if folder not in service.tmpfs)


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_comes_back_is_looked_after_and_may_finish(name: str) -> None:
    service = OURS[name]
    assert service.restart == "unless-stopped"
    assert service.healthcheck
    assert service.healthcheck.test[0] == "CMD"
    assert seconds(service.stop_grace_period) > STOP_S
    assert _stage(service).instruction("STOPSIGNAL") == "SIGTERM"


def test_the_order_of_starting_has_no_circle_and_ends_with_the_services() -> None:
    needs = {name: set(service.depends_on) for name, service in FILE.services.items()}
    assert next(iter(TopologicalSorter(needs).static_order())) == "localstack"
    for service in SERVICES:
        assert FILE.services[service].depends_on["bootstrap"].condition == "service_completed_successfully"
    for dependency in ("localstack", "localcloud"):
        assert FILE.services["bootstrap"].depends_on[dependency].condition == "service_healthy"
        assert FILE.services[dependency].healthcheck


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_told_all_that_it_asks_for_and_nothing_misspelt(
    name: ServiceName, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = OURS[name].variables({})
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    settings = ServiceSettings.read()
    assert told.items() >= ALLOCATOR.items()
    assert settings.queue_url == f"http://localstack:4566/000000000000/{queue_name(name)}"
    assert settings.dead_letter_url == f"{settings.queue_url}-dead"
    assert {told_name for told_name in told if told_name.startswith(PREFIX)} == {
        PREFIX + field.upper() for field in ServiceSettings.model_fields
    }


def test_machines_groups_commands_and_alarms_are_the_local_clouds_and_the_rest_is_localstacks() -> None:
    for service in OURS.values():
        told = service.variables({})
        assert told["AWS_ENDPOINT_URL"] == "http://localstack:4566"
        theirs = {name for name, value in told.items() if value == "http://localcloud:4567"}
        assert theirs == {f"AWS_ENDPOINT_URL_{service}" for service in ("AUTO_SCALING", "CLOUDWATCH", "EC2", "SSM")}


def test_whoever_asks_health_pages_is_on_the_network_that_the_servers_are_on() -> None:
    asking = {
        name
        for name in SERVICES
        if "health=services.health" in (REPOSITORY / "services" / name / "__main__.py").read_text()
    }
    assert asking == {name for name in SERVICES if OURS[name].network_mode == "service:localcloud"}


def test_another_localstack_and_its_token_can_be_chosen() -> None:
    host = {"LOCALSTACK_IMAGE": "localstack/localstack:2026.10", "LOCALSTACK_AUTH_TOKEN": "ls-1"}
    chosen = read_compose_file(host).services["localstack"]
    assert chosen.image == "localstack/localstack:2026.10"
    assert chosen.variables(host)["LOCALSTACK_AUTH_TOKEN"] == "ls-1"
    usual = FILE.services["localstack"]
    assert usual.image == "localstack/localstack:4.14.0"
    assert "LOCALSTACK_AUTH_TOKEN" not in usual.variables({})


def test_only_locked_dependencies_are_installed() -> None:
    installs = [line for stage in STAGES.values() for line in stage.lines if "uv sync" in line]
    assert installs
    assert all("--frozen" in line and "--no-dev" in line for line in installs)


def test_the_base_image_has_a_tag_and_may_be_replaced_by_a_digest() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11-slim$", text, re.MULTILINE)
    assert {stage.base for stage in STAGES.values()} - STAGES.keys() == {"${PYTHON_IMAGE}"}


@pytest.fixture(params=["service", "localcloud"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    assemble(STAGES[request.param], tmp_path)
    yield request.param, tmp_path
    shutil.rmtree(tmp_path)


def test_an_image_holds_all_that_its_commands_import(image: tuple[str, Path]) -> None:
    target, folder = image
    found = [service for service in OURS.values() if service.build and service.build.target == target]
    modules = {service.command[2] for service in found if service.command} | {"shared.healthcheck"}
    imported = {name for module in modules for name in _imports(_source(folder, module))}
    command = [sys.executable, "-c", "\n".join(f"import {name}" for name in sorted(imported))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / AGENT.relative_to(REPOSITORY)).is_file()


def _stage(service: Service) -> Stage:
    assert service.build
    return STAGES[service.build.target]


def _source(folder: Path, module: str) -> Path:
    path = folder / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            yield node.module
