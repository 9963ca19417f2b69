// Places on a picture: where a pointer is, and a point that arrow keys move.
const STEPS = 40;

// The pixel under a pointer, of a picture of this size that is fitted into an element; null beside it.
export function pixelAt(event, element, width, height, { clamped = false } = {}) {
  const box = element.getBoundingClientRect();
  const scale = Math.min(box.width / width, box.height / height);
  const x = (event.clientX - box.left - box.width / 2) / scale + width / 2;
  const y = (event.clientY - box.top - box.height / 2) / scale + height / 2;
  if (!clamped && !(x >= 0 && x < width && y >= 0 && y < height)) return null;
  return { x: within(x, width), y: within(y, height) };
}

// Where a pixel is in an element, in its own pixels.
export function placeOf(point, element, width, height) {
  const scale = Math.min(element.clientWidth / width, element.clientHeight / height);
  return {
    left: (point.x + 0.5 - width / 2) * scale + element.clientWidth / 2,
    top: (point.y + 0.5 - height / 2) * scale + element.clientHeight / 2,
  };
}

function within(value, size) {
  return Math.min(size - 1, Math.max(0, Math.floor(value)));
}

// A cross over a picture. Arrow keys move it, with Shift by one pixel.
export class Cross {
  constructor(mark, element) {
    this.mark = mark;
    this.element = element;
    this.point = null;
    this.size = { width: 1, height: 1 };
    new ResizeObserver(() => this.draw()).observe(element);
  }

  put(point, { width, height }) {
    this.size = { width, height };
    this.point = point;
    this.draw();
  }

  hide() {
    this.point = null;
    this.draw();
  }

  // Move as a key says; false for other keys.
  key(event, { width, height }) {
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!right && !down) return false;
    event.preventDefault();
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / STEPS));
    const from = this.point ?? { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.put({ x: within(from.x + right * step, width), y: within(from.y + down * step, height) }, { width, height });
    return true;
  }

  draw() {
    this.mark.hidden = this.point === null || this.element.clientWidth === 0;
    if (this.mark.hidden) return;
    const { left, top } = placeOf(this.point, this.element, this.size.width, this.size.height);
    this.mark.style.left = `${left}px`;
    this.mark.style.top = `${top}px`;
  }
}
