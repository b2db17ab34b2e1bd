// Workers with the ranges of their fresh partitions, and the partitions that are not fresh, or all.
import { at, fillRows, harmless, setAttribute, setText, tableRow } from "./dom.js";
import { counted, duration, whole } from "./format.js";

export const MARK = {
  fresh: "● fresh", late: "▲ late", stale: "■ stale", unclaimed: "□ unclaimed", gone: "■ gone",
  silent: "■ silent",
};

const WORKER = [
  ["", "owner"], ["", "state"], ["age", "number"], ["fresh", "ranges wide"], ["not fresh", "number"],
  ["tokens", "number"], ["facts", "number"], ["lag", "number"],
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
  fillRows(at("workers").tBodies[0], workers, (w) => w.owner, () => tableRow(WORKER), fillWorker);
  at("partitions-cards").hidden = !partitions.length;
  fillRows(at("partitions").tBodies[0], partitions, (p) => p.partition, () => tableRow(PARTITION), fillPartition);
  const bad = totals.partitions - totals.fresh;
  setText(at("partitions-caption"), captionOf(partitions.length, totals.partitions, bad));
  setText(at("partitions-note"), `Age: the time since a partition was last known fresh. Late beyond 2 s; stale beyond ${bound} s: its lookups get 503.`);
  at("show-all").hidden = !totals.partitions;
  setText(at("show-all"), all ? "Show only those that are not fresh" : `Show all ${counted(totals.partitions, "partition")}`);
}

function captionOf(shown, count, bad) {
  if (all) return shown < count ? `The worst ${shown} of ${whole(count)}.` : `All ${whole(count)}.`;
  return shown < bad ? `Not fresh: the worst ${shown} of ${whole(bad)}.` : `Not fresh: ${whole(bad)} of ${whole(count)}.`;
}

function fillWorker(node, worker) {
  const state = worker.state;
  setAttribute(node, "data-state", state);
  const texts = [
    harmless(worker.owner), MARK[state] ?? harmless(state), duration(worker.age),
    worker.fresh ? harmless(worker.fresh) : "none", whole(worker.not_fresh),
    whole(worker.live_tokens), whole(worker.facts), whole(worker.lag),
  ];
  texts.forEach((text, i) => setText(node.children[i], text));
}

function fillPartition(node, row) {
  const texts = [
    String(row.partition), MARK[row.state] ?? harmless(row.state), duration(row.age),
    row.owner ? harmless(row.owner) : "none", whole(row.revision), whole(row.facts),
    whole(row.live_tokens), whole(row.lag && Object.values(row.lag).reduce((a, b) => a + b, 0)),
  ];
  setAttribute(node, "data-partition", String(row.partition));
  setAttribute(node, "data-state", row.state);
  texts.forEach((text, i) => setText(node.children[i], text));
}
