"""The map of the course, in the chapter Start."""

import json
import re

from conftest import ROOT

from tinygpt.show.course import PICTURES, course_map

OTHERS = sorted(path.stem for path in (ROOT / "nbs").glob("*.ipynb"))[1:]


def test_the_map_has_each_other_chapter_with_its_picture():
    made = course_map(ROOT / "nbs")
    assert [*PICTURES] == OTHERS
    cards = re.findall(r'<a href="(\w+)\.ipynb"[^>]*><div[^>]*>(<img [^>]+>)?', made.html)
    assert [name for name, _ in cards] == OTHERS
    assert all(re.search(r'src="data:image/png;base64,\w.+" alt="[^"]{9,}"', picture) for _, picture in cards)
    assert len(made.html) < 250_000


def test_the_map_in_the_notebook_is_that_of_today():
    cells = json.loads((ROOT / "nbs" / "00_start.ipynb").read_text("utf-8"))["cells"]
    [output] = next(cell["outputs"] for cell in cells if cell["id"] == "map-picture")
    assert "".join(output["data"]["text/plain"]) == str(course_map(ROOT / "nbs"))


def test_a_chapter_whose_picture_is_cleared_has_an_empty_box(tmp_path):
    notebook = json.loads((ROOT / "nbs" / "07_block.ipynb").read_text("utf-8"))
    bare = [cell | {"outputs": []} if cell["cell_type"] == "code" else cell for cell in notebook["cells"]]
    (tmp_path / "07_block.ipynb").write_text(json.dumps(notebook | {"cells": bare}), "utf-8")
    made = course_map(tmp_path)
    assert "<img" not in made.html and str(made) == "07 Block (40 min): What does a layer do besides attention?"


def test_a_folder_without_chapters_is_named(tmp_path):
    assert str(tmp_path) in str(course_map(tmp_path))
