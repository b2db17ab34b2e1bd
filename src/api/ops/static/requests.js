// Requests for the page's data.
// The token is kept in this variable alone. Storage of the origin could be read by its other pages,
// and /docs loads scripts from elsewhere.
import { harmless } from "./dom.js";

let token = null;

export const TIMEOUT_MS = 6000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useToken(given) {
  token = given;
}

export const hasToken = () => token !== null;

export async function ask(path, timeout = TIMEOUT_MS) {
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
