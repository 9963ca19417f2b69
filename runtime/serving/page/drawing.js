// Draw on a frozen frame: words that are learned from it, frames that are collected to train on.
import { ask, frames, json, make, path, suggest } from "./api.js";
import { Pad } from "./pad.js";

const MOST_EXAMPLES = 5;

export class Drawing {
  constructor(name, find, { opacity, changed, explained }) {
    this.name = name;
    this.find = find;
    this.opacity = opacity;
    this.changed = changed;
    this.explained = explained;
    this.frozen = null;
    this.examples = new Map();
    this.learned = new Set();
    this.pad = new Pad(find(".pad"), find(".of-pad"), {
      changed: () => this.list(),
      said: (text) => { find(".place").textContent = text; },
      asked: (point, size) => explained.tell(`frozen/${this.frozen.number}/`, point, size),
    });
    find(".draw").addEventListener("click", () => this.toggle());
    for (const radio of find(".tools").elements.tool) {
      radio.addEventListener("change", () => { this.pad.tool = radio.value; });
    }
    find(".size").addEventListener("input", () => this.resize());
    find(".undo").addEventListener("click", () => this.pad.undo());
    find(".next").addEventListener("click", () => this.another());
    find(".collect").addEventListener("click", () => this.collect());
    find(".tools").addEventListener("submit", (event) => {
      event.preventDefault();
      this.learn(false);
    });
    find(".anyway").addEventListener("click", () => this.learn(true));
    find(".region").addEventListener("input", (event) => {
      this.pad.region.word = event.target.value;
      suggest(event.target.value);
      this.list();
    });
  }

  show(state) {
    this.find(".collect").hidden = this.find(".rest").hidden = state.collects_to === null;
    this.find(".learn").disabled = state.cannot_learn !== null;
    this.find(".cannot").textContent = state.cannot_learn ?? "";
  }

  toggle() {
    return this.frozen === null ? this.freeze() : this.thaw();
  }

  async freeze() {
    try {
      const frozen = await ask(path(this.name, "frozen"), { method: "POST" });
      const picture = await this.picture(frozen);
      this.frozen = frozen;
      this.pad.open(frozen);
      this.pad.show(picture);
    } catch (error) {
      this.say(error.message);
      return;
    }
    this.say("");
    this.open(true);
    this.resize();
    this.list();
    this.find(".pad").focus({ preventScroll: true });
  }

  async picture(frozen) {
    const image = new Image();
    image.src = path(this.name, `frozen/${frozen.number}/picture.jpg?opacity=${this.opacity()}`);
    await image.decode().catch(() => { throw new Error("the frozen frame cannot be shown; freeze one again"); });
    return image;
  }

  // With another opacity.
  async repaint() {
    if (this.frozen === null) return;
    await this.picture(this.frozen).then((picture) => this.pad.show(picture), (error) => this.say(error.message));
  }

  thaw() {
    this.frozen = null;
    this.pad.cross.hide();
    this.explained.close();
    this.open(false);
    this.find(".draw").focus({ preventScroll: true });
  }

  open(on) {
    this.find(".draw").setAttribute("aria-pressed", String(on));
    this.find(".pad").hidden = this.find(".tools").hidden = !on;
    this.find(".region").value = "";
    this.find(".anyway").hidden = true;
  }

  // The slider goes in hundredths of the picture's longer side, so that a brush looks the same on each.
  resize() {
    const longer = Math.max(this.pad.size.width, this.pad.size.height);
    this.pad.radius = Math.min(256, Math.round((Number(this.find(".size").value) * longer) / 200));
  }

  list() {
    const drawn = this.pad.regions.slice(0, -1);
    this.find(".regions").replaceChildren(...drawn.map((region) => this.chip(region)));
    this.find(".undo").disabled = !this.pad.region.marks.length;
    this.find(".next").disabled = !(this.pad.region.marks.length && this.pad.region.word.trim());
    this.find(".tools").style.setProperty("--tint", this.pad.region.tint);
  }

  chip(region) {
    const item = make("li", region.word);
    item.style.setProperty("--tint", region.tint);
    const remove = make("button", "×", { type: "button", "aria-label": `Remove the region ${region.word}` });
    remove.addEventListener("click", () => this.pad.remove(region));
    item.append(remove);
    return item;
  }

  another() {
    this.pad.next();
    this.find(".region").value = "";
    this.list();
    this.find(".region").focus();
  }

  // Regions with a word; says what is missing.
  named() {
    const drawn = this.pad.regions.filter((region) => region.marks.length);
    if (!drawn.length) this.say("draw on the picture first: a line over it, or a box around it");
    else if (drawn.some((region) => !region.word.trim())) {
      this.say("name what you drew");
      this.find(".region").focus();
    } else return drawn;
    return null;
  }

  async learn(anyway) {
    const regions = this.named();
    if (regions === null) return;
    const said = [];
    let added = true;
    try {
      for (const region of regions) {
        const learned = await this.learnOne(region, anyway);
        added &&= learned.added;
        said.push(sentence(learned));
      }
      await this.changed();
    } catch (error) {
      added = false;
      said.push(error.message);
    }
    if (added) this.thaw();
    this.find(".anyway").hidden = added;
    this.say(said.join(" "));
  }

  async learnOne({ word, marks }, anyway) {
    const key = word.trim().toLowerCase();
    const kept = (this.examples.get(key) ?? []).filter(
      (one) => one.frozen !== this.frozen.number && this.frozen.kept.includes(one.frozen),
    );
    const examples = [...kept, { frozen: this.frozen.number, marks }].slice(-MOST_EXAMPLES);
    const learned = await ask(path(this.name, "examples"), json("POST", { word, examples, anyway }));
    this.examples.set(key, examples);
    return learned;
  }

  async collect() {
    const regions = this.named();
    if (regions === null) return;
    const rest = this.find(".rest input").checked;
    const body = { frozen: this.frozen.number, regions: regions.map(({ word, marks }) => ({ word, marks })), rest };
    try {
      const kept = await ask(path(this.name, "collected"), json("POST", body));
      this.say(`${kept.picture}: ${frames(kept.frames)} collected`);
    } catch (error) {
      this.say(error.message);
    }
  }

  // A word that went, or means its text again, has no examples any more.
  forget(learned) {
    for (const word of this.learned) {
      if (!learned.has(word)) this.examples.delete(word);
    }
    this.learned = learned;
  }

  say(text) {
    this.find(".drawn").textContent = text;
  }
}

function sentence({ word, margin, added, separates, examples }) {
  const from = `${frames(examples)}, margin ${margin.toFixed(2)}`;
  if (separates) return `“${word}” was learned from ${from}.`;
  const told = `“${word}” does not stand apart from the rest of ${from}`;
  return added ? `${told}, and was learned all the same.` : `${told}, and was not learned: draw it more closely, or on another frame, too.`;
}
