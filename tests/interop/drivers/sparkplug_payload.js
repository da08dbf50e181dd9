// Encodes and decodes Sparkplug payloads with npm sparkplug-payload: one JSON request a line on stdin, one JSON answer
// on stdout. Run by `node` with NODE_PATH at .venv-interop/node_modules. 64-bit integers and times (ms) are decimal
// strings in the JSON, bytes are hexadecimal.
"use strict";
const readline = require("readline");
const Long = require("long");
const codec = require("sparkplug-payload").get("spBv1.0");

const LARGE = { Int64: false, UInt64: true, DateTime: true };
const isLong = (value) => Long.isLong(value);

function toJs(type, value) {
  if (value === null || value === undefined) return value;
  if (type in LARGE) return Long.fromString(value, LARGE[type]);
  if (type === "Bytes" || type === "File") return Buffer.from(value, "hex");
  if (type === "DataSet")
    return { ...value, numOfColumns: value.columns.length,
      rows: value.rows.map((row) => row.map((cell, at) => toJs(value.types[at], cell))) };
  if (type === "Template")
    return { ...value, metrics: value.metrics.map(metric),
      parameters: value.parameters.map((one) => ({ ...one, value: toJs(one.type, one.value) })) };
  return value;
}

function toJson(value) {
  if (value === undefined || value === null) return null;
  if (isLong(value)) return value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, toJson(one)]));
  return value;
}

function metric(row) {
  const made = { name: row.name, type: row.type, value: toJs(row.type, row.value) };
  if (row.alias !== undefined && row.alias !== null) made.alias = row.alias;
  if (row.timestamp) made.timestamp = row.timestamp;
  if (row.historical) made.isHistorical = true;
  if (row.transient) made.isTransient = true;
  if (row.properties) made.properties = row.properties;
  return made;
}

function encode(request) {
  const payload = { timestamp: request.timestamp, seq: request.seq, metrics: request.metrics.map(metric) };
  return { bytes: Buffer.from(codec.encodePayload(payload)).toString("hex") };
}

function decode(request) {
  const payload = codec.decodePayload(Buffer.from(request.bytes, "hex"));
  const metrics = (payload.metrics || []).map((one) => ({
    name: one.name === undefined ? null : one.name,
    alias: isLong(one.alias) ? one.alias.toNumber() : one.alias === undefined ? null : one.alias,
    timestamp: one.timestamp === undefined ? null : Number(one.timestamp),
    type: one.type === undefined ? null : one.type,
    value: toJson(one.value),
    historical: one.isHistorical === true,
    transient: one.isTransient === true,
    properties: toJson(one.properties),
  }));
  return { timestamp: Number(payload.timestamp), seq: Number(payload.seq), metrics };
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = request.do === "encode" ? encode(request) : decode(request);
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
