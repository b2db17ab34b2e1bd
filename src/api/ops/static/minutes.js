// The two charts of the last minutes: how long revocations took, and how many events came.
import { at } from "./dom.js";
import { Chart, HIGH, LOW, drawn, level } from "./chart.js";
import { counted, latency, whole } from "./format.js";

const SHORTEST_S = 0.001;
const DECADES = [[0.001, "1 ms"], [0.01, "10 ms"], [0.1, "100 ms"], [1, "1 s"], [10, "10 s"], [100, "100 s"]];

let charts = null;

export function showMinutes(minutes, bound) {
  charts ??= [
    new Chart(at("revocations"), {
      marks: latencyMarks, sentence: latencySentence,
      isEmpty: (minute) => !minute.revocations, empty: "No revocation in these minutes",
    }),
    new Chart(at("events"), {
      marks: eventMarks, sentence: (minute) => `${counted(minute.events, "event")} applied`,
      isEmpty: (minute) => !minute.events, empty: "No event applied in these minutes",
    }),
  ];
  charts.forEach((chart) => chart.show(minutes, bound));
}

const latencySentence = ({ revocations, p50, p99, slowest }) =>
  revocations
    ? `${counted(revocations, "revocation")}; half within ${latency(p50)}, 99 % within ${latency(p99)}, slowest ${latency(slowest)}`
    : "no revocation";

// A logarithmic scale shows both milliseconds and the bound.
function latencyMarks(minutes, scale, bound) {
  const top = Math.max(bound * 1.6, ...minutes.map(({ slowest }) => slowest ?? 0));
  const [low, high] = [Math.log10(SHORTEST_S), Math.log10(top)];
  const y = (seconds) => LOW - ((Math.log10(Math.max(seconds, SHORTEST_S)) - low) / (high - low)) * (LOW - HIGH);
  const shown = DECADES.filter(([seconds]) => seconds <= top && Math.abs(Math.log10(seconds / bound)) > 0.2);
  const points = (name) => minutes.map((m, i) => (m[name] === null ? null : [scale.x(i), y(m[name])]));
  return [
    ...shown.flatMap(([seconds, label]) => level(y(seconds), label, scale)),
    ...level(y(bound), `${bound} s`, scale, "bound"),
    drawn("text", { class: "bound", x: scale.right, y: y(bound) - 4, "text-anchor": "end" }, "lookups get 503 (PROJECTOR_MAX_STALENESS)"),
    ...curve(points("p50"), "low"),
    ...curve(points("p99"), "high"),
  ];
}

// Minutes without data interrupt the line.
function curve(points, kind) {
  const parts = [];
  let run = [];
  for (const point of [...points, null]) {
    if (point) {
      run.push(point);
      continue;
    }
    if (run.length > 1) parts.push(drawn("polyline", { class: kind, points: run.map((p) => p.map((n) => n.toFixed(1)).join(",")).join(" ") }));
    run = [];
  }
  const dots = points.filter(Boolean).map(([cx, cy]) => drawn("circle", { class: `dot ${kind}`, cx, cy, r: 3 }));
  return [...parts, ...dots];
}

function eventMarks(minutes, scale) {
  const most = roundUp(Math.max(1, ...minutes.map(({ events }) => events)));
  const y = (number) => LOW - (number / most) * (LOW - HIGH);
  const width = Math.min(scale.step * 0.7, 48);
  const bars = minutes.map(({ events }, i) =>
    drawn("rect", { class: "bar", x: (scale.x(i) - width / 2).toFixed(1), width: width.toFixed(1), y: y(events).toFixed(1), height: (LOW - y(events)).toFixed(1) }));
  const middle = most % 2 ? [] : level(y(most / 2), whole(most / 2), scale);
  return [...level(LOW, "0", scale), ...middle, ...level(y(most), whole(most), scale), ...bars];
}

// To 1, 2 or 5 times a power of ten.
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((step) => step * power).find((value) => value >= number);
}
