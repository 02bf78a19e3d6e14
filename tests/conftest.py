"""Shared by all tests: strict comparison of notebooks, reference data, and a mode in which no test may be skipped."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NO_SKIP = bool(os.environ.get("TINYGPT_NO_SKIP"))
NOT_RUN = re.compile(r"(#\|.*\n)*#\|\s*eval:\s*false", re.I)


def need(condition, what):
    """Skip the running test unless `condition` holds, and say what is missing (the hooks below may forbid that)."""
    if not condition:
        pytest.skip(what)


def copy_project(folder):
    """Copy the files that git tracks or would add to `folder`, so that a test can change them."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    need(listed.returncode == 0, "a git checkout of the project")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def reference():
    """The folder of reference data: tinyshakespeare.txt, gpt2/encoder.json and gpt2/vocab.bpe."""
    folder = Path(os.environ.get("TINYGPT_REFERENCE", "nowhere"))
    files = "tinyshakespeare.txt", "gpt2/encoder.json", "gpt2/vocab.bpe"
    need(
        all((folder / name).is_file() for name in files),
        f"set TINYGPT_REFERENCE to a folder that holds {', '.join(files)}",
    )
    return folder


def pytest_collection_modifyitems(config, items):
    """Compare the output of every notebook cell, except those tagged nbval-ignore-output; skip `#| eval: false`."""
    cells = [item for item in items if hasattr(item, "cell")]
    for item in cells:
        # nbval takes a cell without a count, as nbdev_clean leaves it, for one that was never run
        item.cell.execution_count = 1
        item.options["check"] = "nbval-ignore-output" not in item.cell.metadata.get("tags", [])
        item.options["skip"] = False
    left_out = [item for item in cells if NOT_RUN.match(item.cell.source)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def forbid_skip(report):
    """If TINYGPT_NO_SKIP is set, report a skipped test as failed."""
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"TINYGPT_NO_SKIP is set, but: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return forbid_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return forbid_skip((yield))


def pair_of_tests(check, right: dict, mistakes: list[tuple]):
    """Two tests of a chapter's checks: right and blank answers, and a diagnosis of its own for each mistake."""
    import torch

    @functools.cache
    def message(place: int) -> str:
        name, answer, _ = mistakes[place]
        verdict = getattr(check, name)(answer)
        assert verdict.state == "wrong", verdict
        return re.sub(r" in its line \d+: .*", "", verdict.message)  # the line of the test may hold the diagnosis

    @pytest.mark.parametrize("name", right)
    def test_right_answers_pass_and_blank_ones_are_no_mistake(name):
        judge = getattr(check, name)
        verdict = judge(right[name])
        assert verdict, verdict
        assert judge(lambda *_: None).state == judge(...).state == "blank"
        for wrong in (lambda *_: "no"), (lambda *_: torch.zeros(0)), 3:
            assert judge(wrong).state == "wrong"

    @pytest.mark.parametrize(
        "place", range(len(mistakes)), ids=lambda place: f"{mistakes[place][0]}-{mistakes[place][2]}"
    )
    def test_each_mistake_has_its_own_diagnosis(place):
        name, _, said = mistakes[place]
        assert said in message(place), message(place)
        others = [other for other, (about, _, words) in enumerate(mistakes) if about == name and words != said]
        assert not [message(other) for other in others if said in message(other)]

    return test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis
