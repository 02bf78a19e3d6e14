"""tinygpt bench: measure the speed of training and of writing."""

import sys
from statistics import median
from time import perf_counter
from typing import Literal
import torch
import tinygpt as tg
from tinygpt.cache import Decoder
from tinygpt.cli.evaluate import print_table
from tinygpt.cli.settings import Device, UsageError, pick_device
from tinygpt.engine.modes import eval_mode, paused_gc
from tinygpt.gpu import peak_flops, utilisation, wait_for
from tinygpt.presets import SIZES
from tinygpt.training import Run, training_steps

def training_speed(run: Run, seconds: float = 1.5) -> float:
    "Tokens per second: the median over the steps in this time (at least three), after one warm-up step."
    speeds = []
    with paused_gc():
        for record in training_steps(run):
            speeds.append(record.tokens_per_second)
            if record.step > 3 and record.seconds > seconds:
                break
    return median(speeds[1:])

def writing_speed(model: tg.GPT, n_tokens: int = 64) -> float:
    "Tokens per second: the median over the tokens of one text, each chosen as the most probable."
    device, times = model.embed.weight.device, []
    with eval_mode(model):
        decoder = Decoder(model, [[0]])
        for _ in range(min(n_tokens, model.config.block_size - 1)):
            wait_for(device)
            start = perf_counter()
            decoder.append(decoder.logits.argmax(-1))
            wait_for(device)
            times.append(perf_counter() - start)
    return 1 / median(times)

def peak_memory(device: torch.device) -> str:
    "The peak memory use so far."
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"
    try:
        import resource
    except ImportError:  # on Windows
        return "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB"

def measure(config: tg.GPTConfig, length: int, device: torch.device, plan: tg.TrainConfig) -> dict[str, str]:
    "The measurements on one device, by name."
    tokens = tg.encode_corpus(tg.corpus("tales").train, tg.the_tokenizer())
    tokens.whole_documents = False  # running text, so that every row has the same length
    run = Run(tg.GPT(config).to(device), tg.Windows(tokens, length, plan.batch_size), plan)
    speed, memory = training_speed(run), peak_memory(device)
    peak, source = peak_flops(device, plan.dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type.upper()
    return {"": name, "training, tokens per second": f"{speed:,.0f}",
            "milliseconds per step": f"{1000 * plan.batch_size * length / speed:,.1f}", "peak memory": memory,
            "utilisation": f"{utilisation(config, length, speed, peak):.0%}",
            "of TFLOP/s": f"{peak / 1e12:,.3g}, {source}",
            "writing, tokens per second": f"{writing_speed(run.model):,.0f}"}

def bench(
    size: Literal[*SIZES] = "tiny",  # the size of the model
    *,
    device: Device = "auto",  # auto is the CPU and, if there is one, a GPU
    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32",  # of the matrix products in training
    batch_size: int = 8,  # rows of at most 1024 tokens
    accumulation: int = 1,  # micro-batches in a batch
    checkpointing: bool = False,  # recompute activations in the backward pass
    compile: bool = False,  # compile the loss
):
    "Measure the speed of training and of writing."
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} should be at least 1")
    plan = tg.TrainConfig(steps=1_000_000, batch_size=batch_size, dtype=dtype, accumulation=accumulation,
                          checkpointing=checkpointing, compile=compile)  # more steps than there is time for
    config, (picked, _) = tg.GPTConfig.named(size), pick_device(device)
    devices = [torch.device("cpu")] if device == "auto" and picked.type != "cpu" else []
    length = min(config.block_size, 1024)
    columns = [measure(config, length, device, plan) for device in [*devices, picked]]
    print(f"{size}: {tg.count_parameters(config):,} parameters, {batch_size} x {length} tokens per step")
    print_table(zip(columns[0], *(column.values() for column in columns)))
