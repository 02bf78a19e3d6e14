"""Checks for chapter 08: each typical mistake has a diagnosis of its own."""

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
        raise ValueError("here the model cannot be called: put it together from its parts")

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
            raise Finding(f"Right for five tokens, but {call(answer, model, [[5, 2]])} returned other logits.")
    return "Two tables, norm and plus in both halves, one norm at the end, and the embedding again: that is GPT-2."


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

    no_residual = "forgotten: what stood in the stream is lost, and the tokens with it. Add to x, do not replace it."
    no_norm = "reads the stream as it is. Give it a normed copy: what it can count on is the norm's size."
    blocks = [
        (lambda x, b: halves(x, b, plus=(False, True)), f"The plus around attention was {no_residual}"),
        (lambda x, b: halves(x, b, plus=(True, False)), f"The plus around the MLP was {no_residual}"),
        (lambda x, b: halves(x, b, plus=(False, False)), f"Both pluses of a block were {no_residual}"),
        (lambda x, b: halves(x, b, norms=(False, True)), f"Attention {no_norm}"),
        (lambda x, b: halves(x, b, norms=(True, False)), f"The MLP {no_norm}"),
        (lambda x, b: halves(x, b, norms=(False, False)), f"Neither half has its norm: each {no_norm}"),
        (
            normed_stream,
            "The norms stand in the stream: x itself was replaced by its normed copy. Norm what is read only.",
        ),
        (side_by_side, "The MLP read the stream of before attention. It should read the sum, with what was just seen."),
        (
            other_stream,
            "What attention saw was read by the MLP, but never added to the stream: the second x is the old one.",
        ),
        (post_norm, "The norms stand after the pluses: that is post-norm. Norm what goes into a part, not the sum."),
        (exchanged, "The two norms of a block are exchanged."),
        (one_norm, "attention_norm was used in both halves. The MLP has a norm of its own, mlp_norm."),
        (mlp_first, "The MLP came first. Look, then think."),
    ]
    chances = right.softmax(-1)
    mistakes = [(_stream(model, x, block), diagnosis) for block, diagnosis in blocks]
    mistakes += [
        (_stream(model, x, norm=nothing), "The last norm was forgotten: after the blocks comes model.norm."),
        (_stream(model, words), "No positions were added: the model cannot know which token came first."),
        (
            _stream(model, words + model.position_embedding(torch.arange(1, 6))),
            "The positions are shifted by one: the first token stands at position 0.",
        ),
        (
            _stream(model, words + model.position_embedding(torch.zeros(5, dtype=torch.int64))),
            "Every token got position 0. They stand at 0, 1, 2 and so on.",
        ),
        (
            _stream(model, words + model.position_embedding(torch.arange(4, -1, -1))),
            "The positions run backwards: the first token stands at position 0.",
        ),
        (
            _stream(model, words + model.position_embedding(ids)),
            "model.position_embedding got the ids. It wants to know where they stand.",
        ),
        (_stream(model, places.expand_as(words)), "Only the positions went in: the tokens themselves are missing."),
        (_stream(model, words * places), "The two tables were multiplied. They are added."),
        (model.norm(model.blocks[0](x)) @ model.embed.weight.T, "Only the first block was run. There are two."),
        (model.norm(model.blocks[1](x)) @ model.embed.weight.T, "Only the last block was run. There are two."),
        (model.norm(x) @ model.embed.weight.T, "No block was run."),
        (
            model.norm(model.blocks[0](model.blocks[1](x))) @ model.embed.weight.T,
            "The blocks were run from the last to the first.",
        ),
        (chances, "Those are chances. The logits are wanted, as they are before softmax."),
        (chances.log(), "Those are logarithms of chances. The logits are wanted, as they are before softmax."),
    ]
    off = ~torch.isclose(got, right, rtol=1e-4, atol=1e-6)[0]
    names = [WORDS[i] for i in ids[0].tolist()]
    picture = grid(got[0].softmax(-1), names, WORDS, marked=off)
    first = int(off.any(1).nonzero()[0]) if off.any() else 0
    what = f"what the model says; the logits after {names[first]!r} are the first to differ"
    diagnose(answer, args, got, right, mistakes, what, picture)


class _Embedding(nn.Embedding):
    def __repr__(self):
        return "embed"

    def __deepcopy__(self, memo):
        return self


def _gradient(embed: nn.Embedding, head: nn.Linear) -> Tensor:
    "How strongly each row of the embedding is pulled by one example: after 'red' comes 'kite'."
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
        raise Finding(f"{asked} returned a matrix. An nn.Linear that has it as its weight is wanted.")
    if not isinstance(head, nn.Linear):
        raise Finding(f"{asked} returned a module of type {type(head).__name__}. An nn.Linear is wanted.")
    shape = tuple(head.weight.shape)
    if shape == (C, V):
        raise Finding(
            f"The matrix lies on its side, {shape}: a head takes {C} numbers and gives {V}. "
            "nn.Linear(in, out) keeps its weight as (out, in), which is how an embedding keeps its rows."
        )
    if shape != (V, C):
        raise Finding(f"The matrix of {asked} has the shape {shape}, that of the embedding {(V, C)}.")
    if (head.in_features, head.out_features) != (C, V):
        raise Finding(
            f"The matrix is right, but the head says that it takes {head.in_features} numbers and gives "
            f"{head.out_features}: nn.Linear(in, out) gets the width first, then how many tokens there are."
        )
    if head.bias is not None:
        raise Finding("The head has a bias, which belongs to no token's row: make it with bias=False.")
    if not embed.weight.equal(kept):
        raise Finding(
            "They are one now, but the embedding took over the fresh matrix of the head: "
            "what it had learned is lost. Let the head take that of the embedding."
        )
    if not head.weight.equal(embed.weight):
        raise Finding("The head has a fresh matrix of its own. It should be that of the embedding.")
    if head.weight is embed.weight:
        return "One Parameter, two uses: each pulls at it, and both see what the other one learned."
    if not head.weight.requires_grad:
        raise Finding(
            "The head does not learn at all: its matrix was detached. Give it the embedding's Parameter as it is."
        )
    pulled = _gradient(embed, head)
    picture = grid(pulled, WORDS, [f"number {i}" for i in range(C)], marked=pulled == 0)
    if head.weight.data_ptr() == embed.weight.data_ptr():
        raise Finding(
            "The two share their memory, but they are two Parameters: an optimizer would step twice, and what the "
            "head learns never reaches the gradient of the embedding (outlined). Give it the same Parameter.",
            picture,
        )
    raise Finding(
        "The head has a copy. Equal today, but after one step they differ: one example, that 'kite' comes after 'red', "
        "pulls at these numbers of the embedding, and what the head learns (outlined) does not reach it.",
        picture,
    )


class _Writer:
    "What it says next depends on every token that came before, and on where it stood."

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
    before_last = "Each token was read off one place too early: the logits of the last place say what comes after it."
    mistakes = [
        (write(place=0), "Each token was read off the first place, which says what comes after the first token.", 0),
        (write(place=-2), before_last, 1),
        (
            write(read=lambda ids: start),
            "What was written is never read: each time the model got the ids given, so it says the same again.",
            None,
        ),
        (
            write(read=lambda ids: ids[-1:]),
            "The model got the last token alone. It should read all that stands before, or it is a bigram.",
            None,
        ),
        (
            write(read=lambda ids: ids[len(start) :] or start),
            "Once it has begun to write, it reads only its own words. Keep the ids given in front.",
            None,
        ),
        (
            write(read=lambda ids: ids[-len(start) :]),
            f"The model read the last {len(start)} tokens only. It should read all of them.",
            None,
        ),
        (write(best=torch.argmin), "Those are the least likely tokens: the largest logit is wanted.", None),
        (right[len(start) :], "The ids given are missing at the front: the whole text is wanted.", None),
        (write(n=n - 1), "One token is missing at the end.", None),
        (write(n=n + 1), "That is one token more than was asked for.", None),
        (start, "Nothing was written.", None),
    ]
    if got != right:
        for wrong, diagnosis, row in mistakes:
            if got == wrong:
                picture = None
                if row is not None:
                    chances = model(torch.tensor([start]))[0].softmax(-1)
                    marked = torch.zeros(chances.shape, dtype=torch.bool)
                    marked[row, chances[row].argmax()] = True
                    picture = grid(chances, [WORDS[i] for i in start], WORDS, marked)
                raise Finding(f"{call(answer, *args)} returned {got}. {diagnosis}", picture)
        at = next((i for i, (a, b) in enumerate(zip(got, right)) if a != b), min(len(got), len(right)))
        raise Finding(f"{call(answer, *args)} returned {got}, where {right} is right: they part at place {at}.")
    return "The whole text in, the last place out, and the new token is read with the rest."


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
        (count(c, heads=2), "The head was counted as a second table. It is tied: one matrix, counted once."),
        (count(c, tables=0), "The embedding is missing."),
        (right + biases, "Biases were counted. This shape has none."),
        (count(c, gate=False), "The gate is missing: an MLP of this shape has three matrices, gate, up and down."),
        (
            count(c, keys=H * D),
            f"Keys and values were counted with {H} heads each. They have n_kv_head={K}, which the queries share.",
        ),
        (
            count(c, width=C, keys=C * K // H),
            f"Heads were taken to be n_embd / n_head = {C // H} wide. Here head_dim={D}: queries have {H} x {D}.",
        ),
        (
            count(c, width=C, keys=C),
            f"Attention was counted as four matrices of {C} x {C}. Look at the heads of this shape.",
        ),
        (count(c, norms=0, last=0), "The norms are missing."),
        (count(c, norms=2 * C), "The norms of queries and keys are missing: one gain for each number of a head."),
        (
            count(c, norms=2 * C + (H + K) * D),
            "The norms of queries and keys were counted for every head. All heads share one of head_dim gains.",
        ),
        (count(c, norms=2 * D), "In the layers, the two norms of width n_embd are missing."),
        (count(c, norms=C + 2 * D), "A layer has two norms of width n_embd: one before attention, one before the MLP."),
        (count(c, last=0), "The norm after the last block is missing."),
        (right + c.n_layer * 2 * C + C, "The norms were counted with a bias each. RMSNorm has a gain alone."),
        (count(c, layers=1), f"Only one layer was counted. There are {c.n_layer}."),
        (right + c.block_size * C, "A table of positions was counted. This shape rotates queries and keys, for free."),
        (right * 4, "Those are bytes. How many numbers there are is wanted."),
    ]
    args = (c,)
    diagnose(answer, args, number(answer, *args), right, mistakes, f"how many it has: PyTorch counts {right:,}")
    other = GPTConfig.modern(31, n_layer=3, n_head=2, n_embd=8)
    args = (other,)
    diagnose(answer, args, number(answer, *args), count(other), [], f"how many it has: PyTorch counts {count(other):,}")
    return "Every table, matrix and norm once: with that formula you can tell any model's size from its config."


def _judge(what: str, got, right: float, mistakes: list[tuple[float, str]]):
    if isinstance(got, Tensor) and got.numel() != 1 or not isinstance(got, int | float | Tensor):
        raise Finding(f"The {what} should be one number, and is {got!r:.80}.")
    if same(torch.as_tensor(float(got)), torch.as_tensor(float(right))):
        return
    for wrong, diagnosis in mistakes:
        if same(torch.as_tensor(float(got)), torch.as_tensor(float(wrong))):
            raise Finding(f"The {what} came out as {float(got):.4g}. {diagnosis}")
    raise Finding(f"The {what} came out as {float(got):.4g}, where {float(right):.4g} is right.")


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
            f"{call(answer, *args)} returned {len(result)} things. Two numbers are wanted: the loss, and bytes."
        )
    logits, y = torch.tensor(x) @ torch.tensor(unembedding).T, torch.tensor(targets)
    surprise = F.cross_entropy(logits, y, reduction="none")
    parts, N, V = surprise.split(n_rows), *logits.shape
    right = surprise.mean()
    mistakes = [
        (
            sum(part.mean() for part in parts) / len(parts),
            f"It is the average of {len(parts)} averages, but the last chunk has one token and counts like the others, "
            "which have three. Add up, and divide once, by all tokens.",
        ),
        (
            sum(part.mean() for part in parts),
            "The averages of the chunks were added up. Add up the sums, and divide once.",
        ),
        (
            sum(part.mean() for part in parts) / (N / n_rows),
            "Averages of chunks were added, and divided by how many full chunks there would be. Add up the sums.",
        ),
        (surprise.sum(), "That is the sum. The average is wanted: divide by how many targets there are."),
        (surprise.sum() / len(parts), "The sum was divided by how many chunks there are, not by how many tokens."),
        (surprise.sum() / n_rows, "The sum was divided by the rows of a chunk, not by all tokens."),
        (surprise[:9].sum() / N, "The last chunk, which is smaller, was left out, though it counts below the line."),
        (surprise[:9].mean(), "The last chunk, which is smaller, was left out."),
        (parts[0].mean(), "That is the loss of the first chunk alone."),
        (parts[-1].mean(), "That is the loss of the last chunk alone: each chunk should add to what was there."),
        (-right, "Surprise is not negative: where is the minus?"),
        (right / math.log(2), "That is in bits. For nats, use the natural logarithm."),
    ]
    _judge("loss", result[0], right, mistakes)
    most = n_rows * V * 4
    mistakes = [
        (n_rows * V, "That is how many numbers there are. In float32 each takes four bytes."),
        (most * 8, "Those are bits. A byte has eight."),
        (most * 2, "That counts eight bytes for each number, as in float64. In float32 each takes four."),
        (most / 2, "That counts two bytes for each number, as in bfloat16. In float32 each takes four."),
        (N * V * 4, "That is what the logits of all rows take. Only one chunk of them is there at a time."),
        (N * V, "Those are all logits, as a count of numbers. One chunk, in bytes, is wanted."),
        (V * 4, "That is the last chunk, or a single row. The largest chunk has more."),
        (n_rows * 2 * 4, "That is what the stream of a chunk takes. Its logits are wider: one for each token."),
        (V * 2 * 4, "That is the unembedding itself. The logits of a chunk are wanted."),
        (most / 1e3, "Those are kilobytes. Bytes are wanted."),
        (most / 1024, "Those are kilobytes. Bytes are wanted."),
        (most / 1e6, "Those are megabytes. Bytes are wanted."),
        (most / 1024**2, "Those are megabytes. Bytes are wanted."),
    ]
    _judge("memory", result[1], most, mistakes)
    loss, most = attempt(answer, x, unembedding, targets, 100, expect=(tuple, list))
    _judge("loss, all rows being one chunk,", loss, right, [])
    much = "100 rows were allowed, but there are only ten: no chunk is larger than what there is."
    _judge("memory, all rows being one chunk,", most, N * V * 4, [(100 * V * 4, much)])
    return "Each token counts the same, however the rows are cut, and only the memory depends on the cut."
