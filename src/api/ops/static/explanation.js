// A decision in sentences, with the events behind it.
import { element, foreign, harmless } from "./dom.js";
import { duration, moment } from "./format.js";

function eventOf(event) {
  if (!event) return null;
  return element("span", { class: "event" },
    element("bdi", { class: "code", text: `${event.topic} ${event.partition}:${event.offset}` }), ` ${moment(event.time)}`);
}

function entry(name, ...values) {
  return [element("dt", { text: name }), element("dd", {}, ...values)];
}

// An entry that names an event alone is hidden with the events.
function eventEntry(name, event) {
  if (!event) return [];
  return [element("dt", { class: "reference", text: name }), element("dd", { class: "reference" }, eventOf(event))];
}

export function inquired(inquiry) {
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
      ...events.flatMap(([name, event]) => eventEntry(`Event: ${name}`, event))),
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
