"""Runs the commands of terminal.md and help.md and writes what they print below them. python docs/terminal.py"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = [DOCS / "terminal.md", DOCS / "help.md"]
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.M | re.S)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)", re.M)  # a line that ends in a backslash goes on in the next one


def prepare(folder: Path) -> dict[str, str]:
    """An environment in which `python` and `tinygpt` are this project's, in a folder without a GPU or old files."""
    (folder / "bin").mkdir(parents=True)
    for name, words in {"python": "", "tinygpt": "-m tinygpt"}.items():
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        command.chmod(0o755)
    ours = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(DOCS.parent)}
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
            lines += [f"$ {command}", printed.replace(f"{folder / 'home'}/", "")]
        return "".join(lines)

    return BLOCK.sub(again, page)


if __name__ == "__main__":
    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(tour(page.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")
            for picture in Path(folder, "home").glob("*.png"):
                shutil.copy(picture, DOCS / "_static")
