// A trained game: its ONNX graphs, run by onnxruntime-web on one thread of WebAssembly.

import * as ort from "./ort/ort.js";
import { readPacked } from "./packing.js";

ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
ort.env.wasm.wasmPaths = {
  wasm: new URL("./ort/ort-wasm-simd-threaded.wasm", import.meta.url).href,
};

const ARRAYS = { int32: Int32Array, float32: Float32Array };
const size = (shape) => shape.reduce((product, length) => product * length, 1);

/** A state is an object of typed arrays, one for each entry of `manifest.state`. */
export class Model {
  constructor(manifest, sessions, starts) {
    this.manifest = manifest;
    this.sessions = sessions;
    this.starts = starts;
  }

  /** Load the game in a folder such as "games/Pong/". */
  static async load(folder) {
    const base = new URL(folder, import.meta.url);
    const response = await fetch(new URL("game.json", base));
    if (!response.ok) throw new Error(`${base} holds no game`);
    const manifest = await response.json();
    // All files load side by side; each graph is made as soon as its file is there.
    const files = Object.fromEntries(
      Object.entries(manifest.packed).map(([name, { file, ...packing }]) => {
        return [name, readPacked(new URL(file, base), packing)];
      }),
    );
    const sessions = {};
    for (const name of ["step", "agent", "draw"]) {
      sessions[name] = await ort.InferenceSession.create(await files[`${name}.onnx`], {
        executionProviders: ["wasm"],
        graphOptimizationLevel: "all",
      });
    }
    return new Model(manifest, sessions, readStarts(manifest, await files["starts.bin"]));
  }

  /** Join several states' arrays of one name into a tensor. */
  tensor(states, { name, shape, dtype }) {
    const length = size(shape);
    const data = new ARRAYS[dtype](states.length * length);
    states.forEach((state, row) => data.set(state[name], row * length));
    return new ort.Tensor(dtype, data, [states.length, ...shape]);
  }

  /**
   * Dream one step of several dreams.
   * @param states one for each dream
   * @param actions one number each
   * @param draws one Float32Array each; its first K numbers select the latent, the next the reward
   * @returns for each dream {state, reward, expected, ended, entropy}
   */
  async step(states, actions, draws) {
    const count = states.length;
    const latents = this.manifest.categoricals;
    const feeds = {
      action: new ort.Tensor("int32", Int32Array.from(actions), [count]),
      draw: stack(draws, 0, latents),
      reward_draw: stack(draws, latents, 1, [count]),
    };
    for (const field of this.manifest.state) {
      if (field.name !== "h") feeds[field.name] = this.tensor(states, field);
    }
    const out = await this.sessions.step.run(feeds);
    return states.map((_, row) => {
      const state = {};
      for (const { name, shape } of this.manifest.state) {
        const length = size(shape);
        state[name] = out[`next.${name}`].data.slice(row * length, (row + 1) * length);
      }
      return {
        state,
        reward: out.reward.data[row],
        expected: out.expected_reward.data[row],
        ended: out.end_probability.data[row],
        entropy: out.prior_entropy.data[row],
      };
    });
  }

  /** Draw the frames of states: one Uint8Array of 64 × 64 × 3 each. */
  async frames(states) {
    const code = this.manifest.state.find(({ name }) => name === "code");
    const { frame } = await this.sessions.draw.run({ code: this.tensor(states, code) });
    const length = size(this.manifest.frame);
    return states.map((_, row) => frame.data.slice(row * length, (row + 1) * length));
  }

  /** Let the agent choose; the number after the reward's in each state's draws selects the action. */
  async act(states, draws) {
    const feeds = {
      draw: stack(draws, this.manifest.categoricals + 1, 1, [states.length]),
    };
    for (const field of this.manifest.state) {
      if (field.name === "code" || field.name === "h") {
        feeds[field.name] = this.tensor(states, field);
      }
    }
    const { action } = await this.sessions.agent.run(feeds);
    return Array.from(action.data);
  }
}

/** Join `length` numbers of each row, from its number `from` on, into a tensor. */
function stack(rows, from, length, shape = [rows.length, length]) {
  const data = new Float32Array(rows.length * length);
  rows.forEach((row, at) => data.set(row.subarray(from, from + length), at * length));
  return new ort.Tensor("float32", data, shape);
}

function readStarts(manifest, bytes) {
  let at = bytes.byteOffset;
  return Array.from({ length: manifest.starts }, () => {
    const state = {};
    for (const { name, shape, dtype } of manifest.state) {
      state[name] = new ARRAYS[dtype](bytes.buffer.slice(at, (at += 4 * size(shape))));
    }
    return state;
  });
}
