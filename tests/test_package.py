"""The notebooks, the exported modules and the installed package agree, and the package keeps its shape."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import tinygpt
from conftest import ROOT, copy_project, need

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
NOT_RUNTIME = re.compile(
    r"nbdev|jupyter(lab)?|jupyter_server|notebook|ipykernel|pytest|nbval|hypothesis|transformers|tokenizers|sphinx"
)


# What a user may call, module by module: a name that appears or goes is a decision
PUBLIC = {
    "attention": "causal_mask repeat_kv attention_weights Attention",
    "baseline": "cross_entropy evaluate perplexity count_pairs bigram ngram bits_per_byte Bigram fit sample",
    "block": "MLPS MLP SwiGLU Block",
    "cache": "KVCache left_pad Decoder",
    "chat": "encode_chat answer_mask pack packed_batch ChatWindows chat_accuracy drop_oldest prompt_size reply",
    "data": "make_batch bucket_by_length ValidationBatches validation_batches Windows",
    "engine.splitting": "GPT2_SPLIT GPT4_SPLIT",
    "gpt": "NORMS SHAPES GPTConfig make_norm make_block GPT count_parameters count_flops",
    "inside": (
        "Trace trace logit_lens attribute patch_heads previous_token_scores first_token_scores induction_scores "
        "repeated_tokens copy_accuracy"
    ),
    "io.checkpoints": "load save",
    "io.corpus": "Documents Corpus corpus",
    "io.log": "Record read_records",
    "io.tokens": "Tokens encode_corpus",
    "optim": (
        "LEARNING_RATES parameter_groups orthogonalize Muon build_optimizers warmup_cosine constant_linear "
        "set_lr_scale"
    ),
    "positions": "rotate rotation",
    "presets": "SIZES preset",
    "sample": (
        "draw scale_temperature keep_top_k keep_top_p keep_min_p penalize_repetition Sampler generate stream "
        "beam_search"
    ),
    "show.attention": "attention_map by_word",
    "show.explorer": "explore",
    "show.chat_panel": "ChatPanel",
    "show.course": "course_map",
    "show.chats": "drawn_mask drawn_rows recorded_chats accuracy_plot",
    "show.diagram": "data_flow parameter_map",
    "show.forming": "attention_over_training",
    "show.sampler": "SamplerPanel",
    "show.pictures": "Picture color_tokens slider table",
    "show.progress": "to_tensorboard to_wandb show_samples LivePlot",
    "show.steps": "progress",
    "show.speed": "before_and_after parts_plot recorded_speed recorded_writing writing_plot",
    "show.training": "ladder recorded_ladder recorded_skills recorded_losses on_track_plot training_plot",
    "tales": "tale logprob chat train_tokenizer the_tokenizer",
    "tokenizer": "BYTES Tokenizer CharTokenizer PairCounts learn_merges apply_merges BPETokenizer",
    "gpu": "pick_device wait_for seconds_per_call precision LossScaler forward_backward largest_fit prefetch "
    "peak_flops utilisation",
    "training": "SCHEDULES RECIPE TrainConfig Run Diverged training_steps validate evaluate_run train",
    "world.judging": "sample_tales valid_fraction floor_of",
    "world.next_token": "next_token",
    "world.parser": "Choice choices answers",
    "world.skills": "spans skill_accuracy",
}


def run(*command, **kwargs):
    """Run a command to its end and keep what it prints."""
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        **kwargs,
    )


def files_of(folder):
    """The bytes of every file in a folder, except what Python itself leaves there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def code_cells(path):
    """The id and the lines of each code cell of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["id"], "".join(cell["source"]).splitlines()) for cell in cells if cell["cell_type"] == "code"]


def exports(path):
    """The module a notebook makes (or None) and the public names that its exported cells define."""
    module, names = None, set()
    for _, lines in code_cells(path):
        for line in lines:
            if match := re.match(r"#\|\s*default_exp\s+(\S+)", line):
                module = match[1]
        if any(re.match(r"#\|\s*exports?\s*$", line) for line in lines):
            for node in ast.parse("\n".join(lines)).body:
                targets = getattr(node, "targets", [getattr(node, "target", node)])
                found = [part for target in targets for part in getattr(target, "elts", [target])]
                names |= {getattr(part, "name", getattr(part, "id", "_")) for part in found}
    return module, {name for name in names if not name.startswith("_")}


def test_clean_and_export_change_nothing(tmp_path):
    project = copy_project(tmp_path / "a copy")
    before = files_of(project)
    for command in "nbdev_clean", "nbdev_export":
        done = run(Path(sysconfig.get_path("scripts"), command), cwd=project)
        assert done.returncode == 0, done.stdout
    after = files_of(project)
    assert not {name for name in before | after if before.get(name) != after.get(name)}


@each_notebook
def test_cells_have_names(path):
    ids = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert not [
        name
        for name in ids
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", name)
    ]
    assert len(set(ids)) == len(ids)


@each_notebook
def test_no_cell_hides_its_value_behind_a_semicolon(path):
    assert not [name for name, lines in code_cells(path) if lines and lines[-1].rstrip().endswith(";")]  # nbval sees it


@each_notebook
def test_solutions_are_folded_and_print_nothing(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "solution" in cell["metadata"].get("tags", []):
            lines = "".join(cell["source"]).splitlines()
            assert lines[0] == "# Solution (click the ••• or this line to open it)", cell["id"]
            assert lines[-1].startswith("assert check.") and not cell["outputs"], cell["id"]
            assert cell["metadata"]["jupyter"]["source_hidden"], cell["id"]


@each_notebook
def test_no_widget_is_kept(path):
    """From a saved state, JupyterLab would show a panel that looks alive and has no kernel behind it."""
    assert "widgets" not in json.loads(path.read_text(encoding="utf-8"))["metadata"]


@each_notebook
def test_directives_stand_first(path):
    for name, lines in code_cells(path):
        rest = "\n".join(lines)
        while match := re.match(r"(\s*\n)*(#\s*\||%%).*(\n|$)", rest):
            rest = rest[match.end() :]
        assert not re.search(r"^\s*#\s*\|", rest, re.M), f"{name}: a directive under another line is not obeyed"


@each_notebook
def test_module_has_what_the_notebook_exports(path):
    module, names = exports(path)
    if module:
        made = importlib.import_module(f"tinygpt.{module}")
        assert set(made.__all__) == names and all(hasattr(made, name) for name in names)


def test_every_exported_module_has_its_notebook():
    assert set(lessons()) == {exports(path)[0] for path in NOTEBOOKS} - {None}


def lessons():
    """The modules that the notebooks make: their names and sources."""
    sources = {path.stem: path.read_text("utf-8") for path in (ROOT / "tinygpt").glob("*.py")}
    return {name: source for name, source in sources.items() if "# AUTOGENERATED" in source and name != "_modidx"}


def modules():
    """Every module of the package: its full name and its path."""
    paths = sorted((ROOT / "tinygpt").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(name, path):
    """The modules of the package that a module imports when it is itself imported."""
    package, known = name if path.stem == "__init__" else name.rpartition(".")[0], modules()
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in known else base for name in inner}
    return found & known.keys() - {"tinygpt"}


def test_each_module_offers_what_is_expected():
    offered = {}
    for name, path in modules().items():
        if re.search(r"^__all__ =", path.read_text("utf-8"), re.M):
            offered[name.removeprefix("tinygpt.")] = " ".join(importlib.import_module(name).__all__)
    assert offered.pop("tinygpt") == " ".join(tinygpt.__all__)
    assert offered == PUBLIC


def test_what_the_package_imports_is_what_it_offers():
    tree = ast.parse((ROOT / "tinygpt" / "__init__.py").read_text("utf-8"))
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(tinygpt.__all__) == sorted(imported)


def test_imports_have_no_cycles():
    graph = {name: imports(name, path) for name, path in modules().items() if name != "tinygpt"}
    assert graph["tinygpt.gpt"] >= {"tinygpt.block", "tinygpt.guard"}
    TopologicalSorter(graph).prepare()


def test_a_lesson_is_short():
    sizes = {name: len(source.splitlines()) for name, source in lessons().items()}
    assert not {name: size for name, size in sizes.items() if not 30 <= size <= 200}
    assert not [name for name in sizes if len(importlib.import_module(f"tinygpt.{name}").__all__) > 10]


def test_importing_the_package_loads_nothing_heavy():
    ask = "import sys, tinygpt; print(*sys.modules)"
    loaded = set(run(sys.executable, "-c", ask).stdout.split())
    heavy = {"matplotlib", "IPython", "ipywidgets", "anywidget", "jsonargparse", "huggingface_hub", "pooch"}
    assert "tinygpt.gpt" in loaded and not loaded & heavy


def test_a_changed_output_fails(tmp_path):
    """The comparison of notebooks, tried on one that says 1 + 1 = 3."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")

    def cell(source, shown, *tags, kind="text/plain"):
        output = {"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": {kind: shown}}
        return {
            "cell_type": "code",
            "id": f"c{hash(source) % 1000}",
            "execution_count": None,
            "source": source,
            "metadata": {"tags": tags},
            "outputs": [output] if shown else [],
        }

    cells = [
        cell("1 + 1", "2"),
        cell("1 + 1", "3"),
        cell("1 + 1", ""),
        cell("1 + 1", "3", "nbval-ignore-output"),
        cell("# NBVAL_SKIP\n1 + 1", "3"),
        cell("#| eval: false\n1 / 0", ""),
        cell("object()", "<object>"),
    ]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "sums.ipynb").write_text(json.dumps(notebook))
    done = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--color=no",
        "-rA",
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        ROOT / "tests" / "sanitize.cfg",
        "sums.ipynb",
        "tests",
        cwd=tmp_path,
    )
    verdicts = re.findall(r"^(PASSED|FAILED) sums.ipynb::Cell (\d+)", done.stdout, re.M)
    assert sorted((int(number), verdict == "PASSED") for verdict, number in verdicts) == [
        (0, True),
        (1, False),
        (2, False),
        (3, True),
        (4, False),
        (6, True),
    ]


def test_installs_alone(tmp_path):
    """In an empty environment, without notebook or test tools, and with all files that are not Python."""
    project, env = copy_project(tmp_path / "a copy"), tmp_path / "env"
    run(sys.executable, "-m", "venv", env)
    python = env / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    index = run(python, "-m", "pip", "download", "--no-deps", "setuptools", "-d", tmp_path)
    need(index.returncode == 0, "the package index cannot be reached")
    done = run(python, "-m", "pip", "install", "-c", "constraints.txt", ".", cwd=project)
    assert done.returncode == 0, done.stdout
    ask = (
        "import json, sys, tinygpt; loaded = list(sys.modules); from importlib.metadata import distributions; "
        "import matplotlib.pyplot as plt; plt.style.use('tinygpt.assets.course'); "
        "print(json.dumps([tinygpt.__file__, loaded, [d.metadata['Name'] for d in distributions()]]))"
    )
    done = run(python, "-I", "-c", ask, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    place, loaded, packages = json.loads(done.stdout)
    assert not [name for name in packages if NOT_RUNTIME.fullmatch(name.lower())]
    assert "matplotlib" not in loaded, "import it where it is used"
    assert files_of(Path(place).parent) == files_of(project / "tinygpt")
