// Partitions folded by worker, and single ones: those that differ from their worker, or all.
import { at, fillRows, harmless, setAttribute, setText, tableRow } from "./dom.js";
import { age as ageText, whole } from "./format.js";

const MARK = {
  fresh: "● fresh", late: "▲ late", stale: "■ stale", unclaimed: "□ unclaimed",
  working: "● working", waiting: "▲ waiting", behind: "▲ behind", silent: "■ silent",
};
const STATES = ["unclaimed", "stale", "late", "fresh"];

const WORKER = [
  ["", "owner"], ["", "state"], ["age", "number"], ["", "ranges wide"], ["tokens", "number"],
  ["facts", "number"], ["lag", "number"],
];
const PARTITION = [
  ["", ""], ["", "state"], ["age", "number"], ["owner", "owner wide"], ["revision", "number"],
  ["facts", "number"], ["tokens", "number"], ["lag", "number"],
];

let all = false;

export const wantsAll = () => all;

export function toggleAll() {
  all = !all;
  setAttribute(at("show-all"), "aria-expanded", String(all));
}

export function showPartitions({ partitions, workers, totals, max_staleness: bound }) {
  at("workers-cards").hidden = !workers.length;
  fillRows(at("workers").tBodies[0], workers, (w) => w.owner ?? "", () => tableRow(WORKER), fillWorker);
  at("partitions-cards").hidden = !partitions.length;
  fillRows(at("partitions").tBodies[0], partitions, (p) => p.partition, () => tableRow(PARTITION), fillPartition);
  setText(at("partitions-caption"), captionOf(partitions.length, totals.partitions));
  setText(at("partitions-note"), totals.partitions
    ? `Age: the time since a partition was last known fresh. Late beyond 2 s; stale beyond ${bound} s: its lookups get 503.`
    : "No partition is known yet.");
  at("show-all").hidden = !totals.partitions;
  setText(at("show-all"), all ? "Fold the partitions" : `Show ${totals.partitions === 1 ? "the partition" : `all ${whole(totals.partitions)} partitions`}`);
}

function captionOf(shown, count) {
  if (!all) return "Not fresh, although their worker has fresh ones";
  return shown < count ? `The first ${whole(shown)} of ${whole(count)}` : "Every partition";
}

function fillWorker(node, { owner, state, age, partitions, ...worker }) {
  const health = state ?? "unclaimed";
  setAttribute(node, "data-state", health);
  const named = STATES.filter((name) => partitions[name]).map((name) =>
    `${whole(partitions[name].count)} ${name}: ${partitions[name].numbers}`);
  const texts = [
    owner === null ? "no worker" : harmless(owner), MARK[health] ?? harmless(health), state ? ageText(age) : "",
    harmless(named.join("; ")), whole(worker.live_tokens), whole(worker.facts), whole(worker.lag),
  ];
  texts.forEach((text, i) => setText(node.children[i], text));
}

function fillPartition(node, row) {
  const texts = [
    String(row.partition), MARK[row.state] ?? harmless(row.state), ageText(row.age),
    row.owner ? harmless(row.owner) : "none", whole(row.revision), whole(row.facts),
    whole(row.live_tokens), whole(row.lag && Object.values(row.lag).reduce((a, b) => a + b, 0)),
  ];
  setAttribute(node, "data-partition", String(row.partition));
  setAttribute(node, "data-state", row.state);
  texts.forEach((text, i) => setText(node.children[i], text));
}
