"""The code in the README and on the site's own pages runs as shown."""

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


def test_every_chapter_is_in_the_table():
    chapters = sorted(path.name for path in (ROOT / "nbs").glob("*.ipynb"))
    assert re.findall(r"\(nbs/(.*?\.ipynb)\)", README) == chapters
