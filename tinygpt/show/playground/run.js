// Opens a run from its three files.

import { GPT } from "./model.js";
import { readTokenizer } from "./tokenizer.js";
import { readSafetensors } from "./weights.js";

export const FILES = ["config.json", "model.safetensors", "tokenizer.json"];
const LARGEST = 2 ** 31; // bytes of weights, of which a browser makes twice as many

// Do something with a file; an error then begins with its name.
async function about(name, action) {
  try {
    return await action();
  } catch (error) {
    const reason = error instanceof SyntaxError ? "it is not JSON, or was cut off" : error.message;
    throw new Error(`${name}: ${reason}.`);
  }
}

// The model and the tokenizer of these files: {name: a File, a Blob or a Response}.
export async function openRun(files) {
  const missing = FILES.filter((name) => !files[name]);
  if (missing.length) throw new Error(`A run needs ${FILES.join(", ")}; missing: ${missing.join(", ")}.`);
  if (files["model.safetensors"].size > LARGEST) {
    throw new Error("model.safetensors: it has more than 2 GB, which is too much for a browser.");
  }
  const [config, weights, tokenizer] = FILES;
  const spec = await about(config, async () => JSON.parse(await files[config].text()));
  const tensors = await about(weights, async () => readSafetensors(await files[weights].arrayBuffer()));
  const model = await about(config, () => new GPT(spec));
  await about(weights, () => model.load(tensors));
  const tok = await about(tokenizer, async () => readTokenizer(JSON.parse(await files[tokenizer].text())));
  if (tok.tokens.length > model.config.vocab_size) {
    const sizes = `${tok.tokens.length} tokens, and the model of config.json knows ${model.config.vocab_size}`;
    throw new Error(`tokenizer.json: it has ${sizes}.`);
  }
  return { model, tok };
}

// The run in a folder of this page's server.
export async function fetchRun(folder) {
  const files = {};
  for (const name of FILES) {
    const answer = await fetch(`${folder}/${name}`);
    if (answer.ok) files[name] = answer;
  }
  return openRun(files);
}
