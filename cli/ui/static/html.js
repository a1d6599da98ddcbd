// What every part of the page is written with. Data becomes text nodes and properties; nothing here makes HTML of it.
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
