// The table of a camera's words: colours, thresholds, shares, names of learned words.
import { cell, frames, make } from "./api.js";

export class WordsTable {
  // does: recolour(id, colour), replace(words), rename(id, name), forget(id)
  constructor(table, does) {
    this.body = table.tBodies[0];
    this.foot = table.tFoot.rows[0];
    this.does = does;
    this.words = [];
    this.drawn = "";
  }

  // Whether the rows are others than before.
  show(vocabulary, coverage, unlabelled) {
    this.words = vocabulary.classes.map((entry) => entry.entry);
    // Drawn anew only when the words change: a button must not vanish under a finger.
    const drawn = JSON.stringify(vocabulary.classes);
    const changes = drawn !== this.drawn;
    if (changes) {
      this.drawn = drawn;
      this.redraw(vocabulary.classes);
    }
    vocabulary.classes.forEach((entry, index) => share(this.body.children[index], coverage[entry.name]));
    share(this.foot, unlabelled);
    return changes;
  }

  // Who goes through the table by keys stays where they were.
  redraw(classes) {
    const at = [...this.body.rows].findIndex((row) => row.contains(document.activeElement));
    const column = at < 0 ? -1 : [...this.body.rows[at].cells].findIndex((one) => one.contains(document.activeElement));
    this.body.replaceChildren(...classes.map((entry) => this.row(entry)));
    if (column < 0) return;
    const row = this.body.rows[Math.min(at, this.body.rows.length - 1)];
    const usable = [row.cells[column], row].flatMap((part) => [...part.querySelectorAll("input, button")]);
    usable.find((one) => !one.disabled).focus({ preventScroll: true });
  }

  row(entry) {
    const item = make("tr", "");
    const colour = make("input", "", { type: "color", value: entry.colour, "aria-label": `Colour of ${entry.name}` });
    colour.addEventListener("change", () => this.does.recolour(entry.id, colour.value));
    const [, word, own, fixed] = entry.entry.match(/^(.*?)(?:(?<!\\)@([^@#\\]*))?((?<!\\)#[0-9a-f]{6})?$/);
    const threshold = make("input", "", {
      type: "number", min: "0", max: "1", step: "0.05", value: own ?? "", placeholder: "auto",
      title: "least score of this word, empty for the default", "aria-label": `Threshold of ${entry.name}`,
    });
    threshold.addEventListener("change", () => {
      const spelled = word + (threshold.value === "" ? "" : `@${threshold.value}`) + (fixed ?? "");
      this.does.replace(this.words.map((other) => (other === entry.entry ? spelled : other)));
    });
    const remove = make("button", "×", { type: "button", "aria-label": `Remove ${entry.name}` });
    remove.disabled = this.words.length === 1;
    remove.addEventListener("click", () => this.does.replace(this.words.filter((one) => one !== entry.entry)));
    const part = make("td", "", { class: "share" });
    part.style.setProperty("--tint", entry.colour);
    item.append(cell(colour), this.name(entry, word), cell(threshold), part, cell(remove));
    return item;
  }

  name(entry, word) {
    const name = make("th", word.replace(/\\([,|@#\\])/g, "$1"), { scope: "row" });
    if (entry.learned !== null) name.append(this.learned(entry, name, word));
    else if (entry.spelled_out.length) {
      const words = entry.spelled_out.map((one) => `“${one}”`).join(" and ");
      name.append(make("small", `The text tower spells ${words} out; it may not know it.`, { class: "hint" }));
    }
    return name;
  }

  learned(entry, name, word) {
    const { examples, margin } = entry.learned;
    const line = make("small", `learned from ${frames(examples)}, margin ${margin.toFixed(2)} `, { class: "hint" });
    const rename = make("button", "Rename", { type: "button", class: "rename", "aria-label": `Rename ${entry.name}` });
    rename.addEventListener("click", () => this.rename(entry, name, word));
    const forget = make("button", "Forget", {
      type: "button", class: "forget", title: "let it mean what its text means", "aria-label": `Forget the examples of ${entry.name}`,
    });
    forget.addEventListener("click", () => this.does.forget(entry.id));
    line.append(rename, forget);
    return line;
  }

  rename(entry, name, word) {
    const form = make("form", "");
    const input = make("input", "", { maxlength: "200", required: "", value: entry.name, "aria-label": `New name of ${entry.name}` });
    form.append(input, make("button", "Save"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.does.rename(entry.id, input.value);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      const again = this.name(entry, word);
      name.replaceWith(again);
      again.querySelector(".rename").focus();
    });
    name.replaceChildren(form);
    input.select();
  }
}

function share(row, part) {
  const box = row.querySelector(".share");
  box.textContent = part === undefined ? "" : `${(100 * part).toFixed(1)} %`;
  box.style.setProperty("--part", part ?? 0);
  row.classList.toggle("absent", part === 0);
}
