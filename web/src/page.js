// What the live page needs beside the livetemplate client, which is loaded from
// here unmodified: a key that tells this tab from others, a quick way back after
// a lost connection, forms that are not lost in between, and joining again when
// all servers forgot who was there; and what makes it pleasant: who came and went,
// the name for the next room, a link to share. Where the client can't work, the page reloads
// itself. Without this script it works by forms alone.
(() => {
  "use strict";

  const script = document.currentScript;
  const root = document.documentElement;
  const page = () => document.querySelector("[data-joined]");
  const nameField = () => document.querySelector("input[name=username]");
  const count = () => document.querySelector("mark[aria-live]");

  // sessionStorage belongs to one tab and survives its reloads. It throws where
  // cookies are blocked; the page then lives without memory.
  const recall = (key) => { try { return sessionStorage.getItem(key); } catch { return null; } };
  const remember = (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* no memory */ } };
  const forget = (key) => { try { sessionStorage.removeItem(key); } catch { /* no memory */ } };
  const forgetName = () => forget("presence.name");

  // What is remembered of a room means nothing in another.
  const rememberHere = (key, value) => remember(key, JSON.stringify({ room: page().dataset.room, ...value }));
  const recallHere = (key) => {
    try {
      const value = JSON.parse(recall(key));
      return value.room === page().dataset.room ? value : {};
    } catch { return {}; }
  };
  // A name is that of a guest, or of the user whom a token speaks for, and of nobody else.
  const rememberName = (name) => rememberHere("presence.name", { name, as: page().dataset.as });
  const rememberedName = () => {
    const { name, as } = recallHere("presence.name");
    return (as ?? "") === page().dataset.as ? name ?? "" : "";
  };

  // --- The tab key ----------------------------------------------------------
  //
  // The server knows a tab across reconnects and reloads by its key. Browsers
  // copy sessionStorage when a tab is duplicated, so a key has to be claimed: a
  // copy whose original is still open takes a new one, and is nobody yet.

  async function tabKey() {
    const kept = recall("presence.tab");
    if (/^[\w-]{22}$/.test(kept) && await claim(kept).catch(() => false)) return kept;
    if (kept) {
      forgetName();
      forgetEarly();
    }
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const key = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").slice(0, 22);
    remember("presence.tab", key);
    await claim(key).catch(() => false);
    return key;
  }

  // The tab that has the key says so when asked, and holds a lock. A lock without an
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
        // The tab that has it was slow to say so. A new document takes a new key.
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

  // A form that was sent before this script ran has joined the browser, without a
  // key, and the page that followed is marked with the user. By the mark the server
  // makes this tab that user. It stands beside the key, and is remembered until the
  // page is live and joined, in case it is loaded again first.
  let early = "";
  const forgetEarly = () => { early = ""; forget("presence.early"); };
  const markOf = (url) => new URL(url).searchParams.get("adopt");
  const isMark = (mark) => /^[\w-]{16}$/.test(mark);

  function takeEarly(mark) {
    if (isMark(mark)) {
      rememberHere("presence.early", { mark });
      const { joined, name } = page().dataset;
      if (joined === "true" && !leaving) rememberName(name); // should the user be there no more
    }
    const kept = recallHere("presence.early").mark;
    if (isMark(kept)) early = kept;
  }

  const isOurs = (part) => part.has("tab") || part.has("adopt");
  const withoutTab = (url) => {
    const [, address, query = "", hash] = /^([^?#]*)(\?[^#]*)?(.*)$/s.exec(url);
    const kept = query.slice(1).split("&").filter((part) => part && !isOurs(new URLSearchParams(part)));
    return `${address}${kept.length ? "?" : ""}${kept.join("&")}${hash}`;
  };
  const withTab = (url) => {
    const [address, hash] = withoutTab(url).split(/(?=#)/);
    const mark = early && `&adopt=${early}`;
    return `${address}${address.includes("?") ? "&" : "?"}tab=${key}${mark}${hash ?? ""}`;
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
  const showNotLive = () => showLink(reloading ? "reloading" : "reconnecting");

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
      // The room is not open to this browser any more: the server says so, and what to do.
      if (reply.status === 401 || reply.status === 403) location.reload();
      return reply.status < 500;
    } catch {
      return false;
    } finally {
      clearTimeout(limit);
    }
  }

  async function check() {
    if (!client() || live()) return;
    showNotLive();
    if (trying === "client" && client().useHTTP) begin(""); // in vain
    if (!trying) return schedule();
    checks += 1;
    if (checks > 20) { // it hangs, and cannot be called off
      checks = 0;
      if (await serverAnswers() && !live()) reload();
    }
  }

  function onDisconnected() {
    if (resting) return;
    showNotLive();
    shown = false;
    if (press) press.sent = false; // and its answer is lost
    if (client().isReady()) return begin("client"); // still open: dropped for a new one
    resting = true;
    client().disconnect();
    resting = false;
    schedule();
  }

  function onConnected() {
    if (trying === "client") begin("");
    askAgainAtOnce();
    leaving = false;
    shown = false;
    was = false;
  }

  // --- Where it never comes alive -------------------------------------------
  //
  // The client may be blocked, or sockets. Then the page does what it does without
  // JavaScript: it reloads itself at the heartbeat interval, which is its heartbeat
  // where it joined, and its forms are sent by the browser. It goes on trying.

  const refresh = 1000 * Number(script.dataset.refresh);
  const patience = Math.min(6000, refresh); // for the first frame
  let wasLive = false;
  let reloading = false;

  function giveUpWaiting() {
    if (wasLive) return;
    reloading = true;
    remember("presence.reloading", "yes"); // the next document need not find out again
    showResuming("");
    showLink("reloading");
    sendPress();
  }

  async function reloadUnlessLive() {
    // A page that works is better than the browser's own about one that does not.
    if (!wasLive && await serverAnswers() && !wasLive && !press) reload();
  }

  // With the tab's key the server knows whose lease it is to renew.
  function reload() {
    const field = nameField();
    if (isTyped(field)) {
      const { value, selectionStart, selectionEnd } = field;
      rememberHere("presence.typed", { value, caret: field === document.activeElement && [selectionStart, selectionEnd] });
    }
    location.replace(withTab(location.href));
  }

  function restoreTyped() {
    const { value, caret } = recallHere("presence.typed");
    const field = nameField();
    forget("presence.typed");
    if (!value || !field) return;
    field.value = value;
    if (!caret) return;
    field.focus({ preventScroll: true });
    field.setSelectionRange(...caret);
  }

  // --- Who we are -----------------------------------------------------------

  const firstRefusal = 3000; // longer than the server takes to answer
  const longestRefusal = 60000;

  let rejoined = false; // whether this page has asked to join by itself, and is to wait
  let refusals = 0; // since it was joined
  let askAgain = 0; // timer
  let was = false; // whether we were in the room through this connection
  let leaving = false; // Leave was pressed, and what is shown may be older than that

  function onUpdated(event) {
    if (live()) {
      attempts = 0;
      wasLive = true;
      reloading = false;
      forget("presence.reloading");
      showLink("live");
    }
    shown = true;
    if (unanswered) sayUnsent("");
    showTitle();
    quieten();
    trace();
    if (event.detail.action === "leave") leaving = false;
    if (!rejoin()) showResuming("");
    if (press?.done || press?.sent && event.detail.action === press.submitter.name) answered();
    sendPress();
  }

  // A page that was joined joins again where nothing is known of it. One that is
  // refused, by a full room or a full Redis, asks again, but less and less often:
  // its visitor never left. A visitor who types a name has other plans.
  function rejoin() {
    const { joined, stale } = page().dataset;
    if (joined === "true") {
      was = true;
      refusals = 0;
      if (live()) forgetEarly();
      if (!leaving) rememberName(page().dataset.name);
      if (joining && !page().dataset.as) keepName(page().dataset.name); // that a guest chose
      joining = false;
      return false;
    }
    if (was) forgetName(); // we left, or had no place any more when Redis lost its data
    was = false;
    if (stale === "true") askAgainAtOnce();
    const name = rememberedName();
    const field = nameField();
    if (rejoined || stale === "true" || !name || !live() || isTyped(field)) return false;
    rejoined = true;
    const wait = Math.min(longestRefusal, firstRefusal * 2 ** refusals) * (1 + Math.random() / 2);
    refusals += 1;
    askAgain = setTimeout(() => {
      askAgainAtOnce();
      rejoin();
    }, wait);
    client().send({ action: "join", data: { username: name } });
    return true;
  }

  function askAgainAtOnce() {
    clearTimeout(askAgain);
    rejoined = false;
  }

  // The form of a joined visitor takes the place of the other until it is known
  // whether that is so: a reload is no time to ask for a name.
  function showResuming(name) {
    root.classList.toggle("resuming", Boolean(name));
    const again = document.querySelector(".again");
    if (!again) return;
    again.hidden = !name;
    again.querySelector("b").textContent = name;
  }

  // --- Join and Leave -------------------------------------------------------
  //
  // Each press is sent once there is a connection, and again if the connection is
  // lost before the answer came: both do no harm twice. After ten seconds it is
  // given up, and the page says so: one that was sent may still arrive, and the page then
  // shows it. Join and Leave stand in each other's place, so
  // a press within half a second after another, or after they changed places, is taken
  // for an accident. The buttons look busy for that time.

  const longestHold = 10000;
  const calm = 500;

  let press = null; // what was pressed and has no answer yet: { form, submitter, sent, tried, timer }
  let shown = false; // a frame came over this connection, so the page says how things are
  let sending = false; // onSubmit is called by sendPress
  let calming = 0; // timer: a press is an accident until it ends

  function calmDown() {
    clearTimeout(calming);
    root.classList.add("calming");
    calming = setTimeout(() => {
      calming = 0;
      root.classList.remove("calming");
    }, calm);
  }

  function onSubmit(event) {
    const { target: form, submitter } = event;
    if (submitter?.name !== "join" && submitter?.name !== "leave") return;
    const swallow = () => {
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    if (!sending) {
      const accident = press || calming;
      calmDown();
      if (accident) return swallow();
      sayUnsent("");
      press = { form, submitter, sent: false, tried: false, timer: setTimeout(giveUp, longestHold) };
    }
    joining = submitter.name === "join" && Boolean(nameField());
    if (submitter.name === "leave") {
      leaving = true;
      forgetName();
    }
    form.action = withTab(location.href); // in case the browser has to send it
    const ready = live() && !trying && shown;
    if (reloading && !ready) {
      settle();
      return event.stopImmediatePropagation(); // the browser sends it
    }
    form.setAttribute("aria-busy", "true");
    if (!ready) return swallow();
    press.sent = press.tried = true; // the client sends it
  }

  // The client makes a number of "1e-7" and nothing of "Infinity". After a mark,
  // which no number begins with, it leaves what was typed as it is.
  function onFormData({ formData }) {
    if (formData.has("username")) formData.set("typed", `=${formData.get("username")}`);
  }

  function sendPress() {
    if (!press || press.sent || !reloading && (!live() || trying || !shown)) return;
    const { form, submitter } = press;
    if (!submitter.isConnected) return answered(); // it had been done
    sending = true;
    form.requestSubmit(submitter);
    sending = false;
  }

  function settle() {
    clearTimeout(press.timer);
    press.form.removeAttribute("aria-busy");
    press = null;
  }

  let unanswered = false; // what was given up may have arrived

  function giveUp() {
    unanswered = press.tried;
    settle();
    leaving = false;
    sayUnsent(unanswered
      ? "No answer yet: the connection is lost. This page will show whether it happened."
      : "Not sent: no connection. Please try again when this page is live.");
  }

  function sayUnsent(text) {
    document.querySelector(".unsent").textContent = text;
    if (!text) unanswered = false;
  }

  // Where the pressed button is gone, the focus goes to what took its place, but
  // not to another button: a name that is wrong, or to be typed, or the news.
  function answered() {
    const { submitter } = press;
    settle();
    if (!submitter.isConnected) calmDown();
    const wrong = document.querySelector("#username-error")?.textContent;
    const lost = !document.activeElement || document.activeElement === document.body;
    if (wrong) nameField().focus();
    else if (lost && !submitter.isConnected) (nameField() ?? document.querySelector(".you p")).focus({ preventScroll: true });
  }

  // --- What is read aloud, or in the tab's title ----------------------------

  function showTitle() {
    const users = /^\d+/.exec(count().textContent);
    const title = `${users ? `${users} online · ` : ""}${page().dataset.room} · Presence`;
    if (document.title !== title) document.title = title;
  }

  // A busy live region is not read out: at most one count a second is.
  let readAloud = "";
  let quietUntil = 0;
  let quietTimer = 0;

  function quieten() {
    const mark = count();
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

  // --- The name for the next room -------------------------------------------
  //
  // The name under which somebody last pressed Join in this browser is filled in on
  // the next page, and never sent by itself. Others may use this browser, so the page
  // says where the name is from, and has a button to forget it.

  let joining = false; // Join was pressed, and the name is not kept yet
  let filledIn = ""; // in the field by us
  const isTyped = (field) => Boolean(field) && field.value !== field.defaultValue && field.value !== filledIn;
  const keepName = (name) => { try { localStorage.setItem("presence.name", name); } catch { /* no memory */ } };

  function fillIn() {
    const field = nameField();
    if (!field || field.value) return;
    try { filledIn = localStorage.getItem("presence.name") ?? ""; } catch { /* no memory */ }
    if (!filledIn) return;
    field.value = filledIn;
    document.querySelector(".kept").hidden = false;
  }

  function forgetKept() {
    try { localStorage.removeItem("presence.name"); } catch { /* no memory */ }
    const field = nameField();
    if (!isTyped(field)) field.value = "";
    filledIn = "";
    document.querySelector(".kept").hidden = true;
    field.focus();
  }

  // --- Who came and went ----------------------------------------------------
  //
  // For some seconds the page shows by how many the number changed, and who came or
  // left. It is not read aloud: the number is. A page that lists only a part of the room
  // names nobody, since a row that is new on it may be of a user who was there before.

  const traceFor = 8000;
  const traces = 4;
  let seen = null; // what was shown last, if the number was known
  const mine = new Set(); // ids of rows that were the visitor's own

  function look() {
    const users = /^\d+/.exec(count().textContent);
    if (!users) return null;
    const rows = [...document.querySelectorAll("[data-key]")];
    return {
      users: Number(users[0]),
      part: Boolean(document.querySelector(".more")),
      names: new Map(rows.map((row) => [row.dataset.key, row.querySelector(".name").textContent])),
      own: rows.find((row) => row.querySelector("small"))?.dataset.key,
    };
  }

  function trace() {
    const [before, now] = [seen, look()];
    seen = now;
    if (now?.own) {
      mine.add(now.own);
      // The row may have come before it was known to be the visitor's.
      [...document.querySelector(".trace").children].find(({ dataset }) => dataset.user === now.own)?.remove();
    }
    if (!before || !now) return;
    if (now.users !== before.users) showChange(now.users - before.users);
    if (before.part || now.part) return;
    const news = (these, those, what) => [...these].filter(([id]) => !those.has(id) && !mine.has(id)).map(([id, name]) => [id, name, what]);
    const all = [...news(before.names, now.names, "left"), ...news(now.names, before.names, "came")];
    all.slice(-traces).forEach((one) => showTrace(...one));
  }

  const element = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text });

  function showChange(by) {
    const change = element("b", by < 0 ? "fewer" : "more-now", by < 0 ? `−${-by}` : `+${by}`);
    document.querySelector(".change").replaceChildren(change);
    setTimeout(() => change.remove(), traceFor / 2);
  }

  function showTrace(id, name, what) {
    const trace = document.querySelector(".trace");
    const entry = element("span", what, "");
    entry.dataset.user = id;
    entry.append(element("b", "name", name), ` ${what}`);
    trace.prepend(entry);
    while (trace.children.length > traces) trace.lastChild.remove();
    setTimeout(() => entry.remove(), traceFor);
  }

  // --- Share, second window, new room ---------------------------------------

  let saidTimer = 0;

  function say(text) {
    document.querySelector(".said").textContent = text;
    clearTimeout(saidTimer);
    saidTimer = setTimeout(say, 4000, "");
  }

  // Of the address only what names the room: the rest may be a secret of the visitor.
  async function share(button) {
    const url = location.origin + location.pathname;
    try {
      if (navigator.share) return await navigator.share({ title: `${page().dataset.room} · Presence`, url });
    } catch (error) {
      if (error.name === "AbortError") return; // the visitor thought better of it
    }
    say(await copy(url, button) ? "Link copied" : "Please copy the address of this page");
  }

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* on plain http there is no clipboard, but this: */ }
    const field = Object.assign(element("input", "copied"), { value: text, readOnly: true });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    button.focus();
    return done;
  }

  // A window of its own, to be seen beside this one. As a plain link it is a tab.
  function openWindow(link) {
    const width = Math.min(window.outerWidth, Math.floor(screen.availWidth / 2));
    window.open(link.href, "_blank", `popup,noopener,width=${width},height=${window.outerHeight}`);
  }

  // A room that nobody is in, under a name that is easily said. Where such rooms have
  // no page, and without this script, the link leads to the list of rooms.
  const kinds = ["amber", "brisk", "calm", "coral", "golden", "happy", "ivory", "jolly", "lucky", "mellow", "misty", "quiet", "rapid", "silver", "sunny", "velvet"];
  const things = ["badger", "brook", "cedar", "comet", "falcon", "garden", "harbor", "island", "lantern", "maple", "meadow", "otter", "pebble", "river", "sparrow", "willow"];

  async function openRoom(link) {
    const [kind, thing, ...rest] = crypto.getRandomValues(new Uint8Array(5));
    const number = Array.from(rest, (byte) => byte % 10).join("");
    const room = `/rooms/${kinds[kind % kinds.length]}-${things[thing % things.length]}-${number}`;
    const reply = await fetch(room, { method: "HEAD", cache: "no-store" }).catch(() => null);
    location.assign(reply?.ok ? room : link.href);
  }

  function onClick(event) {
    const pressed = event.target.closest?.(".ways :is(a, button), .kept button");
    if (!pressed || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (pressed.name === "share") return void share(pressed);
    if (pressed.name === "forget") return forgetKept();
    event.preventDefault();
    if (pressed.className === "window") openWindow(pressed);
    else openRoom(pressed);
  }

  // --- Start ----------------------------------------------------------------

  async function start() {
    const mark = markOf(location.href);
    setAddress(withoutTab(location.href));
    root.classList.add("scripted");
    restoreTyped();
    fillIn();
    seen = look();
    if (page().dataset.joined !== "true") showResuming(rememberedName());
    key = await tabKey();
    takeEarly(mark);
    setTimeout(giveUpWaiting, recall("presence.reloading") ? 0 : patience);
    setInterval(reloadUnlessLive, refresh);
    begin("client");
    loadClient();
  }

  // The client's events do not bubble, hence the capturing.
  document.addEventListener("lvt:connected", onConnected, true);
  document.addEventListener("lvt:disconnected", onDisconnected, true);
  document.addEventListener("lvt:updated", onUpdated, true);
  document.addEventListener("lvt:done", () => { if (press?.sent) press.done = true; }, true);
  window.addEventListener("submit", onSubmit, true);
  window.addEventListener("formdata", onFormData);
  document.addEventListener("click", onClick);
  // The client notices by itself, at its next ping. A browser that is cut off only from
  // others has a connection that goes on.
  window.addEventListener("offline", () => {
    if (!live()) return;
    showNotLive();
    setTimeout(() => live() && showLink("live"), 10000);
  });
  window.addEventListener("online", () => {
    clearTimeout(timer);
    timer = 0;
    attempts = 0;
    if (client() && !live()) schedule(0);
  });
  document.addEventListener("visibilitychange", check);
  setInterval(() => { check(); sendPress(); }, 1000);
  start();
})();
