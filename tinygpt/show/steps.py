"""How far a loop is."""

import sys
from collections.abc import Iterator
from time import perf_counter

__all__ = ["progress"]

def in_notebook() -> bool:
    "Whether this runs in a notebook, where pictures can be displayed."
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")

def progress(steps: int) -> Iterator[int]:
    "The numbers from 0 to steps - 1; a notebook shows meanwhile how many of them are done."
    if not in_notebook():
        yield from range(steps)
        return
    from IPython.display import display
    start = shown = perf_counter()
    handle = display({"text/plain": f"step 0 of {steps}"}, raw=True, display_id=True)
    for step in range(steps):
        yield step
        if perf_counter() - shown > 0.5:
            handle.update({"text/plain": f"step {step + 1} of {steps}"}, raw=True)
            shown = perf_counter()
    handle.update({"text/plain": f"{steps} steps in {perf_counter() - start:.0f} s"}, raw=True)
