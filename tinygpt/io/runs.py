"""The folder of a run: locked while it is written, with a log, and checkpoints from which the run resumes."""

import json
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from filelock import FileLock, Timeout
from torch import Tensor
from tinygpt.io import weights
from tinygpt.io.atomic import atomic_write, write_json
from tinygpt.io.reading import read_json, readable_errors
from tinygpt.io.checkpoints import save
from tinygpt.io.log import Record, append_record, start_log

PROGRESS = ("step", "steps", "tokens", "seconds", "best")  # what a checkpoint keeps beside its tensors

@contextmanager
def locked(folder: Path) -> Iterator[None]:
    "Keep a second run from writing into a folder; the lock ends with the process, however that ends."
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another run is writing into {folder}: wait for it, or name another folder") from None
    with lock:
        yield

def state_dict(run) -> dict[str, Tensor]:
    "All tensors that a step changes, by name."
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for i, optimizer in enumerate(run.optimizers):
        for number, kept in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{number}.{name}": tensor for name, tensor in kept.items()}
    return tensors

def load_state_dict(run, tensors: dict[str, Tensor]):
    "Put tensors from `state_dict` back into the model and its optimizers."
    kept: list[dict] = [{} for _ in run.optimizers]
    for name in tensors:
        if name.startswith("optimizer."):
            _, i, number, key = name.split(".", 3)
            kept[int(i)].setdefault(int(number), {})[key] = tensors[name]
    for optimizer, state in zip(run.optimizers, kept):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    run.model.load_state_dict({name: tensors[f"model.{name}"] for name in run.model.state_dict()})

def save_checkpoint(run, folder: Path, tok=None):
    "Write a checkpoint: first the tensors, then the JSON file that makes it one; the two newest are kept."
    state, file = folder / "state", f"{run.step:08d}.safetensors"
    weights.write_weights(state, state_dict(run), file)
    write_json((state / file).with_suffix(".json"), {name: getattr(run, name) for name in PROGRESS})
    for old in sorted(state.glob("*.json"))[:-2]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    save(folder, run.model, tok)

def load_checkpoint(run, folder: Path):
    "Load the newest checkpoint that can be read; raises ValueError if there is none."
    for path in sorted((folder / "state").glob("*.json"), reverse=True):
        try:
            progress, file = read_json(path), path.with_suffix(".safetensors").name
            shapes = weights.list_weights(path.parent, file)
            load_state_dict(run, weights.read_weights(path.parent, shapes, file=file))
            vars(run).update({name: progress[name] for name in PROGRESS})
            return
        except (ValueError, OSError, LookupError, RuntimeError) as error:
            warnings.warn(f"{error}; so this run resumes from the checkpoint before it", stacklevel=3)
    raise ValueError(f"no checkpoint in {folder / 'state'} can be read: name another folder")

def read_settings(path: Path) -> dict:
    "The settings of a run, from its train.yaml."
    with readable_errors(path):
        lines = path.read_text().splitlines()
        return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in lines)}

def has_checkpoint(folder: Path) -> bool:
    "Whether a run in this folder can be resumed."
    return any((folder / "state").glob("*.json"))

class RunFolder:
    "Writes a run to disk: each step to the log, the best model, and checkpoints where they are due."

    def __init__(self, run, folder: Path, tok, resume: bool):
        self.run, self.folder, self.tok = run, folder, tok
        settings = asdict(run.config)
        if not has_checkpoint(folder):
            with atomic_write(folder / "train.yaml") as draft:
                draft.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))
        elif resume:
            before = read_settings(folder / "train.yaml")
            if other := [f"{name}={before.get(name)}" for name in settings if before.get(name) != settings[name]]:
                raise ValueError(f"the run in {folder} was started with {', '.join(other)}: "
                                 "resume it with the same settings")
            load_checkpoint(run, folder)
        else:
            raise ValueError(f"{folder} has a run already: continue it with resume=True, or name another folder")
        self.records = start_log(folder, run.step)  # of the steps before a resume

    def write(self, record: Record):
        run = self.run
        append_record(self.folder, record)
        if record.val_loss is not None and (run.best is None or record.val_loss < run.best):
            run.best = record.val_loss
            save(self.folder, run.model, self.tok, variant="best")
        if run.step % run.config.save_every == 0 or run.step >= run.steps:
            self.checkpoint()

    def checkpoint(self):
        save_checkpoint(self.run, self.folder, self.tok)

@contextmanager
def open_run(run, folder: str | Path | None, tok, resume: bool) -> Iterator[RunFolder | None]:
    "The folder of a run, locked, with what it already holds loaded; None if nothing is to be written."
    if folder is None:
        yield None
    else:
        with locked(folder := Path(folder).expanduser()):
            yield RunFolder(run, folder, tok, resume)

@contextmanager
def catch_interrupt() -> Iterator[list]:
    "A list that is no longer empty once Ctrl-C was pressed; the second time, Ctrl-C stops at once."
    pressed: list = []
    def note(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other may catch signals
    before = signal.signal(signal.SIGINT, note) if in_main_thread else None
    try:
        yield pressed
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
