"""What all tests share: notebooks compared strictly, reference data, and no test left out where none may be."""

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
    """Skip the running test, saying what it lacks, unless `condition` holds; the hooks below may forbid that."""
    if not condition:
        pytest.skip(what)


def copy_project(folder):
    """Copy to `folder` what git has or would take in; trials there leave the project alone."""
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
    """Compare every cell of the notebooks, except those tagged nbval-ignore-output; leave out `#| eval: false`."""
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
    """Where TINYGPT_NO_SKIP is set, a skipped test has failed."""
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
