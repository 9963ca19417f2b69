// What all parts of the page share: questions to the server, and elements.

export async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  throw refusal(answer, body);
}

export function refusal(answer, body) {
  const detail = body.detail;
  return new Error(typeof detail === "string" ? detail : `the server answered ${answer.status}`);
}

export function json(method, content) {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(content) };
}

export function path(name, rest) {
  return `/api/cameras/${encodeURIComponent(name)}/${rest}`;
}

export function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function cell(content) {
  const element = make("td", "");
  element.append(content);
  return element;
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function frames(count) {
  return count === 1 ? "one frame" : `${count} frames`;
}

// Words that begin so, for every field that takes some.
export async function suggest(text) {
  const prefix = text.split("|").at(-1);
  const words = await ask(`/api/words?prefix=${encodeURIComponent(prefix.slice(0, 100))}`).catch(() => []);
  const head = text.slice(0, text.length - prefix.length);
  document.querySelector("#words").replaceChildren(
    ...words.map((word) => make("option", "", { value: head + word })),
  );
}
