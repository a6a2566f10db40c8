// Draws frames, the uncertainty and the past.

const SIDE = 64;

/** Put a frame of 64 × 64 × 3 bytes on a canvas of 64 × 64. */
export function putFrame(canvas, frame) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  for (let i = 0, j = 0; i < frame.length; i += 3, j += 4) {
    image.data[j] = frame[i];
    image.data[j + 1] = frame[i + 1];
    image.data[j + 2] = frame[i + 2];
    image.data[j + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Put a frame of a recording's sheet on a canvas of 64 × 64. */
export function putRecorded(canvas, sheet, { columns }, index) {
  const x = (index % columns) * SIDE;
  const y = Math.floor(index / columns) * SIDE;
  canvas.getContext("2d").drawImage(sheet, x, y, SIDE, SIDE, 0, 0, SIDE, SIDE);
}

/** Return the uncertainty as a share of its usual range, in [0, 1]. */
export function uncertaintyOf(entropy, [low, high]) {
  return entropy === null ? 0 : Math.min(1, Math.max(0, (entropy - low) / (high - low)));
}

/** Draw the last steps: a line for the uncertainty, a bar for each reward, a dotted one for an end. */
export function drawPast(canvas, steps, usual, most) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const x = (index) => ((index + most - steps.length + 0.5) / most) * width;
  context.clearRect(0, 0, width, height);
  context.setLineDash([]);
  context.strokeStyle = color("--accent");
  context.beginPath();
  steps.forEach(({ entropy }, at) => {
    context.lineTo(x(at), height - 2 - uncertaintyOf(entropy, usual) * (height - 4));
  });
  context.stroke();
  steps.forEach(({ reward, ended }, at) => {
    if (reward !== 0) {
      context.fillStyle = color(reward > 0 ? "--won" : "--lost");
      context.fillRect(x(at) - 1.5, reward > 0 ? 0 : height / 2, 3, height / 2);
    }
    if (ended > 0.5) {
      context.strokeStyle = color("--text");
      context.setLineDash([3, 3]);
      context.beginPath();
      context.moveTo(x(at), 0);
      context.lineTo(x(at), height);
      context.stroke();
      context.setLineDash([]);
    }
  });
}
