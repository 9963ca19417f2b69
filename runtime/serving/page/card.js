// One camera: its picture, player and recording, its words, and what is drawn on it.
import { ask, clock, json, make, path, refusal, suggest } from "./api.js";
import { Drawing } from "./drawing.js";
import { Explained } from "./explain.js";
import { pixelAt } from "./surface.js";
import { WordsTable } from "./words_table.js";

const SPAN_S = 240;
const LOOK_MS = 150;
const BACKGROUND = {
  threshold: "A pixel that scores below the score of its best word stays unlabelled.",
  negatives: "A pixel below its word's score, or closer to another word of the bundle, stays unlabelled.",
  none: "Every pixel gets its best word (background none).",
};

export class Card {
  // page: opacity() of overlays, refresh() that shows the newest state, others(card)
  constructor(name, page) {
    this.name = name;
    this.page = page;
    this.root = document.querySelector("#camera").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.find("h2").textContent = name;
    this.find(".picture").alt = `Camera ${name} with its labels`;
    this.find(".snapshot").download = `${name}.jpg`;
    this.table = new WordsTable(this.find(".words"), {
      recolour: (id, colour) => this.send(`classes/${id}/colour`, { colour }),
      replace: (words) => this.put(words),
      rename: (id, word) => this.send(`classes/${id}/name`, { name: word }),
      forget: (id) => this.change(`classes/${id}/examples`, { method: "DELETE" }),
    });
    this.explained = new Explained(name, {
      picture: this.find(".picture"), cross: this.find(".cross"), panel: this.find(".explain"),
    });
    this.drawing = new Drawing(name, this.find, {
      opacity: page.opacity, changed: page.refresh, explained: this.explained,
    });
    this.listen();
    this.watch();
    document.querySelector("#cameras").append(this.root);
  }

  listen() {
    const on = (selector, event, does) => this.find(selector).addEventListener(event, does);
    on(".add", "submit", (event) => this.add(event));
    on(".add input", "input", (event) => suggest(event.target.value));
    on(".record", "click", () => this.record());
    on(".all", "click", () => this.applyToAll());
    on(".save", "click", () => this.save());
    on(".full", "click", () => this.find(".view").requestFullscreen());
    this.find(".full").hidden = !document.fullscreenEnabled;
    on(".picture", "pointermove", (event) => this.look(event));
    on(".picture", "pointerleave", () => this.lookAway());
    on(".picture", "error", () => setTimeout(() => this.watch(), 2000));
    on(".draw", "click", () => this.explained.close());
    on(".play", "click", () => this.play({ paused: !this.paused }));
    on(".seek", "input", () => { this.seeking = true; });
    on(".seek", "change", (event) => this.seek(Number(event.target.value)));
    on(".loop", "change", (event) => this.play({ loop: event.target.checked }));
  }

  watch() {
    const query = `?opacity=${this.page.opacity()}&at=${Date.now()}`;
    this.find(".picture").src = path(this.name, "stream") + query;
    this.find(".snapshot").href = path(this.name, "snapshot.jpg") + `?opacity=${this.page.opacity()}`;
    this.drawing.repaint();
  }

  show(camera, state) {
    const mark = this.find(".state");
    mark.textContent = camera.state ?? "starting";
    mark.dataset.state = camera.state ?? "";
    const failed = Object.entries(camera.outputs ?? {}).filter(([, error]) => error !== null);
    const troubles = failed.map(([uri, error]) => `${uri}: ${error}`);
    if (camera.state !== "live" && camera.error) troubles.unshift(camera.error);
    this.find(".error").hidden = troubles.length === 0;
    this.find(".error").textContent = troubles.join("; ");
    this.doubted(camera.doubt ?? null);
    if (this.table.show(camera.vocabulary, camera.coverage ?? {}, camera.unlabelled)) {
      const learned = camera.vocabulary.classes.filter((entry) => entry.learned !== null);
      this.drawing.forget(new Set(learned.map((entry) => entry.name.toLowerCase())));
    }
    this.find(".background").textContent = BACKGROUND[camera.vocabulary.background];
    this.find(".all").hidden = this.page.others(this).length === 0;
    this.find(".record").hidden = !state.can_record;
    this.drawing.show(state);
    this.recording(camera.recording);
    this.player(camera.playback);
    this.plot(camera);
    this.numbers(camera);
  }

  // Written only where it changes, so that it is read out once.
  doubted(sentence) {
    const doubt = this.find(".doubt");
    doubt.hidden = sentence === null;
    if (doubt.textContent !== (sentence ?? "")) doubt.textContent = sentence ?? "";
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

  async add(event) {
    event.preventDefault();
    const input = this.find(".add input");
    if ((await this.put([...this.table.words, input.value])) !== null) input.value = "";
  }

  // What is under the pointer, asked for a few times a second at most.
  look(event) {
    const picture = event.target;
    const { naturalWidth: width, naturalHeight: height } = picture;
    const pixel = pixelAt(event, picture, width, height);
    this.pointer = pixel && {
      x: (pixel.x + 0.5) / width, y: (pixel.y + 0.5) / height, left: event.offsetX, top: event.offsetY,
    };
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
    const others = this.page.others(this);
    const words = [...this.table.words];
    const done = await Promise.all(others.map((card) => card.put(words)));
    const failed = others.filter((_, index) => done[index] === null).map((card) => card.name);
    if (failed.length) this.find(".answer").textContent = `not taken by ${failed.join(", ")}`;
  }

  // By a question and not by a link, so that a refusal is a sentence and not a file.
  async save() {
    const answer = this.find(".answer");
    try {
      const sent = await fetch(path(this.name, "words"));
      if (!sent.ok) throw refusal(sent, await sent.json().catch(() => ({})));
      const address = URL.createObjectURL(await sent.blob());
      make("a", "", { href: address, download: `${this.name}.words` }).click();
      URL.revokeObjectURL(address);
      answer.textContent = "";
    } catch (error) {
      answer.textContent = error.message;
    }
  }

  put(words) {
    return this.send("classes", { classes: words.join(",") });
  }

  send(rest, content) {
    return this.change(rest, json("PUT", content));
  }

  async change(rest, options) {
    const answer = this.find(".answer");
    try {
      const body = await ask(path(this.name, rest), options);
      answer.textContent = "";
      await this.page.refresh();
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
