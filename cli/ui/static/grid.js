// A table of any length: only the rows in view are in the document.
//
// Rows have one height, so row n is at n times that; those that are drawn are moved there together. The grid is one stop of the Tab key; arrows, Page Up and Down, Home
// and End move the active row (aria-activedescendant), Enter opens it. What is active is known by its key, so it stays
// active when rows are sorted anew or others come.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { html } from "./html.js";

export const ROW = 34;
const HEAD = 34;
// Rows beyond what is in view, and how many are gone past before they are drawn anew.
const BEYOND = 8;
const STEP = 4;

// columns: {key, title, cell(row), className, sort: true, numeric}; `sort`: {key, down}; `onActive(row)` by keys or mouse.
export function Grid({ id, label, columns, rows, keyOf, sort, onSort, onOpen, onActive, onScroll, rowClass, empty, open }) {
  const box = useRef(null);
  const [view, setView] = useState({ first: 0, height: 400 });
  const [activeKey, setActive] = useState(null);
  const active = activeKey === null ? -1 : rows.findIndex((row) => keyOf(row) === activeKey);

  useLayoutEffect(() => {
    const observer = new ResizeObserver(() => look());
    observer.observe(box.current);
    look();
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (active >= 0) onActive?.(rows[active]);
  }, [activeKey]);

  const look = () => {
    const { scrollTop, clientHeight } = box.current;
    const first = Math.floor(scrollTop / ROW / STEP) * STEP;
    setView((before) => (before.first === first && before.height === clientHeight ? before : { first, height: clientHeight }));
  };
  const scrolled = () => {
    look();
    onScroll?.(box.current.scrollTop);
  };
  const activate = (index) => {
    const at = Math.max(0, Math.min(rows.length - 1, index));
    if (!rows[at]) return;
    setActive(keyOf(rows[at]));
    const top = at * ROW;
    const element = box.current;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + ROW + HEAD > element.scrollTop + element.clientHeight) element.scrollTop = top + ROW + HEAD - element.clientHeight;
  };
  const pressed = (event) => {
    if (event.target !== box.current) return;
    const page = Math.max(1, Math.floor(view.height / ROW) - 2);
    const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: rows.length - 1 };
    if (event.key in moves) activate(moves[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && active >= 0 && onOpen) onOpen(rows[active]);
    else return;
    event.preventDefault();
  };

  const first = Math.max(0, view.first - BEYOND);
  const last = Math.min(rows.length, view.first + Math.ceil(view.height / ROW) + STEP + BEYOND);
  const seen = rows.slice(first, last);
  const inView = active >= first && active < last;
  return html`
    <div class="grid grid-${id}" id=${id} ref=${box} role="grid" tabindex="0" aria-label=${label} aria-rowcount=${rows.length + 1}
      aria-activedescendant=${inView ? `${id}-row-${activeKey}` : undefined} onKeyDown=${pressed} onScroll=${scrolled}
      onFocus=${(event) => event.target === box.current && active < 0 && activate(Math.ceil(box.current.scrollTop / ROW))}>
      <div class="grid-row grid-head" role="row" aria-rowindex="1">
        ${columns.map((column) => html`<${Heading} key=${column.key} column=${column} sort=${sort} onSort=${onSort} />`)}
      </div>
      <div class="grid-body" role="rowgroup" style=${{ height: `${rows.length * ROW}px` }}>
        <div role="presentation" style=${{ transform: `translateY(${first * ROW}px)` }}>${seen.map((row, index) => {
          const key = keyOf(row);
          const classes = ["grid-row", key === activeKey && "active", key === open && "open", rowClass?.(row)];
          return html`
            <div key=${key} id="${id}-row-${key}" role="row" aria-rowindex=${first + index + 2} aria-selected=${key === activeKey}
              class=${classes.filter(Boolean).join(" ")}
              onClick=${() => { setActive(key); onOpen?.(row); }} onMouseEnter=${() => onActive?.(row)}>
              ${columns.map((column) => html`<div key=${column.key} role="gridcell" class=${cellClass(column)}>${column.cell(row)}</div>`)}
            </div>`;
        })}</div>
      </div>
      ${rows.length === 0 && html`<div class="grid-empty" role="row"><div role="gridcell">${empty}</div></div>`}
    </div>`;
}

function cellClass(column) {
  return ["cell", `col-${column.key}`, column.numeric && "numeric"].filter(Boolean).join(" ");
}

function Heading({ column, sort, onSort }) {
  if (!column.sort || !onSort) return html`<div role="columnheader" class=${cellClass(column)}>${column.title}</div>`;
  const sorted = sort.key === column.key;
  const order = sorted ? (sort.down ? "descending" : "ascending") : "none";
  return html`
    <div role="columnheader" aria-sort=${order} class=${cellClass(column)}>
      <button type="button" class="sort" onClick=${() => onSort({ key: column.key, down: sorted ? !sort.down : Boolean(column.down) })}>
        ${column.title}<span class="sort-mark" aria-hidden="true">${sorted ? (sort.down ? "↓" : "↑") : ""}</span>
      </button>
    </div>`;
}

// Rows sorted by what `by[key]` returns of each; equal ones stay as they were.
export function sorted(rows, sort, by) {
  const of = by[sort.key];
  const sign = sort.down ? -1 : 1;
  return [...rows].sort((one, other) => {
    const a = of(one);
    const b = of(other);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
}
