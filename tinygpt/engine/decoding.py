"""A model prepared for writing: matrices that read the same numbers are merged, and one token is read at a time."""

from collections.abc import Sequence
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tinygpt.positions import rotation

def merge_linear(layers: Sequence[nn.Linear]) -> nn.Linear:
    "One layer that computes what these layers compute, side by side."
    n_in, n_out = layers[0].in_features, sum(layer.out_features for layer in layers)
    with torch.device("meta"):
        merged = nn.Linear(n_in, n_out, layers[0].bias is not None)
    merged.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    if merged.bias is not None:
        merged.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return merged

def fusing(x: Tensor) -> bool:
    "Whether torch.compile is making loops for a CPU of this."
    return torch.compiler.is_compiling() and x.device.type == "cpu"

def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    "A linear layer; compiled for one row on a CPU, matrix times vector, which becomes a faster loop."
    if x.numel() > weight.shape[1] or not fusing(x):
        return F.linear(x, weight, bias)
    vector = x.flatten().as_strided((weight.shape[1],), (1,))  # so that x is computed once, not once for each row
    out = weight @ vector
    return (out if bias is None else out + bias).view(*x.shape[:-1], -1)

def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    "What the layer returns, computed by `product`."
    return product(x, layer.weight, layer.bias)

def attend(query: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None) -> Tensor:
    "Attention of one token, (B, H, 1, D), to all keys, (B, H_kv, n, D)."
    B, n_head, _, D = query.shape
    n_kv_head = keys.shape[1]
    if not fusing(query):
        return F.scaled_dot_product_attention(query, keys, values, allowed, enable_gqa=n_kv_head < n_head)
    query = query.view(B, n_kv_head, -1, 1, D)  # the heads that share keys, side by side
    scores = (query.float() * keys[:, :, None].float()).sum(-1) / D**0.5  # (B, H_kv, H / H_kv, n)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    out = (scores.softmax(-1)[..., None] * values[:, :, None].float()).sum(-2)  # (B, H_kv, H / H_kv, D)
    return out.view(B, n_head, 1, D).to(query.dtype)

class MergedBlock(nn.Module):
    "A block with one matrix for queries, keys and values, and one for both widenings of a gated MLP."

    def __init__(self, block: nn.Module):
        super().__init__()
        attention, mlp = block.attention, block.mlp
        self.n_head, self.n_kv_head, self.head_dim = attention.n_head, attention.n_kv_head, attention.head_dim
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.query_norm, self.key_norm = attention.query_norm, attention.key_norm
        self.query_key_value = merge_linear([attention.query, attention.key, attention.value])
        self.proj, self.down = attention.proj, mlp.down
        self.gated = hasattr(mlp, "gate")
        self.up = merge_linear([mlp.gate, mlp.up]) if self.gated else mlp.up

    def forward(self, x: Tensor, rope, buffers: tuple[Tensor, Tensor], index: Tensor, at: Tensor,
                allowed: Tensor | None) -> Tensor:
        "The stream (B, 1, C) after the block."
        B, n = x.shape[0], index.shape[0]
        numbers = linear(self.query_key_value, self.attention_norm(x)).view(B, -1, 1, self.head_dim)
        query, key, value = numbers.split([self.n_head, self.n_kv_head, self.n_kv_head], 1)  # (B, heads, 1, D)
        query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            query, key = rope(query), rope(key)
        keys, values = (buffer.index_copy_(2, at, new) for buffer, new in zip(buffers, (key, value)))
        out = attend(query, keys[:, :, :n], values[:, :, :n], allowed)
        x = x + linear(self.proj, out.reshape(B, 1, -1))  # (B, H, 1, D) -> (B, 1, C)
        hidden = linear(self.up, self.mlp_norm(x))
        if self.gated:
            gate, up = hidden.chunk(2, -1)
            return x + linear(self.down, F.silu(gate) * up)
        return x + linear(self.down, F.gelu(hidden, approximate="tanh"))

class MergedModel(nn.Module):
    "A model that reads one token of each row; it shares with the given one all weights that are not merged."

    def __init__(self, model: nn.Module):
        super().__init__()
        self.config, self.embed, self.position_embedding = model.config, model.embed, model.position_embedding
        self.blocks, self.norm = nn.ModuleList(map(MergedBlock, model.blocks)), model.norm
        self.lm_head = model.lm_head

    def forward(
        self,
        ids: Tensor,  # (B, 1)
        positions: Tensor,  # (B, 1)
        index: Tensor,  # (n,): 0 to n - 1, of the keys to attend to
        at: Tensor,  # (1,): the index of this token
        allowed: Tensor | None,  # (B, 1, 1, n): true where attention is allowed; None for everywhere
        buffers: Sequence[tuple[Tensor, Tensor]],  # keys and values of each block, (B, H_kv, size, D) each
    ) -> Tensor:
        "The logits (B, V) of the next tokens; the token's keys and values go into the buffers."
        x, c = self.embed(ids), self.config  # (B, 1) -> (B, 1, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        rope = rotation(positions, c.head_dim, c.rope_base) if c.position == "rope" else None
        for block, pair in zip(self.blocks, buffers):
            x = block(x, rope, pair, index, at, allowed)
        return product(self.norm(x)[:, -1], self.embed.weight if self.lm_head is None else self.lm_head.weight)

class TokenStep:
    "Reads one token of each row with merged matrices; on a GPU, as one CUDA graph."

    def __init__(self, model: nn.Module, compile: bool = False):
        self.model, self.graphs = MergedModel(model), {}
        self.run = torch.compile(self.model, fullgraph=True) if compile else self.model

    def __call__(self, ids: Tensor, positions: Tensor, allowed: Tensor | None, cache: Sequence) -> Tensor:
        "The logits (B, V) after the token ids (B, 1), whose keys and values are added to the cache."
        n, buffers = cache[0].length + 1, [(part.key, part.value) for part in cache]
        if ids.device.type == "cuda":
            logits = self.replay(ids, positions, allowed, buffers, n)
        else:
            index = torch.arange(n)
            torch._dynamo.mark_dynamic(index, 0)  # one compilation for all lengths,
            if allowed is not None:
                torch._dynamo.mark_dynamic(allowed, 3)
            run = self.model if n == cache[0].size else self.run  # but for that of a full cache
            logits = run(ids, positions, index, index[-1:].clone(), allowed, buffers)
        for part in cache:
            part.length = n
        return logits

    def replay(self, ids: Tensor, positions: Tensor, allowed: Tensor | None, buffers: Sequence, n: int) -> Tensor:
        "The same on a GPU: attends to a multiple of 128 keys, so that a few graphs serve all lengths."
        width = min(-(-n // 128) * 128, buffers[0][0].shape[2])
        index = torch.arange(width, device=ids.device)
        visible = (index < n).expand(ids.shape[0], 1, 1, width)
        if allowed is not None:
            visible = visible & F.pad(allowed, (0, width - n))
        given = ids, positions, index[n - 1 : n], visible
        if width not in self.graphs:
            inputs = [part.clone() for part in given]

            def step() -> Tensor:
                ids, positions, at, visible = inputs
                return self.run(ids, positions, index, at, visible, buffers)

            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # compiles, and allocates what kernels need
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = step()
            self.graphs[width] = graph, inputs, index, logits
        graph, inputs, _, logits = self.graphs[width]  # index: a graph reads it where it lies
        for old, new in zip(inputs, given):
            old.copy_(new)
        graph.replay()
        return logits.clone()
