// This module watches rooms of a presence server, and joins them: README.md beside it says
// how to use it, and presence.d.ts what each part means. One stream of events, read by
// fetch, brings the changes and is the user's connection.

// All times are in milliseconds.
const silence = 35000; // a stream is lost: the server sends something every 15 s
const quiet = 20000; // the same when a page wakes up
const longestWait = 30000; // between two tries
const checks = 5000; // between two looks at the clock
const settled = 5000; // a stream that lasted so long has not failed
const longestTimer = 2 ** 31 - 1;
const reloading = 10000; // how long a reload may take: as the server's leave grace

export function presence({ url = new URL("..", import.meta.url), token } = {}) {
  const base = String(url).replace(/\/*$/, "/v1/rooms/");
  const follow = (room, ...rest) => open(`${base}${encodeURIComponent(room)}/`, token, room, ...rest);
  return {
    watch: (room, onChange, { counts } = {}) => follow(room, onChange, counts ? { mode: "count" } : {}),
    join: (room, onChange, who) => follow(room, onChange, { ...who }, true),
  };
}

// Session storage belongs to a tab, and is copied when that is duplicated. So an id
// stands there only on its way from a document to the next.
function exchange(key, value) {
  try {
    const kept = sessionStorage.getItem(key);
    if (value) sessionStorage.setItem(key, value);
    else sessionStorage.removeItem(key);
    return kept;
  } catch { /* blocked: after a reload it is another connection */ }
}

function connectionOf(key) {
  const [id, since] = exchange(key)?.split(" ") ?? [];
  if (Date.now() - since < reloading) return id;
  return [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("-");
}

// lifeOf is how long a token is valid from now, by the clock of this machine, if that can
// be read.
function lifeOf(token) {
  try {
    return 1000 * JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).exp - Date.now();
  } catch { /* the server will say when it has expired */ }
}

function open(address, token, room, onChange, query, joins) {
  const key = `presence ${address}`;
  const connection = joins && connectionOf(key);
  if (joins) query.join = connection;
  const closed = new AbortController();
  const isOver = () => closed.signal.aborted;
  const members = new Map(); // by user, in order of joining
  let state = { room, version: 0, users: 0, connections: 0, members: [], complete: false, stale: false, live: false };
  let attempt = new AbortController(); // of a stream, or a wait
  let gone = document.prerendering; // the page is not shown: not yet, or perhaps never again
  let retry = 1000; // the server says how long a client waits
  let heard = 0; // when the server last sent something
  let alarm = 0;
  let id = ""; // of what is known
  let bearer; // the token that was sent last
  let refused; // a token

  function tell(news, change) {
    if (isOver()) return;
    state = { ...state, ...news };
    try {
      onChange?.(state, change);
    } catch (error) {
      reportError(error);
    }
  }

  const fail = (problem) => tell({ live: false, problem });
  const tellLive = (news, change) => tell({ ...news, live: true, problem: undefined }, change);
  const tellMembers = (data, change) => tellLive({ ...data, members: [...members.values()] }, change);
  const put = (list) => list.forEach((member) => members.set(member.user, member));

  const take = {
    snapshot({ members: list, ...data }) {
      members.clear();
      if (data.complete) put(list);
      tellMembers(data);
    },
    diff({ joins, updates, leaves, ...data }) {
      leaves.forEach(({ user }) => members.delete(user));
      put(updates);
      put(joins);
      tellMembers(data, { joins, updates, leaves });
    },
    count(data) {
      members.clear();
      tellMembers({ ...data, complete: false });
    },
    stale: () => tellLive({ stale: true }),
  };

  // ended returns how to go on after the server has refused or ended a stream: at once
  // ("now"), or later. A token that is no longer valid ends it only if there is no other.
  function ended({ code, detail, retry, errors }) {
    if (/^(unauthorized|token_expired)$/.test(code) && token?.call && bearer !== refused) {
      refused = bearer;
      return "now";
    }
    if (retry !== "now") fail({ code, detail, retry, errors });
    if (retry === "never") close();
    return retry;
  }

  // The user leaves when the token expires. So a stream with the next one follows before.
  function renewIn(life, signal) {
    if (!token?.call || !(life > 0)) return;
    const timer = setTimeout(restart, Math.min(Math.max(0.75 * life, 1000), longestTimer));
    signal.addEventListener("abort", () => clearTimeout(timer));
  }

  // stream opens a stream, reads it to its end, and returns how to go on.
  async function stream(signal) {
    const given = token?.call ? await token() : token;
    signal.throwIfAborted();
    bearer = given;
    renewIn(lifeOf(bearer), signal);
    const headers = {};
    if (bearer) headers.Authorization = `Bearer ${bearer}`;
    if (state.complete && !state.stale) headers["Last-Event-ID"] = id; // else nothing might say that it is right
    const response = await fetch(`${address}events?${new URLSearchParams(query)}`, { headers, signal, cache: "no-store" });
    if (!response.ok) {
      const how = ended(await response.json());
      return 1000 * response.headers.get("Retry-After") || how;
    }
    listen();
    if (state.version) tellLive(); // a resumed stream may have nothing to send
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = "";;) {
      const { value, done } = await reader.read();
      if (done) return;
      check(); // what comes after a sleep may have been sent before
      signal.throwIfAborted();
      listen();
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: ?(.*)/s)));
        const data = fields.data && JSON.parse(fields.data);
        id = fields.id ?? id;
        retry = fields.retry ?? retry;
        if (fields.event === "end") return ended(data);
        take[fields.event]?.(data);
      }
    }
  }

  // begin begins an attempt, which ends when it is aborted, or after a time.
  function begin(wait) {
    attempt = new AbortController();
    const { signal } = attempt;
    return [signal, new Promise((resolve) => {
      signal.onabort = resolve;
      if (wait >= 0) setTimeout(resolve, wait);
    })];
  }

  const restart = () => attempt.abort();

  // lost opens a stream in place of one that may have missed changes.
  function lost() {
    tell({ live: false });
    restart();
  }

  function setAlarm() {
    clearTimeout(alarm);
    alarm = setTimeout(lost, silence);
  }

  function listen() {
    heard = Date.now();
    setAlarm();
  }

  const isQuiet = (time) => Date.now() - heard > time;

  // No timer runs while the machine sleeps or the page is frozen. The clock does.
  function check() {
    if (state.live && isQuiet(silence)) lost();
  }

  async function run() {
    let failures = 0;
    while (!isOver()) {
      const [signal, aborted] = begin();
      if (gone) {
        await aborted;
        continue;
      }
      const began = Date.now();
      setAlarm();
      // A token function that is slow can't be aborted.
      const how = await Promise.race([stream(signal).catch((error) => {
        if (!signal.aborted) fail({ code: "failed", detail: error.message, retry: "backoff" });
      }), aborted]);
      clearTimeout(alarm);
      if (signal.aborted) continue;
      restart(); // ends what is left of the attempt
      if (Date.now() - began > settled) failures = 0;
      if (how !== "now" && state.live) tell({ live: false });
      const longest = how === "now" && !failures ? 0 : Math.min(longestWait, retry * 2 ** failures);
      failures += 1;
      await begin(Math.random() * longest + (how > 0 ? how : 0))[1];
    }
  }

  function wake() {
    if (!document.hidden && (!state.live || isQuiet(quiet))) lost();
  }

  function close() {
    closed.abort();
    clearInterval(clock);
    clearTimeout(alarm);
    restart();
  }

  const on = (target, type, listener) => target.addEventListener(type, listener, { signal: closed.signal });
  on(window, "online", lost);
  on(window, "offline", lost);
  on(document, "visibilitychange", wake);
  on(document, "resume", lost); // after a freeze, which streams may not survive
  on(window, "pagehide", () => {
    gone = true;
    if (joins) exchange(key, `${connection} ${Date.now()}`);
    restart();
  });
  const show = () => {
    if (!gone || document.prerendering) return;
    gone = false;
    if (joins) exchange(key);
    lost();
  };
  on(window, "pageshow", show);
  on(document, "prerenderingchange", show);
  const clock = setInterval(check, checks);
  run();

  return {
    get room() { return state; },
    connection,
    close,
    async leave() {
      close();
      if (!joins) return true;
      exchange(key);
      const [to, body] = [`${address}connections/${connection}/leave`, JSON.stringify({ token: bearer })];
      if (gone) return navigator.sendBeacon(to, body);
      // As a beacon: it outlives the page, and needs no preflight.
      return fetch(to, { method: "POST", body, keepalive: true }).then(({ ok }) => ok, () => false);
    },
  };
}
