"""Makes a page of each chapter's notebook, before Sphinx reads its sources."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nbformat
import tinygpt
from docutils import nodes
from sphinx.util.fileutil import copy_asset
from tinygpt.presets import TRAINED

DOCS = Path(__file__).parent
SOLUTION = "# Solution (click the ••• or this line to open it)"  # how JupyterLab shows the fold; the site has a label
LISTS = "index", "teachers"  # the pages that list the chapters
TIME = re.compile(r"\n*^\*(About \d+ minutes to read; .* \d+ seconds.*)\*$", re.M)
LINK = re.compile(r'href="(\d\d_\w+)\.ipynb"')
WAY_IN = """

{{.way-in}}
{time}
To run them, type `make lab` in the course's folder and open `{name}.ipynb`,
or {{download}}`download the notebook <../../nbs/{name}.ipynb>`."""


@dataclass
class Chapter:
    """What the index and the API pages need to know about one notebook."""

    name: str  # 01_tokenizer
    title: str  # Tokenizer
    question: str  # How does text become numbers?
    time: str  # About 50 minutes to read; the cells run in about 30 seconds.
    module: str  # tokenizer, or "" where the notebook exports nothing
    notebook: dict

    @property
    def number(self) -> int:
        return int(self.name[:2])

    @property
    def minutes(self) -> str:
        return re.findall(r"\d+", self.time)[0]

    @property
    def seconds(self) -> str:
        return re.findall(r"\d+", self.time)[1]

    @property
    def exercises(self) -> int:
        return sum(cell.source.startswith("### Exercise") for cell in self.notebook.cells)

    @property
    def link(self) -> str:
        return f"[{self.title}](chapters/{self.name}.ipynb)"


def read_chapter(path: Path) -> Chapter:
    """Read a notebook and, from its title cell and its `default_exp`, what it is about."""
    notebook = nbformat.read(path, as_version=4)
    title = next((found for cell in notebook.cells if (found := re.match(r"# (.+)\n+> (.+)", cell.source))), None)
    if not title:
        raise ValueError(f"{path.name} needs a cell that begins with '# Title' and, below it, '> Its question?'")
    time = next((found for cell in notebook.cells if (found := TIME.search(cell.source))), None)
    if not time:
        raise ValueError(f"{path.name} needs a line '*About 40 minutes to read; the cells run in about 30 seconds.*'")
    module = re.search(r"^#\|\s*default_exp (\w+)", "\n".join(cell.source for cell in notebook.cells), re.M)
    return Chapter(path.stem, title[1], title[2], time[1], module[1] if module else "", notebook)


def split_directives(source: str) -> tuple[set[str], str]:
    """Split a code cell into the names of its nbdev directives and the code below them."""
    head = re.match(r"(#\|.*(\n|$))*", source)[0]
    return {line[2:].split()[0] for line in head.splitlines()}, source[len(head) :].lstrip("\n")


def show_cell(cell: dict, chapter: Chapter) -> bool:
    """Change a cell into what the site shows of it; return False if the site leaves it out."""
    if cell.cell_type != "code":
        cell.source = TIME.sub("", cell.source)  # the page has it below its title
        if cell.source.startswith(f"# {chapter.title}\n"):
            cell.source = f"# {chapter.number}. {cell.source[2:]}" + WAY_IN.format(**vars(chapter))
        return True
    names, cell.source = split_directives(cell.source)
    if names & {"hide", "default_exp"} or not (cell.source or cell.outputs):
        return False
    for output in cell.outputs:
        if "text/html" in output.get("data", {}):  # links to other chapters
            output.data["text/html"] = LINK.sub(r'href="\1.html"', output.data["text/html"])
    meta, tags = cell.metadata, cell.metadata.get("tags", [])
    if "solution" in tags:
        cell.source = cell.source.removeprefix(f"{SOLUTION}\n")
        fold, what = "hide-cell", "the solution"
    elif cell.id == "imports":
        fold, what = "hide-input", "the imports"
    elif meta.get("jupyter", {}).get("source_hidden"):
        fold, what = "hide-input", "the code"
    else:
        fold = what = None
    if fold:
        meta.tags = [*tags, fold]
        meta.mystnb = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
    meta.alts = [
        output.metadata.get(mime, {}).get("alt", "")
        for output in cell.outputs
        if "data" in output
        for mime in output.data
        if mime.startswith("image/")
    ]
    meta.module = chapter.module if names & {"export", "exports"} else ""
    return True


def write(path: Path, text: str) -> Path:
    """Write a file only where it differs, so that Sphinx reads again only what changed."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def make_pages(app) -> None:
    """Write the folder chapters."""
    app.chapters = [read_chapter(path) for path in sorted((DOCS.parent / "nbs").glob("[0-9][0-9]_*.ipynb"))]
    written = set()
    for chapter in app.chapters:
        chapter.notebook.metadata = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
        chapter.notebook.cells = [cell for cell in chapter.notebook.cells if show_cell(cell, chapter)]
        written.add(write(DOCS / "chapters" / f"{chapter.name}.ipynb", nbformat.writes(chapter.notebook)))
    for stale in set(DOCS.glob("chapters/*")) - written:
        stale.unlink()


def chapter_rows(app, docname: str) -> list[str]:
    """A row of a table for each chapter: on the first page its question, on the teachers' page what it asks for."""
    if docname == "index":
        return [f"| {c.number} | {c.link} | {c.question} | {c.minutes} |" for c in app.chapters]
    return [f"| {c.number} | {c.link} | {c.minutes} | {c.seconds} | {c.exercises} |" for c in app.chapters]


def fill_tables(app, docname: str, source: list[str]) -> None:
    """Put the chapters where a page asks for them."""
    if docname in LISTS:
        source[0] = source[0].replace("<!-- chapters -->", "\n".join(chapter_rows(app, docname)))


def finish_cells(app, document: nodes.document) -> None:
    """Give pictures their alt texts, and mark the code that becomes the package."""
    for cell in document.findall(lambda node: node.get("nb_element") == "cell_code" if node.children else False):
        meta = cell["cell_metadata"]
        for image, alt in zip(cell.findall(nodes.image), meta["alts"]):
            image["alt"] = alt
        if meta["module"]:
            label = nodes.reference(
                "", f"tinygpt.{meta['module']}", internal=True, refuri=f"../api/{meta['module']}.html"
            )
            cell["classes"].append("exported")
            cell.children[0].insert(0, nodes.paragraph("", "", label, classes=["module"]))


def copy_mathjax(app, error: Exception | None) -> None:
    """Copy the one script and the fonts that our pages ask for, a twelfth of what the package holds."""
    mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
    for part in ("tex-chtml-full.js", "output/chtml/fonts/woff-v2"):
        target = Path(app.outdir, "_static/mathjax", part)
        copy_asset(mathjax / part, target if (mathjax / part).is_dir() else target.parent)


def copy_playground(app, error: Exception | None) -> None:
    """Copy the playground's scripts, and the run that its model comes from."""
    folder = Path(app.outdir, "playground")
    for path in (Path(tinygpt.__file__).parent / "show" / "playground").glob("*.[jc]s*"):
        copy_asset(path, folder, force=True)  # an older build may have left another one
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        copy_asset(TRAINED / name, folder / "run", force=True)


def setup(app) -> None:
    app.connect("builder-inited", make_pages)
    app.connect("source-read", fill_tables)
    app.connect("env-get-outdated", lambda *_: LISTS)  # the chapters it lists may have changed
    app.connect("doctree-read", finish_cells)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", copy_playground)
