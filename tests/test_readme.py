"""The code in the README and on the site's own pages runs as shown."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/tinygpt.md"])
def test_the_lines_of_python_run(page, tmp_path):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    for code in blocks:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links and all((ROOT / link).exists() for link in links)


def test_the_table_has_each_chapter_with_its_question_and_its_minutes():
    rows = []
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        title, question = re.search(r"^# (.+)\n+> (.+)", text, re.M).groups()
        minutes = re.search(r"\*About (\d+) minutes to read", text)[1]
        rows.append(f"| [{path.name[:2]} {title}](nbs/{path.name}) | {question} | {minutes} |")
    assert [line for line in README.splitlines() if line.startswith("| [")] == rows
