"""Makes a page of each chapter's notebook and an API page of each module, before Sphinx reads its sources."""

import re
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import nbformat
from docutils import nodes
from fastcore.docments import docments
from sphinx.util.fileutil import copy_asset

DOCS = Path(__file__).parent
API_PAGE = """\
tinygpt.{module}
========{underline}

{origin}.. automodule:: tinygpt.{module}
   :members:
   :undoc-members:
"""
BY_HAND = ["checkpoints"]  # modules that no chapter makes, and that readers call


@dataclass
class Chapter:
    """What the index and the API need to know of one notebook."""

    name: str  # 01_tokenizer
    title: str  # Tokenizer
    question: str  # How does text become numbers?
    module: str  # tokenizer, or "" where the notebook exports nothing
    notebook: dict

    @property
    def number(self) -> int:
        return int(self.name[:2])


def read_chapter(path: Path) -> Chapter:
    """Read a notebook and, from its title cell and its `default_exp`, what it is about."""
    notebook = nbformat.read(path, as_version=4)
    title = next((found for cell in notebook.cells if (found := re.match(r"# (.+)\n+> (.+)", cell.source))), None)
    if not title:
        raise ValueError(f"{path.name} needs a cell that begins with '# Title' and, below it, '> Its question?'")
    module = re.search(r"^#\|\s*default_exp (\w+)", "\n".join(cell.source for cell in notebook.cells), re.M)
    return Chapter(path.stem, title[1], title[2], module[1] if module else "", notebook)


def split_directives(source: str) -> tuple[set[str], str]:
    """The names of the nbdev directives at the head of a code cell, and the code below them."""
    head = re.match(r"(#\|.*(\n|$))*", source)[0]
    return {line[2:].split()[0] for line in head.splitlines()}, source[len(head) :].lstrip("\n")


def show_cell(cell: dict, chapter: Chapter) -> bool:
    """Change a cell into what the site shows of it; False where that is nothing."""
    if cell.cell_type != "code":
        cell.source = re.sub(rf"\A# (?={re.escape(chapter.title)}\n)", f"# {chapter.number}. ", cell.source)
        return True
    names, cell.source = split_directives(cell.source)
    if names & {"hide", "default_exp"} or not (cell.source or cell.outputs):
        return False
    meta, tags = cell.metadata, cell.metadata.get("tags", [])
    if "solution" in tags:
        fold, what = "hide-cell", "the solution"
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


def write_api(module: str, origin: str = "") -> Path:
    """Write the page of one module."""
    page = API_PAGE.format(module=module, origin=origin, underline="=" * len(module))
    return write(DOCS / "api" / f"{module}.rst", page)


def make_pages(app) -> None:
    """Write the folders chapters and api."""
    app.chapters = [read_chapter(path) for path in sorted((DOCS.parent / "nbs").glob("[0-9][0-9]_*.ipynb"))]
    written = set()
    for chapter in app.chapters:
        chapter.notebook.metadata = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
        chapter.notebook.cells = [cell for cell in chapter.notebook.cells if show_cell(cell, chapter)]
        written.add(write(DOCS / "chapters" / f"{chapter.name}.ipynb", nbformat.writes(chapter.notebook)))
        if chapter.module:
            written.add(write_api(chapter.module, f"Written in chapter :doc:`/chapters/{chapter.name}`.\n\n"))
    written |= {write_api(module) for module in BY_HAND}
    for stale in {*DOCS.glob("chapters/*"), *DOCS.glob("api/*")} - written:
        stale.unlink()


def fill_index(app, docname: str, source: list[str]) -> None:
    """Put the chapter table and the contents where the index asks for them."""
    if docname != "index":
        return
    rows = [f"| {c.number} | [{c.title}](chapters/{c.name}.ipynb) | {c.question} |" for c in app.chapters]
    names = [chapter.module for chapter in app.chapters if chapter.module] + BY_HAND
    modules = [f"- [`tinygpt.{name}`](api/{name}.rst)" for name in names]
    source[0] = source[0].replace("<!-- chapters -->", "\n".join(rows)).replace("<!-- modules -->", "\n".join(modules))


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


def literal(text: str) -> str:
    """Plain text with `code` in it, as Sphinx wants it."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", part) for part in parts[::2]]
    return "``".join(parts)


def tell_arguments(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Add to a docstring the comments that stand beside the arguments."""
    lines[:] = map(literal, lines)
    if what in ("function", "method", "class"):
        lines += [
            "",
            *(
                f":{'returns' if key == 'return' else 'param ' + key}: {literal(comment)}"
                for key, comment in docments(obj).items()
                if comment
            ),
        ]


def copy_mathjax(app, error: Exception | None) -> None:
    """Copy the one script and the fonts that our pages ask for, a twelfth of what the package holds."""
    mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
    for part in ("tex-chtml-full.js", "output/chtml/fonts/woff-v2"):
        target = Path(app.outdir, "_static/mathjax", part)
        copy_asset(mathjax / part, target if (mathjax / part).is_dir() else target.parent)


def skip_values(app, what: str, name: str, obj, skip: bool, options) -> bool:
    """List what can be called, and properties; the fields of a class stand in its signature already."""
    return skip or not (callable(obj) or isinstance(obj, (property, cached_property)))


def setup(app) -> None:
    app.connect("builder-inited", make_pages)
    app.connect("source-read", fill_index)
    app.connect("env-get-outdated", lambda *_: ["index"])  # what it lists may have changed, though it has not
    app.connect("doctree-read", finish_cells)
    app.connect("autodoc-process-docstring", tell_arguments)
    app.connect("autodoc-skip-member", skip_values)
    app.connect("build-finished", copy_mathjax)
