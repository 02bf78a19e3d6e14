"""What all checks of exercises share: the verdict, its message and picture, and a safe call of the learner's function."""

import copy
import functools
import html
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence

from tinygpt.checks.limits import Limit, TooLong
from tinygpt.show.pictures import Picture

MARKS = {"right": ("Right.", "#14785a"), "wrong": ("Not yet.", "#b3560a"), "blank": ("To be written.", "#5f656d")}


class Verdict:
    "The result of a check: drawn in a notebook, printed in a terminal, and true if the answer is right."

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
            f'<strong style="background:{color};color:#fff;border-radius:3px;padding:.1em .4em">{word}</strong> '
            f"{html.escape(self.message)}{drawn}</div>"
        )


class Finding(BaseException):
    "Raised inside a check: what is wrong with the answer. (No Exception, so that no answer catches it by accident.)"

    def __init__(self, message: str, picture: Picture | None = None, state: str = "wrong"):
        self.verdict = Verdict(state, message, picture)


def checks(check: Callable) -> Callable:
    "Decorate a check, which raises a Finding or returns a sentence of praise, so that it returns a Verdict."

    @functools.wraps(check)
    def run(*answers) -> Verdict:
        try:
            return Verdict("right", check(*answers))
        except Finding as finding:
            return finding.verdict
        except Exception as error:
            return Verdict(
                "wrong", f"Your answer could not be checked: comparing its result raised {_named(error)}."
            )

    return run


def _named(error: BaseException) -> str:
    try:
        words = f"{type(error).__name__}: {error}"
    except Exception:
        words = type(error).__name__
    return words if len(words) < 200 else words[:200] + "..."


def _shown(value) -> str:
    "A value as a message shows it: of a long nested list, the first part of each level."
    try:
        words = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    if len(words) > 60 and isinstance(value, list) and isinstance(value[0], list):
        return f"[{_shown(value[0])}, ...]"
    return words if len(words) < 160 else words[:160] + "..."


def call(answer, *args) -> str:
    "A call of the learner's function as text."
    return f"{getattr(answer, '__name__', 'your function')}({', '.join(map(_shown, args))})"


def argument_names(answer, n: int) -> list[str]:
    "The names of the first n arguments of the learner's function, or their numbers where they have no name."
    numbers = [f"argument {i + 1}" for i in range(n)]
    try:
        named = [p.name for p in inspect.signature(answer).parameters.values() if p.kind in (0, 1)]
    except (TypeError, ValueError):
        named = []
    return [*named[:n], *numbers[len(named) :]]


def changed(answer, unchanged: Sequence[bool]):
    "A Finding if the call changed one of its arguments."
    if not all(unchanged):
        name = argument_names(answer, len(unchanged))[list(unchanged).index(False)]
        raise Finding(f"It changed what it was given, in place: {name}. The caller may still need it. Make a new object.")


def _place(answer, error: BaseException) -> str:
    "Where in the learner's function an error arose."
    code = getattr(inspect.unwrap(answer), "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return (
        f" in its line {frames[0].lineno - code.co_firstlineno + 1}: {frames[0].line}"
        if frames and frames[0].line
        else ""
    )


def attempt(
    answer,
    *args,
    expect: type | tuple[type, ...],
    give: str = "return",
    steps: int = 100_000,
    seconds: float = 10,
):
    "What the learner's function returns for copies of these arguments; a Finding if it cannot be used."
    if answer is None or answer is ...:
        raise Finding("There is no function yet. Write it, then run this cell again.", state="blank")
    if not callable(answer):
        raise Finding(f"A function is wanted here, not {_shown(answer)}. Pass the function itself, without calling it.")
    given = copy.deepcopy(args)
    modules = getattr(inspect.unwrap(answer), "__globals__", None), vars(sys.modules["__main__"])
    limit = Limit(modules, steps, seconds)

    def finished():
        result = answer(*given)
        return list(result) if inspect.isgenerator(result) else result

    def asked():
        return f" The call was {call(answer, *args)}."

    try:
        result = limit.run(finished)
    except TooLong:
        pass
    except Finding as finding:
        raise Finding(finding.verdict.message + asked(), finding.verdict.picture) from None
    except (Exception, SystemExit) as error:
        raise Finding(f"It stopped with {_named(error)}{_place(answer, error)}.{asked()}") from None
    if limit.reason:
        raise Finding(
            f"It does not come to an end: after {limit.reason} it was still running. What ends its loop?{asked()}"
        )
    if result is None or result is ...:
        raise Finding(f"Your function does not {give} anything yet. Write it, then run this cell again.", state="blank")
    if not isinstance(result, expect):
        wanted = " or ".join(kind.__name__ for kind in (expect if isinstance(expect, tuple) else [expect]))
        raise Finding(f"It returned {_shown(result)}, of type {type(result).__name__}, not {wanted}.{asked()}")
    changed(answer, [(a,) == (b,) for a, b in zip(given, args)])  # in tuples, the same object is equal to itself
    return result
