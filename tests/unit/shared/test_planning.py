import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.fleet import Fleet
from shared.manifests import Entry, Manifest
from shared.outlines import Outline, outline
from shared.plan import Content, Plan, Tries
from shared.planning import Done, Explained, differences, explain, inputs_of, ledger_of, make_plan, plan_digest
from shared.records import StepResult

FLEET: dict[str, Any] = {
    "fleet": "web",
    "stock": "ami-01234567",
    "capacity": {"min": 1, "desired": 1, "max": 2},
    "health": {"url": "http://{address}/health"},
    "plan": [
        {"step": "packages", "run": "packages.sh", "script": "install"},
        {"step": "code", "sync": "app", "to": "srv/app", "needs": ["packages"]},
        {"step": "build", "run": "build.sh", "script": "build", "needs": ["code"], "inputs": {"app": ["src/**/*.py"]}},
        {"step": "index", "run": "index.sh", "script": "index", "needs": ["code"]},
        {"step": "start", "run": "start.sh", "script": "start", "needs": ["build"], "environment": {"PORT": "80"}},
        {"step": "up", "check": "http://{address}:80/", "needs": ["start"]},
    ],
}
FILES = {"src/a.py": "a1", "src/deep/b.py": "b1", "docs/c.md": "c1"}


def release(files: Mapping[str, str] = FILES, version: str = "1") -> Manifest:
    return release_of(*(Entry(path=path, sha256=content) for path, content in sorted(files.items())), version=version)


def release_of(*entries: Entry, version: str = "1") -> Manifest:
    return Manifest(form=1, component="app", version=version, entries=entries)


def outlined(fleet: Fleet, component: str, release: Manifest) -> Outline:
    read = outline(release.model_dump_json(exclude_defaults=True).encode(), inputs_of(fleet, component))
    return dataclasses.replace(read, digest=f"digest of {release.version}")


def planned(
    fleet: Mapping[str, Any] = FLEET,
    app: Manifest | None = None,
    server: str = "i-01234567",
    address: str = "10.0.0.1",
    attempt: str = "1",
) -> Plan:
    url = f"https://objects.invalid/{attempt}"
    described = Fleet.model_validate(fleet)
    return make_plan(
        described,
        {"app": outlined(described, "app", app or release())},
        server,
        address,
        attempt=attempt,
        report_url=url,
        content_urls={"app": Content(manifest_url=url, manifest_sha256="digest of 1")},
    )


def with_step(name: str, **changes: object) -> dict[str, Any]:
    fleet = copy.deepcopy(FLEET)
    next(step for step in fleet["plan"] if step["step"] == name).update(changes)
    return fleet


def changed(after: Plan, before: Plan | None = None) -> set[str]:
    """The steps whose fingerprint is another."""
    old = {step.step: step.fingerprint for step in (before or planned()).steps}
    return {step.step for step in after.steps if old.get(step.step) != step.fingerprint}


def test_a_plan_carries_everything_that_the_agent_needs() -> None:
    plan = planned()
    steps = {step.step: step for step in plan.steps}
    assert (plan.fleet, plan.server, plan.address, plan.attempt) == ("web", "i-01234567", "10.0.0.1", "1")
    assert [step.kind for step in plan.steps] == ["run", "sync", "run", "run", "run", "check"]
    assert steps["start"].script == "start"
    assert steps["start"].environment == {"PORT": "80"}
    assert (steps["code"].component, steps["code"].version, steps["code"].to) == ("app", "1", "srv/app")
    assert steps["code"].content is not None
    assert steps["up"].url == "http://10.0.0.1:80/"
    assert steps["up"].timeout_s == 60
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_every_step_says_what_it_depends_on() -> None:
    why = {step.step: step.why for step in planned(app=release(version="412")).steps}
    assert why["code"] == "release app 412, packages"
    assert why["build"] == "its script, 2 files (src/**/*.py) of app 412"
    assert why["start"] == "its script, build"


def test_a_server_an_attempt_and_urls_make_no_difference_to_fingerprints() -> None:
    other = planned(server="i-89abcdef", address="10.0.0.2", attempt="2")
    assert changed(other) == set()
    assert plan_digest(other) == plan_digest(planned())


@pytest.mark.parametrize(
    ("fleet", "steps"),
    [
        (with_step("packages", script="install more"), {"packages", "code", "index"}),
        (with_step("build", script="build more"), {"build", "start", "up"}),
        (with_step("build", timeout=7), set()),
        (with_step("build", run="elsewhere/build.sh"), set()),
        (with_step("start", environment={"PORT": "81"}), {"start", "up"}),
        (with_step("up", check="http://{address}:81/"), {"up"}),
        (with_step("code", to="srv/elsewhere"), {"code", "build", "index", "start", "up"}),
        (with_step("build", inputs={}), {"build", "start", "up"}),
        (with_step("index", needs=["code", "build"]), {"index"}),
    ],
)
def test_a_change_of_the_fleet_touches_the_step_and_those_that_need_it(
    fleet: Mapping[str, Any], steps: set[str]
) -> None:
    assert changed(planned(fleet)) == steps
    assert (plan_digest(planned(fleet)) == plan_digest(planned())) == (steps == set())


def test_a_release_that_touches_no_input_leaves_the_steps_that_list_inputs_alone() -> None:
    assert changed(planned(app=release({**FILES, "docs/c.md": "c2"}, version="2"))) == {"code", "index"}


@pytest.mark.parametrize(
    "files",
    [
        {**FILES, "src/a.py": "a2"},
        {**FILES, "src/deep/b.py": "b2"},
        {**FILES, "src/new.py": "n1"},
        {"src/a.py": "a1", "docs/c.md": "c1"},
    ],
)
def test_a_release_that_touches_an_input_changes_the_steps_that_read_it(files: Mapping[str, str]) -> None:
    assert changed(planned(app=release(files, version="2"))) == {"code", "index", "build", "start", "up"}


def test_a_component_that_is_needed_but_not_listed_counts_in_full() -> None:
    fleet = with_step("build", inputs={"app": ["nothing/**"]}, needs=["code"])
    fleet["plan"].insert(0, {"step": "lib-code", "sync": "lib", "to": "srv/lib"})
    fleet["plan"][3]["needs"] = ["code", "lib-code"]
    content = Content(manifest_url="u", manifest_sha256="s")

    def plan_with(lib: Manifest) -> Plan:
        described = Fleet.model_validate(fleet)
        return make_plan(
            described,
            {"app": outlined(described, "app", release()), "lib": outlined(described, "lib", lib)},
            "i-01234567",
            "10.0.0.1",
            attempt="1",
            report_url="u",
            content_urls={"app": content, "lib": content},
        )

    before = plan_with(release())
    after = plan_with(release(version="2"))
    assert changed(after, before) == {"lib-code", "build", "start", "up"}


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("a.py", "a.py", True),
        ("a.py", "b/a.py", False),
        ("*.py", "a.py", True),
        ("*.py", "b/a.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "b/c/a.py", True),
        ("**/*.py", "b/c/apy", False),
        ("src/**", "src/x/y", True),
        ("src/**", "source/x", False),
        ("src", "src/x/y", True),
        ("src/", "src/x/y", True),
        ("src", "src2", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a*/b", "ax/y/b", False),
    ],
)
def test_globs(glob: str, path: str, *, matches: bool) -> None:
    fleet = with_step("build", inputs={"app": [glob]})
    one, two = (planned(fleet, release({path: content})) for content in ("1", "2"))
    assert ("build" in changed(two, one)) == matches


names = st.lists(st.sampled_from(["src", "docs", "a.py", "b.md", "x"]), min_size=1, max_size=3).map("/".join)
trees = st.dictionaries(names, st.sampled_from(["1", "2"]), max_size=6)


@given(trees, trees)
def test_a_step_changes_exactly_when_an_input_does(old: dict[str, str], new: dict[str, str]) -> None:
    def inputs(files: dict[str, str]) -> dict[str, str]:
        parts = {path: path.split("/") for path in files}
        return {p: c for p, c in files.items() if parts[p][0] == "src" and parts[p][-1].endswith(".py")}

    fleet = with_step("build", inputs={"app": ["src/**/*.py"]})
    steps = changed(planned(fleet, release(new, "2")), planned(fleet, release(old, "1")))
    below = {path for files in (old, new) for path in files if "a.py/" in path and path.startswith("src/")}
    if not below:
        assert ("build" in steps) == (inputs(old) != inputs(new))
    assert ("start" in steps) == ("build" in steps)
    assert "packages" not in steps
    assert {"code", "index"} <= steps


@pytest.mark.parametrize("facts", [{"mode": 0o755}, {"kind": "link"}, {"target": "elsewhere"}, {"sha256": "a2"}])
def test_an_input_is_more_than_its_content(facts: dict[str, object]) -> None:
    entry = Entry(path="src/a.py", sha256="a1")
    one, two = release_of(entry), release_of(entry.model_copy(update=facts))
    assert changed(planned(app=two), planned(app=one)) == {"build", "start", "up"}


@pytest.mark.parametrize("packed", [{"blocks": (3,)}, {"offset": 7}])
def test_how_an_input_is_packed_makes_no_difference(packed: dict[str, object]) -> None:
    entry = Entry(path="src/a.py", sha256="a1")
    one, two = release_of(entry), release_of(entry.model_copy(update=packed))
    assert changed(planned(app=two), planned(app=one)) == set()


def done(plan: Plan) -> dict[str, Done]:
    return {step.step: Done(step.fingerprint, step.parts) for step in plan.steps}


def test_explaining_says_which_steps_run_and_why() -> None:
    ledger = done(planned())
    del ledger["index"]
    unchanged = ("nothing that it depends on has changed",)
    assert explain(planned(app=release(version="2")), ledger) == (
        Explained("packages", runs=False, reasons=unchanged),
        Explained("code", runs=True, reasons=("release app 1 -> 2",)),
        Explained("build", runs=False, reasons=unchanged),
        Explained("index", runs=True, reasons=("it was not done yet",)),
        Explained("start", runs=False, reasons=unchanged),
        Explained("up", runs=True, reasons=("checks always run",)),
    )


INPUTS = {"app": ["src/**/*.py"]}


@pytest.mark.parametrize(
    ("step", "fleet", "reasons"),
    [
        ("packages", with_step("packages", script="more"), ["its script changed"]),
        ("packages", with_step("packages", user="app"), ["its user root -> app"]),
        ("start", with_step("start", environment={"PORT": "81"}), ["its environment's PORT changed"]),
        (
            "start",
            with_step("start", environment={"HOST": "x"}),
            ["its environment's HOST is new", "its environment's PORT is gone"],
        ),
        ("code", with_step("code", to="srv/new"), ["its directory srv/app -> srv/new"]),
        ("build", with_step("code", to="srv/new"), ["its directory of app srv/app -> srv/new"]),
        ("index", with_step("code", to="srv/new"), ["code, which it needs, changed"]),
        ("index", with_step("index", needs=["code", "build"]), ["that it needs build is new"]),
        ("index", with_step("index", needs=[]), ["that it needs code is gone"]),
        ("index", with_step("index", inputs=INPUTS, needs=[]), None),
        ("build", with_step("build", inputs={"app": ["src/a.py"]}), ["its input files of app changed (2 -> 1)"]),
        (
            "start",
            with_step("start", inputs=INPUTS, script="more"),
            ["its script changed", "its list of inputs of app is new", "its directory of app none -> srv/app"],
        ),
    ],
)
def test_a_reason_names_every_part_that_changed(step: str, fleet: Mapping[str, Any], reasons: list[str] | None) -> None:
    found = {each.step: each for each in explain(planned(fleet), done(planned()))}[step]
    assert found.runs
    if reasons is not None:
        assert list(found.reasons) == reasons


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({**FILES, "src/a.py": "a2"}, "its input files of app changed"),
        ({**FILES, "src/new.py": "n1"}, "its input files of app changed (2 -> 3)"),
    ],
)
def test_a_release_that_touches_inputs_is_a_reason_of_the_step_that_reads_them(
    files: Mapping[str, str], reason: str
) -> None:
    found = {each.step: each for each in explain(planned(app=release(files, "2")), done(planned()))}
    assert found["build"].reasons == (reason,)
    assert found["start"].reasons == ("build, which it needs, changed",)


def test_a_release_that_only_its_storing_tells_from_the_one_before_says_so() -> None:
    old, new = {"release": "app 1 aaa"}, {"release": "app 1 bbb"}
    assert list(differences(old, new)) == ["release app 1 is stored in another form"]
    assert list(differences(old, {"release": "lib 3 ccc"})) == ["release app -> lib 3"]


def test_a_release_or_a_list_of_inputs_that_comes_or_goes_is_told_as_such() -> None:
    some, release = {"script": "1"}, {"script": "1", "release": "app 1 a b"}
    assert list(differences(some, release)) == ["release - -> app 1"]
    assert list(differences(release, some)) == ["release app -> - none"]
    inputs = {"script": "1", "files app": "abc 2 3"}
    assert list(differences(some, inputs)) == ["its list of inputs of app is new"]
    assert list(differences(inputs, some)) == ["its list of inputs of app is gone"]
    assert list(differences(inputs, inputs | {"files app": "abd 2 3"})) == ["its input files of app changed"]
    assert list(differences(inputs, inputs | {"files app": "abd 3 3"})) == [
        "its input files of app changed (2 3 -> 3 3)"
    ]


def test_what_was_done_before_parts_were_recorded_changed_in_an_unknown_way() -> None:
    assert list(differences({}, {"script": "1"})) == [
        "something that it depends on has changed; what, was not recorded"
    ]


@pytest.mark.parametrize("changes", [{"timeout": 7}, {"retry": {"tries": 3}}, {"run": "elsewhere.sh"}])
def test_how_a_step_is_run_is_no_part_of_it(changes: Mapping[str, Any]) -> None:
    assert changed(planned(with_step("build", **changes))) == set()
    assert changed(planned({**FLEET, "parallel": 4})) == set()


def test_every_difference_of_fingerprints_has_a_reason() -> None:
    others = [with_step("packages", user="app"), with_step("start", environment={}), with_step("up", check="http://x/")]
    for other in [planned(fleet) for fleet in others]:
        for step, old in zip(other.steps, planned().steps, strict=True):
            assert bool(list(differences(old.parts, step.parts))) == (old.fingerprint != step.fingerprint)


def test_no_part_tells_a_value_of_the_environment() -> None:
    plan = planned(with_step("start", environment={"PASSWORD": "swordfish"}))
    assert not any("swordfish" in value for step in plan.steps for value in step.parts.values())


def test_the_ledger_of_an_image_is_what_its_builder_reported_as_done() -> None:
    steps = [
        StepResult.model_validate({"step": name, "result": result, "fingerprint": "f", "parts": {"script": "s"}})
        for name, result in (("one", "done"), ("two", "skipped"), ("three", "failed"), ("four", "running"))
    ]
    assert ledger_of(steps) == {name: Done("f", {"script": "s"}) for name in ("one", "two")}


def test_tries_users_and_how_many_at_once_reach_the_server() -> None:
    fleet = with_step("build", user="app", retry={"tries": 3, "pause": 2})
    plan = planned({**fleet, "parallel": 2})
    steps = {step.step: step for step in plan.steps}
    assert plan.parallel == 2
    assert (steps["build"].user, steps["build"].retry) == ("app", Tries(tries=3, pause_s=2))
    assert (steps["start"].user, steps["start"].retry) == (None, Tries(tries=1))


def test_a_release_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="app"):
        make_plan(
            Fleet.model_validate(FLEET), {}, "i-01234567", "10.0.0.1", attempt="1", report_url="u", content_urls={}
        )
