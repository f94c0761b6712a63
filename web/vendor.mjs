// Copies what the example page needs from node_modules into the tree, where the server embeds it: a server is then built
// without Node. `go generate ./web` runs it; CI proves that what is committed is what the lock file names.
import { copyFileSync, mkdirSync } from 'node:fs';

const from = new URL('node_modules/mqtt/', import.meta.url);
const to = new URL('examples/vendor/', import.meta.url);

mkdirSync(to, { recursive: true });
copyFileSync(new URL('dist/mqtt.min.js', from), new URL('mqtt.min.js', to));
copyFileSync(new URL('LICENSE.md', from), new URL('mqtt.LICENSE.md', to));
