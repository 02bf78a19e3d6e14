"""The checks of the chapter GPT."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from conftest import pair_of_tests
from tinygpt.checks import gpt as check
from tinygpt.gpt import GPT, GPTConfig, count_parameters


def machine(
    model,
    ids,
    place=lambda ids: torch.arange(ids.shape[1]),
    norms=(True, True),
    plus=(True, True),
    last=True,
    block=None,
    layers=slice(None),
    join=torch.add,
):
    "The whole model, with a switch for each thing that can be forgotten."
    x = model.embed(ids)
    if place:
        x = join(x, model.position_embedding(place(ids)))
    for b in model.blocks[layers]:
        if block:
            x = block(x, b)
            continue
        saw = b.attention(b.attention_norm(x) if norms[0] else x)
        x = x + saw if plus[0] else saw
        made = b.mlp(b.mlp_norm(x) if norms[1] else x)
        x = x + made if plus[1] else made
    return (model.norm(x) if last else x) @ model.embed.weight.T


def normed_stream(x, b):
    x = b.attention_norm(x)
    x = x + b.attention(x)
    x = b.mlp_norm(x)
    return x + b.mlp(x)


def two_steps(first, second):
    def block(x, b):
        x = x + first(b)(x)
        return x + second(b)(x)

    return block


def wrong_block(block):
    return lambda model, ids: machine(model, ids, block=block)


def backwards(model, ids):
    x = model.embed(ids) + model.position_embedding(torch.arange(ids.shape[1]))
    for b in reversed(model.blocks):
        x = b(x)
    return model.norm(x) @ model.embed.weight.T


def head_of(embed, **how):
    return nn.Linear(embed.embedding_dim, embed.num_embeddings, bias=False, **how)


def tied(embed):
    head = head_of(embed)
    head.weight = embed.weight
    return head


def copied(embed):
    head = head_of(embed)
    head.weight.data.copy_(embed.weight.data)
    return head


def cloned(embed):
    head = head_of(embed)
    head.weight = nn.Parameter(embed.weight.detach().clone())
    return head


def shared_memory(embed):
    head = head_of(embed)
    head.weight = nn.Parameter(embed.weight.detach())
    return head


def shared_data(embed):
    head = head_of(embed)
    head.weight.data = embed.weight.data
    return head


def frozen(embed):
    head = head_of(embed)
    head.weight = nn.Parameter(embed.weight.detach(), requires_grad=False)
    return head


def taken_over(embed):
    head = head_of(embed)
    embed.weight = head.weight
    return head


def with_bias(embed):
    head = nn.Linear(embed.embedding_dim, embed.num_embeddings)
    head.weight = embed.weight
    return head


def on_its_side(embed):
    head = nn.Linear(embed.num_embeddings, embed.embedding_dim, bias=False)
    head.weight = nn.Parameter(embed.weight.T)
    return head


def turned_round(embed):
    head = nn.Linear(embed.num_embeddings, embed.embedding_dim, bias=False)
    head.weight = embed.weight
    return head


def write(model, ids, n, read=lambda ids, start: ids, place=-1, best=torch.argmax):
    start, ids = list(ids), list(ids)
    for _ in range(n):
        ids.append(best(model(torch.tensor([read(ids, start)]))[0, place]).item())
    return ids


def in_place(model, ids, n):
    for _ in range(n):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids


def parameters(c, norms=None, keys=None, width=None, matrices=3, last=None, layers=None):
    width = c.n_head * c.head_dim if width is None else width
    keys = c.n_kv_head * c.head_dim if keys is None else keys
    norms = 2 * c.n_embd + 2 * c.head_dim if norms is None else norms
    layer = 2 * c.n_embd * (width + keys) + matrices * c.n_embd * c.n_hidden + norms
    return c.vocab_size * c.n_embd + (layers or c.n_layer) * layer + (c.n_embd if last is None else last)


def biases(c):
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    return c.n_layer * (queries + 2 * keys + 2 * c.n_embd + 2 * c.n_hidden)


def chunks(x, unembedding, targets, n_rows):
    "Of each chunk its surprises."
    rows = torch.arange(len(x)).split(n_rows)
    return [F.cross_entropy(x[r] @ unembedding.T, targets[r], reduction="none") for r in rows]


def loss_of(x, unembedding, targets, n_rows):
    return torch.cat(chunks(x, unembedding, targets, n_rows)).mean().item()


def memory_of(x, unembedding, targets, n_rows):
    return min(n_rows, len(x)) * len(unembedding) * 4


def chunked(loss=loss_of, memory=memory_of):
    return lambda *args: (loss(*args), memory(*args))


def by_loss(wrong):
    return chunked(loss=lambda *args: wrong(chunks(*args), args[3]))


def by_memory(wrong):
    return chunked(memory=lambda x, v, y, n: wrong(memory_of(x, v, y, n), x, v, n))


def total(parts):
    return sum(part.sum() for part in parts)


RIGHT = {
    "logits_of": machine,
    "tied_head": tied,
    "written": write,
    "parameters_of": count_parameters,
    "in_chunks": chunked(),
}
MISTAKES = [
    ("logits_of", lambda m, i: machine(m, i, plus=(False, True)), "The skip connection around attention is missing"),
    ("logits_of", lambda m, i: machine(m, i, plus=(True, False)), "The skip connection around the MLP is missing"),
    ("logits_of", lambda m, i: machine(m, i, plus=(False, False)), "Both skip connections of a block are missing"),
    ("logits_of", lambda m, i: machine(m, i, norms=(False, True)), "Attention reads the stream without"),
    ("logits_of", lambda m, i: machine(m, i, norms=(True, False)), "The MLP reads the stream without"),
    ("logits_of", lambda m, i: machine(m, i, norms=(False, False)), "Neither half has its norm"),
    ("logits_of", wrong_block(normed_stream), "The norms are in the residual stream"),
    (
        "logits_of",
        wrong_block(lambda x, b: x + b.attention(b.attention_norm(x)) + b.mlp(b.mlp_norm(x))),
        "read the stream from before attention",
    ),
    (
        "logits_of",
        wrong_block(lambda x, b: x + b.mlp(b.mlp_norm(x + b.attention(b.attention_norm(x))))),
        "never added to the stream",
    ),
    (
        "logits_of",
        wrong_block(lambda x, b: b.mlp_norm((y := b.attention_norm(x + b.attention(x))) + b.mlp(y))),
        "that is post-norm",
    ),
    (
        "logits_of",
        wrong_block(
            two_steps(lambda b: lambda x: b.attention(b.mlp_norm(x)), lambda b: lambda x: b.mlp(b.attention_norm(x)))
        ),
        "norms of a block are swapped",
    ),
    (
        "logits_of",
        wrong_block(
            two_steps(
                lambda b: lambda x: b.attention(b.attention_norm(x)), lambda b: lambda x: b.mlp(b.attention_norm(x))
            )
        ),
        "used in both halves",
    ),
    (
        "logits_of",
        wrong_block(
            two_steps(lambda b: lambda x: b.mlp(b.mlp_norm(x)), lambda b: lambda x: b.attention(b.attention_norm(x)))
        ),
        "The MLP came first",
    ),
    ("logits_of", lambda m, i: machine(m, i, last=False), "The last norm is missing"),
    ("logits_of", lambda m, i: machine(m, i, place=None), "No positions were added"),
    (
        "logits_of",
        lambda m, i: machine(m, i, place=lambda ids: torch.arange(ids.shape[1]) + 1),
        "shifted by one",
    ),
    ("logits_of", lambda m, i: machine(m, i, place=torch.zeros_like), "Every token got position 0"),
    (
        "logits_of",
        lambda m, i: machine(m, i, place=lambda ids: torch.arange(ids.shape[1]).flip(0)),
        "positions run backwards",
    ),
    ("logits_of", lambda m, i: machine(m, i, place=lambda ids: ids), "model.position_embedding got the ids"),
    ("logits_of", lambda m, i: machine(m, i, join=lambda a, b: b.expand_as(a)), "Only the positions were used"),
    ("logits_of", lambda m, i: machine(m, i, join=torch.mul), "The two embeddings were multiplied"),
    ("logits_of", lambda m, i: machine(m, i, layers=slice(1)), "Only the first block"),
    ("logits_of", lambda m, i: machine(m, i, layers=slice(1, None)), "Only the last block"),
    ("logits_of", lambda m, i: machine(m, i, layers=slice(0)), "No block was run"),
    ("logits_of", backwards, "from the last to the first"),
    ("logits_of", lambda m, i: machine(m, i).softmax(-1), "Those are probabilities"),
    ("logits_of", lambda m, i: machine(m, i).log_softmax(-1), "log-probabilities"),
    ("logits_of", lambda m, i: m(i), "cannot be called"),
    ("logits_of", lambda m, i: machine(m, i)[0], "of shape (5, 6), not (1, 5, 6)"),
    ("logits_of", lambda m, i: machine(m, i) + (i == 2)[..., None], "after 'kite' are the first to differ"),
    ("logits_of", lambda m, i: machine(m, i) + (i.shape[1] == 2), "right for five tokens"),
    ("tied_head", copied, "The head has a copy"),
    ("tied_head", cloned, "The head has a copy"),
    ("tied_head", shared_memory, "share their memory"),
    ("tied_head", shared_data, "share their memory"),
    ("tied_head", frozen, "does not learn at all"),
    ("tied_head", taken_over, "had learned is lost"),
    ("tied_head", head_of, "a new matrix of its own"),
    ("tied_head", with_bias, "The head has a bias"),
    ("tied_head", on_its_side, "is transposed"),
    ("tied_head", turned_round, "the head says that it takes 6 numbers and returns 4"),
    ("tied_head", lambda embed: nn.Linear(4, 5, bias=False), "has the shape (5, 4)"),
    ("tied_head", lambda embed: embed.weight, "returned a matrix"),
    ("tied_head", lambda embed: embed, "of type _Embedding"),
    ("written", lambda m, i, n: write(m, i, n, place=0), "of the first position"),
    ("written", lambda m, i, n: write(m, i, n, place=-2), "one position too early"),
    ("written", lambda m, i, n: write(m, i, n, read=lambda ids, start: start), "never reads what it has written"),
    ("written", lambda m, i, n: write(m, i, n, read=lambda ids, start: ids[-1:]), "got only the last token"),
    (
        "written",
        lambda m, i, n: write(m, i, n, read=lambda ids, start: ids[len(start) :] or start),
        "reads only what it has written",
    ),
    ("written", lambda m, i, n: write(m, i, n, read=lambda ids, start: ids[-3:]), "read only the last 3 tokens"),
    ("written", lambda m, i, n: write(m, i, n, best=torch.argmin), "the least likely"),
    ("written", lambda m, i, n: write(m, i, n)[len(i) :], "missing at the front"),
    ("written", lambda m, i, n: write(m, i, n - 1), "One token is missing"),
    ("written", lambda m, i, n: write(m, i, n + 1), "one token too many"),
    ("written", lambda m, i, n: i, "Nothing was written"),
    ("written", in_place, "changed what it was given"),
    ("written", lambda m, i, n: write(lambda ids: m(ids[0]), i, n), "got shape (3,)"),
    ("written", lambda m, i, n: [*write(m, i, n)[:-1], 9], "Token 8 is wrong"),
    ("parameters_of", lambda c: parameters(c) + c.vocab_size * c.n_embd, "The output matrix was counted"),
    ("parameters_of", lambda c: parameters(c) - c.vocab_size * c.n_embd, "The embedding is missing"),
    ("parameters_of", lambda c: parameters(c) + biases(c), "Biases were counted"),
    ("parameters_of", lambda c: parameters(c, matrices=2), "The gate of the MLP is missing"),
    ("parameters_of", lambda c: parameters(c, keys=c.n_head * c.head_dim), "with 4 heads each"),
    (
        "parameters_of",
        lambda c: parameters(c, width=c.n_embd, keys=c.n_embd * c.n_kv_head // c.n_head),
        "n_embd / n_head = 3 wide",
    ),
    ("parameters_of", lambda c: parameters(c, width=c.n_embd, keys=c.n_embd), "four matrices of 12 x 12"),
    ("parameters_of", lambda c: parameters(c, norms=0, last=0), "The norms are missing"),
    ("parameters_of", lambda c: parameters(c, norms=2 * c.n_embd), "norms of queries and keys are missing"),
    (
        "parameters_of",
        lambda c: parameters(c, norms=2 * c.n_embd + (c.n_head + c.n_kv_head) * c.head_dim),
        "were counted for every head",
    ),
    ("parameters_of", lambda c: parameters(c, norms=2 * c.head_dim), "two norms of width n_embd in each layer"),
    ("parameters_of", lambda c: parameters(c, norms=c.n_embd + 2 * c.head_dim), "A layer has two norms"),
    ("parameters_of", lambda c: parameters(c, last=0), "after the last block is missing"),
    ("parameters_of", lambda c: parameters(c) + (2 * c.n_layer + 1) * c.n_embd, "with a bias each"),
    ("parameters_of", lambda c: parameters(c, layers=1), "Only one layer"),
    ("parameters_of", lambda c: parameters(c) + c.block_size * c.n_embd, "Position embeddings were counted"),
    ("parameters_of", lambda c: 4 * parameters(c), "Those are bytes"),
    ("parameters_of", lambda c: parameters(c) + 7, "is not the number of parameters of this model"),
    ("parameters_of", lambda c: parameters(c) + (c.n_layer == 3) * 100, "without n_kv_head"),
    ("in_chunks", by_loss(lambda parts, n: sum(p.mean() for p in parts) / len(parts)), "average of 4 averages"),
    ("in_chunks", by_loss(lambda parts, n: sum(p.mean() for p in parts)), "averages of the chunks were added up"),
    ("in_chunks", by_loss(lambda parts, n: total(parts)), "That is the sum"),
    ("in_chunks", by_loss(lambda parts, n: total(parts) / len(parts)), "by the number of chunks"),
    ("in_chunks", by_loss(lambda parts, n: total(parts) / n), "by the rows of one chunk"),
    ("in_chunks", by_loss(lambda parts, n: total(parts[:3]) / 10), "but not of the count"),
    ("in_chunks", by_loss(lambda parts, n: total(parts[:3]) / 9), "smaller, was left out. "),
    ("in_chunks", by_loss(lambda parts, n: sum(p.mean() for p in parts) / (10 / 3)), "the number of full chunks"),
    ("in_chunks", by_loss(lambda parts, n: parts[0].mean()), "first chunk alone"),
    ("in_chunks", by_loss(lambda parts, n: parts[-1].mean()), "last chunk alone"),
    ("in_chunks", by_loss(lambda parts, n: -total(parts) / 10), "not negative"),
    ("in_chunks", by_loss(lambda parts, n: total(parts) / 10 / math.log(2)), "in bits. For nats"),
    ("in_chunks", by_loss(lambda parts, n: total(parts) / 10 + 1), "The loss is wrong: 2.879"),
    ("in_chunks", by_memory(lambda most, x, v, n: most // 4), "That is the number of logits"),
    ("in_chunks", by_memory(lambda most, x, v, n: most * 8), "Those are bits"),
    ("in_chunks", by_memory(lambda most, x, v, n: most * 2), "as in float64"),
    ("in_chunks", by_memory(lambda most, x, v, n: most // 2), "as in bfloat16"),
    ("in_chunks", by_memory(lambda most, x, v, n: len(x) * len(v) * 4), "the memory of all logits"),
    ("in_chunks", by_memory(lambda most, x, v, n: len(x) * len(v)), "the number of all logits"),
    ("in_chunks", by_memory(lambda most, x, v, n: len(v) * 4), "the last chunk, or a single row"),
    ("in_chunks", by_memory(lambda most, x, v, n: n * 8), "the stream of a chunk"),
    ("in_chunks", by_memory(lambda most, x, v, n: v.nbytes), "of the unembedding"),
    ("in_chunks", by_memory(lambda most, x, v, n: most / 1024), "Those are kilobytes"),
    ("in_chunks", by_memory(lambda most, x, v, n: most / 1e3), "Those are kilobytes"),
    ("in_chunks", by_memory(lambda most, x, v, n: most / 1e6), "Those are megabytes"),
    ("in_chunks", by_memory(lambda most, x, v, n: most / 2**20), "Those are megabytes"),
    ("in_chunks", by_memory(lambda most, x, v, n: n * len(v) * 4), "there are only ten"),
    ("in_chunks", by_memory(lambda most, x, v, n: most + 1), "The memory is wrong: 61"),
    ("in_chunks", lambda *args: (loss_of(*args),), "Return two numbers"),
    ("in_chunks", lambda x, v, y, n: (x.mean(1), 60), "should be one number"),
]


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    def with_blocks(model, ids):
        x = model.embed(ids) + model.position_embedding.weight[: ids.shape[1]]
        for block in model.blocks:
            x = block(x)
        return F.linear(model.norm(x), model.unembedding)

    def as_tensor(model, ids, n):
        ids = torch.tensor([ids])
        for _ in range(n):
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
        return ids[0]

    def built(c):
        with torch.device("meta"):
            return sum(p.numel() for p in GPT(c).parameters())

    assert check.logits_of(with_blocks) and check.written(as_tensor) and check.parameters_of(built)
    assert check.in_chunks(lambda *args: (torch.tensor(loss_of(*args)), float(memory_of(*args))))


def test_what_is_expected_is_what_the_model_itself_says():
    "The check puts the parts together by itself: here the whole model stands beside it."
    parts = check._Parts()
    model = GPT(GPTConfig.gpt2(6, block_size=8, n_layer=2, n_head=2, n_embd=8, n_hidden=12))
    model.embed, model.position_embedding = parts.embed, parts.position_embedding
    model.blocks, model.norm = parts.blocks, parts.norm
    assert check.logits_of(lambda _, ids: model(ids))


def test_offending_cells_are_drawn():
    def off(model, ids):
        logits = machine(model, ids)
        logits[0, 2, 4] += 1
        return logits

    row = [line for line in str(check.logits_of(off).picture).splitlines() if "!" in line]
    assert [line.split()[0] for line in row] == ["was"] and row[0].split()[5].endswith("!") and row[0].count("!") == 1

    marked = [
        line for line in str(check.written(lambda m, i, n: write(m, i, n, place=0)).picture).splitlines() if "!" in line
    ]
    assert [line.split()[0] for line in marked] == ["the"] and marked[0].count("!") == 1
    marked = [
        line
        for line in str(check.written(lambda m, i, n: write(m, i, n, place=-2)).picture).splitlines()
        if "!" in line
    ]
    assert [line.split()[0] for line in marked] == ["red"] and marked[0].count("!") == 1

    for head in copied, shared_memory:  # the embedding of "red" alone is reached
        lines = str(check.tied_head(head).picture).splitlines()
        assert [line.split()[0] for line in lines if "!" not in line] == ["red"]
        assert all(line.count("!") in (0, 4) for line in lines) and len(lines) == 6
