/** The server, and the credentials for it. */
export interface Options {
  /**
   * The address of the server. By default it is where this module came from, as
   * `https://HOST/assets/presence.js`; a bundled module needs it.
   */
  url?: string | URL;

  /**
   * A member token, or a function that returns one. The function is called whenever a
   * stream is opened, and again when a token has expired; if it then returns the same
   * token, nothing more is tried. Without a token, public rooms can be watched.
   */
  token?: string | (() => Token | Promise<Token>);
}

type Token = string | null | undefined;

/** A user in a room. */
export interface Member {
  user: string;
  name: string;
  /** True for a visitor of a page who chose the name: nobody vouches for who that is. */
  guest?: true;
  meta?: Record<string, unknown>;
  /** How many tabs and devices. At least 1. */
  connections: number;
  /** When the user came: RFC 3339, UTC, with milliseconds. */
  since: string;
}

/** The state of a room. An object never changes: each change of the room brings a new one. */
export interface Room {
  room: string;
  /** Rises with each change of the room. 0: nothing is known yet. */
  version: number;
  /** How many distinct users. */
  users: number;
  connections: number;
  /** All members, in order of joining, if `complete`; else empty. */
  members: Member[];
  /** False in a room of more than some 200 users, and with `counts`. */
  complete: boolean;
  /** True while the server can't reach its store: the other fields are the last known ones. */
  stale: boolean;
  /** True while a stream delivers changes. */
  live: boolean;
  /** Why the last stream failed, was refused or ended; absent while `live`. */
  problem?: Problem;
}

/** Why there is no stream. */
export interface Problem {
  /**
   * A code of the API, such as `forbidden`, `room_full`, `removed` or `replaced`; or
   * `failed`: the token function threw, or the server did not answer.
   */
  code: string;
  /** A sentence that says what to do, or the message of an error. */
  detail?: string;
  /** `never`: nothing more is tried. */
  retry: "never" | "backoff";
  /** What is wrong with each part of the request, such as `/name`; only with the code `invalid`. */
  errors?: { pointer: string; detail: string }[];
}

/** What changed in a room. */
export interface Change {
  joins: Member[];
  updates: Member[];
  leaves: { user: string; reason: "left" | "closed" | "timeout" | "removed" }[];
}

/**
 * Is called at every change of a room or of the connection to the server. `change` says what
 * changed in the room; it is absent when nothing did, and when the whole room was read.
 */
export type OnChange = (room: Room, change?: Change) => void;

/** A room that is watched. */
export interface Watching {
  /** The state of the room now. */
  readonly room: Room;

  /** Stops watching. `OnChange` is not called any more. */
  close(): void;
}

/** A room that this page has joined. */
export interface Joined extends Watching {
  /** The id of this connection, for other calls of the API, such as PATCH. */
  readonly connection: string;

  /** Ends the connection as a closed tab does: the user leaves after the server's leave grace. */
  close(): void;

  /**
   * Leaves at once, also in a handler of `pagehide`. The result says whether the server
   * accepted it; if not, the user leaves as by `close`.
   */
  leave(): Promise<boolean>;
}

/** A presence server. */
export interface Presence {
  /** Watches a room. With `counts` it gets only the numbers of users and connections. */
  watch(room: string, onChange: OnChange, options?: { counts?: boolean }): Watching;

  /**
   * Joins a room, as the user of the token, and watches it until the page is closed. `name`
   * is for a token that has none. An API key needs a `user`; do not put a key into a page
   * that others can open.
   */
  join(room: string, onChange?: OnChange, options?: { name?: string; user?: string }): Joined;
}

/** Returns a client of the server at an address. It sends nothing yet. */
export function presence(options?: Options): Presence;
