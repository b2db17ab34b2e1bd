// The search: sends ids alone, and shows the answer.
import { at, element, prose, setAttribute, setText } from "./dom.js";
import { inquired } from "./explanation.js";
import { Refused, ask } from "./requests.js";

const TIMEOUT_MS = 40000;
const UNANSWERED = "The server of this page does not answer.";
// As in board.css: on a phone the events are hidden at first.
const WIDE = "(min-width: 44rem)";

let explaining = false;

export function startQuestions(refuseToken) {
  at("question").addEventListener("submit", (event) => explain(event, refuseToken));
  at("events-behind").addEventListener("click", () => showEvents(!areEventsShown()));
  showEvents(matchMedia(WIDE).matches);
}

export function forgetAnswer() {
  answer();
}

async function explain(event, refuseToken) {
  event.preventDefault();
  const job = at("job").value.trim();
  const agent = at("agent").value.trim();
  if (explaining) return;
  explaining = true;
  setAttribute(at("question").querySelector("button"), "aria-disabled", "true");
  answer(element("p", { class: "quiet", text: `Reading the facts about job ${job}…` }));
  try {
    const query = agent ? `?agent=${encodeURIComponent(agent)}` : "";
    const found = await ask(`data/jobs/${encodeURIComponent(job)}${query}`, TIMEOUT_MS);
    answer(...inquired(found));
    at("events-behind").hidden = !at("answer").querySelector(".event");
  } catch (error) {
    showRefusal(error, refuseToken);
  } finally {
    explaining = false;
    setAttribute(at("question").querySelector("button"), "aria-disabled", "false");
  }
}

function showRefusal(error, refuseToken) {
  if (error instanceof Refused && error.status === 401) {
    refuseToken(error.message);
    return;
  }
  answer(element("p", { class: "sentence" }, prose(error instanceof Refused ? error.message : UNANSWERED)));
  if (!(error instanceof Refused)) reportError(error);
}

function answer(...parts) {
  at("answer").replaceChildren(...parts);
  at("events-behind").hidden = true;
}

const areEventsShown = () => at("events-behind").getAttribute("aria-expanded") === "true";

function showEvents(shown) {
  setAttribute(at("events-behind"), "aria-expanded", String(shown));
  setText(at("events-behind"), shown ? "Hide the events behind it" : "Show the events behind it");
  at("answer").toggleAttribute("data-events", shown);
}
