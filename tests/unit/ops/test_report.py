import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ops.demo import report
from ops.demo.journal import Journal
from ops.demo.report import Result, Stage
from shared.records import StepResult

SERVER = "i-0123456789abcdef0"


@pytest.fixture
def journal() -> Journal:
    journal = Journal()
    for mark, at in (("pending", 100.0), ("running", 101.0), ("in service", 105.0), ("terminated", 150.0)):
        journal.mark(SERVER, mark, at)  # type: ignore[arg-type]
    journal.servers[SERVER].steps = (
        StepResult(step="code", result="done", began=datetime(2026, 11, 25, tzinfo=UTC), seconds=3.0, bytes=10),
    )
    journal.alerts.append({"cause": "provision-compile", "reason": "<b>broken</b>", "next": "mend it", "log_tail": "x"})
    return journal


def _result(*, ok: bool) -> Result:
    stage = Stage("launch <three>", 100.0, 150.0, ok=ok, reason="" if ok else "it did not converge")
    return Result(stages=[stage], full_provisioning_s=50.0, kill_recovery_s=4.0, requests_served=7)


def test_the_json_report_has_every_figure(tmp_path: Path, journal: Journal) -> None:
    report.write(tmp_path, _result(ok=True), journal)

    told = json.loads((tmp_path / "report.json").read_text())
    assert told["ok"] is True
    assert told["kill_recovery_s"] == 4.0
    assert told["control_plane_added_s"] == {"median": 1.0, "max": 1.0, "launches": 1}
    assert told["stages"] == [{"name": "launch <three>", "seconds": 50.0, "ok": True, "reason": ""}]


def test_a_failed_stage_is_told_with_its_reason(tmp_path: Path, journal: Journal) -> None:
    page = report.write(tmp_path, _result(ok=False), journal)

    assert json.loads((tmp_path / "report.json").read_text())["ok"] is False
    assert "it did not converge" in page.read_text()


def test_a_story_without_stages_is_not_a_success() -> None:
    assert Result().ok is False


def test_what_servers_and_logs_say_is_escaped_in_the_page(tmp_path: Path, journal: Journal) -> None:
    page = report.write(tmp_path, _result(ok=True), journal).read_text()

    assert "<b>broken</b>" not in page
    assert "launch <three>" not in page


def test_the_page_fetches_nothing(tmp_path: Path, journal: Journal) -> None:
    page = report.write(tmp_path, _result(ok=True), journal).read_text()

    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page


def test_the_table_compares_recovery_with_full_provisioning(journal: Journal) -> None:
    figures = dict(report.rows(_result(ok=True), journal))

    assert figures["recovery from a kill"] == "4.0 s  (1/12.5 of full provisioning)"


def test_the_time_line_shows_when_a_server_was_away_for_an_update(tmp_path: Path, journal: Journal) -> None:
    journal.servers[SERVER].updates.append((110.0, 114.0))
    report.write(tmp_path, _result(ok=True), journal)

    assert f"{SERVER} is brought up to date: 4.0 s" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["servers"][0]["updates"] == [[110.0, 114.0]]
