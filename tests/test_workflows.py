"""GitHub's workflows: pinned, with no more rights than they use, and naming commands that exist."""

import os
import re
import subprocess

import pytest
import yaml

import colab_check
from paths import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
JOBS = {(name, job): content for name, flow in WORKFLOWS.items() for job, content in flow["jobs"].items()}
STEPS = [(name, step) for (name, _), job in JOBS.items() for step in job["steps"]]
SCRIPTS = [(name, step["run"]) for name, step in STEPS if "run" in step]

# What a job may do beyond reading the repository.
RIGHTS = {
    ("book", "deploy"): {"pages": "write", "id-token": "write"},
    ("colab", "check"): {"contents": "read", "issues": "write"},
}


def test_there_is_one_for_the_tests_one_for_the_book_and_one_for_colab():
    assert set(WORKFLOWS) == {"test", "book", "colab"}
    # YAML takes a bare `on` for true.
    assert {"schedule", "workflow_dispatch"} <= set(WORKFLOWS["colab"][True])
    for name in ("test", "book"):
        assert WORKFLOWS[name][True]["push"] == {"branches": ["main"]} and "pull_request" in WORKFLOWS[name][True]


def test_actions_are_pinned_by_version_and_github_s_own():
    used = [step["uses"] for _, step in STEPS if "uses" in step]
    assert used and not [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+\.\d+\.\d+", action)]


def test_no_job_has_more_rights_than_it_uses():
    assert all(flow["permissions"] == {"contents": "read"} for flow in WORKFLOWS.values())
    assert {job: content["permissions"] for job, content in JOBS.items() if "permissions" in content} == RIGHTS
    for _, step in STEPS:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_every_job_ends_and_runs_on_a_named_system():
    for job in JOBS.values():
        assert job["timeout-minutes"] <= 120 and re.fullmatch(r"ubuntu-\d\d\.04", job["runs-on"])


def test_no_script_holds_an_expression():
    """What GitHub pastes into a script could be anything; an environment variable stays a word."""
    assert not [script for _, script in SCRIPTS if "${{" in script]


def test_the_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (name, target) for name, script in SCRIPTS for target in re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)
    }
    assert named == {("test", "test"), ("book", "repository"), ("book", "book"), ("colab", "colab-check")}
    assert {target for _, target in named} <= targets


def test_the_book_gets_the_address_of_the_repository_that_publishes_it():
    scripts = [script for name, script in SCRIPTS if name == "book"]
    set_address = 'make repository URL="$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"'
    assert scripts.index(set_address) < scripts.index("make book")
    deploy = JOBS["book", "deploy"]
    assert deploy["needs"] == "build" and "pull_request" in deploy["if"]


def test_colab_s_image_is_the_one_that_the_command_runs():
    assert JOBS["colab", "check"]["env"]["COLAB_IMAGE"] == colab_check.IMAGE


# --- the issue of a weekly failure ----------------------------------------------------------------------------------

GH = """#!/bin/sh
echo "$1 $2 $3 $4 $5 $6" >> "$LOG"
[ "$2" = list ] && printf '%s' "$OPEN"
exit 0
"""


@pytest.mark.parametrize("number, then", [("", "issue create --title"), ("12", "issue comment 12 --body")])
def test_a_failure_opens_one_issue_and_adds_to_it_later(tmp_path, number, then):
    (step,) = [step for _, step in STEPS if "issue" in step.get("name", "")]
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    log = tmp_path / "log"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LOG": str(log),
        "OPEN": number,
        "TITLE": "t",
        "BODY": "b",
    }
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, check=True)
    first, second = log.read_text().splitlines()
    assert first.startswith("issue list --state open") and second.startswith(then)
    assert "failure()" in step["if"] and set(step["env"]) == {"GH_TOKEN", "GH_REPO", "TITLE", "BODY"}
