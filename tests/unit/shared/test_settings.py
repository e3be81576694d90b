"""A service is told by its environment, and says in one sentence what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.runtime import run_service
from shared.settings import ServiceSettings, SettingsError

WHOLE = {
    "QUEUE_URL": "http://127.0.0.1:4566/000000000000/autoprovisioner-chaos",
    "DEAD_LETTER_URL": "http://127.0.0.1:4566/000000000000/autoprovisioner-chaos-dead",
    "TOPIC_PREFIX": "arn:aws:sns:us-east-1:000000000000:autoprovisioner-",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in os.environ:
        if name.upper().startswith("AUTOPROVISIONER_"):
            monkeypatch.delenv(name)
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"AUTOPROVISIONER_{name}", value)
    return monkeypatch


def test_the_defaults_are_those_of_the_containers(environment: pytest.MonkeyPatch) -> None:
    settings = ServiceSettings.read()
    assert settings.queue_url == WHOLE["QUEUE_URL"]
    assert (settings.bucket, settings.log_format, settings.heartbeat_file) == ("autoprovisioner", "json", None)


def test_everything_can_be_set(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("AUTOPROVISIONER_BUCKET", "ours")
    environment.setenv("AUTOPROVISIONER_LOG_FORMAT", "console")
    environment.setenv("AUTOPROVISIONER_HEARTBEAT_FILE", str(tmp_path / "alive"))
    settings = ServiceSettings.read()
    assert (settings.bucket, settings.log_format, settings.heartbeat_file) == ("ours", "console", tmp_path / "alive")


def test_all_that_is_missing_is_named_in_one_sentence(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AUTOPROVISIONER_QUEUE_URL")
    environment.delenv("AUTOPROVISIONER_TOPIC_PREFIX")
    with pytest.raises(SettingsError) as caught:
        ServiceSettings.read()
    assert str(caught.value) == "set AUTOPROVISIONER_QUEUE_URL, AUTOPROVISIONER_TOPIC_PREFIX"


@pytest.mark.parametrize(
    ("name", "value"),
    [("QUEUE_URL", "queue"), ("TOPIC_PREFIX", "arn:aws:sqs:x"), ("LOG_FORMAT", "xml"), ("BUCKET", "")],
)
def test_what_is_wrong_is_named(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(f"AUTOPROVISIONER_{name}", value)
    with pytest.raises(SettingsError, match=f"AUTOPROVISIONER_{name} is wrong"):
        ServiceSettings.read()


def exit_of(capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    with pytest.raises(SystemExit) as caught:
        run_service("chaos", lambda services: pytest.fail("must not get this far"))
    return caught.value.code, capsys.readouterr().err


def test_a_service_without_its_settings_exits_with_2_and_one_line(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("AUTOPROVISIONER_QUEUE_URL")
    assert exit_of(capsys) == (2, "chaos cannot start: set AUTOPROVISIONER_QUEUE_URL\n")


def test_a_heartbeat_file_that_cannot_be_written_is_a_sentence_too(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    environment.setenv("AUTOPROVISIONER_HEARTBEAT_FILE", str(tmp_path / "missing" / "alive"))
    code, line = exit_of(capsys)
    assert code == 2
    assert line.startswith("chaos cannot start: the heartbeat file cannot be written")
    assert line.count("\n") == 1
