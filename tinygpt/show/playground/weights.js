// Reads the weights and the config of a run: safetensors, and config.json as tinygpt and Hugging Face write it.

const halves = new Float32Array(1 << 16); // every 16-bit float
for (let bits = 0; bits < halves.length; bits++) {
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
  else halves[bits] = sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
}

const READERS = {
  F32: [4, (bytes) => new Float32Array(bytes)],
  F16: [2, (bytes) => Float32Array.from(new Uint16Array(bytes), (bits) => halves[bits])],
  BF16: [2, (bytes) => new Float32Array(Uint32Array.from(new Uint16Array(bytes), (bits) => bits << 16).buffer)],
};

// The tensors of a safetensors file, by name: {shape, read()}, where read() returns the numbers as a Float32Array.
export function readSafetensors(buffer) {
  const start = buffer.byteLength < 8 ? Infinity : 8 + Number(new DataView(buffer).getBigUint64(0, true));
  let header = null;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  } catch {} // such as a range beyond the end of the file
  if (header === null || typeof header !== "object") {
    throw new Error("it is not a safetensors file, or its beginning is damaged");
  }
  delete header.__metadata__;
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (!(dtype in READERS)) {
      throw new Error(`its tensor ${name} is ${dtype}, and only ${Object.keys(READERS).join(", ")} are read here`);
    }
    const [size, convert] = READERS[dtype];
    const [from, to] = offsets.map((offset) => start + offset);
    if (to > buffer.byteLength) throw new Error(`it ends before its tensor ${name} does: get the whole file again`);
    if (to - from !== size * shape.reduce((a, b) => a * b, 1)) {
      throw new Error(`its tensor ${name} should fill ${shape.join(" × ")} numbers and has ${to - from} bytes`);
    }
    tensors.set(name, { shape, read: () => convert(buffer.slice(from, to)) });
  }
  return tensors;
}

const COMMON = { vocab_size: "vocab_size", tied: "tie_word_embeddings" };
const KINDS = {
  qwen3: {
    shape: { position: "rope", norm: "rms", mlp: "swiglu", qk_norm: true, bias: false },
    fields: { // of GPTConfig, and their names in config.json
      ...COMMON, block_size: "max_position_embeddings", n_layer: "num_hidden_layers", n_head: "num_attention_heads",
      n_kv_head: "num_key_value_heads", n_embd: "hidden_size", n_hidden: "intermediate_size", head_dim: "head_dim",
      norm_eps: "rms_norm_eps",
    },
    defaults: { tied: false, norm_eps: 1e-6 },
    fixed: { hidden_act: ["silu", "swish"], attention_bias: [false], use_sliding_window: [false] },
    names: { // of the parts, and their names in model.safetensors
      embed: "model.embed_tokens", blocks: "model.layers", norm: "model.norm", lm_head: "lm_head",
      attention_norm: "input_layernorm", mlp_norm: "post_attention_layernorm", query: "self_attn.q_proj",
      key: "self_attn.k_proj", value: "self_attn.v_proj", proj: "self_attn.o_proj", query_norm: "self_attn.q_norm",
      key_norm: "self_attn.k_norm", gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj",
    },
  },
  gpt2: {
    shape: { position: "learned", norm: "layer", mlp: "gelu", qk_norm: false, bias: true },
    fields: {
      ...COMMON, block_size: "n_positions", n_layer: "n_layer", n_head: "n_head", n_embd: "n_embd",
      n_hidden: "n_inner", norm_eps: "layer_norm_epsilon",
    },
    defaults: { tied: true, norm_eps: 1e-5 },
    fixed: {
      activation_function: ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh", "gelu_accurate"],
      scale_attn_weights: [true], scale_attn_by_inverse_layer_idx: [false],
    },
    names: {
      embed: "transformer.wte", position_embedding: "transformer.wpe", blocks: "transformer.h",
      norm: "transformer.ln_f", lm_head: "lm_head", attention_norm: "ln_1", mlp_norm: "ln_2", joint: "attn.c_attn",
      proj: "attn.c_proj", up: "mlp.c_fc", down: "mlp.c_proj",
    },
  },
  tinygpt: {
    shape: {}, // all fields are in config.json, under their own names
    fields: Object.fromEntries(
      ["vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "head_dim", "position",
        "norm", "mlp", "qk_norm", "bias", "tied", "rope_base", "norm_eps"].map((name) => [name, name])),
    defaults: {},
    fixed: {},
    names: {
      embed: "embed", position_embedding: "position_embedding", blocks: "blocks", norm: "norm", lm_head: "lm_head",
      attention_norm: "attention_norm", mlp_norm: "mlp_norm", query: "attention.query", key: "attention.key",
      value: "attention.value", proj: "attention.proj", query_norm: "attention.query_norm",
      key_norm: "attention.key_norm", gate: "mlp.gate", up: "mlp.up", down: "mlp.down",
    },
  },
};
const SIZES = ["vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "head_dim"];

// The base of the rotary positions, which newer files keep in a table of its own.
function ropeBase(spec) {
  for (const place of [spec.rope_parameters, spec.rope_scaling]) {
    if ((place?.rope_type ?? place?.type ?? "default") !== "default") {
      throw new Error(`its rotary positions are scaled (${place.rope_type ?? place.type}), which is not known here`);
    }
  }
  return spec.rope_parameters?.rope_theta ?? spec.rope_theta ?? 10_000;
}

// The fields of a GPTConfig, from the content of a config.json, with its `kind`: qwen3, gpt2 or tinygpt.
export function readConfig(spec) {
  const kind = KINDS[spec?.model_type];
  if (!kind) {
    const found = JSON.stringify(spec?.model_type) ?? "missing";
    throw new Error(`its model_type is ${found}, and the playground runs ${Object.keys(KINDS).join(", ")}`);
  }
  for (const [name, known] of Object.entries(kind.fixed)) {
    if (!known.includes(spec[name] ?? known[0])) {
      throw new Error(`it says ${name} is ${JSON.stringify(spec[name])}, and the playground runs only ${known[0]}`);
    }
  }
  const config = { kind: spec.model_type, ...kind.defaults, ...kind.shape };
  for (const [name, theirs] of Object.entries(kind.fields)) config[name] = spec[theirs] ?? config[name];
  if (config.kind === "qwen3") config.rope_base = ropeBase(spec);
  config.n_kv_head ??= config.n_head;
  config.head_dim ??= config.n_embd / config.n_head;
  config.n_hidden ??= 4 * config.n_embd;
  for (const name of SIZES) {
    if (!Number.isInteger(config[name]) || config[name] < 1) {
      throw new Error(`its ${kind.fields[name] ?? name} is ${config[name]}, which should be a whole number from 1`);
    }
  }
  if (config.n_head % config.n_kv_head) {
    throw new Error(`its ${config.n_head} heads cannot share ${config.n_kv_head} key/value heads evenly`);
  }
  return config;
}

// A matrix (rows, columns) turned into (columns, rows).
function transpose(data, rows, columns) {
  const turned = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = data[i * columns + j];
  return turned;
}

// Linear layers side by side, as one.
function merge(layers) {
  const join = (parts) => {
    const joined = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
    let end = 0;
    for (const part of parts) joined.set(part, (end += part.length) - part.length);
    return joined;
  };
  const bias = layers[0].bias && join(layers.map((layer) => layer.bias));
  return { weight: join(layers.map((layer) => layer.weight)), bias };
}

// The parts of a model: matrices as (outputs, inputs), query, key and value in one, and gate and up in one.
export function readParts(config, tensors) {
  const c = config;
  const { names } = KINDS[c.kind];
  const [wide, narrow] = [c.n_head * c.head_dim, c.n_kv_head * c.head_dim];
  let n_parameters = 0;

  function tensor(name, shape) {
    const bare = name.replace(/^(model|transformer)\./, ""); // as in files of the model without its head
    const found = tensors.get(name) ?? tensors.get(bare);
    if (!found) throw new Error(`it has no tensor ${name}, which the model of config.json needs`);
    if (found.shape.join() !== shape.join()) {
      const sizes = [found.shape, shape].map((numbers) => numbers.join(" × "));
      throw new Error(`its tensor ${name} is ${sizes[0]}, and config.json asks for ${sizes[1]}`);
    }
    const data = found.read();
    n_parameters += data.length;
    return data;
  }
  function linear(path, outputs, inputs, bias = c.bias) {
    const turned = c.kind === "gpt2" && path.startsWith(names.blocks);
    const weight = tensor(`${path}.weight`, turned ? [inputs, outputs] : [outputs, inputs]);
    return {
      weight: turned ? transpose(weight, inputs, outputs) : weight,
      bias: bias ? tensor(`${path}.bias`, [outputs]) : null,
    };
  }
  function norm(path, width = c.n_embd) {
    const bias = c.norm === "layer" && c.bias ? tensor(`${path}.bias`, [width]) : null;
    return { weight: tensor(`${path}.weight`, [width]), bias };
  }
  function block(i) {
    const at = (part) => `${names.blocks}.${i}.${names[part]}`;
    const qkv = names.joint
      ? linear(at("joint"), wide + 2 * narrow, c.n_embd)
      : merge([linear(at("query"), wide, c.n_embd), ...["key", "value"].map((p) => linear(at(p), narrow, c.n_embd))]);
    const widening = (c.mlp === "swiglu" ? ["gate", "up"] : ["up"]).map((p) => linear(at(p), c.n_hidden, c.n_embd));
    return {
      attention_norm: norm(at("attention_norm")),
      qkv,
      query_norm: c.qk_norm ? norm(at("query_norm"), c.head_dim) : null,
      key_norm: c.qk_norm ? norm(at("key_norm"), c.head_dim) : null,
      proj: linear(at("proj"), c.n_embd, wide),
      mlp_norm: norm(at("mlp_norm")),
      up: merge(widening),
      down: linear(at("down"), c.n_embd, c.n_hidden),
    };
  }
  const embed = tensor(`${names.embed}.weight`, [c.vocab_size, c.n_embd]);
  const positions = c.position === "learned" && tensor(`${names.position_embedding}.weight`, [c.block_size, c.n_embd]);
  const blocks = Array.from({ length: c.n_layer }, (_, i) => block(i));
  const last = norm(names.norm);
  const lm_head = c.tied ? { weight: embed } : linear(names.lm_head, c.vocab_size, c.n_embd, false);
  return { embed, positions, blocks, norm: last, lm_head, n_parameters };
}
