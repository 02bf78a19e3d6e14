"""tinygpt sample: what it writes is what generate returns, as a text, in pieces, and as JSON; and what goes wrong."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from test_cli import EVIL, call, hit, is_sentence, proc, start
from tinygpt.cli.settings import spell
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.io.checkpoints import load, save
from tinygpt.presets import TRAINED
from tinygpt.sample import generate
from tinygpt.show.progress import CONTROL, printable
from tinygpt.tokenizer import BPETokenizer, CharTokenizer

LETTERS = "abcdefgh .\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with small models that write nonsense: of letters, of bytes, and without a tokenizer."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    toks = {"letters": CharTokenizer.train(LETTERS), "bytes": BPETokenizer.train("ab", 257, [f"<{EVIL}>"])}
    for name, tok in toks.items():
        config = GPTConfig.modern(tok.vocab_size, n_layer=1, n_embd=16, block_size=16, embedding_std=0.2)
        save(folder / name, GPT(config), tok)
    save(folder / "bare", GPT(GPTConfig.modern(300, n_layer=1, n_embd=16)))
    (folder / "hollow").mkdir()
    return folder


@pytest.fixture(autouse=True)
def inside(runs, monkeypatch):
    monkeypatch.chdir(runs)


def written(*words, **how):
    """What the command prints."""
    code, out, err = call("sample", *words, **how)
    assert code == 0 and not err, err
    return out


def expected(prompt, max_new_tokens=200, run="letters", **settings):
    """What generate returns."""
    return generate(*load(run), prompt, max_new_tokens, **settings)


# What it writes


def test_without_a_run_the_model_of_the_package_writes():
    text = expected("Once", 30, TRAINED, seed=7)
    assert written("-p", "Once", "-t", 30, "--seed", 7) == text + "\n" and text.startswith("Once upon a time")
    assert written("-p", "", "-t", 30, "--seed", 7) == expected("", 30, TRAINED, seed=7) + "\n"


def test_a_run_is_named_in_either_way():
    words = "-p", "ab", "-t", 9, "--seed", 1
    assert written("letters", *words) == written("-m", "letters", *words) == written("--model=letters", *words)
    assert written(*words, "./letters/") == expected("ab", 9, seed=1) + "\n"


@pytest.mark.parametrize(
    "words, settings",
    {
        "-T 0": {"temperature": 0},
        "-T 3.5": {"temperature": 3.5},
        "--temperature=0.5": {"temperature": 0.5},
        "-k 2": {"top_k": 2},
        "--top-k 3 -T 2": {"top_k": 3, "temperature": 2},
        "--top_k 3": {"top_k": 3},
        "--top-p 0.5": {"top_p": 0.5},
        "--min-p 0.9": {"min_p": 0.9},
        "--repetition-penalty 4": {"repetition_penalty": 4},
        "--stop a --stop=b": {"stop": ["a", "b"]},
        "--dtype bfloat16": {"dtype": "bfloat16"},
        "--dtype float32 -d cpu": {},
    }.items(),
)
def test_each_setting_is_that_of_generate(words, settings):
    text = expected("cd", 60, seed=4, **settings)
    assert written("letters", "-p", "cd", "-t", 60, "--seed", 4, *words.split()) == text + "\n"
    if settings:
        assert text != expected("cd", 60, seed=4)


def test_several_texts_have_the_next_seeds_and_a_blank_line_between_them():
    texts = expected(["ab"] * 3, 20, seed=5)
    assert len(set(texts)) == 3
    assert written("letters", "-p", "ab", "-t", 20, "--seed", 5, "--num", 3) == "\n\n".join(texts) + "\n"
    assert written("letters", "-p", "ab", "-t", 20, "--seed", 6) == texts[1] + "\n"
    drawn = [written("letters", "-p", "ab", "-t", 20) for _ in "ab"]
    assert drawn[0] != drawn[1]  # each time another seed


def test_json_is_one_object_a_line():
    lines = written("letters", "-p", "ab\n", "-t", 20, "--seed", 5, "--num", 3, "--json").splitlines()
    texts = expected(["ab\n"] * 3, 20, seed=5)
    assert [json.loads(line) for line in lines] == [
        {"prompt": "ab\n", "text": text, "seed": 5 + i, "tokens": 20} for i, text in enumerate(texts)
    ]
    found = json.loads(written("letters", "-p", "ab", "-t", 20, "--json"))  # the seed that it took
    assert found["text"] == expected("ab", 20, seed=found["seed"])
    assert written("bytes", "-p", "ab", "-t", 200, "--seed", 2, "--json").isascii()


def test_json_counts_the_tokens_that_were_drawn():
    found = json.loads(written("letters", "-p", "ab", "--seed", 5, "--stop", "a", "--json"))
    assert found["tokens"] == len(found["text"]) - len("ab") + len("a")  # a token is a letter
    assert json.loads(written("letters", "-p", "ab", "-t", 0, "--json"))["tokens"] == 0
    tale = json.loads(written("-p", "Once", "--seed", 3, "-t", 250, "--json"))
    one_less, two_less = (expected("Once", tale["tokens"] - n, TRAINED, seed=3) for n in (1, 2))
    assert tale["tokens"] < 250 and tale["text"] == one_less != two_less  # the last token is <|end|>


def test_no_control_character_reaches_the_terminal():
    out, text = written("bytes", "-p", "ab", "--seed", 2), expected("ab", 200, "bytes", seed=2)
    assert CONTROL.search(text) and not CONTROL.search(out) and out == printable(text) + "\n"


# Where the prompt comes from


@pytest.mark.parametrize("given", ["ab", "ab\n", "ab\r\n", "ab\ncd\n\n", "\n\n", "cd\n "])
def test_a_dash_reads_the_prompt_from_stdin(given):
    prompt = re.sub(r"\r?\n\Z", "", given)
    words = "letters", "-p", "-", "-t", 9, "--seed", 1
    assert written(*words, given=given.encode()) == expected(prompt, 9, seed=1) + "\n"


def test_without_a_prompt_it_continues_line_after_line():
    given = "ab\n\ncd\r\nab".encode()
    texts = [expected(prompt, 9, seed=seed) for seed, prompt in enumerate(["ab", "cd", "ab"])]
    words = "letters", "-t", 9, "--seed", 0
    assert written(*words, given=given) == "".join(f"{text}\n\n" for text in texts)
    found = [json.loads(line) for line in written(*words, "--json", "--num", 2, given=given).splitlines()]
    assert [(line["seed"], line["prompt"]) for line in found] == [*enumerate(["ab", "ab", "cd", "cd", "ab", "ab"])]
    assert all(line["text"] == expected(line["prompt"], 9, seed=line["seed"]) for line in found)
    assert written(*words, given=b"") == ""


def test_an_empty_line_is_a_prompt_where_texts_begin_with_an_end_token():
    text = expected("", 9, TRAINED, seed=0)
    assert written("-t", 9, "--seed", 0, given=b"\n") == f"{text}\n\n"


def test_a_line_that_cannot_be_read_is_said_and_the_next_one_asked_for():
    code, out, err = call("sample", "letters", "-t", 9, "--seed", 3, given="ab\né\ncd\n".encode())
    assert code == 0 and is_sentence(err) and "'é'" in err
    assert out == "".join(f"{expected(prompt, 9, seed=seed)}\n\n" for prompt, seed in (("ab", 3), ("cd", 5)))


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_it_asks_in_a_terminal():
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tinygpt", "sample", "letters", "-t", "9", "-T", "0", "--seed", "1"]
    running = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "dumb"}, start_new_session=True
    )
    os.close(theirs)
    shown = ""

    def wait_for(what):
        nonlocal shown
        while what not in shown:
            shown += os.read(ours, 1000).decode()
        before, _, shown = shown.partition(what)
        return before

    texts = {prompt: printable(expected(prompt, 9, temperature=0)).replace("\n", "\r\n") for prompt in ("abc", "d")}
    assert wait_for("> ") == "Type the beginning of a text; Ctrl-D ends.\r\n"
    for typed, prompt in {"ab\x7fbc": "abc", "d": "d"}.items():  # with a slip, and backspace
        os.write(ours, f"{typed}\n".encode())
        wait_for("\r\n")
        assert wait_for("> ") == f"{texts[prompt]}\r\n\r\n"
    os.write(ours, b"\x04")
    assert wait_for("\r\n") == "" and running.wait(60) == 0
    os.close(ours)


# While it writes


@proc
def test_it_writes_as_it_goes_and_control_c_ends_it_with_one_line():
    running, _ = start(["sample", "letters", "-p", "ab", "-t", 10**6, "--seed", 1])
    begun = running.stdout.read(40)
    assert running.poll() is None  # a million tokens take minutes
    code, _, err = hit(running, signal.SIGINT)
    assert code == 130 and err == "tinygpt: stopped\n" and begun == expected("ab", 38, seed=1)


def test_each_token_is_written_before_the_next_is_drawn(monkeypatch):
    shown, steps = [], []

    class Out:
        encoding = "utf-8"

        def write(self, text):
            self.text = getattr(self, "text", "") + text

        def flush(self):
            shown.append(self.text)

        def isatty(self):
            return False

    from tinygpt import sample as lesson

    real = lesson.draw
    monkeypatch.setattr(lesson, "draw", lambda *args: (steps.append(len(shown[-1]) if shown else 0), real(*args))[1])
    monkeypatch.setattr(sys, "stdout", Out())
    from tinygpt.cli.sample import sample

    sample("letters", prompt="ab", max_tokens=5, seed=1)
    assert steps == [0, 3, 4, 5, 6] and shown[-1] == expected("ab", 5, seed=1) + "\n"


def test_an_error_amid_a_text_begins_a_line_of_its_own(monkeypatch, capsys):
    from tinygpt import sample as lesson
    from tinygpt.cli import main

    real, calls = lesson.draw, []

    def fail_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise ValueError("the logits are NaN")
        return real(*args)

    monkeypatch.setattr(lesson, "draw", fail_third)
    code = main(["sample", "letters", "-p", "ab", "-t", "5", "--seed", "1"])
    out, err = capsys.readouterr()
    assert code == 1 and err == "tinygpt: the logits are NaN\n" and out == expected("ab", 2, seed=1) + "\n"


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of pipe")
def test_a_reader_that_leaves_early():
    command = [sys.executable, "-m", "tinygpt", "sample", "letters", "-p", "ab", "-t", "1000000", "--seed", "1"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.read(10)
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == 141 and not err


# What goes wrong

BAD = {  # words, exit code, what is said
    "top-k 0": ("letters -p a -k 0", 2, "top_k=0 should be a whole number from 1"),
    "top-k fraction": ("letters -p a -k 1.5", 2, "top_k='1.5' should be a whole number"),
    "top-k null": ("letters -p a -k null", 2, "should be a whole number"),
    "top-k without a value": ("letters -p a -k", 2, "--top-k needs a value"),
    "top-p": ("letters -p a --top-p 1.1", 2, "top_p=1.1 .* from 0 to 1"),
    "min-p": ("letters -p a --min-p -1", 2, "min_p=-1.0 .* from 0 to 1"),
    "temperature": ("letters -p a -T -1", 2, "temperature=-1.0"),
    "temperature nan": ("letters -p a -T nan", 2, "temperature='nan' should be a number"),
    "temperature word": ("letters -p a -T hot", 2, "temperature='hot' should be a number"),
    "repetition penalty": ("letters -p a --repetition-penalty 0", 2, "repetition_penalty=0.0"),
    "max tokens": ("letters -p a -t -1", 2, "max_tokens=-1"),
    "num": ("letters -p a --num 0", 2, "num=0 should be a whole number from 1"),
    "seed": ("letters -p a --seed -1", 2, "seed=-1"),
    "seed of the last text": (f"letters -p a --num 2 --seed {2**32 - 1}", 2, f"from 0 to {2**32 - 2}"),
    "stop": ("letters -p a --stop=", 1, "none of them empty"),
    "dtype": ("letters -p a --dtype int8", 2, "'float32', 'bfloat16', 'float16'"),
    "device": ("letters -p a -d gpu", 2, "'auto', 'cpu', 'cuda'"),
    "two runs": ("letters -m letters -p a", 2, "two models are given, letters and --model letters"),
    "two words": ("letters bytes -p a", 2, "bytes is one word too many"),
    "option": ("letters -p a --tempreature 1", 2, "did you mean --temperature"),
    "no such flag": ("letters -p a -x", 2, "unknown option -x"),
    "prompt with a dash": ("letters -p -x", 2, "--prompt needs a value .* --prompt=-..."),
    "run": ("./new -p a", 1, "there is no folder './new'"),
    "run nearly right": ("./leters -p a", 1, "did you mean .*letters"),
    "run without a model": ("hollow -p a", 1, "hollow"),
    "run without a tokenizer": ("bare -p a", 1, "bare has no tokenizer"),
    "empty prompt": ("letters -p=", 1, "the prompt is empty"),
    "unknown letter": ("letters -p é", 1, "'é'"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_sentence_and_the_right_code(name, monkeypatch):
    words, code, said = BAD[name]
    if code == 2:  # found before anything is done
        monkeypatch.setattr("tinygpt.load", None)
    got, out, err = call("sample", *words.split())
    assert is_sentence(err) and got == code and re.search(said, err) and not out, (got, err)


def test_a_prompt_in_place_of_a_run_is_noticed():
    code, out, err = call("sample", "Once upon a time")
    assert code == 2 and is_sentence(err) and "given with --prompt" in err and not out


def test_an_input_that_cannot_be_read():
    for words in ["-p", "-"], []:
        for given, said in (None, "closed"), (b"a\xff", "UTF-8"):
            code, out, err = call("sample", "letters", *words, given=given)
            assert code == 1 and is_sentence(err) and said in err and not out


# How options are written


def test_dash_and_underscore_are_the_same_in_an_options_name():
    options = ["-k", "--top-k", "--vocab_size", "--train.batch_size"]
    words = "a_b --top_k --top-k=x_y --vocab-size --train.batch-size=1 --no_such -k -- --top_k"
    spelled = "a_b --top-k --top-k=x_y --vocab_size --train.batch_size=1 --no_such -k -- --top_k"
    assert spell(words.split(), options) == spelled.split()
    one, other = (call("train", "--print-config", f"--train.batch{sign}size", 3) for sign in "-_")
    assert one == other and one[0] == 0 and "batch_size: 3" in one[1]


def test_the_words_null_and_true_are_words():
    for word in "null", "true", "5", "{a: 1}", "~":
        ids = " ".join(map(str, load(TRAINED)[1].encode(word)))
        assert call("tokenizer", "encode", word) == (0, f"{ids}\n", "")
        assert written("-p", word, "-t", 0) == f"{word}\n"
