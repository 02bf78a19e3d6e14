"""tinygpt eval: measure a model on text that it was not trained on."""

import os
import shlex
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from json import dumps
from pathlib import Path
from tqdm import tqdm
import tinygpt as tg
from tinygpt.chat import takes_turns
from tinygpt.cli.settings import COMMAND_FILE, Device, UsageError, pick_device, settings_of_run, text_setting
from tinygpt.io.runs import newest_note
from tinygpt.io.tokens import text_sha256
from tinygpt.show.progress import printable
from tinygpt.training import validate
from tinygpt.world.judging import floor_of

SAFE = ("tales", "chats", "drills", "shakespeare")  # read without asking when a run names them

def evaluate_model(model: tg.GPT, tok, text: tg.Corpus) -> dict:
    "All measurements on the validation split of a text."
    tokens, block_size = tg.encode_corpus(text.val, tok), model.config.block_size
    longest = (tokens.bounds[1:] - tokens.bounds[:-1]).max()
    tokens.whole_documents = fits = tokens.whole_documents and bool(longest <= block_size)
    batches = tg.validation_batches(tokens, block_size, batch_size=max(1, min(32, 2**15 // block_size)))
    n_tokens = len(tokens) - 1
    bar = tqdm(batches, disable=None, leave=False)  # None: hidden unless in a terminal
    loss = sum(validate(model, [batch]) * int(batch[2].sum()) for batch in bar) / n_tokens
    n_bytes = sum(len(document.encode()) for document in text.val)
    if not tokens.bounds[0]:  # there is nothing before the first token, so it is not predicted
        n_bytes -= len(tok.token_bytes(int(tokens.ids[0])))
    has_skills = text.heldout is not None and text.known_source and fits
    return {"tokens": n_tokens, "loss": loss, "perplexity": tg.perplexity(loss),
            "bits_per_byte": tg.bits_per_byte(loss * n_tokens, n_bytes), "floor": floor_of(text, tok),
            "skills": tg.skill_accuracy(model, tok, text) if has_skills else None,
            "answers": tg.chat_accuracy(model, tok, islice(text.val, 300)) if takes_turns(text, tok) else None}

def print_table(rows: Iterable[Sequence[str]]):
    "Print rows: their names on the left, their values in columns."
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for name, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:])]
        print("  ".join([name.ljust(widths[0]), *cells]).rstrip())

def eval_command(run: str | Path, text: str) -> str:
    "The command that evaluates a run on its text; it names the text unless that is one of the safe corpora."
    short = os.path.relpath(text) if Path(text).is_relative_to(Path.cwd()) else text
    words = [str(run), *([] if text in SAFE else [short])]
    return shlex.join(["tinygpt", "eval", *(f"./{word}" if word.startswith("-") else word for word in words)])

def text_of_run(run: str) -> str:
    "The corpus that a run was trained on; raises ValueError if it is not a safe one, so that the user must name it."
    text = settings_of_run(Path(run).expanduser())["text"]
    if text not in SAFE:
        raise ValueError("this run was trained on a text that is read only if you name it: type "
                         + eval_command(run, text))
    return text

def warn_if_changed(folder: Path, text: str, corpus: tg.Corpus):
    "Warn if the run's text has changed since the run was started."
    note = newest_note(folder) if (folder / COMMAND_FILE).exists() else None
    if note is None or text_setting(text) != settings_of_run(folder)["text"]:
        return
    if not (now := text_sha256(corpus.val)).startswith(before := note["validation text"]):
        warnings.warn(f"{text} has changed since the run in {folder} was started: the SHA-256 of its validation split "
                      f"began with {before[:12]}, and begins with {now[:12]}", stacklevel=2)

def evaluate(
    run: str,  # the folder of a run, or any other model
    text: str | None = None,  # its validation split is read (default: that of the run: tales, chats or shakespeare)
    *,
    best: bool = False,  # the weights with the least validation loss, not the last
    json: bool = False,  # print one JSON object
    device: Device = "auto",  # auto is a GPU if there is one
):
    "Evaluate a model on text that it was not trained on."
    folder, (device, _) = Path(run).expanduser(), pick_device(device)
    if not text and not folder.is_dir():
        raise UsageError(f"{run} is not the folder of a run: to evaluate another model, give a TEXT")
    text = text or text_of_run(run)
    corpus = tg.corpus(text)
    model, tok = tg.load(folder if folder.is_dir() else run, device=device, variant="best" if best else None)
    warn_if_changed(folder, text, corpus)
    if tok is None:
        raise ValueError(f"{run} has no tokenizer, so the model cannot read a text")
    found = evaluate_model(model, tok, corpus)
    if json:
        return print(dumps({"run": run, "text": text} | found))
    print(f"{printable(run)} on {printable(corpus.name)}, {found['tokens']:,} tokens for validation")
    rows = {"validation loss (nats per token)": found["loss"], "perplexity": found["perplexity"],
            "bits per byte": found["bits_per_byte"]}
    if found["floor"] is not None:
        rows |= {"entropy floor (nats per token)": found["floor"], "above the floor": found["loss"] - found["floor"]}
    skills = [(f"skill: {name}", f"{accuracy:.1%}") for name, accuracy in (found["skills"] or {}).items()]
    answers = [(f"right answers: {kind}", f"{accuracy:.1%}") for kind, accuracy in (found["answers"] or {}).items()]
    print_table([(name, f"{value:.3f}") for name, value in rows.items()] + skills + answers)
