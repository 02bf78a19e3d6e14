"""Checks that diagnose: each returns a verdict that says what is wrong and where, and never raises."""

import copy
import functools
import html
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager

from tinygpt.show.pictures import Picture

MARKS = {"right": ("Right.", "#1f9e77"), "wrong": ("Not yet.", "#d9730d"), "blank": ("To be written.", "#7b818a")}


class Verdict:
    "What a check found: drawn in a notebook, printed in a terminal, true if the answer is right."

    def __init__(self, state: str, message: str, picture: Picture | None = None):
        self.state, self.message, self.picture = state, message, picture

    def __bool__(self):
        return self.state == "right"

    def __repr__(self):
        drawn = f"\n{self.picture}" if self.picture else ""
        return f"{MARKS[self.state][0]} {self.message}{drawn}"

    def _repr_html_(self):
        word, color = MARKS[self.state]
        drawn = self.picture.html if self.picture else ""
        return (
            f'<div style="border-left:4px solid {color};padding:.4em .9em;margin:.3em 0">'
            f'<strong style="color:{color}">{word}</strong> {html.escape(self.message)}{drawn}</div>'
        )


class Finding(BaseException):
    "Raised inside a check: what is wrong with the answer. (No Exception, or an answer could catch it.)"

    def __init__(self, message: str, picture: Picture | None = None, state: str = "wrong"):
        self.verdict = Verdict(state, message, picture)


def checks(check: Callable) -> Callable:
    "Turn a function that raises a Finding, or returns words of praise, into one that returns a Verdict."

    @functools.wraps(check)
    def run(*answers) -> Verdict:
        try:
            return Verdict("right", check(*answers))
        except Finding as finding:
            return finding.verdict
        except Exception as error:
            return Verdict(
                "wrong", f"Your answer could not be checked: comparing what it returned raised {_named(error)}."
            )

    return run


def _named(error: BaseException) -> str:
    try:
        words = f"{type(error).__name__}: {error}"
    except Exception:
        words = type(error).__name__
    return words if len(words) < 200 else words[:200] + "..."


def _shown(value) -> str:
    try:
        words = repr(value)
    except Exception:
        words = f"a {type(value).__name__}"
    return words if len(words) < 160 else words[:160] + "..."


def call(answer, *args) -> str:
    "How a call of the learner's function is written."
    return f"{getattr(answer, '__name__', 'your function')}({', '.join(map(_shown, args))})"


@contextmanager
def step_limit(answer, steps: int):
    "Stop the learner's code after this many lines: a loop that never ends would hang the notebook."
    left, before, own = steps, sys.gettrace(), getattr(inspect.unwrap(answer), "__globals__", None)

    def count(frame, event, arg):
        nonlocal left
        if frame.f_globals is not own:
            return None
        left -= event == "line"
        if left < 0:
            raise Finding(
                f"It does not come to an end: after {steps:,} lines it was still running. What moves its loop on?"
            )
        return count

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _place(answer, error: BaseException) -> str:
    "Where in the learner's function an error arose."
    code = getattr(inspect.unwrap(answer), "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return (
        f" in its line {frames[0].lineno - code.co_firstlineno + 1}: {frames[0].line}"
        if frames and frames[0].line
        else ""
    )


def attempt(answer, *args, expect: type | tuple[type, ...], give: str = "return", steps: int = 100_000):
    "What the learner's function returns for copies of these arguments; a Finding if it cannot be used."
    if answer is None or answer is ...:
        raise Finding("There is no answer yet. Write the function, then run this cell again.", state="blank")
    if not callable(answer):
        raise Finding(f"A function is wanted here, not {_shown(answer)}. Pass the function itself, without calling it.")
    given = copy.deepcopy(args)
    try:
        with step_limit(answer, steps):
            result = answer(*given)
            if inspect.isgenerator(result):
                result = list(result)
    except Finding as finding:
        raise Finding(f"{call(answer, *args)}: {finding.verdict.message}") from None
    except (Exception, SystemExit) as error:
        raise Finding(f"{call(answer, *args)} stopped with {_named(error)}{_place(answer, error)}") from None
    if result is None or result is ...:
        raise Finding(
            f"{call(answer, *args)} returned nothing. Is its body written, and does it {give} what it made?",
            state="blank",
        )
    if not isinstance(result, expect):
        wanted = " or ".join(kind.__name__ for kind in (expect if isinstance(expect, tuple) else [expect]))
        raise Finding(
            f"{call(answer, *args)} returned {_shown(result)}, which is of type {type(result).__name__}, not {wanted}."
        )
    if given != args:
        raise Finding(
            f"{call(answer, *args)} changed what it was given. The caller may still need that: build something new."
        )
    return result
