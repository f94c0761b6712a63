// The line protocol between a story in Go and a client: a JSON object a line. Commands come on stdin, {"id", "do", …};
// each is answered on stdout by {"id", "ok"} or {"id", "error", "code"}. What happens by itself is {"event", …}.
import { createInterface } from 'node:readline';

export function say(line) { process.stdout.write(`${JSON.stringify(line)}\n`); }

// serve runs the commands, by name, as they come: one need not wait for the end of another. The end of stdin ends the
// process: the story is over, or was killed.
export function serve(commands) {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', async line => {
    const { id, do: name, ...of } = JSON.parse(line);
    try {
      say({ id, ok: (await commands[name](of)) ?? {} });
    } catch (e) {
      say({ id, error: e?.message ?? String(e), code: typeof e?.code === 'number' ? e.code : 0 });
    }
  });
  lines.on('close', () => process.exit(0));
}
