"""The tour of the commands prints today what the page shows."""

import importlib.util
import re
import shutil

from conftest import ROOT, need

spec = importlib.util.spec_from_file_location("terminal", ROOT / "docs" / "terminal.py")
terminal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(terminal)


def comparable(line):
    """A line with 0 for each number and one space for each gap: losses and times differ. Ids and exit statuses stay."""
    line = " ".join(line.split())
    return line if re.fullmatch(r"[\d ]*", line) else re.sub(r"\d[\d,.]*(?<=\d)", "0", line)


def test_the_commands_print_what_the_page_shows(tmp_path):
    need(shutil.which("bash") and shutil.which("awk"), "bash and awk")
    page = terminal.PAGE.read_text(encoding="utf-8")
    printed = terminal.tour(page, tmp_path)
    assert [*map(comparable, printed.splitlines())] == [*map(comparable, page.splitlines())]
    assert (tmp_path / "home" / "plot.png").is_file()
