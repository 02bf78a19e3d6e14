"""Copies the chapters to the learner's own folder, and never over what the learner has written there."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

CHAPTERS = Path(__file__).resolve().parent


def digest(data: bytes) -> str:
    """A short name for these bytes."""
    return hashlib.sha256(data).hexdigest()


def cells_of(data: bytes):
    """A digest of what a notebook's cells say, which running them leaves alone; None where it cannot be read."""
    try:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(data)["cells"]]
    except (ValueError, KeyError, TypeError):
        return None
    # running the last cell in JupyterLab adds a blank one
    return digest(json.dumps([cell for cell in cells if cell[1].strip()]).encode())


def write(path: Path, data: bytes):
    """Replace a file in one step, so that an interruption leaves the old or the new one whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def recall(memory: Path) -> dict:
    """What earlier calls copied: for each name, the digests of the file and of its cells."""
    try:
        return {name: (file, cells) for name, (file, cells) in json.loads(memory.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def copy(chapters: Path, folder: Path) -> list:
    """Bring `folder` up to date with the notebooks in `chapters`; sentences that say what was done."""
    folder.mkdir(parents=True, exist_ok=True)
    memory = folder / ".copied.json"
    seen, remembered, copied, said = recall(memory), {}, [], []
    present = {path.name: path.read_bytes() for path in sorted(chapters.glob("*.ipynb"))}
    for name, data in present.items():
        own, old, new = folder / name, seen.get(name), (digest(data), cells_of(data))
        mine = cells_of(own.read_bytes()) if own.exists() else None
        if not own.exists() or old and old != new and mine and mine in (old[1], new[1]):
            write(own, data)
            copied.append(name)
            remembered[name] = new
        elif mine == new[1]:
            remembered[name] = new
        else:
            if mine is None:
                said.append(f"kept your {name}, which cannot be read as a notebook: rename it to get the chapter again")
            elif not old or old[1] != new[1]:
                said.append(f"kept your {name}, which differs from the present chapter: rename it to get the new one")
            if old:
                remembered[name] = old
    for name in seen.keys() - present.keys():
        own = folder / name
        if own.exists() and cells_of(own.read_bytes()) == seen[name][1]:
            own.unlink()
            said.append(f"removed {name}, which the course no longer has")
        elif own.exists():
            said.append(f"kept your {name}, which the course no longer has")
    write(memory, json.dumps(remembered, indent=1).encode())
    return ([f"copied {', '.join(copied)}"] if copied else []) + said


def trust(chapters: Path, folder: Path) -> bool:
    """Let Jupyter show the saved pictures and sliders of the copies that are just as the course made them."""
    same = [
        folder / path.name
        for path in chapters.glob("*.ipynb")
        if path.read_bytes() == (folder / path.name).read_bytes()
    ]
    command = [sys.executable, "-m", "nbformat.sign", *map(str, same)]
    return not same or subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def main():
    """Copy the chapters to the folder named first, or to learn/, and print the path of the first one."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else CHAPTERS.parent / "learn"
    try:
        for line in copy(CHAPTERS, folder):
            print(line, file=sys.stderr)
        trusted = trust(CHAPTERS, folder)
    except OSError as error:
        sys.exit(f"Your copy of the chapters could not be brought up to date: {error}")
    if not trusted:
        print("Jupyter will not show saved sliders until you run this with the Python in .venv", file=sys.stderr)
    print(folder / min(path.name for path in CHAPTERS.glob("*.ipynb")))


if __name__ == "__main__":
    main()
