"""Checks of the chapter Cache: each typical mistake has its own diagnosis."""

import torch
from torch import Tensor

from tinygpt.cache import Decoder
from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, shaped
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.show.pictures import Picture


class _Reader(GPT):
    "A small GPT in which nothing is idle. It records what it reads, and says what is wrong with it."

    def __init__(self, block_size: int = 32, seed: int = 8):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(GPTConfig.gpt2(40, block_size=block_size, n_layer=2, n_head=2, n_embd=16, n_hidden=16))
            for p in self.parameters():
                p.data += 0.5 * torch.randn_like(p)
        self.eval().requires_grad_(False)
        self.counts: list[int] = []  # how many tokens were read, call by call
        self.blocks[0].attention_norm.register_forward_hook(lambda _, x, y: self.counts.append(y.shape[0] * y.shape[1]))
        self.begin([])

    def begin(self, prompt: list[int]):
        "Forget what was read."
        self.prompt, self.in_cache, self.places = prompt, [], []
        self.counts.clear()

    def __repr__(self):
        return "model"

    def __deepcopy__(self, memo):
        return self

    def hidden(self, ids, positions=None, attention_mask=None, cache=None, *others, **named):
        if cache is not None and isinstance(ids, Tensor) and isinstance(positions, Tensor) and ids.dim() == 2:
            self.judge(ids[0].tolist(), positions.flatten().tolist(), cache)
        elif isinstance(ids, Tensor) and ids.dim() == 2:
            self.places.append(list(range(ids.shape[1])))
        return super().hidden(ids, positions, attention_mask, cache, *others, **named)

    def judge(self, ids: list[int], places: list[int], cache):
        "A Finding if these tokens do not go on from those in the cache."
        n_layer = self.config.n_layer
        if not isinstance(cache, list | tuple):
            raise Finding(f"cache should be a list of KVCaches, and was a {type(cache).__name__}.")
        for part in cache:  # the class may be that of the notebook
            if not hasattr(part, "update") or not hasattr(part, "length"):
                raise Finding(f"cache should hold KVCaches, and holds a {type(part).__name__}.")
        if len(cache) != n_layer:
            raise Finding(f"The cache has {len(cache)} KVCaches, but the model has {n_layer} blocks.")
        if len(set(map(id, cache))) < n_layer:
            raise Finding(
                "All blocks share one KVCache, so that a block finds the keys of another. Each needs its own."
            )
        n = cache[0].length
        again = n > 0 and self.prompt == self.in_cache and ids == self.prompt[-1:]
        self.places.append(places)
        if n == 0:
            begun, self.in_cache = bool(self.places[:-1]), []
            if places[0] > 0 and len(places) > 1:
                raise Finding(f"The first token has position 0, but was read at position {places[0]}.", self.picture())
            if places[0] > 0 or begun and len(ids) == 1 and len(self.prompt) > 1:
                raise Finding(
                    "The cache is empty when a new token is read, so that the token does not see the text before it. "
                    "When is a cache made, and has the prompt been read with it?",
                    self.picture(),
                )
        elif n > 1 and ids[:n] == self.in_cache:
            raise Finding(
                f"The whole text was read again, although its first {n} tokens are in the cache: their keys and values "
                "are there twice now. Read what is new.",
                self.picture(),
            )
        elif again:
            raise Finding(
                "The last token of the prompt was read a second time. The first reading has already given the logits "
                "that choose the first new token.",
                self.picture(),
            )
        self.in_cache = self.in_cache + ids
        off = places[0] - n
        if places == list(range(n, n + len(ids))):
            return
        if n > 0 and places == list(range(len(ids))):
            raise Finding(
                f"The positions restart at 0: a token with {n} tokens before it was read as if it were the first.",
                self.picture(),
            )
        if len(ids) > 1 and len(set(places)) == 1:
            raise Finding(f"All tokens of the prompt were read at position {places[0]}.", self.picture())
        wrong = f"{abs(off)} too {'large' if off > 0 else 'small'}" if off else "wrong"
        raise Finding(
            f"The position of a token is {wrong}: {n} tokens stand before it, and it was read at position {places[0]}.",
            self.picture(),
        )

    def picture(self) -> Picture:
        "Which positions each call read; those that were read before are outlined."
        width = max(max(places) for places in self.places) + 1
        read = torch.zeros(len(self.places), width)
        for row, places in zip(read, self.places):
            row[places] = 1
        again = (read > 0) & (read.cumsum(0) > 1)
        names = [f"call {i + 1}" for i in range(len(read))]
        return grid(read, names, [str(i) for i in range(width)], again)

    def write(self, ids: list[int], n: int, first: int = -1, best=Tensor.argmax) -> list[int]:
        "The text by reading all of it again and again; `first` is where the first new token's logits come from."
        text = list(ids)
        for i in range(n):
            text.append(int(best(self(torch.tensor([text]))[0, -1 if i else first])))
        return text


def _separated(ids: list[int]) -> str:
    return " ".join(map(str, ids))


@checks
def write(answer):
    "Exercise 1: the prompt, then token by token, at positions that go on, each token once."
    model = _Reader()
    for prompt, n in ([3, 17, 8, 25], 7), ([5], 4):
        model.begin([])
        right, args = model.write(prompt, n), (model, prompt, n)
        mistakes = [
            (right[len(prompt) :], "The ids given are missing at the front: return the whole text."),
            (right[:-1], "One token is missing at the end."),
            (model.write(prompt, n + 1), "That is one token too many."),
            (prompt, "Nothing was written."),
            (prompt + right[len(prompt) + 1 :], "The token that the prompt's logits chose is missing in the list."),
            (prompt + model.write(prompt, n + 1)[len(prompt) + 1 :], "The first new token is missing in the list."),
            (model.write(prompt, n, first=0), "The first new token came from the logits of the prompt's first place."),
            (model.write(prompt, n, best=Tensor.argmin), "Those are the least likely tokens."),
        ]
        model.begin(prompt)
        result = attempt(answer, *args, expect=(list, tuple, Tensor))
        got, asked = [int(i) for i in torch.as_tensor(result).flatten()], f"{call(answer, *args)} returned "
        if not model.counts:
            raise Finding(f"The model was never called. {asked}{_separated(got)}.")
        if got != right:
            found = [diagnosis for wrong, diagnosis in mistakes if got == wrong]
            at = next((i for i, (a, b) in enumerate(zip(got, right)) if a != b), min(len(got), len(right)))
            raise Finding(f"{(found or [f'Token {at} is wrong.'])[0]} {asked}{_separated(got)}.", model.picture())
        read, needed = sum(model.counts), len(prompt) + n
        if read > needed:  # the last token may be read or not
            why = "Later calls read again what had been read." if model.in_cache else "No cache was used."
            raise Finding(
                f"The text is right, but the model read {read} tokens to write {n} after {len(prompt)}. {why} "
                f"With a cache it reads no token twice. The call was {call(answer, *args)}.",
                model.picture(),
            )
    return "Every token was read once, at its own position: the cache kept the rest."


@checks
def allowed(answer):
    "Exercise 2: all but the padding, which is on the left."
    answer = of_tensors(answer)
    for lengths, width in ([3, 1, 4], 6), ([2, 2], 2), ([1], 3):
        args, B = (lengths, width), len(lengths)
        length, index = torch.tensor(lengths)[:, None], torch.arange(width)
        right = index >= width - length
        hints = {
            (B, width): "The dimensions of heads and of queries are missing.",
            (B, 1, width): "A dimension is missing: there are one of heads and one of queries.",
            (B, 1, width, width): "One row serves all queries. (The model itself hides the future.)",
            (B, 1, 1, max(lengths)): "The rows are as wide as the longest text, not `width`.",
            (1, 1, B, width): "The rows of the batch stand where queries belong.",
            (B, width, 1, 1): "Keys come last.",
        }
        got = shaped(answer, *args, shape=(B, 1, 1, width), hints=hints)
        if got.dtype != torch.bool:
            asked = f"The call was {call(answer, *args)}."
            raise Finding(f"It returned numbers of {got.dtype}. Booleans are wanted. {asked}")
        got = got[:, 0, 0]
        mistakes = [
            (torch.ones_like(right), "Everything is allowed, so the padding is let in."),
            (~right, "True and false are exchanged: true means that a key may be attended to."),
            (index < length, "This is for padding on the right, but here the text stands on the right."),
            (index >= length, "The length of a text was taken for the number of padding tokens before it."),
            (index > width - length, "The first token of each text is left out."),
            (index >= width - length - 1, "One padding token of each row is let in, the last one before the text."),
            (index >= max(lengths) - length, "Padding was counted up to the longest text, but rows are wider."),
            ((index == width - 1).expand_as(right), "Only the last token of each text is allowed."),
        ]
        picture = grid(
            got.float(), [f"length {n}" for n in lengths], [str(i) for i in range(width)], marked=got != right
        )
        diagnose(answer, args, got, right, mistakes, "a mask that allows the text and hides the padding", picture)
    return "No token attends to padding, so a text in a batch is read as if it were alone."


@checks
def cache_bytes(answer):
    "Exercise 3: keys and values, layers, key/value heads, head_dim."
    c = GPTConfig.modern(50, n_layer=5, n_head=12, n_kv_head=3, n_embd=84, head_dim=8, block_size=64)

    def size(c, length, each, parts=2, layers=None, heads=None, width=None):
        heads, width = heads or c.n_kv_head, width or c.head_dim
        return parts * (layers or c.n_layer) * heads * width * length * each

    args = c, 100, 4
    right = size(*args)
    mistakes = [
        (size(*args, parts=1), "That is the size of the keys or of the values. Both are kept."),
        (size(*args, heads=12), "Keys and values were counted for every query head, but n_kv_head=3."),
        (size(*args, layers=1), "Only one layer was counted. There are 5."),
        (size(*args, width=c.n_embd // c.n_head), "Heads were taken to be n_embd / n_head = 7 wide, but head_dim=8."),
        (size(*args, heads=1, width=c.n_embd), "A key was taken to be n_embd=84 numbers wide."),
        (size(*args, heads=1), "Only one key/value head was counted. There are 3."),
        (size(*args, parts=3), "Queries were counted too, but no later token needs them."),
        (right * 8, "Those are bits, not bytes."),
        (right / 4, "That is how many numbers there are, not their bytes."),
        (right / 100, "That is the size for one token. The text has 100."),
        (size(c, 64, 4), "The size is that of a text of block_size=64 tokens. This text has 100."),
        (right * 100, "That grows with the square of the length, as attention weights do. They are not kept."),
        (right / 1e3, "Those are kilobytes, not bytes."),
        (right / 1024, "Those are kilobytes, not bytes."),
        (right / 1e6, "Those are megabytes, not bytes."),
        (right / 1024**2, "Those are megabytes, not bytes."),
    ]
    diagnose(answer, args, number(answer, *args), right, mistakes, "the size of this cache")
    args = c, 100, 2
    fixed = [(right, "The result does not depend on bytes_per_number.")]
    diagnose(answer, args, number(answer, *args), size(*args), fixed, "right for numbers of 2 bytes")
    args = GPTConfig.gpt2(31, n_layer=3, n_head=4, n_embd=40), 7, 4
    diagnose(answer, args, number(answer, *args), size(*args), [], "right for a GPT-2, which has no grouped heads")
    return "Two numbers per layer, key/value head, dimension and token: that is what a long text costs."


CASES = [(3, 4, 8), (3, 8, 8), (5, 20, 8), (6, 30, 7), (12, 5, 8), (2, 4, 1)]  # prompt, n, size


def measured(prompt: int, n: int, size: int) -> list[int]:
    "How many tokens a Decoder reads, call by call, while it writes n tokens after a prompt."
    model = _Reader(block_size=size)
    decoder = Decoder(model, [[0] * prompt])
    for _ in range(n - 1):
        decoder.append(torch.tensor([0]))
    return list(model.counts)


def _half(size: int) -> int:
    return max(1, size // 2)


def _count(prompt, n, size, half=_half, extra=0, stays=0, last=0, full=1, times=1000, cut=True):
    "A formula for the same, with a switch for each thing that can be misunderstood."
    total = length = min(prompt, size) if cut else prompt
    for _ in range(n - 1 + last):
        if length + full > size and times:
            length, times = half(size) + stays, times - 1
            total += half(size) + extra
        else:
            length, total = length + 1, total + 1
    return total


def _naive(prompt: int, n: int, size: int, limit: bool) -> int:
    "Without a cache, everything is read again for each token."
    return sum(min(prompt + i, size) if limit else prompt + i for i in range(n))


@checks
def tokens_read(answer):
    "Exercise 4: the prompt, one token at a time, and half a window whenever it is full."
    reads = [measured(*case) for case in CASES]
    right = [sum(read) for read in reads]
    got = [number(answer, *case) for case in CASES]
    if got == right:
        return "As measured. Even a full window costs less than two tokens read for each token written."
    wrongs = [
        (dict(times=0), "A full window is never read again here."),
        (dict(times=1), "The window was read again only once. It fills up again."),
        (dict(extra=1), "The new token was counted twice when a window is read again: it is part of the newest half."),
        (dict(extra=1, stays=1), "The new token was put on top of the newest half. It is part of that half."),
        (dict(extra=-1), "The new token was not counted when a window is read again. It is read with the half."),
        (dict(half=lambda size: size), "The whole window was read again. Only its newest half is kept."),
        (dict(half=lambda size: (size + 1) // 2), "The half of an odd size was rounded up."),
        (dict(half=lambda size: size / 2), "The half of an odd size is size // 2 tokens."),
        (dict(half=lambda size: size // 2), "Half of a window of one token is no token, but at least 1 is kept."),
        (dict(full=2), "The window counts as full one token too early: it has room for `size` tokens."),
        (dict(full=0), "The window counts as full one token too late: it has room for `size` tokens."),
        (dict(last=1), "The last new token was counted too. Nothing follows it, so that it is not read."),
        (dict(cut=False), "A prompt longer than the window was counted whole. It is cut first."),
    ]
    mistakes = [([_count(*case, **wrong) for case in CASES], diagnosis) for wrong, diagnosis in wrongs]
    everything = "That is the count without a cache: the whole text was read again for each token."
    mistakes += [([_naive(*case, limit) for case in CASES], everything) for limit in (True, False)]
    mistakes += [
        ([n * (n + 1) // 2 for _, n, _ in CASES], f"{everything[:-1]}, and the prompt was left out."),
        ([total - read[0] for total, read in zip(right, reads)], "The prompt was not counted."),
        ([n for _, n, _ in CASES], "That is how many tokens are written, not how many are read."),
    ]
    case, count, read = next((c, g, r) for c, g, r in zip(CASES, got, reads) if g != sum(r))
    found = [diagnosis for wrong, diagnosis in mistakes if got == wrong] or ["The count is wrong."]
    raise Finding(
        f"{found[0]} {call(answer, *case)} returned {count:g}, but a Decoder read {sum(read)} tokens, "
        f"call by call: {_separated(read)}."
    )
