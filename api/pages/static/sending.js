// Sends a file in parts, so that a broken connection costs one part. XMLHttpRequest says how far it is; fetch does not.

import { get, post, Problem, Unreachable } from "./api.js";
import { session } from "./session.js";

const PART_BYTES = 8 << 20;
const TRIES = 5;

/** Sends a `File`; gives the id of its upload. `heard(bytes)` is called with how many have been sent; `signal` stops it. */
export async function send(file, heard, signal) {
  const { id } = await post(`/v1/uploads?bytes=${file.size}`);
  let offset = 0;
  let failures = 0;
  while (offset < file.size) {
    signal.throwIfAborted();
    try {
      const part = file.slice(offset, offset + PART_BYTES);
      const began = offset;
      offset = (await put(`/v1/uploads/${id}?offset=${offset}`, part, (sent) => heard(began + sent), signal)).offset;
      failures = 0;
    } catch (error) {
      failures += 1;
      const passes = error instanceof Unreachable || error.status >= 500 || error.status === 409;
      if (!passes || failures >= TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** failures));
      offset = (await get(`/v1/uploads/${id}`)).offset; // what has arrived meanwhile
    }
  }
  heard(file.size);
  return id;
}

async function put(path, part, heard, signal) {
  const token = (await session())?.csrf_token;
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", path);
    request.setRequestHeader("content-type", "application/octet-stream");
    if (token) request.setRequestHeader("x-csrf-token", token);
    request.upload.addEventListener("progress", (event) => heard(event.loaded));
    request.addEventListener("error", () => reject(new Unreachable("The service does not answer.")));
    request.addEventListener("abort", () => reject(signal.reason));
    request.addEventListener("load", () => {
      let body = {};
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // a proxy answered
      }
      if (request.status < 300) resolve(body);
      else reject(new Problem(request.status, body));
    });
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(part);
  });
}
