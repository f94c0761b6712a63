// One mqtt.js client, driven by lines.
import mqtt from 'mqtt';
import { say, serve } from './lines.mjs';

let client;

// handshake waits for CONNACK, or for what came in its place.
function handshake() {
  return new Promise((done, failed) => {
    client.once('connect', packet => done({ session_present: packet.sessionPresent, properties: packet.properties ?? {} }));
    client.once('error', failed);
    client.once('close', () => failed(new Error('closed without CONNACK')));
  });
}

function listen() {
  client.on('connect', packet => say({ event: 'connected', session_present: packet.sessionPresent }));
  client.on('message', (topic, payload, packet) => {
    say({ event: 'message', topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain, dup: packet.dup });
  });
  client.on('disconnect', packet => say({ event: 'disconnect', code: packet.reasonCode ?? 0 }));
  client.on('close', () => say({ event: 'close' }));
  client.on('error', () => {}); // told by what was asked
}

// outcome gives the Reason Codes where mqtt.js makes an error of them.
const outcome = (promise, codes) => promise.then(packet => ({ codes: codes(packet) }), e => {
  const told = e.packet?.granted ?? (e.code >= 0x80 ? [e.code] : null);
  if (!told) throw e;
  return { codes: told };
});

// flood publishes retained numbers, QoS 1, to topics under base in turn, many at a time, until the connection is gone. It
// tells each acknowledgement, and at the end the last number that was sent.
function flood({ base, topics, window }) {
  return new Promise(done => {
    let sent = 0, open = 0;
    const fill = () => {
      while (client.connected && open < window) {
        const value = ++sent, topic = `${base}/${value % topics}`;
        open++;
        client.publish(topic, String(value), { qos: 1, retain: true }, e => {
          open--;
          if (!e) say({ event: 'acked', topic, value });
          if (client.connected) fill();
        });
      }
    };
    client.once('close', () => done({ sent }));
    fill();
  });
}

serve({
  hello() {}, // it has started
  // expiry: of the session, in seconds; with it, the client connects again by itself after so many milliseconds as reconnect says.
  connect({ url, client_id, username, password, version, clean, keep_alive, will, ca, expiry = 0, reconnect = 0 }) {
    client = mqtt.connect(url, {
      clientId: client_id, username, password, protocolVersion: version, clean, keepalive: keep_alive, will, ca,
      reconnectPeriod: reconnect, connectTimeout: 30_000, resubscribe: false,
      ...(expiry && version === 5 ? { properties: { sessionExpiryInterval: expiry } } : {}),
      // By default these forget what is under way when the client leaves.
      ...(clean ? {} : { incomingStore: new mqtt.Store({ clean: false }), outgoingStore: new mqtt.Store({ clean: false }) }),
    });
    listen();
    return handshake();
  },
  subscribe: ({ filters, qos, retain_handling }) => outcome(client.subscribeAsync(filters, { qos, rh: retain_handling }), granted => granted.map(g => g.qos)),
  unsubscribe: async ({ filters }) => { await client.unsubscribeAsync(filters); },
  publish: ({ topic, payload, qos, retain }) => outcome(client.publishAsync(topic, payload, { qos, retain }), packet => [packet?.reasonCode ?? 0]),
  flood,
  disconnect: async () => { await client.endAsync(); },
  // back connects after disconnect, with the session that the client has kept.
  back() { client.reconnect(); return handshake(); },
});
