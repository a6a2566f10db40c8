// The page: keys and buttons in, frames and figures out. The dream runs in worker.js.

import { buttonsOf, KEYS, makeActionOf } from "./keys.js";
import { uncertaintyOf, drawPast, putFrame, putRecorded } from "./view.js";

const RATE = 15; // steps a second
const SHOWN = 300; // steps of the past
const ARROWS = { UP: "▲ up", DOWN: "▼ down", LEFT: "◀ left", RIGHT: "▶ right", FIRE: "● fire" };
const $ = (id) => document.getElementById(id);

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let calls = 0;

let manifest = null;
let view = null; // the last answer of the worker
let actionOf = () => 0;
let sheet = null; // of the start's recording, once it is there
let paused = false;
let busy = false;
let generation = 0; // of dreams: answers of an earlier one are not shown
const pressed = new Set();
const times = []; // ms of each step's models

/** Send a command to the worker; returns its result, and shows what it sees. */
async function call(command, options = {}) {
  const mine = generation;
  const id = ++calls;
  const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  worker.postMessage({ id, command, ...options });
  const { result, view: seen } = await answer;
  if (result?.manifest) manifest = result.manifest;
  if (mine === generation) show(seen);
  return result;
}

worker.onmessage = ({ data: { id, error, ...answer } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(answer);
};
worker.onerror = (event) => fail(new Error(event.message || "the worker did not start"));

function fail(error) {
  paused = true;
  $("status").textContent = `This does not work: ${error.message}`;
  $("status").className = "wrong";
}

function figure(caption) {
  const made = document.createElement("figure");
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", caption);
  const text = Object.assign(document.createElement("figcaption"), { textContent: caption });
  made.append(canvas, text);
  return made;
}

function layOut(count) {
  const box = $("dreams");
  if (box.children.length === count) return;
  box.className = count > 1 ? "four" : "";
  const captions =
    count > 1 ? Array.from({ length: count }, (_, at) => `future ${at + 1}`) : ["dream"];
  box.replaceChildren(...captions.map(figure));
  if (count > 1) {
    [...box.children].forEach((each, branch) => {
      each.onclick = () => run(choose, branch);
    });
  }
}

function show(seen) {
  const before = view;
  view = seen;
  layOut(seen.frames.length);
  [...$("dreams").children].forEach((each, row) => {
    putFrame(each.firstChild, seen.frames[row]);
    if (seen.futures)
      each.lastChild.textContent = `future ${row + 1}: score ${seen.dreams[row].score}`;
  });
  const [dream] = seen.dreams;
  // Set only when it changes, so that a screen reader says it once.
  const score = seen.futures ? "Four futures" : `Score ${dream.score}`;
  if ($("score").textContent !== score) $("score").textContent = score;
  const who = { you: "you play", agent: "the agent plays", recording: "as recorded" }[seen.player];
  $("who").textContent = who;
  $("moment").textContent = `step ${dream.step}, ${(dream.step / RATE).toFixed(1)} s`;
  press("player", seen.player === "agent");
  press("recording", seen.player === "recording");
  press("futures", seen.futures);
  press("pause", paused);
  $("back").disabled = !seen.futures && dream.step === 0;
  $("recording").hidden = !seen.hasRecording;
  const mean =
    seen.dreams.reduce((sum, { entropy }) => sum + (entropy ?? 0), 0) / seen.dreams.length;
  const uncertainty = uncertaintyOf(mean, manifest.usual_entropy);
  $("uncertainty-bar").setAttribute("aria-valuenow", Math.round(100 * uncertainty));
  $("uncertainty-bar").firstElementChild.style.transform = `scaleX(${uncertainty})`;
  drawPast(
    $("past"),
    [...seen.past, dream].filter(({ entropy }) => entropy !== null),
    manifest.usual_entropy,
    SHOWN,
  );
  showReal();
  if (!paused && !seen.futures && dream.ended > 0.5) {
    setPaused(true);
    $("status").textContent = "The dream has ended: n begins a new one, ← winds back.";
  } else if (before?.futures !== seen.futures) {
    $("status").textContent = seen.futures
      ? "1 to 4: go on in one of them; b: back to the moment."
      : "";
  }
  if (!document.documentElement.dataset.ready) performance.mark("first-frame");
  document.documentElement.dataset.ready = "true";
}

function showReal() {
  const recording = manifest.recordings[view.start];
  const step = view.dreams[0].step;
  const there = Boolean(recording && sheet && !view.futures && step <= recording.actions.length);
  $("real").hidden = !there;
  if (there) putRecorded($("real").firstElementChild, sheet, recording, step);
}

async function loadSheet(start) {
  sheet = null;
  const recording = manifest.recordings[start];
  if (!recording) return;
  const image = new Image();
  image.src = `games/${manifest.game}/${recording.sheet}`;
  await image.decode();
  if (view?.start === start) {
    sheet = image;
    showReal();
  }
}

function press(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}

function setPaused(on) {
  paused = on;
  press("pause", on);
  $("status").textContent = on ? "Paused: ← winds back, → goes one step." : "";
  $("status").className = "";
}

/** Run something that the visitor asked for; one mistake stops the page, and says why. */
function run(task, ...args) {
  return Promise.resolve(task(...args)).catch(fail);
}

async function step() {
  if (busy) return;
  busy = true;
  try {
    const result = await call("tick", { action: actionOf(pressed) });
    times.push(result.milliseconds);
    if (times.length > 2000) times.shift();
  } finally {
    busy = false;
  }
}

async function begin({ seed, start }) {
  generation++;
  pressed.clear();
  await call("begin", { seed, start });
  setPaused(false);
  keepAddress();
  await loadSheet(view.start);
}

async function choose(branch) {
  if (view?.futures && branch < view.frames.length) await call("choose", { branch });
}

const commands = {
  player: () => call("player", { player: view.player === "agent" ? "you" : "agent" }),
  recording: () => (view.hasRecording ? call("player", { player: "recording" }) : undefined),
  pause: () => setPaused(!paused),
  back: async () => {
    if (!view.futures) setPaused(true);
    await call("back", { steps: 1 });
  },
  futures: () => call(view.futures ? "leave" : "futures"),
  new: () => begin({ seed: (view.seed + 1) >>> 0, start: view.start }),
};
const LETTERS = { KeyA: "player", KeyR: "recording", KeyP: "pause", KeyB: "futures", KeyN: "new" };

function takeOver() {
  if (view && view.player !== "you") run(call, "player", { player: "you" });
}

function onKey(event) {
  const { code, target } = event;
  if (!manifest || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.closest("select, input")) return;
  if (code === "Space" && target.closest("button, summary")) return; // it presses that
  if (paused && !view.futures && (code === "ArrowLeft" || code === "ArrowRight")) {
    event.preventDefault();
    run(code === "ArrowLeft" ? commands.back : step);
  } else if (KEYS[code]) {
    event.preventDefault();
    pressed.add(KEYS[code]);
    takeOver();
  } else if (event.repeat) {
    return;
  } else if (LETTERS[code]) {
    run(commands[LETTERS[code]]);
  } else if (/^(Digit|Numpad)[1-4]$/.test(code)) {
    run(choose, Number(code.at(-1)) - 1);
  }
}

function makePad() {
  $("pad").replaceChildren(
    ...buttonsOf(manifest.game, manifest.actions).map((part) => {
      const button = Object.assign(document.createElement("button"), {
        type: "button",
        textContent: ARROWS[part],
      });
      button.dataset.part = part;
      button.onpointerdown = (event) => {
        event.preventDefault();
        button.setPointerCapture(event.pointerId);
        pressed.add(part);
        takeOver();
      };
      button.onpointerup = button.onpointercancel = () => pressed.delete(part);
      button.onkeydown = ({ code }) => {
        if (code === "Space" || code === "Enter") {
          pressed.add(part);
          takeOver();
        }
      };
      button.onkeyup = button.onblur = () => pressed.delete(part);
      return button;
    }),
  );
}

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const number = (name) => Number.parseInt(words.get(name) ?? "0", 10) >>> 0;
  return { game: words.get("game"), seed: number("seed"), start: number("start") };
}

function keepAddress() {
  const words = new URLSearchParams({ game: manifest.game, seed: view.seed, start: view.start });
  history.replaceState(null, "", `#${words}`);
  $("seed").value = view.seed;
  $("start").value = view.start;
}

async function open({ game, seed, start }) {
  generation++;
  $("status").textContent = "Loading …";
  await call("load", { folder: `games/${game}/`, seed, start });
  actionOf = makeActionOf(manifest.game, manifest.actions);
  document.title = `GLAM Dream: ${manifest.game}`;
  makePad();
  const starts = Array.from({ length: manifest.starts }, (_, at) => {
    return new Option(
      at < manifest.recordings.length ? `${at} (with the real game)` : String(at),
      at,
    );
  });
  $("start").replaceChildren(...starts);
  $("game").value = manifest.game;
  setPaused(matchMedia("(prefers-reduced-motion: reduce)").matches);
  keepAddress();
  await loadSheet(view.start);
}

async function loop() {
  let due = performance.now();
  for (;;) {
    due = Math.max(due + 1000 / RATE, performance.now() - 1000 / RATE);
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    if (!paused && manifest && !document.hidden) await run(step);
  }
}

async function main() {
  const games = await (await fetch("games.json")).json();
  $("game").replaceChildren(...games.map((game) => new Option(game, game)));
  const asked = readAddress();
  const game = games.includes(asked.game) ? asked.game : games[0];
  for (const id of Object.keys(commands)) {
    $(id).onclick = (event) => {
      run(commands[id]);
      if (event.detail > 0) $("stage").focus({ preventScroll: true }); // a click, not a key
    };
  }
  $("game").onchange = () => run(open, { game: $("game").value, seed: view.seed, start: 0 });
  $("start").onchange = () => run(begin, { seed: view.seed, start: Number($("start").value) });
  $("seed").onchange = () => run(begin, { seed: Number($("seed").value) >>> 0, start: view.start });
  addEventListener("keydown", onKey);
  addEventListener("keyup", ({ code }) => pressed.delete(KEYS[code]));
  addEventListener("blur", () => pressed.clear());
  addEventListener("hashchange", () => {
    const next = readAddress();
    const other = games.includes(next.game) && next.game !== manifest.game;
    run(other ? open : begin, next);
  });
  await open({ ...asked, game });
  run(loop);
}

/** What a script in the console, or a test, may read. */
globalThis.glamDream = {
  get view() {
    return view;
  },
  get paused() {
    return paused;
  },
  times,
};

run(main);
