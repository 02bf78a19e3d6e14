"""The chapters that a class gets: the same, without the solutions."""

import ast
import builtins
import json
import subprocess
import sys

import pytest
from conftest import ROOT

CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    """What `make handout` writes."""
    folder = tmp_path_factory.mktemp("handout")
    done = subprocess.run([sys.executable, ROOT / "nbs" / "handout.py", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}: {len(CHAPTERS)} chapters, without their ")
    return folder


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_only_the_solutions_are_left_out(handout, path):
    whole, kept = cells(path), cells(handout / path.name)
    left_out = [cell for cell in whole if cell not in kept]
    assert kept == [cell for cell in whole if cell not in left_out]
    assert len(left_out) == sum("".join(cell["source"]).startswith("### Exercise") for cell in whole)
    assert all("".join(cell["source"]).startswith("# Solution (") for cell in left_out)
    assert "# Solution" not in (handout / path.name).read_text(encoding="utf-8")
    names = {cell["id"].removeprefix("solution-") for cell in left_out}
    assert {f"check-{name}" for name in names} <= {cell["id"] for cell in kept}, "each exercise keeps its check"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_what_is_left_needs_no_solution(handout, path):
    """Every name that a cell reads is made by some cell that is left."""
    made, read = set(dir(builtins)), set()
    for cell in cells(handout / path.name):
        if cell["cell_type"] == "code":
            tree = ast.parse("\n".join(line for line in "".join(cell["source"]).splitlines() if line[:1] not in "%!"))
            for node in ast.walk(tree):
                match node:
                    case ast.Name(id=name, ctx=ast.Load()):
                        read.add(name)
                    case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                        made.add(name)
                    case ast.Import(names=names) | ast.ImportFrom(names=names):
                        made |= {(alias.asname or alias.name).split(".")[0] for alias in names}
                    case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) if name:
                        made.add(name)
    assert not read - made - {"display", "get_ipython"}
