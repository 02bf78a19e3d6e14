"""The folder of a run: locked while it is written, with a log and checkpoints from which it goes on, whatever happened."""

import csv
import json
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from torch import Tensor

from tinygpt import weights
from tinygpt.checkpoints import save
from tinygpt.files import read_json, understood, whole, write_json

NOTED = ("step", "steps", "tokens", "seconds", "best")  # what a checkpoint says beside its tensors


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    "Let no second run write into a folder."
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            take_lock(lock)
        except OSError:
            raise ValueError(f"another run is writing into {folder}: wait for it, or name another folder") from None
        yield


def take_lock(file):
    "Lock a file until it is closed, or the process ends, however it ends."
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def state_of(run) -> dict[str, Tensor]:
    "All tensors that a step changes, by name."
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for i, optimizer in enumerate(run.optimizers):
        for number, kept in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{number}.{name}": tensor for name, tensor in kept.items()}
    return tensors


def restore(run, tensors: dict[str, Tensor]):
    "Go back to where these tensors were taken."
    kept: list[dict] = [{} for _ in run.optimizers]
    for name in tensors:
        if name.startswith("optimizer."):
            _, i, number, key = name.split(".", 3)
            kept[int(i)].setdefault(int(number), {})[key] = tensors[name]
    for optimizer, state in zip(run.optimizers, kept):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    names = run.model.state_dict()
    run.model.load_state_dict({name: tensors[f"model.{name}"] for name in names})


def keep(run, folder: Path | None, tok=None):
    "Write a checkpoint: first the tensors, then the note that makes them one; the two newest stay."
    if folder is None:
        return
    state, file = folder / "state", f"{run.step:08d}.safetensors"
    weights.write_weights(state, state_of(run), file)
    note = {name: getattr(run, name) for name in NOTED}
    write_json((state / file).with_suffix(".json"), note)
    for old in sorted(state.glob("*.json"))[:-2]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    save(folder, run.model, tok)


def go_on(run, folder: Path) -> bool:
    "Take up a run at its newest checkpoint that can be read."
    for note in sorted((folder / "state").glob("*.json"), reverse=True):
        try:
            said, file = read_json(note, dict), note.with_suffix(".safetensors").name
            shapes = weights.list_weights(note.parent, file)
            restore(run, weights.read_weights(note.parent, shapes, file=file))
            for name in NOTED:
                setattr(run, name, said[name])
            return True
        except (ValueError, OSError, LookupError, RuntimeError) as error:
            warnings.warn(f"{error}; so this run goes on from the checkpoint before it", stacklevel=3)
    return False


def begin(run, folder: Path, resume: bool):
    "Start a folder, or take up the run that is in it."
    asked = asdict(run.config)
    if not any((folder / "state").glob("*.json")):
        write_settings(folder / "train.yaml", asked)
        return
    if not resume:
        raise ValueError(f"{folder} has a run already: go on with it by resume=True, or name another folder")
    before = read_settings(folder / "train.yaml")
    if other := [f"{name}={before.get(name)}" for name in asked if before.get(name) != asked[name]]:
        raise ValueError(f"the run in {folder} was begun with {', '.join(other)}: go on with the same settings")
    if not go_on(run, folder):
        raise ValueError(f"no checkpoint in {folder / 'state'} can be read: name another folder")


def write_settings(path: Path, settings: dict):
    "Settings as YAML, one in a line."
    with whole(path) as draft:
        draft.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))


def read_settings(path: Path) -> dict:
    "What `write_settings` wrote."
    with understood(path):
        lines = path.read_text().splitlines()
        return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in lines)}


class Log:
    "A table of all steps, in a file that any program opens."

    def __init__(self, path: Path, kind: type, step: int):
        self.columns = [field.name for field in fields(kind)]
        kept = [row for row in read_log(path) if int(row["step"]) <= step] if path.exists() else []
        with whole(path) as draft, open(draft, "w", newline="") as file:
            table = csv.DictWriter(file, self.columns)
            table.writeheader()
            table.writerows(kept)
        self.path = path

    def __call__(self, record):
        with open(self.path, "a", newline="") as file:
            row = asdict(record) | {"skills": json.dumps(record.skills) if record.skills else None}
            csv.DictWriter(file, self.columns).writerow(row)


def read_log(path: Path) -> list[dict[str, str]]:
    "The rows of a log, but for one that was cut off."
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]


class Keeper:
    "Writes a run down: each step in its log, the best model, and checkpoints where they are due."

    def __init__(self, run, folder: Path, tok, kind: type):
        self.run, self.folder, self.tok = run, folder, tok
        self.log = Log(folder / "log.csv", kind, run.step)

    def __call__(self, record):
        run = self.run
        self.log(record)
        if record.val_loss is not None and (run.best is None or record.val_loss < run.best):
            run.best = record.val_loss
            save(self.folder, run.model, self.tok, variant="best")
        if run.step % run.config.save_every == 0 or run.step >= run.steps:
            keep(run, self.folder, self.tok)


@contextmanager
def asked_to_stop() -> Iterator[list]:
    "A list that is no longer empty once Ctrl-C was pressed; the second time, it stops at once."
    asked: list = []

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
