"""The folder of a run: its lock, its log, and the checkpoints from which it resumes."""

import json
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tinygpt.engine.interrupts import take_signals
from tinygpt.io import weights
from tinygpt.io.atomic import atomic_write, checksum, remove_drafts, write_json
from tinygpt.io.checkpoints import write_model
from tinygpt.io.log import Log, Record, check_log, read_records
from tinygpt.io.reading import read_bytes, read_json, readable_errors
from tinygpt.io.tokens import Tokens

MODEL_FILE = re.compile(r"(^(config|tokenizer|vocab)\.json|^merges\.txt|\.(safetensors|bin|pt|pth|ckpt|gguf))$")
PROGRESS = ("step", "steps", "tokens", "seconds", "best")  # what a checkpoint holds besides its tensors

class RunLock:
    "A lock that keeps other runs from writing into a folder, and can be used as its path; it ends with the process."

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()

    def __enter__(self) -> "RunLock":
        self.made = not self.folder.exists()
        if self.folder.is_file():
            raise ValueError(f"{self.folder} is a file: name a folder for the run")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.lock = FileLock(self.folder / ".lock")
            self.lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(f"another run is writing into {self.folder}: wait for it, or name another "
                             "folder") from None
        return self

    def __exit__(self, *_):
        with suppress(OSError):
            if self.made and os.listdir(self.folder) == [".lock"]:  # the run wrote nothing
                (self.folder / ".lock").unlink()
                self.folder.rmdir()
        self.lock.release()

    def __fspath__(self) -> str:
        return str(self.folder)

    __str__ = __fspath__

def state_dict(run) -> dict[str, Tensor]:
    "All tensors that a step changes, by name."
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for i, optimizer in enumerate(run.optimizers):
        for number, kept in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{number}.{name}": tensor for name, tensor in kept.items()}
    if run.scaler.enabled:
        tensors["loss_scaler"] = torch.tensor([run.scaler.scale, run.scaler.good_steps])
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
    if "loss_scaler" in tensors and run.scaler.enabled:
        run.scaler.scale, run.scaler.good_steps = tensors["loss_scaler"].tolist()
    run.model.load_state_dict({name: tensors[f"model.{name}"] for name in run.model.state_dict()})

def read_note(path: Path) -> dict:
    "The content of a checkpoint's JSON file; raises ValueError if it does not match its checksum or its name."
    def check(note: dict) -> dict:
        if note.pop("crc32", None) != checksum(note):
            raise ValueError("it does not match its checksum")
        if note["step"] != int(path.stem):
            raise ValueError(f"it is of step {note['step']}")
        return note
    return read_json(path, check)

def newest_note(folder: Path) -> dict | None:
    "The JSON content of the newest readable checkpoint; None if there is none."
    for path in sorted((folder / "state").glob("*.json"), reverse=True):
        with suppress(ValueError, OSError):
            return read_note(path)
    return None

def read_log(folder: Path) -> list[Record]:
    "The records of a run; warns or raises ValueError if records from before its newest checkpoint are missing."
    if note := newest_note(folder):
        check_log(folder, note["step"], note["log"])
    return read_records(folder)

def described(run, texts: Sequence[Tokens]) -> dict:
    "What must not change when a run is resumed: the model's config, and the SHA-256 of tokenizer and texts."
    train, val = texts
    return {"model": asdict(run.model.config), "tokenizer": train.tokenizer_sha256, "text": train.text_sha256,
            "validation text": val.text_sha256}

def check_same(folder: Path, note: dict, now: dict):
    "Raise ValueError, showing both, if a run was started with another model, tokenizer or text."
    for name in "text", "validation text", "tokenizer":
        if note[name] != now[name]:
            raise ValueError(f"the run in {folder} was started with another {name}: the SHA-256 of that begins with "
                             f"{note[name][:12]}, of this with {now[name][:12]}; resume it with the same {name}, or "
                             "name another folder")
    if changed := [f"{name}={note['model'].get(name)!r}, not {value!r}" for name, value in now["model"].items()
                   if note["model"].get(name) != value]:
        raise ValueError(f"the run in {folder} was started with a model of {' and '.join(changed)}: resume it with the "
                         "same model")

def save_checkpoint(run, folder: Path, tok, about: dict):
    "Write a checkpoint: the tensors, the model, and finally the JSON file that completes it; keep the two newest."
    state, file = folder / "state", f"{run.step:08d}.safetensors"
    weights.write_weights(state, state_dict(run), file)
    write_model(folder, run.model, tok)
    note = {name: getattr(run, name) for name in PROGRESS} | {"tensors": weights.header_crc32(state / file)} | about
    write_json((state / file).with_suffix(".json"), note | {"crc32": checksum(note)})
    remove_old_checkpoints(state)

def remove_old_checkpoints(state: Path):
    "Remove all checkpoints but the two newest."
    for old in sorted(state.glob("*.json"))[:-2]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)

def load_checkpoint(run, folder: Path, now: dict) -> dict:
    "Load the newest readable checkpoint, and return its JSON content; raises ValueError if there is none."
    for path in sorted((folder / "state").glob("*.json"), reverse=True):
        file = path.with_suffix(".safetensors")
        try:
            note = read_note(path)
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}; so this run resumes from the checkpoint before it", stacklevel=4)
            continue
        check_same(folder, note, now)
        try:
            if weights.header_crc32(file) != note["tensors"]:
                raise ValueError(f"{file} is not the file that was written at step {note['step']}")
            shapes = weights.list_weights(path.parent, file.name)
            load_state_dict(run, weights.read_weights(path.parent, shapes, file=file.name))
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}; so this run resumes from the checkpoint before it", stacklevel=4)
            continue
        vars(run).update({name: note[name] for name in PROGRESS})
        return note
    raise ValueError(f"no checkpoint in {folder / 'state'} can be read: name another folder")

def read_settings(path: Path) -> dict:
    "The settings of a run, from its train.yaml."
    with readable_errors(path):
        lines = read_bytes(path).decode().splitlines()
        return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in lines)}

def has_checkpoint(folder: Path) -> bool:
    "Whether a run in this folder can be resumed."
    return any((folder / "state").glob("*.json"))

def check_new(folder: Path):
    "Raise ValueError if a new run in this folder would overwrite a model, or a run whose checkpoints are missing."
    log, found = folder / "log.csv", [name for name in sorted(os.listdir(folder)) if MODEL_FILE.search(name)]
    if log.exists() and ((folder / "train.yaml").exists() and not read_records(folder)):
        return  # a run that was stopped before its first checkpoint
    if log.exists():
        raise ValueError(f"{folder} has the log of a run, but its checkpoints ({folder / 'state'}) are gone, so it "
                         "cannot be resumed: name another folder")
    if found:
        raise ValueError(f"{folder} already has a model ({found[0]}): name another folder")

class RunFolder:
    "Writes a run to disk: a log line for each step, the best model, and a checkpoint every `save_every` steps."

    def __init__(self, run, texts: Sequence[Tokens], tok, folder: Path, resume: bool):
        self.run, self.folder, self.tok, self.about = run, folder, tok, described(run, texts)
        settings = asdict(run.config)
        if not has_checkpoint(folder):
            check_new(folder)
            remove_leftovers(folder)
            with atomic_write(folder / "train.yaml") as draft:
                draft.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))
            self.log = Log(folder)
            self.checkpoint()
            return
        if not resume:
            raise ValueError(f"{folder} already has a run: continue it with resume=True, or name another folder")
        before = read_settings(folder / "train.yaml")
        changed = [name for name in settings | before if before.get(name) != settings.get(name)]
        if changed:
            started = ", ".join(f"{name}={before.get(name)}" for name in changed)
            raise ValueError(f"the run in {folder} was started with {started}: resume it with the same settings")
        note = load_checkpoint(run, folder, self.about)
        remove_leftovers(folder)
        self.log = Log(folder, check_log(folder, note["step"], note["log"]))
        write_model(folder, run.model, tok)  # the files there may be older or newer

    @property
    def records(self) -> list[Record]:
        "The records of the steps before a resume."
        return self.log.records

    def write(self, record: Record):
        run = self.run
        self.log.append(record)
        if record.val_loss is not None and (run.best is None or record.val_loss < run.best):
            run.best = record.val_loss
            write_model(self.folder, run.model, self.tok, variant="best")
        if run.step % run.config.save_every == 0 or run.step >= run.steps:
            self.checkpoint()

    def checkpoint(self):
        self.log.flush()
        save_checkpoint(self.run, self.folder, self.tok, self.about | {"log": self.log.crc32})

def remove_leftovers(folder: Path):
    "Remove what killed runs left in a folder: drafts, old checkpoints, and tensors of incomplete checkpoints."
    for part in folder, folder / "state":
        remove_drafts(part)
    remove_old_checkpoints(folder / "state")
    for file in (folder / "state").glob("*.safetensors"):
        if not file.with_suffix(".json").exists():
            file.unlink()

@contextmanager
def open_run(run, texts: Sequence[Tokens], tok, out: str | Path | RunLock | None,
             resume: bool) -> Iterator[RunFolder | None]:
    "The folder of a run, locked, with its newest checkpoint loaded; None if the run is not written to disk."
    if out is None:
        yield None
    elif isinstance(out, RunLock):  # the caller has locked it
        yield RunFolder(run, texts, tok, out.folder, resume)
    else:
        with RunLock(out) as lock:
            yield RunFolder(run, texts, tok, lock.folder, resume)

@contextmanager
def catch_interrupt() -> Iterator[list]:
    "Yield a list that gets the first Ctrl-C or SIGTERM; a second signal has its usual effect."
    caught: list = []
    def note(number, frame):
        caught.append(number)
        give_back()
    def give_back():
        for number, handler in before.items():
            signal.signal(number, handler)
    in_main_thread = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    before = take_signals(note) if in_main_thread else {}
    try:
        yield caught
    finally:
        give_back()
    if signal.SIGTERM in caught and before[signal.SIGTERM] is signal.SIG_DFL:
        print(end="", flush=True)
        signal.raise_signal(signal.SIGTERM)  # the process should end, and everything is saved
