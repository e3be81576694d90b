"""Reading a fleet's description: what is right is read, and each mistake gets its sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.fleet import main, read_fleet
from deploy.reference import fleet_reference, fleet_schema
from deploy.yamllines import FleetError
from shared.fleet import CheckStep, RunStep, SyncStep

WEB = Path(__file__).parents[3] / "examples/web/fleet.yaml"

GOOD = """\
schema: 1
fleet: web
stock: /autoprovisioner/stock-image
capacity:
  min: 1
  desired: 2
  max: 3
plan:
  - step: code
    sync: product
    to: srv/product
  - step: build
    run: scripts/build.sh
    needs: [code]
    inputs:
      product: ["src/**"]
    timeout: 90
  - step: health
    check: http://{address}:8080/health
    needs: [build]
health:
  url: http://{address}:8080/health
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/build.sh").write_text("echo built\n")
    (tmp_path / "scripts/empty.sh").write_text("\n")
    (tmp_path / "scripts/binary.sh").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes(text: str) -> list[str]:
    Path("fleet.yaml").write_text(text)
    with pytest.raises(FleetError) as raised:
        read_fleet(Path("fleet.yaml"))
    return list(raised.value.mistakes)


def replaced(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_description_is_read_with_its_scripts(folder: Path) -> None:
    (folder / "fleet.yaml").write_text(GOOD)
    fleet = read_fleet(folder / "fleet.yaml")
    code, build, health = fleet.plan
    assert isinstance(code, SyncStep)
    assert isinstance(health, CheckStep)
    assert isinstance(build, RunStep)
    assert (build.script, build.timeout, build.inputs) == ("echo built\n", 90, {"product": ("src/**",)})
    assert (fleet.capacity.desired, fleet.components) == (2, ("product",))


def test_the_example_is_right() -> None:
    fleet = read_fleet(WEB)
    assert [step.step for step in fleet.plan] == [
        "libraries", "compile-libraries", "monolith", "compile", "assets", "search-index", "service", "health",
    ]  # fmt: skip
    assert all(step.script.startswith("#!/usr/bin/env python3\n") for step in fleet.plan if isinstance(step, RunStep))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "timeout: 90",
            "tiemout: 90",
            "fleet.yaml:17: plan[1].tiemout is not a field of a run step; did you mean timeout?",
        ),
        (
            "  max: 3",
            "  max: 3\n  most: 4",
            "fleet.yaml:8: capacity.most is not a field of capacity; remove it (capacity has min, desired, max).",
        ),
        ("fleet: web", "fleet: web\nzoned: []", "fleet.yaml:3: zoned is not a field of a fleet; did you mean zones?"),
        (
            "health:\n  url",
            "policies:\n  drain:\n    second: 1\nhealth:\n  url",
            "fleet.yaml:23: policies.drain.second is not a field of policies.drain; did you mean seconds?",
        ),
        ("timeout: 90", "retry: 3", "fleet.yaml:17: plan[1].retry must be a mapping of fields, but is 3."),
        ("timeout: 90", "retry: {tries: 0}", "fleet.yaml:17: plan[1].retry.tries must be at least 1, but is 0."),
        (
            "timeout: 90",
            "retry: {tries: 2, pauses: 1}",
            "fleet.yaml:17: plan[1].retry.pauses is not a field of retry; did you mean pause?",
        ),
        (
            "timeout: 90",
            "user: Web Server",
            "fleet.yaml:17: plan[1].user must be the name of a user of the server, such as www-data, "
            'but is "Web Server".',
        ),
        ("plan:", "parallel: 0\nplan:", "fleet.yaml:8: parallel must be at least 1, but is 0."),
        (
            "    to: srv/product\n",
            "    to: srv/product\n  - step: lib\n    sync: lib\n    to: srv/product/lib\n",
            "fleet.yaml:14: plan[1].to is srv/product/lib, but line 11 syncs to srv/product; "
            "give each component a directory of its own.",
        ),
        ("timeout: 90", "timeout: soon", 'fleet.yaml:17: plan[1].timeout must be a number, but is "soon".'),
        ("timeout: 90", "timeout: 0", "fleet.yaml:17: plan[1].timeout must be more than 0, but is 0."),
        ("timeout: 90", "timeout: 99999", "fleet.yaml:17: plan[1].timeout must be at most 14400, but is 99999."),
        ("  min: 1", "  min: true", "fleet.yaml:5: capacity.min must be a whole number, but is true."),
        ("  min: 1", "  min: 1.5", "fleet.yaml:5: capacity.min must be a whole number, but is 1.5."),
        ("  min: 1", "  min: -1", "fleet.yaml:5: capacity.min must be at least 0, but is -1."),
        ("  min: 1", "  min: 4", "fleet.yaml:4: capacity must be min <= desired <= max."),
        ("  desired: 2\n", "", "fleet.yaml:4: capacity.desired is missing; add it."),
        ("stock: /autoprovisioner/stock-image\n", "", "fleet.yaml:1: stock is missing; add it."),
        (
            "stock: /autoprovisioner/stock-image",
            "stock: ubuntu",
            "fleet.yaml:3: stock must be an image id (ami-0123456789abcdef0) or the name of a parameter (/path/to/it), "
            'but is "ubuntu".',
        ),
        (
            "fleet: web",
            "fleet: Web_1",
            "fleet.yaml:2: fleet must be lower-case letters, digits and dashes, and begin with a letter, "
            'but is "Web_1".',
        ),
        ("fleet: web", "fleet: no", "fleet.yaml:2: fleet must be text, but is false."),
        (
            "fleet: web",
            "fleet: 2026-01-01",
            "fleet.yaml:2: fleet must be lower-case letters, digits and dashes, and "
            'begin with a letter, but is "2026-01-01".',
        ),
        ("schema: 1", "schema: 2", "fleet.yaml:1: schema must be 1, but is 2."),
        (
            "needs: [code]",
            "needs: [coed]",
            "fleet.yaml:14: plan[1].needs[0] is coed, which is not a step before this one; did you mean code?",
        ),
        (
            "needs: [code]",
            "needs: [health]",
            "fleet.yaml:14: plan[1].needs[0] is health, which is not a step before this one; name a step above it.",
        ),
        ("needs: [code]", "needs: code", 'fleet.yaml:14: plan[1].needs must be a list, but is "code".'),
        (
            "      product:",
            "      produkt:",
            "fleet.yaml:16: plan[1].inputs.produkt is a component that no step syncs; did you mean product?",
        ),
        (
            "step: health",
            "step: build",
            "fleet.yaml:18: plan[2].step is build, as on line 12 already; give each step its own name.",
        ),
        (
            "run: scripts/build.sh",
            "run: scripts/biuld.sh",
            "fleet.yaml:13: plan[1].run names scripts/biuld.sh, which is not beside fleet.yaml; "
            "did you mean scripts/build.sh?",
        ),
        (
            "run: scripts/build.sh",
            "run: other/x.sh",
            "fleet.yaml:13: plan[1].run names other/x.sh, which is not beside fleet.yaml; add the file.",
        ),
        (
            "run: scripts/build.sh",
            "run: scripts/empty.sh",
            "fleet.yaml:13: plan[1].run names scripts/empty.sh, which is empty; write the script.",
        ),
        (
            "run: scripts/build.sh",
            "run: ../build.sh",
            "fleet.yaml:13: plan[1].run must be a relative path of plain letters, digits and ._@+- without .. "
            '(such as scripts/build.sh), but is "../build.sh".',
        ),
        (
            "run: scripts/build.sh",
            "run: scripts/build.sh\n    script: echo",
            "fleet.yaml:14: plan[1].script is filled in from the file that run names; remove it.",
        ),
        (
            "run: scripts/build.sh",
            "run: scripts/build.sh\n    sync: product",
            "fleet.yaml:12: plan[1] has run and sync; keep one of them, and make a step of its own of each other.",
        ),
        (
            "run: scripts/build.sh",
            "runs: scripts/build.sh",
            "fleet.yaml:12: plan[1] has none of run, sync and check; say which it is, or did you mean run by runs?",
        ),
        (
            "check: http://{address}:8080/health",
            "check: http://{adress}:8080/health",
            "fleet.yaml:19: plan[2].check uses {adress}, but only {address} is filled in; write {address}.",
        ),
        (
            "check: http://{address}:8080/health",
            "check: ftp://{address}",
            'fleet.yaml:19: plan[2].check must begin with http:// or https://, but is "ftp://{address}".',
        ),
        (
            "  max: 3",
            "  max: 3\n  min: 2",
            "fleet.yaml:8: capacity.min is given twice, first on line 5; remove one.",
        ),
        ("[code]", "*code", "fleet.yaml:14: is not YAML: found undefined alias 'code'."),
        (
            "needs: [code]",
            "needs: [code",
            "fleet.yaml:15: is not YAML: expected ',' or ']', but got ':'; close the list with ].",
        ),
        (
            "fleet: web",
            "fleet: web: two",
            "fleet.yaml:2: is not YAML: mapping values are not allowed here; put text that holds a colon in quotes.",
        ),
        (
            "  min: 1",
            "\tmin: 1",
            "fleet.yaml:5: is not YAML: found character '\\t' that cannot start any token; "
            "indent with spaces, not with tabs.",
        ),
        (
            "fleet: web",
            "fleet: !!python/name:os.system x",
            "fleet.yaml:2: fleet is no plain value: 'x'; put text in quotes.",
        ),
        ("fleet: web", 'fleet: "\\ud800"', "fleet.yaml:2: fleet is no plain value: '\\ud800'; put text in quotes."),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_gets_one_sentence(old: str, new: str, sentence: str) -> None:
    assert mistakes(replaced(old, new)) == [sentence]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "fleet.yaml:1: must be a mapping of fields, such as fleet: web."),
        ("- one\n- two\n", "fleet.yaml:1: must be a mapping of fields, such as fleet: web."),
        (
            GOOD + "--- \nfleet: b\n",
            "fleet.yaml:23: is not YAML: but found another document; keep one fleet in a file.",
        ),
        ("fleet: a\x07b\n", "fleet.yaml:1: is not YAML: has a character that is not allowed there; delete it."),
        ("fleet: &a [*a]\n", "fleet.yaml:1: fleet[0] repeats a part by an alias; write it out."),
        ("fleet: " + "[" * 5000, "fleet.yaml:1: is more than 20 levels deep; no fleet description is."),
        ("fleet: {[a]: b}\n", "fleet.yaml:1: fleet has a field whose name is not plain text; write a name."),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_is_no_description_at_all_gets_one_sentence(text: str, sentence: str) -> None:
    assert mistakes(text) == [sentence]


@pytest.mark.usefixtures("folder")
def test_several_mistakes_are_told_in_the_order_of_the_file() -> None:
    text = GOOD.replace("timeout: 90", "tiemout: 90").replace("desired: 2", "desired: two").replace("url:", "link:")
    assert mistakes(text) == [
        'fleet.yaml:6: capacity.desired must be a whole number, but is "two".',
        "fleet.yaml:17: plan[1].tiemout is not a field of a run step; did you mean timeout?",
        "fleet.yaml:21: health.url is missing; add it.",
        "fleet.yaml:22: health.link is not a field of health; remove it (health has url, timeout, failures, interval).",
    ]


@pytest.mark.usefixtures("folder")
def test_a_plan_must_be_a_list_of_steps() -> None:
    plan = GOOD[GOOD.index("plan:") : GOOD.index("health:\n  url")]
    assert mistakes(GOOD.replace(plan, "plan: []\n")) == ["fleet.yaml:8: plan must have at least 1, but is []."]
    assert mistakes(GOOD.replace(plan, "plan: later\n")) == ['fleet.yaml:8: plan must be a list, but is "later".']
    assert mistakes(GOOD.replace(plan, "plan: [build]\n")) == [
        "fleet.yaml:8: plan[0] must be a step: a mapping with step: and one of run:, sync: or check:."
    ]


def test_a_script_that_is_not_text_is_refused(folder: Path) -> None:
    (sentence,) = mistakes(replaced("scripts/build.sh", "scripts/binary.sh"))
    assert sentence.startswith("fleet.yaml:13: plan[1].run names scripts/binary.sh, which can not be read as text (")
    (folder / "scripts/build.sh").write_text("x" * 200_001)
    (sentence,) = mistakes(GOOD)
    assert sentence.startswith("fleet.yaml:12: plan[1].script must be at most 200000 characters, but is ")


def test_a_file_that_can_not_be_read_gets_one_sentence(folder: Path) -> None:
    with pytest.raises(FleetError, match=r"none\.yaml: the fleet description can not be read: No such file or dir"):
        read_fleet(folder / "none.yaml")
    (folder / "latin.yaml").write_bytes(b"fleet: web\ndescription: caf\xe9\n")
    with pytest.raises(FleetError, match=r"latin\.yaml:2: is not UTF-8 text; save the file as UTF-8\.$"):
        read_fleet(folder / "latin.yaml")
    (folder / "huge.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(FleetError, match="larger than 1000000 bytes"):
        read_fleet(folder / "huge.yaml")


def test_the_command_says_fine_or_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "fleet.yaml").write_text(GOOD)
    assert main(["fleet.yaml"]) == 0
    assert capsys.readouterr().out == "fleet.yaml: fleet web, 3 steps, 1 components: fine\n"
    (folder / "fleet.yaml").write_text(replaced("timeout: 90", "tiemout: 90"))
    assert main(["fleet.yaml"]) == 2
    assert capsys.readouterr().err == (
        "fleet.yaml:17: plan[1].tiemout is not a field of a run step; did you mean timeout?\n"
    )


def test_the_schema_describes_what_people_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == fleet_schema()
    assert "schema" in schema["properties"]
    assert "script" not in schema["$defs"]["RunStep"]["properties"]
    assert schema["$defs"]["DisruptionPolicy"]["properties"]["floor"]["description"] == (
        "Healthy servers in service are never taken below this."
    )


def test_the_reference_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--reference"]) == 0
    assert capsys.readouterr().out == fleet_reference()
    page = Path(__file__).parents[3] / "docs/fleet.md"
    assert page.read_text() == fleet_reference(), "run: python -m deploy.fleet --reference > docs/fleet.md"
