// One endpoint: all that its service tells of it, and how it came to be. Read anew whenever its row changes.
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { age, clock, count } from "./format.js";
import { EndpointState } from "./state.js";
import { creationOf, regenerationOf, Waterfall } from "./waterfall.js";

export function Detail({ data, id, onClose }) {
  const row = data.kind("endpoints").get(String(id));
  const [told, setTold] = useState(null);
  const [wrong, setWrong] = useState("");
  const close = useRef(null);
  useEffect(() => close.current.focus(), []);
  useEffect(() => {
    let gone = false;
    fetch(`/api/endpoint/${id}`)
      .then(async (answer) => {
        const value = await answer.json();
        if (gone) return;
        setWrong(answer.ok ? "" : value.error);
        if (answer.ok) setTold(value);
      })
      .catch(() => gone || setWrong("podlane ui doesn't answer"));
    return () => {
      gone = true;
    };
  }, [id, row, data.link]);

  return html`
    <aside class="drawer" role="dialog" aria-labelledby="drawer-title">
      <div class="drawer-head">
        <div>
          <h2 id="drawer-title">${row?.pod || told?.endpoint.pod.name || `Endpoint ${id}`}</h2>
          <p>endpoint ${id} ${row ? html`<${EndpointState} row=${row} />` : html`<span class="faint">is gone</span>`}</p>
        </div>
        <button type="button" class="quiet" ref=${close} onClick=${onClose} aria-keyshortcuts="Escape">Close <kbd>Esc</kbd></button>
      </div>
      <div class="drawer-body" tabindex="0" role="region" aria-label="Details">
        ${wrong && html`<p class="wrong">${wrong}</p>`}
        ${told && html`<${Told} told=${told} row=${row} now=${data.now()} />`}
      </div>
    </aside>`;
}

function Told({ told, row, now }) {
  const one = told.endpoint;
  const problems = [one.waiting_for && `It waits for ${one.waiting_for}.`, ...(one.health?.reasons ?? []), one.policy_error, one.last_regeneration?.error];
  return html`
    ${problems.filter(Boolean).length > 0 && html`<ul class="problems">${problems.filter(Boolean).map((text) => html`<li key=${text}>${text}</li>`)}</ul>`}
    <${Facts} one=${one} row=${row} now=${now} />
    <${Waterfall} title="How it was created" life=${creationOf(one)} usual=${told.usual} none="Its creation isn't recorded: an older version has made it." />
    <${Waterfall} title="Its last regeneration" life=${regenerationOf(one)} usual=${told.usual} none="" />
    <h3>Programs</h3>
    <ul class="plain">
      ${(one.last_regeneration?.programs ?? []).map((each) => html`
        <li key=${each.name} class="split"><span>${each.name}</span><span class="faint">${each.hook}, ${count(each.instructions)} instructions, id ${each.id}</span></li>`)}
    </ul>
    <h3>Log</h3>
    <ol class="log">
      ${[...one.log].reverse().map((entry, index) => html`
        <li key=${index} class="log-${entry.code}"><time>${clock(Date.parse(entry.time) / 1000)}</time><span>${entry.code !== "ok" && html`<b>${entry.code}: </b>`}${entry.message}</span></li>`)}
    </ol>`;
}

function Facts({ one, row, now }) {
  const health = one.health ?? {};
  const facts = [
    ["Health", ["bpf", "policy", "connected"].map((part) => `${part} ${health[part] ?? "unknown"}`).join(", ")],
    ["Addresses", one.addresses.map((each) => each.address.replace(/\/(32|128)$/, "")).join("\n")],
    ["Identity", `${one.identity}`],
    ["Labels", Object.entries(one.identity_labels).map(([name, value]) => `${name}=${value}`).join("\n") || "not known"],
    ["Isolated in", one.ingress_policies.join("\n") || "no: everybody may talk to it"],
    ["Isolated out", one.egress_policies.join("\n") || "no: it may talk to everybody"],
    ["Link", `${one.link?.host_ifname ?? "?"} (${one.link?.up ? "up" : "down"}) to ${one.attachment.ifname}, MTU ${one.link?.mtu ?? "?"}`],
    ["MAC", one.link ? `${one.link.pod_mac}, node's end ${one.link.host_mac}` : ""],
    ["Container", one.attachment.container_id],
    ["Created", row ? `${age(now - row.created)} ago, generation ${one.generation}` : `generation ${one.generation}`],
    ["Regenerated", one.counters ? `${count(one.counters.regenerations)} times, ${count(one.counters.failures)} failed, ${count(one.counters.folded)} folded` : ""],
    ["Switches", Object.entries(one.options).map(([name, on]) => `${name}=${on ? "on" : "off"}`).join("\n")],
  ];
  return html`<dl class="facts">${facts.filter(([, text]) => text).map(([name, text]) => html`<div key=${name}><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>`;
}
