"""The command line: each command is a function in its own file, and `main` calls it."""

import errno
import os
import re
import sys
import warnings
from contextlib import suppress
import tinygpt
from tinygpt.cli import bench, chat, evaluate, play, plot, sample, tokenizer, train
from tinygpt.cli.settings import UsageError, add_arguments, add_settings, new_parser, parse, suggest
from tinygpt.engine.interrupts import raise_interrupt, say_stopped
from tinygpt.show.progress import one_line

TOKENIZER = {"train": tokenizer.train, "encode": tokenizer.encode, "decode": tokenizer.decode}
COMMANDS = {"train": train.train, "sample": sample.sample, "chat": chat.chat, "eval": evaluate.evaluate, "tokenizer": TOKENIZER,
            "bench": bench.bench, "plot": plot.plot, "play": play.play}
NO_MEMORY = re.compile("allocate memory|out of memory|Storage size calculation overflow")  # PyTorch's messages
ABOUT = {"tinygpt": "Train a GPT, write and talk with it, and evaluate it.", "tokenizer": "Train a tokenizer, or use one."}

def help_of(path: str, group: dict) -> str:
    "The help text of a group of commands, with a line for each."
    lines = "".join(f"  {name:<12}{ABOUT.get(name) or command.__doc__}\n" for name, command in group.items())
    return (f"usage: {path} COMMAND ...\n\n{ABOUT[path.split()[-1]]}\n\ncommands:\n{lines}\n"
            f"{path} COMMAND --help shows the options of a command; tinygpt --version, the version.")

def run_command(words: list[str]) -> int | None:
    "Call the command that the first words name with the arguments after them; returns the exit code, or None for 0."
    path, command = "tinygpt", COMMANDS
    while isinstance(command, dict):
        if not words:
            raise UsageError(f"expected one of {', '.join(command)}: see {path} --help")
        word, *words = words
        if word in ("-h", "--help"):
            return print(help_of(path, command))
        if word == "--version" and command is COMMANDS:
            return print(f"tinygpt {tinygpt.__version__}")
        if word not in command:
            raise UsageError(f"{word!r} is not one of {', '.join(command)}{suggest(word, command)}")
        path, command = f"{path} {word}", command[word]
    parser = new_parser(path, command.__doc__)
    add_arguments(parser, command)
    if command is train.train:
        parser.usage = f"{path} [TEXT] [options]"
        add_settings(parser, train.run_settings({}, None, None, False)[0] if {"-h", "--help"} & set(words) else None)
    with suppress(SystemExit):  # after --help
        return command(**parse(parser, words))

def fail(code: int, message: object) -> int:
    "Print a message as one line on stderr; returns the exit code."
    print(f"tinygpt: {one_line(message)}", file=sys.stderr)
    return code

def reason(error: Exception) -> str:
    "A message that says what went wrong and what to do."
    if isinstance(error, MemoryError) and str(error).startswith("out of memory with"):
        return str(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return "there is not enough memory: take a smaller model, fewer or shorter rows in a batch, or less text"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install {error.name}"
    if isinstance(error, OSError) and error.errno:
        advice = ": free some space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{error.filename or 'the output'}: {error.strerror}{advice}"  # no file name: the output
    return str(error) or type(error).__name__

def outcome(words: list[str]) -> int:
    "Run a command line; returns the exit code, after a sentence on stderr where something is wrong."
    try:
        code = run_command(words)
        sys.stdout.flush()
        return code or 0
    except UsageError as error:
        return fail(2, error)
    except BrokenPipeError:  # the reader of our output is gone, so nothing is flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ModuleNotFoundError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        return fail(1, reason(error))

def main(words: list[str] | None = None) -> int:
    "Run a command line, by default that of the process; returns the exit code."
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (None if it was closed)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        with raise_interrupt(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: fail(0, message)
            return outcome(sys.argv[1:] if words is None else list(words))
    except KeyboardInterrupt:
        return say_stopped()
