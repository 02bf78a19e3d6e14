"""The site, built as `make docs` builds it, in a browser that can reach no other host."""

import functools
import http.server
import importlib
import re
import runpy
import shutil
import subprocess
import sys
import threading
from html import unescape
from urllib.parse import unquote, urldefrag

import nbformat
import nbformat.v4 as v4
import pytest
import tinygpt
from bs4 import BeautifulSoup
from conftest import ROOT, need

SOLUTION = "# Solution (click the ••• or this line to open it)"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGPQ7jkCAAJhAXzQ/Z/PAAAAAElFTkSuQmCC"
SLIDER = """<div id="replay"><input type="range" min="0" max="1" value="0" aria-label="merge"><output>frame 0</output>
<script>document.querySelector("#replay input").oninput = event =>
  document.querySelector("#replay output").textContent = "frame " + event.target.value</script></div>"""

FAINT = """() => {
  const parts = color => {
    const numbers = color.match(/-?[\\d.]+/g).map(Number);
    const rgb = numbers.slice(0, 3).map(x => color.startsWith("color(srgb") ? 255 * x : x);
    return [rgb, numbers[3] ?? 1];
  };
  const over = ([top, alpha], below) => below.map((x, i) => alpha * top[i] + (1 - alpha) * x);
  const brightness = rgb => {
    const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const grounds = new Map([[null, [255, 255, 255]]]);
  const ground = element => {
    if (!grounds.has(element)) {
      grounds.set(element, over(parts(getComputedStyle(element).backgroundColor), ground(element.parentElement)));
    }
    return grounds.get(element);
  };
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
    const shown = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!words || !shown || element.closest("script, style, :disabled")) continue;
    const style = getComputedStyle(element), below = ground(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [brightness(over(parts(color), below)), brightness(below)];
    const contrast = Math.max(a, b) / Math.min(a, b);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${element.tagName} ${element.className}: ${words.slice(0, 40)}`);
  }
  return [...new Set(faint)];
}"""


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
            markdown("Introduction.\n\n*About 7 minutes to read; the cells run in about 9 seconds.*"),
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
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("*.txt"))
    (folder / "nbs").mkdir()
    for path in (ROOT / "nbs").glob("*.ipynb"):
        shutil.copy(path, folder / "nbs")
    nbformat.write(sample(), folder / "nbs" / "99_sample.ipynb")
    return folder


def build(project):
    """Build the site as `make docs` does; returns its folder."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    out = project / "docs" / "_build" / "html"
    built = subprocess.run([*command, project / "docs", out], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


@pytest.fixture(scope="module")
def site(project):
    """The folder of the built site."""
    return build(project)


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


@functools.cache
def read(site, name):
    """A page of the site as it was built, before any script runs."""
    return BeautifulSoup((site / name).read_text(encoding="utf-8"), "html.parser")


def texts(page, selector):
    """What these elements of a page say."""
    return [one.get_text().strip() for one in page.select(selector)]


def brightness(page):
    """How bright the page's background is, from 0 to 255."""
    return max(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))


def pages_to_look_at(site):
    """All pages, but of those that list modules and their source, which are all made alike, the five longest each."""
    pages = set(site.rglob("*.html"))
    for folder in "api", "source":
        alike = sorted((site / folder).rglob("*.html"), key=lambda path: path.stat().st_size)
        pages -= {*alike[:-5]}
    return sorted(pages)


def test_every_page_is_whole(site, visit):
    for path in pages_to_look_at(site):
        name = path.relative_to(site).as_posix()
        page = visit(name)
        page.wait_for_function("[...document.querySelectorAll('.math')].every(one => one.querySelector('mjx-math'))")
        assert not page.locator("mjx-merror").count(), name
        images = page.eval_on_selector_all("img", "images => images.map(i => [i.alt, i.complete && i.naturalWidth])")
        assert all(alt.strip() and drawn for alt, drawn in images), f"{name}: a picture lacks words, or does not show"
        for scheme in "light", "dark":
            page.emulate_media(color_scheme=scheme)
            page.evaluate("document.getAnimations().forEach(one => one.finish())")
            assert (brightness(page) > 200) == (scheme == "light"), name
            assert not (faint := page.evaluate(FAINT)), f"{name}, {scheme}: a contrast of less than 4.5: {faint}"
        for width in 1100, 390, 1280:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width}"
        page.emulate_media(color_scheme="light")


def test_a_faint_text_would_be_found(visit):
    page = visit("index.html")
    page.evaluate("document.querySelector('article p').style.color = '#888'")
    assert len(page.evaluate(FAINT)) == 1


def test_every_link_leads_somewhere(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    links = {(path, link) for path, text in pages.items() for link in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', text)}
    inner = [(path, *urldefrag(unescape(link))) for path, link in links if not re.match(r"\w+:", link)]
    assert len(inner) > 1000
    for path, name, fragment in inner:
        target = (path.parent / unquote(name)).resolve() if name else path
        assert target.is_file(), f"{path}: {name}"
        assert not fragment or f'id="{fragment}"' in pages[target], f"{path}: {name}#{fragment}"


def test_a_page_shows_what_its_notebook_lets_it(project, site):
    for name, notebook in chapters(project).items():
        shown, exported = [], []
        for cell in notebook.cells:
            head = re.match(r"(#\|.*\n?)*", cell.source)[0]
            code = cell.source[len(head) :].removeprefix(f"{SOLUTION}\n").strip()
            if cell.cell_type == "code" and code and not re.search(r"^#\|\s*(hide|default_exp)\b", head, re.M):
                shown.append(code)
                exported += [code] if re.search(r"^#\|\s*exports?\b", head, re.M) else []
        page = read(site, f"chapters/{name}.html")
        assert texts(page, ".cell_input pre") == shown
        assert texts(page, ".exported .cell_input pre") == exported
        assert not [code for code in texts(page, "pre") if "#|" in code]
    assert "hidden_name" not in str(page) and "hidden output" not in str(page)


def test_the_index_and_the_arrows_lead_through_all_chapters(project, site):
    page, rows = read(site, "index.html"), []
    for name, notebook in chapters(project).items():
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        title, question = re.search(r"^# (.+)\n+> (.+)", text, re.M).groups()
        rows.append([title, question.replace("`", ""), re.search(r"\*About (\d+) minutes", text)[1]])
        [arrow], before = page.select(".next-page"), page
        assert arrow["href"].endswith(f"{name}.html")
        page = read(site, f"chapters/{name}.html")
        [heading] = texts(page, "h1")
        assert heading.startswith(f"{int(name[:2])}. {title}") and texts(page, "h1 + blockquote") == [rows[-1][1]]
        assert texts(before, ".next-page .title") == [f"{int(name[:2])}. {title}"]
        assert len(rows) == 1 or heading_before.startswith(*texts(page, ".prev-page .title"))
        heading_before = heading
    cells = texts(read(site, "index.html"), "table td")
    assert [cells[i + 1 : i + 4] for i in range(0, len(cells), 4)] == rows


def test_a_chapter_says_how_long_it_takes_and_how_to_run_it(project, visit):
    page = visit("chapters/99_sample.html")
    way_in = page.locator("h1 + blockquote + p")
    assert way_in.inner_text().startswith("About 7 minutes to read; the cells run in about 9 seconds.")
    assert "make lab" in way_in.inner_text() and page.get_by_text("About 7 minutes").count() == 1
    with page.expect_download() as download:
        way_in.get_by_role("link", name="download the notebook").click()
    assert download.value.suggested_filename == "99_sample.ipynb"
    assert download.value.path().read_bytes() == (project / "nbs" / "99_sample.ipynb").read_bytes()


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


def test_the_explorer_on_the_first_page_is_alive(visit):
    page = visit("index.html")
    explorer = page.locator(".tg-explorer")
    assert "'yellow' attends to: 'wheelbarrow'" in explorer.locator(".statement").inner_text()
    explorer.get_by_text("glassblower", exact=True).hover()
    explorer.get_by_text("'glassblower' attends to:").wait_for()


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
    found = page.locator("#search-results li")
    found.first.wait_for()
    assert found.locator("a").all_inner_texts() == ["99. Sample"]
    found.locator("a").first.click()
    page.wait_for_url("**/99_sample.html*")


def test_the_api_lists_what_a_module_offers_and_no_more(site):
    for path in site.glob("api/*.html"):
        module = importlib.import_module(f"tinygpt.{path.stem}")
        ids = [one.get("id", "") for one in read(site, f"api/{path.name}").select("dt.sig")]
        listed = {name for id in ids if "." not in (name := id.removeprefix(f"{module.__name__}."))}
        assert {name for name in module.__all__ if callable(getattr(module, name))} <= listed <= set(module.__all__)


def test_a_page_lists_what_the_package_offers(site):
    page = read(site, "tinygpt.html")
    assert texts(page, "table td:first-child") == tinygpt.__all__
    assert len(page.select("table td:first-child a")) == len(tinygpt.__all__), "each leads to its own page"
    assert all(texts(page, "table td:last-child")) and len(page.select("article h2")) > 5


def test_a_copy_button_has_a_name_and_shows_when_it_has_the_focus(visit):
    page = visit("chapters/99_sample.html")
    button = page.get_by_role("button", name="Copy").first
    button.wait_for(state="attached")
    button.focus()
    page.keyboard.press("Shift+Tab")
    page.wait_for_function("button => getComputedStyle(button).opacity == 0", arg=button.element_handle())
    page.keyboard.press("Tab")
    page.wait_for_function("button => getComputedStyle(button).opacity == 1", arg=button.element_handle())


def test_each_equation_leads_to_the_lines_that_compute_it(site):
    blocks = read(site, "theory.html").select("div.lines")
    assert len(blocks) > 15
    for block in blocks:
        name, line = urldefrag(block.a["href"])
        [found] = texts(read(site, name), f"#{line}")
        assert re.sub(r"^\d+ *", "", found).strip() == block.pre.get_text().splitlines()[0]


def test_a_line_that_is_gone_or_not_alone_stops_the_build():
    find = runpy.run_path(ROOT / "docs" / "source.py")["find_lines"]
    assert find("a = 1\n  b = 2  # two\n", ["b ="]) == [(2, "b = 2  # two")]
    for words in "c =", "a":
        with pytest.raises(ValueError, match=f"lines begin with '{words}'"):
            find("a = 1\na = 2\n", [words])


def test_no_text_speaks_of_shades_that_dark_mode_turns_round(site):
    for path in site.rglob("*.html"):
        words = re.search(r"<article.*</article>", path.read_text(encoding="utf-8"), re.S)
        assert not words or not re.search(r"\b(pale|paler|darker|lighter|brighter)\b", words[0]), path


def test_another_build_shows_an_edit(project, site, visit):
    path = project / "nbs" / "99_sample.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].source += "\n\nAnd the word hoopoe."
    nbformat.write(notebook, path)
    build(project)
    assert visit("chapters/99_sample.html").get_by_text("And the word hoopoe.").is_visible()
    with visit("chapters/99_sample.html").expect_download() as download:
        visit("chapters/99_sample.html").get_by_role("link", name="download the notebook").click()
    assert b"hoopoe" in download.value.path().read_bytes()
