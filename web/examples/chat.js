// The page: forms, messages, and sentences about the connection. connection.js does the rest.
import { Problem, Room, newId } from './connection.js';

const MESSAGES_MAX = 500;
const $ = id => document.getElementById(id);
const forms = { join: $('join'), topic: $('topic-form'), say: $('say') };
let room = null;
let entering = false; // the form was sent, and the room is not shown yet

// remembered reads and writes what should outlive a reload; private windows may refuse.
const remembered = {
  get(store, name) { try { return store.getItem(`embercast-${name}`); } catch { return null; } },
  set(store, name, value) { try { store.setItem(`embercast-${name}`, value); } catch { /* then it does not */ } },
};

function visitorId() {
  const id = remembered.get(sessionStorage, 'visitor') ?? newId();
  remembered.set(sessionStorage, 'visitor', id);
  return id;
}

const rules = [
  { effect: 'allow', actions: ['subscribe'], topic: 'rooms/+/#' },
  { effect: 'allow', actions: ['publish'], topic: 'rooms/+/chat' },
  { effect: 'allow', actions: ['publish'], topic: 'rooms/+/topic' },
  { effect: 'allow', actions: ['publish'], topic: 'rooms/+/online/${client_id}' },
];

function commands(app) {
  const call = `curl --oauth2-bearer "$ADMIN_TOKEN" ${location.origin}/v1/apps`;
  const putRules = `${call}/${app}/rules -X PUT --json '[\n${rules.map(r => '  ' + JSON.stringify(r)).join(',\n')}\n]'`;
  return {
    putRules,
    all: `${call} --json '{"id":"${app}","name":"${app}"}'\n\n${putRules}\n\n${call}/${app}/keys --json '{"kind":"publishable","name":"chat page"}'`,
  };
}

const show = {
  state(name, text, problem) {
    $('status').dataset.state = name;
    $('status').textContent = text;
    $('retry').hidden = name !== 'failed';
    if (problem?.rules && $('rules-help').hidden) Object.assign($('rules-help'), { hidden: false, open: true });
    if (name === 'connected') {
      $('rules-help').hidden = true;
      if (entering) {
        $('room').hidden = false;
        $('text').focus();
        $('settings').open = false;
      }
      entering = false;
    }
  },

  notice(text) {
    $('notice').textContent = text;
    $('notice').hidden = !text;
  },

  message(m, mine) {
    const list = $('messages');
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const item = element('li', { className: mine ? 'mine' : '', id: `m-${m.id}` });
    const at = new Date(m.at);
    const from = element('div', { className: 'from' });
    from.append(element('strong', { textContent: mine ? 'You' : m.from }));
    if (!Number.isNaN(at.getTime())) from.append(element('time', { dateTime: at.toISOString(), textContent: at.toLocaleTimeString([], { timeStyle: 'short' }) }));
    item.append(from, element('div', { className: 'text', textContent: m.text }));
    if (mine) item.append(element('div', { className: 'fate', textContent: 'Sending…' }));
    list.append(item);
    while (list.children.length > MESSAGES_MAX) list.firstElementChild.remove();
    if (atEnd || mine) list.scrollTop = list.scrollHeight;
  },

  fate(id, problem) {
    const item = $(`m-${id}`);
    if (!item) return;
    item.classList.toggle('failed', Boolean(problem));
    item.querySelector('.fate').textContent = problem ? problem.message : 'Sent';
  },

  topic(text) {
    if (document.activeElement !== $('topic')) $('topic').value = text;
    $('topic').dataset.kept = text;
    $('room-name').textContent = `#${room.room}${text ? `: ${text}` : ''}`;
  },

  online(people) {
    $('online').replaceChildren(...people.map(p => element('li', { textContent: p.self ? `${p.name} (you)` : p.name })));
  },

  token(token, renewals) {
    $('facts').hidden = false;
    $('fact-sub').textContent = token.sub;
    $('fact-expires').textContent = token.expires.toLocaleTimeString();
    $('fact-renewals').textContent = renewals === 1 ? 'once' : `${renewals} times`;
  },
};

function element(name, properties) { return Object.assign(document.createElement(name), properties); }

const field = (form, name) => form.elements.namedItem(name);

async function join() {
  const value = name => field(forms.join, name).value.trim();
  const [app, key, name, roomName, token] = ['app', 'key', 'name', 'room', 'token'].map(value);
  field(forms.join, 'token').value = ''; // it is a secret: it does not stay on the screen
  remembered.set(localStorage, 'name', name);
  history.replaceState(null, '', `?${new URLSearchParams({ app, key, room: roomName })}`);
  const same = room && room.app === app && room.room === roomName;
  try {
    if (same && token && room.own && room.link && !room.link.gone) return await room.renewWith(token);
    if (!key && !token) throw new Problem('Enter a publishable key, or a token of your own server.', { final: true });
    const next = new Room({ app, key, token, room: roomName, who: { visitor: visitorId(), name } }, show);
    await room?.stop();
    if (same) Object.assign(next, { waiting: room.waiting, seen: room.seen });
    else $('messages').replaceChildren();
    room = next;
  } catch (e) {
    if (!(e instanceof Problem)) throw e;
    return show.notice(e.message);
  }
  show.notice('');
  show.topic('');
  explain();
  entering = true;
  room.run();
}

function explain() {
  const { all, putRules } = commands(field(forms.join, 'app').value.trim() || 'demo');
  $('setup-commands').textContent = all;
  $('rules-command').textContent = putRules;
}

function begin() {
  const given = new URLSearchParams(location.search);
  for (const name of ['app', 'key', 'room']) field(forms.join, name).value = given.get(name) ?? '';
  field(forms.join, 'room').value ||= 'lobby';
  field(forms.join, 'name').value = given.get('name') ?? remembered.get(localStorage, 'name') ?? `Guest ${1000 + Math.floor(Math.random() * 9000)}`;
  explain();
  forms.join.addEventListener('input', explain);
  forms.join.addEventListener('submit', e => { e.preventDefault(); join(); });
  forms.say.addEventListener('submit', e => {
    e.preventDefault();
    const text = $('text').value.trim();
    if (!text) return;
    room.say(text);
    $('text').value = '';
  });
  forms.topic.addEventListener('submit', async e => {
    e.preventDefault();
    await room.setTopic($('topic').value.trim()).then(() => show.notice(''), problem => show.notice(problem.message));
  });
  $('topic').addEventListener('blur', () => { if (!$('topic').value) $('topic').value = $('topic').dataset.kept ?? ''; });
  $('retry').addEventListener('click', () => room?.retry());
  addEventListener('online', () => room?.retry());
  if (given.get('app') && given.get('key') && forms.join.checkValidity()) join();
}

begin();
