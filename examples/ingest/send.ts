// Send the events on standard input, a JSON array, to `projector ingest`:
//   npx tsc && INGEST_URL=http://127.0.0.1:8002 INGEST_TOKEN=... node send.js < events.json
import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

const TRIES = 10;

interface Finding {
  index: number;
  reason: string;
}

interface Answer {
  message?: string;
  errors?: Finding[];
  warnings?: Finding[];
}

// Sends until taken or refused; a `sequence` keeps late repeats harmless.
async function send(events: string): Promise<Response> {
  let reason = "";
  for (let tried = 0; tried < TRIES; tried++) {
    let wait = 1;
    try {
      const response = await fetch(`${process.env.INGEST_URL}/events`, {
        method: "POST",
        headers: {
          Authorization: `Bearer ${process.env.INGEST_TOKEN}`,
          "Content-Type": "application/cloudevents-batch+json",
          Prefer: "wait=5", // answer once lookups see the events
        },
        body: events,
        signal: AbortSignal.timeout(30_000),
      });
      if (response.status < 500 && ![408, 429].includes(response.status)) return response;
      wait = Number(response.headers.get("Retry-After") ?? wait);
      reason = await response.text();
    } catch (error) {
      reason = String(error);
    }
    await setTimeout(wait * 1000);
  }
  throw new Error(`not sent after ${TRIES} tries: ${reason}`);
}

const response = await send(readFileSync(0, "utf8"));
const body = await response.text();
const found: Answer = body ? JSON.parse(body) : {};
for (const { index, reason } of [...(found.warnings ?? []), ...(found.errors ?? [])]) {
  console.error(`event ${index}: ${reason}`);
}
if (!response.ok) {
  console.error(`${response.status}: ${found.message}`);
  process.exitCode = 1;
}
