// The page: its areas, its keys, and what is open.
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { store, useStore } from "./store.js";
import { Header } from "./header.js";
import { Endpoints } from "./endpoints.js";
import { Detail } from "./detail.js";
import { Traffic } from "./traffic.js";
import { Events } from "./events.js";
import { Controllers } from "./controllers.js";
import { Pools } from "./pools.js";
import { Help } from "./help.js";
import { Away } from "./away.js";
import { AREAS } from "./area.js";

function focusArea(id) {
  const area = document.getElementById(`area-${id}`);
  area.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  (area.querySelector('[role="grid"]') ?? area).focus({ preventScroll: true });
}

function App() {
  const data = useStore();
  const [open, setOpen] = useState(null);
  const [help, setHelp] = useState(false);
  const before = useRef(null);

  const show = (id) => {
    if (open === null) before.current = document.activeElement;
    setOpen(id);
  };
  const close = () => {
    setOpen(null);
    before.current?.focus();
  };
  const openHelp = () => {
    before.current = document.activeElement;
    setHelp(true);
  };
  const closeHelp = () => {
    setHelp(false);
    before.current?.focus();
  };

  useEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = event.target.matches?.("input, select, textarea");
      if (event.key === "Escape") {
        if (help) closeHelp();
        else if (open !== null) close();
        else if (typing) event.target.blur();
        return;
      }
      if (typing || help) return;
      const number = Number(event.key);
      if (event.key === "/") document.getElementById("endpoints-filter").focus();
      else if (event.key === "?") openHelp();
      else if (event.key === "p") document.getElementById("events-pause").click();
      else if (number >= 1 && number <= AREAS.length) focusArea(AREAS[number - 1][0]);
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, [open, help]);

  return html`
    <a class="skip" href="#area-endpoints">To the endpoints</a>
    <${Header} data=${data} onHelp=${openHelp} />
    <main>
      <${Endpoints} data=${data} open=${open} onOpen=${show} />
      <${Traffic} data=${data} onOpen=${show} />
      <div class="pair pair-events">
        <${Events} data=${data} onOpen=${show} />
        <div class="stack">
          <${Controllers} data=${data} />
          <${Pools} data=${data} />
        </div>
      </div>
    </main>
    ${open !== null && html`<${Detail} key=${open} data=${data} id=${open} onClose=${close} />`}
    ${help && html`<${Help} onClose=${closeHelp} />`}
    <${Away} data=${data} />`;
}

store.start();
render(html`<${App} />`, document.getElementById("app"));
