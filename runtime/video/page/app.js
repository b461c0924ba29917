"use strict";

// The picture, its figures and its controls. All of it comes over one WebSocket; see runtime/video/page_server.py.

const $ = (id) => document.getElementById(id);
const NOTE_MS = 6000;
const KEPT = 240; // points of the plot, two minutes
const SLIDE_MS = 100; // between two messages while a slider moves

let socket = null;
let state = null;
let after = null; // ImageBitmap of the newest frame
let before = null; // the same frame before all stages
let number = 0; // of that frame
let skipped = 0; // frames that did not come here since the last point
let shown = 0; // frames that did
let points = [];
let retry = 500; // ms

// --- the connection -----------------------------------------------------------------------------

function connect() {
  socket = new WebSocket(`ws://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    retry = 500;
    number = 0;
    points = []; // all of them come again
    sendView();
  };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") heard(JSON.parse(event.data));
    else receive(event.data).catch(() => seen());
  };
  socket.onclose = () => {
    if (!state || !state.ended) status("lost", "no connection");
    setTimeout(reconnect, retry);
    retry = Math.min(5000, 2 * retry);
  };
}

// Another run may be there by now, with another token.
function reconnect() {
  fetch("/app.js", { method: "HEAD" }).then(
    (answer) => (answer.status === 401 ? location.reload() : connect()),
    () => {
      setTimeout(reconnect, retry);
      retry = Math.min(5000, 2 * retry);
    },
  );
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function heard(message) {
  if (message.type === "state") applyState(message);
  else if (message.type === "stats") addPoints(message.points);
  else if (message.type === "note") note(message.text, message.bad);
}

function status(kind, text) {
  $("status").dataset.kind = kind;
  $("status").textContent = text;
}

function note(text, bad) {
  const line = document.createElement("div");
  line.className = bad ? "note bad" : "note";
  line.textContent = text;
  $("notes").append(line);
  while ($("notes").children.length > 3) $("notes").firstChild.remove();
  setTimeout(() => line.remove(), bad ? 2 * NOTE_MS : NOTE_MS);
}

// --- the picture --------------------------------------------------------------------------------

async function receive(data) {
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  let offset = 4 + length;
  const bitmaps = [];
  for (const size of header.lengths) {
    const jpeg = new Blob([new Uint8Array(data, offset, size)], { type: "image/jpeg" });
    bitmaps.push(await createImageBitmap(jpeg));
    offset += size;
  }
  for (const old of [after, before]) if (old) old.close();
  [after, before = null] = bitmaps;
  if (number && header.number > number + 1) skipped += header.number - number - 1;
  if (header.number !== number) shown += 1;
  number = header.number;
  $("facts").textContent = `${header.width} × ${header.height} · ${clock(header.pts)}`;
  $("facts").dataset.number = header.number;
  $("snapshot").removeAttribute("aria-disabled");
  $("frame").hidden = false;
  $("empty").hidden = true;
  draw();
  seen();
}

// The next picture comes after this. A page that nobody sees asks for none.
function seen() {
  if (document.hidden) document.addEventListener("visibilitychange", seen, { once: true });
  else requestAnimationFrame(() => send({ seen: number }));
}

function draw() {
  if (!after) return;
  const canvas = $("picture");
  if (canvas.width !== after.width || canvas.height !== after.height) {
    canvas.width = after.width;
    canvas.height = after.height;
    $("frame").style.setProperty("--aspect", after.width / after.height);
  }
  canvas.style.width = $("full").checked ? `${after.width / devicePixelRatio}px` : "";
  const context = canvas.getContext("2d");
  context.drawImage(after, 0, 0);
  if (before && !$("split").hidden) {
    const width = (canvas.width * $("split").value) / 100;
    context.save();
    context.beginPath();
    context.rect(0, 0, width, canvas.height);
    context.clip();
    context.imageSmoothingQuality = "high";
    context.drawImage(before, 0, 0, canvas.width, canvas.height);
    context.restore();
  }
}

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function comparing() {
  return Boolean(state && state.compares && $("compare").checked);
}

function sendView() {
  send({ view: { before: comparing(), full: $("full").checked } });
}

function showView() {
  for (const id of ["split", "tag-before", "tag-after"]) $(id).hidden = !comparing();
  $("stage").classList.toggle("full", $("full").checked);
  sendView();
  draw();
}

$("compare").addEventListener("change", () => {
  if (comparing() && $("split").value === "0") $("split").value = 50;
  showView();
});
$("full").addEventListener("change", showView);
$("split").addEventListener("input", draw);

// --- the plot -----------------------------------------------------------------------------------

function addPoints(more) {
  // what was left out on the way here is known here only
  for (const point of more) Object.assign(point, { skipped: 0 });
  const last = more[more.length - 1];
  if (last) {
    last.skipped = skipped;
    last.shown = shown;
  }
  skipped = shown = 0;
  points = points.concat(more).slice(-KEPT);
  drawPlots();
}

const sum = (values) => values.reduce((total, value) => total + (value || 0), 0);
const left = (point) => point.dropped + point.skipped;

function latencyOf(point) {
  if (point.delay !== null) return point.delay;
  return point.stages.some((each) => each !== null) ? sum(point.stages) : null;
}

function drawPlots() {
  const last = points[points.length - 1];
  if (!last) return;
  const rate = state && state.rate ? ` of ${trimmed(state.rate)}` : "";
  $("value-fps").textContent = `${last.fps.toFixed(1)}${rate} fps`;
  const delayed = points.some((point) => point.delay !== null);
  $("latency-title").textContent = delayed ? "Camera to page" : "Generator";
  const timed = points.filter((point) => latencyOf(point) !== null).pop(); // slow ones have no frame for each point
  const latency = timed ? latencyOf(timed) : null;
  const parts = timed && timed.stages.length > 1 && !delayed ? ` (${timed.stages.map(trimmed).join(" + ")})` : "";
  $("value-latency").textContent = latency === null ? "–" : `${latency.toFixed(1)} ms${parts}`;
  $("value-drops").textContent = String(sum(points.map(left)));
  $("lane-latency").hidden = !latency && !(state && state.panel);
  lane("plot-fps", (point) => point.fps, "--fps", state ? state.rate : null);
  lane("plot-latency", latencyOf, "--latency", null);
  lane("plot-drops", left, "--drops", null);
}

const trimmed = (value) => (value === null ? "–" : value.toFixed(1).replace(/\.0$/, ""));

// A line over the last two minutes, from zero to a round number; `mark` is a value to compare with.
function lane(id, value, color, mark) {
  const canvas = $(id);
  const ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (!width) return;
  canvas.width = width;
  canvas.height = height;
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  const values = points.map(value);
  const known = values.filter((each) => each !== null);
  const top = roundUp(Math.max(1, mark || 0, ...known));
  const end = points[points.length - 1].time;
  const x = (point) => width * (1 - (end - point.time) / (KEPT / 2));
  const y = (each) => height - ratio - (height - 3 * ratio) * (each / top);

  context.strokeStyle = style.getPropertyValue("--edge");
  context.lineWidth = ratio;
  for (const level of [0, top]) rule(context, y(level), width);
  if (mark) {
    context.setLineDash([4 * ratio, 4 * ratio]);
    rule(context, y(mark), width);
    context.setLineDash([]);
  }
  context.fillStyle = style.getPropertyValue("--soft");
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.textBaseline = "top";
  context.fillText(String(top), 2 * ratio, 4 * ratio);

  context.strokeStyle = style.getPropertyValue(color);
  context.lineWidth = 2 * ratio;
  context.lineJoin = "round";
  context.beginPath();
  let pen = false;
  values.forEach((each, index) => {
    if (each === null) return;
    if (pen) context.lineTo(x(points[index]), y(each));
    else context.moveTo(x(points[index]), y(each));
    pen = true;
  });
  context.stroke();
}

function rule(context, y, width) {
  context.beginPath();
  context.moveTo(0, y);
  context.lineTo(width, y);
  context.stroke();
}

function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value) * unit;
}

// --- what can be changed ------------------------------------------------------------------------

function applyState(next) {
  const first = !state;
  const same = state && JSON.stringify([state.panel, state.ended]) === JSON.stringify([next.panel, next.ended]);
  state = next;
  document.title = `${next.title} – genedge`;
  $("title").textContent = next.title;
  if (next.ended) status("ended", "ended");
  else status("live", next.live ? "live" : "playing");
  if (next.ended && !first) note(next.ended, false);
  $("compare-label").hidden = !next.compares;
  if (first && next.compares) {
    $("compare").checked = true;
    $("split").value = 50;
  }
  showView();
  const panel = next.panel;
  document.body.classList.toggle("bare", !panel);
  $("side").hidden = !panel;
  $("stages").hidden = !panel;
  $("codes").hidden = !panel || !panel.codes.length;
  if (!panel) return;
  if (same) {
    restore(panel);
  } else {
    showStages(panel, Boolean(panel.busy || next.ended));
    showCodes(panel.codes, Boolean(next.ended));
  }
  $("busy").hidden = !panel.busy;
  $("busy").textContent = panel.busy ? `opening ${panel.busy}` : "";
}

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function options(names, chosen) {
  return names.map((name) => element("option", { value: name, textContent: name, selected: name === chosen }));
}

// What is being typed or slid just now stays under its hand: nothing is built anew that has the focus.
function rebuild(holder, builders) {
  const focus = document.activeElement && holder.contains(document.activeElement) ? document.activeElement.id : "";
  const made = builders.map((build) => build());
  holder.replaceChildren(...made);
  if (focus && $(focus)) $(focus).focus({ preventScroll: true });
}

function showStages(panel, locked) {
  const many = panel.stages.length > 1;
  rebuild($("stage-list"), panel.stages.map((stage, index) => () => {
    const offers = { ...panel.offers };
    if (!offers[stage.bundle]) offers[stage.bundle] = [stage.engine];
    const bundle = element("select", { id: `bundle-${index}`, disabled: locked },
      ...options(Object.keys(offers), stage.bundle));
    const engines = offers[stage.bundle].includes(stage.engine)
      ? offers[stage.bundle] : [stage.engine, ...offers[stage.bundle]];
    const engine = element("select", { id: `engine-${index}`, disabled: locked }, ...options(engines, stage.engine));
    bundle.addEventListener("change", () => {
      const there = offers[bundle.value];
      send({ switch: { stage: index, bundle: bundle.value,
        engine: there.includes(engine.value) ? engine.value : there[0] } });
    });
    engine.addEventListener("change", () => {
      send({ switch: { stage: index, bundle: stage.bundle, engine: engine.value } });
    });
    const pair = element("div", { className: "pair" },
      element("label", {}, "Bundle", bundle), element("label", {}, "Engine", engine));
    const title = many ? [element("span", { className: "name", textContent: `Stage ${index + 1}` })] : [];
    return element("div", { className: "setting" }, ...title, pair);
  }));
}

// What was asked for and refused is put back to what counts.
function restore(panel) {
  panel.stages.forEach((stage, index) => {
    $(`bundle-${index}`).value = stage.bundle;
    $(`engine-${index}`).value = stage.engine;
  });
}

function showCodes(codes, locked) {
  // a slider that is being moved must not jump back to what the server has heard last
  const active = document.activeElement;
  if (active && active.type === "range" && $("code-list").contains(active) && held) return;
  rebuild($("code-list"), codes.map((code) => () => {
    const box = element("div", { className: "setting" });
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", code.title);
    box.append(element("span", { className: "name", textContent: code.title }), control(code));
    for (const each of box.querySelectorAll("input, select, button")) each.disabled = locked;
    return box;
  }));
}

function say(code, value) {
  send({ code: { name: code.name, value } });
}

function control(code) {
  const id = `code-${code.name}`;
  if (code.secret) return typed(code, id, "password", "new passcode", (text) => `passcode:${text}`);
  if (code.kind === "one-hot" && code.size <= 200) {
    const names = code.labels.length ? code.labels : Array.from({ length: code.size }, (_, index) => String(index));
    const select = element("select", { id }, ...options(names, code.value));
    select.setAttribute("aria-label", code.title);
    if (!names.includes(code.value)) select.prepend(element("option", { textContent: code.value, selected: true }));
    select.addEventListener("change", () => say(code, select.value));
    return select;
  }
  if (code.kind === "bits" && code.size <= 64) return bits(code, id);
  if (code.kind === "vector" && code.size <= 12 && !code.value.endsWith(".png")) return knobs(code, id);
  return typed(code, id, "text", "", (text) => text);
}

function typed(code, id, type, placeholder, told) {
  const input = element("input", { id, type, placeholder, value: code.secret ? "" : code.value, autocomplete: "off" });
  input.setAttribute("aria-label", code.title);
  const form = element("form", { className: "row" }, input,
    element("button", { className: "button", textContent: "Set", id: `${id}-set` }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!input.value) return;
    say(code, told(input.value));
    if (code.secret) input.value = "";
  });
  return form;
}

function bits(code, id) {
  const box = element("div", { className: "bits" });
  const boxes = Array.from(code.value, (digit, index) => {
    const input = element("input", { type: "checkbox", checked: digit === "1", id: `${id}-${index}` });
    input.addEventListener("change", () => say(code, boxes.map((each) => (each.checked ? "1" : "0")).join("")));
    const name = code.labels[index] || String(index + 1);
    box.append(element("label", {}, input, element("span", { textContent: name })));
    return input;
  });
  return box;
}

let held = false; // a slider of a code is being moved
addEventListener("pointerup", () => { held = false; });
addEventListener("pointercancel", () => { held = false; });

function knobs(code, id) {
  const parts = code.value.split(",");
  const values = Array.from({ length: code.size }, (_, index) => Number(parts.length === 1 ? parts[0] : parts[index]));
  const box = element("div", {});
  let due = 0;
  const tell = () => {
    if (due) return;
    due = setTimeout(() => {
      due = 0;
      say(code, values.join(","));
    }, SLIDE_MS);
  };
  values.forEach((value, index) => {
    const name = code.labels[index] || String(index + 1);
    const output = element("output", { textContent: trimmedNumber(value) });
    const input = element("input", { type: "range", id: `${id}-${index}`, min: code.low, max: code.high,
      step: "any" });
    input.value = value;
    input.setAttribute("aria-label", `${code.title} ${name}`);
    input.addEventListener("pointerdown", () => { held = true; });
    input.addEventListener("input", () => {
      values[index] = Number(input.value);
      output.textContent = trimmedNumber(values[index]);
      tell();
    });
    box.append(element("label", { className: "knob" }, element("span", { textContent: name }), input, output));
  });
  return box;
}

const trimmedNumber = (value) => String(Number(value.toPrecision(3)));

// --- begin --------------------------------------------------------------------------------------

addEventListener("resize", () => {
  drawPlots();
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlots);
connect();
