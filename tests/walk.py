"""Every chapter in a real JupyterLab, run from top to bottom as a learner who has solved no exercise: make walk"""

import json
import os
import re
import sys

import pytest
from conftest import ROOT
from test_lab import lab

CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))
ERRORS = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
WIDGETS = ".jp-OutputArea-output > .jupyter-widgets"
LIMIT = 900_000  # milliseconds for one chapter

SHOWN = """cells => cells.map(cell =>
  [...cell.querySelectorAll(".jp-OutputArea-output")].some(one => one.getBoundingClientRect().height > 0))"""
BLANK_IMAGES = "all => all.filter(image => !(image.complete && image.naturalWidth)).length"
BLANK_WIDGETS = """all => all.filter(widget =>
  widget.getBoundingClientRect().height < 10 || widget.innerText.includes("Error displaying")
  || !(/[^\\s\\u200b]/.test(widget.innerText) || widget.querySelector("img, canvas, svg, input, button"))).length"""


def prepare(path, folder):
    """Copy a chapter without its outputs to a folder beside the data; returns its code cells as they were."""
    (folder / "nbs").mkdir(parents=True)
    (folder / "data").symlink_to(ROOT / "data")
    notebook = json.loads(path.read_text("utf-8"))
    bare = [cell | {"outputs": []} if cell["cell_type"] == "code" else cell for cell in notebook["cells"]]
    for other in CHAPTERS:
        if other != path:
            (folder / "nbs" / other.name).symlink_to(other)  # for the map of the course
    (folder / "nbs" / path.name).write_text(json.dumps(notebook | {"cells": bare}), "utf-8")
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    draw_all = {"windowingMode": "none"}  # not only the cells in view
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps(draw_all))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_all(page, last):
    """Run all cells, and wait for the end of cell number `last`, which is not folded."""
    from playwright.sync_api import expect

    idle = page.get_by_text("(ipykernel) | Idle")
    expect(idle).to_be_visible(timeout=120_000)
    page.locator(".jp-Notebook .jp-Cell").first.click(position={"x": 5, "y": 5})
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    prompt = page.locator(".jp-CodeCell").nth(last).locator(".jp-InputPrompt")
    expect(prompt).to_have_text(re.compile(r"\[\d+\]:"), timeout=LIMIT)
    page.wait_for_timeout(2000)  # for the solution after it, and for pictures and widgets to be drawn
    expect(idle).to_be_visible(timeout=60_000)


def faults(page, cells):
    """What a learner should not see after running all cells."""
    found = [f"printed as an error: {said}" for said in page.locator(ERRORS).all_inner_texts()]
    for cell, shown in zip(cells, page.locator(".jp-CodeCell").evaluate_all(SHOWN), strict=True):
        if cell["outputs"] and not shown and not cell["metadata"].get("jupyter", {}).get("outputs_hidden"):
            found.append(f"the cell {cell['id']} shows nothing")
    for what, selector, blank in ("image", "img", BLANK_IMAGES), ("widget", WIDGETS, BLANK_WIDGETS):
        if n := page.locator(f".jp-OutputArea {selector}").evaluate_all(blank):
            found.append(f"blank: {n} {what}s")
    verdicts = page.locator(".jp-OutputArea strong").all_inner_texts()
    if "Right." in verdicts:
        found.append("an exercise that nobody has solved is right")
    if verdicts.count("To be written.") != (n := sum(cell["id"].startswith("check-") for cell in cells)):
        found.append(f"{n} exercises, with the verdicts {verdicts}")
    return found


def answer(route, found):
    """Let a request to this machine pass; note any other."""
    if re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost)[:/]|data:|blob:", route.request.url):
        return route.continue_()
    found.append(f"asks for {route.request.url}")
    return route.abort()


def walk(path, folder):
    """Run a chapter in JupyterLab; returns what a learner should not see."""
    cells, found = prepare(path, folder), []
    last = max(i for i, cell in enumerate(cells) if cell["id"].startswith("check-"))

    def command(words):
        return [sys.executable, "-m", "jupyterlab", *words.split(), *([] if os.getuid() else ["--allow-root"])]

    places = {"JUPYTER_DATA_DIR": str(folder / "jupyter"), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    with lab(folder, command, folder / "nbs", folder / "lab.log", **places) as (page, address):
        page.on("pageerror", lambda error: found.append(str(error)))
        page.route("**/*", lambda route: answer(route, found))
        page.goto(address.replace("/lab?", f"/lab/tree/{path.name}?reset&", 1))
        run_all(page, last)
        found += faults(page, cells)
        page.unroute_all(behavior="ignoreErrors")
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_in_jupyterlab(path, tmp_path):
    assert not walk(path, tmp_path)
