// The operators' page: asks for the token, reads data every second, orders the sections.
import { hideSilence, isAlarming, showAlarm, showSilence, summarize } from "./alarm.js";
import { at, setText } from "./dom.js";
import { clearHeader, dataAge, serverNow, showHeader } from "./header.js";
import { showLetters, showLettersTrouble } from "./letters.js";
import { showMinutes } from "./minutes.js";
import { showPartitions, toggleAll, wantsAll } from "./partitions.js";
import { forgetAnswer, startQuestions } from "./question.js";
import { Refused, TIMEOUT_MS, ask, hasToken, useToken } from "./requests.js";
import { showSources } from "./sources.js";
import { showTotals } from "./tiles.js";

const STATUS_MS = 1000;
const LETTERS_MS = 10000;
const UNANSWERED = "It does not answer: does the process run, and does the way to it work?";

let asking = false;
let round = 0;
let answeredAt = null;

const isTokenRefused = (error) => error instanceof Refused && [401, 429].includes(error.status);
const reasonOf = (error) => (error instanceof Refused ? error.message : UNANSWERED);

// token

function showCredential(wrong) {
  useToken(null);
  asking = false;
  answeredAt = null;
  for (const id of ["board", "alarm", "leave", "silence"]) at(id).hidden = true;
  forgetAnswer();
  clearHeader();
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
  useToken(given);
  try {
    show(await ask("data/status"));
  } catch (error) {
    if (isTokenRefused(error)) {
      showCredential(error.message);
      return;
    }
    showSilence(reasonOf(error), null, error instanceof Refused);
  }
  begin();
}

function begin() {
  at("credential").hidden = true;
  at("board").hidden = false;
  at("leave").hidden = !hasToken();
  if (hasToken()) at("job").focus();
  if (!asking) {
    asking = true;
    poll();
    pollLetters();
  }
}

// data

async function poll() {
  const mine = ++round;
  while (asking && mine === round) {
    if (!document.hidden) await pollOnce();
    await new Promise((resolve) => setTimeout(resolve, STATUS_MS));
  }
}

async function pollOnce() {
  try {
    const status = await ask(wantsAll() ? "data/status?partitions=all" : "data/status");
    if (asking) show(status);
  } catch (error) {
    if (!asking) return;
    if (error instanceof Refused && error.status === 401) showCredential(error.message);
    else {
      showSilence(reasonOf(error), answeredAt, error instanceof Refused);
      at("board").dataset.old = "";
    }
  }
}

function show(status) {
  showHeader(status);
  answeredAt = serverNow();
  hideSilence();
  showAlarm(status);
  // Without Redis there are causes alone; the data of before remains, and looks old.
  const known = Boolean(status.totals);
  at("board").toggleAttribute("data-old", !known);
  at("known").hidden = dataAge() === null;
  if (known) {
    showTotals(status);
    showSources(status);
    showPartitions(status);
    showMinutes(status.minutes, status.max_staleness);
  }
  orderSections(isAlarming(status.causes));
}

// The search comes first while all is well. It stays where it is while someone uses it.
function orderSections(alarming) {
  const search = at("question-section");
  const isUsed = search.contains(document.activeElement) || at("answer").childElementCount;
  const before = alarming ? null : at("known");
  if (isUsed || search.nextElementSibling === before) return;
  at("board").insertBefore(search, before);
}

async function pollLetters() {
  const mine = round;
  while (asking && mine === round) {
    if (!document.hidden) await readLetters();
    await new Promise((resolve) => setTimeout(resolve, LETTERS_MS));
  }
}

async function readLetters() {
  try {
    const found = await ask("data/dead-letters", 2 * TIMEOUT_MS + 2000);
    if (!asking) return;
    if (found.error) showLettersTrouble(found.error);
    else showLetters(found);
  } catch (error) {
    if (asking) showLettersTrouble(error instanceof Refused ? error.message : "Dead letters could not be read.");
  }
}

// start

at("credential-form").addEventListener("submit", enter);
at("leave").addEventListener("click", () => showCredential(""));
at("show-all").addEventListener("click", () => {
  toggleAll();
  pollOnce();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !asking) return;
  pollOnce();
  readLetters();
});
startQuestions(showCredential);

try {
  const { token_needed: needed } = await ask("access");
  if (needed) showCredential("");
  else begin();
} catch (error) {
  showSilence(reasonOf(error), null, error instanceof Refused);
}
