// Phases as bars on one time axis, and what is usual for each on this node as a line: a median, and a 99th percentile.
import { html } from "./html.js";
import { micros } from "./format.js";

// Of a creation: {total, phases: [{name, at, took}]} in microseconds; null: it isn't told.
export function creationOf(endpoint) {
  const timeline = endpoint.timeline;
  if (!timeline?.phases?.length) return null;
  const phases = timeline.phases.map((one) => ({ name: one.name, at: one.offset_us, took: one.duration_us }));
  return { total: Math.max(timeline.total_us, ...phases.map((one) => one.at + one.took)), whole: timeline.total_us, phases };
}

// Of the last regeneration. An older service doesn't tell when its phases began: then each follows the one before.
export function regenerationOf(endpoint) {
  const phases = endpoint.last_regeneration?.phases ?? [];
  if (!phases.length) return null;
  const told = phases.every((one) => one.started_us > 0);
  const began = told ? Math.min(...phases.map((one) => one.started_us)) : 0;
  let behind = 0;
  const placed = phases.map((one) => {
    const at = told ? one.started_us - began : behind;
    behind += one.duration_us;
    return { name: one.name, at, took: one.duration_us };
  });
  const total = Math.max(1, ...placed.map((one) => one.at + one.took));
  const why = endpoint.last_regeneration.reasons.join(", ");
  return { total, whole: total, phases: placed, why: [endpoint.last_regeneration.level, why].filter(Boolean).join(": ") };
}

const percent = (part, whole) => `${((100 * part) / whole).toFixed(2)}%`;

export function Waterfall({ title, life, usual, none }) {
  if (!life) return none && html`<h3>${title}</h3><p class="faint">${none}</p>`;
  const rows = life.phases.filter((one) => one.took >= life.total / 2000 || !one.name.includes("/"));
  const usually = usual.total ? `, usually ${micros(usual.total.median)}` : "";
  return html`
    <h3>${title} <span class="faint">${micros(life.whole)}${life.why ? `; ${life.why}` : usually}</span></h3>
    <table class="waterfall">
      <caption class="unseen">${title}: phases, when each began and how long it took</caption>
      <colgroup><col class="phase" /><col /><col class="took" /></colgroup>
      <thead class="unseen"><tr><th>Phase</th><th>When</th><th>Took</th></tr></thead>
      <tbody>${rows.map((one) => html`<${Phase} key=${one.name} one=${one} total=${life.total} usual=${life.why ? undefined : usual[one.name]} />`)}</tbody>
    </table>`;
}

function Phase({ one, total, usual }) {
  const parts = one.name.split("/");
  const slow = usual && usual.count > 8 && one.took > usual.p99 && one.took > 1.5 * usual.median;
  const width = Math.max(0.4, (100 * one.took) / total);
  const text = usual ? `usually ${micros(usual.median)}, 99 of 100 within ${micros(usual.p99)}` : "";
  return html`
    <tr class=${slow ? "slow" : ""} title=${text}>
      <th scope="row" style=${{ paddingInlineStart: `${(parts.length - 1) * 14}px` }}>${parts.at(-1)}</th>
      <td class="lane"><span class="unseen">at ${micros(one.at)}</span>
        <span class="bar ${parts.length > 1 ? "part" : ""}" style=${{ left: percent(one.at, total), width: `${width.toFixed(2)}%` }}></span>
        ${usual && html`<span class="usual" style=${{ left: percent(one.at, total), width: percent(Math.min(usual.median, total - one.at), total) }}></span>`}
      </td>
      <td class="took">${micros(one.took)}${slow && html`<b class="much"> slow</b>`}</td>
    </tr>`;
}
