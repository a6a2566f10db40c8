// One dream as it is played: who plays, what was, and what may follow.

import { branchStream, draws } from "./draws.js";

export const MOST_HISTORY = 900; // steps that can be wound back: a minute
export const FUTURES = 4;
export const PLAYERS = ["you", "agent", "recording"];

/** Plays a dream of a `Model`. All methods but the getters run one after the other. */
export class Session {
  constructor(model, { seed = 0, start = 0 } = {}) {
    this.model = model;
    this.player = "agent";
    this.begin({ seed, start });
  }

  /** Begin a dream at a start state. */
  begin({ seed, start }) {
    this.seed = seed >>> 0;
    this.start = start % this.model.starts.length;
    this.dream = {
      state: this.model.starts[this.start],
      stream: 0,
      step: 0,
      score: 0,
      reward: 0,
      ended: 0,
      entropy: null,
      action: null,
    };
    this.history = [];
    this.futures = null;
    if (this.player === "recording" && !this.recording) this.player = "agent";
  }

  /** The real play that goes on from this start, if one was recorded. */
  get recording() {
    return this.model.manifest.recordings[this.start] ?? null;
  }

  /** Whether the recording has an action for the next step. */
  get recorded() {
    return this.recording !== null && this.dream.step < this.recording.actions.length;
  }

  /** The dreams that are shown: this one, or its futures. */
  get shown() {
    return this.futures ?? [this.dream];
  }

  async frames() {
    return this.model.frames(this.shown.map(({ state }) => state));
  }

  /** Play one step; `action` is the visitor's. Returns how long the models took, in ms. */
  async tick(action) {
    const began = performance.now();
    const dreams = this.shown;
    const count = this.model.manifest.categoricals + 2; // and the reward, and the action
    const numbers = dreams.map(({ stream, step }) => draws(this.seed, stream, step, count));
    const states = dreams.map(({ state }) => state);
    if (this.player === "recording" && !this.recorded) this.player = "agent";
    let actions;
    if (this.player === "agent") actions = await this.model.act(states, numbers);
    else if (this.player === "you") actions = states.map(() => action);
    else actions = states.map(() => this.recording.actions[this.dream.step]);
    const steps = await this.model.step(states, actions, numbers);
    const next = dreams.map((dream, row) => ({
      ...steps[row],
      stream: dream.stream,
      step: dream.step + 1,
      score: dream.score + steps[row].reward,
      action: actions[row],
    }));
    if (this.futures) {
      this.futures.forEach((dream, row) => this.trails[row].push(dream));
      this.futures = next;
    } else {
      this.remember([this.dream]);
      this.dream = next[0];
    }
    return performance.now() - began;
  }

  remember(dreams) {
    this.history.push(...dreams);
    this.history.splice(0, this.history.length - MOST_HISTORY);
  }

  /** Go back some steps; from futures, to the moment that they begin at. */
  windBack(steps) {
    if (this.futures) return this.leaveFutures();
    for (; steps > 0 && this.history.length > 0; steps--) this.dream = this.history.pop();
  }

  /** Let this moment go on in several ways, each with draws of its own. */
  showFutures() {
    this.futures = Array.from({ length: FUTURES }, (_, branch) => ({
      ...this.dream,
      stream: branchStream(this.dream.stream, branch),
    }));
    this.trails = this.futures.map(() => []);
  }

  /** Go on in one of the futures. */
  choose(branch) {
    if (!this.futures || !this.futures[branch]) return;
    this.remember(this.trails[branch]);
    this.dream = this.futures[branch];
    this.futures = null;
  }

  /** Return to the moment that the futures begin at. */
  leaveFutures() {
    this.futures = null;
  }
}
