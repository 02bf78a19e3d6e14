"""tinygpt chat: in a pipe and in a real terminal."""

import io
import json
import os
import re
import signal
import sys
import time

import pytest
import tinygpt as tg
import torch
from conftest import ROOT
from tinygpt.cli import main

FACTS = "Ida has three purple vases and lives behind a barn. She is sad because there is no tea."
COMMAND = [sys.executable, "-m", "tinygpt", "chat"]


@pytest.fixture
def env(tmp_path):
    return os.environ | {"TINYGPT_CACHE": str(tmp_path / "cache"), "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def piped(monkeypatch, capsys):
    """Run the command in this process with a text as its input; returns its exit code, and what it printed."""

    def run(text, *options):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        code = main(["chat", *options])
        return code, *capsys.readouterr()

    return run


def test_a_conversation_in_a_pipe(piped, tmp_path):
    kept = tmp_path / "talk.json"
    lines = [f"{FACTS} Where does Ida live?", "", "/status", "And what does she have?", f"/save {kept}", "/clear", "/status",
             f"/load {kept}", "/status", "/quit", "never read"]
    code, out, err = piped("\n".join(lines))
    assert code == 0 and "never" not in out
    messages = json.loads(kept.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    told = out.splitlines()
    assert told[0] == messages[1]["content"] and told[2] == messages[3]["content"]
    assert re.fullmatch(r"  2 messages, \d+ of 256 tokens of the window; conversation mode", told[1])
    assert "  0 messages, 0 of 256" in out and out.count("  4 messages") == 1
    assert f"> {lines[0]}" in told  # as /load shows it
    assert "forgotten" in err and str(kept) in err


def test_the_answer_depends_on_what_was_said_before_unless_the_mode_is_single(piped):
    question = "Where does Ida live?"
    _, out, _ = piped(f"{FACTS} Why is Ida sad?\n{question}")
    _, alone, _ = piped(question)
    _, single, err = piped(f"/mode single\n{FACTS} Why is Ida sad?\n{question}\n/status")
    assert single.splitlines()[1] == alone.splitlines()[0] and "on its own" in err
    assert out.splitlines()[0] == single.splitlines()[0]
    assert "2 messages" in single and "single mode" in single


def test_settings_are_checked_and_reset(piped):
    lines = ["/set temperature 0.5", "/set top_k 3", "/set stop .", "/set temperature hot", "/set tempersture 1", "/set top_k",
             "/set max_tokens 0", "/set seed 4", "/settings", "/reset", "/settings", "/hepl", "/set top_k off", "/help"]
    code, out, err = piped("\n".join(lines))
    assert code == 0
    shown = out.split("max_tokens ")
    assert re.search(r"temperature +0.5\n +top_k +3", shown[5]) and re.search(r"seed +4", shown[5])
    assert re.search(r"temperature +0.0\n +top_k +off", shown[6]) and "stop               off" in shown[6]
    errors = [line for line in err.splitlines() if "forgotten" not in line]
    assert [word in line for word, line in zip(
        ["temperature='hot' should be a number", "did you mean temperature?", "/set NAME VALUE", "max_tokens=0", "/help?"],
        errors, strict=True)] == [True] * 5
    assert all(f"/{name}" in shown[7] for name in "help settings set clear reset status mode info load save quit".split())


def test_one_question(piped):
    assert piped("", "-p", f"{FACTS} Where does Ida live?")[0] == 0
    code, out, _ = piped("", "-p", FACTS + " Why is Ida sad?", "--json")
    assert code == 0 and json.loads(out).keys() == {"question", "answer"}
    code, read, _ = piped(FACTS + " Why is Ida sad?\n", "-p", "-", "--json")
    assert (code, read) == (0, out)
    seeded = [piped("", "-p", "Tell me a tale.", "-T", "1", "--seed", seed)[1] for seed in "112"]
    assert seeded[0] == seeded[1] != seeded[2]


@pytest.mark.parametrize(("options", "code", "said"), [
    (["nowhere/at/all"], 1, "nowhere"),
    ([str(ROOT / "tinygpt" / "assets" / "vocabulary")], 1, "config.json"),
    (["-T", "-1"], 2, "temperature=-1"),
    (["-t", "0"], 2, "max_tokens=0"),
    (["a", "-m", "b"], 2, "two models"),
    (["-p", "far " * 400], 1, "shorten it"),
])  # fmt: skip
def test_what_is_wrong_is_one_sentence(piped, options, code, said):
    got, out, err = piped("hello", *options)
    assert got == code and out == "" and len(err.splitlines()) == 1 and said in err


def test_a_run_without_chat_tokens_is_explained(piped, tmp_path):
    tok = tg.CharTokenizer.train("Hello")
    tg.save(tmp_path, tg.GPT(tg.GPTConfig.modern(tok.vocab_size, n_layer=1, n_head=2, n_embd=8)), tok)
    code, out, err = piped("hello", str(tmp_path))
    assert (code, out) == (1, "") and "learned no conversations" in err


def test_an_error_in_a_conversation_does_not_end_it(piped, tmp_path):
    (tmp_path / "bad.json").write_text('{"messages": [{"role": "robot", "content": "x"}]}')
    lines = ["far " * 400, "/load missing.json", f"/load {tmp_path / 'bad.json'}", f"/load {tmp_path}", "/save /proc/none/x",
             "/status"]
    code, out, err = piped("\n".join(lines))
    assert code == 0 and "  0 messages" in out
    assert [line.startswith("tinygpt: ") for line in err.splitlines()] == [True] * 5


def test_old_turns_are_forgotten_and_it_says_so(piped):
    lines = [f"{FACTS} Where does Ida live?"] * 9 + ["/status"]
    code, out, err = piped("\n".join(lines))
    assert code == 0 and "no longer fit" in err
    assert int(re.search(r"(\d+) messages", out)[1]) < 18


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, command, env):
        import fcntl
        import pty
        import struct
        import termios

        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, env)
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("4H", 30, 120, 0, 0))
        self.seen, self.prompts = "", 0

    def read(self, wanted, seconds=60):
        import select

        start, end = len(self.seen), time.monotonic() + seconds
        while not (wanted(self) if callable(wanted) else wanted in self.seen[start:]) and time.monotonic() < end:
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    data = os.read(self.file, 65536)
                except OSError:  # the command has ended
                    data = b""
                if not data:
                    break
                if b"\x1b[6n" in data:  # it asks where the cursor is
                    os.write(self.file, b"\x1b[1;1R")
                self.prompts += data.count(b"\x1b[?2004h")  # a prompt lets the terminal mark what is pasted
                self.seen += re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\x1b[=>]|\r", "", data.decode(errors="replace"))
        assert wanted(self) if callable(wanted) else wanted in self.seen[start:], self.seen
        return self.seen[start:]

    def prompt(self, number):
        """What is shown up to the prompt with this number."""
        return self.read(lambda terminal: terminal.prompts >= number)

    def type(self, keys):
        time.sleep(0.3)
        os.write(self.file, keys.encode())

    def end(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.1)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"it did not end: {self.seen}")


needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


@needs_pty
def test_a_conversation_in_a_terminal(env):
    terminal = Terminal(COMMAND, env)
    assert "/help" in terminal.prompt(1)
    terminal.type("/sttus\r")
    assert "did you mean /status?" in terminal.prompt(2)
    terminal.type("/staxtus\x1b[D\x1b[D\x1b[D\x7f\r")  # three to the left, then backspace
    assert "0 messages" in terminal.prompt(3)
    terminal.type(f"{FACTS} Where does Ida live?\r")
    terminal.prompt(4)
    terminal.type("\x1b[A\x1b[A\r")  # the last line but one again
    assert "2 messages" in terminal.prompt(5)
    terminal.type("\x04")  # Ctrl-D
    assert terminal.end() == 0
    again = Terminal(COMMAND, env)  # the history outlives it
    again.prompt(1)
    again.type("\x1b[A\r")
    assert "0 messages" in again.prompt(2)
    again.type("/quit\r")
    assert again.end() == 0


@needs_pty
def test_ctrl_c_stops_the_answer_and_twice_leaves(env, tmp_path):
    torch.manual_seed(0)
    tg.save(tmp_path / "endless", tg.GPT(tg.GPTConfig.named("tiny", tied=False)), tg.the_tokenizer())  # it never ends
    terminal = Terminal([*COMMAND, str(tmp_path / "endless"), "-t", "4000000"], env)
    terminal.prompt(1)
    for prompt in 2, 3:  # more than once
        terminal.type("Tell me a tale.\r")
        time.sleep(1)
        terminal.type("\x03")
        assert "tinygpt: stopped" in terminal.prompt(prompt)
    terminal.type("\x03")
    assert "once more" in terminal.prompt(4)
    terminal.type("/status\r")
    assert "2 messages" in terminal.prompt(5)  # the first turn no longer fits
    terminal.type("\x03")
    terminal.prompt(6)
    terminal.type("\x03")
    assert terminal.end() == 130


@needs_pty
def test_sigterm_ends_it(env):
    terminal = Terminal(COMMAND, env)
    terminal.prompt(1)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() in (130, -signal.SIGTERM)
