/** Where the presence server is, and who asks. */
export interface Options {
  /**
   * The address of the server. By default it is where this module came from, as
   * `https://HOST/assets/presence.js`; a bundled module needs it.
   */
  url?: string | URL;

  /**
   * A member token, or a function that returns one. The function is called whenever a
   * stream is opened, and again when a token has expired; if it then returns the same
   * token, that is the end. Without a token, public rooms can be watched.
   */
  token?: string | (() => Token | Promise<Token>);
}

type Token = string | null | undefined;

/** A user in a room. */
export interface Member {
  user: string;
  name: string;
  meta?: Record<string, unknown>;
  /** How many tabs and devices. At least 1. */
  connections: number;
  /** When the user came: RFC 3339, UTC, with milliseconds. */
  since: string;
}

/** What is known of a room. It does not change: news bring another one. */
export interface Room {
  room: string;
  /** Rises with each change of the room. 0: nothing is known yet. */
  version: number;
  /** How many different people. */
  users: number;
  connections: number;
  /** Everybody, in order of joining, if `complete`; else nobody. */
  members: Member[];
  /** False in a room of more than some 200 users, and where only counts are wanted. */
  complete: boolean;
  /** True while the server has lost its store: the rest is what it knew last. */
  stale: boolean;
  /** True while news come in. */
  live: boolean;
  /** Why the last stream failed, was refused or ended; absent while `live`. */
  problem?: Problem;
}

/** Why there is no stream. */
export interface Problem {
  /**
   * A code of the API, such as `forbidden`, `room_full`, `removed` or `replaced`; or
   * `failed`: no token was got, or no answer.
   */
  code: string;
  /** A sentence that says what to do, or the message of an error. */
  detail?: string;
  /** `never`: this is the end, and nothing more is tried. */
  retry: "never" | "backoff";
}

/** What changed in a room, where that is known. */
export interface Change {
  joins: Member[];
  updates: Member[];
  leaves: { user: string; reason: "left" | "closed" | "timeout" | "removed" }[];
}

/**
 * Is called with each news of a room. `change` is what changed, except when all of the room
 * was read anew.
 */
export type OnChange = (room: Room, change?: Change) => void;

/** A room that is watched. */
export interface Watching {
  /** What is known of it now. */
  readonly room: Room;

  /** Ends it. `OnChange` is not called any more. */
  close(): void;
}

/** A room that one is in. */
export interface Joined extends Watching {
  /** The id of this connection, for other calls of the API, such as PATCH. */
  readonly connection: string;

  /** Ends it as a closed tab does: one is still there for the server's leave grace. */
  close(): void;

  /**
   * Leaves at once, also in a handler of `pagehide`. The result says whether the server
   * took it; if not, one leaves as by `close`.
   */
  leave(): Promise<boolean>;
}

/** A presence server. */
export interface Presence {
  /** Watches a room. With `counts` it is told only how many are there. */
  watch(room: string, onChange: OnChange, options?: { counts?: boolean }): Watching;

  /**
   * Watches a room and is in it, as the user of the token, until the page is closed. `name`
   * is for a token that has none. An API key, which belongs in no page that others can
   * open, needs a `user`.
   */
  join(room: string, onChange?: OnChange, options?: { name?: string; user?: string }): Joined;
}

/** Returns the presence server at an address. It asks nothing yet. */
export function presence(options?: Options): Presence;
