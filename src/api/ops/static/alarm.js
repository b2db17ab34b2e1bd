// The state in one line, and while something is wrong its cause, and what to do.
import { at, element, harmless, prose, setAttribute, setProse, setText } from "./dom.js";
import { counted, elapsed, since } from "./format.js";
import { serverNow } from "./header.js";

const TITLE = "Allowed agents: operators";

// Screen readers announce each change, so the line has no ages.
export function summarize(state, text) {
  setAttribute(at("summary"), "data-state", state);
  setText(at("summary"), text);
  const title = state === "late" || state === "stale" ? `${text} | ${TITLE}` : TITLE;
  if (document.title !== title) document.title = title;
}

export const isAlarming = (causes) => causes.some(({ severity }) => severity !== "notice");

export function showAlarm({ causes, totals, workers }) {
  const worst = causes.find(({ severity }) => severity !== "notice");
  at("alarm").hidden = !causes.length;
  at("alarm-worst").hidden = !worst;
  if (worst) showWorst(worst, stateOf(worst, totals));
  else {
    setAttribute(at("alarm"), "data-state", "late");
    const well = causes.length ? "Lookups are answered" : "All is well";
    summarize("fresh", `${well}: ${counted(totals.partitions, "partition")} fresh, ${counted(workers.length, "worker")}`);
  }
  showOthers(causes.filter((cause) => cause !== worst));
}

// A degraded deployment that still answers every lookup is late, and not yet stale.
function stateOf({ severity }, totals) {
  if (severity === "notice") return "late";
  return severity === "outage" || !totals || totals.stale || totals.unclaimed ? "stale" : "late";
}

function showWorst(worst, state) {
  summarize(state, harmless(worst.what));
  setAttribute(at("alarm"), "data-state", state);
  setProse(at("alarm-lookups"), worst.lookups);
  setProse(at("alarm-advice"), worst.advice);
  setText(at("alarm-runbook"), `docs/${harmless(worst.runbook)}`);
  at("alarm-detail").hidden = !worst.detail;
  setProse(at("alarm-detail"), worst.detail ?? "");
  setText(at("alarm-since"), sinceText(worst));
}

function showOthers(others) {
  const list = at("alarm-others");
  list.hidden = !others.length;
  const key = JSON.stringify(others);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...others.map((cause) =>
    element("li", { "data-severity": cause.severity },
      element("strong", {}, prose(cause.what)), " ", prose(cause.lookups), " ", prose(cause.advice),
      " ", element("code", { class: "quiet", text: `docs/${cause.runbook}` }))));
}

function sinceText({ since: began }) {
  if (began === null) return "";
  const now = serverNow();
  return `Since ${since(began, now)}, for ${elapsed((now - began) / 1000)}.`;
}

// `refused`: the server has answered, with the reason.
export function showSilence(reason, answered, refused) {
  const now = serverNow();
  at("silence").hidden = false;
  // Whether its causes still hold is not known.
  at("alarm").hidden = true;
  setText(at("silence-what"), "Whether lookups are answered is not known.");
  setText(at("silence-since"), answered ? `Since ${since(answered, now)}, for ${elapsed((now - answered) / 1000)}. All below is of then.` : "");
  setText(at("silence-reason"), reason);
  summarize("stale", refused ? "The status cannot be read." : "This page cannot reach its server.");
}

export function hideSilence() {
  at("silence").hidden = true;
}
