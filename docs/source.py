"""Shows the lines of a module that compute an equation, and makes a page of each module's source."""

from collections.abc import Iterator
from pathlib import Path

import tinygpt
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

PACKAGE = Path(tinygpt.__file__).parent


def path_of(module: str) -> Path:
    """The file of a module of the package."""
    return PACKAGE / f"{module.replace('.', '/')}.py"


def find_lines(source: str, beginnings: list[str]) -> list[tuple[int, str]]:
    """The number and the text of the one line that begins with each of these words; ValueError if it is not one."""
    lines, found = [line.strip() for line in source.splitlines()], []
    for words in beginnings:
        numbers = [number for number, line in enumerate(lines, 1) if line.startswith(words)]
        if len(numbers) != 1:
            raise ValueError(f"{len(numbers)} lines begin with {words!r}: give the beginning of exactly one")
        found.append((numbers[0], lines[numbers[0] - 1]))
    return found


class Lines(SphinxDirective):
    """Lines of a module, given by their beginnings, with a link to them in its source."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        [module] = self.arguments
        self.env.note_dependency(str(path_of(module)))
        try:
            found = find_lines(path_of(module).read_text("utf-8"), list(self.content))
        except (OSError, ValueError) as error:
            raise self.error(f"tinygpt.{module}: {error}") from None
        code = "\n".join(text for _, text in found)
        label, uri = f"tinygpt.{module}, line {found[0][0]}", f"source/{module}.html#line-{found[0][0]}"
        link = nodes.paragraph("", "", nodes.reference("", label, internal=True, refuri=uri))
        return [nodes.container("", nodes.literal_block(code, code, language="python"), link, classes=["lines"])]


def source_pages(app) -> Iterator[tuple[str, dict, str]]:
    """A page with the numbered lines of each module that has an API page."""
    for module in app.modules:
        source = path_of(module).read_text("utf-8")
        code = app.builder.highlighter.highlight_block(source, "python", linespans="line", linenos="inline")
        title = f"tinygpt.{module}"
        body = f'<h1>The source of {title}</h1><p><a href="../api/{module}.html">Its page</a></p>{code}'
        yield f"source/{module}", {"title": title, "body": body}, "page.html"


def setup(app) -> None:
    app.add_directive("lines", Lines)
    app.connect("html-collect-pages", source_pages)
