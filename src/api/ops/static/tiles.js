// Totals of the deployment.
import { at, element, setText } from "./dom.js";
import { latency, rate, whole } from "./format.js";

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

export function showTotals({ totals, dead_letters: letters, replayed, lookups }) {
  const { rates } = totals;
  const others = ["late", "stale", "unclaimed"].filter((state) => totals[state]);
  tile("Fresh", `${totals.fresh} of ${totals.partitions}`, others.map((state) => `${totals[state]} ${state}`).join(", ") || "partitions");
  tile("Live tokens", whole(totals.live_tokens), `${whole(totals.facts)} facts`);
  tile("Events / s", rate(rates.events), `${rate(rates.views)} views, ${rate(rates.refused)} refused`);
  tile("Revoked in", latency(rates.revocation_p99), rates.revocations ? `99 % of ${whole(rates.revocations)}` : "last 5 min");
  tile("Lag", totals.lag === null ? "?" : whole(totals.lag), totals.lag === null ? "not known" : "records");
  tile("Dead letters", whole(letters), letters === null ? "not known" : replayed ? `${whole(replayed)} replayed` : "in Kafka");
  if (lookups) {
    const statuses = Object.keys(lookups).filter((status) => lookups[status]).sort();
    const total = statuses.reduce((sum, status) => sum + lookups[status], 0);
    tile("Lookups", whole(total), statuses.map((status) => `${status}:\u00a0${whole(lookups[status])}`).join(" · ") || "since the start");
  }
}
