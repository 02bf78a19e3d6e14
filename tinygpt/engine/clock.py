"""How long a run has taken, and how many steps it will have if it is to end after some minutes."""

from time import perf_counter


class Clock:
    "Counts the seconds of a run, those before a resume included, and plans its steps from their pace so far."

    def __init__(self, run):
        self.start = perf_counter() - run.seconds
        self.first = None  # when the first step ended, which is slower than the others, and its number

    def seconds(self) -> float:
        return perf_counter() - self.start

    def start_step(self):
        self.step_start = perf_counter()

    def end_step(self, run):
        "Note how long the step took; a run by minutes gets its number of steps anew."
        now = perf_counter()
        run.seconds, self.step_seconds = now - self.start, now - self.step_start
        if run.config.minutes is None:
            return
        pace = self.step_seconds
        if self.first is None:
            self.first = now, run.step
        else:
            pace = (now - self.first[0]) / (run.step - self.first[1])
        left = 60 * run.config.minutes - run.seconds
        run.steps = max(run.step, run.step + round(left / pace))
