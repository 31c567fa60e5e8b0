import { presence } from "../assets/presence.js";

const badge = document.getElementById("badge");
const room = new URLSearchParams(location.search).get("room") ?? "lobby";

presence().watch(room, ({ users, version, live, stale }) => {
  badge.textContent = version ? `${users} online` : "";
  badge.classList.toggle("old", !live || stale);
}, { counts: true });
