// The sources that workers wait for.
import { at, fillRows, harmless, setAttribute, setText, tableRow } from "./dom.js";
import { age as ageText, some } from "./format.js";

const MARK = { heard: "● heard", late: "▲ late", silent: "■ silent", unknown: "○ unknown" };
const COLUMNS = [["", "owner"], ["", "state"], ["last heartbeat", "number"], ["partitions that wait", ""]];

export function showSources({ sources, totals, max_staleness: bound }) {
  at("sources-section").hidden = !sources.length;
  if (!sources.length) return;
  setText(at("sources-note"), `Late beyond 2 s without a heartbeat; silent beyond ${bound} s: partitions that wait get 503.`);
  const ignored = sources.filter((source) => source.ignored_by.length);
  at("sources-ignored").hidden = !ignored.length;
  setText(at("sources-ignored"), ignored.map(ignoredText).join(" "));
  fillRows(at("sources").tBodies[0], sources, (s) => s.source, () => tableRow(COLUMNS),
    (row, source) => fillSource(row, source, totals.partitions));
}

const ignoredText = ({ source, ignored_by: partitions }) =>
  `Partitions ${some(partitions)} do not wait for ${harmless(source)}: set PROJECTOR_SOURCES alike for all workers.`;

function fillSource(node, { source, state, age, waiting }, partitions) {
  const named = waiting.length === partitions ? "all" : waiting.length ? `${waiting.length}: ${some(waiting)}` : "none";
  setAttribute(node, "data-state", state);
  [harmless(source), MARK[state] ?? harmless(state), ageText(age), named].forEach((text, i) => setText(node.children[i], text));
}
