// A chart over minutes: time axis, and the values of one minute by pointer or arrow keys.
import { element, setAttribute, setText } from "./dom.js";
import { minuteOf } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 170;
const PLOT = { left: 46, right: 10, top: 12, bottom: 24 };
const LABEL_WIDTH = 46;
const MINUTE_MS = 60000;

export const HIGH = PLOT.top;
export const LOW = HEIGHT - PLOT.bottom;

export function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// `marks` draws the minutes' values into a scale; `sentence` is one minute in words.
export class Chart {
  constructor(figure, { marks, sentence, isEmpty, empty }) {
    Object.assign(this, { marks, sentence, isEmpty, empty, minutes: [], chosen: null });
    this.value = figure.querySelector(".value");
    this.plot = figure.querySelector(".plot");
    this.svg = drawn("svg", { "aria-hidden": "true", height: HEIGHT });
    this.nothing = element("p", { class: "nothing quiet", hidden: "" });
    this.plot.append(this.svg, this.nothing);
    this.plot.addEventListener("pointermove", (event) => this.choose(this.nearest(event)));
    this.plot.addEventListener("pointerdown", (event) => this.choose(this.nearest(event)));
    this.plot.addEventListener("pointerleave", () => this.choose(null));
    this.plot.addEventListener("focus", () => this.announce(true, this.chosen ?? this.latest()));
    this.plot.addEventListener("blur", () => this.announce(false, null));
    this.plot.addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  show(minutes, context) {
    Object.assign(this, { minutes, context });
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || !this.minutes.length) return;
    this.step = (width - PLOT.left - PLOT.right) / this.minutes.length;
    this.x = (i) => PLOT.left + this.step * (i + 0.5);
    setAttribute(this.svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
    const scale = { x: this.x, step: this.step, left: PLOT.left, right: width - PLOT.right };
    this.band = drawn("rect", { class: "chosen", y: HIGH, height: LOW - HIGH, width: this.step.toFixed(1) });
    this.svg.replaceChildren(this.band, ...this.marks(this.minutes, scale, this.context), ...this.timeAxis(scale));
    const isEmpty = this.minutes.every(this.isEmpty);
    this.nothing.hidden = !isEmpty;
    setText(this.nothing, this.empty);
    this.mark();
  }

  timeAxis({ left, right }) {
    const every = Math.max(1, Math.ceil(LABEL_WIDTH / this.step));
    const parts = [drawn("line", { class: "axis", x1: left, x2: right, y1: LOW, y2: LOW })];
    const last = this.minutes.length - 1;
    this.minutes.forEach(({ minute }, i) => {
      const x = this.x(i).toFixed(1);
      parts.push(drawn("line", { class: "axis", x1: x, x2: x, y1: LOW, y2: LOW + 4 }));
      if ((last - i) % every) return;
      parts.push(drawn("text", { x, y: LOW + 16, "text-anchor": "middle" }, minuteOf(minute * MINUTE_MS)));
    });
    return parts;
  }

  nearest(event) {
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    const i = Math.floor((x - PLOT.left) / this.step);
    return this.minutes[Math.min(Math.max(i, 0), this.minutes.length - 1)]?.minute ?? null;
  }

  // The last minute with data, else the running one.
  latest() {
    const found = this.minutes.findLast((minute) => !this.isEmpty(minute)) ?? this.minutes.at(-1);
    return found?.minute ?? null;
  }

  move(event) {
    const last = this.minutes.length - 1;
    const i = this.minutes.findIndex(({ minute }) => minute === this.chosen);
    const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.choose(this.minutes[Math.min(Math.max(to, 0), last)]?.minute ?? null);
  }

  // Screen readers announce the values while the chart has the focus alone.
  announce(on, minute) {
    setAttribute(this.value, "aria-live", on ? "polite" : "off");
    this.choose(minute);
  }

  choose(minute) {
    this.chosen = minute;
    this.mark();
  }

  mark() {
    const shown = this.chosen ?? this.latest();
    const i = this.minutes.findIndex(({ minute }) => minute === shown);
    if (i < 0 || !this.band) return;
    const found = this.minutes[i];
    setAttribute(this.band, "data-on", String(this.chosen !== null));
    setAttribute(this.band, "x", (this.x(i) - this.step / 2).toFixed(1));
    const running = i === this.minutes.length - 1 ? " (this minute)" : "";
    setText(this.value, `${minuteOf(shown * MINUTE_MS)}${running}: ${this.sentence(found)}`);
  }
}

export function level(y, label, { left, right }, kind = "grid") {
  return [
    drawn("line", { class: kind, x1: left, x2: right, y1: y, y2: y }),
    drawn("text", { x: left - 6, y: y + 3.5, "text-anchor": "end" }, label),
  ];
}
