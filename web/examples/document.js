import { presence } from "../assets/presence.js";

const [people, status, leave] = ["people", "status", "leave"].map((id) => document.getElementById(id));
const room = new URLSearchParams(location.search).get("room") ?? "document";

// A product's page asks its own backend for the token. Here it stands at the end of the
// address, which is sent to no server.
const given = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const server = presence({ token: () => given().token });
const most = 8; // avatars

function avatar({ user, name }) {
  const element = document.createElement("li");
  element.title = name;
  element.style.setProperty("--hue", [...user].reduce((sum, char) => (137 * (sum + char.codePointAt(0))) % 360, 0));
  const initials = name.split(/\s+/).map((word) => [...word][0]).slice(0, 2).join("");
  element.innerHTML = `<span class="avatar" aria-hidden="true"></span><span class="unseen"></span>`;
  element.firstChild.textContent = initials;
  element.lastChild.textContent = name;
  return element;
}

function show({ users, members, live, stale, problem }) {
  people.replaceChildren(...members.slice(0, most).map(avatar));
  const more = users - people.children.length;
  const words = [`${users} looking`];
  if (more > 0 && users > more) words.push(`${more} more than shown`);
  if (stale) words.push("not up to date");
  if (!live) words.push(problem?.retry === "never" ? problem.detail ?? problem.code : "reconnecting…");
  status.textContent = words.join(" · ");
}

const { token, user, name } = given();
if (token) {
  const me = server.join(room, show, { ...(user && { user }), ...(name && { name }) });
  leave.hidden = false;
  leave.onclick = () => {
    leave.hidden = true;
    me.leave();
    server.watch(room, show);
  };
} else {
  server.watch(room, show);
}
addEventListener("hashchange", () => location.reload());
