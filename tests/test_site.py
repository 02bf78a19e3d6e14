"""The site, built as `make docs` builds it, in a browser that can reach no other host."""

import functools
import http.server
import importlib
import re
import shutil
import subprocess
import sys
import threading
from urllib.error import HTTPError
from urllib.parse import urldefrag
from urllib.request import urlopen

import nbformat
import nbformat.v4 as v4
import pytest
import tinygpt
from conftest import ROOT, need

SOLUTION = "# Solution (click the ••• or this line to open it)"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGPQ7jkCAAJhAXzQ/Z/PAAAAAElFTkSuQmCC"
SLIDER = """<div id="replay"><input type="range" min="0" max="1" value="0" aria-label="merge"><output>frame 0</output>
<script>document.querySelector("#replay input").oninput = event =>
  document.querySelector("#replay output").textContent = "frame " + event.target.value</script></div>"""


def sample():
    """A chapter with everything that a chapter may use, independent of those in nbs/."""

    def code(source, *outputs, **metadata):
        return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)

    def data(mime, value, **metadata):
        return v4.new_output("display_data", {mime: value}, metadata={mime: metadata})

    markdown = v4.new_markdown_cell
    return v4.new_notebook(
        cells=[
            code("#| default_exp tokenizer"),
            markdown("# Sample\n\n> Does a page carry everything?"),
            markdown(
                r"In a line $e^{z_i}$, then" "\n\n" r"$$\frac{QK^\top}{\sqrt{d}}$$" "\n\nand the word zebrafinch."
            ),
            code("#| hide\nhidden_name = 1", v4.new_output("stream", name="stdout", text="hidden output")),
            v4.new_code_cell("#| export\nimport imported_name", id="imports"),
            code("#| export\n#| eval: false\nexported_name = 1"),
            code(
                "picture_name()",
                data("image/png", PNG, alt="A dot"),
                data("image/png", PNG, alt="Another dot"),
                jupyter={"source_hidden": True},
            ),
            code("wide_name", data("text/html", f"<table><tr>{'<td>wide</td>' * 200}</tr></table>")),
            code("slider_name", data("text/html", SLIDER)),
            code(f"{SOLUTION}\nsolution_name", tags=["solution"], jupyter={"source_hidden": True}),
        ]
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The site's sources and the chapters, in a folder of their own, with the sample after the last chapter."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("_build", "chapters", "api"))
    (folder / "nbs").mkdir()
    for path in (ROOT / "nbs").glob("*.ipynb"):
        shutil.copy(path, folder / "nbs")
    nbformat.write(sample(), folder / "nbs" / "99_sample.ipynb")
    return folder


@pytest.fixture(scope="module")
def site(project):
    """The folder of the built site."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    out = project / "docs" / "_build" / "html"
    built = subprocess.run([*command, project / "docs", out], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def address(site):
    """The address of a local server for the site."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need(chromium, "Chromium, to look at the site with")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens a page of the site; fails if the page reports an error or asks another host."""
    pages, wrong = {}, []

    def answer(route):
        if route.request.url.startswith((address, "data:")):
            return route.continue_()
        wrong.append(f"asked for {route.request.url}")
        route.abort()

    def visit(name, scheme="light", width=1280):
        if (scheme, width) not in pages:
            window = {"width": width, "height": 900}
            page = pages[scheme, width] = browser.new_page(color_scheme=scheme, viewport=window)
            page.route("**/*", answer)
            page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(f"{page.url}: {m.text}"))
            page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
        pages[scheme, width].goto(address + name)
        return pages[scheme, width]

    yield visit
    for page in pages.values():
        page.close()
    assert not wrong


def chapters(project):
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted(project.glob("nbs/[0-9][0-9]_*.ipynb"))}


def brightness(page):
    """How bright the page's background is, from 0 to 255."""
    return max(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("light", 1100), ("dark", 390)])
def test_every_page_is_whole(site, visit, scheme, width):
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        page = visit(name, scheme, width)
        assert (brightness(page) > 200) == (scheme == "light"), name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than the window"
        images = page.eval_on_selector_all("img", "images => images.map(i => [i.alt, i.complete && i.naturalWidth])")
        assert all(alt.strip() and drawn for alt, drawn in images), f"{name}: a picture lacks words, or does not show"
        for formula in page.locator(".math").all():
            formula.locator("mjx-container mjx-math").wait_for(state="attached")
            assert not formula.locator("mjx-merror").count(), f"{name}: {formula.inner_text()}"


def test_every_link_answers(site, visit, address):
    links, ids = set(), {}
    for path in site.rglob("*.html"):
        page = visit(path.relative_to(site).as_posix())
        links |= set(page.evaluate("[...document.links].map(link => link.href)"))
        ids[page.url] = set(page.eval_on_selector_all("[id]", "all => all.map(one => one.id)"))
    for link in sorted(link for link in links if link.startswith(address)):
        url, fragment = urldefrag(link)
        try:
            urlopen(url).close()
        except HTTPError as error:
            pytest.fail(f"{url}: {error}")
        assert not fragment or fragment in ids[url], link


def test_a_page_shows_what_its_notebook_lets_it(project, visit):
    for name, notebook in chapters(project).items():
        shown, exported = [], []
        for cell in notebook.cells:
            head = re.match(r"(#\|.*\n?)*", cell.source)[0]
            code = cell.source[len(head) :].removeprefix(f"{SOLUTION}\n").strip()
            if cell.cell_type == "code" and code and not re.search(r"^#\|\s*(hide|default_exp)\b", head, re.M):
                shown.append(code)
                exported += [code] if re.search(r"^#\|\s*exports?\b", head, re.M) else []
        page = visit(f"chapters/{name}.html")
        texts = "cells => cells.map(cell => cell.textContent.trim())"
        assert page.eval_on_selector_all(".cell_input pre", texts) == shown
        assert page.eval_on_selector_all(".exported .cell_input pre", texts) == exported
        assert "#|" not in page.locator("article").inner_text()
    assert "hidden_name" not in page.content() and "hidden output" not in page.content()


def test_the_index_and_the_arrows_lead_through_all_chapters(project, visit):
    questions = {}
    for name, notebook in chapters(project).items():
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        questions[name] = re.search(r"^# .+\n+> (.+)", text, re.M)[1].replace("`", "")
    page = visit("index.html")
    assert page.locator("table td:last-child").all_inner_texts() == list(questions.values())
    for name, question in questions.items():
        page.locator(".next-page").click()
        page.wait_for_url(f"**/chapters/{name}.html")
        assert page.locator("h1 + blockquote").inner_text() == question


def test_folds_open_on_a_click(visit):
    page = visit("chapters/99_sample.html")
    solution = page.get_by_text("solution_name")
    assert not solution.is_visible()
    page.get_by_text("Show the solution").click()
    assert solution.is_visible() and not page.get_by_text("click the •••").count()
    assert page.get_by_alt_text("Another dot").is_visible() and not page.get_by_text("picture_name").is_visible()
    page.get_by_text("Show the code").click()
    assert page.get_by_text("picture_name").is_visible()
    imports = page.get_by_text("imported_name")
    assert not imports.is_visible()
    page.get_by_text("Show the imports").click()
    assert imports.is_visible()


def test_html_in_an_output_is_alive(visit):
    page = visit("chapters/99_sample.html")
    page.get_by_label("merge").press("ArrowRight")
    assert page.locator("#replay output").inner_text() == "frame 1"


def test_the_toggle_turns_light_to_dark(visit):
    page = visit("index.html")
    page.locator(".theme-toggle:visible").click()
    assert brightness(page) < 60


def test_the_playground_writes(visit):
    page = visit("playground.html")
    page.locator(".row:visible").first.wait_for()
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator(".token").nth(20).wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    assert page.locator(".text").inner_text().startswith("<|end|>Once upon a time")


def test_search_finds_a_word(visit):
    page = visit("search.html?q=zebrafinch")
    page.locator("#search-results li a").first.click()
    page.wait_for_url("**/99_sample.html*")


def test_the_api_lists_what_a_module_offers_and_no_more(site, visit):
    for path in site.glob("api/*.html"):
        module = importlib.import_module(f"tinygpt.{path.stem}")
        page = visit(f"api/{path.name}")
        ids = page.eval_on_selector_all("dt.sig", "all => all.map(one => one.id)")
        listed = {name for id in ids if "." not in (name := id.removeprefix(f"{module.__name__}."))}
        assert {name for name in module.__all__ if callable(getattr(module, name))} <= listed <= set(module.__all__)


def test_a_page_lists_what_the_package_offers(visit):
    page = visit("tinygpt.html")
    assert page.locator("table td:first-child").all_inner_texts() == tinygpt.__all__
    assert page.locator("table td:first-child a").count() == len(tinygpt.__all__), "each leads to its own page"
    assert all(about.strip() for about in page.locator("table td:last-child").all_inner_texts())
    assert page.locator("article h2").count() > 5
