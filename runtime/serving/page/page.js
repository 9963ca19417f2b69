// The live page: asks for the state once a second, shows each camera's stream, changes its words.
const EVERY_MS = 1000;
const SPAN_S = 240;
const LOOK_MS = 150;
const BACKGROUND = {
  threshold: "A pixel that scores below the score of its best word stays unlabelled.",
  negatives: "A pixel below its word's score, or closer to another word of the bundle, stays unlabelled.",
  none: "Every pixel gets its best word (background none).",
};
const cards = new Map();
const opacity = document.querySelector("#opacity");
const connection = document.querySelector("#connection");

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const detail = body.detail;
  throw new Error(typeof detail === "string" ? detail : `the server answered ${answer.status}`);
}

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function cell(content) {
  const element = make("td", "");
  element.append(content);
  return element;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function path(name, rest) {
  return `/api/cameras/${encodeURIComponent(name)}/${rest}`;
}

class Card {
  constructor(name) {
    this.name = name;
    this.words = [];
    this.drawn = "";
    this.root = document.querySelector("#camera").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find("h2").textContent = name;
    this.find(".picture").alt = `Camera ${name} with its labels`;
    this.find(".snapshot").download = `${name}.jpg`;
    this.find(".add").addEventListener("submit", (event) => this.add(event));
    this.find(".add input").addEventListener("input", (event) => suggest(event.target.value));
    this.find(".record").addEventListener("click", () => this.record());
    this.find(".all").addEventListener("click", () => this.applyToAll());
    this.find(".full").addEventListener("click", () => this.find(".view").requestFullscreen());
    this.find(".full").hidden = !document.fullscreenEnabled;
    this.find(".picture").addEventListener("pointermove", (event) => this.look(event));
    this.find(".picture").addEventListener("pointerleave", () => this.lookAway());
    this.find(".play").addEventListener("click", () => this.play({ paused: !this.paused }));
    this.find(".seek").addEventListener("input", () => { this.seeking = true; });
    this.find(".seek").addEventListener("change", (event) => this.seek(Number(event.target.value)));
    this.find(".loop").addEventListener("change", (event) => this.play({ loop: event.target.checked }));
    this.find(".picture").addEventListener("error", () => setTimeout(() => this.watch(), 2000));
    this.watch();
    document.querySelector("#cameras").append(this.root);
  }

  watch() {
    const query = `?opacity=${opacity.value}&at=${Date.now()}`;
    this.find(".picture").src = path(this.name, "stream") + query;
    this.find(".snapshot").href = path(this.name, "snapshot.jpg") + `?opacity=${opacity.value}`;
  }

  show(camera) {
    const state = this.find(".state");
    state.textContent = camera.state ?? "starting";
    state.dataset.state = camera.state ?? "";
    const failed = Object.entries(camera.outputs ?? {}).filter(([, error]) => error !== null);
    const troubles = failed.map(([uri, error]) => `${uri}: ${error}`);
    if (camera.state !== "live" && camera.error) troubles.unshift(camera.error);
    this.find(".error").hidden = troubles.length === 0;
    this.find(".error").textContent = troubles.join("; ");
    this.words = camera.vocabulary.classes.map((entry) => entry.entry);
    this.rows(camera.vocabulary, camera.coverage ?? {});
    this.share(this.find("tfoot tr"), camera.unlabelled);
    this.find(".background").textContent = BACKGROUND[camera.vocabulary.background];
    this.find(".all").hidden = cards.size < 2;
    this.recording(camera.recording);
    this.player(camera.playback);
    this.plot(camera);
    this.numbers(camera);
  }

  rows(vocabulary, coverage) {
    // Drawn anew only when the words change: a button must not vanish under a finger.
    const drawn = JSON.stringify(vocabulary.classes);
    const body = this.find("tbody");
    if (drawn !== this.drawn) {
      this.drawn = drawn;
      body.replaceChildren(...vocabulary.classes.map((entry) => this.row(entry)));
    }
    vocabulary.classes.forEach((entry, index) => this.share(body.children[index], coverage[entry.name]));
  }

  share(row, part) {
    const cell = row.querySelector(".share");
    cell.textContent = part === undefined ? "" : `${(100 * part).toFixed(1)} %`;
    cell.style.setProperty("--part", part ?? 0);
    row.classList.toggle("absent", part === 0);
  }

  recording(recording) {
    const on = recording !== null && recording.error === null;
    const button = this.find(".record");
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Stop" : "Record";
    if (recording === null) return;
    this.told(recording.file, recording.error ?? `${recording.frames} frames`);
  }

  player(playback) {
    this.find(".player").hidden = playback === null;
    if (playback === null) return;
    this.paused = playback.paused;
    this.find(".play").textContent = playback.ended ? "Play again" : playback.paused ? "Play" : "Pause";
    this.find(".loop").checked = playback.loop;
    this.find(".seek").disabled = playback.position === null;
    // A slider that is held stays under the finger.
    if (!this.seeking) this.find(".seek").value = playback.position ?? 0;
    this.find(".time").textContent = [playback.seconds, playback.duration_s]
      .filter((seconds) => seconds !== null).map(clock).join(" / ");
  }

  play(change) {
    return this.send("playback", change);
  }

  async seek(position) {
    await this.play({ position });
    this.seeking = false;
  }

  told(file, text) {
    this.find(".recording").textContent = `${file}: ${text}`;
  }

  async record() {
    const ends = this.find(".record").getAttribute("aria-pressed") === "true";
    const recorded = await this.change("recording", { method: ends ? "DELETE" : "POST" });
    if (!ends || recorded === null) return;
    // One without a frame has left no file.
    if (recorded.file === null) this.find(".recording").textContent = "no frame came, and no file is left";
    else this.told(recorded.file, `${recorded.frames} frames`);
  }

  row(entry) {
    const item = make("tr", "");
    const colour = make("input", "", { type: "color", value: entry.colour, "aria-label": `Colour of ${entry.name}` });
    colour.addEventListener("change", () => this.send(`classes/${entry.id}/colour`, { colour: colour.value }));
    const [, word, own, fixed] = entry.entry.match(/^(.*?)(?:(?<!\\)@([^@#\\]*))?((?<!\\)#[0-9a-f]{6})?$/);
    const threshold = make("input", "", {
      type: "number", min: "0", max: "1", step: "0.05", value: own ?? "", placeholder: "auto",
      title: "least score of this word, empty for the default", "aria-label": `Threshold of ${entry.name}`,
    });
    threshold.addEventListener("change", () => {
      const spelled = word + (threshold.value === "" ? "" : `@${threshold.value}`) + (fixed ?? "");
      this.put(this.words.map((other) => (other === entry.entry ? spelled : other)));
    });
    const remove = make("button", "×", { type: "button", "aria-label": `Remove ${entry.name}` });
    remove.disabled = this.words.length === 1;
    remove.addEventListener("click", () => this.put(this.words.filter((word) => word !== entry.entry)));
    const share = make("td", "", { class: "share" });
    share.style.setProperty("--tint", entry.colour);
    const name = make("th", word.replace(/\\([,|@#\\])/g, "$1"), { scope: "row" });
    if (entry.spelled_out.length) {
      const words = entry.spelled_out.map((one) => `“${one}”`).join(" and ");
      name.append(make("small", `The text tower spells ${words} out; it may not know it.`, { class: "hint" }));
    }
    item.append(cell(colour), name, cell(threshold), share, cell(remove));
    return item;
  }

  async add(event) {
    event.preventDefault();
    const input = this.find(".add input");
    if ((await this.put([...this.words, input.value])) !== null) input.value = "";
  }

  // What is under the pointer, asked for a few times a second at most.
  look(event) {
    const picture = event.target;
    const scale = Math.min(picture.clientWidth / picture.naturalWidth, picture.clientHeight / picture.naturalHeight);
    const x = ((event.offsetX - picture.clientWidth / 2) / scale) / picture.naturalWidth + 0.5;
    const y = ((event.offsetY - picture.clientHeight / 2) / scale) / picture.naturalHeight + 0.5;
    this.pointer = x >= 0 && x < 1 && y >= 0 && y < 1 ? { x, y, left: event.offsetX, top: event.offsetY } : null;
    if (this.pointer === null) this.lookAway();
    else this.looking ??= setTimeout(() => this.tell(), LOOK_MS);
  }

  async tell() {
    this.looking = undefined;
    const pointer = this.pointer;
    if (!pointer) return;
    const query = `at?x=${pointer.x.toFixed(4)}&y=${pointer.y.toFixed(4)}`;
    const found = await ask(path(this.name, query)).catch(() => null);
    if (found === null || !this.pointer) return;
    const here = this.find(".here");
    here.textContent = `${found.word ?? "unlabelled"}, ${(100 * found.confidence).toFixed(0)} %`;
    here.style.left = `${pointer.left}px`;
    here.style.top = `${pointer.top}px`;
    here.hidden = false;
  }

  lookAway() {
    this.pointer = null;
    this.find(".here").hidden = true;
  }

  async applyToAll() {
    const others = [...cards.values()].filter((card) => card !== this);
    const words = [...this.words];
    const done = await Promise.all(others.map((card) => card.put(words)));
    const failed = others.filter((_, index) => done[index] === null).map((card) => card.name);
    if (failed.length) this.find(".answer").textContent = `not taken by ${failed.join(", ")}`;
  }

  put(words) {
    return this.send("classes", { classes: words.join(",") });
  }

  send(rest, content) {
    const headers = { "content-type": "application/json" };
    return this.change(rest, { method: "PUT", headers, body: JSON.stringify(content) });
  }

  async change(rest, options) {
    const answer = this.find(".answer");
    try {
      const body = await ask(path(this.name, rest), options);
      answer.textContent = "";
      await refresh();
      return body;
    } catch (error) {
      answer.textContent = error.message;
      return null;
    }
  }

  plot(camera) {
    const lines = camera.vocabulary.classes.map((entry) => {
      const points = camera.history
        .filter((point) => entry.name in point.coverage)
        .map((point) => `${(SPAN_S - point.age_s).toFixed(1)},${(58 - 56 * point.coverage[entry.name]).toFixed(1)}`);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      line.setAttribute("points", points.join(" "));
      line.setAttribute("stroke", entry.colour);
      return line;
    });
    this.find(".history").replaceChildren(...lines);
  }

  numbers(camera) {
    if (camera.frames === undefined) return;
    const drops = Object.entries(camera.drops).filter(([, count]) => count > 0);
    const rows = [
      ["Rate", `${camera.fps.toFixed(1)} frames a second, ${camera.frames} in all`],
      ["Capture to result", `${camera.age_ms.p50.toFixed(0)} ms, p99 ${camera.age_ms.p99.toFixed(0)} ms`],
      ["Engine and labels", `${camera.latency_ms.p50.toFixed(0)} ms, p99 ${camera.latency_ms.p99.toFixed(0)} ms`],
      ["Dropped", drops.map(([cause, count]) => `${count} ${cause}`).join(", ") || "none"],
      ["Reconnects", String(camera.reconnects)],
    ];
    this.find(".numbers").replaceChildren(
      ...rows.flatMap(([name, value]) => [make("dt", name), make("dd", value)]),
    );
  }
}

async function suggest(text) {
  const prefix = text.split("|").at(-1);
  const words = await ask(`/api/words?prefix=${encodeURIComponent(prefix.slice(0, 100))}`).catch(() => []);
  const head = text.slice(0, text.length - prefix.length);
  document.querySelector("#words").replaceChildren(
    ...words.map((word) => make("option", "", { value: head + word })),
  );
}

async function refresh() {
  try {
    const state = await ask("/api/state");
    connection.textContent = state.not_kept ?? "";
    for (const { name } of state.cameras) {
      if (!cards.has(name)) cards.set(name, new Card(name));
    }
    for (const camera of state.cameras) {
      const card = cards.get(camera.name);
      card.find(".record").hidden = !state.can_record;
      card.show(camera);
    }
  } catch (error) {
    connection.textContent = `No answer: ${error.message}`;
  }
}

async function run() {
  await refresh();
  setTimeout(run, EVERY_MS);
}

// The server has left a cookie: the token is not to stay in the address, nor in the history.
function hideToken() {
  const address = new URL(location);
  if (!address.searchParams.has("token")) return;
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

hideToken();
opacity.addEventListener("change", () => cards.forEach((card) => card.watch()));
run();
