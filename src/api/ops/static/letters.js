// Dead letters, grouped by type, source and reason.
import { at, element, foreign, prose, setProse } from "./dom.js";
import { counted, moment, whole } from "./format.js";

const COLUMNS = ["Letter", "Refused", "Original", "Event", "Replayed"];

let readAt = null;

export function showLettersTrouble(reason) {
  setProse(at("letters-note"), reason + (readAt ? ` The letters below are of ${moment(readAt)}.` : ""));
}

export function showLetters({ groups, shown, read_at: time }) {
  readAt = time;
  setProse(at("letters-note"), groups.length
    ? `The latest ${counted(shown, "letter")}, by type, source and reason. \`projector dead-letters show LETTER\` prints one.`
    : "None: no event was refused.");
  const list = at("letters");
  const key = JSON.stringify(groups);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const open = new Set([...list.querySelectorAll("details[open]")].map((node) => node.dataset.key));
  list.replaceChildren(...groups.map((group) => groupOf(group, open)));
}

function groupOf(group, open) {
  const { type, source, reason, count, replayed, latest, letters } = group;
  const key = JSON.stringify([type, source, reason?.replace(/\d+/g, "0")]);
  const done = replayed === count;
  const state = done ? "✓ replayed" : replayed ? `${replayed} of ${count} replayed` : "";
  return element("details", { class: "group", "data-key": key, "data-done": String(done), open: open.has(key) ? "" : null },
    element("summary", {},
      element("span", { class: "count", text: `${whole(count)} ×` }),
      element("span", { class: "what" },
        element("span", { class: "reason" }, prose(reason ?? "reason not named")),
        element("span", { class: "quiet origin" }, foreign(type ?? "type not named"), " from ", foreign(source ?? "a source not named"))),
      element("span", { class: "when quiet" }, element("span", { class: "done", text: state }), foreign(latest ? moment(latest) : ""))),
    lettersOf(letters));
}

function lettersOf(letters) {
  const heads = COLUMNS.map((text) => element("th", { scope: "col", text }));
  return element("div", { class: "cards" }, element("table", {},
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...letters.map(letterRow))));
}

function letterRow({ id, time, topic, partition, offset, event_id: event, replayed }) {
  const place = topic === null ? "not named" : `${topic} ${partition ?? "?"}:${offset ?? "?"}`;
  return element("tr", { role: "row" },
    element("th", { scope: "row", class: "place", role: "rowheader", text: id }),
    element("td", { class: "time", role: "cell" }, foreign(time ? moment(time) : "not named")),
    element("td", { class: "place", role: "cell" }, foreign(place)),
    element("td", { class: "place", role: "cell" }, foreign(event ?? "")),
    element("td", { role: "cell", class: "place", "data-label": "replayed", text: replayed ? `as ${replayed}` : "no" }));
}
