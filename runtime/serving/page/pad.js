// A frozen frame that is drawn on, by mouse, finger, pen or keys. All places are pixels of the frame.
import { Cross, pixelAt } from "./surface.js";

const MOST_POINTS = 5000;
const TINTS = ["#ffb000", "#00c2ff", "#ff5fb0", "#9be24a", "#b48cff", "#ff7a45"];

export class Pad {
  constructor(canvas, cross, { changed, said, asked }) {
    this.canvas = canvas;
    this.cross = new Cross(cross, canvas);
    this.changed = changed;
    this.said = said;
    this.asked = asked;
    this.tool = "brush";
    this.radius = 8;
    this.regions = [];
    this.begun = null;
    canvas.addEventListener("pointerdown", (event) => this.pointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.pointerMove(event));
    canvas.addEventListener("pointerup", () => this.end());
    canvas.addEventListener("pointercancel", () => this.drop());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => { if (this.begun?.byKey) this.drop(); });
  }

  get size() {
    return { width: this.canvas.width, height: this.canvas.height };
  }

  get region() {
    return this.regions.at(-1);
  }

  open({ width, height }) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.begun = null;
    this.regions = [this.fresh()];
    this.cross.hide();
  }

  // What is drawn of it is one word.
  fresh() {
    const taken = new Set(this.regions.map((region) => region.tint));
    return { word: "", marks: [], tint: TINTS.find((tint) => !taken.has(tint)) ?? TINTS[0] };
  }

  show(picture) {
    this.picture = picture;
    this.draw();
  }

  next() {
    this.regions.push(this.fresh());
    this.draw();
  }

  remove(region) {
    this.regions = this.regions.filter((one) => one !== region);
    if (!this.regions.length) this.regions = [this.fresh()];
    this.update();
  }

  undo() {
    this.region.marks.pop();
    this.update();
  }

  pointerDown(event) {
    if (!event.isPrimary || event.button !== 0) return;
    const point = pixelAt(event, this.canvas, this.canvas.width, this.canvas.height);
    if (point === null) return;
    if (this.tool === "why") {
      this.cross.put(point, this.size);
      this.asked(point, this.size);
      return;
    }
    this.canvas.setPointerCapture(event.pointerId);
    this.cross.hide();
    this.begin(point);
  }

  pointerMove(event) {
    if (!event.isPrimary || this.begun === null || this.begun.byKey) return;
    this.extend(pixelAt(event, this.canvas, this.canvas.width, this.canvas.height, { clamped: true }));
  }

  key(event) {
    if (this.cross.key(event, this.size)) {
      if (this.begun !== null) this.extend(this.cross.point);
      this.said(this.spoken());
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.cross.point ?? this.cross.put({ x: this.canvas.width >> 1, y: this.canvas.height >> 1 }, this.size);
      const ends = this.begun !== null;
      if (this.tool === "why" && !ends) {
        this.asked(this.cross.point, this.size);
        return;
      }
      if (ends) this.end();
      else this.begin(this.cross.point, true);
      this.said(ends ? `the ${this.tool} ends here` : `the ${this.tool} begins here`);
    } else if (event.key === "Escape" && this.begun !== null) {
      this.drop();
      this.said("dropped");
    }
  }

  spoken() {
    const { x, y } = this.cross.point;
    if (this.begun?.mark.tool !== "box") return `${x}, ${y}`;
    const [x0, y0, x1, y1] = this.begun.mark.box;
    return `box of ${x1 - x0} by ${y1 - y0}`;
  }

  begin(point, byKey = false) {
    const { x, y } = point;
    const mark = this.tool === "box"
      ? { tool: "box", box: [x, y, x + 1, y + 1] }
      : { tool: this.tool, radius: this.radius, points: [[x, y]] };
    this.begun = { mark, from: point, byKey };
    this.draw();
  }

  extend(point) {
    const { mark, from } = this.begun;
    if (mark.tool === "box") {
      mark.box = [Math.min(from.x, point.x), Math.min(from.y, point.y), Math.max(from.x, point.x) + 1, Math.max(from.y, point.y) + 1];
    } else {
      const [x, y] = mark.points.at(-1);
      // Nearer points change nothing that could be seen.
      if (Math.hypot(point.x - x, point.y - y) < Math.max(1, this.radius / 4)) return;
      if (this.points() >= MOST_POINTS) return;
      mark.points.push([point.x, point.y]);
    }
    this.draw();
  }

  // Of all regions, as the server counts them.
  points() {
    const marks = [this.begun.mark, ...this.regions.flatMap((region) => region.marks)];
    return marks.reduce((sum, mark) => sum + (mark.points?.length ?? 0), 0);
  }

  end() {
    if (this.begun === null) return;
    this.region.marks.push(this.begun.mark);
    this.begun = null;
    this.update();
  }

  drop() {
    this.begun = null;
    this.draw();
  }

  update() {
    this.draw();
    this.changed();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = undefined;
      this.paint();
    });
  }

  paint() {
    const context = this.canvas.getContext("2d");
    const { width, height } = this.size;
    context.clearRect(0, 0, width, height);
    if (this.picture) context.drawImage(this.picture, 0, 0, width, height);
    for (const region of this.regions) {
      const marks = region === this.region && this.begun ? [...region.marks, this.begun.mark] : region.marks;
      if (!marks.length) continue;
      context.globalAlpha = 0.6;
      context.drawImage(painted(marks, region.tint, this.size), 0, 0);
      context.globalAlpha = 1;
    }
    if (this.begun?.mark.tool === "box") this.outline(context, this.begun.mark.box);
  }

  outline(context, [x0, y0, x1, y1]) {
    context.lineWidth = Math.max(1, this.canvas.width / 400);
    context.strokeStyle = "#fff";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
}

// A layer of its own, so that the eraser takes away marks and not the picture.
function painted(marks, tint, { width, height }) {
  const layer = new OffscreenCanvas(width, height);
  const context = layer.getContext("2d");
  context.fillStyle = context.strokeStyle = tint;
  context.lineCap = context.lineJoin = "round";
  for (const mark of marks) {
    context.globalCompositeOperation = mark.tool === "eraser" ? "destination-out" : "source-over";
    if (mark.tool === "box") {
      const [x0, y0, x1, y1] = mark.box;
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
    } else {
      context.lineWidth = 2 * mark.radius + 1;
      context.beginPath();
      const [first, ...others] = mark.points.map(([x, y]) => [x + 0.5, y + 0.5]);
      context.moveTo(...first);
      for (const point of others.length ? others : [first]) context.lineTo(...point);
      context.stroke();
    }
  }
  return layer;
}
