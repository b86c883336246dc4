"""Images beside the colours and similarities of their tokens, as a page to click on that needs no other file."""

from __future__ import annotations

import base64
import json
from html import escape

import matplotlib
import numpy as np

from nnunet_dino.features.tile_map import as_png
from nnunet_dino.features.view_png import TokenView

SIDES = ("left", "top", "right", "bottom")
COMPONENTS, COSINES = "principal components", "cosine to the chosen token"


def view_page(view: TokenView, place: tuple[int, int, int]) -> str:
    """Returns a page on which a click chooses the token that all others are compared with.

    Args:
        view: Images and tokens.
        place: Image, row and column of the token chosen at first.
    """
    rows = []
    for name, image, colours in zip(view.names, view.images, view.colours(), strict=True):
        letters = "".join(f'<span class="{side}">{letter}</span>' for side, letter in zip(SIDES, view.letters, strict=False))
        figures = "".join(
            f'<figure><div class="panel"><img class="{kind}" src="data:image/png;base64,{_png(picture)}" alt="{escape(label)}">'
            f"{letters if kind == 'image' else ''}</div><figcaption>{escape(label)}</figcaption></figure>"
            for kind, picture, label in (("image", image, name), ("tokens", colours, COMPONENTS))
        )
        figures += (
            f'<figure><div class="panel"><canvas class="tokens" tabindex="0" role="application" aria-label="{escape(name)}: '
            f'{COSINES}; arrow keys choose another"></canvas></div><figcaption>{COSINES}</figcaption></figure>'
        )
        rows.append(f'<div class="row">{figures}</div>')
    steps = (matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    data = {
        "shape": view.tokens.shape,
        "tokens": base64.b64encode(quantised(view.tokens).tobytes()).decode("ascii"),
        "colours": base64.b64encode(steps.tobytes()).decode("ascii"),
        "place": place,
    }
    parts = {
        "TITLE": escape(view.title),
        "NOTES": "".join(f'<p class="note">{escape(note)}</p>' for note in view.notes),
        "ROWS": "\n".join(rows),
        "DATA": json.dumps(data),
    }
    page = PAGE
    for word, text in parts.items():
        page = page.replace(f"${word}$", text)
    return page


def quantised(tokens: np.ndarray) -> np.ndarray:
    """Returns tokens as whole numbers from -127 to 127, each token scaled by itself; cosines stay nearly as they are."""
    largest = np.maximum(np.abs(tokens).max(-1, keepdims=True), 1e-12)
    whole: np.ndarray = (tokens / largest * 127).round().astype(np.int8)
    return whole


def _png(picture: np.ndarray) -> str:
    return base64.b64encode(as_png((picture * 255).round().astype(np.uint8))).decode("ascii")


PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$TITLE$</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 1rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
.note { border-left: .3rem solid #d97706; padding-left: .7rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1rem; }
.row figure { margin: .6rem 0; }
.panel { position: relative; }
.panel span { position: absolute; color: #fff; font: bold .95rem/1 system-ui, sans-serif; pointer-events: none;
  text-shadow: 0 0 3px #000, 0 0 3px #000; }
.left { left: .3rem; top: calc(50% - .5rem); } .right { right: .3rem; top: calc(50% - .5rem); }
.top { top: .3rem; left: 50%; } .bottom { bottom: .3rem; left: 50%; }
canvas:focus-visible { outline: 3px solid #d97706; outline-offset: 2px; }
.bar { display: flex; gap: .6rem; align-items: center; max-width: 26rem; }
.bar canvas { flex: 1; width: 0; min-width: 0; height: 1rem; }
.row img, .row canvas { width: 100%; aspect-ratio: 1; cursor: crosshair; display: block; }
.tokens { image-rendering: pixelated; }
.smooth .tokens { image-rendering: auto; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.mark { position: absolute; width: 12px; height: 12px; margin: -8px 0 0 -8px; border: 2px solid #fff; outline: 1px solid #000;
  border-radius: 50%; pointer-events: none; }
</style>
</head>
<body>
<h1>$TITLE$</h1>
<p>Click on a picture, or move with the arrow keys on the right one: all tokens are compared with the one you chose. Components
are those of the foreground; the rest is dark grey.</p>
$NOTES$
<p><label><input type="checkbox" id="smooth"> smooth</label></p>
$ROWS$
<div class="bar"><span id="low"></span>
<canvas id="scale" width="256" height="1" aria-hidden="true"></canvas><span>1</span></div>
<p id="range" role="status"></p>
<p id="under">&nbsp;</p>
<script>
const data = $DATA$;
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
    `Token in row ${row + 1}, column ${column + 1} of ${gh} × ${gw}. Cosines from ${low.toFixed(2)} (dark) to 1 (yellow).`;
  document.getElementById('low').textContent = low.toFixed(2);
}
const scale = document.getElementById('scale').getContext('2d'), steps = scale.createImageData(256, 1);
for (let k = 0; k < 256; k++) steps.data.set([colours[3 * k], colours[3 * k + 1], colours[3 * k + 2], 255], 4 * k);
scale.putImageData(steps, 0, 0);

let place = data.place;
function cellAt(panel, event) {
  const box = panel.getBoundingClientRect();
  const cell = (offset, length, cells) => Math.max(0, Math.min(cells - 1, Math.floor(cells * offset / length)));
  return [cell(event.clientY - box.top, box.height, gh), cell(event.clientX - box.left, box.width, gw)];
}
const under = document.getElementById('under');
rows.forEach((row, n) => row.querySelectorAll('img, canvas').forEach(panel => {
  panel.addEventListener('click', event => { place = [n, ...cellAt(panel, event)]; choose(...place); });
  panel.addEventListener('mousemove', event => {
    const [r, c] = cellAt(panel, event);
    under.textContent = `Under the cursor: row ${r + 1}, column ${c + 1}, cosine ${cosines[(n * gh + r) * gw + c].toFixed(2)}.`;
  });
  panel.addEventListener('mouseleave', () => { under.textContent = '\u00a0'; });
}));
const arrows = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
canvases.forEach((canvas, n) => canvas.addEventListener('keydown', event => {
  if (!(event.key in arrows)) return;
  event.preventDefault();
  const [down, right] = arrows[event.key], inside = (value, cells) => Math.max(0, Math.min(cells - 1, value));
  place = place[0] === n ? [n, inside(place[1] + down, gh), inside(place[2] + right, gw)] : [n, place[1], place[2]];
  choose(...place);
}));
addEventListener('load', () => choose(...place));
addEventListener('resize', () => choose(...place));
const smooth = document.getElementById('smooth');
smooth.addEventListener('change', () => document.body.classList.toggle('smooth', smooth.checked));
</script>
</body>
</html>
"""
