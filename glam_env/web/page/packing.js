// Reads files that `glam_env.web.site.pack` wrote.

/** Fetch a packed file; return its bytes. */
export async function readPacked(url, { width, bytes }) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const stream = response.body.pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (planes.length !== bytes) throw new Error(`${url} is cut off: load the page again`);
  const count = Math.floor(bytes / width);
  const plain = new Uint8Array(bytes);
  for (let place = 0; place < width; place++) {
    for (let i = 0, at = place; i < count; i++, at += width) plain[at] = planes[place * count + i];
  }
  plain.set(planes.subarray(count * width), count * width);
  return plain;
}
