"""Runs the commands of terminal.md and writes what they print below them. python docs/terminal.py"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).with_name("terminal.md")
PICTURE = PAGE.parent / "_static" / "plot.png"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.M | re.S)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)", re.M)  # a line that ends in a backslash goes on in the next one


def prepare(folder: Path) -> dict[str, str]:
    """An environment in which `tinygpt` is this project's command, in a folder without a GPU or old files."""
    command = folder / "bin" / "tinygpt"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tinygpt "$@"\n')
    command.chmod(0o755)
    ours = {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(PAGE.parents[1])}
    plain = {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | ours | plain


def run(command: str, status: int, recorded: str, folder: Path, env: dict) -> tuple[str, int]:
    """Run a command after one with this exit status; return what it prints, and its own exit status.

    Where the page has ^C, press Control-C after as many lines as stand before it.
    """
    before, interrupted, _ = recorded.partition("^C\n")
    shell = subprocess.Popen(
        ["bash", "-c", f"(exit {status}); {command}"],
        cwd=folder,
        env=env,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    printed = []
    if interrupted:
        printed += [shell.stdout.readline() for _ in before.splitlines()] + ["^C\n"]
        os.killpg(shell.pid, signal.SIGINT)
    printed.append(shell.stdout.read())
    return "".join(printed), shell.wait()


def tour(page: str, folder: Path) -> str:
    """The page with what its commands print now, run one after the other in a folder."""
    env, status = prepare(folder), 0
    (folder / "home").mkdir()

    def again(block: re.Match) -> str:
        nonlocal status
        lines = []
        _, *parts = COMMAND.split(block[0])
        for command, recorded in zip(parts[::2], parts[1::2]):
            printed, status = run(command, status, recorded, folder / "home", env)
            lines += [f"$ {command}", printed]
        return "".join(lines)

    return BLOCK.sub(again, page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(tour(PAGE.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")
        shutil.copy(Path(folder, "home", "plot.png"), PICTURE)
