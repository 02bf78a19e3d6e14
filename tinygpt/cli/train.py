"""tinygpt train: train a model on a text, or resume a run."""

import shlex
from dataclasses import asdict
from pathlib import Path
import torch
import yaml
import tinygpt as tg
from tinygpt.cli.evaluate import eval_command
from tinygpt.cli.sample import Writer, continue_lines
from tinygpt.cli.settings import (Device, UsageError, config_file, model_config, pick_device, read_settings, resolve,
                                  settings_of_run, write_command)
from tinygpt.cli.tokenizer import make_tokenizer
from tinygpt.io.checkpoints import load_tokenizer
from tinygpt.io.runs import RunLock, check_new, has_checkpoint
from tinygpt.show.progress import printable, show_samples, to_tensorboard, to_wandb
from tinygpt.tokenizer import Tokenizer

def run_settings(typed: dict, config: str | None, out: str | None, resume: bool) -> tuple[dict, Path]:
    "The settings of a run, and its folder; raises ValueError if the run in this folder has others."
    base = read_settings(config_file(config or ("finetune" if "from" in typed else "tiny")))
    start = typed.get("from", base.get("from"))
    if start and (fixed := [name for name in ("model", "tokenizer", "vocab_size") if name in typed]):
        raise UsageError(f"the {fixed[0]} comes from {start}: leave out the setting of another one")
    text = typed.get("text", base.get("text", "tales"))
    folder = Path(out or f"runs/{Path(text).name.split('.')[0]}").expanduser()
    if not resume:
        return resolve(base, typed), folder
    before = settings_of_run(folder)
    now = resolve(base if config else before, typed)
    if changed := [name for name in now if now[name] != before[name]]:
        raise ValueError(f"the run in {folder} was started with another {changed[0]}: resume it without that setting, "
                         "or name another folder with --out")
    return before, folder

def load_start(settings: dict) -> tuple[tg.GPT, Tokenizer]:
    "The model to continue from, and its tokenizer; the settings get its shape."
    model, tok = tg.load(settings["from"])
    if tok is None:
        raise ValueError(f"{settings['from']} has no tokenizer, so the model cannot read a text")
    shape = asdict(model.config)
    settings["vocab_size"] = shape.pop("vocab_size")
    settings["model"] |= shape
    return model, tok

def train(
    text: str | None = None,  # a file, a folder, or one of tales (the default), chats, drills, shakespeare, tinystories
    *,
    config: str | None = None,  # settings by name, or a YAML file (default: tiny)
    out: str | None = None,  # the folder of the run (default: runs/ and the name of the text)
    resume: bool = False,  # resume the run in the folder
    print_config: bool = False,  # print all settings, and stop
    write: bool = False,  # after training, type the beginning of a text, and the model continues it; Ctrl-D ends
    samples: bool = False,  # print a sample of the model's text after each evaluation
    tensorboard: bool = False,  # log to TensorBoard as well, in the folder of the run
    wandb: bool = False,  # log to Weights & Biases as well
    device: Device = "auto",  # auto is a GPU if there is one
    **settings,
) -> int | None:
    "Train a model on a text, and keep it in a folder."
    settings, folder = run_settings(settings | ({} if text is None else {"text": text}), config, out, resume)
    model, tok = load_start(settings) if settings["from"] and not (resume and has_checkpoint(folder)) else (None, None)
    if print_config:
        return print(yaml.safe_dump(settings, sort_keys=False), end="")
    (device, why), corpus = pick_device(device), tg.corpus(settings["text"])
    with RunLock(folder) as lock:
        if not has_checkpoint(folder):
            check_new(folder)
        elif not resume:
            raise ValueError(f"{folder} already has a run: resume it with --resume, or name another folder with --out")
        tok = tok or (load_tokenizer(folder) if resume else None)
        tok = tok or make_tokenizer(settings["tokenizer"], settings["vocab_size"], corpus)
        plan = tg.TrainConfig(**settings["train"])
        if not resume:
            write_command(folder, settings)
        torch.manual_seed(plan.seed)
        vocab_size = settings["vocab_size"] if settings["from"] else tok.vocab_size
        model = model or tg.GPT(model_config(**settings["model"], vocab_size=vocab_size))
        model.to(device)
        print(f"{printable(folder)}: {tg.count_parameters(model.config):,} parameters, {tok.vocab_size:,} tokens, "
              f"on {device} ({why})")
        has_end = "<|end|>" in getattr(tok, "special_tokens", {})
        prompt = "" if corpus.train.whole_documents and has_end else next(iter(corpus.val))[:20]
        consumers = [show_samples(model, tok, prompt)] if samples else []
        consumers += [to_tensorboard(folder / "tensorboard")] if tensorboard else []
        consumers += [to_wandb(project="tinygpt", name=folder.name, dir=str(folder))] if wandb else []
        records = tg.train(model, tok, corpus, plan, lock, resume, consumers)
    if records and records[-1].step < records[-1].steps:
        print(f"or in a terminal: tinygpt train --resume --out {printable(shlex.quote(str(folder)))}")
        return 130
    print(f"done; to evaluate the model: {printable(eval_command(folder, settings['text']))}")
    if write:
        continue_lines(Writer(model, tok))
