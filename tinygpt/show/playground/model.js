// A GPT that reads one token at a time: what tinygpt/gpt.py computes, in plain loops over typed arrays.

import { readConfig, readParts } from "./weights.js";

// The matrix (outputs, inputs) times x, plus the bias.
function linear({ weight, bias }, x) {
  const inputs = x.length;
  const out = new Float32Array(weight.length / inputs);
  const whole = inputs - (inputs % 4);
  for (let row = 0, at = 0; row < out.length; row++, at += inputs) {
    let a = bias ? bias[row] : 0, b = 0, c = 0, d = 0; // four sums, so that they need not wait for each other
    for (let i = 0; i < whole; i += 4) {
      a += weight[at + i] * x[i];
      b += weight[at + i + 1] * x[i + 1];
      c += weight[at + i + 2] * x[i + 2];
      d += weight[at + i + 3] * x[i + 3];
    }
    for (let i = whole; i < inputs; i++) a += weight[at + i] * x[i];
    out[row] = a + b + c + d;
  }
  return out;
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const silu = (x) => x / (1 + Math.exp(-x));

export class GPT {
  // A model as the content of a config.json describes it, still without weights.
  constructor(spec) {
    this.config = readConfig(spec);
  }

  // Take the weights from the tensors of model.safetensors.
  load(tensors) {
    this.parts = readParts(this.config, tensors);
  }

  norm({ weight, bias }, x) {
    const { norm, norm_eps } = this.config;
    const out = new Float32Array(x.length);
    let sum = 0;
    for (let i = 0; norm === "layer" && i < x.length; i++) sum += x[i];
    const mean = sum / x.length;
    let squares = 0;
    for (let i = 0; i < x.length; i++) squares += (x[i] - mean) ** 2;
    const scale = 1 / Math.sqrt(squares / x.length + norm_eps);
    for (let i = 0; i < x.length; i++) out[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
    return out;
  }

  // Normalise and rotate the query or the key of each head, in place.
  place(heads, norm, position) {
    const { head_dim: D, position: kind, rope_base } = this.config;
    for (let at = 0; at < heads.length; at += D) {
      const head = heads.subarray(at, at + D);
      if (norm) head.set(this.norm(norm, head));
      for (let i = 0; kind === "rope" && i < D / 2; i++) {
        const angle = position / rope_base ** ((2 * i) / D);
        const left = head[i], right = head[i + D / 2], cos = Math.cos(angle), sin = Math.sin(angle);
        head[i] = left * cos - right * sin;
        head[i + D / 2] = left * sin + right * cos;
      }
    }
  }

  // The attention weights with which token `at` looks at itself and at those before it.
  attention(steps, layer, head, at) {
    const { head_dim: D, n_head, n_kv_head } = this.config;
    const query = steps[at].query[layer].subarray(head * D, (head + 1) * D);
    const from = Math.floor((head * n_kv_head) / n_head) * D; // several heads may share a key
    const weights = new Float64Array(at + 1);
    let largest = -Infinity;
    for (let s = 0; s <= at; s++) {
      const key = steps[s].key[layer];
      let score = 0;
      for (let i = 0; i < D; i++) score += query[i] * key[from + i];
      weights[s] = score / Math.sqrt(D);
      largest = Math.max(largest, weights[s]);
    }
    let sum = 0;
    for (let s = 0; s <= at; s++) sum += weights[s] = Math.exp(weights[s] - largest);
    for (let s = 0; s <= at; s++) weights[s] /= sum;
    return weights;
  }

  attend(steps, layer) {
    const { head_dim: D, n_head, n_kv_head } = this.config;
    const out = new Float32Array(n_head * D);
    for (let head = 0; head < n_head; head++) {
      const from = Math.floor((head * n_kv_head) / n_head) * D;
      const weights = this.attention(steps, layer, head, steps.length - 1);
      for (let s = 0; s < steps.length; s++) {
        const value = steps[s].value[layer];
        for (let i = 0; i < D; i++) out[head * D + i] += weights[s] * value[from + i];
      }
    }
    return out;
  }

  mlp({ up, down }, x) {
    const { mlp, n_hidden } = this.config;
    const hidden = linear(up, x);
    if (mlp === "gelu") return linear(down, hidden.map(gelu));
    const gate = hidden.subarray(0, n_hidden);
    return linear(down, hidden.subarray(n_hidden).map((value, i) => silu(gate[i]) * value));
  }

  // Read one more token: appends to `steps`, those of the tokens before it, its own queries, keys, values and state.
  step(id, steps) {
    const { n_embd: C, n_head, n_kv_head, head_dim: D } = this.config;
    const { embed, positions, blocks, norm } = this.parts;
    const position = steps.length;
    const step = { query: [], key: [], value: [] };
    steps.push(step);
    const x = embed.slice(id * C, (id + 1) * C); // the residual stream
    if (positions) add(x, positions.subarray(position * C, (position + 1) * C));
    blocks.forEach((block, layer) => {
      const qkv = linear(block.qkv, this.norm(block.attention_norm, x));
      const [query, key] = [qkv.subarray(0, n_head * D), qkv.subarray(n_head * D, (n_head + n_kv_head) * D)];
      this.place(query, block.query_norm, position);
      this.place(key, block.key_norm, position);
      step.query.push(query);
      step.key.push(key);
      step.value.push(qkv.subarray((n_head + n_kv_head) * D));
      add(x, linear(block.proj, this.attend(steps, layer)));
      add(x, this.mlp(block, this.norm(block.mlp_norm, x)));
    });
    step.state = this.norm(norm, x);
  }

  // The logits of the next token, from the state after a token.
  logits(state) {
    return linear(this.parts.lm_head, state);
  }
}

// Reads a text token by token, and keeps what it has read; when the context window is full, it keeps the newest half.
export class Decoder {
  constructor(model) {
    this.model = model;
    this.ids = [];
    this.start = 0; // the index of the first token that is in the window
    this.steps = []; // one for each token from there on
  }

  // Read these ids: only those that differ from what was read before. Yields after each token.
  *read(ids) {
    const size = this.model.config.block_size;
    let same = 0;
    while (same < ids.length && ids[same] === this.ids[same]) same++;
    const one = same === this.ids.length && ids.length === same + 1; // one more
    if (same <= this.start || (ids.length - this.start > size && !one)) {
      same = this.start = Math.max(0, ids.length - size); // from its beginning
    }
    this.ids = ids.slice(0, same);
    this.steps.length = same - this.start;
    while (this.ids.length < ids.length) {
      if (this.steps.length === size) {
        this.start = this.ids.length + 1 - Math.max(1, Math.floor(size / 2));
        this.steps = [];
        this.ids.length = this.start;
      }
      const id = ids[this.ids.length];
      this.model.step(id, this.steps);
      this.ids.push(id);
      yield;
    }
  }
}
