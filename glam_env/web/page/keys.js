// From keys and buttons to the actions of a game.

export const PARTS = ["UP", "DOWN", "LEFT", "RIGHT", "FIRE"];

/** Keys of the parts of an action, by `KeyboardEvent.code`. */
export const KEYS = {
  ArrowUp: "UP",
  ArrowDown: "DOWN",
  ArrowLeft: "LEFT",
  ArrowRight: "RIGHT",
  Space: "FIRE",
  KeyI: "UP",
  KeyK: "DOWN",
  KeyJ: "LEFT",
  KeyL: "RIGHT",
  KeyW: "UP",
  KeyS: "DOWN",
  KeyD: "RIGHT",
};

/** Split the name of an action, such as "UPRIGHTFIRE", into its parts. */
export function partsOf(meaning) {
  return PARTS.filter((part) => meaning.includes(part));
}

// In these games RIGHT moves up and LEFT moves down.
const VERTICAL = new Set(["Pong"]);

/** Return the function from pressed parts to the number of an action. */
export function makeActionOf(game, meanings) {
  const index = new Map(meanings.map((meaning, number) => [partsOf(meaning).join(), number]));
  const alias = VERTICAL.has(game) ? { UP: "RIGHT", DOWN: "LEFT" } : {};
  return (pressed) => {
    const parts = new Set([...pressed].map((part) => alias[part] ?? part));
    for (const [one, other] of [
      ["UP", "DOWN"],
      ["LEFT", "RIGHT"],
    ]) {
      if (parts.has(one) && parts.has(other)) {
        parts.delete(one);
        parts.delete(other);
      }
    }
    const wanted = PARTS.filter((part) => parts.has(part));
    // What the game lacks is left out: first FIRE, then the other parts one by one.
    const tries = [
      wanted,
      wanted.filter((part) => part !== "FIRE"),
      ...wanted.map((part) => [part]),
    ];
    for (const each of tries) {
      if (index.has(each.join())) return index.get(each.join());
    }
    return index.get("") ?? 0;
  };
}

/** Return the parts that a game's buttons press. */
export function buttonsOf(game, meanings) {
  if (VERTICAL.has(game)) return ["UP", "DOWN", "FIRE"];
  return PARTS.filter((part) => meanings.some((meaning) => partsOf(meaning).includes(part)));
}
