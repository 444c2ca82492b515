/* The base model in the page: a Llama (Touvron et al. 2023, arXiv 2302.13971) of 0.92 M parameters, in JavaScript.

   import { findModel } from "./model.js";

   const model = await findModel(context.model);         // the file beside the page, or else the kernel's bytes
   model.answer("57+28=");                               // "85", in 5 ms
   model.answer("57+28=", { adapter });                  // what the adapted model says
   await model.answers(prompts, { adapter, signal });    // many, without holding up the page
   model.logits(model.encode("57+28="));                 // Float32Array, (tokens, 1024) row by row
   model.layers["model.layers.1.self_attn.q_proj"];      // { W, b, dIn, dOut }

   An adapter says per layer what differs; layers that it does not name are the base model's. Arrays are row by row:

   { "model.layers.1.self_attn.q_proj": { A, B, scale } }   y = W x + scale B (A x) + b,  A (r, d_in), B (d_out, r)
   { "model.layers.1.self_attn.q_proj": { W, b } }          W and, if given, b stand in place of the base's
   { ...: { A, B, scale, rows } }                           y = rows * (W x + scale B (A x)) + b,  rows (d_out,): DoRA

   readAdapter(bytes) gives one that Python packed with pack_adapter(model). In Python the figure's class takes the
   mixin of base_model.py: class Asking(AsksBaseModel, Figure, js="asking.js"). */

const MODEL_FILE = "_static/base-model.safetensors";
const MODEL_KEY = "adapterlab";
const MODEL_SHARED = Symbol.for("adapterlab.base-model"); // figures are modules apart; one model is enough for a page

/** The model from its file: bytes (ArrayBuffer or a view of one), or the URL where they are. */
export async function loadModel(source) {
  if (typeof source === "string" || source instanceof URL) {
    const response = await fetch(source);
    if (!response.ok) throw new Error(`The base model's file is missing (${response.status}).`);
    source = await response.arrayBuffer();
  }
  return new BaseModel(source);
}

/**
 * The page's one base model, fetched when it is first asked for. On a page of the built book it is a file beside the
 * page; elsewhere the widget's kernel is asked for its bytes: AsksBaseModel in base_model.py says how and why.
 * Fails with an Error whose message is a sentence for the reader; asking again tries again.
 */
export function findModel(widget, { patience = 10 } = {}) {
  const shared = (globalThis[MODEL_SHARED] ??= {});
  shared.model ??= search().catch((error) => {
    shared.model = undefined;
    throw error;
  });
  return shared.model;

  async function search() {
    const toRoot = document.documentElement.dataset.content_root; // Sphinx writes it into each page of a book
    if (toRoot === undefined) return fromKernel();
    try {
      return await loadModel(new URL(toRoot + MODEL_FILE, document.baseURI));
    } catch (cause) {
      const why =
        location.protocol === "file:"
          ? "A page opened from disk may not load the base model: serve the book with `make serve`."
          : "The base model could not be loaded: check the network and try again.";
      throw new Error(why, { cause });
    }
  }

  function fromKernel() {
    const why = "The base model has not come from the kernel: run this cell, or try again when the kernel is free.";
    return new Promise((resolve, reject) => {
      if (!widget?.send) return reject(new Error(why));
      widget.on("msg:custom", receive);
      widget.send({ type: "need-model" });
      // The listener stays: a kernel that was busy answers later, and then the next call finds the model.
      setTimeout(() => reject(new Error(why)), 1000 * patience);

      function receive(message, buffers) {
        if (message?.type !== "model") return;
        widget.off("msg:custom", receive);
        const model = loadModel(buffers[0]);
        shared.model = model;
        resolve(model);
      }
    });
  }
}

export class BaseModel {
  constructor(bytes) {
    const { tensors, metadata } = readTensors(bytes);
    const { config, tokenizer } = JSON.parse(metadata[MODEL_KEY]);
    this.config = config;
    this.tokenizer = new Tokenizer(tokenizer, config);
    this.tensors = tensors;
    this.embedding = tensors["model.embed_tokens.weight"].data; // (vocabulary, hidden), and the head: they are tied
    this.layers = {}; // path -> { W, b, dIn, dOut }
    for (const [name, { data, shape }] of Object.entries(tensors)) {
      if (!name.endsWith("_proj.weight")) continue;
      const path = name.slice(0, -".weight".length);
      this.layers[path] = { W: data, b: tensors[`${path}.bias`]?.data, dOut: shape[0], dIn: shape[1] };
    }
    this.angles = llama.ropeAngles(config);
  }

  /** The text's tokens, the beginning mark first. */
  encode(text) {
    return this.tokenizer.encode(text);
  }

  /** The tokens' text, without the marks. */
  decode(ids) {
    return this.tokenizer.decode(ids);
  }

  /** What the model answers, decoded greedily up to the end mark. */
  answer(prompt, { adapter, maxNewTokens = 24 } = {}) {
    const session = new Session(this, adapter);
    let logits = session.append(this.encode(prompt), { last: true });
    const answer = [];
    while (true) {
      const token = llama.argmax(logits);
      if (token === this.config.eos_token_id) break;
      answer.push(token);
      if (answer.length >= maxNewTokens || session.length >= this.config.max_position_embeddings) break;
      logits = session.append([token]);
    }
    return this.decode(answer).trim();
  }

  /**
   * The answers to many prompts. Every few milliseconds the page may draw and listen; onAnswer(answer, i) hears each
   * as it comes, and an AbortSignal stops the work (the promise then fails with the signal's reason).
   */
  async answers(prompts, { adapter, maxNewTokens, signal, onAnswer } = {}) {
    const answers = [];
    let since = performance.now();
    for (const prompt of prompts) {
      signal?.throwIfAborted();
      answers.push(this.answer(prompt, { adapter, maxNewTokens }));
      onAnswer?.(answers.at(-1), answers.length - 1);
      if (performance.now() - since > 8) {
        await new Promise((resume) => setTimeout(resume));
        since = performance.now();
      }
    }
    return answers;
  }

  /** What comes next, after each of the tokens: Float32Array, (tokens, vocabulary) row by row. */
  logits(tokens, { adapter } = {}) {
    return new Session(this, adapter).append(tokens);
  }

  /** A text that grows, its keys and values kept: session.append(tokens) gives the new tokens' logits. */
  session({ adapter } = {}) {
    return new Session(this, adapter);
  }
}

class Session {
  constructor(model, adapter = {}) {
    this.model = model;
    this.length = 0;
    this.layers = llama.adapted(model.layers, adapter);
    const { num_hidden_layers, max_position_embeddings, num_key_value_heads, head_dim } = model.config;
    const empty = () => new Float32Array(max_position_embeddings * num_key_value_heads * head_dim);
    this.cache = Array.from({ length: num_hidden_layers }, () => ({ k: empty(), v: empty() })); // (256, 2 * 32) each
  }

  /** The logits after each of the new tokens, (tokens, vocabulary); after the last one alone if `last`. */
  append(tokens, { last = false } = {}) {
    const { model, length: start } = this;
    const { config, embedding } = model;
    const { hidden_size: d, max_position_embeddings: room } = config;
    const n = tokens.length;
    if (start + n > room) throw new Error(`The base model reads ${room} tokens at most, not ${start + n}.`);

    const x = new Float32Array(n * d); // the residual stream, (tokens, hidden)
    tokens.forEach((token, t) => x.set(embedding.subarray(token * d, (token + 1) * d), t * d));
    for (let i = 0; i < config.num_hidden_layers; i++) {
      const block = `model.layers.${i}`;
      const scale = (name) => model.tensors[`${block}.${name}.weight`].data;
      const apply = (name, input) => llama.linear(this.layers[`${block}.${name}`], input, n);

      let normed = llama.rmsNorm(x, scale("input_layernorm"), config.rms_norm_eps);
      const q = apply("self_attn.q_proj", normed); // (tokens, 4 * 32)
      const k = apply("self_attn.k_proj", normed); // (tokens, 2 * 32)
      const v = apply("self_attn.v_proj", normed);
      llama.rotate(q, start, n, config, model.angles);
      llama.rotate(k, start, n, config, model.angles);
      this.cache[i].k.set(k, (start * k.length) / n);
      this.cache[i].v.set(v, (start * v.length) / n);
      llama.add(x, apply("self_attn.o_proj", llama.attend(q, this.cache[i], start, n, config)));

      normed = llama.rmsNorm(x, scale("post_attention_layernorm"), config.rms_norm_eps);
      const gate = apply("mlp.gate_proj", normed); // (tokens, 384)
      const up = apply("mlp.up_proj", normed);
      for (let j = 0; j < up.length; j++) up[j] *= gate[j] / (1 + Math.exp(-gate[j])); // SwiGLU: silu(gate) * up
      llama.add(x, apply("mlp.down_proj", up));
    }
    this.length += n;
    const read = last ? x.subarray((n - 1) * d) : x;
    const normed = llama.rmsNorm(read, model.tensors["model.norm.weight"].data, config.rms_norm_eps);
    return llama.linear({ W: embedding, dIn: d, dOut: config.vocab_size }, normed, read.length / d);
  }
}

// ---- the parts of a block ---------------------------------------------------------------------------

// One object, since a figure's own functions may well be called `add` or `rotate`.
const llama = {
  /** The base's layers with an adapter's differences; nothing is copied. */
  adapted(layers, adapter) {
    const result = { ...layers };
    for (const [path, difference] of Object.entries(adapter)) {
      const base = layers[path];
      if (!base) throw new Error(`The base model has no linear layer ${path}.`);
      const layer = { ...base, ...difference, b: difference.b ?? base.b };
      const { dIn, dOut, W, b, A, B, rows } = layer;
      const rank = (A?.length ?? 0) / dIn;
      const fits = W.length === dIn * dOut && [b, rows].every((v) => !v || v.length === dOut);
      if (!fits || !Number.isInteger(rank) || (B?.length ?? 0) !== rank * dOut) {
        throw new Error(`The difference does not fit ${path}, which is ${dOut} x ${dIn}.`);
      }
      result[path] = layer;
    }
    return result;
  },

  /** y = W x + b for each of n rows x, and the adapter's parts where there are any. W (dOut, dIn), y (n, dOut). */
  linear({ W, b, A, B, scale = 1, rows, dIn, dOut }, x, n) {
    const y = new Float32Array(n * dOut);
    llama.times(W, x, n, dIn, dOut, 1, y);
    if (A?.length) {
      const rank = A.length / dIn;
      const inner = new Float32Array(n * rank);
      llama.times(A, x, n, dIn, rank, 1, inner);
      llama.times(B, inner, n, rank, dOut, scale, y);
    }
    if (rows) for (let i = 0; i < y.length; i++) y[i] *= rows[i % dOut];
    if (b) for (let i = 0; i < y.length; i++) y[i] += b[i % dOut];
    return y;
  },

  /** y += scale M x for each of n rows x. Four rows of M at once: each number of x is read for all of them. */
  times(M, x, n, dIn, dOut, scale, y) {
    let o = 0;
    for (; o + 3 < dOut; o += 4) {
      const r0 = o * dIn, r1 = r0 + dIn, r2 = r1 + dIn, r3 = r2 + dIn;
      for (let t = 0; t < n; t++) {
        let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (let j = 0; j < dIn; j++) {
          const number = x[t * dIn + j];
          s0 += M[r0 + j] * number;
          s1 += M[r1 + j] * number;
          s2 += M[r2 + j] * number;
          s3 += M[r3 + j] * number;
        }
        const at = t * dOut + o;
        y[at] += scale * s0;
        y[at + 1] += scale * s1;
        y[at + 2] += scale * s2;
        y[at + 3] += scale * s3;
      }
    }
    for (; o < dOut; o++) {
      for (let t = 0; t < n; t++) {
        let sum = 0;
        for (let j = 0; j < dIn; j++) sum += M[o * dIn + j] * x[t * dIn + j];
        y[t * dOut + o] += scale * sum;
      }
    }
  },

  add(x, y) {
    for (let i = 0; i < x.length; i++) x[i] += y[i];
  },

  /** RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) of each row as long as the scale g. */
  rmsNorm(x, g, epsilon) {
    const y = new Float32Array(x.length);
    for (let at = 0; at < x.length; at += g.length) {
      let squares = 0;
      for (let j = 0; j < g.length; j++) squares += x[at + j] ** 2;
      const factor = 1 / Math.sqrt(squares / g.length + epsilon);
      for (let j = 0; j < g.length; j++) y[at + j] = x[at + j] * factor * g[j];
    }
    return y;
  },

  /** RoPE (Su et al. 2021, arXiv 2104.09864): position p turns numbers j and j + half by p theta^-(j/half). */
  ropeAngles({ head_dim, rope_theta, max_position_embeddings }) {
    const half = head_dim / 2;
    const angle = (_, i) => Math.floor(i / half) * rope_theta ** (-(i % half) / half);
    const angles = Float64Array.from({ length: max_position_embeddings * half }, angle); // (positions, half)
    return { cos: angles.map(Math.cos), sin: angles.map(Math.sin) };
  },

  /** Turn every head of n rows of queries or keys, the first of which stands at position `start`. */
  rotate(x, start, n, { head_dim }, { cos, sin }) {
    const half = head_dim / 2;
    const width = x.length / n;
    for (let t = 0; t < n; t++) {
      for (let at = t * width; at < (t + 1) * width; at += head_dim) {
        for (let j = 0; j < half; j++) {
          const c = cos[(start + t) * half + j], s = sin[(start + t) * half + j];
          const a = x[at + j], b = x[at + half + j];
          x[at + j] = a * c - b * s;
          x[at + half + j] = b * c + a * s;
        }
      }
    }
  },

  /** Causal attention of n queries over all that is cached; heads share keys and values (GQA, arXiv 2305.13245). */
  attend(q, { k, v }, start, n, { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: d }) {
    const y = new Float32Array(n * heads * d);
    const weights = new Float64Array(start + n);
    for (let t = 0; t < n; t++) {
      for (let head = 0; head < heads; head++) {
        const at = (t * heads + head) * d;
        const shared = Math.floor((head * kvHeads) / heads) * d; // heads 0, 1 read key head 0; heads 2, 3 key head 1
        const seen = start + t + 1;
        let largest = -Infinity;
        for (let p = 0; p < seen; p++) {
          let sum = 0;
          for (let j = 0; j < d; j++) sum += q[at + j] * k[p * kvHeads * d + shared + j];
          weights[p] = sum / Math.sqrt(d);
          if (weights[p] > largest) largest = weights[p];
        }
        let total = 0;
        for (let p = 0; p < seen; p++) total += weights[p] = Math.exp(weights[p] - largest);
        for (let p = 0; p < seen; p++) {
          const share = weights[p] / total;
          for (let j = 0; j < d; j++) y[at + j] += share * v[p * kvHeads * d + shared + j];
        }
      }
    }
    return y;
  },

  argmax(logits) {
    let best = 0;
    for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
    return best;
  },
};

// ---- the tokenizer ----------------------------------------------------------------------------------

/** Byte-level BPE (Radford et al. 2019) in which every digit stands alone. */
class Tokenizer {
  // GPT-2's words. Not \s, which in JavaScript is another set of spaces than in the tokenizer's own language.
  static WORDS = new RegExp(
    ["'s|'t|'re|'ve|'m|'ll|'d", " ?L+", " ?N+", " ?[^SLN]+", "S+(?![^S])", "S+"]
      .join("|")
      .replace(/[LNS]/g, (set) => ({ L: "\\p{L}", N: "\\p{N}", S: "\\p{White_Space}" })[set]),
    "gu",
  );

  /** GPT-2's name for each byte: printable ones are themselves, the others follow from U+0100 on. */
  static bytes() {
    let others = 0;
    return Array.from({ length: 256 }, (_, byte) => {
      const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
      return String.fromCharCode(printable ? byte : 256 + others++);
    });
  }

  constructor({ vocab, merges, special }, { bos_token_id }) {
    this.vocab = vocab;
    this.ids = new Map(vocab.map((token, id) => [token, id]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.special = new Set(special);
    this.bos = bos_token_id;
    const marks = special.map((id) => vocab[id].replace(/[^\w]/g, "\\$&"));
    this.marks = new RegExp(`(${marks.join("|")})`);
    this.words = new Map(); // word -> ids, as met
    this.byteToChar = Tokenizer.bytes();
    this.charToByte = new Map(this.byteToChar.map((char, byte) => [char, byte]));
  }

  encode(text) {
    const ids = [this.bos];
    for (const part of text.split(this.marks)) {
      const mark = this.ids.get(part);
      if (this.special.has(mark)) ids.push(mark);
      else for (const word of this.split(part)) ids.push(...this.merge(word));
    }
    return ids;
  }

  /** Digits apart, then words within what lies between: their look-ahead must not see past a digit. */
  split(text) {
    return text.split(/(\p{N})/u).flatMap((piece) => piece.match(Tokenizer.WORDS) ?? []);
  }

  /** Join the pair of the lowest rank, until no pair is left that was ever joined. */
  merge(word) {
    let ids = this.words.get(word);
    if (ids) return ids;
    const parts = Array.from(new TextEncoder().encode(word), (byte) => this.byteToChar[byte]);
    while (true) {
      let lowest = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < lowest) [lowest, at] = [rank, i];
      }
      if (at < 0) break;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
    ids = parts.map((part) => this.ids.get(part));
    this.words.set(word, ids);
    return ids;
  }

  decode(ids) {
    const chars = Array.from(ids).filter((id) => !this.special.has(id)).map((id) => this.vocab[id]).join("");
    const bytes = Uint8Array.from(chars, (char) => this.charToByte.get(char));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }
}

// ---- files ------------------------------------------------------------------------------------------

/** A safetensors file of float16 and float32: { tensors: { name: { data: Float32Array, shape } }, metadata }. */
export function readTensors(source) {
  const bytes = ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 8 + Number(view.getBigUint64(0, true));
  const { __metadata__: metadata = {}, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    const copy = bytes.slice(start + from, start + to).buffer; // aligned, wherever the bytes lay
    if (dtype === "F16") tensors[name] = { data: fromHalf(new Uint16Array(copy)), shape };
    else if (dtype === "F32") tensors[name] = { data: new Float32Array(copy), shape };
    else throw new Error(`The tensor ${name} is ${dtype}, and only F16 and F32 are read.`);
  }
  return { tensors, metadata };
}

/** An adapter as pack_adapter in base_model.py packs it: tensors named PATH.A, .B, .W, .b or .rows. */
export function readAdapter(source) {
  const adapter = {};
  for (const [name, { data }] of Object.entries(readTensors(source).tensors)) {
    const dot = name.lastIndexOf(".");
    (adapter[name.slice(0, dot)] ??= {})[name.slice(dot + 1)] = data;
  }
  return adapter;
}

/** IEEE half precision: 1 sign bit, 5 of exponent, 10 of fraction. */
function fromHalf(halves) {
  const powers = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (Math.max(exponent, 1) - 25));
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const exponent = (halves[i] >> 10) & 31;
    let size = ((halves[i] & 1023) + (exponent ? 1024 : 0)) * powers[exponent];
    if (exponent === 31) size = halves[i] & 1023 ? NaN : Infinity;
    numbers[i] = halves[i] & 0x8000 ? -size : size;
  }
  return numbers;
}
