"""What all checks share: code that does not end is stopped, arguments stay as they were, and messages begin with the point."""

import functools
import signal
import sys
import threading
import time

import pytest
import torch

from tinygpt.checks import attempt, checks, limits
from tinygpt.checks.tensors import diagnose, of_tensors, tensor


def one_line():
    while True: pass  # fmt: skip


def several_lines():
    n = 0
    while True:
        n += 1


def nested():
    def helper():
        while True: pass  # fmt: skip

    return helper()


def sleeping():
    time.sleep(1000)


def catching_everything():
    while True:
        try:
            one_line()
        except:  # noqa: E722
            pass


def catching_everything_in_its_sleep():
    while True:
        try:
            time.sleep(1000)
        except:  # noqa: E722
            pass


def catching_once():
    try:
        sleeping()
    except:  # noqa: E722
        pass
    return 3


def generating():
    while True:
        yield from iter(())


class Callable:
    def __call__(self):
        while True: pass  # fmt: skip


ENDLESS = [
    one_line,
    several_lines,
    nested,
    sleeping,
    catching_everything,
    catching_everything_in_its_sleep,
    catching_once,
    generating,
    functools.partial(several_lines),
    Callable(),
    lambda: time.sleep(1000),
]


@checks
def ends(answer):
    attempt(answer, expect=int, seconds=0.3)
    return "It ends."


@checks
def ends_soon(answer):
    attempt(answer, expect=int, steps=1000)
    return "It ends."


def settings():
    timers = [signal.getitimer(timer) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL)]
    return sys.gettrace(), timers, [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGVTALRM)]


@pytest.mark.skipif(not limits.HAS_TIMERS, reason="no timers on this platform")
@pytest.mark.parametrize("answer", ENDLESS)
def test_code_that_does_not_end_is_stopped(answer):
    before = settings()
    verdict = ends(answer)
    assert verdict.state == "wrong" and "does not come to an end" in verdict.message
    assert settings() == before
    assert ends(lambda: 3) and settings() == before


@pytest.mark.parametrize("answer", [one_line, several_lines, nested])
def test_without_timers_lines_are_counted(answer, monkeypatch):
    monkeypatch.setattr(limits, "HAS_TIMERS", False)
    assert "after 1,000 lines" in ends_soon(answer).message


def test_lines_are_counted_in_another_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(ends_soon(one_line)))
    thread.start()
    thread.join()
    assert "after 1,000 lines" in verdicts[0].message


def test_a_busy_machine_is_no_endless_loop(monkeypatch):
    """A call that takes long by the clock, and computes for less than the limit."""
    monkeypatch.setattr(limits.time, "process_time", iter(range(99)).__next__)
    assert ends(lambda: [time.sleep(0.5), 3][1])


def test_the_handlers_and_timers_of_others_are_restored():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        assert not ends(one_line)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 30
        signal.raise_signal(signal.SIGALRM)
        assert rang == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def scale_in_place(scores, by):
    scores /= by
    return scores


@checks
def scaled(answer):
    answer, args = of_tensors(answer), ([[1.0, 2.0], [3.0, 4.0]], 2)
    got = tensor(answer, *args, shape=(2, 2))
    diagnose(answer, args, got, torch.tensor([[0.5, 1.0], [1.5, 2.0]]), [], "half of it")
    return "Half of it."


def test_a_tensor_changed_in_place_is_named():
    assert scaled(lambda scores, by: scores / by)
    verdict = scaled(scale_in_place)
    assert verdict.state == "wrong" and verdict.message.startswith("It changed what it was given, in place: scores.")
    assert "argument 1" in scaled(lambda *args: scale_in_place(*args)).message


def test_nan_has_its_own_diagnosis():
    message = scaled(lambda scores, by: (scores / by).triu() * -torch.inf).message
    assert message.startswith("It contains nan") and "at index [1, 0]" in message and "0 * infinity" in message


@pytest.mark.parametrize(
    "answer, start",
    [
        (lambda x, by: x[:1], "It returned a tensor of shape (1, 2), not (2, 2)."),
        (lambda x, by: x, "That is not half of it."),
        (lambda x, by: 3, "It returned 3, of type int, not Tensor."),
        (lambda x, by: 1 / 0, "It stopped with ZeroDivisionError"),
    ],
)
def test_a_message_begins_with_the_point_and_ends_with_the_call(answer, start):
    message = scaled(answer).message
    assert message.startswith(start) and message.endswith("The call was <lambda>([[1.0, 2.0], [3.0, 4.0]], 2).")


def test_long_nested_lists_are_shortened():
    @checks
    def check(answer):
        attempt(answer, [[[1.5] * 5] * 5] * 5, list(range(5)), expect=str)

    assert "([[[1.5, 1.5, 1.5, 1.5, 1.5], ...], ...], [0, 1, 2, 3, 4])" in check(lambda x, y: 3).message
