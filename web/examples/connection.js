// One visitor in one room of an Embercast app: MQTT 5 over WebSocket by plain mqtt.js, kept up whatever happens.
//
// A visitor's token comes from a publishable key and is good for an hour or less. Shortly before it ends the next one is
// made, for the same visitor, and published to $auth/token: that renews it on the live connection, and nothing is missed.
// A visitor may stay for the app's token_ttl_max_seconds; then, and after any other loss, it comes back as a new one.
// A token of one's own server is renewed in the same way.
/* global mqtt */

const PRESENCE_SECONDS = 90; // kept presence ends by itself after this long: a crash of the server takes the wills with it
const RENEW_AHEAD_SECONDS = 60;
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const TIMER_MAX = 2 ** 31 - 1; // milliseconds

// Reason Codes of MQTT 5.
const BAD_CREDENTIALS = 0x86, NOT_AUTHORIZED = 0x87, SERVER_UNAVAILABLE = 0x88, SERVER_BUSY = 0x89, SHUTTING_DOWN = 0x8B, QUOTA = 0x97,
  KICKED = 0x98;

// A Problem is told as it stands. final: trying again by itself is of no use; rules: the app's rules are the cause;
// after: seconds to wait before the next attempt; code: the Reason Code behind it.
export class Problem extends Error {
  constructor(text, { final = false, rules = false, after = 0, code = 0 } = {}) {
    super(text);
    Object.assign(this, { final, rules, after, code });
  }
}

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), b => b.toString(16).padStart(2, '0')).join('');

const seconds = n => n * 1000;
const pause = (ms, wake = {}) => new Promise(done => { wake.now = done; setTimeout(done, ms); });
const unreachable = () => new Problem('The server cannot be reached. Check that it runs and that you are online.');

function parse(payload) {
  try { return JSON.parse(new TextDecoder().decode(payload)); } catch { return undefined; }
}

// tokenOf reads what a token says of itself. Its lifetime does not depend on this machine's clock being right.
function tokenOf(text) {
  try {
    const claims = parse(Uint8Array.from(atob(text.split('.')[1].replace(/-/g, '+').replace(/_/g, '/')), c => c.charCodeAt(0)));
    const lifetime = claims.exp - (claims.iat ?? Date.now() / 1000);
    const renewAfter = Math.max(lifetime * 0.8, lifetime - RENEW_AHEAD_SECONDS);
    return { text, sub: claims.sub, expires: new Date(seconds(claims.exp)), renewAfter, renewAt: performance.now() + seconds(renewAfter) };
  } catch {
    throw new Problem('That is no token: a token begins with eyJ and has three parts with dots between them.', { final: true });
  }
}

// visitorToken gets a token for a new visitor, or the next one for the visitor that before is of.
async function visitorToken(app, key, before) {
  const request = { method: 'POST', headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' }, body: JSON.stringify(before ? { token: before } : {}) };
  const answer = await fetch(`/v1/apps/${encodeURIComponent(app)}/tokens/anonymous`, request).catch(() => { throw unreachable(); });
  if (answer.ok) return tokenOf((await answer.json()).token);
  const after = Number(answer.headers.get('Retry-After')) || 0;
  switch (answer.status) {
    case 401: case 404: throw new Problem(`This server has no app “${app}” with that publishable key. Check both; the key begins with ek_.`, { final: true });
    case 403: throw new Problem(`That key gives visitors of ${location.origin} no token. Use a publishable key that lists this origin, or lists none.`, { final: true });
    case 422: throw new Problem('You have been here for as long as a visitor may.', { final: true });
    case 409: throw new Problem('The app has no key that can sign tokens. Create one of kind signing.', { final: true });
    case 429: throw new Problem('Too many visitors have come from this address.', { after });
    default: throw new Problem(`The server gave no token (status ${answer.status}). Its log says why.`, { after });
  }
}

// refusal says why a connection or subscription was not made.
function refusal(e) {
  if (e instanceof Problem) return e;
  const code = e.code ?? e.packet?.granted?.find(granted => granted >= 0x80) ?? 0;
  switch (code) {
    case NOT_AUTHORIZED: return new Problem('The app’s rules do not let you into this room. Somebody with the admin token can allow it.', { rules: true, code });
    case BAD_CREDENTIALS: return new Problem('The server does not take this token: it has ended, or its key is gone.', { code });
    case QUOTA: return new Problem('The app has as many connections as it may have.', { code });
    case SERVER_UNAVAILABLE: case SERVER_BUSY: case SHUTTING_DOWN: return new Problem('The server is starting, stopping or busy.', { code });
    default: return new Problem(`The connection failed: ${e.message}.`, { code });
  }
}

// loss says why a connection has ended.
function loss(code) {
  switch (code) {
    case NOT_AUTHORIZED: return new Problem('The server ended the connection: your token has ended or was withdrawn.', { code });
    case KICKED: return new Problem('An administrator ended your connection.', { final: true, code });
    case SHUTTING_DOWN: return new Problem('The server is shutting down.', { code });
    default: return new Problem('The connection was lost.', { code });
  }
}

// Link is one MQTT connection with one token. It never connects again. What is kept in the room comes to each link anew.
class Link {
  constructor(url, app, token, base) {
    const clientId = `web-${newId()}`;
    this.token = token;
    this.presence = `${base}/online/${clientId}`;
    this.online = new Map(); // presence by topic
    this.topic = '';
    this.client = mqtt.connect(url, {
      clientId, username: app, password: token.text, protocolVersion: 5, clean: true, keepalive: 30, connectTimeout: seconds(10),
      reconnectPeriod: 0, resubscribe: false, timerVariant: 'native', // its other timers need a worker, which the page's policy forbids
      will: { topic: this.presence, payload: '', qos: 1, retain: true },
    });
    this.closed = new Promise(done => {
      let code = 0;
      this.client.on('disconnect', packet => { code = packet.reasonCode ?? 0; });
      this.client.on('close', () => { this.gone = true; done(code); });
    });
  }

  // open connects, subscribes, and tells the room that who is there.
  async open(filters, who, take) {
    this.client.on('message', (topic, payload, packet) => take(this, topic, payload, packet));
    try {
      await new Promise((done, failed) => {
        this.client.once('connect', done);
        this.client.on('error', failed);
        this.closed.then(() => failed(unreachable()));
      });
      await this.client.subscribeAsync(filters, { qos: 1 });
      await this.beOnline(who);
    } catch (e) {
      this.client.end();
      throw refusal(e);
    }
    return this;
  }

  async publish(topic, value, options = {}) {
    if (this.gone) throw new Error('Connection closed');
    await this.client.publishAsync(topic, value === null ? '' : JSON.stringify(value), { qos: 1, ...options });
  }

  beOnline(who) {
    return this.publish(this.presence, who, { retain: true, properties: { messageExpiryInterval: PRESENCE_SECONDS } });
  }

  // close leaves in good order. No will is sent then, so the presence is cleared first.
  async close() {
    await Promise.race([this.publish(this.presence, null, { retain: true }).catch(() => {}), pause(seconds(1))]);
    this.client.end();
  }
}

// Room keeps one visitor in one room. show tells what happens: state(name, text, problem), message(m, mine), fate(id, problem),
// topic(text), online(list), notice(text), token(token, renewals).
export class Room {
  constructor({ app, key, token, room, who }, show) {
    Object.assign(this, { app, key, room, who, show });
    this.own = Boolean(token); // signed in with a token of one's own server
    this.token = token ? tokenOf(token) : null;
    this.url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/mqtt/${encodeURIComponent(app)}`;
    this.base = `rooms/${room}`;
    this.link = null;
    this.waiting = new Map(); // said and not acknowledged, by id
    this.seen = new Set();
    this.suspended = new Set();
    this.renewals = 0;
    this.wake = {};
  }

  // run connects, and connects again, until stop.
  async run() {
    for (let tries = 0; !this.stopped; tries++) {
      this.show.state('connecting', tries ? 'Connecting again…' : 'Connecting…');
      let problem;
      try {
        await this.enter();
        tries = 0;
        problem = await this.untilLost();
      } catch (e) {
        problem = refusal(e);
      }
      if (problem.code === BAD_CREDENTIALS || problem.code === NOT_AUTHORIZED && !problem.rules) problem = this.dropToken(problem);
      if (!this.stopped) await this.rest(problem, tries);
    }
  }

  async stop() {
    this.stopped = true;
    this.settle();
    this.retry();
    await this.link?.close();
  }

  // retry ends the wait for the next attempt.
  retry() { this.wake.now?.(); }

  async enter() {
    if (!this.own && (!this.token || performance.now() > this.token.renewAt)) this.token = await visitorToken(this.app, this.key);
    const link = await this.open(this.token);
    if (this.stopped) return link.close();
    this.suspended.clear();
    this.use(link);
    this.show.state('connected', `Connected as ${this.who.name} in room ${this.room}.`);
  }

  open(token) {
    return new Link(this.url, this.app, token, this.base).open([`${this.base}/#`, '$auth/result'], this.who, (...of) => this.take(...of));
  }

  dropToken(problem) {
    if (this.own) return new Problem(`${problem.message} Paste a new one under “Connection”.`, { final: true });
    this.token = null;
    return problem;
  }

  // use makes link the one that counts, and says again what was not acknowledged.
  use(link) {
    this.settle();
    this.link = link;
    this.heartbeat = setInterval(() => link.beOnline(this.who).then(() => this.showOnline(), () => {}), seconds(PRESENCE_SECONDS / 3));
    this.planRenewal();
    this.show.token(link.token, this.renewals);
    this.show.topic(link.topic);
    this.showOnline();
    for (const m of this.waiting.values()) this.send(m);
  }

  settle() {
    clearTimeout(this.renewal);
    clearInterval(this.heartbeat);
  }

  async untilLost() {
    const code = await this.link.closed;
    this.settle();
    return loss(code);
  }

  async rest(problem, tries) {
    const wait = Math.max(problem.after, RETRY_SECONDS[Math.min(tries, RETRY_SECONDS.length - 1)]);
    this.show.state('failed', problem.final ? problem.message : `${problem.message} Trying again in ${wait} s.`, problem);
    // Not everybody at the same moment, when a server comes back.
    await pause(problem.final ? TIMER_MAX : seconds(wait) * (0.75 + Math.random() / 2), this.wake);
  }

  planRenewal(after = this.token.renewAt - performance.now()) {
    this.renewal = setTimeout(() => this.renew(), Math.min(Math.max(after, seconds(1)), TIMER_MAX));
  }

  async renew() {
    if (this.own) return this.show.notice(`Your token ends at ${this.token.expires.toLocaleTimeString()}. Paste a new one under “Connection” to stay.`);
    try {
      await this.replaceToken(await visitorToken(this.app, this.key, this.token.text));
    } catch (e) {
      // While the token lasts, what failed may work yet. After that the server ends the connection, and run begins anew.
      if (!e.final && !this.link.gone) this.planRenewal(seconds(5));
    }
  }

  // renewWith renews with a token of one's own server.
  async renewWith(text) {
    await this.replaceToken(tokenOf(text)).catch(e => {
      throw e instanceof Problem ? e : new Problem('The server did not take the new token: it must be valid, and for the same user as before.');
    });
    this.show.notice('');
  }

  // replaceToken puts a new token in the place of the old one, on the live connection.
  async replaceToken(token) {
    await this.link.client.publishAsync('$auth/token', token.text, { qos: 1 });
    this.token = this.link.token = token;
    this.renewals++;
    this.show.token(token, this.renewals);
    clearTimeout(this.renewal);
    this.planRenewal();
  }

  say(text) {
    const m = { id: newId(), visitor: this.who.visitor, from: this.who.name, text, at: new Date().toISOString() };
    this.waiting.set(m.id, m);
    this.seen.add(m.id);
    this.show.message(m, true);
    this.send(m);
  }

  async send(m) {
    if (!this.link) return; // use says it again
    try {
      await this.link.publish(`${this.base}/chat`, m);
    } catch (e) {
      if (e.code !== NOT_AUTHORIZED) return; // lost: said again by the next link
      this.waiting.delete(m.id);
      this.show.fate(m.id, new Problem('Not sent: the app’s rules do not let you say this here.'));
      return;
    }
    this.waiting.delete(m.id);
    this.show.fate(m.id);
  }

  // setTopic sets the value kept at the room's topic; empty text clears it.
  async setTopic(text) {
    if (!this.link || this.link.gone) throw new Problem('The topic was not set: you are not connected. Try again when you are.');
    await this.link.publish(`${this.base}/topic`, text || null, { retain: true }).catch(e => {
      throw new Problem(e.code === NOT_AUTHORIZED ? 'The app’s rules do not let you set the topic.' : 'The topic may not have been set: the connection was lost.');
    });
  }

  // take takes a message of a link. What others send is theirs: it is shown only if it has the form it should have.
  take(link, topic, payload, packet) {
    const value = payload.length ? parse(payload) : null;
    if (topic === '$auth/result') return this.takeResult(value);
    const name = topic.slice(this.base.length + 1);
    if (name === 'topic') this.takeTopic(link, value);
    else if (name === 'chat') this.takeChat(value);
    else if (name.startsWith('online/')) this.takePresence(link, topic, value, packet);
  }

  takeTopic(link, value) {
    if (value !== null && typeof value !== 'string') return;
    link.topic = value ?? '';
    if (link === this.link) this.show.topic(link.topic);
  }

  takeChat(m) {
    if (typeof m?.id !== 'string' || typeof m.text !== 'string' || this.seen.has(m.id)) return;
    this.seen.add(m.id);
    this.show.message({ ...m, from: String(m.from ?? 'somebody') }, false);
  }

  takePresence(link, topic, value, packet) {
    const lasts = packet.properties?.messageExpiryInterval ?? PRESENCE_SECONDS;
    if (typeof value?.visitor !== 'string') link.online.delete(topic);
    else link.online.set(topic, { visitor: value.visitor, name: String(value.name), until: performance.now() + seconds(lasts) });
    if (link === this.link) this.showOnline();
  }

  // showOnline shows each visitor once, however many connections they have.
  showOnline() {
    const there = new Map();
    for (const [topic, v] of this.link.online) {
      if (v.until < performance.now()) this.link.online.delete(topic);
      else there.set(v.visitor, v.name);
    }
    const people = [...there].map(([visitor, name]) => ({ name, self: visitor === this.who.visitor }));
    this.show.online(people.sort((a, b) => a.name.localeCompare(b.name)));
  }

  takeResult(result) {
    if (!result?.event?.startsWith('subscription_')) return;
    if (result.event === 'subscription_suspended') this.suspended.add(result.filter);
    else this.suspended.delete(result.filter);
    this.show.notice(this.suspended.size ? 'The app’s rules have changed: you no longer get what is said here.' : '');
  }
}
