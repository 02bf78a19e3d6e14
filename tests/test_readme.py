"""What the README promises works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_lines_of_python_run(tmp_path):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", README, re.S):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links and all((Path(__file__).parents[1] / link).exists() for link in links)


def test_every_chapter_is_in_the_table():
    chapters = sorted(path.name for path in (Path(__file__).parents[1] / "nbs").glob("*.ipynb"))
    assert re.findall(r"\(nbs/(.*?\.ipynb)\)", README) == chapters
