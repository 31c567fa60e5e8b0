// What the live page needs beside the livetemplate client, which is loaded from
// here unmodified: a key that tells this tab from others, a quick way back after
// a lost connection, and joining again when all servers forgot who was there.
// Without this script the page works by forms alone.
(() => {
  "use strict";

  const script = document.currentScript;
  const root = document.documentElement;
  const page = () => document.querySelector("[data-joined]");
  const nameField = () => document.querySelector("input[name=username]");

  // sessionStorage belongs to one tab and survives its reloads. It throws where
  // cookies are blocked; the page then lives without memory.
  const recall = (key) => { try { return sessionStorage.getItem(key); } catch { return null; } };
  const remember = (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* no memory */ } };
  const forgetName = () => { try { sessionStorage.removeItem("presence.name"); } catch { /* no memory */ } };
  const rememberedName = () => {
    try {
      const { room, name } = JSON.parse(recall("presence.name"));
      return room === page().dataset.room ? name : "";
    } catch { return ""; }
  };

  // --- The tab key ----------------------------------------------------------
  //
  // The server knows a tab across reconnects and reloads by its key. Browsers
  // copy sessionStorage when a tab is duplicated, so a key has to be claimed: a
  // copy whose original is still open takes a new one, and is nobody yet.

  async function tabKey() {
    const kept = recall("presence.tab");
    if (/^[\w-]{22}$/.test(kept) && await claim(kept).catch(() => false)) return kept;
    if (kept) forgetName();
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const key = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").slice(0, 22);
    remember("presence.tab", key);
    await claim(key).catch(() => false);
    return key;
  }

  // Whoever has the key says so when asked, and holds a lock. A lock without an
  // answer is that of our own former document, which ends any moment: after a
  // reload, that can take the browser a while. On plain http there are no locks.
  function claim(key) {
    return new Promise((resolve) => {
      const channel = new BroadcastChannel("presence.tab");
      const giveUp = new AbortController();
      let mine = false;
      const take = () => { mine = true; resolve(true); };
      const lose = () => { channel.close(); giveUp.abort(); resolve(false); };
      channel.onmessage = ({ data }) => {
        if (data.key !== key) return;
        if (data.ask) return mine && channel.postMessage({ key, ask: false });
        if (!mine) return lose();
        if (navigator.locks) return; // the last word of our former document
        // Whoever has it was slow to say so. A new document takes a new key.
        remember("presence.tab", "");
        forgetName();
        location.reload();
      };
      channel.postMessage({ key, ask: true });
      if (!navigator.locks) return setTimeout(() => giveUp.signal.aborted || take(), 100);
      const held = () => { take(); return new Promise(() => {}); };
      navigator.locks.request(`presence.tab.${key}`, { signal: giveUp.signal }, held).catch(lose);
      setTimeout(() => mine || lose(), 5000);
    });
  }

  // The client takes path and query of its URLs from the address at the moment
  // its script runs. So the key stands there just then: nobody sees or shares it.
  let key = "";
  const withoutTab = (url) => url.replace(/([?&])tab=[^&#]*(&?)/, (_, before, after) => (after ? before : ""));
  const withTab = (url) => {
    const [address, hash] = withoutTab(url).split(/(?=#)/);
    return `${address}${address.includes("?") ? "&" : "?"}tab=${key}${hash ?? ""}`;
  };
  const setAddress = (url) => history.replaceState(history.state, "", url);

  function loadClient(wait = 1000) {
    const element = document.createElement("script");
    element.src = script.dataset.client;
    if (script.dataset.integrity) {
      element.integrity = script.dataset.integrity;
      element.crossOrigin = "anonymous";
    }
    element.onload = () => setAddress(withoutTab(location.href));
    element.onerror = () => {
      setAddress(withoutTab(location.href));
      element.remove();
      setTimeout(loadClient, wait, Math.min(2 * wait, 60000));
    };
    setAddress(withTab(location.href));
    document.head.append(element);
  }

  // --- Staying connected ----------------------------------------------------
  //
  // By itself the client notices a closed socket only at its next heartbeat, and
  // gives up sockets for good when one attempt fails. So after a close it is put
  // to rest (disconnect) and connected again from here. What it does well, pings
  // and waking up with the tab, it keeps doing; at any time there is at most one
  // attempt under way, its own or ours.

  const longestWait = 3000;
  const client = () => window.liveTemplateClient;
  const live = () => Boolean(client()?.isReady()) && !client().useHTTP;
  const showLink = (state) => { if (root.dataset.link !== state) root.dataset.link = state; };

  let attempts = 0; // since the last frame that was received
  let timer = 0; // of the next attempt
  let trying = ""; // whose attempt is under way: "page", "client", or nobody's
  let checks = 0; // that found it under way
  let resting = false; // while the client is being put to rest

  function begin(whose) {
    trying = whose;
    checks = 0;
  }

  function schedule(wait) {
    if (timer || trying) return;
    // Full jitter, so that the tabs of a lost server do not come back as one.
    const longest = attempts ? Math.min(longestWait, 100 * 2 ** attempts) : 300;
    attempts += 1;
    timer = setTimeout(reconnect, wait ?? Math.random() * longest);
  }

  async function reconnect() {
    timer = 0;
    if (trying || live()) return;
    begin("page");
    try {
      if (await serverAnswers()) {
        client().reset(); // the first frame brings the whole page
        await client().connect();
      }
    } catch { /* as good as no answer */ }
    begin("");
    if (!live()) schedule();
  }

  // The client's own requests wait without limit, and one attempt in vain makes
  // it poll, so it is only sent out to a server that answers.
  async function serverAnswers() {
    const patience = new AbortController();
    const limit = setTimeout(() => patience.abort(), 4000);
    try {
      const url = withTab(location.pathname + location.search);
      const reply = await fetch(url, { method: "HEAD", cache: "no-store", signal: patience.signal });
      return reply.status < 500;
    } catch {
      return false;
    } finally {
      clearTimeout(limit);
    }
  }

  async function check() {
    if (!client() || live()) return;
    showLink("reconnecting");
    if (trying === "client" && client().useHTTP) begin(""); // in vain
    if (!trying) return schedule();
    checks += 1;
    if (checks > 20) { // it hangs, and cannot be called off
      checks = 0;
      if (await serverAnswers() && !live()) location.reload();
    }
  }

  function onDisconnected() {
    if (resting) return;
    showLink("reconnecting");
    if (client().isReady()) return begin("client"); // still open: dropped for a new one
    resting = true;
    client().disconnect();
    resting = false;
    schedule();
  }

  function onConnected() {
    if (trying === "client") begin("");
    rejoined = false;
    leaving = false;
  }

  // --- Who we are -----------------------------------------------------------

  let rejoined = false; // whether this connection has asked to join by itself
  let leaving = false; // Leave was pressed, and what is shown may be older than that
  let held = null; // a form sent while there was no connection
  let focusNext = ""; // what takes the place of the button that was pressed

  function onUpdated(event) {
    if (live()) {
      attempts = 0;
      showLink("live");
    }
    quieten();
    if (event.detail.action === "leave") leaving = false;
    if (!rejoin()) root.classList.remove("resuming");
    if (event.detail.action && focusNext) {
      if (document.activeElement === document.body) document.querySelector(focusNext)?.focus();
      focusNext = "";
    }
    sendHeld();
  }

  // A page that was joined joins again where nothing is known of it, once per
  // connection: a refusal stands. Whoever types a name has other plans.
  function rejoin() {
    const { joined, stale, room } = page().dataset;
    if (joined === "true") {
      if (!leaving) remember("presence.name", JSON.stringify({ room, name: page().dataset.name }));
      return false;
    }
    if (stale === "true") rejoined = false;
    const name = rememberedName();
    const field = nameField();
    if (rejoined || stale === "true" || !name || !live() || field?.value !== field?.defaultValue) return false;
    rejoined = true;
    client().send({ action: "join", data: { username: name } });
    return true;
  }

  function onSubmit(event) {
    const form = event.target;
    if (event.submitter?.name === "leave") {
      leaving = true;
      forgetName();
    }
    focusNext = leaving ? "input[name=username]" : "button[name=leave]";
    form.action = withTab(location.href); // in case the browser has to send it
    if (client() && (trying || !client().isReady())) {
      event.preventDefault();
      event.stopImmediatePropagation();
      form.setAttribute("aria-busy", "true");
      held = { form, submitter: event.submitter, until: performance.now() + 10000 };
    }
  }

  // The client makes a number of "1e-7" and nothing of "Infinity". After a mark,
  // which no number begins with, it leaves what was typed as it is.
  function onFormData({ formData }) {
    if (formData.has("username")) formData.set("typed", `=${formData.get("username")}`);
  }

  function sendHeld() {
    if (!held || trying || !client().isReady()) return;
    const { form, submitter, until } = held;
    held = null;
    form.removeAttribute("aria-busy");
    if (performance.now() < until && submitter?.isConnected) form.requestSubmit(submitter);
  }

  // A busy live region is not read out: at most one count a second is.
  let readAloud = "";
  let quietUntil = 0;
  let quietTimer = 0;

  function quieten() {
    const mark = document.querySelector("mark[aria-live]");
    const text = mark.textContent;
    if (text === readAloud) return;
    const wait = quietUntil - performance.now();
    if (wait <= 0) {
      readAloud = text;
      quietUntil = performance.now() + 1000;
      return;
    }
    mark.setAttribute("aria-busy", "true");
    quietTimer ||= setTimeout(() => {
      quietTimer = 0;
      mark.removeAttribute("aria-busy");
      readAloud = mark.textContent;
      quietUntil = performance.now() + 1000;
    }, wait);
  }

  // --- Start ----------------------------------------------------------------

  async function start() {
    setAddress(withoutTab(location.href));
    key = await tabKey();
    if (page().dataset.joined !== "true" && rememberedName()) {
      // Spare a joined visitor the sight of the join form at each reload.
      root.classList.add("resuming");
      setTimeout(() => root.classList.remove("resuming"), 2000);
    }
    begin("client");
    loadClient();
  }

  // The client's events do not bubble, hence the capturing.
  document.addEventListener("lvt:connected", onConnected, true);
  document.addEventListener("lvt:disconnected", onDisconnected, true);
  document.addEventListener("lvt:updated", onUpdated, true);
  window.addEventListener("submit", onSubmit, true);
  window.addEventListener("formdata", onFormData);
  window.addEventListener("online", () => {
    clearTimeout(timer);
    timer = 0;
    attempts = 0;
    if (client() && !live()) schedule(0);
  });
  document.addEventListener("visibilitychange", check);
  setInterval(() => { check(); sendHeld(); }, 1000);
  start();
})();
