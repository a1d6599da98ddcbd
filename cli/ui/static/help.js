// The keys.
import { useEffect, useRef } from "preact/hooks";
import { html } from "./html.js";
import { AREAS } from "./area.js";

const KEYS = [
  ["/", "filter the endpoints; words all have to fit, -word must not, state:ready asks one column"],
  ...AREAS.map(([, title], index) => [String(index + 1), `to ${title.toLowerCase()}`]),
  ["↑ ↓ PgUp PgDn Home End", "move in a table, and from node to node on the map"],
  ["Enter", "open the row; hold what the map shows of it"],
  ["p", "hold the events, or let them go on"],
  ["Esc", "close"],
  ["?", "this"],
];

export function Help({ onClose }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
    return () => dialog.current?.close();
  }, []);
  return html`
    <dialog class="help" ref=${dialog} aria-labelledby="help-title" onCancel=${(event) => { event.preventDefault(); onClose(); }}
      onClick=${(event) => event.target === dialog.current && onClose()}>
      <div class="help-body">
        <div class="drawer-head"><h2 id="help-title">Keys</h2><button type="button" class="quiet" onClick=${onClose}>Close <kbd>Esc</kbd></button></div>
        <dl class="keys">${KEYS.map(([keys, text]) => html`<div key=${keys}><dt>${keys.split(" ").map((key) => html`<kbd key=${key}>${key}</kbd>`)}</dt><dd>${text}</dd></div>`)}</dl>
      </div>
    </dialog>`;
}
