"""One thread for torch, skips for what the machine lacks, and the rule that in CI hardly anything is skipped."""

import os
from pathlib import Path

import pytest
import torch

import adapterlab as al
import chromium

torch.set_num_threads(1)

pytest_plugins = ["pytester", "browsing"]

MAY_SKIP_IN_CI = ("gpu", "avx512bf16")


@pytest.fixture
def registry():
    """al.VARIANTS; what a test registers is gone after it."""
    before = dict(al.VARIANTS)
    yield al.VARIANTS
    al.VARIANTS.clear()
    al.VARIANTS.update(before)


def in_ci() -> bool:
    return os.environ.get("CI") == "true"


def has_avx512bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512_bf16" in cpuinfo.read_text()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every combination, where the default takes some of them")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
    lacking = {}
    if not torch.cuda.is_available():
        lacking["gpu"] = "there is no CUDA device"
    if not has_avx512bf16():
        lacking["avx512bf16"] = "this processor has no AVX512-BF16"
    if not chromium.find():
        lacking["browser"] = "there is no Chromium; install it (Debian: apt install chromium) to run this"
    for item in items:
        for mark, reason in lacking.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def refuse_skip(report, what: str) -> None:
    """Turn a skip into a failure that says why."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{what} is skipped in CI, where only tests marked gpu or avx512bf16 may be. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    allowed = any(item.get_closest_marker(mark) for mark in MAY_SKIP_IN_CI)
    if in_ci() and report.skipped and not expected_failure and not allowed:
        refuse_skip(report, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A module that skips itself (importorskip) hides all its tests."""
    report = yield
    if in_ci() and report.skipped:
        refuse_skip(report, collector.nodeid)
    return report
