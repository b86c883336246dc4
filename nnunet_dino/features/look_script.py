"""What makes the page of looks respond to clicks."""

STYLE = """
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; }
.row figure { margin: .6rem 0; }
.row img, .row canvas { width: 100%; aspect-ratio: 1; image-rendering: pixelated; cursor: crosshair; display: block; }
.row figure { position: relative; }
.mark { position: absolute; width: 12px; height: 12px; margin: -8px 0 0 -8px; border: 2px solid #fff; outline: 1px solid #000;
  border-radius: 50%; pointer-events: none; }
"""

SCRIPT = """
const data = DATA;
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const [count, gh, gw, width] = data.shape;
const tokens = new Int8Array(bytes(data.tokens).buffer), colours = bytes(data.colours);
const total = count * gh * gw, norms = new Float32Array(total), cosines = new Float32Array(total);
const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < width; i++) sum += tokens[a * width + i] * tokens[b * width + i];
  return sum;
};
for (let k = 0; k < total; k++) norms[k] = Math.sqrt(dot(k, k)) || 1;
const rows = [...document.querySelectorAll('.row')];
const canvases = rows.map(row => row.querySelector('canvas'));
canvases.forEach(canvas => { canvas.width = gw; canvas.height = gh; });

function choose(image, row, column) {
  const chosen = (image * gh + row) * gw + column;
  let low = 1;
  for (let k = 0; k < total; k++) { cosines[k] = dot(chosen, k) / (norms[chosen] * norms[k]); low = Math.min(low, cosines[k]); }
  canvases.forEach((canvas, n) => {
    const context = canvas.getContext('2d'), pixels = context.createImageData(gw, gh);
    for (let k = 0; k < gh * gw; k++) {
      const step = Math.round(255 * (cosines[n * gh * gw + k] - low) / Math.max(1e-6, 1 - low));
      for (let c = 0; c < 3; c++) pixels.data[4 * k + c] = colours[3 * step + c];
      pixels.data[4 * k + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  });
  document.querySelectorAll('.mark').forEach(mark => mark.remove());
  rows[image].querySelectorAll('img, canvas').forEach(panel => {
    const mark = document.createElement('div');
    mark.className = 'mark';
    mark.style.left = `${100 * (column + .5) / gw}%`;
    mark.style.top = `${panel.clientHeight * (row + .5) / gh}px`;
    panel.parentElement.append(mark);
  });
  document.getElementById('range').textContent =
    `Token in row ${row}, column ${column} of ${gh} × ${gw}. Cosines from ${low.toFixed(2)} (dark) to 1 (yellow).`;
}

let place = data.place;
rows.forEach((row, n) => row.querySelectorAll('img, canvas').forEach(panel => panel.addEventListener('click', event => {
  const box = panel.getBoundingClientRect();
  const cell = (offset, length, cells) => Math.max(0, Math.min(cells - 1, Math.floor(cells * offset / length)));
  place = [n, cell(event.clientY - box.top, box.height, gh), cell(event.clientX - box.left, box.width, gw)];
  choose(...place);
})));
addEventListener('load', () => choose(...place));
addEventListener('resize', () => choose(...place));
"""
