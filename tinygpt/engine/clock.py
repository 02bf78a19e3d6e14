"""How long a run has taken, and how many steps it will have if it is to end after some minutes."""

from time import perf_counter

class Clock:
    "Counts the seconds of a run, those before a resume included, and plans its steps from their pace so far."

    def __init__(self, run):
        self.start = perf_counter() - run.seconds
        self.first = None  # the number of the first step, which is slower than the others, and when it ended

    def seconds(self) -> float:
        return perf_counter() - self.start

    def start_step(self):
        self.step_start = perf_counter()

    def end_step(self, run):
        "Note how long the step took; a run by minutes gets its number of steps anew."
        now = perf_counter()
        self.step_seconds = now - self.step_start
        run.seconds = now - self.start
        if run.config.minutes is None:
            return
        self.first = self.first or (run.step, now)
        first_step, first_end = self.first
        pace = (now - first_end) / (run.step - first_step) if run.step > first_step else self.step_seconds
        seconds_left = max(0, 60 * run.config.minutes - run.seconds)
        run.steps = run.step + round(seconds_left / pace)
