"""The command line: every command with valid and invalid input, in this process and in a process of its own."""

import codecs
import contextlib
import errno
import io
import itertools
import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

import tinygpt

from tinygpt.cli import COMMANDS, main
from tinygpt.cli.bench import training_speed
from tinygpt.cli.evaluate import eval_command
from tinygpt.cli.sample import Writer, continue_lines
from tinygpt.cli.settings import comments_of, config_file, read_settings, resolve, suggest
from tinygpt.cli.tokenizer import make_tokenizer
from tinygpt.data import validation_batches
from tinygpt.gpt import GPT, SHAPES, GPTConfig
from tinygpt.io.checkpoints import load, save
from tinygpt.io.corpus import corpus
from tinygpt.io.log import Record, read_records
from tinygpt.io.tokens import encode_corpus
from tinygpt.presets import ASSETS, SIZES
from tinygpt.show.progress import CONTROL, one_line
from tinygpt.tales import the_tokenizer
from tinygpt.tokenizer import BPETokenizer, CharTokenizer
from tinygpt.training import TrainConfig, train
from tinygpt.world.skills import skill_accuracy

TEXT = "".join(f"{a} and {b} made {a + b}. " for a in range(30) for b in range(12))
CONFIGS = sorted(path.stem for path in (ASSETS / "configs").glob("*.yaml"))
SMALL = "--config", "small.yaml"
STEPS = "--train.steps", 3
SETTINGS = """
model: {n_layer: 1, n_embd: 16, block_size: 32, dropout: 0.1}
train: {batch_size: 2, save_every: 3, eval_every: 3}
"""


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


class Input(io.TextIOWrapper):
    """Standard input, from a pipe or typed."""

    def __init__(self, given=b"", typed=False):
        super().__init__(io.BytesIO(given), encoding="utf-8", newline="")
        self.typed = typed

    def isatty(self):
        return self.typed


def call(*words, given=b""):
    """Run a command in this process; returns its exit code, stdout and stderr."""
    out, err, before = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO(), sys.stdin
    try:
        sys.stdin = Input(given) if isinstance(given, bytes) else given
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(word) for word in words])
    finally:
        sys.stdin = before
    return code, out.buffer.getvalue().decode(), err.getvalue()


def process(*words, given=b"", **how):
    """Run a command in its own process."""
    command = [sys.executable, "-m", "tinygpt", *map(str, words)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, **how)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def is_sentence(said):
    return re.fullmatch(r"tinygpt: [^\n]*\w[^\n]*\n", said) and "Traceback" not in said and "Error" not in said


def no_control(said):
    return not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text, and a small run that was made by the command in a process."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "sums.txt").write_text(TEXT)
    (folder / "small.yaml").write_text(SETTINGS)
    made = process("train", "sums.txt", *SMALL, "--train.steps", 8, cwd=folder)
    return folder, made


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[0]


# How it is asked


def test_a_run_is_the_one_that_python_would_make(place, tmp_path):
    code, out, err = place[1]
    assert code == 0 and no_control(out) and not err, err
    assert out.startswith("runs/sums: ") and "step 8 of 8" in out
    text = corpus("sums.txt")
    tok = BPETokenizer.train(text.train, 1024)
    torch.manual_seed(0)
    model = GPT(GPTConfig.modern(tok.vocab_size, n_layer=1, n_embd=16, block_size=32, dropout=0.1))
    plan = TrainConfig(steps=8, eval_every=3, save_every=3, batch_size=2)
    train(model, tok, text, plan, out=tmp_path, progress=False)
    theirs, their_tok = load("runs/sums")
    assert all(p.equal(q) for p, q in zip(model.parameters(), theirs.parameters(), strict=True))
    assert their_tok.tokens == tok.tokens
    assert Path("runs/sums/train.yaml").read_text() == (tmp_path / "train.yaml").read_text()


def test_a_run_shows_samples_and_logs_for_tensorboard_when_asked_to():
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    asked = "--samples", "--tensorboard", "--out", "told", "--tokenizer", "char"
    code, out, err = process("train", "sums.txt", *SMALL, "--train.steps", 6, *asked)
    assert code == 0 and no_control(out) and "Traceback" not in err
    start = next(iter(corpus("sums.txt").val))[:20]
    said = re.findall(r"^step (\d): (.*)", out, re.M)
    assert [step for step, _ in said] == ["3", "6"]
    assert all(text.startswith(start) and len(text) == 20 + 60 for _, text in said) and said[0][1] != said[1][1]
    read = loader.EventAccumulator("told/tensorboard")
    read.Reload()
    assert [event.step for event in read.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_a_library_that_is_not_there_is_named(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ModuleNotFoundError('none', name='wandb')")
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    code, out, err = process("train", "sums.txt", *SMALL, "--train.steps", 2, "--out", "no", "--wandb", env=there)
    assert code == 1 and err == "tinygpt: wandb is not installed: pip install wandb\n" and "step" not in out


def test_every_field_is_an_option_and_its_comment_the_help():
    assert comments_of(TrainConfig)["clip"] == "the largest norm of a gradient"
    assert comments_of(GPTConfig)["block_size"] == "the context window: the longest text that it can read"
    code, out, err = call("train", "--help")
    shown = " ".join(out.split())
    assert code == 0 and not err and no_control(out)
    for name, made in ("train", TrainConfig), ("model", GPTConfig):
        assert len(comments_of(made)) > 5
        for field in fields(made):
            if field.name != "vocab_size":
                assert f"--{name}.{field.name} " in shown
                assert comments_of(made)[field.name] in shown


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["tokenizer", "encode"]], ids=" ".join)
def test_help(words):
    code, out, err = call(*words, "--help")
    assert code == 0 and out.startswith(f"usage: tinygpt {' '.join(words)}") and not err


def test_version():
    import tinygpt

    assert call("--version") == (0, f"tinygpt {tinygpt.__version__}\n", "")


def test_the_package_alone_does_not_load_the_parser():
    ask = (
        "import sys, tinygpt; print([name for name in ('jsonargparse', 'tinygpt.cli') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout == "[]\n"


# Settings


def test_the_configs_of_the_package():
    said = {name: read_settings(config_file(name)) for name in CONFIGS}
    assert set(said) == {"tiny", "gpt2", "rope", "shakespeare", "pico", "pico-large", "finetune", "drills", "chats"}
    whole = {name: resolve(settings) for name, settings in said.items()}

    def differences(one, other):
        return {key: (a, b) for key, a in one.items() if (b := other[key]) != a}

    tiny, gpt2, rope = (whole[name]["model"] for name in ("tiny", "gpt2", "rope"))
    assert {key for key in differences(tiny, gpt2)} == {"preset", "n_hidden", *SHAPES["gpt2"]}
    assert differences(gpt2, rope) == {"position": ("learned", "rope")}
    for name in "gpt2", "rope":
        assert {key for key in differences(whole["tiny"], whole[name])} == {"model"}
    for name in "pico", "pico-large":
        shape = {key: value for key, value in SIZES[name].items() if key != "shape"}
        assert whole[name]["model"].items() >= shape.items() and whole[name]["train"]["dtype"] == "bfloat16"
    assert whole["shakespeare"]["text"] == "shakespeare" and whole["shakespeare"]["tokenizer"] == "char"
    assert whole["shakespeare"]["model"]["block_size"] == 64
    for name in CONFIGS:
        assert config_file(name).read_text().startswith("# ")
        assert call("train", "--config", name, "--print_config")[0] == 0


def printed(*words):
    code, out, err = call("train", *words, "--print_config")
    assert code == 0 and not err, err
    return yaml.safe_load(out)


def test_what_is_typed_counts_more_than_the_file_wherever_it_stands(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {n_layer: 3, n_head: 2}\ntrain: {minutes: 5, lr: 1e-3}\nvocab_size: 300\n")
    options = ["--model.n_layer", "5", "--train.steps", "70", "--train.batch_size=3"]
    one = printed("--config", mine, *options)
    assert one == printed(*options, "--config", mine)
    assert (one["model"]["n_layer"], one["model"]["n_head"], one["model"]["preset"]) == (5, 2, "modern")
    assert (one["train"]["steps"], one["train"]["minutes"], one["train"]["batch_size"]) == (70, None, 3)
    assert one["train"]["lr"] == 0.001 and one["vocab_size"] == 300 and one["text"] == "tales"
    assert printed("sums.txt", "--config", mine)["text"] == str(Path("sums.txt").resolve())
    assert printed("--config", mine)["train"]["minutes"] == 5
    pico = printed("--model.preset", "pico", "--config", mine)["model"]
    assert (pico["n_layer"], pico["n_head"], pico["n_embd"]) == (3, 2, 512)


def test_what_is_printed_is_a_file_of_settings(tmp_path):
    code, out, _ = call("train", "--config", "rope", "--train.lr", "0.02", "--model.tied", "false", "--print_config")
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    assert call("train", "--config", tmp_path / "again.yaml", "--print_config") == (0, out, "")
    assert not Path("runs/tales").exists()
    fewer = printed("--config", tmp_path / "again.yaml", "--model.n_head", "2")["model"]
    assert fewer["n_head"] == 2 and fewer["n_kv_head"] is None  # what was open stays open


def test_the_tokenizers(tmp_path):
    made = {}
    for kind in "auto", "course", "char", "bpe", "runs/sums":
        out = tmp_path / Path(kind).name
        words = "--tokenizer", kind, "--vocab_size", 280, "--train.steps", 1, "--out", out
        code, _, err = call("train", "sums.txt", *SMALL, *words)
        assert code == 0, err
        made[kind] = load(out)[1]
    assert made["course"].tokens == the_tokenizer().tokens
    assert isinstance(made["char"], CharTokenizer) and set(made["char"].ids) == set(TEXT)
    assert made["bpe"].tokens == made["auto"].tokens and made["bpe"].vocab_size == 280
    assert made["runs/sums"].tokens == load("runs/sums")[1].tokens
    assert make_tokenizer("auto", 300, corpus("chats")) is the_tokenizer()


# Runs that go on


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
def test_control_c_names_the_command_that_goes_on(place, tmp_path):
    words = ["sums.txt", *SMALL, "--train.steps", "150", "--train.save_every", "40"]
    out = tmp_path / "a run"
    command = [sys.executable, "-m", "tinygpt", "train", *words, "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not ((out / "log.csv").exists() and len(read_records(out)) > 5):
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    said, err = running.communicate(timeout=60)
    done = len(read_records(out))
    assert running.returncode == 130 and 5 < done < 150 and "Traceback" not in err
    assert f"tinygpt train --resume --out '{out}'" in said.splitlines()[-1]
    code, _, err = call("train", "--resume", "--out", out)
    assert code == 0 and not err and len(read_records(out)) == 150
    assert call("train", *words, "--out", tmp_path / "whole")[0] == 0
    one, other = load(out)[0], load(tmp_path / "whole")[0]
    assert all(p.equal(q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def start(words, **how):
    """A command in a process and a group of its own, and when its first line of Python was reached."""
    command = [sys.executable, "-m", "tinygpt", *map(str, words)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **how
    )
    status = Path(f"/proc/{running.pid}/status")
    caught = 0
    while running.poll() is None and not caught >> (signal.SIGTERM - 1) & 1:
        caught = int(re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.M)[1], 16)
    return running, time.monotonic()


def hit(running, number):
    """Send a signal to a command and its workers; its exit code, and what it printed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, number)
    out, err = running.communicate(timeout=60)
    return running.returncode, out, err


proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc, which says what is caught")
STOPPED = "tinygpt: stopped\n"


@proc
def test_stopped_at_any_instant_it_says_one_line_and_goes_on(tmp_path):
    rng = random.Random(0)
    (tmp_path / "words.txt").write_text(" ".join(f"{rng.randrange(10**9):x}" for _ in range(20_000)))
    words = ["train", tmp_path / "words.txt", *SMALL, "--train.steps", 40, "--train.save_every", 10, "--out"]
    running, began = start([*words, tmp_path / "whole"])
    assert hit(running, 0)[0] == 0
    took = time.monotonic() - began
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for i in range(4):
        out = tmp_path / f"run{i}"
        running, began = start([*words, out])
        time.sleep(max(0, began + took * rng.uniform(i, i + 1) / 4 - time.monotonic()))
        code, said, err = hit(running, (signal.SIGINT, signal.SIGTERM)[i % 2])
        if i == 0 and code == -signal.SIGINT:
            continue  # before Python itself had started
        if code == 0:
            assert not err and said.splitlines()[-1].startswith("done")
        else:
            last = (said.splitlines() or [""])[-1]
            assert code == 130 and (err == STOPPED or (not err and "tinygpt train --resume --out" in last)), err
        again = ["train", "--resume", "--out", out] if (out / "command.yaml").exists() else [*words, out]
        code, _, err = call(*again)
        assert code == 0 and not err and (out / "model.safetensors").read_bytes() == whole, err


@proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_second_and_a_second_signal(number, tmp_path):
    assert hit(start(["--version"])[0], number) == (130, "", STOPPED)
    running, _ = start(["tokenizer", "encode"], stdin=subprocess.PIPE)
    time.sleep(0.5)
    os.killpg(running.pid, number)
    time.sleep(0.01)
    assert hit(running, number) == (130, "", STOPPED)


@proc
def test_a_signal_that_is_ignored_stays_ignored():
    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    running, _ = start(["--version"], preexec_fn=ignore)  # as a shell starts it with & in a script
    code, out, err = hit(running, signal.SIGINT)
    assert code == 0 and out.startswith("tinygpt ") and not err


@pytest.mark.parametrize("imported", ["tinygpt", "tinygpt.cli"])
def test_the_library_leaves_signals_alone(imported):
    script = f"import signal; before = [signal.getsignal(n) for n in (2, 15)]; import {imported}; "
    script += "assert before == [signal.getsignal(n) for n in (2, 15)]"
    assert subprocess.run([sys.executable, "-c", script], env=os.environ | {"_": "tinygpt"}).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_in_python_sigterm_ends_the_process_once_the_step_is_kept(tmp_path):
    script = """
import signal, sys, tinygpt as tg
text, tok = tg.corpus("sums.txt"), tg.CharTokenizer.train(open("sums.txt").read())
model = tg.GPT(tg.GPTConfig(tok.vocab_size, n_layer=1, n_head=1, n_embd=16, block_size=16))
def stop(record):
    if record.step == 3:
        signal.raise_signal(getattr(signal, sys.argv[1]))
tg.train(model, tok, text, tg.TrainConfig(steps=9, batch_size=1), sys.argv[2], consumers=[stop], progress=False)
print("and after it")
"""
    for name, code in ("SIGTERM", -signal.SIGTERM), ("SIGINT", 0):
        out = tmp_path / name
        done = subprocess.run([sys.executable, "-c", script, name, out], capture_output=True, text=True, timeout=60)
        assert done.returncode == code and not done.stderr and "stopped after step 3 of 9" in done.stdout
        assert ("and after it" in done.stdout) == (code == 0)
        assert len(read_records(out)) == 3 and (out / "state" / "00000003.json").exists()


def test_an_interrupt_that_python_would_ignore_ends_the_process():
    script = """
from tinygpt.engine.interrupts import raise_interrupt
class Thing:
    def __del__(self):
        raise KeyboardInterrupt
with raise_interrupt():
    Thing()
    print("went on", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", STOPPED)


@pytest.mark.skipif(sys.platform == "win32", reason="no processes that fork")
@pytest.mark.parametrize("send, number", [("killpg", signal.SIGINT), ("kill", signal.SIGTERM)])
def test_workers_stop_with_a_command_and_say_nothing(send, number):
    script = """
import os, sys, time
from tinygpt.engine.cores import on_all_cores
from tinygpt.engine.interrupts import raise_interrupt, say_stopped
def work(job):
    os.write(1, b"begun\\n")
    time.sleep(600)
try:
    with raise_interrupt():
        list(on_all_cores(work, range(9)))
except KeyboardInterrupt:
    sys.exit(say_stopped())
"""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    running = subprocess.Popen([sys.executable, "-c", script], **how)
    assert running.stdout.readline() == "begun\n"
    getattr(os, send)(running.pid, number)
    out, err = running.communicate(timeout=60)  # both ends are open until the last worker is gone
    assert running.returncode == 130 and err == STOPPED


def test_a_run_that_was_stopped_at_once_begins_again(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    words = ["sums.txt", *SMALL, "--train.steps", 3, "--vocab_size", 280, "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr("tinygpt.train", stopped)
        code, _, err = call("train", *words)
    assert code == 130 and "Traceback" not in err
    assert call("train", "--resume", "--out", tmp_path)[0] == 0 and load(tmp_path)[1].vocab_size == 280


def test_the_settings_of_a_run_start_another_like_it(tmp_path):
    code, _, err = call("train", "--config", "runs/sums/command.yaml", "--out", tmp_path)
    assert code == 0, err
    assert load(tmp_path)[0].embed.weight.equal(load("runs/sums")[0].embed.weight)


def test_a_folder_with_a_run_is_left_alone():
    before = {path: path.read_bytes() for path in Path("runs/sums").rglob("*") if path.is_file()}
    for words, said in [
        (["sums.txt"], "already has a run"),
        (["sums.txt", "--resume", "--train.steps", "9"], "another train"),
        (["--resume", "--out", "runs/sums", "--model.n_layer", "2"], "another model"),
        (["tales", "--resume", "--out", "runs/sums"], "another text"),
    ]:
        code, _, err = call("train", *words)
        assert code == 1 and said in err and is_sentence(err), err
    assert before == {path: path.read_bytes() for path in before}
    same = ["sums.txt", *SMALL, "--train.steps", "8"]  # the command of before, once more
    for words in same, ["--out", "runs/sums"]:
        assert call("train", "--resume", *words)[0] == 0


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path):
    words = ["sums.txt", *SMALL, "--train.steps", 6, "--out", tmp_path]
    assert call("train", *words)[0] == 0
    (tmp_path / "state" / "00000006.safetensors").write_bytes(b"no tensors")
    code, out, err = call("train", "--resume", "--out", tmp_path)
    assert code == 0 and is_sentence(err) and "resumes from the checkpoint before it" in err
    assert [record.step for record in read_records(tmp_path)] == [1, 2, 3, 4, 5, 6]


# Continuing from a model


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    """A model of GPT-2's shape as transformers writes it, whose vocabulary has more rows than its tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("gpt2")
    tok = BPETokenizer.train(TEXT, 280)
    shape = dict(vocab_size=300, n_positions=32, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.1)
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).save_pretrained(folder)
    tok.save(folder)
    return folder


def test_training_continues_from_a_model_and_its_tokenizer(gpt2_folder, tmp_path):
    words = ["train", "sums.txt", "--from", gpt2_folder, "--train.steps"]
    assert call(*words, 1, "--train.lr", 0, "--out", tmp_path / "same")[0] == 0
    (same, tok), (before, _) = load(tmp_path / "same"), load(gpt2_folder)
    assert same.config == before.config and tok.vocab_size == 280
    assert all(a.equal(b) for a, b in zip(same.parameters(), before.parameters(), strict=True))
    code, out, err = call(*words, 8, "--train.save_every", 4, "--train.lr", 0.01, "--out", tmp_path / "run")
    assert code == 0 and not err and "300" not in out and "280 tokens" in out
    losses = [record.loss for record in read_records(tmp_path / "run")]
    assert losses[-1] < losses[0] - 0.2
    settings = yaml.safe_load((tmp_path / "run" / "command.yaml").read_text())
    assert settings["from"] == str(gpt2_folder) and settings["model"]["n_layer"] == 2
    trained = (tmp_path / "run" / "model.safetensors").read_bytes()
    for file in (tmp_path / "run" / "state").glob("00000008.*"):
        file.unlink()
    shutil.move(gpt2_folder, tmp_path / "moved")  # to resume, the run needs nothing but itself
    assert call("train", "--resume", "--out", tmp_path / "run")[0] == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == trained
    shutil.move(tmp_path / "moved", gpt2_folder)


def test_the_settings_of_a_model_to_continue_from_are_those_of_finetune_yaml_unless_given(gpt2_folder, tmp_path):
    words = ["train", "sums.txt", "--from", gpt2_folder, "--print-config"]
    shown = yaml.safe_load(call(*words, "--train.batch_size", 3)[1])
    expected = read_settings(config_file("finetune"))["train"] | {"batch_size": 3}
    assert {name: shown["train"][name] for name in expected} == expected
    assert (shown["model"]["n_embd"], shown["vocab_size"]) == (16, 300)
    assert yaml.safe_load(call(*words, *SMALL, *STEPS)[1])["train"]["save_every"] == 3
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(shown))
    assert yaml.safe_load(call("train", "--config", tmp_path / "again.yaml", "--print-config")[1]) == shown


# Writing


def test_it_goes_on_with_what_is_piped_in():
    ask = "train", "--resume", "--out", "runs/sums", "--write"
    code, out, err = call(*ask, given="3 and\n\n4 and".encode())
    assert code == 0 and not err and not CONTROL.search(out)  # whatever bytes it writes
    assert "\n3 and" in out and "\n4 and" in out and "\n> " not in out and len(out) > 400
    assert (code, out, err) == call(*ask, given="3 and\n\n4 and".encode())
    assert call(*ask)[0] == 0


def test_it_asks_who_types_and_ends_where_a_tale_ends(monkeypatch):
    tok = the_tokenizer()
    end = tok.special_tokens["<|end|>"]
    model = GPT(GPTConfig.modern(tok.vocab_size, n_layer=1, n_embd=16, block_size=8))
    read, asked = [], []

    class Decoder:
        """Writes one letter eleven times, and then the end."""

        def __init__(self, model, prompts, dtype=None, compile=False):
            self.script = itertools.chain([65] * 11, itertools.repeat(end))
            read.append(list(*prompts))
            self.append(None)

        def append(self, ids):
            self.logits = torch.full((1, tok.vocab_size), -100.0)
            self.logits[:, next(self.script)] = 100.0

    typed = iter(["Once", "Twice"])

    def ask(prompt):
        asked.append(prompt)
        return next(typed, None) or (_ for _ in ()).throw(EOFError)

    monkeypatch.setattr("tinygpt.sample.Decoder", Decoder)
    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(sys, "stdin", Input(typed=True))
    out = Terminal(io.BytesIO(), "utf-8", newline="")
    with contextlib.redirect_stdout(out):
        continue_lines(Writer(model, tok))
        out.flush()
    letter = tok.decode([65])
    assert asked == ["> "] * 3 and read == [[end, *tok.encode(text)] for text in ("Once", "Twice")]
    assert out.buffer.getvalue().decode().split("\n", 1)[1] == f"Once{11 * letter}\n\nTwice{11 * letter}\n\n\n"


def test_a_letter_that_it_does_not_know_is_said_and_no_end(tmp_path):
    words = "sums.txt", *SMALL, "--tokenizer", "char", "--train.steps", 1, "--out", tmp_path, "--write"
    code, out, err = call("train", *words, given="é\n1 and".encode())
    assert code == 0 and is_sentence(err) and "'é'" in err and "\n1 and" in out


# Judging


def by_hand(folder, text, variant=None):
    model, tok = load(folder, variant=variant)
    nats, batches = 0.0, validation_batches(encode_corpus(text.val, tok), model.config.block_size, 3)
    with torch.no_grad():
        for ids, targets, mask in batches:
            logp = model(ids).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
            nats -= (logp * mask).sum().item()
    return nats, len(batches.tokens) - 1


def test_eval_says_what_one_would_find_by_hand():
    code, out, err = call("eval", "runs/sums", "sums.txt", "--json")
    assert code == 0 and not err
    found = json.loads(out)
    nats, n = by_hand("runs/sums", corpus("sums.txt"))
    text = "".join(corpus("sums.txt").val)
    first = load("runs/sums")[1].encode(text)[0]
    n_bytes = len(text.encode()) - len(load("runs/sums")[1].token_bytes(first))
    assert found["tokens"] == n and found["loss"] == pytest.approx(nats / n, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / n), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
    assert found["floor"] is found["skills"] is None and found["run"] == "runs/sums"
    best = json.loads(call("eval", "runs/sums", "sums.txt", "--best", "--json")[1])
    assert best == json.loads(call("eval", "runs/sums", "--device", "cpu", "--best", "sums.txt", "--json")[1])
    nats, n = by_hand("runs/sums", corpus("sums.txt"), "best")
    assert best["loss"] == pytest.approx(nats / n, rel=1e-5)
    code, out, err = process("eval", "runs/sums", "sums.txt")
    assert code == 0 and not err and no_control(out)
    assert re.search(rf"^validation loss \(nats per token\) +{found['loss']:.3f}$", out, re.M)
    assert re.search(rf"^bits per byte +{found['bits_per_byte']:.3f}$", out, re.M)


def test_tales_have_a_floor_and_skills(tmp_path):
    tok, text = the_tokenizer(), corpus("tales")
    torch.manual_seed(0)
    model = GPT(GPTConfig.modern(tok.vocab_size, n_layer=1, n_embd=16, block_size=256)).eval()
    save(tmp_path, model, tok)
    code, out, _ = call("eval", tmp_path, "tales", "--json")
    found = json.loads(out)
    ends = sum(1 for _ in text.val)
    n = sum(len(tok.encode(tale)) for tale in text.val) + ends
    floor = -sum(map(text.logprob, text.val)) / n
    assert code == 0 and found["tokens"] == n and found["floor"] == pytest.approx(floor)
    assert found["skills"] == skill_accuracy(model, tok, text)
    n_bytes = sum(len(tale.encode()) for tale in text.val)
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * n / math.log(2) / n_bytes)
    code, out, _ = call("eval", tmp_path, "tales")
    assert re.search(rf"^above the floor +{found['loss'] - found['floor']:.3f}$", out, re.M)
    assert [name for name in found["skills"] if not re.search(rf"^skill: {name} +[\d.]+%$", out, re.M)] == []
    found = json.loads(call("eval", "runs/sums", "tales", "--json")[1])  # tales are longer than it reads
    assert found["skills"] is None and found["loss"] > found["floor"] > 0


# Tokenizers


def test_a_tokenizer_of_ones_own():
    code, out, err = process("tokenizer", "train", "sums.txt", "--vocab_size", 270, "--out", "mine")
    assert code == 0 and not err and "270" in out
    tok = BPETokenizer.load("mine")
    assert tok.tokens == BPETokenizer.train(corpus("sums.txt").train, 270).tokens
    code, out, err = call("tokenizer", "encode", "1 and 2", "--tokenizer", "mine")
    assert (code, out, err) == (0, " ".join(map(str, tok.encode("1 and 2"))) + "\n", "")
    assert call("tokenizer", "decode", *out.split(), "--tokenizer", "mine") == (0, "1 and 2", "")
    assert call("tokenizer", "encode", "ab")[1] == " ".join(map(str, the_tokenizer().encode("ab"))) + "\n"
    before = Path("mine/tokenizer.json").read_bytes()
    code, _, err = call("tokenizer", "train", "sums.txt", "--out", "mine")
    assert code == 1 and "already" in err and Path("mine/tokenizer.json").read_bytes() == before


LETTERS = "naïve 好 🙂\r\n\ttab\0 \u2028 <|end|> "


@pytest.mark.parametrize(
    "text", ["", "\n", "no end", "end\n", "\r\n\r", codecs.BOM_UTF8.decode() + "a", LETTERS, LETTERS * 9000, " "]
)
def test_what_is_encoded_and_decoded_is_the_same_to_the_byte(text):
    code, ids, err = call("tokenizer", "encode", given=text.encode())
    assert code == 0 and not err and ids.count("\n") == 1 and ids.endswith("\n")
    assert list(map(int, ids.split())) == the_tokenizer().encode(text)
    assert call("tokenizer", "decode", given=ids.encode()) == (0, text, "")


def test_a_pipe_between_processes():
    code, ids, err = process("tokenizer", "encode", given=LETTERS.encode())
    assert code == 0 and not err
    assert process("tokenizer", "decode", given=ids.encode()) == (0, LETTERS, "")


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of pipe")
def test_a_reader_that_leaves_early():
    Path("long.txt").write_text(TEXT * 60)
    command = [sys.executable, "-m", "tinygpt", "tokenizer", "encode"]
    with open("long.txt") as given:
        running = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.read(10)
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == 141 and not err


# Measuring, drawing


def test_bench():
    code, out, err = process("bench", "tiny", "--device", "cpu", "--batch_size", 1)
    assert code == 0 and not err and no_control(out)
    speed = float(re.search(r"^training, tokens per second +([\d,]+)$", out, re.M)[1].replace(",", ""))
    each = float(re.search(r"^milliseconds per step +([\d.,]+)$", out, re.M)[1].replace(",", ""))
    assert speed * each == pytest.approx(256 * 1000, rel=0.02)
    assert 0 < int(re.search(r"^utilisation +(\d+)%$", out, re.M)[1]) < 150
    assert re.search(r"^of TFLOP/s +[\d.]+, measured$", out, re.M)
    assert 0 < float(re.search(r"^writing, tokens per second +([\d,]+)$", out, re.M)[1].replace(",", ""))


def test_the_median_of_what_was_timed(monkeypatch):
    speeds = [1, 100, 50, 60, 70, 900]
    records = [Record(i + 1, 99, 0, 1, 0, 0, i, speed) for i, speed in enumerate(speeds)]
    monkeypatch.setattr("tinygpt.cli.bench.training_steps", lambda run: iter(records))
    assert training_speed(None, 1) == 60  # 100, 50 and 60, after the first
    assert training_speed(None, 3.5) == 65  # and 70: as many as there are in this time


def test_plot(tmp_path):
    assert call("train", "--config", "runs/sums/command.yaml", "--out", tmp_path / "b", "--train.steps", 4)[0] == 0
    code, out, err = process("plot", "runs/sums", tmp_path / "b", "--out", tmp_path / "new" / "both.png")
    assert code == 0 and not err and out == f"{tmp_path / 'new' / 'both.png'}\n"
    assert (tmp_path / "new" / "both.png").read_bytes().startswith(b"\x89PNG")
    header = Path("runs/sums/log.csv").read_text().splitlines(keepends=True)[0]
    shutil.rmtree(tmp_path / "b" / "state")  # whose notes know what the log should hold
    for log, said in ("step\nmany\n", "damaged"), (header, "not made a step"):
        (tmp_path / "b" / "log.csv").write_text(log)
        code, _, err = call("plot", tmp_path / "b", "--out", tmp_path / "no.png")
        assert code == 1 and is_sentence(err) and said in err and not (tmp_path / "no.png").exists()


def test_a_floor_is_drawn_where_all_runs_share_one(tmp_path, monkeypatch):
    drawn = []

    def draw(runs, floor=None):
        import matplotlib.figure

        drawn.append(floor)
        return matplotlib.figure.Figure()

    monkeypatch.setattr("tinygpt.cli.plot.training_plot", draw)
    for name, text, kind in ("a", "tales", "course"), ("b", "tales", "course"), ("c", "chats", "course"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text(Path("runs/sums/log.csv").read_text())
        (tmp_path / name / "command.yaml").write_text(f"text: {text}\ntrain: {{steps: 1}}\n")
        the_tokenizer().save(tmp_path / name)
    out = "--out", tmp_path / "p.png"
    for names in ("a", "b"), ("a", "c"):
        assert call("plot", *(tmp_path / name for name in names), *out)[0] == 0
    assert call("plot", "runs/sums", *out)[0] == 0
    (tmp_path / "tokenizer").mkdir()
    code, _, err = call("plot", "runs/sums", tmp_path / "tokenizer", *out)
    assert code == 0 and err == f"tinygpt: left out, since they have no log.csv: {tmp_path / 'tokenizer'}\n"
    assert call("plot", "runs/sums", tmp_path / "nowhere", *out)[0] == 1
    text = corpus("tales")
    assert drawn[0] == pytest.approx(
        -sum(map(text.logprob, text.val)) / (len(encode_corpus(text.val, the_tokenizer())) - 1)
    )
    assert drawn[1:] == [None, None, None]


# What goes wrong


def test_a_name_that_is_nearly_right():
    names = ["--config", "--train.steps", "--train.minutes", "--train.lr", "--model.n_layer", "--vocab_size"]
    for word, right in {
        "--train.stepz": "--train.steps",
        "--steps": "--train.steps",
        "--minuts": "--train.minutes",
        "--model.steps": "--train.steps",
        "--model.nlayer": "--model.n_layer",
        "--model.vocab_size": "--vocab_size",
        "--confg": "--config",
        "lr": "--train.lr",
    }.items():
        assert suggest(word, names) == f"; did you mean {right}?"
    assert suggest("--colour", names) == ""


BAD = {  # words, exit code, what is said
    "nothing": ("", 2, "train, sample, chat, eval, tokenizer, bench, plot, play"),
    "command": ("trian", 2, "'trian' is not one of .* did you mean train"),
    "action": ("tokenizer encod", 2, "did you mean encode"),
    "no action": ("tokenizer", 2, "train, encode, decode"),
    "option": ("train sums.txt --train.stepz 3", 2, "unknown option --train.stepz; did you mean --train.steps"),
    "option of another command": ("eval runs/sums --jsn", 2, "did you mean --json"),
    "option of an action": ("tokenizer encode --tokeniser x", 2, "did you mean --tokenizer"),
    "abbreviation": ("train --train.st 3", 2, "did you mean --train.steps"),
    "shape of another size": ("train --model.vocab_size 5", 2, "did you mean --vocab_size"),
    "word for a whole number": ("train --train.steps x", 2, "train.steps='x' should be a whole number"),
    "fraction": ("train --train.steps 1.5", 2, "a whole number"),
    "word for a number": ("train --train.lr fast", 2, "train.lr='fast' should be a number"),
    "word for yes or no": ("train --model.tied perhaps", 2, "should be true or false"),
    "no value": ("train --train.steps", 2, "train.steps"),
    "two texts": ("train a b", 2, "b is one word too many: put quotes around"),
    "heads": ("train --config small.yaml --model.n_head 3", 2, "n_embd=16 .* n_head=3"),
    "no layers": ("train --model.n_layer 0", 2, "n_layer=0"),
    "choice": ("train --model.norm bath", 2, "norm='bath'"),
    "preset": ("train --model.preset gpt5", 2, "gpt5"),
    "no steps": ("train --train.steps 0", 2, "steps=0"),
    "no end": ("train --config small.yaml", 2, "steps, epochs and minutes"),
    "two ends": ("train --train.minutes 1 --train.steps 3", 2, "steps=3 and minutes=1"),
    "config": ("train --config tinny", 2, "did you mean tiny"),
    "device": ("train --device gpu", 2, "'auto', 'cpu', 'cuda'"),
    "text": ("train nothing.txt", 1, "nothing.txt"),
    "empty text": ("train empty.txt", 1, "empty.txt has 0 bytes"),
    "short text": ("train short.txt --tokenizer char", 1, "block_size"),
    "binary text": ("train binary.txt", 1, "binary.txt is not UTF-8"),
    "folder without text": ("train hollow", 1, "hollow"),
    "tokenizer": ("train sums.txt --tokenizer bytes --out new", 1, "bytes is not a tokenizer"),
    "vocabulary": ("train sums.txt --vocab_size 20 --out new", 1, "vocab_size=20"),
    "resume without a run": ("train --resume --out new", 1, "new has no command.yaml"),
    "a file for a folder": ("train sums.txt --out sums.txt", 1, "sums.txt"),
    "from nothing": ("train sums.txt --from ./new4", 1, "new4"),
    "from no tokenizer": ("train sums.txt --from bare", 1, "bare has no tokenizer"),
    "from a model of another size": ("train sums.txt --from runs/sums --model.n_layer 2", 2, "the model comes from"),
    "from a model with a tokenizer": ("train sums.txt --from runs/sums --tokenizer bpe", 2, "the tokenizer comes from"),
    "from a window too short": ("train sums.txt --from runs/sums --train.block_size 99 --out new5", 1, "block_size"),
    "optimizer": ("train sums.txt --train.optimizer sgd --out new2 --train.steps 1", 1, "sgd"),
    "eval nothing": ("eval", 2, "RUN|run"),
    "eval no folder": ("eval new3", 2, "new3"),
    "eval no such folder": ("eval ./new3 sums.txt", 1, "new3"),
    "eval no run": ("eval hollow", 1, "hollow has no command.yaml"),
    "eval text": ("eval runs/sums nothing.txt", 1, "nothing.txt"),
    "eval damaged": ("eval damaged sums.txt", 1, "damaged"),
    "eval no best": ("eval bare sums.txt --best", 1, "best"),
    "eval no tokenizer": ("eval bare sums.txt", 1, "bare has no tokenizer"),
    "tokenizer train text": ("tokenizer train nothing.txt --out new", 1, "nothing.txt"),
    "tokenizer train nowhere": ("tokenizer train sums.txt", 2, "--out must be given"),
    "tokenizer train vocabulary": ("tokenizer train sums.txt --vocab_size 3 --out new", 1, "vocab_size=3"),
    "encode tokenizer": ("tokenizer encode a --tokenizer hollow", 1, "hollow is not a tokenizer"),
    "encode damaged": ("tokenizer encode a --tokenizer damaged", 1, "damaged"),
    "encode char": ("tokenizer encode a --tokenizer char", 2, "char"),
    "decode words": ("tokenizer decode 3 four", 1, "'four' is not a token id"),
    "decode negative": ("tokenizer decode -- -3", 1, "'-3' is not a token id"),
    "decode out of range": ("tokenizer decode 999999", 1, "999999"),
    "decode huge": (f"tokenizer decode {'9' * 5000}", 1, "999"),
    "bench size": ("bench big", 2, "'tiny', 'pico'"),
    "bench size nearly right": ("bench tinny", 2, "did you mean tiny"),
    "bench rows": ("bench --batch-size 0", 2, "--batch-size 0"),
    "plot nothing": ("plot", 2, "RUN|runs"),
    "plot no run": ("plot hollow", 1, "hollow is not the folder of a run"),
    "plot kind": ("plot runs/sums --out picture.xyz", 1, "xyz"),
}


@pytest.fixture(scope="module")
def litter(place):
    """Files and folders that no command can use."""
    folder = place[0]
    (folder / "empty.txt").write_bytes(b"")
    (folder / "short.txt").write_text("a short text")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 4)
    (folder / "hollow").mkdir()
    (folder / "damaged").mkdir()
    for name in "config.json", "tokenizer.json", "model.safetensors":
        (folder / "damaged" / name).write_text("{")
    save(folder / "bare", GPT(GPTConfig.modern(300, n_layer=1, n_embd=16)))
    return folder


@pytest.mark.parametrize("name", BAD)
def test_one_sentence_and_the_right_code(name, litter, monkeypatch):
    words, code, said = BAD[name]
    if code == 2:  # found before anything is done
        monkeypatch.setattr("tinygpt.train", None)
    got, out, err = call(*words.split())
    assert is_sentence(err), err
    assert got == code and re.search(said, err), (got, err)
    assert no_control(out) and not Path("new").exists()


@pytest.mark.parametrize(
    "words", ["train nothing.txt", "eval hollow", "tokenizer decode 1 a", "bench big", "plot hollow"]
)
def test_as_a_process_too(words, litter):
    got, out, err = process(*words.split())
    assert got == 2 if words == "bench big" else 1 and is_sentence(err) and not out


@pytest.mark.parametrize(
    ("content", "said"),
    {
        b"train: {stepz: 3}": "unknown option train.stepz; did you mean train.steps",
        b"trian: {steps: 3}": "unknown option trian.steps; did you mean train",
        b"model: {n_layer: many}": "model.n_layer='many' should be a whole number",
        b"model: {n_head: 3}": "n_head=3",
        b"resume: true": "resume",
        b"train: 5": "train is 5",
        b"model: [1, 2]": "model",
        b"- 1": "settings",
        b"hello": "settings",
        b"": "settings",
        b"train: {": "wrong",
        b"\xff\xfe": "wrong",
        b"a: !!python/object/apply:os.system [ls]": "wrong",
        b"x: &a [*a]": "anchors",
        b"vocab_size: 270\nvocab_size: 280": "'vocab_size' more than once",
        b"train: {steps: 1, steps: 2}": "'steps' more than once",
        b"[" * 50_000: "nested too deeply",
        b"train: {checkpointing: 7}": "checkpointing='7' should be true or false",
        b"text: [1]\ntrain: {steps: 1}": "text",
        b"train: {steps: 1, minutes: 2}": "steps=1 and minutes=2",
        b"model: {vocab_size: 5}": "vocab_size",
        b"1: 2": "wrong",
    }.items(),
)
def test_files_that_are_no_settings(content, said, tmp_path):
    (tmp_path / "wrong.yaml").write_bytes(content)
    code, out, err = call("train", "--config", tmp_path / "wrong.yaml")
    assert code == 2 and is_sentence(err) and re.search(said, err) and not out, err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_hostile_settings_cost_neither_time_nor_memory(tmp_path):
    names = "abcdefghij"
    bomb = f"{names[0]}: &{names[0]} [{', '.join('x' * 9)}]\n"
    bomb += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip(names, names[1:]))
    contents = {"bomb": bomb, "deep": "[" * 50_000, "tables": "{a: " * 20_000, "large": "a: b\n" * 10**6}
    os.mkfifo(tmp_path / "pipe.yaml")
    runs = {}
    for name, content in contents.items():
        (tmp_path / f"{name}.yaml").write_text(content)
        runs[name] = tmp_path / f"run-{name}"
        runs[name].mkdir()
        (runs[name] / "command.yaml").write_text(content)
    files = [*(f"{tmp_path}/{name}.yaml" for name in (*contents, "pipe")), "/dev/zero"]
    words = [["train", "--config", file] for file in files] + [["eval", str(run)] for run in runs.values()]
    words += [["train", "--resume", "--out", str(run)] for run in runs.values()]
    script = f"""
import resource
from tinygpt.cli import main
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for words in {words}:
    assert main(words) in (1, 2), words
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20  # kilobytes
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == len(words), done.stderr
    assert all(map(is_sentence, done.stderr.splitlines(keepends=True)))


def own_run(folder, text):
    """A folder with the run of the fixture, whose settings name another text."""
    shutil.copytree("runs/sums", folder)
    settings = yaml.safe_load((folder / "command.yaml").read_text()) | {"text": str(text)}
    (folder / "command.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_what_a_run_names_is_not_opened_because_it_says_so(tmp_path, monkeypatch):
    def opened(name):
        raise AssertionError(f"{name} was opened")

    for name, text in ("a", "/etc/passwd"), ("b", "/dev/zero"), ("c", "tinystories"), ("d", Path("sums.txt").resolve()):
        run = own_run(tmp_path / name, text)
        with monkeypatch.context() as patch:
            patch.setattr("tinygpt.corpus", opened)
            patch.setattr("tinygpt.io.corpus.text_files", opened)
            code, _, err = call("eval", run)
            assert code == 1 and is_sentence(err)
            assert call("plot", run, "--out", tmp_path / "p.png")[0] == 0
        command = shlex.split(re.search("type (tinygpt eval .*)", err)[1])
        assert command[2:] == [str(run), "sums.txt" if name == "d" else str(text)]
    assert call(*command[1:])[0] == 0
    code, out, _ = call("train", "--resume", "--out", run)
    command = shlex.split(out.splitlines()[-1].partition(": ")[2])
    assert command == ["tinygpt", "eval", str(run), "sums.txt"] and call(*command[1:])[0] == 0


def test_the_command_that_evaluates_a_run_can_be_typed():
    assert eval_command("runs/tales", "tales") == "tinygpt eval runs/tales"
    assert eval_command("a run", "tinystories") == "tinygpt eval 'a run' tinystories"
    assert eval_command("run", "/a $b/c.txt") == "tinygpt eval run '/a $b/c.txt'"
    assert eval_command("-run", os.path.abspath("-dash.txt")) == "tinygpt eval ./-run ./-dash.txt"


EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202e\u2066\r\b"


@pytest.mark.skipif(sys.platform == "win32", reason="not the names of files there")
def test_control_characters_of_files_do_not_reach_the_terminal(tmp_path):
    text, folder = tmp_path / f"a{EVIL}.txt", tmp_path / f"r{EVIL}"
    text.write_text(TEXT)
    quoted = json.dumps(EVIL)
    settings = {"key": f"model: {{{quoted}: 1}}", "value": f"model: {{norm: {quoted}}}", "top": f"{quoted}: {quoted}"}
    settings |= {"number": f"train: {{steps: {quoted}}}", "text": f"text: {quoted}\ntrain: {{steps: 1}}"}
    for name, content in settings.items():
        (tmp_path / f"{name}{EVIL}.yaml").write_text(content)
    words = [["train", "--config", tmp_path / f"{name}{EVIL}.yaml"] for name in settings]
    words += [["train", text, *SMALL, "--train.steps", 3, "--out", folder], ["train", "--resume", "--out", folder]]
    words += [["eval", folder], ["eval", folder, text], ["plot", folder, "--out", folder / f"p{EVIL}.png"]]
    words += [["tokenizer", "train", text, "--vocab_size", 280, "--out", f"{folder}-tok"]]
    words += [["tokenizer", "encode", "a", "--tokenizer", f"{folder}-no"]]
    words += [[f"tr{EVIL}"], ["train", f"--{EVIL}"]]
    bad = own_run(tmp_path / "bad", EVIL)
    for name, damage in {
        "config.json": '{"model_type": "EVIL"}',
        "tokenizer.json": '{"model": {"type": "BPE", "EVIL": 1}, "EVIL": "EVIL"}',
        "log.csv": "EVIL,step\n1,2\n",
        "train.yaml": "EVIL: EVIL\n",
        "model.safetensors": "EVIL",
    }.items():
        run = own_run(tmp_path / f"bad-{name}", bad)
        (run / name).write_text(damage.replace("EVIL", EVIL if name == "log.csv" else quoted[1:-1]))
        words += [["eval", run, "sums.txt"], ["plot", run, "--out", tmp_path / "p.png"]]
        words += [["train", "--resume", "--out", run], ["tokenizer", "encode", "a", "--tokenizer", run]]
    said = [call(*each)[1:] for each in words]
    assert "\ufffd" in said[0][1] and said[len(settings)][0]
    assert not [found for found in said if CONTROL.search("".join(found)) or "\r" in "".join(found)]


def test_a_terminal_is_shown_what_is_decoded_without_control_characters(tmp_path):
    BPETokenizer.train(EVIL, 257, [f"<{EVIL}>"]).save(tmp_path)
    for kind in Terminal, io.TextIOWrapper:
        out = kind(io.BytesIO(), "utf-8", newline="")
        with contextlib.redirect_stdout(out):
            assert main(["tokenizer", "decode", "256", "--tokenizer", str(tmp_path)]) == 0
            out.flush()
        shown = out.buffer.getvalue().decode()
        assert shown == (f"<{CONTROL.sub(chr(0xFFFD), EVIL)}>\n" if kind is Terminal else f"<{EVIL}>")


def test_a_long_message_keeps_its_beginning_and_its_end(tmp_path):
    assert one_line("short\n and\tsweet") == "short and sweet"
    assert len(one_line("begin " + "x" * 10**6 + " end")) < 520
    assert re.fullmatch(r"begin x+ \.\.\. x+ end", one_line("begin " + "x" * 10**6 + " end"))
    (tmp_path / "long.yaml").write_text(f"model: {{{'x' * 90_000}: {'y' * 9000}}}")
    long = "x" * 10**5
    for words in [long], ["train", long], ["train", "--config", tmp_path / "long.yaml"], ["eval", long], ["plot", long]:
        code, _, err = call(*words)
        assert code in (1, 2) and is_sentence(err) and len(err) < 520


def test_a_text_that_the_output_cannot_print_ends_no_training(tmp_path):
    (tmp_path / "é 好.txt").write_text("é好🙂 " * 900)
    words = "train", tmp_path / "é 好.txt", *SMALL, "--train.steps", 3, "--samples", "--out", tmp_path / "é"
    code, out, err = process(*words, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert code == 0 and not err and out.isascii() and "done" in out


# Advice


def test_a_name_that_begins_with_a_dash():
    Path("-dash.txt").write_text(TEXT)
    code, _, err = call("train", "-dash.txt")
    assert code == 2 and is_sentence(err) and "did you mean" not in err and "is written ./-dash.txt" in err
    assert call("train", "./-dash.txt", *SMALL, "--train.steps", 1)[0] == 0
    code, _, err = call("train", "sums.txt", "--out", "-x")
    assert code == 2 and is_sentence(err) and "--out=-..." in err
    code, _, err = call("train", "my", "book.txt")
    assert code == 2 and is_sentence(err) and "book.txt is one word too many" in err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_too_little_memory_is_a_sentence_with_a_way_out(error, monkeypatch):
    def greedy(*_):
        raise error

    monkeypatch.setattr("tinygpt.cli.evaluate.evaluate_model", greedy)
    code, _, err = call("eval", "runs/sums", "sums.txt")
    assert code == 1 and is_sentence(err) and "not enough memory" in err and "smaller model" in err


def test_a_full_disk_names_the_file_and_what_to_do(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    for words in (
        ["train", "sums.txt", *SMALL, "--train.steps", 3, "--out", tmp_path / "run"],
        ["tokenizer", "train", "sums.txt", "--vocab_size", 280, "--out", tmp_path / "tok"],
        ["plot", "runs/sums", "--out", tmp_path / "p.png"],
    ):
        code, _, err = call(*words)
        assert code == 1 and err.startswith(f"tinygpt: {tmp_path}") and "free some space" in err, err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (".lock", "command.yaml")]


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "file"))
    (tmp_path / "new.txt").write_text(TEXT + "new")
    code, _, err = call("train", tmp_path / "new.txt", *SMALL, "--train.steps", 3, "--out", tmp_path / "run")
    assert code == 1 and is_sentence(err) and f"{tmp_path / 'file'} cannot be written" in err and "TINYGPT_CACHE" in err


def test_a_plot_is_written_where_it_says(tmp_path):
    (tmp_path / "folder").mkdir()
    for out, file in {
        "folder": "folder/plot.png",
        "new/": "new/plot.png",
        "new/deep/x.svg": "new/deep/x.svg",
        "a.PDF": "a.PDF",
    }.items():
        code, said, err = call("plot", "runs/sums", "--out", f"{tmp_path}/{out}")
        assert (code, said, err) == (0, f"{tmp_path / file}\n", "") and (tmp_path / file).stat().st_size > 1000
    before = {*tmp_path.rglob("*")}
    for out, said in ("picture", "should end in .png"), ("picture.xyz", "xyz"):
        code, _, err = call("plot", "runs/sums", "--out", tmp_path / out)
        assert code in (1, 2) and is_sentence(err) and said in err
    assert before == {*tmp_path.rglob("*")}


def test_a_config_that_cannot_be_read(tmp_path):
    code, _, err = call("train", "--config", tmp_path)
    assert code in (1, 2) and is_sentence(err) and str(tmp_path) in err


def test_nothing_to_read_from():
    for words in ["tokenizer encode", "tokenizer decode", "train --resume --out runs/sums --write"]:
        code, _, err = call(*words.split(), given=None)
        assert code == 1 and is_sentence(err) and "closed" in err


def test_bytes_that_are_no_text():
    for given in b"\xff", b"ab\xc3", b"a" * 70000 + b"\xe5\xa5":
        code, _, err = call("tokenizer", "encode", given=given)
        assert code == 1 and is_sentence(err) and "UTF-8" in err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no /dev/full")
def test_a_full_disk_behind_the_output():
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "tinygpt", "tokenizer", "encode", "a text"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and is_sentence(done.stderr) and "the output: No space left" in done.stderr


# A run and its text


def test_a_text_that_changed_is_noticed_by_eval_and_resume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sums.txt").write_text(TEXT)
    Path("small.yaml").write_text(SETTINGS)
    assert call("train", "sums.txt", *SMALL, "--train.steps", 3)[0] == 0
    code, out, err = call("eval", "runs/sums", "sums.txt")
    assert code == 0 and not err
    Path("copy.txt").write_text(TEXT[:-3] + "9. ")
    assert call("eval", "runs/sums", "copy.txt")[::2] == (0, "")  # another text is another text
    Path("sums.txt").write_text(TEXT[:-3] + "9. ")
    code, out, err = call("eval", "runs/sums", "./sums.txt")
    assert code == 0 and re.search(r"sums.txt has changed .* \w{12}, and begins with \w{12}\n", err) and is_sentence(err)
    code, out, err = call("train", "--resume", "--out", "runs/sums")
    assert code == 1 and "another validation text" in err and is_sentence(err)


def test_a_second_command_leaves_nothing_in_the_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sums.txt").write_text(TEXT)
    Path("other.txt").write_text(TEXT.upper())
    Path("small.yaml").write_text(SETTINGS)
    said = []

    def second(record):
        if record.step == 1:
            said.append(call("train", "other.txt", *SMALL, *STEPS, "--out", "run"))

    real = tinygpt.train
    monkeypatch.setattr(tinygpt, "train", lambda *args: real(*args[:-1], [*args[-1], second]))
    settings = []
    monkeypatch.setattr(
        "tinygpt.cli.train.make_tokenizer",
        lambda *args: (settings.append(call("train", "other.txt", *SMALL, *STEPS, "--out", "run")), make_tokenizer(*args))[1],
    )
    assert call("train", "sums.txt", *SMALL, "--train.steps", 3, "--out", "run")[0] == 0
    for code, _, err in said + settings:
        assert code == 1, err
        assert "another run is writing into run" in err
    assert len(said) == len(settings) == 1 and "sums.txt" in Path("run/command.yaml").read_text()
    assert call("train", "--resume", "--out", "run")[0] == 0


def test_a_command_replaces_no_model_and_no_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sums.txt").write_text(TEXT)
    Path("small.yaml").write_text(SETTINGS)
    for kind in "model", "tokenizer":
        tok = CharTokenizer.train(TEXT)
        save(kind, GPT(GPTConfig.modern(tok.vocab_size, n_layer=1, n_embd=16)), tok) if kind == "model" else tok.save(kind)
        before = {path: path.read_bytes() for path in Path(kind).iterdir()}
        code, _, err = call("train", "sums.txt", *SMALL, "--train.steps", 3, "--out", kind)
        assert code == 1 and is_sentence(err) and kind in err and ".json" in err
        assert {path: path.read_bytes() for path in Path(kind).iterdir() if path.name != ".lock"} == before


@pytest.mark.parametrize("change", [(b"sums.txt", b"sumt.txt"), (b"text: ", b"#ext: "), (b"seed: 0", b"seed: 1")])
def test_changed_settings_of_a_run_are_noticed(tmp_path, change):
    shutil.copytree("runs/sums", tmp_path / "run")
    path = tmp_path / "run" / "command.yaml"
    path.write_bytes(path.read_bytes().replace(*change))
    for words in ["train", "--resume", "--out"], ["plot", "--out", tmp_path / "p.png"], ["eval"]:
        code, _, err = call(*words, tmp_path / "run")
        assert code == 1 and is_sentence(err) and "command.yaml is damaged" in err
