// An edge node with one device, made with npm sparkplug-client: node sparkplug_client.js PORT GROUP NODE DEVICE
// It answers a rebirth request as the library asks of its user, carries out what a host writes to its device, and reports
// it. Each command that it receives is one JSON line on stdout. Lines on stdin:
//   {"do": "data", "metric": "pressure", "type": "Double", "value": 112.5}
//   {"do": "death"}                     the device dies, the node lives
"use strict";
const readline = require("readline");
const [port, groupId, edgeNode, device] = process.argv.slice(2);

const client = require("sparkplug-client").newClient({
  serverUrl: `mqtt://127.0.0.1:${port}`, username: "any", password: "any", groupId, edgeNode,
  clientId: `${groupId}-${edgeNode}`, version: "spBv1.0", publishDeath: true,
});
const show = (event, fields) => process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
const now = () => Date.now();

const metrics = [
  { name: "pressure", type: "Double", value: 110, properties: {
    engUnit: { type: "String", value: "bar" }, engLow: { type: "Double", value: 0 }, engHigh: { type: "Double", value: 250 } } },
  { name: "setpoint", type: "Double", value: 110 },
  { name: "running", type: "Boolean", value: true },
  { name: "count", type: "UInt32", value: 4000000000 },
  { name: "program", type: "String", value: "door left" },
  { name: "offset", type: "Int8", value: -5 },
];

function birth() {
  client.publishNodeBirth({ timestamp: now(), metrics: [
    { name: "Node Control/Rebirth", type: "Boolean", value: false, timestamp: now() },
    { name: "Properties/Hardware", type: "String", value: "interop", timestamp: now() } ] });
  client.publishDeviceBirth(device, { timestamp: now(), metrics: metrics.map((one) => ({ ...one, timestamp: now() })) });
}

function data(name, value) {
  const known = metrics.find((one) => one.name === name);
  known.value = value;
  client.publishDeviceData(device, { timestamp: now(), metrics: [{ name, type: known.type, value, timestamp: now() }] });
}

client.on("birth", () => { birth(); show("started"); });
client.on("ncmd", (payload) => {
  for (const one of payload.metrics || []) {
    show("ncmd", { metric: one.name, value: one.value });
    if (one.name === "Node Control/Rebirth" && one.value) birth();
  }
});
client.on("dcmd", (id, payload) => {
  for (const one of payload.metrics || []) {
    show("dcmd", { device: id, metric: one.name, value: one.value });
    if (metrics.some((known) => known.name === one.name)) data(one.name, one.value);
  }
});

readline.createInterface({ input: process.stdin })
  .on("line", (line) => {
    const request = JSON.parse(line);
    if (request.do === "death") client.publishDeviceDeath(device, { timestamp: now() });
    else data(request.metric, request.value);
  })
  .on("close", () => client.stop());
