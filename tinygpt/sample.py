"""How does it choose the next word?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import guard
from .cache import Decoder
from .engine.modes import eval_mode
from .engine.pieces import begin_texts, row_generators
from .engine.ranking import most_probable
from .gpt import GPT

__all__ = ["scale_temperature", "keep_top_k", "keep_top_p", "keep_min_p", "penalize_repetition", "draw", "Sampler",
           "generate", "stream", "beam_search"]

def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    "Temperature: below 1 the distribution is sharper, above 1 flatter; 0 leaves the most probable token alone."
    if temperature > 0:
        return logits / temperature
    best = logits.argmax(-1, keepdim=True)  # of equal ones the first
    return torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))

def keep_top_k(logits: Tensor, k: int) -> Tensor:
    "Top-k: remove all but the k most probable tokens, and those as probable as the last of them."
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)

def keep_top_p(logits: Tensor, p: float) -> Tensor:
    "Top-p (nucleus sampling): keep the fewest most probable tokens whose probabilities sum to p or more."
    if p == 1:
        return logits
    probs = logits.double().softmax(-1)
    order = most_probable(logits, probs, p)
    cumulative = probs.gather(-1, order).cumsum(-1)
    crossing = (~(cumulative >= p)).sum(-1, keepdim=True)  # the place of the token that crosses p; NaN crosses nothing
    kept = torch.arange(order.shape[-1], device=logits.device) <= crossing
    keep = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, kept)
    return logits.masked_fill(~keep, -torch.inf)

def keep_min_p(logits: Tensor, p: float) -> Tensor:
    "Min-p: remove the tokens whose probability is less than p times that of the most probable one."
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < p * probs.amax(-1, keepdim=True), -torch.inf)

def penalize_repetition(logits: Tensor, ids: Tensor | Sequence, penalty: float) -> Tensor:
    "Repetition penalty: divide the logit of each token that has occurred in its row, or multiply it if negative."
    seen = torch.zeros_like(logits, dtype=torch.bool)
    rows = [ids] if logits.dim() == 1 else ids
    for row, row_ids in zip(seen.view(-1, seen.shape[-1]), rows, strict=True):
        row[torch.as_tensor(row_ids, dtype=torch.long)] = True
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)

def draw(logits: Tensor, u: Tensor) -> Tensor:
    "Inverse transform sampling: the tokens (B,) at which the sum of probabilities, the largest first, passes u (B,)."
    guard.drawable(logits)
    probs = logits.double().softmax(-1)
    order = most_probable(logits, probs, u)
    cumulative = probs.gather(-1, order).cumsum(-1)
    place = (cumulative <= u[..., None]).sum(-1)
    last = (probs > 0).sum(-1) - 1  # rounding may leave the whole sum below u
    return order.gather(-1, torch.minimum(place, last)[..., None])[..., 0]

@dataclass(frozen=True)
class Sampler:
    "The settings of sampling. A call with logits (B, V) and each row's tokens so far returns the logits to draw from."
    temperature: float = 1.0  # 0 is greedy
    top_k: int | None = None  # None: off
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0  # 1: off

    def __post_init__(self):
        guard.sampler(self)

    def __call__(self, logits: Tensor, ids: Tensor | Sequence) -> Tensor:  # in the order of transformers
        if self.repetition_penalty != 1:
            logits = penalize_repetition(logits, ids, self.repetition_penalty)
        logits = scale_temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p is not None:
            logits = keep_min_p(logits, self.min_p)
        return logits

def new_text(model: GPT, tok, prompts: list[str], max_new_tokens: int, sampler: Sampler, stop: str | Sequence[str],
             seed: int | None, dtype: str | None) -> Iterator[list[str]]:
    "Yield the new text of each row in pieces, one for each token (it may be empty) and one at the end."
    texts, rngs = begin_texts(tok, prompts, stop), row_generators(prompts, seed)
    rows = [text.ids for text in texts]
    with eval_mode(model):  # not around a yield, where the caller's code runs
        decoder = Decoder(model, rows, dtype=dtype)
    for step in range(max_new_tokens):
        if step > 0:
            with eval_mode(model):
                decoder.append(ids.to(decoder.logits.device))
        logits = decoder.logits[:, : tok.vocab_size].float()  # a model may have more than its tokenizer
        logits = logits if logits.is_cuda else logits.cpu()  # a Mac's GPU has no float64
        u = torch.stack([torch.rand((), dtype=torch.float64, generator=rng) for rng in rngs])
        ids = draw(sampler(logits, rows), u.to(logits.device))  # (B,)
        yield [text.add(id) for text, id in zip(texts, ids.tolist())]
        if all(text.done for text in texts):
            return
    yield [text.finish() for text in texts]

def generate(
    model: GPT,
    tok,  # its tokenizer
    prompt: str | list[str],  # may be empty if the tokenizer has <|end|>
    max_new_tokens: int = 200,
    *,
    temperature: float = 1.0,  # 0 is greedy
    top_k: int | None = None,  # None: off
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,  # 1: off
    stop: str | Sequence[str] = (),  # the text ends before the first of these strings
    seed: int | None = None,  # None: another one each time
    dtype: str | None = None,  # "bfloat16" is faster on some machines
) -> str | list[str]:
    "The prompt, continued by the model; for a list of prompts, a list."
    sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
    prompts = guard.writing(model, tok, prompt, max_new_tokens, stop, seed, dtype)
    steps = new_text(model, tok, prompts, max_new_tokens, sampler, stop, seed, dtype) if prompts else ()
    texts = ["".join(pieces) for pieces in zip(prompts, *steps)]
    return texts[0] if isinstance(prompt, str) else texts

def stream(model: GPT, tok, prompt: str, max_new_tokens: int = 200, *, temperature: float = 1.0,
           top_k: int | None = None, top_p: float | None = None, min_p: float | None = None,
           repetition_penalty: float = 1.0, stop: str | Sequence[str] = (), seed: int | None = None,
           dtype: str | None = None) -> Iterator[str]:
    "Yield what `generate` appends to the prompt, piece by piece, as the model writes it."
    sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
    prompts = guard.writing(model, tok, [prompt], max_new_tokens, stop, seed, dtype)
    steps = new_text(model, tok, prompts, max_new_tokens, sampler, stop, seed, dtype)
    return (piece for [piece] in steps if piece)

def beam_search(model: GPT, ids: Sequence[int], n_beams: int, max_new_tokens: int,
                end: int | None = None) -> list[tuple[list[int], float]]:
    "Beam search: continuations of the ids, each with the log-probability of its new tokens, the best first."
    guard.whole_number("n_beams", n_beams, 1)
    guard.whole_number("max_new_tokens", max_new_tokens, 1)
    device, ended, beams = model.embed.weight.device, [], [(list(ids), 0.0)]
    with eval_mode(model):
        while beams and len(beams[0][0]) < len(ids) + max_new_tokens:
            batch = torch.tensor([row for row, _ in beams], device=device)[:, -model.config.block_size :]
            logp = model(batch)[:, -1].cpu().double().log_softmax(-1)  # (beams, V)
            scores = logp + torch.tensor([[score] for _, score in beams], dtype=torch.float64)
            best = scores.flatten().sort(descending=True, stable=True).indices[:n_beams].tolist()
            places = [divmod(i, scores.shape[1]) for i in best]
            grown = [(beams[i][0] + [id], scores[i, id].item()) for i, id in places]
            kept = sorted(ended + grown, key=lambda beam: -beam[1])[:n_beams]
            ended = [beam for beam in kept if beam[0][-1] == end]
            beams = [beam for beam in kept if beam[0][-1] != end]
    return sorted(ended + beams, key=lambda beam: -beam[1])

def sample_tales(model: GPT, tok, n: int = 16, seed: int = 0) -> list[str]:
    "Tales that the model writes, each next token drawn by its probability."
    end, rng = tok.special_tokens["<|end|>"], torch.Generator().manual_seed(seed)
    ids = torch.empty(n, 0, dtype=torch.long)
    with eval_mode(model):
        decoder = Decoder(model, [[end]] * n)
        while ids.shape[1] < model.config.block_size and not (ids == end).any(1).all():
            if ids.shape[1]:
                decoder.append(ids[:, -1].to(decoder.logits.device))
            probs = decoder.logits.softmax(-1).cpu()  # (n, V)
            races = probs / torch.empty_like(probs).exponential_(generator=rng)  # the largest wins with its probability
            ids = torch.cat([ids, races.argmax(-1, keepdim=True)], 1)
    rows = (row + [end] for row in ids.tolist())
    return [tok.decode(row[: row.index(end)]) for row in rows]
