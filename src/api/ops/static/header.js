// The header: deployment, clock, and the age of the data.
import { at, harmless, setAttribute, setText } from "./dom.js";
import { clock, elapsed } from "./format.js";

const TICK_MS = 200;
// The page asks every second, and Redis is read twice a second.
const AGING_S = 3;
const OLD_S = 10;

let received = null;

export function showHeader({ deployment, now, read_ago: readAgo }) {
  const answered = performance.now();
  // Without Redis there is a time, and no new data.
  received = { now, at: answered, readAt: readAgo === null ? received?.readAt ?? null : answered - readAgo * 1000 };
  const names = [["redis", "redis"], ["kafka", "kafka"], ["topics", "topic_prefix"], ["version", "version"]];
  for (const [id, name] of names) {
    const value = deployment?.[name];
    setText(at(`deployment-${id}`), harmless(value || (name === "topic_prefix" ? "no prefix" : "?")));
  }
  at("deployment").hidden = !deployment;
  tick();
}

export function clearHeader() {
  received = null;
  at("deployment").hidden = true;
  tick();
}

// By the server's clock, as the times of the data are.
export const serverNow = () =>
  received ? received.now + performance.now() - received.at : Date.now();

export const dataAge = () =>
  received && received.readAt !== null ? (performance.now() - received.readAt) / 1000 : null;

function tick() {
  const age = dataAge();
  setText(at("clock"), `${clock(serverNow())} UTC`);
  setText(at("updated"), age === null ? "no data yet" : `updated ${age < 10 ? `${age.toFixed(1)} s` : elapsed(age)} ago`);
  setAttribute(at("updated"), "data-state", age === null || age > OLD_S ? "stale" : age > AGING_S ? "late" : "fresh");
}

setInterval(tick, TICK_MS);
