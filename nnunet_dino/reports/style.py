"""The style sheet of the HTML report: system fonts, light and dark."""

STYLE = """
:root { color-scheme: light dark; --page: #fdfdfc; --ink: #24282e; --soft: #626973; --line: #dfe2e6; --warn: #fff4dd;
  --warn-edge: #d99a1c; --head: #f4f5f6; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #dde1e6; --soft: #9aa2ad; --line: #31363d;
  --warn: #2d2615; --warn-edge: #c99334; --head: #1d2126; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.55rem; line-height: 1.25; font-weight: 600; margin: 0 0 1.25rem; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 3rem 0 .6rem; }
h2 span { font-weight: 400; color: var(--soft); }
h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p { margin: 0 0 .8rem; }
.lead { font-size: 1.1rem; max-width: 52rem; overflow-wrap: anywhere; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-edge); padding: .6rem .9rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; background: var(--head); vertical-align: bottom; }
th.text, td.text { text-align: left; }
td.number { white-space: nowrap; }
tbody th { font-weight: inherit; background: none; vertical-align: top; }
tbody tr:hover { background: var(--head); }
caption { caption-side: bottom; text-align: left; max-width: calc(100vw - 2.5rem); }
caption, .caption, figcaption { font-size: .85rem; color: var(--soft); margin: .5rem 0 0; overflow-wrap: anywhere; }
figure { margin: 1.4rem 0 2.2rem; }
img { display: block; width: 100%; height: auto; }
img.case { border-radius: 4px; }
.method { font-size: .92rem; max-width: 46rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; font-size: .85rem; color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .95em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media print { main { max-width: none; } figure, tr { break-inside: avoid; } }
"""
