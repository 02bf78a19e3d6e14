"""The tour of the commands prints today what the page shows."""

import importlib.util
import re
import shutil

from conftest import ROOT, need

spec = importlib.util.spec_from_file_location("terminal", ROOT / "docs" / "terminal.py")
terminal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(terminal)


def without_numbers(page):
    """The lines of a page, where every number is 0 and every gap one space: times and last digits differ."""
    return [" ".join(re.sub(r"\d[\d,.]*(?<=\d)", "0", line).split()) for line in page.splitlines()]


def test_the_commands_print_what_the_page_shows(tmp_path):
    need(shutil.which("bash") and shutil.which("awk"), "bash and awk")
    page = terminal.PAGE.read_text(encoding="utf-8")
    assert without_numbers(terminal.tour(page, tmp_path)) == without_numbers(page)
    assert (tmp_path / "home" / "plot.png").is_file()
