"""For real: a `prefect server`, the deployments of prefect.yaml, a worker, and runs seen completed over the API."""

from __future__ import annotations

import itertools
import re
import subprocess
import urllib.error

import pytest
import yaml
from live import BIN, PATIENCE, RECIPE, ROOT, STAGES, Process, until

from mixtura.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]  # one server for all of them


@pytest.fixture(scope="module")
def declared():
    return yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def test_every_deployment_of_prefect_yaml_is_registered(deployed, declared):
    found = {d["name"]: d for d in deployed.api("/deployments/filter", {})}
    assert found.keys() >= {d["name"] for d in declared} == {"curate", "nightly", "train", "mine"}
    for wanted in declared:
        assert found[wanted["name"]]["entrypoint"] == wanted["entrypoint"]
        assert found[wanted["name"]]["work_pool_name"] == "mixtura"
        assert found[wanted["name"]]["parameters"] == wanted.get("parameters", {})
    (schedule,) = found["nightly"]["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == "0 3 * * *"


def test_the_schedule_makes_runs(deployed):
    """SQLAlchemy 2.1 let the server's scheduler fail with a traceback: registered, and never run."""
    nights = {
        "deployments": {"name": {"any_": ["nightly"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    runs = until(lambda: deployed.api("/flow_runs/filter", nights), "the scheduler has planned a night")
    assert all("T03:00:00" in r["expected_start_time"] for r in runs)


def test_the_form_shows_every_field_of_the_recipe_with_its_description(deployed):
    schema = deployed.deployment("curate/curate")["parameter_openapi_schema"]
    assert schema["properties"].keys() == {"recipe", "settings"}
    assert schema["required"] == ["recipe"]
    definitions = schema["definitions"]
    fields = definitions["Recipe"]["properties"]
    assert fields.keys() == Recipe.model_fields.keys()
    assert len(fields) == 16
    for model in ("Recipe", "Source", "Target", "Columns", "Clean", "Embed", "Selection", "Pick", "Mix", "Settings"):
        for name, field in definitions[model]["properties"].items():
            assert len(field.get("description", "")) > 5, f"{model}.{name} has no description in the form"


def test_deployments_run_to_completion_with_their_artifacts(deployed, project, tmp_path):
    by_file = deployed.start("curate-file/nightly", {"path": str(project)})
    typed = RECIPE | {"name": "typed"}
    by_form = deployed.start("curate/curate", {"recipe": typed, "settings": {"base": str(tmp_path), "workers": 1}})
    for run, name in ((by_file, "tiny"), (by_form, "typed")):
        state = deployed.finished(run)
        assert state["type"] == "COMPLETED", f"{state}\n{deployed.log(run)}"
        artifacts = {a["key"]: a for a in deployed.of("artifacts", run) if a["key"]}
        card, stages = artifacts[f"{name}-card"], artifacts[f"{name}-stages"]
        assert card["type"] == "markdown"
        assert card["data"] == (tmp_path / "mixtures" / name / "README.md").read_text()
        assert stages["type"] == "table"
        table = yaml.safe_load(stages["data"])
        assert [r["stage"] for r in table] == ["ingest", "clean", "dedup", "pick", "mix"]
        assert (table[0]["read"], table[-1]["written"]) == (20, 8)
        assert all(after["read"] == before["written"] for before, after in itertools.pairwise(table))
    _is_readable(deployed, by_file)


def _is_readable(server, run):
    """The log of a good run: one line of ours per stage, nothing that alarms."""
    lines = server.log(run, "write: 8 rows").splitlines()
    ours = [line for line in lines if "reused" in line]
    assert [line.split(":")[0] for line in sorted(ours)] == sorted(STAGES)
    assert any(re.fullmatch(r"ingest: 20 records read from 1 files \(reused \d, computed \d\)", n) for n in ours)
    assert max(r["level"] for r in server.of("logs", run)) <= 20, lines
    assert len(lines) <= 30, lines


def test_a_failing_recipe_fails_with_one_sentence(deployed, project):
    (project.parent / "notes.jsonl").unlink()
    run = deployed.start("curate-file/nightly", {"path": str(project)})
    state = deployed.finished(run)
    assert state["type"] == "FAILED"
    assert "sources.notes.files must match at least one file" in state["message"]
    assert "Traceback" not in deployed.log(run, "sources.notes.files must match at least one file")


def test_an_impossible_recipe_is_refused_before_a_run_is_made(deployed):
    with pytest.raises(urllib.error.HTTPError) as refused:
        deployed.start("curate/curate", {"recipe": RECIPE | {"sauces": {}}})
    assert refused.value.code in (409, 422)
    assert "sauces" in refused.value.read().decode()


def test_a_run_from_the_command_line_shows_on_the_server(server, project):
    before = len(server.runs("curate"))
    done = subprocess.run(
        [BIN / "mixtura", "run", project, "--workers", "1"],
        env=server.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    runs = server.runs("curate")
    assert len(runs) == before + 1
    run = max(runs, key=lambda r: r["created"])
    assert run["state"]["type"] == "COMPLETED"
    assert server.log(run["id"], "write: 8 rows"), "the server has the log too"


def test_serve_registers_a_schedule_until_it_is_stopped(server, project, tmp_path):
    serving = Process("serve", ["mixtura", "serve", str(project), "--cron", "30 4 * * *"], server.env, tmp_path)

    def registered():
        assert not serving.ended, serving.output
        found = [d for d in server.api("/deployments/filter", {}) if d["name"] == "tiny"]
        return found and found[0]["schedules"] and found[0]

    try:
        found = until(registered, "the deployment is registered")
        assert found["parameters"] == {"path": str(project)}
        assert [s["schedule"]["cron"] for s in found["schedules"]] == ["30 4 * * *"]
        assert "stop with Ctrl-C" in serving.output
        run = server.start("curate-file/tiny", {})
        assert server.finished(run)["type"] == "COMPLETED", serving.output
        assert server.log(run, "write: 8 rows")
        assert serving.interrupt() == 0, serving.output
    finally:
        serving.stop()
    assert "Traceback" not in serving.output
    assert server.deployment("curate-file/tiny")["paused"], "what falls due now must not pile up"
