// Numbers, durations and times as text.

export const whole = (number) =>
  number === null || number === undefined ? "?" : number.toLocaleString("en");

export function duration(seconds) {
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  return age(seconds);
}

// In a column of ages all have one unit, as long as it is readable.
export function age(seconds) {
  if (seconds === null || seconds === undefined) return "never";
  return seconds < 99.95 ? `${seconds.toFixed(1)} s` : elapsed(seconds);
}

// A longer time, in whole units.
export function elapsed(seconds) {
  if (seconds < 120) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

export const latency = (seconds) => (seconds === null ? "none" : duration(seconds));

export const rate = (number) =>
  number >= 10 ? whole(Math.round(number)) : number.toFixed(number ? 1 : 0);

export const counted = (number, one, many = `${one}s`) =>
  `${whole(number)} ${number === 1 ? one : many}`;

export const some = (values) => values.slice(0, 8).join(", ") + (values.length > 8 ? ", …" : "");

// RFC 3339 as people read it.
export const moment = (text) =>
  String(text).replace("T", " ").replace(/\.\d+/, "").replace(/\+00:00$|Z$/, " UTC");

const iso = (ms) => new Date(ms).toISOString();

export const clock = (ms) => iso(ms).slice(11, 19);

export const minuteOf = (ms) => iso(ms).slice(11, 16);

// The time of day; with the date, if that is another day.
export const since = (ms, now) =>
  iso(ms).slice(0, 10) === iso(now).slice(0, 10) ? `${clock(ms)} UTC` : `${iso(ms).slice(0, 10)} ${clock(ms)} UTC`;
