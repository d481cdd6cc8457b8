// What a browser does at a front door; each part says what it saw, and the last request reports it.
"use strict";

const SQUARES = 60;
const EVENTS = 12; // more than one stream has: the browser must come again
const FRAMES = [0, 1, 125, 126, 65535, 65536, 1 << 20];

async function stylesheet() {
  const colour = getComputedStyle(document.getElementById("said")).color;
  if (colour !== "rgb(1, 2, 3)") throw new Error(colour);
  return colour;
}

async function squares() {
  const load = (number) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth);
    image.onerror = () => reject(new Error(`square ${number}`));
    image.src = `/square/${number}`;
  });
  const widths = await Promise.all(Array.from({ length: SQUARES }, (_, number) => load(number)));
  if (widths.some((width) => width !== 9)) throw new Error(String(widths));
  return widths.length;
}

async function large() {
  const body = await (await fetch("/large")).arrayBuffer();
  if (body.byteLength !== 4 << 20) throw new Error(String(body.byteLength));
  return body.byteLength;
}

async function form() {
  const fields = new FormData();
  fields.set("name", "Žluťoučký kůň");
  fields.set("file", new Blob([new Uint8Array(200000)]), "zeros");
  const told = await (await fetch("/form", { method: "POST", body: fields })).json();
  if (!told.type.startsWith("multipart/form-data") || told.length < 200000) {
    throw new Error(JSON.stringify(told));
  }
  const plain = new URLSearchParams({ a: "1", b: "ä &" });
  const said = await (await fetch("/form", { method: "POST", body: plain })).json();
  if (said.text !== plain.toString()) throw new Error(said.text);
  return told.length;
}

async function events() {
  return new Promise((resolve, reject) => {
    const seen = [];
    const source = new EventSource("/events");
    setTimeout(() => reject(new Error(`events ${seen}`)), 15000);
    source.onmessage = (event) => {
      seen.push(Number(event.lastEventId));
      if (seen.length < EVENTS) return;
      source.close();
      const inOrder = seen.every((number, at) => number === at + 1);
      if (inOrder) resolve(seen.length); else reject(new Error(String(seen)));
    };
  });
}

async function websocket() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    const sizes = [];
    const next = () => socket.send(new Uint8Array(FRAMES[sizes.length]).fill(7));
    socket.onopen = next;
    socket.onmessage = (message) => {
      sizes.push(message.data.byteLength);
      if (sizes.length < FRAMES.length) next(); else socket.close(4001, "done");
    };
    socket.onclose = (close) => {
      const well = String(sizes) === String(FRAMES) && close.code === 4001 && close.wasClean;
      if (well) resolve(sizes.length);
      else reject(new Error(`${sizes} ${close.code} ${close.wasClean}`));
    };
  });
}

const said = {};
for (const part of [stylesheet, squares, large, form, events, websocket]) {
  try {
    said[part.name] = { well: true, saw: await part() };
  } catch (error) {
    said[part.name] = { well: false, saw: String(error) };
  }
}
const timings = [
  ...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource"),
];
said.protocols = {};
for (const { nextHopProtocol } of timings) {
  said.protocols[nextHopProtocol] = (said.protocols[nextHopProtocol] ?? 0) + 1;
}
document.getElementById("said").textContent = "done";
await fetch("/report", { method: "POST", body: JSON.stringify(said) });
