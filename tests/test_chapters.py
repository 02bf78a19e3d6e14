"""Two chapters in JupyterLab, as `make walk` runs all of them; and what it would find."""

import nbformat.v4 as v4
import pytest
from conftest import ROOT
from nbformat import write
from walk import walk


@pytest.mark.parametrize("name", ["03_data", "12_cache"])
def test_a_chapter_runs_in_jupyterlab(name, tmp_path):
    assert not walk(ROOT / "nbs" / f"{name}.ipynb", tmp_path)


def test_it_finds_what_a_learner_should_not_see(tmp_path):
    def code(id, *lines, shows="something"):
        output = [v4.new_output("stream", text=shows)] if shows else []
        return v4.new_code_cell("\n".join(lines), id=id, outputs=output)

    cells = [
        code("imports", "from IPython.display import HTML, Image, display", "import ipywidgets", shows=""),
        code("silent", "word = 1"),
        code("widget", "ipywidgets.HTML()"),
        code("image", "display(HTML('<img src=\"data:image/png;base64,AA\" alt=\"nothing\">'))"),
        code("warning", "import warnings", "warnings.warn('beware')"),
        code("check-solved", "HTML('<strong>Right.</strong>')"),
        code("check-open", "HTML('<strong>To be written.</strong>')"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    write(v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "bad.ipynb")
    found = walk(tmp_path / "bad.ipynb", tmp_path / "work")
    said = ["beware", "cell silent shows nothing", "1 images", "1 widgets", "nobody has solved", "2 exercises"]
    assert len(found) == len(said) and all(part in fault for part, fault in zip(said, found)), found
