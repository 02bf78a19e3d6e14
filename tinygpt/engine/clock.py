"""The clock of a run: its seconds so far, and the number of steps that fit into a limit in minutes."""

from time import perf_counter

class Clock:
    "Measures the seconds of a run, including those before a resume, and plans its steps from the pace so far."

    def __init__(self, run):
        self.start = perf_counter() - run.seconds
        self.first = None  # the number of the first step, which is slower than the others, and when it ended

    def seconds(self) -> float:
        return perf_counter() - self.start

    def start_step(self):
        self.step_start = perf_counter()

    def end_step(self, run):
        "Record how long the step took; if the run has a limit in minutes, update its number of steps."
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
