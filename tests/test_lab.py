"""make and nbs/learn.py in a fresh clone of the course."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, copy_project, need

spec = importlib.util.spec_from_file_location("learn", ROOT / "nbs" / "learn.py")
learn = importlib.util.module_from_spec(spec)
spec.loader.exec_module(learn)

# The Python of a .venv in these trials: it notes how it is called, does what PIP says in place of pip, what UV says in
# place of uv, finds PyTorch unless TORCH is missing, and is real else
FAKE_PYTHON = f"""#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
"-c import importlib.util"*) [ "$TORCH" = missing ] ;;
"-m uv"*) [ "$UV" = works ] ;;
"-m venv"*) mkdir -p .venv/bin && rm -rf .venv/* && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip"*) [ "$PIP" = offline ] || echo "Installing collected packages: a"; [ "$PIP" = works ] ;;
"-m sphinx"* | "-m pytest"*) ;;
*) exec "{sys.executable}" "$@" ;;
esac
"""


def notebook(*sources, output="1", count=None, **metadata):
    """A notebook file with these code cells."""
    cells = [
        {
            "cell_type": "code",
            "id": f"c{n}",
            "metadata": metadata,
            "execution_count": count,
            "source": source,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": output}],
        }
        for n, source in enumerate(sources)
    ]
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def chapters(tmp_path):
    """A folder with two chapters, whose copies are made once."""
    folder = tmp_path / "nbs"
    folder.mkdir()
    for name in "01_a.ipynb", "02_b.ipynb":
        (folder / name).write_text(notebook("1", "2"))
    assert learn.copy(folder, tmp_path / "learn") == ["copied 01_a.ipynb, 02_b.ipynb"]
    return folder


@pytest.fixture
def own(chapters):
    """The learner's copy of the first chapter."""
    return chapters.parent / "learn" / chapters.joinpath("01_a.ipynb").name


def again(chapters, **changed):
    """The messages of another call after the course has changed these chapters (a, b)."""
    for letter, text in changed.items():
        chapters.joinpath({"a": "01_a.ipynb", "b": "02_b.ipynb"}[letter]).write_text(text)
    return learn.copy(chapters, chapters.parent / "learn")


KEPT = ["kept your 01_a.ipynb, which differs from the present chapter: rename it to get the new one"]


def test_a_second_copy_does_nothing(chapters, own):
    own.write_text(notebook("1", "2", output="mine", count=7))
    assert again(chapters) == [] and "mine" in own.read_text()


def test_new_and_untouched_chapters_are_brought_up_to_date(chapters, own):
    (chapters / "03_c.ipynb").write_text(notebook("3"))
    assert again(chapters, a=notebook("1", "new")) == ["copied 01_a.ipynb, 03_c.ipynb"]
    assert own.read_text() == notebook("1", "new") and (own.parent / "03_c.ipynb").exists()


def test_a_chapter_with_new_outputs_only_is_brought_up_to_date(chapters, own):
    assert again(chapters, a=notebook("1", "2", output="new")) == ["copied 01_a.ipynb"]


@pytest.mark.parametrize(
    "run",
    [
        notebook("1", "2", output="mine", count=3),
        notebook("1", "2", scrolled=True),
        notebook("1", "2", ""),
        notebook(["1"], ["2"]),
    ],
)
def test_running_a_chapter_is_not_editing_it(chapters, own, run):
    own.write_text(run)
    assert again(chapters, a=notebook("1", "new")) == ["copied 01_a.ipynb"]
    assert own.read_text() == notebook("1", "new")


@pytest.mark.parametrize("edited", [notebook("1", "mine"), notebook("1"), notebook("2", "1"), notebook("1", "2", "3")])
def test_an_edited_chapter_is_never_overwritten(chapters, own, edited):
    own.write_text(edited)
    assert again(chapters) == []
    assert again(chapters, a=notebook("1", "new")) == KEPT == again(chapters)
    assert own.read_text() == edited
    own.rename(own.with_name("my a.ipynb"))
    assert again(chapters) == ["copied 01_a.ipynb"] and again(chapters) == []


def test_an_edit_that_the_course_makes_too_is_no_longer_one(chapters, own):
    own.write_text(notebook("1", "new", output="mine"))
    again(chapters, a=notebook("1", "new"))
    assert again(chapters, a=notebook("1", "newer")) == ["copied 01_a.ipynb"]


@pytest.mark.parametrize("broken", ["", "{", notebook("1", "2")[:90], "[]", '{"cells": 1}', '{"cells": [{}]}', "\x00"])
def test_a_damaged_copy_is_kept(chapters, own, broken):
    own.write_text(broken)
    said = ["kept your 01_a.ipynb, which cannot be read as a notebook: rename it to get the chapter again"]
    assert again(chapters) == said == again(chapters, a=notebook("new"))
    assert own.read_text() == broken


def test_a_deleted_copy_comes_back(chapters, own):
    own.unlink()
    assert again(chapters) == ["copied 01_a.ipynb"] and own.exists()


@pytest.mark.parametrize("memory", [None, "", "[]", "{", '{"01_a.ipynb": 3}', '{"01_a.ipynb": ["x"]}', "\x00"])
def test_without_its_memory_every_difference_is_an_edit(chapters, own, memory):
    remembered = own.with_name(".copied.json")
    remembered.write_text(memory) if memory is not None else remembered.unlink()
    assert again(chapters, b=notebook("new")) == [KEPT[0].replace("01_a", "02_b")]
    assert again(chapters, a=notebook("new")) == ["copied 01_a.ipynb", KEPT[0].replace("01_a", "02_b")]


def test_a_chapter_that_the_course_drops(chapters, own):
    own.write_text(notebook("mine"))
    for path in chapters.iterdir():
        path.rename(path.with_name("new_" + path.name))
    assert sorted(again(chapters)) == [
        "copied new_01_a.ipynb, new_02_b.ipynb",
        "kept your 01_a.ipynb, which the course no longer has",
        "removed 02_b.ipynb, which the course no longer has",
    ]
    assert again(chapters) == [] and own.read_text() == notebook("mine")


def test_other_files_of_the_learner_stay(chapters, own):
    for name in "notes.ipynb", "03_c.ipynb", "data.txt":
        own.with_name(name).write_text("mine")
    (chapters / "03_c.ipynb").write_text(notebook("3"))
    again(chapters)
    assert all(own.with_name(name).read_text() == "mine" for name in ("notes.ipynb", "03_c.ipynb", "data.txt"))


def test_an_interrupted_copy_leaves_the_old_one(chapters, own, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        again(chapters, a=notebook("1", "new"))
    assert own.read_text() == notebook("1", "2")
    monkeypatch.undo()
    assert again(chapters) == ["copied 01_a.ipynb"]


def test_copies_are_trusted_and_the_first_is_named(tmp_path):
    from nbformat import read
    from nbformat.sign import NotebookNotary

    data = tmp_path / "jupyter"
    done = subprocess.run(
        [sys.executable, ROOT / "nbs" / "learn.py", tmp_path / "my learn"],
        text=True,
        timeout=120,
        capture_output=True,
        env=os.environ | {"JUPYTER_DATA_DIR": str(data)},
    )
    first = Path(done.stdout.strip())
    assert done.returncode == 0 and done.stderr.startswith("copied ") and first.parent == tmp_path / "my learn"
    with NotebookNotary(data_dir=str(data)) as notary:
        assert all(notary.check_signature(read(path, 4)) for path in first.parent.glob("*.ipynb"))


def clean_environment(tmp_path, **more):
    """The environment without settings of pip, Jupyter or an outer make, and with a home of its own."""
    (tmp_path / "home").mkdir(exist_ok=True)
    ours = re.compile(r"(MAKE|MFLAGS|GNUMAKE|PIP_|JUPYTER|IPYTHON|XDG_|VIRTUAL_ENV)|(ARGS|LEARN|PYTHON)$")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return kept | {"HOME": str(tmp_path / "home"), "CALLS": str(tmp_path / "calls")} | more


@pytest.fixture
def make(tmp_path):
    """Runs make in a copy of the project; returns the exit status and what was printed."""
    need(shutil.which("make"), "make")
    project = copy_project(tmp_path / "a copy")

    def call(*words, **more):
        done = subprocess.run(
            ["make", *words],
            cwd=project,
            text=True,
            encoding="utf-8",
            timeout=300,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(tmp_path, **more),
        )
        return done.returncode, done.stdout

    call.project = project
    return call


@pytest.fixture
def calls(tmp_path):
    """The calls of the fake Python since the last call of this."""

    def since():
        path = tmp_path / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith("-c")]

    return since


def script(path, text):
    """An executable file."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def pretending(tmp_path, first):
    """A PATH whose python3 runs `first` before what it is given."""
    script(tmp_path / "bin" / "python3", f"""#!/bin/sh\nexec "{sys.executable}" -c "{first}; exec('''$2''')"\n""")
    return f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"


def one_sentence(result):
    """The only line of output that is not make's own."""
    status, printed = result
    lines = [line for line in printed.splitlines() if not re.match(r"g?make(\[\d+\])?: ", line)]
    assert status != 0 and len(lines) == 1 and "Traceback" not in printed, printed
    return lines[0]


def test_no_python(make):
    assert "install Python 3.11 or newer" in one_sentence(make("lab", "PYTHON=no-such-python"))


def test_an_old_python(make, tmp_path):
    path = pretending(tmp_path, "import sys; sys.version_info = (3, 10, 13)")
    assert "needs Python 3.11 or newer, and python3 is 3.10" in one_sentence(make("lab", PATH=path))


def test_no_venv_module(make, tmp_path):
    path = pretending(tmp_path, "import sys; sys.modules['ensurepip'] = None")
    assert f"apt install python3.{sys.version_info[1]}-venv" in one_sentence(make("test", PATH=path))


def test_no_network(make):
    status, printed = make(
        "lab",
        f"PYTHON={sys.executable}",
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="0",
        PIP_INDEX_URL="http://127.0.0.1:9/",
        PIP_NO_CACHE_DIR="1",
    )
    said = [line for line in printed.splitlines() if ".venv/pip.log" in line]
    assert status != 0 and len(said) == 1 and "Traceback" not in printed
    assert "ERROR: " in (make.project / ".venv" / "pip.log").read_text()


def test_setup_is_done_once_and_again_when_settings_change(make, calls, tmp_path):
    python = "PYTHON=" + script(tmp_path / "bin" / "python", FAKE_PYTHON)
    pip = "-m pip install -c constraints.txt -e .[dev]"
    sphinx = "-m sphinx -W --keep-going -q -b html docs docs/_build/html"
    status, printed = make("docs", python, PIP="works")
    assert status == 0 and "docs/_build/html/index.html" in printed, printed
    assert calls() == ["-m venv --clear .venv", pip, sphinx]
    assert make("docs", python, PIP="works")[0] == 0 and calls() == [sphinx]
    for name in "settings.ini", "setup.py", "constraints.txt":
        later = time.time() + 60
        os.utime(make.project / name, (later, later))
        assert make("docs", python, PIP="works")[0] == 0 and calls() == [pip, sphinx]
        os.utime(make.project / name, (0, 0))
    assert make("test", python, "ARGS=-k tokenizer", PIP="works")[0] == 0
    assert re.fullmatch(r"-m pytest .*--nbval .* nbs tests -k tokenizer", *calls())
    moved = make.project.rename(tmp_path / "moved")
    make.project.mkdir()
    shutil.copytree(moved, make.project, dirs_exist_ok=True)
    assert make("docs", python, PIP="works")[0] == 0 and calls() == [sphinx]
    shutil.rmtree(make.project / ".venv" / "bin")
    assert make("docs", python, PIP="works")[0] == 0 and calls() == ["-m venv --clear .venv", pip, sphinx]


def test_a_setup_that_breaks_off_is_mended_and_a_refused_one_changes_nothing(make, calls, tmp_path):
    python = "PYTHON=" + script(tmp_path / "bin" / "python", FAKE_PYTHON)
    assert make("docs", python, PIP="offline")[0] != 0 and len(calls()) == 2
    assert make("docs", python, PIP="offline")[0] != 0 and len(calls()) == 1, "nothing was begun: .venv stays"
    assert make("docs", python, PIP="breaks")[0] != 0 and len(calls()) == 1
    assert make("docs", python, PIP="works")[0] == 0 and calls()[0] == "-m venv --clear .venv"
    assert make("docs", python, PIP="works")[0] == 0 and len(calls()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pip's own PyTorch is small")
def test_pytorch_is_chosen_for_the_machine_and_else_by_pip(make, calls, tmp_path):
    python = "PYTHON=" + script(tmp_path / "bin" / "python", FAKE_PYTHON)
    uv = "-m uv pip install --python .venv/bin/python --torch-backend=auto -c constraints.txt torch"
    expected = ["-m pip install -q --retries 0 uv", uv, "-m pip install -c constraints.txt -e .[dev]"]
    for works, said in ("no", "pip chooses one"), ("works", "PyTorch for this machine"):
        status, printed = make("docs", python, PIP="works", TORCH="missing", UV=works)
        assert status == 0 and said in printed and calls()[1:4] == expected
        assert not (make.project / ".venv" / "unfinished").exists()
        shutil.rmtree(make.project / ".venv")
    assert make("docs", python, PIP="works")[0] == 0 and not [call for call in calls() if " uv" in call]


def test_chapters_are_cleaned_and_exported_and_the_site_is_built(make, calls, tmp_path):
    python = "PYTHON=" + script(tmp_path / "bin" / "python", FAKE_PYTHON)
    assert make("docs", python, PIP="works")[0] == 0 and calls()
    for name in "nbdev_clean", "nbdev_export":
        script(make.project / ".venv" / "bin" / name, "")
    status, printed = make("chapters", python, PIP="works")
    assert status == 0 and "docs/_build/html/index.html" in printed, printed
    assert [line.split(" -W")[0] for line in calls()] == [".venv/bin/nbdev_clean", ".venv/bin/nbdev_export", "-m sphinx"]


def test_a_handout_is_written_and_git_ignores_it(make, tmp_path):
    python = "PYTHON=" + script(tmp_path / "bin" / "python", FAKE_PYTHON)
    subprocess.run(["git", "init", "-q"], cwd=make.project, check=True)
    status, printed = make("handout", python, PIP="works")
    assert status == 0 and "handout: " in printed, printed
    assert len(list(make.project.glob("handout/*.ipynb"))) == len(list(make.project.glob("nbs/*.ipynb")))
    command = ["git", "status", "--porcelain", "handout"]
    assert not subprocess.run(command, cwd=make.project, capture_output=True, check=True).stdout
    assert make("clean")[0] == 0 and (make.project / "handout").exists(), "a class may have written in it"


def test_help_and_clean(make):
    status, printed = make()
    words = "lab", "test", "walk", "docs", "chapters", "handout", "clean"
    assert status == 0 and all(f"make {word} " in printed for word in words)
    mine, made = make.project / "learn" / "__pycache__" / "mine.ipynb", make.project / "docs" / "_build" / "index.html"
    for path in mine, made:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    before = {path for path in make.project.rglob("*")} - {made, made.parent}
    assert make("clean")[0] == 0
    assert {path for path in make.project.rglob("*")} == before


@contextmanager
def lab(tmp_path, command, folder, log, **more):
    """A browser page and the address of a JupyterLab that this command starts, on a free port."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    need(chromium, "Chromium")
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as out:
        server = subprocess.Popen(
            command(f"--no-browser --port={port} --ServerApp.port_retries=0"),
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=clean_environment(tmp_path, **more),
        )
    try:
        until = time.time() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/lab\S+", log.read_text())):
            assert time.time() < until and server.poll() is None, log.read_text()
            time.sleep(0.2)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            yield browser.new_page(viewport={"width": 1280, "height": 900}), found[0]
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # it may wait for a kernel that is just starting
            os.killpg(server.pid, signal.SIGKILL)


def test_lab_shows_the_first_chapter(make, tmp_path):
    """End to end: make lab in a fresh copy, and the learner's copy of the first chapter in a browser."""
    from playwright.sync_api import expect

    python = script(tmp_path / "bin" / "python", FAKE_PYTHON)
    first = min((make.project / "nbs").glob("*.ipynb"))
    cells = json.loads(first.read_text(encoding="utf-8"))["cells"]
    title = re.search(r"^# (.+)$", "".join(next(c["source"] for c in cells if c["cell_type"] == "markdown")), re.M)[1]

    def command(words):
        return ["make", "lab", f"PYTHON={python}", f"ARGS={words}"]

    with lab(tmp_path, command, make.project, tmp_path / "lab.log", PIP="works") as (page, address):
        assert f"/lab/tree/{first.name}" in address
        page.goto(address)
        expect(page.locator(".jp-Notebook h1").first).to_contain_text(title, timeout=120_000)
        expect(page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')).to_be_visible(timeout=120_000)
        page.screenshot(path=tmp_path / "lab.png")
        assert (make.project / "learn" / first.name).read_bytes() == first.read_bytes()


SOLUTION = "# Solution (click the ••• or this line to open it)"


def test_sliders_and_solutions_in_lab(tmp_path):
    """Arrow keys move a slider, an untrusted one shows a hint, and a folded solution says how to open it."""
    import nbformat.v4 as v4
    from nbformat import write
    from playwright.sync_api import expect
    from tinygpt.show.pictures import Picture, slider

    frames = [Picture(f"<p>picture {i}</p>", f"picture {i}") for i in range(3)]
    picture = slider(frames, ["one", "two", "three"], "step")
    shown = v4.new_output("display_data", {"text/html": picture.html})
    fold = {"jupyter": {"source_hidden": True}, "tags": ["solution"]}
    cells = [
        v4.new_code_cell("slider()", outputs=[shown]),
        v4.new_code_cell(f"{SOLUTION}\nanswer = 42", metadata=fold),
        v4.new_code_cell("the_last_cell"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    work, data = tmp_path / "work", tmp_path / "data"
    work.mkdir()
    for name in "trusted", "untrusted":
        write(v4.new_notebook(cells=[v4.new_markdown_cell(name), *cells], metadata=kernel), work / f"{name}.ipynb")
    environment = clean_environment(tmp_path, JUPYTER_DATA_DIR=str(data))
    subprocess.run(
        [sys.executable, "-m", "nbformat.sign", "trusted.ipynb"], cwd=work, env=environment, check=True, timeout=120
    )

    def command(words):
        root = [] if os.getuid() else ["--allow-root"]
        return [sys.executable, "-m", "jupyterlab", *words.split(), *root]

    with lab(tmp_path, command, work, tmp_path / "lab.log", JUPYTER_DATA_DIR=str(data)) as (page, address):
        idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        page.goto(address.replace("/lab?", "/lab/tree/trusted.ipynb?reset&", 1))
        bar, label, hint = page.locator("input[type=range]"), page.locator("output"), page.get_by_text("run this cell")
        expect(idle).to_be_visible(timeout=120_000)
        expect(bar).to_be_enabled()
        expect(hint).to_be_hidden()
        bar.focus()
        for word in "two", "three":
            page.keyboard.press("ArrowRight")
            expect(label).to_have_text(word)
        page.keyboard.press("ArrowDown")
        expect(label).to_have_text("two")
        expect(bar).to_be_focused()
        expect(page.get_by_text("picture 1")).to_be_visible()
        page.screenshot(path=tmp_path / "trusted.png")
        expect(page.get_by_text("answer = 42")).to_be_hidden()
        page.get_by_text("# Solution (click").click()
        expect(page.get_by_text("answer = 42")).to_be_visible()
        page.goto(address.replace("/lab?", "/lab/tree/untrusted.ipynb?reset&", 1))
        expect(idle).to_be_visible(timeout=120_000)
        expect(bar).to_be_disabled()
        expect(hint).to_be_visible()
        page.screenshot(path=tmp_path / "untrusted.png")
