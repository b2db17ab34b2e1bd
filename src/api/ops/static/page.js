// The operators' page: reads data every second, and shows it as text, never as HTML.
// The token is kept in this variable alone. Storage of the origin could be read by its other pages,
// and /docs loads scripts from elsewhere.
let token = null;

const STATUS_MS = 1000;
const LETTERS_MS = 10000;
const TIMEOUT_MS = 6000;
const EXPLANATION_TIMEOUT_MS = 40000;
const MARK = {
  fresh: "● fresh", late: "▲ late", stale: "■ stale", unclaimed: "□ unclaimed",
  heard: "● heard", silent: "■ silent", unknown: "○ unknown",
};
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);

// Text of any producer: characters that hide, turn or break a line are shown as codes.
const harmless = (value) =>
  String(value).replace(/[\p{C}\p{Z}]/gu, (c) =>
    c === " " ? c : `\\u{${c.codePointAt(0).toString(16)}}`);

function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  if (text !== undefined && text !== null) made.textContent = harmless(text);
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Isolated, so that its direction cannot reorder the text around it.
const foreign = (value) => element("bdi", { text: value });

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// requests

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, timeout = TIMEOUT_MS) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const signal = AbortSignal.timeout(timeout);
  const options = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  const response = await fetch(path, options);
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (response.ok) throw error;
  }
  if (response.ok) return body;
  throw new Refused(response.status, harmless(body?.message ?? `HTTP ${response.status}`));
}

// numbers and times

const whole = (number) => (number === null || number === undefined ? "?" : number.toLocaleString("en"));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "never";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
}

const latency = (seconds) => (seconds === null ? "none" : duration(seconds));
const rate = (number) => (number >= 10 ? whole(Math.round(number)) : number.toFixed(number ? 1 : 0));
const moment = (text) => harmless(text).replace("T", " ").replace(/\.\d+/, "").replace(/\+00:00$|Z$/, " UTC");

// token

let asking = false;

function showCredential(wrong) {
  token = null;
  asking = false;
  at("board").hidden = true;
  at("leave").hidden = true;
  at("banner").hidden = true;
  at("answer").replaceChildren();
  at("credential").hidden = false;
  setText(at("credential-wrong"), wrong);
  summarize("none", "");
  at("token").focus();
}

async function enter(event) {
  event.preventDefault();
  const given = at("token").value.trim();
  at("token").value = "";
  if (!/^[!-~]+$/.test(given)) {
    showCredential("A token has visible ASCII characters alone.");
    return;
  }
  token = given;
  try {
    show(await ask("data/status"));
  } catch (error) {
    showCredential(error instanceof Refused ? error.message : "This process does not answer.");
    return;
  }
  begin();
}

function begin() {
  at("credential").hidden = true;
  at("board").hidden = false;
  at("leave").hidden = token === null;
  if (token !== null) at("job").focus();
  if (!asking) {
    asking = true;
    poll();
    pollLetters();
  }
}

// freshness

let answeredAt = 0;
let round = 0;

async function poll() {
  const mine = ++round;
  while (asking && mine === round) {
    if (!document.hidden) await pollOnce();
    await new Promise((resolve) => setTimeout(resolve, STATUS_MS));
  }
}

async function pollOnce() {
  try {
    const status = await ask("data/status");
    if (asking) show(status);
  } catch (error) {
    if (!asking) return;
    if (error instanceof Refused && error.status === 401) showCredential(error.message);
    else showSilence(error instanceof Refused ? error.message : "This process does not answer.");
  }
}

function showSilence(reason) {
  const since = answeredAt ? ` What stands below is ${duration((Date.now() - answeredAt) / 1000)} old.` : "";
  setText(at("banner"), reason + since);
  at("banner").hidden = false;
  at("board").dataset.old = "";
  summarize("stale", "Freshness is not known");
}

function show(status) {
  answeredAt = Date.now();
  at("banner").hidden = true;
  delete at("board").dataset.old;
  showSummary(status);
  showTotals(status);
  showSources(status);
  showPartitions(status);
  showMinutes(status.minutes, status.max_staleness);
}

function summarize(state, text) {
  setAttribute(at("summary"), "data-state", state);
  setText(at("summary"), text);
  const mark = state === "late" || state === "stale" ? `${text} | ` : "";
  if (document.title !== `${mark}Allowed agents: operators`) {
    document.title = `${mark}Allowed agents: operators`;
  }
}

// Screen readers announce each change, so it holds no ages.
function showSummary({ totals, partitions, sources }) {
  const count = totals.partitions;
  if (!count) {
    summarize("stale", "No worker has said yet how many partitions there are");
    return;
  }
  const named = (state) => {
    const numbers = partitions.filter((row) => row.state === state).slice(0, 8).map((row) => row.partition);
    return totals[state] ? `${totals[state]} of ${count} ${state} (${numbers.join(", ")}${totals[state] > numbers.length ? ", …" : ""})` : "";
  };
  const trouble = [named("unclaimed"), named("stale"), named("late")].filter(Boolean);
  const silent = sources.filter((source) => source.state === "silent").map((source) => source.source);
  const late = sources.some((source) => source.state === "late");
  const worst = totals.stale || totals.unclaimed || silent.length ? "stale" : totals.late || late ? "late" : "fresh";
  const cause = silent.length ? `Silent: ${some(silent.map((name) => `source ${harmless(name)}`))}. ` : "";
  summarize(worst, cause + (trouble.length ? `Partitions: ${trouble.join("; ")}` : `All ${count} partitions fresh`));
}

const some = (values) => values.slice(0, 8).join(", ") + (values.length > 8 ? ", …" : "");

function tile(name, value, more = "") {
  let box = at("totals").querySelector(`[data-name="${name}"]`);
  if (!box) {
    box = element("div", { "data-name": name }, element("dt", { text: name }), element("dd"), element("dd", { class: "more" }));
    at("totals").append(box);
  }
  const [, first, second] = box.children;
  setText(first, value);
  setText(second, more);
}

function showTotals({ totals, dead_letters: letters, lookups: counted, kafka }) {
  const { rates } = totals;
  const others = ["late", "stale", "unclaimed"].filter((state) => totals[state]).map((state) => `${totals[state]} ${state}`);
  tile("Partitions fresh", `${totals.fresh} of ${totals.partitions}`, others.join(", ") || "none late");
  tile("Live tokens", whole(totals.live_tokens), `of ${whole(totals.facts)} facts`);
  tile("Events a second", rate(rates.events), `${rate(rates.views)} views, ${rate(rates.refused)} refused`);
  tile("Revocation, 99 % within", latency(rates.revocation_p99),
    rates.revocations ? `half ${latency(rates.revocation_p50)}, slowest ${latency(rates.revocation_max)}, of ${whole(rates.revocations)}` : "none in the last minutes");
  tile("Lag", totals.lag === null ? "not known" : whole(totals.lag), kafka ? "Kafka does not say" : "records of Kafka not applied");
  tile("Dead letters", whole(letters));
  if (counted) {
    const statuses = Object.keys(counted).filter((status) => counted[status]).sort();
    const total = statuses.reduce((sum, status) => sum + counted[status], 0);
    tile("Lookups", whole(total), statuses.map((status) => `${status}: ${whole(counted[status])}`).join(", ") || "since the API started");
  }
}

const COLUMNS = [
  ["", ""], ["", "state"], ["age", "number"], ["owner", "owner wide"], ["revision", "number"],
  ["facts", "number"], ["tokens", "number"], ["lag", "number"],
];
const rows = new Map();

function partitionRow(partition) {
  const cells = COLUMNS.map(([label, kind], i) =>
    element(i ? "td" : "th", { scope: i ? null : "row", class: kind || null, "data-label": label || null, role: i ? "cell" : "rowheader" }));
  return element("tr", { role: "row", "data-partition": partition }, ...cells);
}

function showPartitions({ partitions, totals, max_staleness: bound, kafka }) {
  const body = at("partitions").tBodies[0];
  const shown = new Set(partitions.map((row) => row.partition));
  for (const [partition, row] of rows) {
    if (!shown.has(partition)) {
      row.remove();
      rows.delete(partition);
    }
  }
  let before = null;
  for (const row of partitions) {
    if (!rows.has(row.partition)) {
      rows.set(row.partition, partitionRow(row.partition));
      const next = before ? before.nextSibling : body.firstChild;
      body.insertBefore(rows.get(row.partition), next);
    }
    before = rows.get(row.partition);
    fillPartition(before, row);
  }
  const hidden = totals.partitions - partitions.length;
  setText(at("partitions-caption"),
    `Age: since the partition was last known fresh. Late beyond 2 s; beyond ${bound} s it is stale and its lookups get 503.` +
    (hidden ? ` The worst ${partitions.length} are shown; ${hidden} more are fresher.` : "") +
    (kafka ? ` The lag is not known: ${harmless(kafka)}.` : ""));
}

function fillPartition(node, row) {
  const texts = [
    String(row.partition), MARK[row.state] ?? harmless(row.state), duration(row.age),
    row.owner ? harmless(row.owner) : "nobody", whole(row.revision), whole(row.facts),
    whole(row.live_tokens), whole(row.lag && Object.values(row.lag).reduce((a, b) => a + b, 0)),
  ];
  setAttribute(node, "data-state", row.state);
  texts.forEach((text, i) => setText(node.children[i], text));
}

// sources

function showSources({ sources, totals, max_staleness: bound }) {
  at("sources-section").hidden = !sources.length;
  if (!sources.length) return;
  setText(at("sources-caption"),
    "Last heartbeat: since the last one that counted, at most. " +
    `Late beyond 2 s, or while a partition waits; silent beyond ${bound} s; unknown while no worker reports.`);
  const bad = sources.filter((source) => source.state === "silent" || source.state === "late");
  const advice = [bad.length ? sourcesAdvice(bad, bound) : "", ...sources.map(ignoredAdvice)].filter(Boolean).join(" ");
  at("sources-advice").hidden = !advice;
  setText(at("sources-advice"), advice);
  const body = at("sources").tBodies[0];
  while (body.rows.length > sources.length) body.deleteRow(-1);
  while (body.rows.length < sources.length) body.append(sourceRow());
  sources.forEach((source, i) => fillSource(body.rows[i], source, totals.partitions));
}

function sourcesAdvice(bad, bound) {
  const names = some(bad.map((source) => harmless(source.source)));
  const silent = bad.some((source) => source.state === "silent");
  return (silent
    ? `No heartbeat vouches that Kafka has all that happened in ${names}. Lookups of partitions that have waited longer than ${bound} s get 503, and so do unknown tokens. No lookup gets an old list. `
    : `Partitions wait for ${names}. Lookups are answered until that has lasted ${bound} s, but unknown tokens may get 503. `) +
    "Look at the feeder that sends its heartbeats: does it run, may it write to the topic sources, what does its log say? The runbook has more: Source silent.";
}

function ignoredAdvice({ source, ignored_by: partitions }) {
  if (!partitions.length) return "";
  return `Partitions ${some(partitions)} do not wait for ${harmless(source)}: set PROJECTOR_SOURCES alike for all workers.`;
}

function sourceRow() {
  const kinds = [["", "owner"], ["", "state"], ["last heartbeat", "number"], ["waiting", "wide"]];
  return element("tr", { role: "row" }, ...kinds.map(([label, kind], i) =>
    element(i ? "td" : "th", { scope: i ? null : "row", class: kind, "data-label": label || null, role: i ? "cell" : "rowheader" })));
}

function fillSource(node, { source, state, age, waiting }, partitions) {
  const named = waiting.length === partitions ? "all" : waiting.length ? `${waiting.length}: ${some(waiting)}` : "none";
  setAttribute(node, "data-state", state);
  [harmless(source), MARK[state] ?? harmless(state), duration(age), named].forEach((text, i) => setText(node.children[i], text));
}

// last minutes

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const WIDTH = 320;
const HEIGHT = 80;
const LEFT = 44;

function chart(where, description, ...parts) {
  if (where.dataset.drawn === description) return;
  where.dataset.drawn = description;
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": description, preserveAspectRatio: "xMinYMid meet" });
  svg.append(...parts);
  where.replaceChildren(svg);
}

function axis(y, label) {
  return [
    drawn("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y, y2: y }),
    drawn("text", { x: LEFT - 5, y: y + 3, "text-anchor": "end" }, label),
  ];
}

function showMinutes(minutes, bound) {
  const step = (WIDTH - LEFT) / minutes.length;
  const x = (i) => LEFT + step * (i + 0.5);
  drawLatencies(minutes, bound, x);
  drawEvents(minutes, x, step);
}

// A logarithmic scale shows both milliseconds and the bound.
function drawLatencies(minutes, bound, x) {
  const [low, high] = [Math.log10(0.001), Math.log10(Math.max(bound, 1))];
  const y = (seconds) => {
    const share = (Math.log10(Math.max(seconds, 0.001)) - low) / (high - low);
    return HEIGHT - 8 - Math.min(1, share) * (HEIGHT - 20);
  };
  const points = (name) => minutes.map((m, i) => (m[name] === null ? null : [x(i), y(m[name])]));
  const lines = ["p99", "p50"].flatMap((name) => path(points(name), name === "p99" ? "high" : "low"));
  const said = minutes.filter((m) => m.revocations).map((m) => `${latency(m.p99)} of ${m.revocations}`);
  chart(at("revocations"),
    said.length ? `99 % of revocations within, minute by minute: ${said.join("; ")}` : "No revocations in the last minutes",
    ...axis(y(0.001), "1 ms"), ...axis(y(0.1), "100 ms"), ...axis(y(bound), `${bound} s`), ...lines);
}

function path(points, kind) {
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
  const dots = kind === "high" ? points.filter(Boolean).map(([cx, cy]) => drawn("circle", { class: "dot", cx, cy, r: 2.5 })) : [];
  return [...parts, ...dots];
}

function drawEvents(minutes, x, step) {
  const most = Math.max(1, ...minutes.map((m) => m.events));
  const y = (number) => HEIGHT - 8 - (number / most) * (HEIGHT - 20);
  const bars = minutes.map((m, i) => drawn("rect", { class: "bar", x: (x(i) - step * 0.35).toFixed(1), width: (step * 0.7).toFixed(1), y: y(m.events).toFixed(1), height: (y(0) - y(m.events)).toFixed(1) }));
  chart(at("events"), `Events applied, minute by minute: ${minutes.map((m) => m.events).join(", ")}`,
    ...axis(y(0), "0"), ...axis(y(most), whole(most)), ...bars);
}

// dead letters

let lettersReadAt = null;

async function pollLetters() {
  const mine = round;
  while (asking && mine === round) {
    if (!document.hidden) await showLetters();
    await new Promise((resolve) => setTimeout(resolve, LETTERS_MS));
  }
}

async function showLetters() {
  try {
    const found = await ask("data/dead-letters", 2 * TIMEOUT_MS + 2000);
    if (!asking) return;
    if (found.error) showLettersTrouble(harmless(found.error));
    else fillLetters(found.letters, found.read_at);
  } catch (error) {
    if (asking) showLettersTrouble(error instanceof Refused ? error.message : "Dead letters could not be read.");
  }
}

function showLettersTrouble(reason) {
  setText(at("letters-note"), reason + (lettersReadAt ? ` What stands below is of ${moment(lettersReadAt)}.` : ""));
}

function fillLetters(letters, readAt) {
  lettersReadAt = readAt;
  setText(at("letters-note"), letters.length ? "" : "None: no event was refused.");
  at("letters").hidden = !letters.length;
  const key = JSON.stringify(letters);
  const body = at("letters").tBodies[0];
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...letters.map(letterRow));
}

function letterRow({ id, time, topic, partition, offset, reason }) {
  const place = topic === null ? "not said" : `${topic} ${partition ?? "?"}:${offset ?? "?"}`;
  return element("tr", { role: "row" },
    element("th", { scope: "row", class: "place", role: "rowheader", text: id }),
    element("td", { class: "time", role: "cell" }, element("bdi", { text: time ? moment(time) : "not said" })),
    element("td", { class: "place", role: "cell" }, foreign(place)),
    element("td", { class: "wide", role: "cell" }, foreign(reason ?? "not said")));
}

// explanation

let explaining = false;

async function explain(event) {
  event.preventDefault();
  const job = at("job").value.trim();
  const agent = at("agent").value.trim();
  if (explaining) return;
  explaining = true;
  setAttribute(at("question").querySelector("button"), "aria-disabled", "true");
  at("answer").replaceChildren(element("p", { class: "quiet", text: `Reading the facts about job ${job}…` }));
  try {
    const query = agent ? `?agent=${encodeURIComponent(agent)}` : "";
    const found = await ask(`data/jobs/${encodeURIComponent(job)}${query}`, EXPLANATION_TIMEOUT_MS);
    at("answer").replaceChildren(...inquired(found));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) showCredential(error.message);
    else at("answer").replaceChildren(element("p", { class: "sentence", text: error instanceof Refused ? error.message : "This process does not answer." }));
  } finally {
    explaining = false;
    setAttribute(at("question").querySelector("button"), "aria-disabled", "false");
  }
}

function eventOf(event) {
  if (!event) return null;
  return element("span", { class: "event" },
    element("bdi", { class: "code", text: `${event.topic} ${event.partition}:${event.offset}` }), ` ${moment(event.time)}`);
}

function entry(name, ...values) {
  return [element("dt", { text: name }), element("dd", {}, ...values)];
}

function inquired(inquiry) {
  const { explanation, view, agrees, notes, age } = inquiry;
  const served = view ? `Served now: ${view.status}, version ${view.version}` : "No view is stored: lookups get 401 once that is proven";
  const fresh = age === null ? "" : `; the facts are ${duration(age)} old`;
  return [
    ...explained(explanation),
    element("p", { class: agrees ? "quiet" : "wrong" }, foreign(served + fresh + (agrees ? "" : ". It differs from this explanation"))),
    ...notes.map((note) => element("p", { class: "wrong" }, foreign(note))),
    element("details", {}, element("summary", { text: "All of it, as JSON" }), json(inquiry)),
  ];
}

function explained(found) {
  const kind = found.status === 200 ? "allowed" : "refused";
  const parts = [
    element("p", { class: "sentence" }, foreign(found.sentence)),
    element("p", {},
      "Lookups get ", element("span", { class: `verdict ${kind}`, text: `${found.status}` }),
      foreign(answerOf(found)),
      element("span", { class: "quiet", text: ` Partition ${found.partition}, as of ${moment(found.at)}.` })),
  ];
  const facts = [...jobEntries(found.job), ...placeEntries(found), ...userEntries(found)];
  if (facts.length) parts.push(element("dl", {}, ...facts));
  if (found.agent) parts.push(element("h3", { text: `Agent ${found.agent.id}` }), ...agentDetails(found.agent));
  if (found.agents.length) parts.push(...everyAgent(found));
  return parts;
}

function json(found) {
  const pre = element("pre");
  pre.textContent = JSON.stringify(found, null, 2).split("\n").map(harmless).join("\n");
  return pre;
}

function answerOf({ status, rule, reason, agents, more_agents: more }) {
  if (status !== 200) return ` (${rule}): ${reason}.`;
  const allowed = agents.filter((agent) => agent.verdict === "allowed").map((agent) => agent.id);
  const others = more ? ", and perhaps more than are listed here" : "";
  return (allowed.length ? ` with agent${allowed.length > 1 ? "s" : ""} ${allowed.join(", ")}` : " with an empty list") + others + ".";
}

function everyAgent(found) {
  const title = `Every agent that reaches the project (${found.agents.length + found.more_agents})`;
  if (!found.agent) return [element("h3", { text: title }), agentTable(found)];
  return [element("details", {}, element("summary", { text: title }), agentTable(found))];
}

function jobEntries(job) {
  if (!job) return [];
  const environment = job.environment ? `, environment ${job.environment.name} (${job.environment.tier})` : ", no environment";
  const ends = job.finished ? ", finished" : job.expired ? `, expired ${moment(job.expires_at)}` : `, until ${moment(job.expires_at)}`;
  return entry("Job", foreign(`${job.id} of pipeline ${job.pipeline}, ${job.ref_protected ? "protected" : "unprotected"} ref${environment}${ends}`), eventOf(job.event));
}

function placeEntries({ project, groups }) {
  const place = (scope) => [foreign(`${scope.id} ${scope.path ?? ""}${scope.known ? "" : " (not known)"}`), eventOf(scope.event)];
  const parts = project ? entry("Project", ...place(project)) : [];
  for (const group of groups ?? []) parts.push(...entry("in group", ...place(group)));
  return parts;
}

function userEntries({ user, role }) {
  const parts = user ? entry("User", foreign(`${user.id} ${user.username}, ${user.state}`), eventOf(user.event)) : [];
  if (!role) return parts;
  const verdict = role.suffices ? ["allowed", "enough"] : ["refused", "too low"];
  parts.push(...entry("Role", foreign(`${role.role}; needed is ${role.required_role}: `), element("span", { class: `verdict ${verdict[0]}`, text: verdict[1] })));
  for (const one of role.memberships) {
    const state = one.decides ? "decides" : one.counts ? "counts" : "expired";
    parts.push(...entry("from", foreign(`${one.role} in ${one.scope} ${one.scope_id}, ${one.via}: ${state}`), eventOf(one.event)));
  }
  if (role.more) parts.push(...entry("", `and ${role.more} more memberships`));
  return parts;
}

const verdictOf = (agent) =>
  element("span", { class: `verdict ${agent.verdict === "allowed" ? "allowed" : "refused"}`, text: agent.verdict === "allowed" ? "✓ allowed" : "✗ refused" });

function wayOf(agent) {
  if (!agent.source) return "does not reach the project";
  return agent.source.replaceAll("_", " ") + (agent.group ? ` of group ${agent.group}` : "");
}

function agentDetails(agent) {
  const events = [["agent", agent.event], ["its grants", agent.configuration_event], ["its project", agent.config_project_event]];
  const lists = [
    ...(agent.lost ?? []).map((way) => `lost to a closer way: ${wayOf(way)}. ${way.sentence}`),
    ...(agent.left_out ?? []).map((text) => `left out: ${text}`),
    ...(agent.grants ?? []).map((text) => `it grants: ${text}`),
    ...(agent.more_grants ? [`and ${agent.more_grants} more grants`] : []),
  ];
  return [
    element("p", {}, verdictOf(agent), " ", foreign(agent.sentence)),
    element("dl", {},
      ...entry("Name", foreign(agent.name ?? "not known")),
      ...entry("By", foreign(wayOf(agent))),
      ...(agent.rule ? entry("Rule", foreign(agent.rule)) : []),
      ...(agent.configuration ? entry("Configuration", element("code", { text: JSON.stringify(agent.configuration) })) : []),
      ...events.filter(([, event]) => event).flatMap(([name, event]) => entry(`Event: ${name}`, eventOf(event)))),
    ...(lists.length ? [element("ul", {}, ...lists.map((text) => element("li", {}, foreign(text))))] : []),
  ];
}

function agentTable({ agents, more_agents: more }) {
  const heads = ["Agent", "Verdict", "Why", "By", "Last changed by"].map((text) => element("th", { scope: "col", text }));
  const body = agents.map((agent) => element("tr", { role: "row" },
    element("th", { scope: "row", role: "rowheader" }, foreign(`${agent.id} ${agent.name ?? ""}`)),
    element("td", { role: "cell" }, verdictOf(agent)),
    element("td", { role: "cell", class: "wide" }, foreign(agent.sentence), agent.rule ? element("span", { class: "quiet", text: ` rule ${agent.rule}` }) : null),
    element("td", { role: "cell" }, foreign(wayOf(agent))),
    element("td", { role: "cell", class: "wide" }, eventOf(agent.configuration_event ?? agent.event))));
  const table = element("table", {},
    element("caption", { text: more ? `The first ${agents.length}; ${more} more are not listed.` : "In the order of the answer." }),
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
  return element("div", { class: "cards" }, table);
}

// start

at("credential-form").addEventListener("submit", enter);
at("question").addEventListener("submit", explain);
at("leave").addEventListener("click", () => showCredential(""));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && asking) pollOnce();
});

try {
  const { token_needed: needed } = await ask("access");
  if (needed) showCredential("");
  else begin();
} catch (error) {
  showSilence(error instanceof Refused ? error.message : "This process does not answer.");
}
