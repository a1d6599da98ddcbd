// Who this is, whether the services are there, and the few numbers that say how the node is.
import { useMemo } from "preact/hooks";
import { html } from "./html.js";
import { age, count } from "./format.js";
import { Mark, endpointKind } from "./state.js";

const SERVICES = ["endpoint", "loader", "ipam"];

export function controllersOf(data) {
  return SERVICES.flatMap((service) => [...data.kind(`controllers:${service}`).values()]);
}

function Service({ name, one, now }) {
  const kind = one?.state === "serving" ? "good" : one ? "bad" : "quiet";
  const state = one?.state ?? "not asked yet";
  const since = one && one.state !== "serving" ? ` for ${age(now - one.since)}` : "";
  return html`<li class="service" title=${one?.error || `podlane-${name} is ${state}`}><${Mark} kind=${kind} />${name}<span class=${kind === "good" ? "unseen" : ""}> ${state}${since}</span></li>`;
}

function Figure({ href, value, unit, label, alarm }) {
  return html`
    <a class="figure ${alarm ? "alarm" : ""}" href=${href}>
      <span class="value">${value}${unit && html`<span class="unit">${unit}</span>`}</span>
      <span class="label">${alarm && html`<${Mark} kind="bad" />`}${label}</span>
    </a>`;
}

export function Header({ data, onHelp }) {
  const self = data.kind("node").get("self") ?? {};
  const cluster = data.kind("node").get("cluster");
  const traffic = data.kind("node").get("traffic");
  const endpoints = useMemo(() => {
    const rows = [...data.kind("endpoints").values()];
    const kinds = rows.map(endpointKind);
    return { all: rows.length, ready: kinds.filter((kind) => kind === "good").length, bad: kinds.filter((kind) => kind === "bad").length };
  }, [data.version("endpoints")]);
  const failing = controllersOf(data).filter((one) => one.state === "failing" || one.state === "hanging").length;
  let [used, size] = [0, 0];
  for (const pool of data.kind("pools").values()) {
    for (const range of pool.ranges) {
      if (range.prefix.includes(":")) continue;
      used += range.used;
      size += range.size;
    }
  }
  const where = cluster?.nodes.length > 1 ? `${cluster.name}, ${count(cluster.nodes.length)} nodes, ${cluster.routing}` : `podlane ${self.version ?? ""}`;
  return html`
    <header class="top">
      <div class="who">
        <h1>${self.name ?? "podlane"}</h1>
        <p>${where}</p>
      </div>
      <ul class="services" aria-label="Services">
        ${SERVICES.map((name) => html`<${Service} key=${name} name=${name} one=${data.kind("services").get(name)} now=${data.now()} />`)}
        ${cluster && cluster.kvstore.kind !== "embedded" && html`
          <li class="service" title=${cluster.kvstore.error}><${Mark} kind=${cluster.kvstore.reachable ? "good" : "bad"} />${cluster.kvstore.kind}${!cluster.kvstore.reachable && " unreachable"}</li>`}
      </ul>
      <nav class="figures" aria-label="In figures">
        <${Figure} href="#area-endpoints" value=${count(endpoints.all)} label="endpoints" />
        <${Figure} href="#area-endpoints" value=${count(endpoints.ready)} label="ready" />
        <${Figure} href="#area-endpoints" value=${count(endpoints.all - endpoints.ready)} label="not ready" alarm=${endpoints.bad > 0} />
        <${Figure} href="#area-traffic" value=${traffic ? (traffic.per_second >= 10 ? count(Math.round(traffic.per_second)) : traffic.per_second.toFixed(1)) : "–"} unit="/s" label="drops" alarm=${traffic?.per_second > 0} />
        <${Figure} href="#area-controllers" value=${count(failing)} label="controllers failing" alarm=${failing > 0} />
        <${Figure} href="#area-pools" value=${size ? Math.round((100 * used) / size) : "–"} unit="%" label="of IPv4 in use" alarm=${size > 0 && used / size > 0.9} />
      </nav>
      <button type="button" class="quiet" onClick=${onHelp} aria-keyshortcuts="?">Keys <kbd>?</kbd></button>
    </header>`;
}
