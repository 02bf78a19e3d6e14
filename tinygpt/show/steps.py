"""How far a loop is."""

import sys
from collections.abc import Iterator
from time import perf_counter

__all__ = ["progress"]

def in_notebook() -> bool:
    "Whether this runs in a notebook, where pictures can be displayed."
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")

class StepCounter:
    "A line in a notebook that says how far a loop is and, at its end, how long it took."

    def __init__(self, step: int, steps: int, unit: str = "step"):
        from IPython.display import display
        self.unit = unit
        self.start = self.shown = perf_counter()
        self.handle = display({"text/plain": f"{unit} {step} of {steps}"}, raw=True, display_id=True)

    def update(self, step: int, steps: int, note: str = ""):
        "Show a step: the last one, or one that is half a second after the one shown before."
        now, text = perf_counter(), f"{self.unit} {step} of {steps}{note}"
        if step >= steps:
            text = f"{steps} {self.unit}s in {now - self.start:.0f} s"
        elif now - self.shown < 0.5:
            return
        self.handle.update({"text/plain": text}, raw=True)
        self.shown = now

def progress(steps: int, unit: str = "step") -> Iterator[int]:
    "The numbers from 0 to steps - 1; a notebook shows meanwhile how many of them are done."
    counter = StepCounter(0, steps, unit) if in_notebook() else None
    for step in range(steps):
        yield step
        if counter:
            counter.update(step + 1, steps)
