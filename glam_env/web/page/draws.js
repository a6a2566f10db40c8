// Random numbers that depend on a seed, a stream and a step, and on nothing else: a dream that is
// wound back and played again draws the same numbers.

/** Scramble 32 bits (the finalizer of MurmurHash3, by Austin Appleby, public domain). */
export function mix(x) {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Return `count` numbers in [0, 1), each exact in float32. */
export function draws(seed, stream, step, count) {
  const key = mix(mix(mix(seed + 0x9e3779b9) ^ stream) + Math.imul(step + 1, 0x85ebca77));
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    out[i] = (mix(key + Math.imul(i + 1, 0x9e3779b1)) >>> 8) / 0x1000000;
  }
  return out;
}

/** Return the stream of one of several futures of a moment. */
export function branchStream(stream, branch) {
  return mix(stream * 8 + branch + 1);
}
