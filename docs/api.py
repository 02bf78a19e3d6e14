"""Makes an API page of each module that declares its public names, and the tables of the page `tinygpt`."""

import ast
import re
from functools import cached_property

import tinygpt
from fastcore.docments import docments
from notebooks import DOCS, write
from source import PACKAGE, path_of

API_PAGE = """\
tinygpt.{module}
========{underline}

{origin}`Its source <../source/{module}.html>`__

.. automodule:: tinygpt.{module}
   :members:
   :undoc-members:
"""


def public_modules(chapters: list) -> list[str]:
    """The modules that have an `__all__`: those of the chapters in their order, then those written by hand."""
    lessons = list(dict.fromkeys(chapter.module for chapter in chapters if chapter.module))
    paths = [path for path in PACKAGE.rglob("[!_]*.py") if re.search(r"^__all__ =", path.read_text("utf-8"), re.M)]
    names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths}
    return lessons + sorted(names.difference(lessons))


def make_pages(app) -> None:
    """Write the folder api."""
    origins = {c.module: f"Written in chapter :doc:`/chapters/{c.name}`.\n\n" for c in app.chapters}
    app.modules = public_modules(app.chapters)
    written = set()
    for module in app.modules:
        page = API_PAGE.format(module=module, origin=origins.get(module, ""), underline="=" * len(module))
        written.add(write(DOCS / "api" / f"{module}.rst", page))
    for stale in set(DOCS.glob("api/*")) - written:
        stale.unlink()


def public_groups() -> dict[str, list[str]]:
    """The names in the package's `__all__`, under the comments that group them there."""
    source = (PACKAGE / "__init__.py").read_text("utf-8")
    groups = re.split(r"^ +# (.+)\n", source[source.index("__all__ = [") :], flags=re.M)[1:]
    return {title: re.findall(r'"(\w+)"', names) for title, names in zip(groups[::2], groups[1::2])}


def homes() -> dict[str, str]:
    """For each name that the package imports, its module there."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module for node in imports for name in node.names}


def comment_above(module: str, name: str) -> str:
    """The `#:` comment that documents a constant."""
    source = path_of(module.removeprefix("tinygpt.")).read_text("utf-8")
    found = re.search(rf"^#: (.+)\n{name}\b", source, re.M)
    return found[1] if found else ""


def description(module: str, name: str) -> str:
    """The first line of a docstring, or the comment of a constant."""
    value = getattr(tinygpt, name)
    return value.__doc__.splitlines()[0] if callable(value) else comment_above(module, name)


def fill_tables(app, docname: str, source: list[str]) -> None:
    """Put what the package offers where a page asks for it."""
    if docname == "tinygpt":
        home, lines = homes(), []
        for title, names in public_groups().items():
            lines += [f"## {title}", "", "```{table}", ":class: names", "", "| | |", "|---|---|"]
            for name in names:
                about = description(home[name], name).replace("|", r"\|")
                lines.append(f"| {{py:obj}}`{name} <{home[name]}.{name}>` | {about} |")
            lines += ["```", ""]
        source[0] = source[0].replace("<!-- names -->", "\n".join(lines))
    modules = "\n".join(f"api/{module}" for module in app.modules)
    source[0] = source[0].replace("<!-- modules -->", modules)


def literal(text: str) -> str:
    """Plain text with `code` in it, as reStructuredText."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", part) for part in parts[::2]]
    return "``".join(parts)


def describe_arguments(app, what: str, name: str, obj, options, lines: list[str]) -> None:
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


def skip_fields(app, what: str, name: str, obj, skip: bool, options) -> bool:
    """Leave out the fields of a class, which stand in its signature already."""
    return skip or what == "class" and not (callable(obj) or isinstance(obj, (property, cached_property)))


def setup(app) -> None:
    app.connect("builder-inited", make_pages)
    app.connect("source-read", fill_tables)
    app.connect("env-get-outdated", lambda *_: ["tinygpt"])  # the names it lists may have changed
    app.connect("autodoc-process-docstring", describe_arguments)
    app.connect("autodoc-skip-member", skip_fields)
