"""Checks of the chapter GPT: each typical mistake has its own diagnosis."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same, tensor
from tinygpt.gpt import GPT, GPTConfig

WORDS = ["the", "red", "kite", "was", "lost", "."]


class _Parts:
    "The parts of a small GPT-2 in which nothing is idle, not yet put together."

    def __init__(self):
        config = GPTConfig.gpt2(len(WORDS), block_size=8, n_layer=2, n_head=2, n_embd=8, n_hidden=12)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            model = GPT(config)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p) * 0.4)
        self.config, self.lm_head, self.unembedding = config, None, model.unembedding
        self.embed, self.position_embedding = model.embed, model.position_embedding
        self.blocks, self.norm = model.blocks, model.norm

    def __call__(self, *_):
        raise ValueError("in this exercise the model cannot be called: use its parts")

    def __repr__(self):
        return "model"

    def __deepcopy__(self, memo):
        return self


def _stream(model: _Parts, x: Tensor, block=None, norm=None) -> Tensor:
    "The logits, where a block or the last norm is not as it should be."
    for layer in model.blocks:
        x = block(x, layer) if block else layer(x)
    return (model.norm if norm is None else norm)(x) @ model.embed.weight.T


@checks
def logits_of(answer):
    "Exercise 1: two tables, both halves of each block with norm and plus, the last norm, the tied head."
    answer, model, text = of_tensors(answer), _Parts(), [[0, 2, 3, 1, 5]]
    args = model, text
    got = tensor(answer, *args, shape=(1, 5, 6))
    with torch.no_grad():
        _diagnose_logits(answer, args, got, model, torch.tensor(text))
        if not same(tensor(answer, model, [[5, 2]], shape=(1, 2, 6)), _stream(model, _entrance(model, [[5, 2]]))):
            raise Finding(f"It is right for five tokens, but {call(answer, model, [[5, 2]])} returned wrong logits.")
    return "Two embeddings, blocks of two halves, a norm, and the embedding again: that is GPT-2."


def _entrance(model: _Parts, ids) -> Tensor:
    ids = torch.as_tensor(ids)
    return model.embed(ids) + model.position_embedding(torch.arange(ids.shape[1]))


def _diagnose_logits(answer, args, got: Tensor, model: _Parts, ids: Tensor):
    words, places, x = model.embed(ids), model.position_embedding(torch.arange(5)), _entrance(model, ids)
    right = _stream(model, x)

    def halves(x, b, norms=(True, True), plus=(True, True)):
        saw = b.attention(b.attention_norm(x) if norms[0] else x)
        x = x + saw if plus[0] else saw
        made = b.mlp(b.mlp_norm(x) if norms[1] else x)
        return x + made if plus[1] else made

    def normed_stream(x, b):
        x = b.attention_norm(x)
        x = x + b.attention(x)
        x = b.mlp_norm(x)
        return x + b.mlp(x)

    def side_by_side(x, b):
        return x + b.attention(b.attention_norm(x)) + b.mlp(b.mlp_norm(x))

    def other_stream(x, b):
        "The second plus adds to what was there before attention."
        return x + b.mlp(b.mlp_norm(x + b.attention(b.attention_norm(x))))

    def post_norm(x, b):
        x = b.attention_norm(x + b.attention(x))
        return b.mlp_norm(x + b.mlp(x))

    def exchanged(x, b):
        x = x + b.attention(b.mlp_norm(x))
        return x + b.mlp(b.attention_norm(x))

    def one_norm(x, b):
        x = x + b.attention(b.attention_norm(x))
        return x + b.mlp(b.attention_norm(x))

    def mlp_first(x, b):
        x = x + b.mlp(b.mlp_norm(x))
        return x + b.attention(b.attention_norm(x))

    def nothing(x):
        return x

    no_residual = "missing: the result replaced the stream, so everything before it is lost."
    no_norm = "reads the stream without a norm."
    blocks = [
        (lambda x, b: halves(x, b, plus=(False, True)), f"The skip connection around attention is {no_residual}"),
        (lambda x, b: halves(x, b, plus=(True, False)), f"The skip connection around the MLP is {no_residual}"),
        (lambda x, b: halves(x, b, plus=(False, False)), f"Both skip connections of a block are {no_residual}"),
        (lambda x, b: halves(x, b, norms=(False, True)), f"Attention {no_norm}"),
        (lambda x, b: halves(x, b, norms=(True, False)), f"The MLP {no_norm}"),
        (lambda x, b: halves(x, b, norms=(False, False)), f"Neither half has its norm: each {no_norm}"),
        (
            normed_stream,
            "The norms are in the residual stream: x itself was replaced. Normalise only what a part reads.",
        ),
        (side_by_side, "The MLP read the stream from before attention. It comes after attention's result was added."),
        (
            other_stream,
            "The MLP read attention's result, but that was never added to the stream: the second sum has the old x.",
        ),
        (post_norm, "The norms come after the additions: that is post-norm. GPT-2 is pre-norm."),
        (exchanged, "The two norms of a block are swapped."),
        (one_norm, "attention_norm was used in both halves. The MLP has its own norm."),
        (mlp_first, "The MLP came first. Attention comes before it."),
    ]
    probs = right.softmax(-1)
    mistakes = [(_stream(model, x, block), diagnosis) for block, diagnosis in blocks]
    mistakes += [
        (_stream(model, x, norm=nothing), "The last norm is missing: model.norm was not used."),
        (_stream(model, words), "No positions were added, so the model cannot know the order of the tokens."),
        (
            _stream(model, words + model.position_embedding(torch.arange(1, 6))),
            "The positions are shifted by one: the first position is 0.",
        ),
        (
            _stream(model, words + model.position_embedding(torch.zeros(5, dtype=torch.int64))),
            "Every token got position 0.",
        ),
        (
            _stream(model, words + model.position_embedding(torch.arange(4, -1, -1))),
            "The positions run backwards: the first token has position 0.",
        ),
        (
            _stream(model, words + model.position_embedding(ids)),
            "model.position_embedding got the ids. It takes positions, not ids.",
        ),
        (_stream(model, places.expand_as(words)), "Only the positions were used, without the tokens."),
        (_stream(model, words * places), "The two embeddings were multiplied, but they are added."),
        (model.norm(model.blocks[0](x)) @ model.embed.weight.T, "Only the first block was run. There are two."),
        (model.norm(model.blocks[1](x)) @ model.embed.weight.T, "Only the last block was run. There are two."),
        (model.norm(x) @ model.embed.weight.T, "No block was run."),
        (
            model.norm(model.blocks[0](model.blocks[1](x))) @ model.embed.weight.T,
            "The blocks were run from the last to the first.",
        ),
        (probs, "Those are probabilities. Return the logits, before softmax."),
        (probs.log(), "Those are log-probabilities. Return the logits, before softmax."),
    ]
    off = ~torch.isclose(got, right, rtol=1e-4, atol=1e-6)[0]
    names = [WORDS[i] for i in ids[0].tolist()]
    picture = grid(got[0].softmax(-1), names, WORDS, marked=off)
    first = int(off.any(1).nonzero()[0]) if off.any() else 0
    what = f"the output of this model: the logits after {names[first]!r} are the first to differ"
    diagnose(answer, args, got, right, mistakes, what, picture)


class _Embedding(nn.Embedding):
    def __repr__(self):
        return "embed"

    def __deepcopy__(self, memo):
        return self


def _gradient(embed: nn.Embedding, head: nn.Linear) -> Tensor:
    "The size of each gradient of the embedding for one example: after 'red' comes 'kite'."
    embed.weight.grad = None
    F.cross_entropy(head(embed(torch.tensor([1]))), torch.tensor([2])).backward()
    pulled = embed.weight.grad.abs()
    return pulled / pulled.max().clamp(min=1e-9)


@checks
def tied_head(answer):
    "Exercise 2: the very same Parameter."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        embed = _Embedding(len(WORDS), 4)
        kept = embed.weight.detach().clone()
        head = attempt(answer, embed, expect=(nn.Module, Tensor))
    asked, (V, C) = call(answer, embed), kept.shape
    if isinstance(head, Tensor):
        raise Finding(f"{asked} returned a matrix. Return an nn.Linear that has it as its weight.")
    if not isinstance(head, nn.Linear):
        raise Finding(f"{asked} returned a module of type {type(head).__name__}. Return an nn.Linear.")
    shape = tuple(head.weight.shape)
    if shape == (C, V):
        raise Finding(
            f"The matrix is transposed, {shape}: a head takes {C} numbers and returns {V}. "
            "nn.Linear(in, out) stores its weight as (out, in), which is also the shape of an embedding."
        )
    if shape != (V, C):
        raise Finding(f"The matrix of {asked} has the shape {shape}, but the embedding has {(V, C)}.")
    if (head.in_features, head.out_features) != (C, V):
        raise Finding(
            f"The matrix is right, but the head says that it takes {head.in_features} numbers and returns "
            f"{head.out_features}: the first argument of nn.Linear is the width of its input."
        )
    if head.bias is not None:
        raise Finding("The head has a bias, and an embedding has none.")
    if not embed.weight.equal(kept):
        raise Finding(
            "They share one matrix, but it is the new one of the head: "
            "everything that the embedding had learned is lost."
        )
    if not head.weight.equal(embed.weight):
        raise Finding("The head has a new matrix of its own, not that of the embedding.")
    if head.weight is embed.weight:
        return "One parameter, two uses: it gets the gradients of both."
    if not head.weight.requires_grad:
        raise Finding(
            "The head does not learn at all, because its matrix was detached."
        )
    pulled = _gradient(embed, head)
    picture = grid(pulled, WORDS, [f"number {i}" for i in range(C)], marked=pulled == 0)
    if head.weight.data_ptr() == embed.weight.data_ptr():
        raise Finding(
            "The two share their memory, but they are two parameters: an optimizer would update the numbers twice, and "
            "the embedding gets no gradient from the head (outlined).",
            picture,
        )
    raise Finding(
        "The head has a copy. The two are equal now, but not after one step of training. For one example ('kite' comes "
        "after 'red') these are the gradients of the embedding; those of the head (outlined) do not reach it.",
        picture,
    )


class _Writer:
    "Its next token depends on every earlier token and on its position."

    def __call__(self, ids: Tensor) -> Tensor:
        if not isinstance(ids, Tensor) or ids.dim() != 2 or not ids.shape[1]:
            got = f"shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
            raise ValueError(f"this model takes a tensor of ids of shape (B, T), and got {got}")
        if ids.min() < 0 or ids.max() >= len(WORDS):
            raise ValueError(f"this model has {len(WORDS)} tokens, and got the ids {ids[0].tolist()}")
        places = torch.arange(1.0, ids.shape[1] + 1)
        state = ((ids + 1) * places.sqrt()).cumsum(1)[..., None] + ids[..., None] * 2.3
        return 3 * torch.sin(state * torch.arange(1.0, len(WORDS) + 1) * 1.7)

    def __repr__(self):
        return "model"

    def __deepcopy__(self, memo):
        return self


@checks
def written(answer):
    "Exercise 3: the last place, the whole text each time."
    model, start, n = _Writer(), [0, 1, 2], 6
    args = model, start, n
    result = attempt(answer, *args, expect=(list, tuple, Tensor))
    got = [int(i) for i in torch.as_tensor(result).flatten()]

    def write(read=lambda ids: ids, place=-1, best=torch.argmax, n=n):
        ids = list(start)
        for _ in range(n):
            ids.append(int(best(model(torch.tensor([read(ids)]))[0, place])))
        return ids

    right = write()
    before_last = "Each token came from the logits one position too early."
    mistakes = [
        (write(place=0), "Each token came from the logits of the first position, which predict the second token.", 0),
        (write(place=-2), before_last, 1),
        (
            write(read=lambda ids: start),
            "The model never reads what it has written: it got the same ids each time.",
            None,
        ),
        (
            write(read=lambda ids: ids[-1:]),
            "The model got only the last token, as a bigram does. It should read the whole text.",
            None,
        ),
        (
            write(read=lambda ids: ids[len(start) :] or start),
            "After the first token, the model reads only what it has written, not the ids given.",
            None,
        ),
        (
            write(read=lambda ids: ids[-len(start) :]),
            f"The model read only the last {len(start)} tokens. It should read all of them.",
            None,
        ),
        (write(best=torch.argmin), "Those are the least likely tokens.", None),
        (right[len(start) :], "The ids given are missing at the front: return the whole text.", None),
        (write(n=n - 1), "One token is missing at the end.", None),
        (write(n=n + 1), "That is one token too many.", None),
        (start, "Nothing was written.", None),
    ]
    if got != right:
        for wrong, diagnosis, row in mistakes:
            if got == wrong:
                picture = None
                if row is not None:
                    probs = model(torch.tensor([start]))[0].softmax(-1)
                    marked = torch.zeros(probs.shape, dtype=torch.bool)
                    marked[row, probs[row].argmax()] = True
                    picture = grid(probs, [WORDS[i] for i in start], WORDS, marked)
                raise Finding(f"{diagnosis} {call(answer, *args)} returned {_separated(got)}.", picture)
        at = next((i for i, (a, b) in enumerate(zip(got, right)) if a != b), min(len(got), len(right)))
        raise Finding(f"Token {at} is wrong: {call(answer, *args)} returned {_separated(got)}.")
    return "The model reads the whole text each time, and the logits of the last position choose the next token."


@checks
def parameters_of(answer):
    "Exercise 4: tables, matrices, norms, each once."
    c = GPTConfig.modern(50, n_layer=2, n_head=4, n_kv_head=2, n_embd=12, head_dim=8, n_hidden=20)

    def count(c, keys=None, width=None, gate=True, norms=None, layers=None, last=None, heads=1, tables=1):
        V, C, D = c.vocab_size, c.n_embd, c.head_dim
        queries = c.n_head * D if width is None else width
        keys = c.n_kv_head * D if keys is None else keys
        norms = 2 * C + 2 * D if norms is None else norms
        layer = 2 * C * (queries + keys) + (3 if gate else 2) * C * c.n_hidden + norms
        return (
            tables * (heads * V * C) + (c.n_layer if layers is None else layers) * layer + (C if last is None else last)
        )

    C, D, H, K = c.n_embd, c.head_dim, c.n_head, c.n_kv_head
    biases = c.n_layer * (H * D + 2 * K * D + C + 2 * c.n_hidden + C)
    right = count(c)
    mistakes = [
        (count(c, heads=2), "The output matrix was counted as well, but the embeddings are tied."),
        (count(c, tables=0), "The embedding is missing."),
        (right + biases, "Biases were counted, but this shape has none."),
        (count(c, gate=False), "The gate of the MLP is missing."),
        (
            count(c, keys=H * D),
            f"Keys and values were counted with {H} heads each, but n_kv_head={K}.",
        ),
        (
            count(c, width=C, keys=C * K // H),
            f"Heads were taken to be n_embd / n_head = {C // H} wide, but head_dim={D}.",
        ),
        (
            count(c, width=C, keys=C),
            f"Attention was counted as four matrices of {C} x {C}. Consider n_kv_head and head_dim.",
        ),
        (count(c, norms=0, last=0), "The norms are missing."),
        (count(c, norms=2 * C), "The norms of queries and keys are missing."),
        (
            count(c, norms=2 * C + (H + K) * D),
            "The norms of queries and keys were counted for every head, but all heads share one.",
        ),
        (count(c, norms=2 * D), "The two norms of width n_embd in each layer are missing."),
        (count(c, norms=C + 2 * D), "A layer has two norms of width n_embd, not one."),
        (count(c, last=0), "The norm after the last block is missing."),
        (right + c.n_layer * 2 * C + C, "The norms were counted with a bias each, but RMSNorm has only a gain."),
        (count(c, layers=1), f"Only one layer was counted. There are {c.n_layer}."),
        (right + c.block_size * C, "Position embeddings were counted, but rotary positions have no parameters."),
        (right * 4, "Those are bytes. Return the number of parameters."),
    ]
    args = (c,)
    diagnose(answer, args, number(answer, *args), right, mistakes, "the number of parameters of this model")
    other = GPTConfig.modern(31, n_layer=3, n_head=2, n_embd=8)
    args = (other,)
    what = "the number of parameters of a model without n_kv_head, which is right for the first one"
    diagnose(answer, args, number(answer, *args), count(other), [], what)
    return "Every embedding, matrix and norm is counted once. You can now tell any model's size from its config."


def _separated(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def _judge(what: str, got, right: float, mistakes: list[tuple[float, str]]):
    if isinstance(got, Tensor) and got.numel() != 1 or not isinstance(got, int | float | Tensor):
        raise Finding(f"The {what} should be one number, but is {got!r:.80}.")
    if same(torch.as_tensor(float(got)), torch.as_tensor(float(right))):
        return
    for wrong, diagnosis in mistakes:
        if same(torch.as_tensor(float(got)), torch.as_tensor(float(wrong))):
            raise Finding(f"{diagnosis} (The {what} is {float(got):.4g}.)")
    raise Finding(f"The {what} is wrong: {float(got):.4g}.")


@checks
def in_chunks(answer):
    "Exercise 5: sums, divided once by all tokens; the largest chunk in bytes."
    answer = of_tensors(answer)
    x = [
        [1.0, 0.5],
        [0.0, 2.0],
        [-1.0, 1.0],
        [3.0, 0.0],
        [0.5, -0.5],
        [2.0, 2.0],
        [-2.0, 0.3],
        [1.0, 1.5],
        [0.2, -1.0],
        [-0.5, 2.5],
    ]
    unembedding = [[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [0.5, 0.5], [1.0, -1.0]]
    targets, n_rows = [0, 3, 2, 1, 4, 3, 2, 1, 0, 4], 3
    args = x, unembedding, targets, n_rows
    result = attempt(answer, *args, expect=(tuple, list))
    if len(result) != 2:
        raise Finding(
            f"{call(answer, *args)} returned {len(result)} values. Return two numbers: the loss, and bytes."
        )
    logits, y = torch.tensor(x) @ torch.tensor(unembedding).T, torch.tensor(targets)
    surprise = F.cross_entropy(logits, y, reduction="none")
    parts, N, V = surprise.split(n_rows), *logits.shape
    right = surprise.mean()
    mistakes = [
        (
            sum(part.mean() for part in parts) / len(parts),
            f"That is the average of {len(parts)} averages: the last chunk has one token, but counts as much as the "
            "others, which have three.",
        ),
        (
            sum(part.mean() for part in parts),
            "The averages of the chunks were added up.",
        ),
        (
            sum(part.mean() for part in parts) / (N / n_rows),
            "Averages of chunks were added up, and divided by the number of full chunks.",
        ),
        (surprise.sum(), "That is the sum. Return the average."),
        (surprise.sum() / len(parts), "The sum was divided by the number of chunks, not by the number of tokens."),
        (surprise.sum() / n_rows, "The sum was divided by the rows of one chunk, not by all tokens."),
        (surprise[:9].sum() / N, "The last chunk, which is smaller, was left out of the sum, but not of the count."),
        (surprise[:9].mean(), "The last chunk, which is smaller, was left out."),
        (parts[0].mean(), "That is the loss of the first chunk alone."),
        (parts[-1].mean(), "That is the loss of the last chunk alone."),
        (-right, "A loss is not negative."),
        (right / math.log(2), "That is in bits. For nats, use the natural logarithm."),
    ]
    _judge("loss", result[0], right, mistakes)
    most = n_rows * V * 4
    mistakes = [
        (n_rows * V, "That is the number of logits, not of bytes."),
        (most * 8, "Those are bits, not bytes."),
        (most * 2, "That counts eight bytes for each number, as in float64."),
        (most / 2, "That counts two bytes for each number, as in bfloat16."),
        (N * V * 4, "That is the memory of all logits, but only one chunk exists at a time."),
        (N * V, "That is the number of all logits, not the bytes of one chunk."),
        (V * 4, "That is the last chunk, or a single row. The largest chunk has more rows."),
        (n_rows * 2 * 4, "That is the memory of the stream of a chunk, not of its logits."),
        (V * 2 * 4, "That is the memory of the unembedding, not of the logits."),
        (most / 1e3, "Those are kilobytes, not bytes."),
        (most / 1024, "Those are kilobytes, not bytes."),
        (most / 1e6, "Those are megabytes, not bytes."),
        (most / 1024**2, "Those are megabytes, not bytes."),
    ]
    _judge("memory", result[1], most, mistakes)
    loss, most = attempt(answer, x, unembedding, targets, 100, expect=(tuple, list))
    _judge("loss with all rows in one chunk", loss, right, [])
    much = "A chunk may have 100 rows, but there are only ten."
    _judge("memory with all rows in one chunk", most, N * V * 4, [(100 * V * 4, much)])
    return "Each token counts the same in chunks of any size; only the memory depends on the size."
