"""The commands on the site's pages print today what the pages show, and those that cannot run here exist."""

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, need

spec = importlib.util.spec_from_file_location("terminal", ROOT / "docs" / "terminal.py")
terminal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(terminal)


def comparable(line):
    """A line with 0 for each number and one space for each gap: losses and times differ. Ids and exit statuses stay."""
    line = " ".join(line.split())
    return line if re.fullmatch(r"[\d ]*", line) else re.sub(r"\d[\d,.]*(?<=\d)", "0", line)


@pytest.mark.parametrize("page", terminal.PAGES, ids=lambda page: page.stem)
def test_the_commands_print_what_the_page_shows(page, tmp_path):
    need(shutil.which("bash") and shutil.which("awk"), "bash and awk")
    text = page.read_text(encoding="utf-8")
    printed = terminal.tour(text, tmp_path)
    assert [*map(comparable, printed.splitlines())] == [*map(comparable, text.splitlines())]
    assert len(list((tmp_path / "home").glob("*.png"))) == text.count("plot.png\n")


def test_the_commands_that_do_not_run_here_are_understood():
    """Each option exists, and so does each target of make."""
    commands = []
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"^```shell\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            commands += block.replace("\\\n", " ").splitlines()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{line.split()[1]}:", makefile, re.M) for line in commands if line.startswith("make"))
    used = {}
    for line in commands:
        if line.startswith("tinygpt"):
            used.setdefault(line.split()[1], set()).update(re.findall(r"--[\w.-]+", line))
    assert used.keys() >= {"train", "sample", "bench"}
    for command, options in used.items():
        help_ = subprocess.run([sys.executable, "-m", "tinygpt", command, "--help"], capture_output=True, text=True)
        assert options <= set(re.findall(r"--[\w.-]+", help_.stdout)), command
