#!/usr/bin/env node
// The example of taking_part.py for Node: the same paths, headers, answers and tables.
//
//     node taking_part.mjs --region eu-west-1 --listen 127.0.0.1:3000 --database postgres:///app
//
// Needs: npm install pg, and a PostgreSQL that has `synchronous_standby_names` set. The tables are
// made by `taking_part.py --create`.

import http from "node:http";
import { parseArgs } from "node:util";
import pg from "pg";

// Whether this is a replica, epoch, position, lag in ms: taking_part.py explains it. All as text:
// the position has 64 bits.
const STATE = `
SELECT pg_is_in_recovery() AS replica,
       (CASE WHEN pg_is_in_recovery() THEN (SELECT epoch FROM meridian_heartbeat)
             ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
        END)::text AS epoch,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
             ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint::text AS position,
       (SELECT greatest(0, ceil(1000 * extract(epoch FROM clock_timestamp() - at)))::bigint
        FROM meridian_heartbeat)::text AS lag`;

const HEARTBEAT = `
INSERT INTO meridian_heartbeat VALUES (true, $1, clock_timestamp())
ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, at = excluded.at`;

const WRITE = `
INSERT INTO notes VALUES ($1, 1, $2)
ON CONFLICT (key) DO UPDATE SET version = notes.version + 1, value = excluded.value
RETURNING version`;

const HEARTBEAT_MS = 100;
const LEASE_MS = 2000; // whoever promotes a replica while the primary may live waits for longer
const BODY_BYTES = 64 * 1024;

const { values: options } = parseArgs({
  options: {
    region: { type: "string" },
    listen: { type: "string", default: "127.0.0.1:3000" },
    database: { type: "string", default: "" },
    "no-fencing": { type: "boolean", default: false },
  },
});
if (!options.region) throw new Error("--region is missing");
const fencing = !options["no-fencing"];

class NotPrimary extends Error {}
class TooLong extends Error {}

const pool = new pg.Pool({ connectionString: options.database, max: 20 });
pool.on("error", () => {}); // an idle connection that broke is replaced by the pool
let highest = 0n; // epoch that an edge has named
let said = 0n; // epoch that this has named
let confirmed = -Infinity; // when the last heartbeat began that a replica confirmed

async function stateOf(client) {
  let { replica, epoch, position, lag } = (await client.query(STATE)).rows[0];
  // A copy of another server, which has not come as far yet. An epoch is not taken back.
  if (epoch !== null && BigInt(epoch) < said) epoch = position = null;
  else if (epoch !== null) said = BigInt(epoch);
  const leased = performance.now() - confirmed < LEASE_MS || !fencing;
  const primary = !replica && leased;
  return { role: primary ? "primary" : "replica", epoch, position, lag: primary ? "0" : lag };
}

/** Runs `work` with a connection; one that failed is not used again. */
async function connected(work) {
  const client = await pool.connect();
  let failure;
  try {
    return await work(client);
  } catch (error) {
    failure = error;
    throw error;
  } finally {
    client.release(failure instanceof NotPrimary ? undefined : failure);
  }
}

/** It resolves only when a replica has the commit as well. */
async function write(client, id, key, value, wanted) {
  await client.query(fencing ? "BEGIN" : "BEGIN; SET LOCAL synchronous_commit = local");
  const state = await stateOf(client); // of the server that is about to commit
  if (wanted !== undefined && wanted > highest) highest = wanted;
  const epoch = BigInt(state.epoch ?? 0);
  const current = state.role === "primary" && (wanted === undefined || wanted === epoch);
  if (fencing && !(current && epoch && epoch >= highest)) {
    await client.query("ROLLBACK");
    throw new NotPrimary();
  }
  const version = Number((await client.query(WRITE, [key, value])).rows[0].version);
  const entry = [id, key, version, options.region, state.epoch];
  await client.query("INSERT INTO applied VALUES ($1, $2, $3, $4, $5)", entry);
  await client.query("COMMIT");
  return { key, version, region: options.region, epoch: Number(state.epoch) };
}

/** What a replica has replayed of this tells its lag; that one has it, the lease. */
async function beat() {
  const begun = performance.now();
  try {
    await connected(async (client) => {
      const { replica, epoch } = (await client.query(STATE)).rows[0];
      if (replica) return;
      await client.query(HEARTBEAT, [epoch]);
      confirmed = begun;
    });
  } catch {
    // The next one makes a new connection.
  }
  setTimeout(beat, HEARTBEAT_MS);
}

function answer(response, status, body, state) {
  const content = `${JSON.stringify(body)}\n`;
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(content) };
  if (state) {
    headers["Meridian-Role"] = state.role;
    if (state.epoch !== null) headers["Meridian-Epoch"] = state.epoch;
    if (state.position !== null) headers["Meridian-Position"] = state.position;
    if (state.lag !== null) headers["Meridian-Lag-Ms"] = state.lag;
  }
  response.writeHead(status, headers).end(content);
}

/** JSON with plain digits: a position may be larger than a double can hold. */
function statusText({ role, epoch, position, lag }) {
  return `{"role": "${role}", "epoch": ${epoch}, "position": ${position}, "lag_ms": ${lag}}\n`;
}

async function bodyOf(request) {
  let body = "";
  for await (const part of request.setEncoding("utf8")) {
    body += part;
    if (body.length > BODY_BYTES) throw new TooLong();
  }
  return body;
}

const keyOf = (path) => /^\/notes\/([^/]+)$/.exec(path)?.[1];

async function get(request, response) {
  const key = keyOf(request.url);
  if (request.url === "/meridian/status") {
    const state = await connected(stateOf);
    const headers = { "Content-Type": "application/json" };
    response.writeHead(200, headers).end(statusText(state));
  } else if (request.url === "/health") {
    await connected(stateOf);
    answer(response, 200, { region: options.region });
  } else if (key) {
    await connected(async (client) => {
      const found = await client.query("SELECT version, value FROM notes WHERE key = $1", [key]);
      const state = await stateOf(client); // after the read: it covers all that the answer shows
      const { version, value } = found.rows[0] ?? { version: 0, value: "" };
      const body = { key, version: Number(version), value, region: options.region };
      answer(response, body.version ? 200 : 404, body, state);
    });
  } else {
    answer(response, 404, { error: "no such path" });
  }
}

async function post(request, response) {
  const key = keyOf(request.url);
  let asked;
  try {
    asked = JSON.parse(await bodyOf(request));
  } catch (error) {
    if (error instanceof TooLong) return answer(response, 413, { error: "too long" });
  }
  if (!key || typeof asked !== "object" || asked?.id === undefined || asked.value === undefined) {
    return answer(response, 400, { error: 'a note is {"id": ..., "value": ...}' });
  }
  const told = request.headers["meridian-epoch"];
  const wanted = told === undefined ? undefined : BigInt(told);
  try {
    await connected(async (client) => {
      const done = await write(client, String(asked.id), key, String(asked.value), wanted);
      const state = await stateOf(client); // after the commit: it covers it
      answer(response, 201, done, state);
    });
  } catch (error) {
    if (!(error instanceof NotPrimary)) throw error;
    answer(response, 421, { error: "not the primary of this epoch" }, await connected(stateOf));
  }
}

const server = http.createServer(async (request, response) => {
  try {
    if (request.method === "GET") await get(request, response);
    else if (request.method === "POST") await post(request, response);
    else answer(response, 405, { error: "GET or POST" });
  } catch (error) {
    if (!response.headersSent) answer(response, 503, { error: error.code ?? error.name });
  }
});
const [, host, port] = /^(.*):(\d+)$/.exec(options.listen);
server.listen({ host, port: Number(port), backlog: 1024 });
beat();
