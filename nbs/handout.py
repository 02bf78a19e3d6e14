"""Writes the chapters without the solutions of their exercises, for a class: python nbs/handout.py"""

import json
import sys
from pathlib import Path

CHAPTERS = Path(__file__).resolve().parent


def is_solution(cell: dict) -> bool:
    """Whether a cell holds the solution of an exercise."""
    return "solution" in cell["metadata"].get("tags", [])


def main():
    """Write the chapters to the folder named first, or to handout/."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else CHAPTERS.parent / "handout"
    folder.mkdir(parents=True, exist_ok=True)
    n_chapters = n_solutions = 0
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        kept = [cell for cell in notebook["cells"] if not is_solution(cell)]
        n_chapters, n_solutions = n_chapters + 1, n_solutions + len(notebook["cells"]) - len(kept)
        text = json.dumps(notebook | {"cells": kept}, indent=1, ensure_ascii=False)
        (folder / path.name).write_text(text + "\n", encoding="utf-8")
    print(f"{folder}: {n_chapters} chapters, without their {n_solutions} solutions")


if __name__ == "__main__":
    main()
