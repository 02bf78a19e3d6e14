"""Command lines and calls with common mistakes, and hostile files."""

import gzip
import io
import json
import os
import random
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import tokenizers
import torch

import tinygpt as tg
from tinygpt.cli import main

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)
FILES = {  # name: content
    "empty.txt": "", "one.txt": "a", "two.txt": "ab", "bom.txt": "\ufeff", "white.txt": " \n\t " * 200,
    "utf16.txt": "tale and tail " * 100, "binary.txt": bytes(range(256)) * 40, "bad.txt.gz": b"\x1f\x8b\x08 no",
    "crlf.txt": "a line\r\n" * 300, "nul.txt": "a\0b" * 500, "accents.txt": "é€😀 " * 500,
    "dna.txt": "".join(random.Random(0).choices("acgt", k=20_000)),
    "-dash.txt": "a text that begins with a dash " * 100, "one-line.txt": "x" * 5000, "esc\x1b[31m.txt": "red " * 500,
    "bomb.yaml": BOMB, "deep.yaml": "[" * 50_000,
    "deepest.yaml": "train: " + "{a: " * 2000 + "1" + "}" * 2000,
    "twice.yaml": "vocab_size: 270\nvocab_size: 280\n",
    "list.yaml": "- 1\n- 2\n", "word.yaml": "hello", "empty.yaml": "",
    "unknown.yaml": "model: {layers: 3}\n", "type.yaml": "train: {steps: many}\n",
    "tabs.yaml": "train:\n\tsteps: 3\n",
    "nan.yaml": "train: {lr: .nan}\n", "python.yaml": "text: !!python/object/apply:os.system ['touch pwned']\n",
    "table.yaml": "model: 3\n", "null.yaml": "model: null\n", "esc.yaml": 'model: {"\\e[31mred": 1}\n',
    "binary.yaml": b"\xff\xfe\0",
    "huge.yaml": "model: {n_layer: 99999999999999999999}\n", "long.yaml": f"model: {{{'x' * 100_000}: 1}}\n",
    "self.yaml": "model: &a {n_layer: *a}\n", "date.yaml": "text: 2020-01-01\n",
    "bool.yaml": "train: {checkpointing: 7}\n",
}  # fmt: skip


def furnish(folder, place, words):
    """Fill a folder with good files, a small run named run, and those hostile files that occur in the words."""
    example = place.folder / "example"
    if not example.exists():
        place.by_command(example)
    folder.mkdir()
    for name in filter(words.__contains__, FILES):
        content = FILES[name]
        encoding = "utf-16" if "utf16" in name else "utf-8"
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    shutil.copytree(example, folder / "run")
    shutil.copy(place.text, folder)
    (folder / "a-file").write_text("not a folder")
    settings = place.settings.read_text().replace('"steps": 6', '"steps": 3')
    (folder / "small.yaml").write_text(settings)
    (folder / "good.txt.gz").write_bytes(gzip.compress(place.text.read_bytes()))
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("nowhere")
    (folder / "folder").mkdir()
    for name in filter(words.__contains__, DAMAGED_RUNS):
        shutil.copytree(example, folder / name)
        DAMAGED_RUNS[name](folder / name)


def foreign(folder):
    """Turn a run into a model that tinygpt cannot load."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama\x1b[31m"}))


def settings(change):
    """Damage a run: change the settings of its command."""
    return lambda folder: (folder / "command.yaml").write_text(change((folder / "command.yaml").read_text()))


DAMAGED_RUNS = {
    "foreign": foreign,
    "no-tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "no-state": lambda folder: shutil.rmtree(folder / "state"),
    "reads-passwd": settings(lambda text: re.sub("text: .*", "text: /etc/passwd", text)),
    "reads-zero": settings(lambda text: re.sub("text: .*", "text: /dev/zero", text)),
    "bomb-run": settings(lambda text: BOMB),
    "deep-run": settings(lambda text: "[" * 50_000),
    "esc-run": settings(lambda text: text + '"\\e]0;owned\\a": 1\n'),
}

SMALL = "--config small.yaml"
REFUSED, FINE, EITHER = {}, {"codes": (0,)}, {"codes": (0, 1, 2)}


def listed(text, how="{}"):
    """The items of a text, which stand between semicolons, each put into a pattern."""
    return [how.format(" ".join(item.split())) for item in text.split(";")]


TEXTS = """missing.txt; empty.txt; one.txt; two.txt; bom.txt; white.txt; utf16.txt; binary.txt; bad.txt.gz; folder;
    pipe; link; /dev/zero; /dev/null; /proc/self/mem; LONG; ''; 'a\x1b[31mb'; ~nobody/x; https://example.org/a.txt;
    tale; *.txt; a-file/x"""
CONFIGS = """missing.yaml; bomb.yaml; deep.yaml; deepest.yaml; twice.yaml; list.yaml; word.yaml; unknown.yaml;
    type.yaml; tabs.yaml; nan.yaml; python.yaml; table.yaml; esc.yaml; binary.yaml; huge.yaml; long.yaml; self.yaml;
    date.yaml; bool.yaml; folder; pipe; link; /dev/zero; text.txt; LONG"""
OPTIONS = """--train.steps 0; --train.steps -1; --train.steps 1.5; --train.steps many; --train.steps;
    --train.steps 1e400; --train.steps 99999999999999999999; --train.steps 3 --train.epochs 2; --train.epochs nan;
    --train.minutes inf; --train.minutes -1; --train.lr -1; --train.lr nan; --train.lr inf; --train.batch_size 0;
    --train.clip 0; --train.optimizer sgd; --train.schedule step; --train.dtype fp16; --train.seed -1;
    --train.checkpointing 3; --train.save_every 0; --train.eval_every 0; --train.block_size 17; --train.block_size 0;
    --model.n_layer 0; --model.n_head 3; --model.n_embd -8; --model.dropout 1; --model.norm batch; --model.preset huge;
    --model.n_hidden 0; --model.block_size 99999999999; --model.rope_base 0; --vocab_size 5; --vocab_size x;
    --tokenizer missing; -x; --tokenizer a-file; --tokenizer ''; --tokenizer foreign/state; --device cuda; --device tpu;
    --stepz 3; --resume; --out a-file; --out a-file/x; --out /dev/null; --out /proc/x; --out LONG; --out run;
    --out foreign; --out no-state; text.txt; --train 3; --model 3; --config; --train.steps=3 --train.minutes=3"""
RESUMED = """missing; folder; a-file; bomb-run; deep-run; esc-run; no-state; reads-zero; run --train.steps 9; pipe;
    LONG; run --config tiny"""
EVALUATED = """run; missing; folder; a-file; pipe; LONG; ''; foreign text.txt; no-tokenizer; no-tokenizer text.txt; -x;
    reads-passwd; reads-zero; bomb-run; deep-run; esc-run; run missing.txt; run empty.txt; run one.txt; run bom.txt;
    run pipe; run /dev/zero; run folder; run utf16.txt; run --device cuda; run --jsn; 'a\x1b[31m'; ../../../etc"""
SAMPLED = """missing; ./missing; folder; a-file; pipe; LONG; ''; 'a text'; foreign; no-tokenizer; /dev/zero; -x;
    ../../../etc; 'a\x1b[31m'; run run; run -m run; run -k 0; run -k x; run -k; run -T -1; run -T nan; run -t -1;
    run -t 99999999999; run --top-p 2; run --min-p -1; run --repetition-penalty 0; run --num 0; run --seed -1;
    run --stop ''; run --dtype int8; run --device cuda; run -d tpu; run --tpo-k 3; run --prompt ''; run --prompt -x"""
CHATTED = """missing; folder; a-file; pipe; LONG; ''; run; foreign; no-tokenizer; /dev/zero; -x; a b; -m a b; 'a\x1b[31m';
    -k 0; -k x; -k; -T -1; -T nan; -t 0; -t 99999999999; --top-p 2; --min-p -1; --repetition-penalty 0; --seed -1;
    --stop ''; --dtype int8; --device cuda; -d tpu; --tpo-k 3; --prompt -x; --prompt LONG"""
DRAWN = """missing; folder; a-file; run missing; run --out a-file/x.png; run --out x.doc; run --out LONG.png; pipe;
    /dev; run --out /dev/full/x.png"""
DECODED = """x; -1; 1.5; 99999; 99999999999999999999; '1 x'; 1 --tokenizer missing; 1 --tokenizer folder;
    1 --tokenizer pipe; 1 --tokenizer /dev/zero"""
WRONG = """; ''; trian; LONG; '\x1b[31m'; --nothing; eval; plot; tokenizer; tokenizer learn; tokenizer train;
    bench huge; tokenizer train text.txt; bench --batch_size 0; bench --device cuda; tokenizer encode --tokenizer bpe"""
RIGHT = """--help; -h; --version; train --help; eval --help; tokenizer --help; eval run text.txt; plot run;
    eval run text.txt --best --json; plot run run --out new/folder/x.svg; train --resume --out run;
    chat --help; chat -p hi; chat -p '' -t 3; chat -p 'a\x1b[31m' --json; sample --help; sample -p Once -T 0; sample run -p '3 and' --num 3; sample -m run -p LONG --json -t 5 --seed 1;
    tokenizer encode hello; tokenizer decode 1 2 3; tokenizer train text.txt --out new; tokenizer encode ''"""
COMMANDS = [  # each with how it is called, and with the exit codes that are right, if not 1 or 2
    *((words, REFUSED) for words in listed(WRONG)),
    *((words, FINE) for words in listed(RIGHT)),
    *((words, REFUSED) for words in listed(TEXTS, "train {} " + SMALL)),
    *((words, FINE) for words in listed("text.txt; good.txt.gz; accents.txt; crlf.txt; dna.txt", "train {} " + SMALL)),
    *((words, EITHER) for words in listed("'esc\x1b[31m.txt'; -dash.txt; ./-dash.txt; -- -dash.txt; one-line.txt; .; "
                                          "nul.txt; text.txt --print_config; text.txt --out ''", "train {} " + SMALL)),
    *((words, REFUSED) for words in listed("missing.txt; empty.txt; bom.txt; pipe; /dev/zero; utf16.txt",
                                           "tokenizer train {} --out new")),
    *((words, REFUSED) for words in listed(CONFIGS, "train text.txt --config {}")),
    *((words, EITHER) for words in listed("empty.yaml; null.yaml", "train text.txt --print_config --config {}")),
    *((words, REFUSED) for words in listed(OPTIONS, f"train text.txt {SMALL} {{}}")),
    *((words, REFUSED) for words in listed(RESUMED, "train --resume --out {}")),
    *((words, REFUSED) for words in listed(EVALUATED, "eval {}")),
    *((words, REFUSED) for words in listed(SAMPLED, "sample -p '3 and' {}")),
    *((words, REFUSED) for words in listed(CHATTED, "chat -p hi {}")),
    *((words, REFUSED) for words in listed(DRAWN, "plot {}")),
    *((words, EITHER) for words in ("plot run --out folder", "plot run --out ''", "eval run white.txt")),
    *((words, REFUSED) for words in listed(DECODED, "tokenizer decode {}")),
    ("tokenizer encode", {"given": b"\xff\xfe\0"}),
    ("tokenizer decode", {"given": b"1 two 3"}),
    ("tokenizer encode", {"given": b"hello\n" * 1000} | FINE),
    ("tokenizer decode", {"given": b""} | FINE),
    ("tokenizer encode", {"closed": 0}),
    ("tokenizer decode", {"closed": 0}),
    (f"train text.txt {SMALL} --write", {"closed": 0}),
    (f"train text.txt {SMALL} --write", {"given": b"4 and\n\n\xff\n"} | EITHER),
    ("sample run", {"closed": 0}),
    ("sample run -p -", {"closed": 0}),
    ("sample run -p -", {"given": b""}),
    ("sample run -p -", {"given": b"ab\xff"}),
    ("sample run -p -", {"given": b"3 and\n4 and\n"} | FINE),
    ("sample run", {"given": b"4 and\n\n\x1b]0;owned\x07\n"} | FINE),
    ("sample run -p a", {"closed": 1} | FINE),
    ("chat", {"closed": 0}),
    ("chat", {"given": b"hi\xff\n"} | EITHER),
    ("chat -t 5", {"given": b"hi\n\n/\n//\n/set\n/set a\n/set seed -1\n/load /\n/save /\n\x1b]0;owned\x07\n"} | FINE),
    ("chat -t 5", {"given": b"/load run\n/load a-file\n/load pipe\n/load /dev/zero\n/save folder\n/save a-file/x\n"} | FINE),
    ("chat -t 5 --json", {"given": b"<|assistant|>\n<|end|>\n\xed\xa0\x80\n"} | EITHER),
    ("chat -p hi", {"closed": 1} | FINE),
    (f"train accents.txt {SMALL} --samples", {"encoding": "ascii"} | FINE),
    (f"train accents.txt {SMALL} --write", {"given": b"a\n", "encoding": "ascii"} | EITHER),
    (f"train text.txt {SMALL}", {"closed": 1} | FINE),
    (f"train text.txt {SMALL}", {"closed": 2} | FINE),
    ("eval run text.txt", {"closed": 1} | EITHER),
    *((words, {"stdout": "/dev/full"}) for words in listed("eval run text.txt; --help; sample -p a; "
                                                                "tokenizer decode 1")),
    *((words, {"stdout": "pipe", "codes": (141,)}) for words in listed("eval run text.txt; sample -p a; "
                                                                                   "tokenizer encode LONG")),
    (f"train text.txt {SMALL}", {"stdout": "/dev/full"}),
]  # fmt: skip


def run(words, how, folder):
    """A command in this process, in a folder, with this input and output; returns the exit code."""
    os.chdir(folder)
    if "given" in how:
        os.dup2(os.memfd_create("in"), 0)
        os.pwrite(0, how["given"], 0)
    if "stdout" in how:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(os.open("/dev/full", os.O_WRONLY) if how["stdout"] == "/dev/full" else writer, 1)
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding=how.get("encoding", "utf-8"))
    if "closed" in how:
        os.close(how["closed"])
        setattr(sys, ("stdin", "stdout", "stderr")[how["closed"]], None)
    return main([word.replace("LONG", "x" * 10**6) for word in shlex.split(words)])


def judge(code, err, codes=(0, 1, 2, 130, 141)):
    """What is wrong with how a command ended; empty if it behaved as documented."""
    lines = err.split("\n")
    if code not in codes:
        return f"exit code {code}, not {codes}"
    if any(line and not line.startswith("tinygpt: ") for line in lines):
        return "a line on stderr that is no sentence of tinygpt"
    if CONTROL.search(err) or max(map(len, lines)) > 1000:
        return "control characters or too long a line on stderr"
    return "" if code not in (1, 2) or len(lines) > 1 else "no line on stderr"


OURS, PYTHON = (ValueError, OSError, ArithmeticError), (ValueError, OSError, ArithmeticError, TypeError)


def names(folder):
    """The names that the calls below may use."""
    os.chdir(folder)
    model, tok = tg.load("run")
    text, plan = tg.corpus("text.txt"), tg.TrainConfig(steps=2, batch_size=2)
    args = {"model": model, "tok": tok, "corpus": text, "config": plan}
    ids = torch.tensor([tok.encode("3 and 4")])
    tokens, big = tg.encode_corpus(text.train, tok), tg.GPT(replace(model.config, vocab_size=10))
    return locals() | globals() | {"other_tok": tg.CharTokenizer.train("abc")}


def resumed(args, edit=lambda: None, **changes):
    """Start a run, change something, and resume it."""
    tg.train(*args.values(), out="mine", progress=False)
    edit()
    tg.train(*(args | changes).values(), out="mine", resume=True, progress=False)


def opens_alike(pattern, text="Abc de, 123 \u017f abc\n x\u0130\u0e33"):
    """Whether the tokenizers library gives the ids that a tokenizer with this pattern gives."""
    tok = tg.BPETokenizer.train(text, 300, pattern=pattern)
    tok.save("saved")
    return tokenizers.Tokenizer.from_file("saved/tokenizer.json").encode(text).ids == tok.encode(text)


REFUSED_BY_US = r"""resumed(args, lambda: Path('text.txt').write_text('5 and 6 made 11. ' * 300));
    resumed(args, corpus=tg.corpus('dna.txt')); resumed(args, config=replace(plan, lr=0.5)); resumed(args, model=big);
    resumed(args, tok=tg.BPETokenizer.train('abcabc ' * 9, 260)); tg.save('foreign', model, tok);
    tg.save('new', model, tok, variant='x/../../escaped'); tg.save('a-file', model);
    tg.save('new', model, tok, variant='../x'); tg.save('new', model, tok, variant='a/b'); tg.save('a-file/x', model);
    tg.save('new', tok, model); tg.save('new', model, dtype='int8'); tg.save('new', model.state_dict());
    tg.save('new', big, tok); tg.load('run', variant='x/../../escaped'); tg.load('run', variant='worst');
    tg.load('missing'); tg.load(''); tg.load('a-file'); tg.load('folder'); tg.load('run', dtype='int8');
    tg.load('pipe'); tg.load('run', dtype=3); tg.load('run', device='cuda'); tg.load('foreign');
    tg.load('run/model.safetensors'); tg.load(Path('run/config.json')); tg.train(model, tok, 'text.txt', plan);
    tg.train(tok, model, text, plan); tg.train(model, tok, Path('text.txt'), plan);
    tg.train(model, tok, text, {'steps': 2}); tg.train(big, tok, text, plan); tg.train(model, tok, text, 2);
    tg.train(model, None, text, plan); tg.train(model, tok, text.train, plan); tg.train(model, text, tok, plan);
    tg.train(model, tok, text, plan, out='run'); tg.train(model, tok, text, plan, out='a-file');
    tg.train(model, tok, text, plan, out='foreign'); tg.train(model, tok, text, plan, out='no-state', resume=True);
    tg.train(model, tok, text, plan, out='run', resume=True);
    tg.train(model, tok, tg.corpus('accents.txt'), replace(plan, block_size=99));
    tg.train(model, tok, text, tg.TrainConfig(steps=2, optimizer='sgd')); tg.GPT(65); tg.GPT({'vocab_size': 65});
    tg.GPT('tiny'); tg.GPT(None); tg.GPTConfig.named('huge'); tg.GPTConfig(0); tg.GPTConfig(-1);
    tg.GPTConfig(65, n_layer=0); tg.GPTConfig(65, n_head=3); tg.GPTConfig(65.5); tg.GPTConfig('65');
    tg.GPTConfig(65, dropout=1); tg.GPTConfig(65, dropout=-0.1); tg.GPTConfig(65, norm='batch');
    tg.GPTConfig(65, bias=2); tg.GPTConfig(65, mlp='none'); tg.GPTConfig(65, position='none');
    tg.GPTConfig(65, tied='no'); tg.GPTConfig.named(None); tg.GPTConfig(65, n_kv_head=3); tg.GPTConfig(65, head_dim=3);
    tg.GPTConfig(65, n_embd=float('nan')); tg.GPTConfig(65, rope_base=0); tg.GPTConfig(65, block_size=None);
    tg.TrainConfig(); tg.TrainConfig(steps=0); tg.TrainConfig(steps=2, epochs=2); tg.TrainConfig(steps=1.5);
    tg.TrainConfig(steps='2'); tg.TrainConfig(steps=2, lr=-1); tg.TrainConfig(steps=2, checkpointing='no');
    tg.TrainConfig(steps=2, lr=float('nan')); tg.TrainConfig(steps=2, schedule=None);
    tg.TrainConfig(steps=2, dtype='fp16'); tg.TrainConfig(minutes=float('inf'));
    tg.TrainConfig(steps=2, batch_size=6, accumulation=4);
    tg.TrainConfig(steps=2, dtype=torch.bfloat16); tg.TrainConfig(epochs=float('nan'));
    tg.TrainConfig(steps=2, seed=-1); tg.TrainConfig(steps=2, batch_size=0); tg.TrainConfig(steps=2, clip=0);
    tg.TrainConfig(steps=2, warmup=-1); tg.TrainConfig(steps=2, save_every=0); tg.BPETokenizer.train('text.txt', 300);
    tg.BPETokenizer.train('ab', 10); tg.BPETokenizer.train('ab', 300, pattern='(?r).').encode('abc');
    tg.BPETokenizer.train('ab', 300, pattern='(');
    tg.BPETokenizer.train('ab', -1); tg.BPETokenizer.train('ab', 300, pattern='(?:a|a)*c').encode('a' * 40);
    tg.BPETokenizer.train('ab', 300, '<|end|>'); tg.BPETokenizer.train('ab', 300, ['']);
    tg.BPETokenizer.train('ab', 300, ['a', 'a']); tg.BPETokenizer.load('folder'); tg.BPETokenizer.train(b'bytes', 300);
    tg.BPETokenizer.train([1, 2], 300); tg.BPETokenizer.load('missing'); tg.BPETokenizer.load('run/tokenizer.json');
    tg.CharTokenizer.load('run'); tok.encode(None); tok.encode(5); tok.encode(b'bytes'); tok.encode(['a', 5]);
    tok.decode([99999]); tok.decode([-1]); tok.save('a-file'); tok.encode('a', allowed_special='<|no|>');
    tok.save('a-file/x'); other_tok.encode('xyz'); other_tok.decode([7]); tg.corpus('missing.txt'); tg.corpus('');
    tg.corpus('empty.txt'); tg.corpus('folder'); tg.corpus('pipe'); tg.corpus('/dev/zero'); tg.corpus('link');
    list(tg.corpus('utf16.txt')); tg.corpus('Tales'); list(tg.corpus('binary.txt')); list(tg.corpus('bad.txt.gz'));
    tg.encode_corpus(text, tok); tg.encode_corpus('text.txt', tok); tg.encode_corpus(tg.corpus('one.txt').train, tok);
    tg.encode_corpus(text.train, tok, 'a-file'); tg.encode_corpus(text.train, other_tok); tg.Attention(16, -2);
    tg.Attention(16, 0); tg.Attention(16, 3); tg.Attention(-16, 2); tg.Attention(16, 4, 3); model(ids.float());
    model(ids[0]); model(ids + 10_000); model(-ids); model([1, 2]); model('text'); model(ids.repeat(1, 50));
    model(ids[:, :0]); model.loss(ids, ids[:, 1:]); model.loss(ids, ids + 10_000); tg.build_optimizers(model, 'sgd');
    model.loss(ids, ids, torch.ones(ids.shape)); tg.build_optimizers(model, lr=-1);
    tg.Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1); opens_alike(r'\p{Script=Latin}+|\P{Script=Latin}');
    opens_alike(r'[\s\S]{1,3}+'); opens_alike(r'\w+|\W'); opens_alike(r'^.|[\s\S]'); opens_alike(r'[a-z]+$|[\s\S]');
    opens_alike(r'(?i:s)+|[\s\S]'); opens_alike(r'(?s:.+)'); tg.next_token(5); tg.next_token('once');
    tg.next_token('Once upon a ti'); tg.next_token('Once', model); tg.next_token('Once', 'gpt2');
    tg.generate(tok, model, 'a'); tg.generate(model, tok, '');
    tg.generate(model, tok, 5); tg.generate(model, tok, ['a', None]); tg.generate(model, tok, 'a', -1);
    tg.generate(model, tok, 'a', temperature=-1); tg.generate(model, tok, 'a', top_p=float('nan'));
    tg.generate(model, tok, 'a', top_k=0); tg.generate(model, tok, 'a', stop=''); tg.generate(big, tok, 'a');
    tg.generate(model, tok, 'a', seed=-1); tg.generate(model, tok, 'a', dtype='int8'); tg.stream(model, tok, ['a']);
    tg.generate(model, other_tok, 'xyz')"""
REFUSED_BY_US_OR_PYTHON = """tg.Muon([], lr=0.1); tg.Muon(model.parameters(), lr=-1); tg.Windows(tokens, 0, 2);
    tg.Windows(tokens, 16, 0); tg.Windows(tokens, 10**6, 2); tg.Windows(tokens, 16, 2, rank=2, world_size=2);
    tg.validation_batches(tokens, 0, 2); tg.GPTConfig(); tg.GPTConfig(65, layers=3); tg.GPTConfig.modern(0);
    tg.corpus(); tg.TrainConfig(step=3); tg.corpus(5); tg.corpus(None); tg.train(model, tok, text);
    tg.save(model, 'new'); tg.load(None); tg.load(model); tg.BPETokenizer.train(5, 300);
    tg.BPETokenizer.train(None, 300); tg.CharTokenizer.train(5)"""
NO_MISTAKE = """tok.decode(tok.encode('3 and 4 \ud7ff \U0001f600')) == '3 and 4 \ud7ff \U0001f600';
    (a := tg.BPETokenizer.train('ab', 300, pattern='a')).decode(a.encode('ab')) == 'ab'; tok.encode('') == [];
    len(tg.train(model, tok, text, plan)) == 2;
    len(tg.train(model, tok, text, plan, 'new', resume=True)) == 2; tg.load('no-tokenizer')[1] is None;
    tg.logprob('not a tale') == -float('inf'); tg.spans('') == []; tg.answers('') == [];
    tg.next_token('Long').max().item() == 1;
    tg.load(Path('run'))[1].words == tok.words; len(list(text)) > 0; model(ids).shape == (*ids.shape, tok.vocab_size);
    ''.join(tg.corpus('good.txt.gz').train) == ''.join(text.train); tg.GPTConfig(65, n_embd=128).vocab_size == 65;
    tg.generate(model, tok, '3 and', 0) == '3 and'; tg.generate(model, tok, []) == [];
    tg.generate(model, tok, '3 and', 9, seed=1) == '3 and' + ''.join(tg.stream(model, tok, '3 and', 9, seed=1));
    tg.load('run', dtype=torch.bfloat16)[0].embed.weight.dtype == torch.bfloat16"""
CALLS = [  # each with the errors that are right
    *((source, OURS) for source in listed(REFUSED_BY_US)),
    *((source, PYTHON) for source in listed(REFUSED_BY_US_OR_PYTHON)),
    *((source, ()) for source in listed(NO_MISTAKE)),
]
