"""The checks of the chapter Cache."""

import pytest
import torch

from conftest import pair_of_tests
from tinygpt.cache import Decoder, KVCache
from tinygpt.checks import cache as check
from tinygpt.gpt import GPT, GPTConfig


def caches(model):
    return [KVCache(32) for _ in model.blocks]


def writing(
    begin=caches,  # makes the caches
    renew=lambda cache, model: cache,  # the caches of each later call
    places=lambda start, end, call: torch.arange(start, end),
    give=lambda text, start: text[start:],
    best=torch.argmax,
    first=-1,  # the place of the first logits
    steps=0,  # more than n
):
    "An answer to exercise 1, with a switch for each thing that can go wrong."

    def answer(model, ids, n):
        text, start, cache = list(ids), 0, begin(model)
        for call in range(n + steps):
            new = give(text, start)
            end = len(text) if len(new) == len(text) - start else start + len(new)
            logits = model(torch.tensor([new]), positions=places(end - len(new), end, call), cache=cache)[0]
            start = len(text)
            text.append(int(best(logits[first if call == 0 else -1])))
            cache = renew(cache, model)
        return text

    return answer


write = writing()


def shared(model):
    return [KVCache(99)] * len(model.blocks)


def restarting(start, end, call):
    return torch.arange(end - start)


def without_cache(model, ids, n):
    text = list(ids)
    for _ in range(n):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text


def whole_text_again(model, ids, n):
    text, cache = list(ids), [KVCache(99) for _ in model.blocks]
    for _ in range(n):
        logits = model(torch.tensor([text]), positions=torch.arange(len(text)), cache=cache)
        text.append(int(logits[0, -1].argmax()))
    return text


def new_caches(model, ids, n):
    text = list(ids)
    for _ in range(n):
        logits = model(torch.tensor([text]), positions=torch.arange(len(text)), cache=caches(model))
        text.append(int(logits[0, -1].argmax()))
    return text


def prompt_twice(model, ids, n):
    "Read once for nothing, and again with the cache."
    model(torch.tensor([ids]))
    return write(model, ids, n)


def last_token_twice(shift):
    def answer(model, ids, n):
        text, cache = list(ids), caches(model)
        model(torch.tensor([ids]), positions=torch.arange(len(ids)), cache=cache)
        for _ in range(n):
            place = torch.tensor([len(text) - shift])
            text.append(int(model(torch.tensor([text[-1:]]), positions=place, cache=cache)[0, -1].argmax()))
        return text

    return answer


def prompt_without_cache(model, ids, n):
    text, cache = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())], caches(model)
    for place in range(len(ids), len(ids) + n - 1):
        logits = model(torch.tensor([text[-1:]]), positions=torch.tensor([place]), cache=cache)
        text.append(int(logits[0, -1].argmax()))
    return text


def first_missing(model, ids, n):
    text = write(model, ids, n)
    return ids + text[len(ids) + 1 :]


def first_missing_and_one_more(model, ids, n):
    text = writing(steps=1)(model, ids, n)
    return ids + text[len(ids) + 1 :]


def in_place(model, ids, n):
    ids[:] = write(model, ids, n)
    return ids


def one_by_one(model, ids, n):
    "The prompt token by token, and the last token too."
    cache, text = caches(model), list(ids)
    for place in range(len(ids) + n):
        logits = model(torch.tensor([[text[place]]]), positions=torch.tensor([[place]]), cache=cache)
        if len(ids) - 1 <= place < len(ids) + n - 1:
            text.append(int(logits[0, -1].argmax()))
    return torch.tensor(text)


def with_hidden(model, ids, n):
    cache, text, start = caches(model), list(ids), 0
    for _ in range(n):
        x = model.hidden(torch.tensor([text[start:]]), torch.arange(start, len(text)), cache=cache)[0, -1]
        start = len(text)
        text.append(int((model.unembedding @ x).argmax()))
    return tuple(text)


class CacheOfTheNotebook:
    "A class that a cell defines, not that of the package."

    def __init__(self, size):
        self.inner = KVCache(size)

    @property
    def length(self):
        return self.inner.length

    def update(self, key, value):
        return self.inner.update(key, value)


def with_decoder(model, ids, n):
    decoder, text = Decoder(model, [ids]), list(ids)
    for _ in range(n - 1):
        text.append(int(decoder.logits.argmax()))
        decoder.append(torch.tensor(text[-1:]))
    return [*text, int(decoder.logits.argmax())]


def allowed(lengths, width):
    return (torch.arange(width) >= width - lengths[:, None])[:, None, None]


def mask(of):
    "An answer from a function of the index, the lengths and the width."
    return lambda lengths, width: of(torch.arange(width), lengths[:, None], width)[:, None, None]


def cache_bytes(c, length, each, **other):
    n = dict(parts=2, layers=c.n_layer, heads=c.n_kv_head, width=c.head_dim) | other
    return n["parts"] * n["layers"] * n["heads"] * n["width"] * length * each


def tokens_read(prompt, n, size):
    window = total = min(prompt, size)
    for _ in range(n - 1):
        window += 1
        read = 1
        if window > size:
            window = read = max(1, size // 2)
        total += read
    return total


def loop(
    cut=True,
    full=lambda window, size: window + 1 > size,
    half=lambda size: max(1, size // 2),
    read=lambda kept: kept,
    kept=lambda half: half,
    more=0,
    first=1,
):
    "The count, with a switch for each thing that can be misunderstood."

    def answer(prompt, n, size):
        window = min(prompt, size) if cut else prompt
        total = window * first
        for _ in range(n - 1 + more):
            if full(window, size):
                window, total = kept(half(size)), total + read(half(size))
            else:
                window, total = window + 1, total + 1
        return total

    return answer


def once(prompt, n, size):
    "The window is read again once only."
    window = total = min(prompt, size)
    again = True
    for _ in range(n - 1):
        if window == size and again:
            window, total, again = max(1, size // 2), total + max(1, size // 2), False
        else:
            window, total = window + 1, total + 1
    return total


RIGHT = {"write": write, "allowed": allowed, "cache_bytes": cache_bytes, "tokens_read": tokens_read}
MISTAKES = [
    ("write", writing(places=restarting), "The positions restart at 0"),
    ("write", writing(places=lambda a, b, call: torch.arange(a, b) + 1), "The first token has position 0, but"),
    ("write", writing(places=lambda a, b, call: torch.arange(a, b) + (call > 0)), "of a token is 1 too large"),
    ("write", writing(places=lambda a, b, call: torch.arange(a, b) - int(call > 0)), "of a token is 1 too small"),
    ("write", writing(places=lambda a, b, call: torch.full((b - a,), a)), "were read at position 0"),
    ("write", whole_text_again, "The whole text was read again, although its first 4 tokens"),
    ("write", last_token_twice(0), "The last token of the prompt was read a second time"),
    ("write", last_token_twice(1), "The last token of the prompt was read a second time"),
    ("write", prompt_without_cache, "The cache is empty when a new token is read"),
    ("write", writing(renew=lambda cache, model: caches(model)), "The cache is empty when a new token is read"),
    (
        "write",
        writing(renew=lambda cache, model: caches(model), places=restarting),
        "The cache is empty when a new token is read",
    ),
    ("write", writing(begin=shared), "All blocks share one KVCache"),
    ("write", writing(begin=lambda model: KVCache(32)), "a list of KVCaches, and was a KVCache"),
    ("write", writing(begin=lambda model: [None for _ in model.blocks]), "should hold KVCaches, and holds a NoneType"),
    ("write", writing(begin=lambda model: [KVCache(32)]), "has 1 KVCaches, but the model has 2"),
    ("write", writing(begin=lambda model: [KVCache(4) for _ in model.blocks]), "do not fit into a cache of size 4"),
    ("write", writing(places=lambda a, b, call: None), "positions are required with a cache"),
    ("write", without_cache, "model read 49 tokens to write 7 after 4. No cache was used"),
    ("write", new_caches, "Later calls read again what had been read"),
    ("write", prompt_twice, "Later calls read again what had been read"),
    ("write", lambda m, ids, n: write(m, ids, n)[len(ids) :], "missing at the front"),
    ("write", writing(steps=-1), "One token is missing at the end"),
    ("write", writing(steps=1), "one token too many"),
    ("write", lambda m, ids, n: (write(m, ids, n), ids)[1], "Nothing was written"),
    ("write", lambda m, ids, n: ids, "The model was never called"),
    ("write", first_missing, "that the prompt's logits chose is missing"),
    ("write", first_missing_and_one_more, "The first new token is missing in the list"),
    ("write", writing(first=0), "logits of the prompt's first place"),
    ("write", writing(best=torch.argmin), "the least likely tokens"),
    ("write", lambda m, ids, n: [*write(m, ids, n)[:-1], 3], "Token 10 is wrong"),
    ("write", in_place, "in place: ids"),
    ("allowed", mask(lambda index, n, width: (index >= 0) & (n > 0)), "the padding is let in"),
    ("allowed", mask(lambda index, n, width: index < width - n), "True and false are exchanged"),
    ("allowed", mask(lambda index, n, width: index < n), "padding on the right"),
    ("allowed", mask(lambda index, n, width: index >= n), "taken for the number of padding tokens"),
    ("allowed", mask(lambda index, n, width: index > width - n), "The first token of each text is left out"),
    ("allowed", mask(lambda index, n, width: index >= width - n - 1), "One padding token of each row is let in"),
    ("allowed", mask(lambda index, n, width: index >= n.max() - n), "up to the longest text"),
    ("allowed", mask(lambda index, n, width: (index == width - 1) & (n > 0)), "Only the last token of each text"),
    ("allowed", mask(lambda index, n, width: (index >= width - n) & (index != 3)), "is not a mask that allows"),
    ("allowed", lambda n, width: allowed(n, width).float(), "numbers of torch.float32"),
    ("allowed", lambda n, width: allowed(n, width)[:, 0, 0], "of heads and of queries are missing"),
    ("allowed", lambda n, width: allowed(n, width)[:, 0], "one of heads and one of queries"),
    ("allowed", lambda n, width: allowed(n, width).expand(-1, 1, width, width), "One row serves all queries"),
    ("allowed", lambda n, width: allowed(n, int(n.max())), "not `width`"),
    ("allowed", lambda n, width: allowed(n, width).transpose(0, 2), "stand where queries belong"),
    ("allowed", lambda n, width: allowed(n, width).transpose(1, 3), "Keys come last"),
    ("allowed", lambda n, width: allowed(n.add_(1), width), "in place: n"),
    ("cache_bytes", lambda *args: cache_bytes(*args, parts=1), "of the keys or of the values"),
    ("cache_bytes", lambda c, *args: cache_bytes(c, *args, heads=c.n_head), "for every query head"),
    ("cache_bytes", lambda *args: cache_bytes(*args, layers=1), "Only one layer was counted"),
    ("cache_bytes", lambda c, *args: cache_bytes(c, *args, width=c.n_embd // c.n_head), "n_embd / n_head = 7 wide"),
    ("cache_bytes", lambda c, *args: cache_bytes(c, *args, heads=1, width=c.n_embd), "n_embd=84 numbers wide"),
    ("cache_bytes", lambda *args: cache_bytes(*args, heads=1), "Only one key/value head"),
    ("cache_bytes", lambda *args: cache_bytes(*args, parts=3), "Queries were counted too"),
    ("cache_bytes", lambda *args: cache_bytes(*args) * 8, "Those are bits"),
    ("cache_bytes", lambda c, length, each: cache_bytes(c, length, 1), "how many numbers there are"),
    ("cache_bytes", lambda c, length, each: cache_bytes(c, 1, each), "the size for one token"),
    ("cache_bytes", lambda c, length, each: cache_bytes(c, c.block_size, each), "a text of block_size=64"),
    ("cache_bytes", lambda c, length, each: cache_bytes(c, length**2, each), "the square of the length"),
    ("cache_bytes", lambda *args: cache_bytes(*args) / 1e3, "Those are kilobytes"),
    ("cache_bytes", lambda *args: cache_bytes(*args) / 2**10, "Those are kilobytes"),
    ("cache_bytes", lambda *args: cache_bytes(*args) / 1e6, "Those are megabytes"),
    ("cache_bytes", lambda *args: cache_bytes(*args) / 2**20, "Those are megabytes"),
    ("cache_bytes", lambda *args: cache_bytes(*args) + 70, "is not the size of this cache"),
    ("cache_bytes", lambda c, length, each: cache_bytes(c, length, 4), "does not depend on bytes_per_number"),
    ("cache_bytes", lambda *args: cache_bytes(*args, width=8), "right for a GPT-2"),
    ("tokens_read", loop(full=lambda *_: False), "A full window is never read again here"),
    ("tokens_read", once, "read again only once"),
    ("tokens_read", loop(read=lambda half: half + 1), "The new token was counted twice"),
    ("tokens_read", loop(kept=lambda n: n + 1, read=lambda n: n + 1), "put on top of the newest half"),
    ("tokens_read", loop(read=lambda half: half - 1), "The new token was not counted"),
    ("tokens_read", loop(half=lambda size: size), "The whole window was read again"),
    ("tokens_read", loop(half=lambda size: (size + 1) // 2), "was rounded up"),
    ("tokens_read", loop(half=lambda size: size / 2), "is size // 2 tokens"),
    ("tokens_read", loop(half=lambda size: size // 2), "at least 1 is kept"),
    ("tokens_read", loop(full=lambda window, size: window + 1 >= size), "one token too early"),
    ("tokens_read", loop(full=lambda window, size: window > size), "one token too late"),
    ("tokens_read", loop(more=1), "The last new token was counted too"),
    ("tokens_read", loop(cut=False), "was counted whole"),
    ("tokens_read", lambda prompt, n, size: sum(range(prompt, prompt + n)), "again for each token. "),
    ("tokens_read", lambda prompt, n, size: sum(min(prompt + i, size) for i in range(n)), "again for each token. "),
    ("tokens_read", lambda prompt, n, size: n * (n + 1) / 2, "and the prompt was left out"),
    ("tokens_read", loop(first=0), "The prompt was not counted"),
    ("tokens_read", lambda prompt, n, size: n, "how many tokens are written"),
    ("tokens_read", lambda prompt, n, size: tokens_read(prompt, n, size) + (n == 20), "The count is wrong. "),
]

test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    own = writing(begin=lambda model: [CacheOfTheNotebook(32) for _ in model.blocks])
    for answer in one_by_one, with_hidden, with_decoder, own:
        assert check.write(answer), check.write(answer)
    assert check.allowed(lambda n, width: (torch.arange(width - 1, -1, -1) < n[:, None]).unflatten(0, (-1, 1, 1)))
    assert check.cache_bytes(lambda *args: float(cache_bytes(*args)))
    assert check.tokens_read(lambda *case: torch.tensor(sum(check.measured(*case))))


def test_what_is_right_stands_clear_of_rounding():
    "At each step the most probable token leads by far, so that a cache, which rounds otherwise, writes the same."
    model = check._Reader()
    for prompt, n in ([3, 17, 8, 25], 8), ([5], 5):
        logits = model(torch.tensor([model.write(prompt, n)]))[0, len(prompt) - 1 : -1]
        best, second = logits.topk(2).values.T
        assert (best - second).min() > 0.01


@pytest.mark.parametrize("shape", [GPTConfig.modern, GPTConfig.gpt2])
def test_the_bytes_are_those_of_a_real_cache(shape):
    c = shape(20, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, head_dim=10)
    model, cache = GPT(c), [KVCache(7) for _ in range(3)]
    model(torch.zeros(1, 7, dtype=torch.int64), positions=torch.arange(7), cache=cache)
    assert cache_bytes(c, 7, 4) == sum(part.key.nbytes + part.value.nbytes for part in cache)


def test_the_count_is_measured_and_holds_for_other_sizes():
    for case in (1, 1, 2), (1, 12, 2), (9, 9, 3), (4, 11, 5):
        assert sum(check.measured(*case)) == tokens_read(*case) == check._count(*case)
    message = check.tokens_read(loop(full=lambda *_: False)).message
    assert message.endswith("returned 10, but a Decoder read 13 tokens, call by call: 3 1 1 1 1 1 4 1.")


def test_what_was_read_again_is_drawn():
    def rows(answer):
        return [line.split()[2:] for line in str(check.write(answer).picture).splitlines()]

    drawn = rows(without_cache)
    assert [sum(cell.endswith("!") for cell in row) for row in drawn] == [0, 4, 5, 6, 7, 8, 9]
    drawn = rows(whole_text_again)
    assert [[cell.endswith("!") for cell in row] for row in drawn] == [[False] * 5, [True] * 4 + [False]]
    drawn = rows(writing(places=restarting))
    assert drawn[1][0] == "1.00!"
    picture = str(check.allowed(mask(lambda index, n, width: index >= width - n - 1)).picture)
    marked = [[cell.endswith("!") for cell in line.split()[2:]] for line in picture.splitlines()]
    assert [row.index(True) for row in marked] == [2, 4, 1] and sum(map(sum, marked)) == 3
