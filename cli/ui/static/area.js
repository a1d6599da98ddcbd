// An area of the page: a heading, what is beside it, and its content.
import { html } from "./html.js";

// In the order of the page, and of the keys 1 to 5.
export const AREAS = [
  ["endpoints", "Endpoints"],
  ["traffic", "Who talks to whom"],
  ["events", "Events"],
  ["controllers", "Controllers"],
  ["pools", "Pools"],
];

export function Area({ id, title, note, tools, children, className = "" }) {
  return html`
    <section id="area-${id}" class="area ${className}" aria-labelledby="title-${id}" tabindex="-1">
      <div class="area-head">
        <h2 id="title-${id}">${title}</h2>
        <p class="note">${note}</p>
        <div class="tools">${tools}</div>
      </div>
      ${children}
    </section>`;
}

export function FilterBox({ id, label, value, onInput, hint }) {
  return html`
    <label class="filter">
      <span class="unseen">${label}</span>
      <input id=${id} type="search" placeholder=${hint} value=${value} spellcheck="false" autocomplete="off"
        onInput=${(event) => onInput(event.target.value)} />
    </label>`;
}
