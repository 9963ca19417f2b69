// Why a pixel is what it is: its words with their scores, and what decided.
import { ask, cell, make, path } from "./api.js";
import { Cross, pixelAt } from "./surface.js";

const KINDS = {
  negative: "competes, and leaves pixels unlabelled",
  background: "what the best word had to reach",
  null: "what the scores leave to words of the model's own",
};

export class Explained {
  constructor(name, { picture, cross, panel }) {
    this.name = name;
    this.picture = picture;
    this.panel = panel;
    this.cross = new Cross(cross, picture);
    picture.addEventListener("click", (event) => this.click(event));
    picture.addEventListener("keydown", (event) => this.key(event));
    panel.querySelector(".close").addEventListener("click", () => this.close());
  }

  get size() {
    return { width: this.picture.naturalWidth, height: this.picture.naturalHeight };
  }

  click(event) {
    const point = pixelAt(event, this.picture, this.size.width, this.size.height);
    if (point === null) return;
    this.cross.put(point, this.size);
    this.ask();
  }

  key(event) {
    if (this.cross.key(event, this.size) || !this.cross.point) return;
    if (event.key === "Enter") this.ask();
    if (event.key === "Escape") this.close();
  }

  ask() {
    return this.tell("", this.cross.point, this.size);
  }

  // Of the live picture, or of what is at `of`, as frozen/7/.
  async tell(of, { x, y }, { width, height }) {
    const place = `x=${((x + 0.5) / width).toFixed(5)}&y=${((y + 0.5) / height).toFixed(5)}`;
    const said = this.panel.querySelector(".why");
    this.panel.hidden = false;
    // Answers may overtake each other: the last question's counts.
    const question = (this.asked = {});
    try {
      const found = await ask(path(this.name, `${of}top?${place}`));
      if (question !== this.asked) return;
      said.textContent = found.why;
      this.panel.querySelector("tbody").replaceChildren(...found.candidates.map((one) => row(one)));
    } catch (error) {
      if (question !== this.asked) return;
      said.textContent = error.message;
      this.panel.querySelector("tbody").replaceChildren();
    }
  }

  close() {
    this.cross.hide();
    this.panel.hidden = true;
  }
}

function row(candidate) {
  const item = make("tr", "", candidate.decided ? { class: "decided" } : {});
  const synonym = candidate.word === candidate.name ? "" : ` as ${candidate.word}`;
  const name = make("th", candidate.name + synonym, { scope: "row" });
  if (KINDS[candidate.kind]) name.append(make("small", KINDS[candidate.kind], { class: "hint" }));
  const score = make("td", candidate.score.toFixed(3), { class: "share" });
  score.style.setProperty("--part", candidate.score);
  const needs = candidate.threshold > 0 ? candidate.threshold.toFixed(3) : "";
  item.append(name, score, cell(needs));
  return item;
}
