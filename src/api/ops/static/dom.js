// Elements of the page. Every text is a text node, so no text becomes markup.

export const at = (id) => document.getElementById(id);

// Text of any producer: characters that hide, turn or break a line are shown as codes.
export const harmless = (value) =>
  String(value).replace(/[\p{C}\p{Z}]/gu, (c) =>
    c === " " ? c : `\\u{${c.codePointAt(0).toString(16)}}`);

export function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  if (text !== undefined && text !== null) made.textContent = harmless(text);
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Isolated, so that its direction cannot reorder the text around it.
export const foreign = (value) => element("bdi", { text: value });

// A sentence whose parts in backticks become `code`.
export function prose(value) {
  const parts = harmless(value).split(/`([^`]+)`/u);
  return element("bdi", {}, ...parts.map((part, i) => (i % 2 ? element("code", { text: part }) : part)));
}

export function setProse(node, text) {
  if (node.dataset.prose === text) return;
  node.dataset.prose = text;
  node.replaceChildren(prose(text));
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// A table row; `columns` are pairs of label and class, and the first cell is the row's header.
export function tableRow(columns, attributes = {}) {
  return element("tr", { role: "row", ...attributes }, ...columns.map(([label, kind], i) =>
    element(i ? "td" : "th", {
      scope: i ? null : "row", class: kind || null, "data-label": label || null,
      role: i ? "cell" : "rowheader",
    })));
}

// Keeps the rows that remain, so that neither focus nor selection is lost.
export function fillRows(body, items, key, create, fill) {
  const present = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  let next = body.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    const row = present.get(name) ?? create();
    row.dataset.key = name;
    present.delete(name);
    if (row === next) next = row.nextElementSibling;
    else body.insertBefore(row, next);
    fill(row, item);
  }
  for (const row of present.values()) row.remove();
}
