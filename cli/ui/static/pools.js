// How full each range of addresses is.
import { html } from "./html.js";
import { count } from "./format.js";
import { Area } from "./area.js";

export function Pools({ data }) {
  const pools = [...data.kind("pools").values()];
  return html`
    <${Area} id="pools" title="Pools" note="">
      ${pools.length === 0 && html`<p class="faint pad">podlane-ipam hasn't told of its pools yet.</p>`}
      <ul class="pools">
        ${pools.map((pool) => html`
          <li key=${pool.name}>
            <p class="pool-name">${pool.name}${pool.cluster && html` <span class="faint">cluster</span>`}${pool.delegated && html` <span class="faint">delegated</span>`}</p>
            ${pool.problems.map((text) => html`<p class="wrong" key=${text}>${text}</p>`)}
            ${pool.ranges.map((range) => html`<${Range} key=${range.prefix} range=${range} />`)}
          </li>`)}
      </ul>
    <//>`;
}

function Range({ range }) {
  const share = (part) => (range.size ? Math.min(100, (100 * part) / range.size) : 0);
  const full = share(range.used) > 90;
  const confirmed = range.used - range.reserved;
  const also = [range.reserved && `${count(range.reserved)} reserved`, range.cooling && `${count(range.cooling)} cooling down`].filter(Boolean).join(", ");
  return html`
    <div class="range ${full ? "full" : ""}">
      <span class="prefix">${range.prefix}</span>
      <span class="meter" role="meter" aria-label="Used of ${range.prefix}" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(share(range.used))}
        aria-valuetext="${count(range.used)} of ${count(range.size)}">
        <span class="used" data-some=${confirmed > 0 || undefined} style=${{ width: `${share(confirmed)}%` }}></span><span class="reserved" style=${{ width: `${share(range.reserved)}%` }}></span><span class="cooling" style=${{ width: `${share(range.cooling)}%` }}></span>
      </span>
      <span class="numbers">${count(range.used)}<span class="faint"> of ${range.size >= 1e6 ? `2^${Math.round(Math.log2(range.size))}` : count(range.size)}</span></span>
      ${also && html`<span class="also">${also}</span>`}
    </div>`;
}
