// Runs a session beside the page, so that the page stays smooth.

import { Model } from "./model.js";
import { Session } from "./session.js";

let session = null;
let last = Promise.resolve();

const commands = {
  load: async ({ folder, seed, start }) => {
    session = new Session(await Model.load(folder), { seed, start });
    return { manifest: session.model.manifest };
  },
  begin: ({ seed, start }) => session.begin({ seed, start }),
  tick: async ({ action }) => ({ milliseconds: await session.tick(action) }),
  player: ({ player }) => void (session.player = player),
  back: ({ steps }) => session.windBack(steps),
  futures: () => session.showFutures(),
  choose: ({ branch }) => session.choose(branch),
  leave: () => session.leaveFutures(),
};

async function answer({ id, command, ...options }) {
  try {
    const result = await commands[command](options);
    const frames = await session.frames();
    const view = {
      frames,
      dreams: session.shown.map(({ state, ...rest }) => rest),
      past: session.history
        .slice(-300)
        .map(({ reward, ended, entropy }) => ({ reward, ended, entropy })),
      player: session.player,
      seed: session.seed,
      start: session.start,
      futures: session.futures !== null,
      hasRecording: session.recording !== null,
    };
    postMessage(
      { id, result, view },
      frames.map(({ buffer }) => buffer),
    );
  } catch (error) {
    postMessage({ id, error: error.message });
  }
}

onmessage = ({ data }) => {
  last = last.then(() => answer(data)); // in order, each after the one before
};
