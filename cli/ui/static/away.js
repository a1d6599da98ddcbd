// What isn't there just now: the services, or the server of this page. It lies over the page, so nothing moves.
import { html } from "./html.js";
import { age } from "./format.js";
import { Mark } from "./state.js";

export function Away({ data }) {
  const lines = [];
  if (data.link === "lost") {
    lines.push(["ui", `podlane ui doesn't answer for ${age((Date.now() - data.linkSince) / 1000)}: what you see is from before. It is tried again every second.`]);
  } else {
    for (const one of data.kind("services").values()) {
      if (one.state === "serving") continue;
      lines.push([one.name, `podlane-${one.name} is ${one.state === "down" ? "away" : "not ready"} for ${age(data.now() - one.since)}: what it has said is from before. ${one.error}`]);
    }
  }
  return html`<div class="away" role="status">${lines.map(([key, text]) => html`<p key=${key}><${Mark} kind="bad" />${text}</p>`)}</div>`;
}
