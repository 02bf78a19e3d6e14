"""Chapter 11: faster and smaller steps that are the same steps."""

import math
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygpt as tg
from tinygpt import GPT, GPTConfig, TrainConfig, Windows
from tinygpt.engine import memory
from tinygpt.engine.profile import profile_step
from tinygpt.gpu import (
    PEAKS,
    LossScaler,
    forward_backward,
    largest_fit,
    peak_flops,
    pick_device,
    precision,
    prefetch,
    seconds_per_call,
    utilisation,
)
from tinygpt.io.tokens import Tokens, encode_corpus
from tinygpt.training import Diverged, Run, train, training_steps

CPU, LETTERS = torch.device("cpu"), "abcdefghijklmnopqrstuvwxyz012345"
SHAPE = GPTConfig.modern(32, n_layer=2, n_head=2, n_embd=16, block_size=24)


def new_model(seed: int = 0, **changes) -> GPT:
    torch.manual_seed(seed)
    model = GPT(replace(SHAPE, **changes))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def ragged_batch(rows: int = 6, width: int = 20, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    ids, targets = torch.randint(32, (2, rows, width), generator=rng)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=rng)
    return ids, targets, torch.arange(width) < lengths


def new_run(seed: int = 0, steps: int = 4, **settings) -> Run:
    config = TrainConfig(steps=steps, batch_size=6, **settings)
    return Run(new_model(seed), Windows(some_tokens(), 24, 6), config)


@cache
def letters_file() -> Path:
    path = Path(tempfile.mkdtemp()) / "letters.txt"
    path.write_text("".join(np.random.RandomState(1).choice([*LETTERS], 4000)))
    return path


def some_text() -> tuple[tg.Corpus, tg.CharTokenizer]:
    return tg.corpus(letters_file()), tg.CharTokenizer.train(LETTERS)


@cache
def some_tokens() -> Tokens:
    corpus, tok = some_text()
    return encode_corpus(corpus.train, tok)


# the device


def test_a_device_is_picked_with_its_reason(monkeypatch):
    assert pick_device("cpu") == (CPU, "it was asked for")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == (CPU, "PyTorch finds no GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device()[0].type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    assert pick_device() == (torch.device("cuda"), "PyTorch finds the GPU NVIDIA H100 80GB HBM3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_named():
    with pytest.raises(ValueError, match="device='cuda', but PyTorch finds no GPU"):
        pick_device("cuda")


def test_a_call_takes_the_median_of_its_times():
    naps = iter([0.2, 0.01, 0.01, 0.3])  # the first is slow, and one was disturbed
    took = seconds_per_call(lambda: threading.Event().wait(next(naps)), CPU, n=3)
    assert 0.01 <= took < 0.2


# precision


def test_matrix_products_are_rounded_and_weights_are_not():
    model = new_model()
    for dtype, kind in ("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32):
        with precision(CPU, dtype):
            assert model.blocks[0].mlp.down(torch.randn(2, model.config.resolve().n_hidden)).dtype == kind
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_tf32_is_asked_for_and_taken_back():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), precision(CPU, "tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before == "highest"


@pytest.mark.parametrize("dtype, error", [("bfloat16", 0.05), ("float16", 0.01)])
def test_gradients_in_16_bits_are_near_the_exact_ones(dtype, error):
    model, batch = new_model(), ragged_batch()
    exact = gradients(model.double(), batch)
    rounded = gradients(model.float(), batch, dtype)
    assert 1e-6 < ((rounded - exact).norm() / exact.norm()).item() < error


def gradients(model: GPT, batch, dtype: str = "float32", **how) -> torch.Tensor:
    model.zero_grad()
    forward_backward(model.loss, batch, dtype, **how)
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


# loss scaling


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_the_scale_adapts_as_torchs_own_does(finite, patience):
    theirs = torch.amp.GradScaler("cpu", growth_interval=patience)
    ours, p = LossScaler(True, patience=patience), torch.nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([p], lr=0.0)
    for is_finite in finite:
        theirs.scale(p.sum()).backward()
        p.grad = torch.full((2,), 1.0 if is_finite else math.inf)
        theirs.step(sgd)
        theirs.update()
        ours.update(is_finite)
        assert ours.scale == theirs.get_scale()


def test_a_scaled_gradient_is_the_gradient():
    model, batch, scaler = new_model(), ragged_batch(), LossScaler(True)
    plain = gradients(model, batch)
    scaled = gradients(model, batch, scaler=scaler)
    assert torch.allclose(scaled, plain * 2**16, rtol=1e-4, atol=1e-2)
    scaler.unscale(model.parameters())
    unscaled = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    assert torch.allclose(unscaled, plain, rtol=1e-4, atol=1e-7)


def test_scaling_saves_gradients_that_float16_loses():
    model, batch = new_model(), ragged_batch()
    tiny = lambda *parts: model.loss(*parts) * 1e-6
    exact = gradients(model, batch) * 1e-6

    def error(scaler):
        model.zero_grad()
        forward_backward(tiny, batch, "float16", scaler=scaler)
        scaler.unscale(model.parameters())
        got = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        return ((got - exact).norm() / exact.norm()).item()

    assert error(LossScaler(True)) < 0.02


def test_without_float16_nothing_is_scaled():
    scaler = LossScaler(False)
    assert scaler.scale == 1 and scaler.update(True) and not scaler.update(False) and scaler.scale == 1
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    scaler.unscale([p])
    assert p.grad.tolist() == [1, 1]


def test_an_overflow_skips_the_step_and_training_goes_on():
    run = new_run(steps=3, dtype="float16")
    run.scaler.scale = 2.0**127  # the scaled loss overflows at once
    before = [p.detach().clone() for p in run.model.parameters()]
    steps = training_steps(run)
    record = next(steps)
    assert not math.isfinite(record.grad_norm) and math.isfinite(record.loss)
    assert run.scaler.scale == 2.0**126
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters()))
    run.scaler.scale = 2.0**10
    assert all(math.isfinite(record.grad_norm) for record in steps)
    assert not all(torch.equal(a, b) for a, b in zip(before, run.model.parameters()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_run_that_diverges_ends(dtype):
    run = new_run(steps=40, dtype=dtype)
    with torch.no_grad():
        run.model.embed.weight.fill_(math.nan)
    with pytest.raises(Diverged, match="the loss is nan"):
        list(training_steps(run))


# micro-batches


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([1, 2, 3, 6]), st.integers(0, 1000))
def test_micro_batches_give_the_gradient_of_the_batch(accumulation, seed):
    model, batch = new_model().double(), ragged_batch(seed=seed)
    whole = gradients(model, batch)
    model.zero_grad()
    loss = forward_backward(model.loss, batch, accumulation=accumulation)
    parts = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (parts - whole).norm() < 1e-6 * whole.norm()  # the micro-batches' shares are float32
    assert torch.isclose(loss.double(), model.loss(*batch), rtol=1e-6)


def test_one_micro_batch_changes_no_bit():
    model, batch = new_model(), ragged_batch()
    model.loss(*batch).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    forward_backward(model.loss, batch)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain))


def test_a_batch_without_targets_has_no_loss():
    ids, targets, mask = ragged_batch()
    assert forward_backward(new_model().loss, (ids, targets, torch.zeros_like(mask)), accumulation=2) == 0


def test_train_takes_the_same_steps_in_micro_batches():
    plain, parts = (list(training_steps(new_run(accumulation=n))) for n in (1, 3))
    for a, b in zip(plain, parts):
        assert a.loss == pytest.approx(b.loss, rel=1e-4) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)


# prefetching


def test_batches_come_in_order_from_a_thread_of_their_own():
    class Noted(Windows):
        threads = set()

        def __getitem__(self, number):
            self.threads.add(threading.get_ident())
            return super().__getitem__(number)

    windows = Noted(some_tokens(), 24, 6)
    batches = prefetch(windows, 5, CPU)
    for number in range(5, 9):
        assert all(torch.equal(a, b) for a, b in zip(next(batches), windows[number]))
    batches.close()
    assert len(windows.threads) == 2


def test_an_error_in_the_thread_reaches_the_loop():
    class Broken(Windows):
        def __getitem__(self, number):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetch(Broken(some_tokens(), 24, 6), 0, CPU))


@pytest.mark.parametrize("block_size, most", [(256, 4), (1024, 8), (170, 3)])
def test_compiled_code_meets_few_widths(block_size, most):
    tokens = encode_corpus(tg.corpus("tales").train, tg.the_tokenizer())
    windows, widths = Windows(tokens, block_size, 4), set()
    model = GPT(GPTConfig.modern(2048, n_layer=1, n_head=1, n_embd=8, block_size=block_size))
    padded = prefetch(windows, 0, CPU, few_widths=True)
    for number in range(60):
        batch = next(padded)
        widths.add(batch[0].shape[1])
        assert batch[2].sum() == windows[number][2].sum() and batch[0].shape[1] <= block_size
        if number < 3:
            assert torch.isclose(model.loss(*batch), model.loss(*windows[number]), rtol=1e-5)
    assert len(widths) <= most


# compiling


@pytest.fixture
def without_compiler(monkeypatch):
    "torch.compile with a backend that needs no C++ compiler; yields the functions that it was given."
    compiled, real = [], torch.compile

    def compile(function, **options):
        compiled.append(function)
        torch._dynamo.reset()
        return real(function, **options | {"backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", compile)
    return compiled


def test_a_compiled_run_takes_the_same_steps(without_compiler):
    plain = [record.loss for record in training_steps(new_run())]
    run = new_run(compile=True)
    assert [record.loss for record in training_steps(run)] == pytest.approx(plain, rel=1e-5)
    assert len(without_compiler) == 1 and not [name for name in run.model.state_dict() if "_orig_mod" in name]


def test_a_step_compiles_as_one_graph_for_each_width(without_compiler):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    run = new_run(compile=True, steps=6)
    list(training_steps(run))
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 1


# resuming


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation": 3},
        {"dtype": "bfloat16"},
        {"dtype": "float16", "accumulation": 2},
        {"dtype": "bfloat16", "checkpointing": True, "accumulation": 2},
    ],
)
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, changes):
    corpus, tok = some_text()
    config = TrainConfig(steps=6, batch_size=6, eval_every=100, save_every=2, **changes)
    shape = replace(SHAPE, dropout=0.1)

    def stop(record):
        if record.step == 3:
            raise KeyboardInterrupt

    def model():
        torch.manual_seed(0)
        return GPT(shape)

    straight, whole = model(), []
    whole = train(straight, tok, corpus, config, progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(model(), tok, corpus, config, tmp_path / "run", consumers=[stop], progress=False)
    resumed = model()
    records = train(resumed, tok, corpus, config, tmp_path / "run", resume=True, progress=False)
    assert [r.loss for r in records] == [r.loss for r in whole]
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters()))


def test_the_scale_is_resumed(tmp_path):
    corpus, tok = some_text()
    config = TrainConfig(steps=2, batch_size=2, dtype="float16", eval_every=100)
    train(new_model(), tok, corpus, config, tmp_path / "run", progress=False)
    from tinygpt.io import weights

    path = tmp_path / "run" / "state"
    kept = weights.read_weights(path, weights.list_weights(path, "00000002.safetensors"), file="00000002.safetensors")
    assert kept["loss_scaler"].tolist() == [65536, 2]


# memory


def test_activations_are_what_autograd_keeps():
    x = torch.randn(3, 4, requires_grad=True)

    class Square(torch.nn.Module):
        def loss(self, x):
            return (x * x).exp().sum()  # keeps x and the exponential

    assert memory.activation_bytes(Square(), (x,)) == 2 * 3 * 4 * 4


def test_memory_is_counted_by_part():
    run = new_run()
    next(training_steps(run))
    batch = run.windows[0]
    parts = memory.memory_by_part(run, batch)
    n = sum(p.numel() for p in run.model.parameters())
    matrices = sum(p.numel() for block in run.model.blocks for p in block.parameters() if p.dim() == 2)
    assert parts["weights"] == parts["gradients"] == 4 * n
    others = sum(1 for p in run.model.parameters()) - sum(
        1 for block in run.model.blocks for p in block.parameters() if p.dim() == 2
    )
    assert parts["optimizer"] == 4 * (matrices + 2 * (n - matrices)) + 4 * others  # and AdamW's step counts
    half = memory.memory_by_part(new_run_like(run, accumulation=2), batch)
    assert 0.4 < half["activations"] / parts["activations"] < 0.75  # the gradient of the embedding stays


def new_run_like(run: Run, **settings) -> Run:
    other = new_run(**settings)
    other.optimizers = run.optimizers
    return other


def test_checkpointing_keeps_less():
    model, batch = new_model(n_layer=4), ragged_batch()
    assert memory.activation_bytes(model, batch, checkpointing=True) < memory.activation_bytes(model, batch) / 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 70), st.integers(1, 64))
def test_the_largest_fit_is_found(limit, most):
    tried = []

    def fits(n):
        tried.append(n)
        return n <= limit

    assert largest_fit(fits, most) == min(limit, most)
    assert len(tried) <= 1 + math.log2(most + 1) + 1 and all(1 <= n <= most for n in tried)


CUDA, CPU_SAYS = "CUDA out of memory. Tried to allocate 2 GiB", "can't allocate memory: you tried to allocate"


def full_above(rows: int, message: str):
    "A loss that runs out of memory above so many rows."

    def make(run: Run):
        real = run.loss

        def loss(ids, *rest):
            if len(ids) > rows:
                raise torch.OutOfMemoryError(message) if "CUDA" in message else RuntimeError(message)
            return real(ids, *rest)

        run.loss = loss
        return run

    return make


@pytest.mark.parametrize(
    "fitting, changes, message, sentence",
    [
        (2, {}, CUDA, "out of memory with 6 rows of 24 tokens at once; 2 fit: use accumulation=3, which gives the same "
         "gradients, checkpointing=True, or batch_size=2"),
        (5, {"checkpointing": True}, CPU_SAYS, "6 rows of 24 tokens at once; 5 fit: use accumulation=2, which gives the same "
         "gradients, or batch_size=5"),
        (1, {"accumulation": 2}, CUDA, "3 rows of 24 tokens at once; 1 fit: use accumulation=6"),
        (0, {}, CPU_SAYS, "not even one row fits: use checkpointing=True, a smaller block_size or a smaller model"),
    ],
)  # fmt: skip
def test_out_of_memory_names_the_batch_size_that_fits(fitting, changes, message, sentence):
    run = full_above(fitting, message)(new_run(**changes))
    with pytest.raises(MemoryError) as error, memory.explain_out_of_memory(run):
        list(training_steps(run))
    assert sentence in str(error.value)
    assert all(p.grad is None for p in run.model.parameters())


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), memory.explain_out_of_memory(new_run()):
        raise RuntimeError("shapes cannot be multiplied")


SMALL_MEMORY = """
import resource, sys, torch, tinygpt as tg
from tinygpt.training import train
torch.set_num_threads(1)
corpus, tok = tg.corpus(sys.argv[1]), tg.CharTokenizer.train("abcdefghijklmnopqrstuvwxyz012345")
model = tg.GPT(tg.GPTConfig.modern(tok.vocab_size, n_layer=2, n_head=2, n_embd=128, block_size=256))
train(model, tok, corpus, tg.TrainConfig(steps=1, batch_size=2), progress=False)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
train(model, tok, corpus, tg.TrainConfig(steps=1, batch_size=256), progress=False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set in Linux's way")
def test_a_process_that_really_runs_out_of_memory_says_what_fits():
    done = subprocess.run([sys.executable, "-c", SMALL_MEMORY, letters_file()], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("MemoryError: out of memory with 256 rows of 256 tokens at once; "), done.stderr
    fitting = int(last.split("; ")[1].split()[0])
    assert 1 <= fitting < 256 and f"accumulation={math.ceil(256 / 2 ** math.floor(math.log2(fitting)))}" in last


# speed, and what it is compared with


def test_a_profile_has_all_parts_and_adds_up():
    run = new_run()
    parts = profile_step(run, n_steps=3)
    assert {"batch", "embedding", "attention", "MLP", "norms and sums", "loss", "backward", "optimizer"} == set(parts)
    assert all(seconds >= 0 for seconds in parts.values()) and parts["backward"] > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in run.model.modules())


def test_utilisation_is_the_closed_form():
    c = GPTConfig.gpt2(50304, n_layer=12, n_head=12, n_embd=768, block_size=1024).resolve()
    weights = 12 * 12 * 768**2 + 50304 * 768  # attention and MLP of each block, and the unembedding
    per_token = 6 * weights + 12 * 12 * 768 * 1024  # as the paper on PaLM counts it
    assert utilisation(c, 1024, 1000.0, 1e12) == pytest.approx(1000 * per_token / 1e12, rel=1e-12)


def test_peaks_are_published_or_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 PCIe")
    assert peak_flops(torch.device("cuda")) == (756e12, "published")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    assert peak_flops(torch.device("cuda"), "float16") == (989e12, "published")
    flops, source = peak_flops(CPU, "float32")
    assert source == "measured" and 1e8 < flops < 1e14
    assert PEAKS["A100"] == 312


@pytest.mark.parametrize(
    "given, message",
    [
        ({"dtype": "fp16"}, "dtype='fp16' should be 'float32', 'tf32', 'bfloat16' or 'float16'"),
        ({"accumulation": 4}, "batch_size=6 is not a multiple of accumulation=4"),
        ({"accumulation": 0}, "accumulation=0 should be a whole number"),
        ({"compile": "yes"}, "compile='yes' should be True or False"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(steps=1, batch_size=6, **given)


def test_16_bits_come_without_warnings():
    code = """
import torch, tinygpt as tg
from tinygpt.gpu import forward_backward
model = tg.GPT(tg.GPTConfig.modern(32, n_layer=1, n_head=1, n_embd=8))
ids = torch.zeros(2, 4, dtype=torch.int64)
forward_backward(model.loss, (ids, ids, torch.ones(2, 4, dtype=torch.bool)), "bfloat16")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
