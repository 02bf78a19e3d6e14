"""An attack on the package: python -m tests.attack. It prints a table of outcomes; the exit code is 1 if any is WRONG.

Small runs are killed at random instants, die at every file operation, or meet a full disk; run folders are damaged;
commands and calls are misused. Each case is numbered: `--only KIND --seed SEED --case NUMBER` repeats one alone.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import torch

import tinygpt as tg
from tests import misuse
from tests.faults import DIED, Faults
from tinygpt.cli import main
from tinygpt.engine import clock, splitting

HANG = 60  # seconds
PATIENCE = 10  # seconds until the processes that a child started must have ended
MEMORY = 1 << 30  # bytes
REFUSED, CRASHED = 3, 4  # the exit codes of a child whose work raised a sentence, or anything else
SENTENCES = ValueError, OSError, ArithmeticError
LOG = {"records", "log.csv"}  # what may differ once rows are missing
OUTCOMES = "refused in a sentence", "noticed in a warning", "unaffected, and right", "WRONG"
TEXT = "".join(f"{a} and {b} made {a + b}. " for a in range(20) for b in range(12))
OTHER_TEXT = TEXT.replace("made", "gave")
MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.1}
PLAN = {"steps": 6, "batch_size": 2, "save_every": 2, "eval_every": 3, "warmup": 2}


@dataclass
class Table:
    """The outcomes of the cases of each kind; cases that went WRONG are listed with what happened."""

    counts: dict[str, Counter] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, kind, outcome, what="", times=1):
        self.counts.setdefault(kind, Counter())[outcome] += times
        if outcome == "WRONG":
            self.wrong.append(f"{kind}: {what}")
            print("WRONG", self.wrong[-1], flush=True)

    def __str__(self):
        rows = [(kind, sum(found.values()), *(found[name] for name in OUTCOMES)) for kind, found in self.counts.items()]
        lines = ["".join(f"{cell:>24}" for cell in row) for row in [("", "tried", *OUTCOMES), *rows]]
        return "\n".join(line[12:] for line in lines)


# Children: each case runs in a process of its own, which may do anything


@dataclass
class Ended:
    """How a child process ended: its exit code, its stdout and stderr, and what it did that it should not have done."""

    code: int
    out: str
    err: str
    trouble: str = ""

    def what(self):
        return f"exit code {self.code} {self.trouble}, said: {(self.err or self.out)[-600:]!r}"


def session_members(session):
    """The living processes of a session."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, *_, member = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:4]
            if member == str(session) and state != "Z":
                yield int(name)


def left_behind(session):
    """Kill the processes of a session that still live after some seconds; returns how many there were."""
    for _ in range(10 * PATIENCE):
        if not (members := list(session_members(session))):
            return 0
        time.sleep(0.1)
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return len(members)


def spawn(work, kill_after=None, number=signal.SIGKILL):
    """Run `work` in a child process with its own session and output; returns how it ended."""
    outputs = [os.memfd_create(name) for name in ("out", "err")]
    sys.stdout.flush()
    if not (pid := os.fork()):
        os._exit(guarded(work, *outputs))
    watch, size, trouble = os.pidfd_open(pid), 0, ""
    deadline, latest = (time.monotonic() + HANG * times for times in (1, 10))
    if kill_after is not None and not select.select([watch], [], [], kill_after)[0]:
        os.kill(pid, number)
    while not select.select([watch], [], [], 1)[0]:
        if (now := sum(os.fstat(output).st_size for output in outputs)) > size:  # it is at work
            size, deadline = now, time.monotonic() + HANG
        if time.monotonic() > min(deadline, latest):
            trouble = "hang"
            os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    if left := left_behind(pid):
        trouble = f"{left} processes left"
    if usage.ru_maxrss * 1024 > MEMORY:
        trouble = f"{usage.ru_maxrss / 1e6:.1f} GB of memory"
    texts = [os.pread(output, 1 << 24, 0).decode(errors="replace") for output in outputs]
    for descriptor in (watch, *outputs):
        os.close(descriptor)
    return Ended(os.waitstatus_to_exitcode(status), *texts, trouble)


def guarded(work, out, err):
    """In a child: do the work, and return the exit code."""
    try:
        os.setsid()
        for descriptor, to in (os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2):
            os.dup2(descriptor, to)
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 3 * MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # what takes more fails; what takes less is measured
        sys.stdin = open(0, closefd=False)
        sys.stdout, sys.stderr = (open(to, "w", closefd=False, encoding="utf-8") for to in (1, 2))
        code = work() or 0
    except SENTENCES as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = REFUSED
    except BaseException:
        print(brief(), file=sys.stderr)
        code = CRASHED
    for stream in sys.stdout, sys.stderr:
        with contextlib.suppress(Exception):
            stream.flush()
    return code


def brief():
    """The current exception, and the last lines of the package in its traceback."""
    _, error, trace = sys.exc_info()
    lines = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
    return f"{type(error).__name__}: {str(error):.300} in {' '.join(lines[-4:])}"


def call(*words):
    """Run a command in this process; returns its output and errors. Raises ValueError if it fails with a message."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", newline=""), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, words)))
        out.flush()
    if wrong := misuse.judge(code, err.getvalue()):
        raise AssertionError(wrong)
    if code:
        raise ValueError(err.getvalue())
    return out.buffer.getvalue().decode(), err.getvalue()


# The small runs that are attacked


@dataclass
class Place:
    """A folder with what the small runs need."""

    folder: Path
    tok: tg.BPETokenizer = None

    def __post_init__(self):
        self.text, self.settings = self.folder / "text.txt", self.folder / "small.yaml"
        self.text.write_text(TEXT)
        lines = [f"{name}: {json.dumps(table)}" for name, table in {"model": MODEL, "train": PLAN}.items()]
        self.settings.write_text("\n".join(["vocab_size: 280", *lines]))
        self.tok = tg.BPETokenizer.train(tg.corpus(self.text).train, 280)

    def new(self, name="run"):
        """The path of a folder that does not exist."""
        shutil.rmtree(path := self.folder / name, ignore_errors=True)
        return path

    def by_python(self, folder, resume=False):
        """Train in Python, with a clock that is the same in every run; returns the records."""
        clock.perf_counter = map(float, itertools.count()).__next__
        plan = tg.TrainConfig(**PLAN)
        torch.manual_seed(plan.seed)
        model = tg.GPT(tg.GPTConfig(vocab_size=self.tok.vocab_size, **MODEL))
        return tg.train(model, self.tok, tg.corpus(self.text), plan, folder, resume, progress=False)

    def by_command(self, folder, resume=False):
        """Train by the command; returns what it says on stderr."""
        clock.perf_counter = map(float, itertools.count()).__next__
        start = ["--resume"] if resume else [self.text, "--config", self.settings]
        return call("train", *start, "--out", folder)[1]

    def save_model(self, folder, seed=1):
        torch.manual_seed(seed)
        tg.save(folder, tg.GPT(tg.GPTConfig(vocab_size=self.tok.vocab_size, **MODEL)), self.tok)

    def save_tokens(self, folder):
        tg.encode_corpus(tg.corpus(self.text).train, self.tok, folder)


def go_on(train, folder):
    """Resume a run, or start it if it has no checkpoint."""
    try:
        train(folder, resume=True)
    except ValueError:
        train(folder, resume=False)


def snapshot(folder):
    """All files of a folder by name: what kind each is, who may read it, and a checksum of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else b""
        found[str(path.relative_to(folder))] = f"{mode:o} {len(content)} {hashlib.sha256(content).hexdigest()[:16]}"
    return found


def differing(now, right):
    """The names of the files in which two snapshots differ."""
    return sorted(name for name in now.keys() | right.keys() if now.get(name) != right.get(name))


def loaded(folder, variant=None):
    """A checksum of the model and tokenizer that a folder loads as."""
    model, tok = tg.load(folder, variant=variant)
    content = [repr(model.config), tok and tok.encode(OTHER_TEXT), tok and tok.decode(range(tok.vocab_size))]
    found = hashlib.sha256(repr(content).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()[:16]


# Kills at random instants


def kills(place, budget, table):
    """Runs that are killed again and again until they finish; each kill is a case."""
    big = place.folder / "big.txt"
    big.write_text("".join(f"{i} and {i * i}\n" for i in range(30_000)))

    def on_all_cores(folder):
        splitting.BATCH = 1 << 16  # so that little text is enough for worker processes
        tg.BPETokenizer.train(tg.corpus(big).train, 260).save(folder)

    works = {"tg.train": partial(go_on, place.by_python), "tinygpt train": partial(go_on, place.by_command),
             "a tokenizer": on_all_cores}
    whole = {}
    for name, work in works.items():
        start, ended = time.monotonic(), spawn(partial(work, folder := place.new()))
        whole[name] = snapshot(folder), time.monotonic() - start
        if ended.code or ended.trouble:
            return table.add("kills", "WRONG", f"the undisturbed {name}: {ended.what()}")
    for case in budget.cases(500):
        chance, folder, done = random.Random(f"{budget.seed} kills {case}"), place.new(), 0
        name = "a tokenizer" if case % 20 == 19 else chance.choice(["tg.train", "tinygpt train"])
        right, took = whole[name]
        while True:
            ended = spawn(partial(works[name], folder), chance.uniform(0, 1.1 * took) if done < 40 else None)
            if ended.code != -signal.SIGKILL or ended.trouble:
                break
            done += 1
        differ = differing(snapshot(folder), right)
        fine = not ended.code and not ended.trouble and not differ
        what = f"case {case}, {name}, {done} kills; the files {differ} differ; {ended.what()}"
        table.add("kills", "unaffected, and right" if fine else "WRONG", what, max(done, not fine))
        if table.counts["kills"].total() >= min(500, budget.most):
            return


# A death at every file operation, and a full disk from every one on


def operations(place, budget, table):
    """Make each file operation fail in turn, then repeat the work: nothing may be lost, and no file left over."""
    half = die_in_the_middle(place.by_python, place)
    place.save_model(old := place.new("old"), seed=2)
    first = {"tg.train": place.by_python, "tinygpt train": place.by_command, "resumed": partial(go_on, place.by_python),
             "tg.save": place.save_model, "tok.save": place.tok.save, "encode_corpus": place.save_tokens}
    again = {name: partial(go_on, work) for name, work in list(first.items())[:2]}
    before = {"resumed": half, "tg.save": old, "tok.save": old}
    everything, right, models = [], {}, {loaded(old)}
    for name, work in first.items():
        folder = prepare(place, before.get(name))
        for number, operation in operations_of(work, folder):
            hows = ["before", "full"] + ["within"] * operation.startswith("write")
            everything += [(name, number, operation, how) for how in hows]
        right[name] = snapshot(folder)
        if name == "tg.save":
            models.add(loaded(folder))
    for case in budget.cases(len(everything)):
        name, number, operation, how = everything[case]
        folder = prepare(place, before.get(name))

        def fail():
            Faults(folder, how, number).install()
            first[name](folder)

        def recover():
            with contextlib.suppress(*SENTENCES):
                if loaded(folder) not in models and name == "tg.save":
                    print("neither the old model nor the new one was loaded")
            again.get(name, first[name])(folder)

        failed = spawn(fail)
        ended = spawn(recover)
        differ = differing(snapshot(folder), right[name])
        fine = failed.code in ((0, REFUSED) if how == "full" else (DIED,)) and not failed.trouble
        fine = fine and not ended.code and not ended.trouble and not differ and "neither" not in ended.out
        said = "refused in a sentence" if failed.code == REFUSED else "unaffected, and right"
        what = f"case {case}, {name}, {how} operation {number}, {operation}: {failed.what()}; then the files {differ} "
        table.add("operations", said if fine else "WRONG", f"{what}differ; {ended.what()}")


def prepare(place, like):
    """The folder of a case: a copy of another one, or a path that does not exist."""
    folder = place.new()
    if like:
        shutil.copytree(like, folder)
    return folder


def operations_of(work, folder):
    """The numbered file operations of undisturbed work on a folder."""

    def count():
        faults = Faults(folder).install()
        work(folder)
        print(json.dumps([f"{name} {path}" for name, path in faults.met]))

    ended = spawn(count)
    if ended.code or ended.trouble:
        raise RuntimeError(f"undisturbed work failed: {ended.what()}")
    return list(enumerate(json.loads(ended.out.splitlines()[-1]), 1))


def die_in_the_middle(train, place):
    """The folder of a run that died a little after its checkpoint of step 4."""
    folder, done = place.new("half"), [operation for _, operation in operations_of(train, place.new())]

    def die():
        Faults(folder, "before", done.index("replace state/00000004.json") + 5).install()
        train(folder)

    if (ended := spawn(die)).code != DIED:
        raise RuntimeError(f"the run did not die: {ended.what()}")
    return folder


# Damaged run folders

READS = {  # what each use reads, as a pattern of file names; with others damaged it is tried now and then
    "load": "",
    "load best": "",
    "eval": "command|config|tokenizer",
    "plot": "log|command|tokenizer.json",
    "tg.train": "log|state|train",
    "train --resume": "log|state|train|command|tokenizer",
}
VALUES = "null", "{}", "[]", "-1", "1e400", '""', '"' + "x" * 300_000 + '"', "0", "3", "true"


def some_line(change):
    """Damage that changes the lines of a text at two places."""

    def damage(raw, chance):
        lines = raw.splitlines(keepends=True)
        first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
        change(lines, first, second)
        return b"".join(lines)

    return damage


def swap(lines, first, second):
    lines[first], lines[second] = lines[second], lines[first]


def cut(raw, chance, most=64):
    """The bytes before, in and after some place of up to `most` bytes."""
    start = chance.randrange(len(raw))
    stop = min(len(raw), start + chance.randint(1, most))
    return raw[:start], raw[start:stop], raw[stop:]


def some_bytes(change, most=64):
    """Damage that replaces some bytes."""

    def damage(raw, chance):
        before, inner, after = cut(raw, chance, most)
        return before + change(inner, chance) + after

    return damage


def some_value(raw, chance):
    """Replace a name or a value of JSON, YAML or CSV."""
    found = list(re.finditer(rb'"[^"\n]*"|[-\w.]+', raw))
    if not found:
        return b""
    match = chance.choice(found)
    return raw[: match.start()] + chance.choice(VALUES).encode() + raw[match.end() :]


def other_digit(raw, chance):
    """Replace a digit by another."""
    found = [i for i, byte in enumerate(raw) if 48 <= byte < 58] or [0]
    i = chance.choice(found)
    return raw[:i] + str((raw[i] - 48 + chance.randint(1, 9)) % 10).encode() + raw[i + 1 :]


CONTENT = {  # of any file
    "a bit flipped": some_bytes(lambda inner, chance: bytes([inner[0] ^ 1 << chance.randrange(8)]), 1),
    "a byte changed": some_bytes(lambda inner, chance: bytes([chance.randrange(256)]), 1),
    "a hole": some_bytes(lambda inner, chance: b""),
    "zeros": some_bytes(lambda inner, chance: bytes(len(inner))),
    "cut off": lambda raw, chance: raw[: chance.randrange(len(raw))],
    "emptied": lambda raw, chance: b"",
    "extended": lambda raw, chance: raw + chance.randbytes(chance.randint(1, 100)),
    "doubled": lambda raw, chance: raw + raw,
}
LINES = {  # of a text
    "a line removed": some_line(lambda lines, first, second: lines.pop(first)),
    "a line twice": some_line(lambda lines, first, second: lines.insert(second, lines[first])),
    "two lines swapped": some_line(swap),
    "a value replaced": some_value,
    "another digit": other_digit,
}
REPLACED = {  # a file by what is no such file; `other` is another one of the folder
    "removed": lambda path, other: None,
    "a directory": lambda path, other: path.mkdir(),
    "a dangling link": lambda path, other: path.symlink_to("nowhere"),
    "a pipe": lambda path, other: os.mkfifo(path),
    "a device": lambda path, other: path.symlink_to("/dev/zero"),
    "another file": lambda path, other: shutil.copy(other, path),
}


def damage(folder, chance):
    """Damage a file of a folder, or swap two; returns what was done."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    path, other = chance.sample(files, 2)
    if {path.name[:6], other.name[:6]} == {"model."}:  # each is a whole model: one may be put in the place of the other
        other = folder / "config.json"
    name = str(path.relative_to(folder))
    changes = CONTENT if path.suffix == ".safetensors" else CONTENT | LINES
    how = chance.choice([*changes, *changes, *REPLACED, "swapped"])
    if how in changes:
        path.write_bytes(changes[how](path.read_bytes(), chance))
    elif how == "swapped":
        path.rename(draft := folder / "draft")
        other.rename(path)
        draft.rename(other)
    else:
        path.unlink()
        REPLACED[how](path, other)
    return f"{name}: {how}" + (f" ({other.relative_to(folder)})" if how in ("swapped", "another file") else "")


def uses(place):
    """The uses of a run folder: for each, a function of the folder that returns the result."""

    def records(folder):
        found = place.by_python(folder, resume=True)
        return snapshot(folder) | {"records": repr(found)}

    def resume(folder):
        said = place.by_command(folder, resume=True)
        warnings.warn(said) if said else None
        return snapshot(folder)

    def printed(*words):
        def use(folder):
            clean, said = call(*(folder if word == "RUN" else word for word in words))
            warnings.warn(said) if said else None
            return clean

        return use

    def drawn(folder):
        printed("plot", "RUN", "--out", picture := place.folder / "plot.png")(folder)
        return hashlib.sha256(picture.read_bytes()).hexdigest()

    return {"load": loaded, "load best": partial(loaded, variant="best"), "plot": drawn,
            "eval": printed("eval", "RUN", place.text, "--json"), "tg.train": records, "train --resume": resume}


def use(function, folder, right=None, harmed=()):
    """The outcome of using a folder, and what happened; files in `harmed` may stay damaged."""
    before = snapshot(folder)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = function(folder)
        except SENTENCES as error:
            return "refused in a sentence", f"{type(error).__name__}: {error}"
        except BaseException:
            return "WRONG", brief()
    said = [str(warning.message) for warning in said]
    if isinstance(found, dict) and right is not None:
        found |= {name: right[name] for name in harmed if name in right and found.get(name) == before.get(name)}
        differ = differing(found, right)
    else:
        differ = [] if found == right else [f"{found!r:.200} instead of {right!r:.200}"]
    if any("log.csv lacks" in warning for warning in said) and not (isinstance(found, dict) and set(differ) - LOG):
        differ = []  # what is missing was named
    if right is not None and differ:
        return "WRONG", f"{'silently ' * (not said)}changed: {differ} {said}"
    return ("noticed in a warning" if said else "unaffected, and right"), found


def folders(place, budget, table):
    """Damaged copies of a finished and of a killed run: each is refused, or works like the undamaged one."""
    bases = {"finished": place.new("finished"), "half": die_in_the_middle(place.by_command, place)}
    spawn(partial(place.by_command, bases["finished"]))
    right = {}
    for base in bases:

        def undamaged():
            outcomes = {name: use(function, prepare(place, bases[base])) for name, function in uses(place).items()}
            print(json.dumps(outcomes))

        right[base] = json.loads((ended := spawn(undamaged)).out.splitlines()[-1])
        for name, (outcome, happened) in right[base].items():
            if outcome != "unaffected, and right":
                table.add("folders", "WRONG", f"{name} of an undamaged {base} run: {happened}")
                return

    def examine(cases):
        for case in cases:
            seed = f"{budget.seed} folders {case}"
            base = random.Random(seed).choice(list(bases))
            for name, function in uses(place).items():
                folder, chance = prepare(place, bases[base]), random.Random(seed)
                done = damage(folder, chance)
                if READS[name] and chance.random() > (0.5 if re.match(READS[name], done) else 0.05):
                    continue  # it takes long; other cases try it
                changed, what = differing(snapshot(folder), snapshot(bases[base])), f"case {case}, {base} run, {done}"
                report(case, "WRONG", f"{what}; {name}")
                outcome, happened = use(function, folder, right[base][name][1], changed)
                too_much = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MEMORY
                if too_much:
                    outcome, happened = "WRONG", "over 1 GB of memory"
                report(case, outcome, f"{what}; {name}: {happened}" * (outcome == "WRONG"))
                if too_much:  # the next case is measured in a new process
                    os._exit(0)

    def report(case, outcome, what):
        os.write(1, (json.dumps([case, outcome, what]) + "\n").encode())

    cases = budget.cases(5000)
    while todo := list(itertools.islice(cases, 25)):
        while todo:
            ended = spawn(partial(examine, todo))
            lines = [json.loads(line) for line in ended.out.splitlines()]
            for case, outcome, what in lines[1::2]:
                table.add("folders", outcome, what)
            if len(lines) % 2 or ended.code:  # the last case began and did not end
                table.add("folders", "WRONG", f"{lines[-1][2] if lines else todo}: {ended.what()}")
            elif ended.trouble.endswith("left"):
                table.add("folders", "WRONG", f"cases {todo}: {ended.trouble}")
            todo = todo[todo.index(lines[-1][0]) + 1 :] if lines else []


# Misused commands and calls


def commands(place, budget, table):
    """Command lines with missing, wrong or hostile arguments, and signals at random moments."""
    for case in budget.cases(len(misuse.COMMANDS) + 24):
        folder = place.new("misused")
        words, how = [*misuse.COMMANDS, *[("train", {})] * 24][case]
        misuse.furnish(folder, place, words)
        if case < len(misuse.COMMANDS):
            ended = spawn(partial(misuse.run, words, how, folder))
            wrong = misuse.judge(ended.code, ended.err, how.get("codes", (1, 2)))
            if misuse.CONTROL.search(ended.out) and "decode" not in words:
                wrong += "; it prints control characters"
            if words.startswith("plot") and not ended.code and not (folder / ended.out.strip()).is_file():
                wrong += "; the picture is not where it says"
        else:  # a process that is still starting, learns a tokenizer, or trains
            number, wait = (signal.SIGINT, signal.SIGTERM)[case % 2], random.Random(case).uniform(0.1, 4)
            words = ["-m", "tinygpt", "train", str(place.text), "--config", "small.yaml", "--train.steps=100000"]
            how = f"{number.name} after {wait:.2f} s"

            def start():
                os.chdir(folder)
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
                environ = os.environ | {"PYTHONPATH": str(Path(tg.__file__).parents[1])}
                os.execve(sys.executable, [sys.executable, *words], environ)

            ended = spawn(start, wait, number)
            wrong = misuse.judge(ended.code, ended.err, (130, -number))  # a shell says 130 for both
        wrong += ended.trouble
        outcome = "refused in a sentence" if ended.code in (1, 2) else "unaffected, and right"
        shown = str(words if len(str(words)) < 300 else str(words)[:300])
        table.add("commands", "WRONG" if wrong else outcome, f"case {case}, {shown} {how}: {wrong}; {ended.what()}")


def calls(place, budget, table):
    """Calls with common mistakes: each raises an error, or returns the expected result."""
    for case in budget.cases(len(misuse.CALLS)):
        source, errors = misuse.CALLS[case]
        folder = place.new("misused")
        misuse.furnish(folder, place, source)

        def attempt():
            try:
                print("as expected" if eval(source, misuse.names(folder)) is True else "accepted")
            except errors as error:
                print(f"refused: {type(error).__name__}: {error}")

        ended = spawn(attempt)
        last = ended.out.strip().rpartition("\n")[2].split(" ")[0]
        outcome = {"as": "unaffected, and right", "refused:": "refused in a sentence"}.get(last)
        wrong = ended.code or ended.trouble or not outcome
        table.add("calls", "WRONG" if wrong else outcome, f"case {case}, {source}: {ended.what()}")


@dataclass
class Budget:
    """Which cases of a kind are tried: one, or some chosen at random, as long as there is time."""

    seed: int
    deadline: float
    most: int
    case: int | None

    def cases(self, n):
        numbers = random.Random(self.seed).sample(range(n), min(n, self.most)) if self.case is None else [self.case]
        for case in numbers:
            if time.monotonic() > self.deadline:
                return
            yield case


KINDS = {calls: 1, commands: 3, operations: 8, kills: 5, folders: 16}  # each with its share of the time


def attack(kinds, seed, minutes, most, case):
    """Try the cases of these kinds and return the table."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where fsync costs nothing
    table, end, left = Table(), time.monotonic() + 60 * minutes, sum(KINDS[kind] for kind in kinds)
    with tempfile.TemporaryDirectory(prefix="attack-", dir=memory) as folder:
        os.environ["TINYGPT_CACHE"] = f"{folder}/cache"
        place = Place(Path(folder).resolve())
        for kind in kinds:
            start = time.monotonic()
            deadline = start + (end - start) * KINDS[kind] / left
            left -= KINDS[kind]
            kind(place, Budget(seed, deadline, most, case), table)
            print(f"{kind.__name__}: seed {seed}, {time.monotonic() - start:.0f} s", flush=True)
    return table


if __name__ == "__main__":
    known = {kind.__name__: kind for kind in KINDS}
    parser = argparse.ArgumentParser("python -m tests.attack", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=known, action="append", help="a kind of attack (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random")
    parser.add_argument("--minutes", type=float, default=600, help="the most time (default: what it takes)")
    parser.add_argument("--most", type=int, default=10**6, help="cases of each kind (default: all)")
    parser.add_argument("--case", type=int, help="the number of one case")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [known[name] for name in chosen.only or known]
    result = attack(kinds, chosen.seed, chosen.minutes, chosen.most, chosen.case)
    print(result)
    print("\n".join(result.wrong))
    sys.exit(bool(result.wrong))
