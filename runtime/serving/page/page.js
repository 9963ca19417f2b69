// The live page: asks for the state once a second and shows a card per camera.
import { ask } from "./api.js";
import { Card } from "./card.js";

const EVERY_MS = 1000;
const cards = new Map();
const opacity = document.querySelector("#opacity");
const connection = document.querySelector("#connection");
const page = {
  opacity: () => opacity.value,
  refresh,
  others: (card) => [...cards.values()].filter((other) => other !== card),
};

async function refresh() {
  try {
    const state = await ask("/api/state");
    connection.textContent = state.not_kept ?? "";
    for (const { name } of state.cameras) {
      if (!cards.has(name)) cards.set(name, new Card(name, page));
    }
    for (const camera of state.cameras) cards.get(camera.name).show(camera, state);
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
