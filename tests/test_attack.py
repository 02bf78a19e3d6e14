"""The attack of tests/attack.py in a minute: some cases of each kind; and that it notices what it looks for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTICES = """
import os, time, pathlib
from tests import attack
attack.HANG, attack.PATIENCE, attack.MEMORY = 1, 1, 600_000_000
assert attack.spawn(lambda: time.sleep(60)).trouble == "hang"
assert attack.spawn(lambda: 0 if os.fork() else time.sleep(60)).trouble == "1 processes left"
assert attack.spawn(lambda: bytearray(b"x") * attack.MEMORY and 0).trouble.endswith("GB of memory")
assert attack.spawn(lambda: {}["key"]).code == attack.CRASHED
assert attack.spawn(lambda: int("x")).code == attack.REFUSED
here = pathlib.Path("tests")
assert attack.use(lambda folder: "other", here, "right")[0] == "WRONG"
assert attack.use(lambda folder: {}["key"], here, "right")[0] == "WRONG"
assert attack.use(lambda folder: attack.warnings.warn("") or "right", here, "right")[0] == "noticed in a warning"
"""


def python(*words):
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_attack_notices_a_hang_a_process_left_much_memory_a_traceback_and_another_result():
    python("-c", NOTICES)


@pytest.mark.parametrize(
    "kind, most", {"kills": 3, "operations": 10, "folders": 10, "commands": 20, "calls": 40}.items()
)
def test_nothing_is_lost_and_nothing_silently_wrong(kind, most):
    table = python("-m", "tests.attack", "--only", kind, "--most", str(most))
    assert kind in table
